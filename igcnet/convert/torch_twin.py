"""The graph of a network computed by PyTorch's operators.

The originals' classes are not at hand, so this is no comparison with them: the graph is ours, but
neither MXNet's kernels nor our way of loading parameters have a part in it. What it finds are
faults of either. That the graph is the original's is shown by outputs of the original
(``--verify FILE.npz``).
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from igcnet.convert.operators import effective_attributes
from igcnet.convert.original import INPUT
from igcnet.convert.symbol_json import Graph
from igcnet.errors import UsageError


def run_twin(graph: Graph, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of `graph`, computed by PyTorch on the CPU in inference mode.

    In float64, so that a difference is MXNet's alone.

    Parameters
    ----------
    arrays : mapping
        Value of every variable of the graph by name, the input included.

    Raises
    ------
    UsageError
        PyTorch is not installed, or the graph has an operator that is not translated.
    """
    torch = _import_torch()
    run = twin(graph, {name: np.array(array, np.float64) for name, array in arrays.items()
                       if name != INPUT})
    with torch.no_grad():
        return run(torch.from_numpy(np.array(arrays[INPUT], np.float64))).numpy()


def twin(graph: Graph, arrays: Mapping[str, np.ndarray],
         arrange: Callable[[Any], Any] = lambda tensor: tensor) -> Callable[[Any], Any]:
    """`graph` as a function of PyTorch tensors: its first output of its input ``data``.

    Parameters
    ----------
    arrays : mapping
        Value of every other variable of the graph by name, in the type to compute in.
    arrange : callable
        Of the tensor of each parameter: puts it into another memory format, say.

    Raises
    ------
    UsageError
        As `run_twin`.
    """
    torch = _import_torch()
    operators = torch_operators(torch)
    unknown = sorted({node.op for node in graph.nodes if not node.is_variable} - set(operators))
    if unknown:
        raise UsageError('PyTorch cannot compute this network here: %s is not translated'
                         % ', '.join(unknown))
    values = [arrange(torch.from_numpy(np.ascontiguousarray(arrays[node.name])))
              if node.is_variable and node.name != INPUT else None for node in graph.nodes]
    steps = [(index, operators[node.op], node.inputs,
              effective_attributes(node.op, node.attributes))
             for index, node in enumerate(graph.nodes) if not node.is_variable]
    data = [node.name for node in graph.nodes].index(INPUT)
    head, head_output = graph.heads[0]

    def run(images):
        results = [[value] for value in values]
        results[data] = [images]
        for index, operator, inputs, attributes in steps:
            found = operator([results[source][output] for source, output in inputs], attributes)
            results[index] = list(found) if isinstance(found, (list, tuple)) else [found]
        return results[head][head_output]
    return run


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UsageError('a comparison on random input computes the network by PyTorch too, which '
                         'is not installed: pip install torch, or give a file of inputs and '
                         'outputs') from None
    return torch


def torch_operators(torch: Any, training: bool = False
                    ) -> Dict[str, Callable[[Sequence[Any], Dict[str, Any]], Any]]:
    """By MXNet's names: functions of the inputs and the attributes, defaults filled in.

    With `training`, batch normalisation uses the batch's statistics and updates the running ones.
    A function refuses attributes for which PyTorch has no equal, by a UsageError.
    """
    functional = torch.nn.functional
    activations = {'relu': functional.relu, 'sigmoid': torch.sigmoid, 'tanh': torch.tanh,
                   'softrelu': functional.softplus, 'softsign': functional.softsign}

    def convolution(inputs, a):
        bias = inputs[2] if len(inputs) > 2 else None
        return functional.conv2d(inputs[0], inputs[1], bias, a['stride'], a['pad'], a['dilate'],
                                 a['num_group'])

    def batch_norm(inputs, a):
        data, gamma, beta, mean, variance = inputs
        return functional.batch_norm(data, mean, variance,
                                     torch.ones_like(gamma) if a['fix_gamma'] else gamma, beta,
                                     training, 1 - a['momentum'], a['eps'])

    def fully_connected(inputs, a):
        data = inputs[0].flatten(1) if a['flatten'] else inputs[0]
        return functional.linear(data, *inputs[1:])

    def pooling(inputs, a):
        data, maximum = inputs[0], a['pool_type'] == 'max'
        if a['pool_type'] not in ('max', 'avg'):
            raise UsageError('PyTorch cannot compute this network here: pooling by %s'
                             % a['pool_type'])
        if a['global_pool']:
            return data.amax((2, 3), True) if maximum else data.mean((2, 3), True)
        full = a['pooling_convention'] == 'full'
        if maximum:
            return functional.max_pool2d(data, a['kernel'], a['stride'], a['pad'], ceil_mode=full)
        return functional.avg_pool2d(data, a['kernel'], a['stride'], a['pad'], full,
                                     a['count_include_pad'])

    def leaky_relu(inputs, a):
        if a['act_type'] == 'prelu':
            return functional.prelu(*inputs)
        return {'leaky': functional.leaky_relu, 'elu': functional.elu}[a['act_type']](
            inputs[0], a['slope'])

    def reduction(function):
        def reduce(inputs, a):
            axes = a['axis'] if isinstance(a['axis'], tuple) else (a['axis'],)
            axes = tuple(range(inputs[0].dim())) if axes in ((None,), ()) else axes
            if a['exclude']:
                axes = tuple(set(range(inputs[0].dim())) - {axis % inputs[0].dim()
                                                            for axis in axes})
            return function(inputs[0], axes, a['keepdims'])
        return reduce

    def take(inputs, a):
        data, indices = inputs[0], inputs[1].long()
        extent = data.shape[a['axis']]
        indices = indices % extent if a['mode'] == 'wrap' else indices.clamp(0, extent - 1)
        shape = list(data.shape)
        axis = a['axis'] % data.dim()
        shape[axis:axis + 1] = indices.shape
        return data.index_select(axis, indices.flatten()).reshape(shape)

    def dot(inputs, a):
        left, right = (x.t() if a[key] else x
                       for x, key in zip(inputs, ('transpose_a', 'transpose_b')))
        return left @ right

    def slice_axis(inputs, a):
        return inputs[0][(slice(None),) * (a['axis'] % inputs[0].dim()) +
                         (slice(a['begin'], a['end']),)]

    def slice_channel(inputs, a):
        parts = inputs[0].chunk(a['num_outputs'], a['axis'])
        return [part.squeeze(a['axis']) for part in parts] if a['squeeze_axis'] else parts

    def elementwise(function):
        return lambda inputs, a: function(*inputs).to(inputs[0].dtype)

    return {
        'Activation': lambda inputs, a: activations[a['act_type']](inputs[0]),
        'BatchNorm': batch_norm, 'Convolution': convolution, 'FullyConnected': fully_connected,
        'Pooling': pooling, 'LeakyReLU': leaky_relu,
        'relu': lambda inputs, a: functional.relu(inputs[0]),
        'sigmoid': lambda inputs, a: torch.sigmoid(inputs[0]),
        'tanh': lambda inputs, a: torch.tanh(inputs[0]),
        'clip': lambda inputs, a: inputs[0].clamp(a['a_min'], a['a_max']),
        'softmax': lambda inputs, a: inputs[0].softmax(a['axis']),
        'Concat': lambda inputs, a: torch.cat(list(inputs), a['dim']),
        'stack': lambda inputs, a: torch.stack(list(inputs), a['axis']),
        'SliceChannel': slice_channel, 'slice_axis': slice_axis,
        'Flatten': lambda inputs, a: inputs[0].flatten(1),
        'Reshape': lambda inputs, a: inputs[0].reshape(
            reshaped(tuple(inputs[0].shape), a['shape'])),
        'reshape_like': lambda inputs, a: inputs[0].reshape(inputs[1].shape),
        'SwapAxis': lambda inputs, a: inputs[0].swapaxes(a['dim1'], a['dim2']),
        'transpose': lambda inputs, a: inputs[0].permute(
            a['axes'] or tuple(range(inputs[0].dim()))[::-1]),
        'expand_dims': lambda inputs, a: inputs[0].unsqueeze(a['axis']),
        'mean': reduction(torch.mean), 'sum': reduction(torch.sum), 'take': take, 'dot': dot,
        'sort': lambda inputs, a: inputs[0].sort(a['axis'], not a['is_ascend'])[0],
        'ones_like': lambda inputs, a: torch.ones_like(inputs[0]),
        'zeros_like': lambda inputs, a: torch.zeros_like(inputs[0]),
        **{name: lambda inputs, a: inputs[0] for name in ('_copy', 'BlockGrad', 'Dropout')},
        'add_n': lambda inputs, a: sum(inputs[1:], inputs[0]),
        'broadcast_greater': elementwise(torch.gt),
        **{prefix + name: elementwise(function)
           for prefix in ('elemwise_', 'broadcast_') for name, function in (
               ('add', torch.add), ('sub', torch.sub), ('mul', torch.mul), ('div', torch.div))},
        '_plus_scalar': lambda inputs, a: inputs[0] + a['scalar'],
        '_minus_scalar': lambda inputs, a: inputs[0] - a['scalar'],
        '_rminus_scalar': lambda inputs, a: a['scalar'] - inputs[0],
        '_mul_scalar': lambda inputs, a: inputs[0] * a['scalar'],
        '_div_scalar': lambda inputs, a: inputs[0] / a['scalar'],
    }


def reshaped(shape: Tuple[int, ...], codes: Sequence[int]) -> Tuple[int, ...]:
    """The shape that MXNet's Reshape makes of `shape` by its codes.

    0 keeps an extent, -1 is what remains, -2 keeps all that follow, -3 merges two, -4 splits one
    in the two numbers after it.
    """
    found: List[int] = []
    place, codes = 0, list(codes)
    while codes:
        code = codes.pop(0)
        if code == -2:
            found.extend(shape[place:])
            place = len(shape)
        elif code == -3:
            found.append(shape[place] * shape[place + 1])
            place += 2
        elif code == -4:
            first, second = codes.pop(0), codes.pop(0)
            first = shape[place] // second if first == -1 else first
            found.extend((first, shape[place] // first))
            place += 1
        else:
            found.append(shape[place] if code == 0 else code)
            place += 1
    if -1 in found:
        found[found.index(-1)] = math.prod(shape) // -math.prod(found)
    return tuple(found)
