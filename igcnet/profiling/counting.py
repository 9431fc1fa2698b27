"""Counting from the traced graph, so that what is counted is what runs.

The network need not be initialised: shapes are inferred, nothing is computed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

import mxnet as mx

from igcnet.errors import UsageError

# Which column of the split an operator's parameters belong to; the others are 'other'.
_KINDS = {'Convolution': 'conv', 'Deconvolution': 'conv', 'FullyConnected': 'fc',
          'BatchNorm': 'bn', '_contrib_SyncBatchNorm': 'bn'}
# Inputs of these operators: data, weight, and perhaps bias.
_WEIGHTED = ('Convolution', 'Deconvolution', 'FullyConnected')

Shape = Tuple[int, ...]
Entry = Tuple[int, int]  # node of the graph, output of the node


class LayerProfile(NamedTuple):
    """One operator of the graph that works on data.

    Parameters
    ----------
    name : str
        Node name.
    operator : str
        MXNet's name of the operator.
    output_shape : tuple of int
        Shape of the first output, with the batch.
    parameters : int
        Trainable parameters that enter here for the first time in the graph.
    auxiliary : int
        Parameters without a gradient that do: moving statistics, constants.
    macs : int
        Multiply-adds of a convolution or fully connected layer, else 0.
    """

    name: str
    operator: str
    output_shape: Shape
    parameters: int
    auxiliary: int
    macs: int

    @property
    def kind(self) -> str:
        """'conv', 'bn', 'fc' or 'other'."""
        return _KINDS.get(self.operator, 'other')

    @property
    def counts(self) -> bool:
        """Whether the layer has parameters or multiply-adds."""
        return bool(self.parameters or self.auxiliary or self.macs)


@dataclass(frozen=True)
class Profile:
    """The layers of a network in the order of the graph, and their totals."""

    input_shape: Shape
    layers: List[LayerProfile]

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def auxiliary(self) -> int:
        """Parameters without a gradient: moving statistics, constants."""
        return sum(layer.auxiliary for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and fully connected layers without bias."""
        return sum(layer.macs for layer in self.layers)

    def split(self) -> Dict[str, int]:
        """Trainable parameters by kind ('conv', 'bn', 'fc', 'other'), and 'aux'."""
        totals = dict.fromkeys(('conv', 'bn', 'fc', 'other'), 0)
        for layer in self.layers:
            totals[layer.kind] += layer.parameters
        return {**totals, 'aux': self.auxiliary}

    def rows(self, every_operator: bool = False) -> List[LayerProfile]:
        """The layers that have parameters or multiply-adds, or every operator."""
        return [layer for layer in self.layers if every_operator or layer.counts]

    def as_dict(self, every_operator: bool = False) -> Dict[str, Any]:
        """Totals and `rows` as plain values, for JSON."""
        return {'input_shape': list(self.input_shape), 'parameters': self.parameters,
                'auxiliary': self.auxiliary, 'macs': self.macs, 'split': self.split(),
                'layers': [layer._asdict() for layer in self.rows(every_operator)]}


def count_parameters(net: mx.gluon.HybridBlock) -> int:
    """Trainable parameters of `net` (``grad_req`` other than 'null').

    Raises
    ------
    UsageError
        When a layer was made without its number of input channels, so that its size depends on
        the input; `profile` counts such a network.
    """
    total = 0
    for parameter in net.collect_params().values():
        if parameter.grad_req != 'null':
            if not _known(parameter.shape):
                raise UsageError('%s: the size is unknown before the first input; use profile() '
                                 'with an input shape' % parameter.name)
            total += _product(parameter.shape)
    return total


def count_macs(net: mx.gluon.HybridBlock, input_shape: Sequence[int]) -> int:
    """Multiply-adds of convolutions and fully connected layers for one batch of `input_shape`.

    Raises
    ------
    UsageError
        When the input does not fit the network.
    """
    return profile(net, input_shape).macs


def profile(net: mx.gluon.HybridBlock, input_shape: Sequence[int]) -> Profile:
    """Count the parameters and multiply-adds of every layer.

    A weight that is computed from a parameter (a slice, a masked weight) is counted whole as
    parameters and with the shape it really has for multiply-adds. A layer that is used twice
    has its parameters at the first use and multiply-adds at both. Parameters that the graph does
    not reach belong to no layer; `count_parameters` counts them.

    Parameters
    ----------
    net : HybridBlock
        Takes one array; it need not be initialised.
    input_shape : sequence of int
        With the batch: (N, C, H, W).

    Raises
    ------
    UsageError
        When the input does not fit, such as an image of another size before a fixed pooling.
    """
    input_shape = tuple(input_shape)
    if not input_shape or any(not 1 <= extent < 2 ** 31 for extent in input_shape):
        raise UsageError('input %s: every extent must be from 1 to 2147483647'
                         % _times(input_shape))
    parameters = {p.name: p for p in net.collect_params().values()}
    try:
        graph = _Graph(_trace(net), input_shape)
    except mx.MXNetError as problem:
        raise UsageError('input %s does not fit the network: %s%s'
                         % (_times(input_shape), _reason(problem), _advice(net))) from None
    layers, entered = [], set()
    for number, node in enumerate(graph.nodes):
        if node['op'] == 'null' or not graph.works_on_data[number]:
            continue
        names = sorted(graph.variables_into(number) & set(parameters) - entered)
        entered.update(names)
        trained = [n for n in names if parameters[n].grad_req != 'null']
        sizes = {n: _product(graph.variable_shapes[n]) for n in names}
        layers.append(LayerProfile(
            node['name'], node['op'], graph.shapes[(number, 0)],
            sum(sizes[n] for n in trained),
            sum(sizes[n] for n in names if n not in trained), graph.macs(number)))
    return Profile(input_shape, layers)


class _Graph:
    """The nodes of a symbol with the shapes that follow from one input shape."""

    def __init__(self, symbol: mx.sym.Symbol, input_shape: Shape):
        internals = symbol.get_internals()
        content = json.loads(internals.tojson())
        self.nodes = content['nodes']
        shapes = _infer(internals, input_shape)
        # `heads` tells which output of which node each internal output is.
        self.shapes: Dict[Entry, Shape] = {
            (node, output): shape for (node, output, _), shape in zip(content['heads'], shapes)}
        self.variable_shapes = {self.nodes[i]['name']: shape
                                for (i, _), shape in self.shapes.items()
                                if self.nodes[i]['op'] == 'null'}
        self.works_on_data: List[bool] = []
        for node in self.nodes:
            self.works_on_data.append(node['name'] == 'data' if node['op'] == 'null' else
                                      any(self.works_on_data[i] for i, *_ in node['inputs']))

    def variables_into(self, number: int) -> Set[str]:
        """Variables that reach a node directly or through operators on parameters alone."""
        found = set()
        for source, *_ in self.nodes[number]['inputs']:
            if self.nodes[source]['op'] == 'null':
                found.add(self.nodes[source]['name'])
            elif not self.works_on_data[source]:
                found |= self.variables_into(source)
        return found

    def macs(self, number: int) -> int:
        """Multiply-adds of one node without its bias."""
        node = self.nodes[number]
        if node['op'] not in _WEIGHTED:
            return 0
        (source, source_output, *_), (weight, weight_output, *_) = node['inputs'][:2]
        per_value = _product(self.shapes[(weight, weight_output)][1:])
        # A convolution gathers one kernel for each output value (of its group's channels), a
        # transposed one spreads each input value over one kernel.
        at = (source, source_output) if node['op'] == 'Deconvolution' else (number, 0)
        return _product(self.shapes[at]) * per_value


def _trace(net: mx.gluon.HybridBlock) -> mx.sym.Symbol:
    return mx.sym.Group(_flat(net(mx.sym.var('data'))))


def _flat(outputs) -> List[mx.sym.Symbol]:
    """The symbols in nested lists of them, as a block with several outputs returns."""
    if isinstance(outputs, (list, tuple)):
        return [symbol for part in outputs for symbol in _flat(part)]
    return [outputs]


def _infer(internals: mx.sym.Symbol, input_shape: Shape) -> List[Shape]:
    """Shapes of all internal outputs."""
    # infer_shape would print its arguments to stdout before it raises.
    _, shapes, _ = internals.infer_shape_partial(data=input_shape)
    for name, shape in zip(internals.list_outputs(), shapes):
        if not _known(shape):
            raise UsageError('input %s: the shape of %s does not follow from it'
                             % (_times(input_shape), name))
    return shapes


def _reason(problem: mx.MXNetError) -> str:
    """The end of MXNet's message: layer and cause, without its source lines."""
    text = str(problem).strip().splitlines()[-1]
    text = re.sub('^(MXNetError: )?(Error in operator )?', '', text)
    return re.sub(r'\[[\d:]+\] \S+ Check failed: .*: ', '', text)


def _advice(net: mx.gluon.HybridBlock) -> str:
    if getattr(net, 'fixed_input_size', False):
        return '; it is made for images of %dx%d' % (net.input_size, net.input_size)
    return ''


def _known(shape) -> bool:
    return bool(shape) and all(extent > 0 for extent in shape)


def _times(shape: Shape) -> str:
    return 'x'.join('%d' % extent for extent in shape)


def _product(extents) -> int:
    result = 1
    for extent in extents:
        result *= int(extent)
    return result
