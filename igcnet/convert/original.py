"""Checkpoints in the IGC original's layout: networks to symbols and files, and back.

A checkpoint is ``<prefix>-symbol.json``, the graph with its ``SoftmaxOutput`` head called
``softmax``, and ``<prefix>-NNNN.params``, its parameters as ``arg:<name>`` and the running
statistics as ``aux:<name>``. The original's graphs hold its custom operator ``Reorder``; see
`igcnet.convert.reorder`.
"""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, Parameter, SymbolBlock

from igcnet.convert.ndarray_file import read_ndarrays, write_ndarrays
from igcnet.convert.parameters import (
    Contexts,
    load_parameters,
    parameter_name,
    set_parameters,
)
from igcnet.convert.reorder import expand, fold, prune
from igcnet.convert.symbol_json import Graph, from_mxnet, read_graph, to_mxnet, write_graph
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.registry import get_model

INPUT, HEAD = 'data', 'softmax'
# Operators that only turn logits into probabilities, and the identity.
HEADS = ('SoftmaxOutput', 'SoftmaxActivation', 'softmax', 'log_softmax', '_copy')
REORDER_FORMS = {'custom': fold, 'stock': expand}
# Operators that tell the shapes of their other inputs from the first.
WITH_PARAMETERS = ('BatchNorm', 'Convolution', 'FullyConnected', 'LeakyReLU')
# Input sizes at which the shapes of a foreign graph are worked out.
TRIAL_SIZES = (224, 256, 32, 28)
LARGEST_MAP = 1 << 28  # elements of one activation of one image


def to_graph(net: HybridBlock, head: bool = True) -> Graph:
    """The graph of `net` on an input called ``data``, shuffles in stock operators.

    With `head` it ends in the original's ``SoftmaxOutput`` called ``softmax``, otherwise in the
    logits.
    """
    symbol = net(mx.sym.var(INPUT))
    return from_mxnet(mx.sym.SoftmaxOutput(symbol, name=HEAD) if head else symbol)


def to_symbol(net: HybridBlock, head: bool = True) -> mx.sym.Symbol:
    """The graph of `net` as an MXNet symbol, for ``mx.mod.Module``; see `to_graph`."""
    return to_mxnet(to_graph(net, head))


def network_symbol(network: str, num_classes: int, depth: int, primary_partition: int,
                   secondary_partition: int) -> mx.sym.Symbol:
    """The symbol of one of the six IGC networks, with the arguments of the original's scripts.

    Parameters
    ----------
    network : str
        Its name, the same here and there.
    num_classes, depth, primary_partition, secondary_partition : int
        Settings `classes`, `depth`, `primary_partition` and `secondary_partition` of the network.

    Raises
    ------
    UsageError
        Impossible depth or partition, where the original prints a line or fails later.
    """
    return to_symbol(get_model(network, depth=depth, primary_partition=primary_partition,
                               secondary_partition=secondary_partition, classes=num_classes))


def checkpoint_paths(prefix: PathLike, epoch: int) -> Tuple[Path, Path]:
    """``<prefix>-symbol.json`` and ``<prefix>-NNNN.params``."""
    return Path('%s-symbol.json' % prefix), Path('%s-%04d.params' % (prefix, epoch))


def save_original(net: HybridBlock, prefix: PathLike, epoch: int, reorder: str = 'custom',
                  head: bool = True) -> Tuple[Path, Path]:
    """Write `net` as a checkpoint in the original's layout; each file is replaced atomically.

    Parameters
    ----------
    epoch : int
        Number of finished epochs, part of the file name.
    reorder : str
        'custom' writes the channel shuffles as the original's operator ``Reorder``, 'stock' in
        operators that any MXNet 1.x loads, ``mx.mod.Module`` included.
    head : bool
        Whether the graph ends in the softmax, as the original's do, or in the logits.

    Returns
    -------
    tuple of Path
        The symbol file and the parameter file.

    Raises
    ------
    UsageError
        Unknown `reorder`, a negative epoch, or a parameter that has no value yet.
    """
    if reorder not in REORDER_FORMS:
        raise UsageError("reorder=%r: must be 'custom' or 'stock'" % (reorder,))
    if epoch < 0:
        raise UsageError('epoch=%d: must not be negative' % epoch)
    graph = REORDER_FORMS[reorder](to_graph(net, head))
    symbol_path, parameter_path = checkpoint_paths(prefix, epoch)
    write_ndarrays(parameter_path, checkpoint_arrays(net, graph))
    write_graph(symbol_path, graph)
    return symbol_path, parameter_path


def checkpoint_arrays(net: HybridBlock, graph: Graph) -> Dict[str, np.ndarray]:
    """What a parameter file of `net` holds: ``arg:`` parameters, then ``aux:`` running statistics.

    Both in the order of `graph`, the network's. Statistics of several devices are averaged.

    Raises
    ------
    UsageError
        A parameter has no value yet.
    """
    parameters, auxiliary = net.collect_params(), set(graph.auxiliary())
    arrays, statistics = {}, {}
    for index, node in enumerate(graph.nodes):
        if not node.is_variable or node.name not in parameters:  # the input or the label
            continue
        if index in auxiliary:
            statistics['aux:' + node.name] = parameter_value(parameters[node.name])
        else:
            arrays['arg:' + node.name] = parameter_value(parameters[node.name])
    return {**arrays, **statistics}


def parameter_value(parameter: Parameter) -> np.ndarray:
    """The value to save: that of the first device, for running statistics the devices' mean.

    Raises
    ------
    UsageError
        It has no value yet.
    """
    try:
        copies = parameter.list_data()
    except RuntimeError:
        raise UsageError('%s has no value yet: initialise the network or load parameters before '
                         'it is saved' % parameter.name) from None
    if parameter.grad_req != 'null' or len(copies) == 1:
        return copies[0].asnumpy()
    return np.mean([copy.asnumpy() for copy in copies], axis=0, dtype=copies[0].dtype)


def load_network(symbol: Optional[PathLike] = None, params: Optional[PathLike] = None,
                 network: Optional[str] = None, ctx: Contexts = None,
                 **overrides: Any) -> HybridBlock:
    """A network with loaded parameters that gives logits, from files.

    Parameters
    ----------
    symbol : path, optional
        A symbol file of any layout: an original checkpoint's (``Reorder`` nodes are replaced)
        or an exported network's. What turns logits into probabilities at its end is cut off.
    params : path
        The parameter file.
    network : str, optional
        Instead of `symbol`: the name of one of our networks; `overrides` are its settings, as
        for `igcnet.get_model`.
    ctx : Context or list of Context, optional
        Where the parameters go; the current context by default.

    Returns
    -------
    HybridBlock
        Input (N, 3, H, W), output (N, classes). With `symbol` an ``mx.gluon.SymbolBlock``.

    Raises
    ------
    UsageError
        Not exactly one of `symbol` and `network`, or no `params`.
    CheckpointError
        A file is damaged, or the two do not fit each other.
    """
    if (symbol is None) == (network is None):
        raise UsageError('give either a symbol file or the name of a network')
    if params is None:
        raise UsageError('give the parameter file')
    if network is not None:
        net = get_model(network, **overrides)
        load_parameters(net, params, ctx=ctx)
        return net
    if overrides:
        raise UsageError('%s: settings are for named networks; a symbol file has its own'
                         % ', '.join(sorted(overrides)))
    graph = logits_of(expand(read_graph(symbol)), symbol)
    arrays = read_ndarrays(params)
    shapes = {parameter_name(key): array.shape for key, array in arrays.items()}
    data = _input_name(graph, shapes, symbol)
    constants = _constants(graph, data)
    missing = [name for name in constants if name not in shapes]
    if missing:
        raise CheckpointError('%s does not fit the network: %s is missing' % (params, missing[0]))
    try:
        traced = to_mxnet(graph)
        traced.infer_type_partial(**dict.fromkeys(traced.list_arguments(), 'float32'))
        expected = _parameter_shapes(traced, data, {name: shapes[name] for name in constants})
    except (mx.MXNetError, ValueError, TypeError) as problem:  # a variable called `self`
        raise CheckpointError('%s: the graph does not work: %s'
                              % (symbol, _one_line(problem))) from None
    with warnings.catch_warnings():
        # It wants a type for the input, but takes float32 for everything without one.
        warnings.simplefilter('ignore', UserWarning)
        net = SymbolBlock(traced, mx.sym.var(data))
    for name, parameter in net.collect_params().items():
        parameter.shape = expected[name]
    set_parameters(net, arrays, params, ctx)
    return net


def logits_of(graph: Graph, source: PathLike) -> Graph:
    """`graph` up to what enters its softmax, without the label.

    Raises
    ------
    CheckpointError
        No or several outputs, or a softmax inside over another axis than 1, which corrupts
        memory on MXNet's CPU.
    """
    if len(graph.heads) != 1:
        raise CheckpointError('%s: it has %d outputs; a classifier has one'
                              % (source, len(graph.heads)))
    head, = graph.heads
    while graph.nodes[head[0]].op in HEADS:
        head = graph.nodes[head[0]].inputs[0]
    if graph.nodes[head[0]].is_variable:
        raise CheckpointError('%s: it computes nothing' % source)
    graph = prune(graph, [head])
    for node in graph.nodes:
        if node.op in ('softmax', 'log_softmax') and node.attributes.get('axis', -1) != 1:
            raise CheckpointError('%s: %s: a softmax inside the network must be over axis 1'
                                  % (source, node.name))
    return graph


def _input_name(graph: Graph, parameters, source: PathLike) -> str:
    """The variable that is the image: ``data``, or the only one that has no parameter."""
    auxiliary = set(graph.auxiliary())
    names = [node.name for index, node in enumerate(graph.nodes)
             if node.is_variable and index not in auxiliary]
    free = [INPUT] if INPUT in names else [name for name in names if name not in parameters]
    if len(free) != 1:
        raise CheckpointError('%s: cannot tell its input: no variable is called %s, and %d have '
                              'no parameter' % (source, INPUT, len(free)))
    return free[0]


def _constants(graph: Graph, data: str) -> List[str]:
    """Variables whose shapes do not follow from the graph: operands of plain arithmetic."""
    deducible = {index for node in graph.nodes if node.op in WITH_PARAMETERS
                 for index, _ in node.inputs[1:]}
    return [node.name for index, node in enumerate(graph.nodes)
            if node.is_variable and index not in deducible and node.name != data]


def _parameter_shapes(symbol: mx.sym.Symbol, data: str,
                      constants: Mapping[str, Tuple[int, ...]]) -> Dict[str, Tuple[int, ...]]:
    """Shapes of the parameters for an RGB image, 0 where they depend on its size.

    Raises
    ------
    MXNetError, ValueError
        The graph works for none of the `TRIAL_SIZES`, or makes maps of absurd size.
    """
    internals = symbol.get_internals()
    names = internals.list_arguments() + internals.list_auxiliary_states()
    found: List[Dict[str, Tuple[int, ...]]] = []
    for size in TRIAL_SIZES:
        try:
            arguments, maps, statistics = internals.infer_shape_partial(
                **{**constants, data: (1, 3, size, size)})
        except mx.MXNetError as problem:
            failure = problem
            continue
        empty = [name for name, shape in zip(internals.list_outputs(), maps)
                 if not shape or min(shape) < 1]
        if empty:  # running such a graph can end the process
            failure = ValueError('%s is empty or of unknown size' % empty[0])
            continue
        if max(map(math.prod, maps)) > LARGEST_MAP:
            raise ValueError('it makes feature maps of more than %d numbers' % LARGEST_MAP)
        found.append(dict(zip(names, arguments + statistics)))
    if not found:
        raise failure
    return {name: _common([shapes[name] for shapes in found]) for name in names}


def _common(shapes: List[Tuple[int, ...]]) -> Optional[Tuple[int, ...]]:
    """The extents on which all `shapes` agree, 0 for the others; None when not even the number."""
    if not all(shape and len(shape) == len(shapes[0]) for shape in shapes):
        return None
    return tuple(extents[0] if len(set(extents)) == 1 else 0 for extents in zip(*shapes))


def _one_line(problem: Exception) -> str:
    """The end of the last line of MXNet's message, without source position and time."""
    lines = [line for line in str(problem).splitlines() if line.strip()] or ['unknown reason']
    line = re.sub(r'\[\d+:\d+:\d+\] \S+: ', '', lines[-1].replace('MXNetError: ', '')).strip()
    return line if len(line) <= 200 else line[:197] + '...'
