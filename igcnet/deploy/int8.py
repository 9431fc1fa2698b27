"""Eight-bit forms for MXNet and for ONNX Runtime.

Both take the range of every map from calibration images and compute the convolutions in whole
numbers. What gates a map stays in float32: MXNet fails on the product of two quantised maps, and
eight bits are coarse for a sigmoid. So do pooling and the classifier, which cost next to nothing.

- MXNet 1.9.1 computes a quantised convolution in several groups wrongly (20 to 30 % off after one
  layer; channel-wise ones are right). Few groups become one, with zeros in the weight; where there
  are many, the convolution stays in float32. Nor is a sum right that MXNet puts into a quantised
  convolution, unless both summands are positive: sums are kept apart from convolutions.
- MXNet's quantised graphs hold operators that igcnet does not read from files, and files of them
  would still hold float32 weights. So the symbol form is that of the float32 graph with the ranges
  in its manifest, and the graph is quantised when it is loaded.
- The ONNX form is static quantisation with QuantizeLinear and DequantizeLinear round float32
  operators (QDQ), which ONNX Runtime turns into its eight-bit ones: weights symmetric for each
  output channel, maps with a zero point.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

import mxnet as mx
import numpy as np
from mxnet.contrib.quantization import calib_graph, quantize_graph
from mxnet.gluon import SymbolBlock

from igcnet.convert import expand
from igcnet.convert.original import INPUT
from igcnet.convert.symbol_json import Graph, Node, to_mxnet
from igcnet.deploy.calibration import Range, Ranges, map_scale, ranges_of
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import (
    Kernel,
    attributes_of,
    is_channelwise,
    is_plain_convolution,
)
from igcnet.deploy.runtimes import block_of
from igcnet.errors import CheckpointError

BACKEND = 'MKLDNN_QUANTIZE'
MOST_GROUPS = 4
PRODUCTS = ('elemwise_mul', 'broadcast_mul')
# What MXNet leaves in float32; activations are those that are not part of a convolution.
FLOAT_OPERATORS = [*PRODUCTS, 'Activation', 'Pooling', 'FullyConnected',
                   '_sg_mkldnn_fully_connected', 'Flatten', 'Concat', '_copy']


def gate_nodes(model: Model) -> Set[str]:
    """Names of the nodes that make gates: factors of products, back to the last convolution."""
    nodes = model.graph.nodes
    found: Set[str] = set()
    for node in nodes:
        if node.op not in PRODUCTS:
            continue
        found.add(node.name)
        for source, _ in node.inputs:
            while nodes[source].op in ('Activation', 'sigmoid', 'tanh', 'softmax'):
                found.add(nodes[source].name)
                source = nodes[source].inputs[0][0]
                if nodes[source].op == 'Convolution':
                    found.add(nodes[source].name)
    return found


def mxnet_ranges(model: Model, batches: Iterable[np.ndarray]) -> Ranges:
    """Ranges of the maps between MXNet's fused operators, for `int8_block`.

    Raises
    ------
    CheckpointError
        A map has values that are not finite.
    """
    names, internals = fused_outputs(model), _fused(model)[0].get_internals()
    return ranges_of(names, block_of(mx.sym.Group([internals[name] for name in names]),
                                     model.arrays), batches, symmetric=True)


def fused_outputs(model: Model) -> List[str]:
    """Names of the maps between MXNet's fused operators, the input among them."""
    return [name for name in _fused(model)[0].get_internals().list_outputs()
            if name.endswith('_output') or name == INPUT]


def ungrouped(model: Model) -> Model:
    """`model` with one group in convolutions of up to `MOST_GROUPS`, as `int8_block` needs it."""
    editor = Editor(model)
    for index in editor.find('Convolution'):
        if is_plain_convolution(editor, index) and not is_channelwise(editor, index) and (
                1 < attributes_of(editor, index)['num_group'] <= MOST_GROUPS):
            Kernel.of(editor, index).store(editor, index, groups=1)
    return editor.finish()


def int8_block(model: Model, ranges: Mapping[str, Range], in_float: Iterable[str] = ()
               ) -> SymbolBlock:
    """A model as a Gluon block whose convolutions MXNet computes in eight bits.

    Parameters
    ----------
    ranges : mapping
        From `mxnet_ranges` of the same model.
    in_float : iterable of str
        Names of convolutions that stay as they are, besides those that MXNet gets wrong.

    Raises
    ------
    CheckpointError
        The ranges, or the names, are those of another model.
    """
    weights = _convolution_weights(model)
    if set(ranges) != set(fused_outputs(model)) or not set(in_float) <= set(weights):
        raise CheckpointError('the ranges for eight bits belong to another graph')
    symbol, arguments, auxiliary = _fused(model)
    kept = {weights[name] for name in {*in_float, *grouped_convolutions(model)}}
    excluded = [node.name for node in symbol.get_internals() if node.get_children() is not None
                and kept & set(node.get_children().list_outputs())]
    quantized, arguments, auxiliary, _ = quantize_graph(
        symbol, arguments, auxiliary, ctx=mx.cpu(), calib_mode='none', quantized_dtype='auto',
        quantize_mode='full', excluded_sym_names=excluded, excluded_op_names=FLOAT_OPERATORS,
        logger=None)
    quantized, arguments, auxiliary = calib_graph(
        quantized, arguments, auxiliary, SimpleNamespace(min_max_dict=dict(ranges)),
        calib_mode='customize', logger=None)
    return block_of(quantized.get_backend_symbol(BACKEND), {**arguments, **auxiliary})


def _with_sums_apart(model: Model) -> Model:
    """`model` with sums by an operator that MXNet does not put into convolutions."""
    nodes = [Node('add_n', node.name, {'num_args': 2}, node.inputs)
             if node.op == 'elemwise_add' else node for node in model.graph.nodes]
    return Model(Graph(nodes, model.graph.heads), model.arrays, model.image_shape)


def grouped_convolutions(model: Model) -> Set[str]:
    """Names of the convolutions in several groups, channel-wise ones aside."""
    weights = _convolution_weights(model)
    groups = {node.name: node.attributes.get('num_group', 1) for node in model.graph.nodes}
    return {name for name, weight in weights.items()
            if groups[name] > 1 and model.arrays[weight].shape[:2] != (groups[name], 1)}


def _convolution_weights(model: Model) -> Dict[str, str]:
    """Name of the weight of each convolution."""
    nodes = model.graph.nodes
    return {node.name: nodes[node.inputs[1][0]].name for node in nodes if node.op == 'Convolution'}


def _fused(model: Model) -> Tuple[Any, Dict[str, Any], Dict[str, Any]]:
    """The symbol with oneDNN's operators, and its parameters."""
    model = _with_sums_apart(model)
    auxiliary = {model.graph.nodes[index].name for index in model.graph.auxiliary()}
    arrays = {name: mx.nd.array(array) for name, array in model.arrays.items()}
    return (to_mxnet(expand(model.graph)).get_backend_symbol(BACKEND),
            {name: array for name, array in arrays.items() if name not in auxiliary},
            {name: array for name, array in arrays.items() if name in auxiliary})


def quantize_onnx(made: Any, ranges: Mapping[str, Range],
                  in_float: Iterable[str] = ()) -> Any:
    """The ONNX model `made` with its convolutions in eight bits (QDQ).

    Parameters
    ----------
    made : onnx.ModelProto
        From `igcnet.deploy.onnx_form.to_onnx`.
    ranges : mapping
        Of the maps, from `map_ranges`.
    in_float : iterable of str
        Names of nodes that stay as they are, see `gate_nodes`.
    """
    return _Quantizer(made, ranges, set(in_float)).model()


class _Quantizer:
    """Copies an ONNX model node by node."""

    def __init__(self, made: Any, ranges: Mapping[str, Range], in_float: Set[str]):
        import onnx
        self.onnx = onnx
        self.made = made
        self.ranges = ranges
        self.constants = {constant.name: constant for constant in made.graph.initializer}
        self.nodes: List[Any] = []
        self.read_as: Dict[str, str] = {}  # value -> what its readers take instead
        self.convolutions = {node.output[0] for node in made.graph.node
                             if node.op_type == 'Conv' and node.name not in in_float
                             and node.input[1] in self.constants}
        self.maps = self._maps_to_quantize(in_float)

    def _maps_to_quantize(self, in_float: Set[str]) -> Set[str]:
        """What eight-bit operators read and make, behind the non-linearity if there is one."""
        readers: Dict[str, List[Any]] = {}
        for node in self.made.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        found = set()
        for node in self.made.graph.node:
            whole = node.output[0] in self.convolutions
            if whole or (node.op_type == 'Add' and node.name not in in_float
                         and not set(node.input) & set(self.constants)):
                found.update(node.input[:1] if whole else node.input)
                last, behind = node.output[0], readers.get(node.output[0], [])
                if len(behind) == 1 and behind[0].op_type in ('Relu', 'Clip'):
                    last = behind[0].output[0]
                found.add(last)
        return found & set(self.ranges)

    def model(self) -> Any:
        """The finished model."""
        for image in self.made.graph.input:
            self._after(image.name)
        for node in self.made.graph.node:
            copy = self.onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:]
            copy.input.extend(self.read_as.get(name, name) for name in node.input)
            if node.output[0] in self.convolutions:
                self._weights(node, copy)
            self.nodes.append(copy)
            for name in node.output:
                self._after(name)
        result = self.onnx.ModelProto()
        result.CopyFrom(self.made)
        del result.graph.node[:], result.graph.initializer[:]
        result.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        result.graph.initializer.extend(constant for name, constant in self.constants.items()
                                        if name in used)
        self.onnx.checker.check_model(result)
        return result

    def _after(self, name: str) -> None:
        """Round a map to eight bits once it is there."""
        if name not in self.maps:
            return
        scale, zero = map_scale(*self.ranges[name])
        parameters = [self._constant(name + '_scale', np.float32(scale)),
                      self._constant(name + '_zero', np.uint8(zero))]
        self._emit('QuantizeLinear', [name, *parameters], name + '_whole')
        self._emit('DequantizeLinear', [name + '_whole', *parameters], name + '_rounded')
        self.read_as[name] = name + '_rounded'

    def _weights(self, node: Any, copy: Any) -> None:
        """Let a convolution read eight-bit weights and a bias in their common unit."""
        numpy_helper = self.onnx.numpy_helper
        weight = numpy_helper.to_array(self.constants[node.input[1]])
        scale = np.maximum(np.abs(weight).reshape(len(weight), -1).max(axis=1), 1e-12) / 127
        whole = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
        copy.input[1] = self._dequantized(node.output[0] + '_weight8', whole, scale)
        if len(node.input) > 2 and node.input[0] in self.maps:
            unit = scale * map_scale(*self.ranges[node.input[0]])[0]
            bias = numpy_helper.to_array(self.constants[node.input[2]]).astype(np.float64)
            limit = np.iinfo(np.int32)
            whole = np.clip(np.rint(bias / unit), limit.min, limit.max).astype(np.int32)
            copy.input[2] = self._dequantized(node.output[0] + '_bias32', whole, unit)

    def _dequantized(self, name: str, whole: np.ndarray, scale: np.ndarray) -> str:
        zeros = self._constant(name + '_zero', np.zeros(len(scale), whole.dtype))
        self._emit('DequantizeLinear', [self._constant(name, whole), self._constant(
            name + '_scale', scale.astype(np.float32)), zeros], name + '_rounded', axis=0)
        return name + '_rounded'

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def _emit(self, op: str, inputs: List[str], output: str, axis: Optional[int] = None) -> None:
        attributes = {} if axis is None else {'axis': axis}
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], output, **attributes))

