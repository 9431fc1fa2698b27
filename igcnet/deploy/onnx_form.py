"""A model as ONNX, written node by node.

MXNet's own exporter refuses the channel shuffle and writes the newest operator set of whatever
``onnx`` is installed. Here the operator set is fixed, the batch size is free, height and width
are fixed, weights are no inputs, and a channel shuffle is Reshape, Transpose, Reshape, as PyTorch
exports it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Sequence

import numpy as np

from igcnet.convert.operators import effective_attributes
from igcnet.convert.original import INPUT
from igcnet.convert.symbol_json import Node
from igcnet.deploy.model import Editor, Model, Shape
from igcnet.errors import UsageError

OPSET = 13
IR_VERSION = 8
OUTPUT = 'logits'

# Operators whose ONNX namesake takes the same inputs and no attributes.
PLAIN = {
    'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'add_n': 'Sum', 'dot': 'MatMul',
    **{prefix + name: onnx for prefix in ('elemwise_', 'broadcast_') for name, onnx in (
        ('add', 'Add'), ('sub', 'Sub'), ('mul', 'Mul'), ('div', 'Div'))},
}
ACTIVATIONS = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'softrelu': 'Softplus',
               'softsign': 'Softsign'}
SCALARS = {'_plus_scalar': 'Add', '_minus_scalar': 'Sub', '_mul_scalar': 'Mul',
           '_div_scalar': 'Div', '_rminus_scalar': 'Sub'}
# Computed by a Reshape to the shape that the node has; the inputs after the first tell MXNet.
RESHAPES = ('Reshape', 'reshape_like', 'expand_dims', 'squeeze', 'Flatten')
IDENTITIES = ('_copy', 'BlockGrad', 'Dropout')


def to_onnx(model: Model) -> Any:
    """The ``onnx.ModelProto`` of a model, checked by ``onnx.checker``.

    Its input is ``data`` (N, channels, height, width), its output ``logits`` (N, classes).

    Raises
    ------
    UsageError
        ``onnx`` is not installed, or the graph has an operator that is not translated.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("the ONNX form needs the package onnx: pip install -c constraints.txt "
                         "'.[onnx]'") from None
    unknown = sorted(set(model.operators()) - set(PLAIN) - set(SCALARS) - set(RESHAPES)
                     - set(IDENTITIES) - set(_WRITERS))
    if unknown:
        raise UsageError('this network has no ONNX form: %s is not translated'
                         % ', '.join(unknown))
    writer = _Writer(onnx, _with_named_output(model))
    for node in writer.model.graph.nodes:
        writer.write(node)
    shapes = writer.shapes[0]
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes, 'igcnet',
        [helper.make_tensor_value_info(INPUT, float32, ['N', *shapes[INPUT][1:]])],
        [helper.make_tensor_value_info(OUTPUT, float32, ['N', *shapes[OUTPUT][1:]])],
        list(writer.constants.values()))
    made = helper.make_model(graph, producer_name='igcnet', ir_version=IR_VERSION,
                             opset_imports=[helper.make_opsetid('', OPSET)])
    onnx.checker.check_model(made)
    return made


def _with_named_output(model: Model) -> Model:
    """`model` with its last node called `OUTPUT`, and no other."""
    editor = Editor(model)
    (last, _), = editor.heads
    for index, node in enumerate(editor.nodes):
        if index == last or node.name == OUTPUT:
            editor.nodes[index] = replace(
                node, name=OUTPUT if index == last else OUTPUT + '_inner')
    return editor.finish()


class _Writer:
    """Collects ONNX nodes and constants; every value has the name of the node that makes it."""

    def __init__(self, onnx: Any, model: Model):
        self.onnx = onnx
        self.model = model
        # Shapes for two batch sizes tell which extents depend on it.
        self.shapes = model.shapes(2), model.shapes(3)
        self.nodes: List[Any] = []
        self.constants: Dict[str, Any] = {}

    def write(self, node: Node) -> None:
        """Translate one node."""
        inputs = [self.model.graph.nodes[source].name + ('_%d' % output if output else '')
                  for source, output in node.inputs]
        if node.is_variable:
            if node.name in self.model.arrays:
                self.constant(node.name, self.model.arrays[node.name])
            return
        attributes = effective_attributes(node.op, node.attributes)
        if node.op in PLAIN:
            if any(attributes.get(key) for key in ('transpose_a', 'transpose_b')):
                raise UsageError('this network has no ONNX form: %s transposes its inputs'
                                 % node.name)
            self.emit(PLAIN[node.op], inputs, node.name)
        elif node.op in SCALARS:
            scalar = self.constant(node.name + '_scalar', np.float32(attributes['scalar']))
            operands = [inputs[0], scalar]
            self.emit(SCALARS[node.op],
                      operands[::-1] if node.op == '_rminus_scalar' else operands, node.name)
        elif node.op in IDENTITIES:
            self.emit('Identity', inputs, node.name)
        elif node.op in RESHAPES and self.shape(inputs[0]) == self.shape(node.name):
            self.emit('Identity', inputs[:1], node.name)  # it changes MXNet's layout alone
        elif node.op in RESHAPES:
            self.reshape(inputs[0], self.free_shape(node.name), node.name)
        else:
            _WRITERS[node.op](self, node.name, inputs, attributes)

    def emit(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
        """Append a node, named as its first output."""
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), list(outputs),
                                                     outputs[0], **attributes))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Keep a constant; returns its name."""
        self.constants[name] = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def numbers(self, name: str, values: Sequence[int]) -> str:
        """Keep a constant list of whole numbers; returns its name."""
        return self.constant(name, np.array(values, np.int64))

    def reshape(self, source: str, shape: Sequence[int], name: str) -> None:
        """Append a Reshape."""
        self.emit('Reshape', [source, self.numbers(name + '_shape', shape)], name)

    def shape(self, name: str) -> Shape:
        """Shape of a value for a batch of two."""
        return self.shapes[0][name]

    def free_shape(self, name: str) -> List[int]:
        """Shape of a value with -1 for the extent that depends on the batch size."""
        extents = [first if first == second else -1
                   for first, second in zip(self.shapes[0][name], self.shapes[1][name])]
        if extents.count(-1) > 1:
            raise UsageError('this network has no ONNX form: %s has several extents that depend '
                             'on the batch size' % name)
        return extents


def _convolution(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    w.emit('Conv', inputs, name, kernel_shape=a['kernel'], strides=a['stride'],
           pads=a['pad'] * 2, dilations=a['dilate'], group=a['num_group'])


def _fully_connected(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    data = inputs[0]
    if len(w.shape(data)) != 2:
        if not a['flatten']:
            raise UsageError('this network has no ONNX form: %s works on more than two axes' % name)
        w.emit('Flatten', [data], name + '_flat', axis=1)
        data = name + '_flat'
    w.emit('Gemm', [data, *inputs[1:]], name, transB=1)


def _batch_norm(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    if a['fix_gamma']:
        ones = np.ones_like(w.model.arrays[inputs[1]])
        inputs = [inputs[0], w.constant(name + '_ones', ones), *inputs[2:]]
    w.emit('BatchNormalization', inputs, name, epsilon=a['eps'])


def _activation(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    w.emit(ACTIVATIONS[a['act_type']], inputs, name)


def _leaky_relu(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    if a['act_type'] == 'prelu':
        slope = w.model.arrays[inputs[1]].reshape(-1, 1, 1)
        w.emit('PRelu', [inputs[0], w.constant(name + '_slope', slope)], name)
    else:
        op = {'leaky': 'LeakyRelu', 'elu': 'Elu'}[a['act_type']]
        w.emit(op, inputs, name, alpha=a['slope'])


def _clip(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    limits = [w.constant('%s_%s' % (name, key), np.float32(a[key])) for key in ('a_min', 'a_max')]
    w.emit('Clip', inputs + limits, name)


def _pooling(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    if a['pool_type'] not in ('max', 'avg'):
        raise UsageError('this network has no ONNX form: %s pools by %s' % (name, a['pool_type']))
    if a['global_pool']:
        w.emit('GlobalMaxPool' if a['pool_type'] == 'max' else 'GlobalAveragePool', inputs, name)
        return
    attributes = dict(kernel_shape=a['kernel'], strides=a['stride'], pads=a['pad'] * 2,
                      ceil_mode=int(a['pooling_convention'] == 'full'))
    if a['pool_type'] == 'avg':
        w.emit('AveragePool', inputs, name, count_include_pad=int(a['count_include_pad']),
               **attributes)
    else:
        w.emit('MaxPool', inputs, name, **attributes)


def _reorder(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    channels, height, width = w.shape(name)[1:]
    groups = a['branch_factor']
    w.reshape(inputs[0], (-1, groups, channels // groups, height, width), name + '_split')
    w.emit('Transpose', [name + '_split'], name + '_swap', perm=(0, 2, 1, 3, 4))
    w.reshape(name + '_swap', (-1, channels, height, width), name)


def _swap_axis(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    axes = list(range(len(w.shape(name))))
    axes[a['dim1']], axes[a['dim2']] = axes[a['dim2']], axes[a['dim1']]
    w.emit('Transpose', inputs, name, perm=axes)


def _transpose(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    axes = a['axes'] or tuple(range(len(w.shape(name))))[::-1]
    w.emit('Transpose', inputs, name, perm=axes)


def _concat(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    w.emit('Concat', inputs, name, axis=a['dim'])


def _stack(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    parts = []
    for number, source in enumerate(inputs):
        shape = w.free_shape(name)
        shape[a['axis']] = 1
        parts.append('%s_part%d' % (name, number))
        w.reshape(source, shape, parts[-1])
    w.emit('Concat', parts, name, axis=a['axis'])


def _slice_channel(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    if a['squeeze_axis']:
        raise UsageError('this network has no ONNX form: %s drops an axis' % name)
    outputs = [name] + ['%s_%d' % (name, number) for number in range(1, a['num_outputs'])]
    w.emit('Split', inputs, *outputs, axis=a['axis'])


def _slice_axis(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    end = np.iinfo(np.int64).max if a['end'] is None else a['end']
    limits = [w.numbers('%s_%s' % (name, key), [value])
              for key, value in (('begin', a['begin']), ('end', end), ('axis', a['axis']))]
    w.emit('Slice', inputs + limits, name)


def _softmax(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    w.emit('Softmax', inputs[:1], name, axis=a['axis'])


def _reduction(op: str) -> Callable[[_Writer, str, List[str], Dict[str, Any]], None]:
    def write(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
        rank = len(w.shape(inputs[0]))
        given = a['axis'] if isinstance(a['axis'], tuple) else (a['axis'],)
        axes = {axis % rank for axis in given if axis is not None} or set(range(rank))
        if a['exclude']:
            axes = set(range(rank)) - axes
        if op == 'ReduceSum':  # its axes are an input since operator set 13
            w.emit(op, [*inputs, w.numbers(name + '_axes', sorted(axes))], name,
                   keepdims=int(a['keepdims']))
        else:
            w.emit(op, inputs, name, axes=sorted(axes), keepdims=int(a['keepdims']))
    return write


def _sort(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    count = w.numbers(name + '_count', [w.shape(name)[a['axis']]])
    w.emit('TopK', [inputs[0], count], name, name + '_places', axis=a['axis'],
           largest=int(not a['is_ascend']))


def _take(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    if inputs[1] not in w.model.arrays:
        raise UsageError('this network has no ONNX form: %s takes computed positions' % name)
    extent = w.shape(inputs[0])[a['axis']]
    places = w.model.arrays[inputs[1]].astype(np.int64)
    places = places % extent if a['mode'] == 'wrap' else np.clip(places, 0, extent - 1)
    w.emit('Gather', [inputs[0], w.constant(name + '_places', places)], name, axis=a['axis'])


def _filled(value: float) -> Callable[[_Writer, str, List[str], Dict[str, Any]], None]:
    def write(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
        zero = w.constant(name + '_zero', np.float32(0))
        w.emit('Mul', [inputs[0], zero], name + '_zeros')
        w.emit('Add', [name + '_zeros', w.constant(name + '_value', np.float32(value))], name)
    return write


def _greater(w: _Writer, name: str, inputs: List[str], a: Dict[str, Any]) -> None:
    w.emit('Greater', inputs, name + '_true')
    w.emit('Cast', [name + '_true'], name, to=w.onnx.TensorProto.FLOAT)


_WRITERS: Dict[str, Callable[[_Writer, str, List[str], Dict[str, Any]], None]] = {
    'Activation': _activation, 'BatchNorm': _batch_norm, 'Concat': _concat,
    'Convolution': _convolution, 'FullyConnected': _fully_connected, 'LeakyReLU': _leaky_relu,
    'Pooling': _pooling, 'Reorder': _reorder, 'SliceChannel': _slice_channel,
    'SwapAxis': _swap_axis, 'broadcast_greater': _greater, 'clip': _clip,
    'mean': _reduction('ReduceMean'), 'ones_like': _filled(1), 'slice_axis': _slice_axis,
    'softmax': _softmax, 'sort': _sort, 'stack': _stack, 'sum': _reduction('ReduceSum'),
    'take': _take, 'transpose': _transpose, 'zeros_like': _filled(0),
}
