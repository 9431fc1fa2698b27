"""What each operator of a graph does to planes; see `igcnet.deploy.compiling.lowering`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, List, Tuple

import numpy as np

from igcnet.deploy.compiling.draft import NoForm
from igcnet.deploy.compiling.groups import make_groups, merge_alike
from igcnet.deploy.compiling.tail import Vector
from igcnet.deploy.compiling.windows import Axis, view_of, window_axes, window_sources
from igcnet.deploy.program import SIGMOID, Convolution, Largest
from igcnet.deploy.rewrites.batch_norm import scale_and_shift
from igcnet.deploy.rewrites.kernels import bias_of, is_plain_convolution
from igcnet.deploy.rewrites.shuffles import shuffle_order
from igcnet.deploy.rewrites.training_parts import WITHOUT_EFFECT

if TYPE_CHECKING:
    from igcnet.deploy.compiling.lowering import Lowering, Value


def _unchanged(to: Lowering, index: int) -> Value:
    return to.input(index)


def _reshape(to: Lowering, index: int) -> Value:
    node = to.editor.nodes[index]
    if to.shapes[node.name] != to.shapes[to.editor.nodes[node.inputs[0][0]].name]:
        raise NoForm('it changes the shape')
    return to.input(index)


def _flatten(to: Lowering, index: int) -> Value:
    return to.vector(index)


def _convolution(to: Lowering, index: int) -> Value:
    if not is_plain_convolution(to.editor, index):
        raise NoForm('its weight is computed, or it is not over two dimensions')
    attributes, found = to.attributes(index), to.input(index)
    weight, bias = to.editor.value(index, 1), bias_of(to.editor, index)
    axes = window_axes(attributes, (1, 1) if isinstance(found, Vector) else to.extent(found),
                       to.output_extent(index))
    if axes is None:
        raise NoForm('its two strides differ')
    groups = attributes['num_group']
    size = to.draft.size(*to.output_extent(index))
    if isinstance(found, Vector):
        if groups > 1 or to.output_extent(index) != (1, 1):
            raise NoForm('its input is no map any more')
        centre = tuple(axis.taps().index(0) for axis in axes)
        return to.tail.dense(found, weight[(slice(None), slice(None), *centre)], bias)
    sources, kept = window_sources(to.draft, found, size, *axes)
    outs = to.draft.new_planes(len(weight), size)
    parts = []
    for rows, planes in zip(np.array_split(np.arange(len(weight)), groups),
                            np.array_split(np.arange(len(found)), groups)):
        parts += make_groups(sources[planes].reshape(-1, 3),
                             weight[rows][:, :, kept].reshape(len(rows), -1), bias[rows],
                             outs[rows])
    to.draft.steps.append(Convolution(size, merge_alike(parts)))
    return outs


def _pooling(to: Lowering, index: int) -> Value:
    attributes, planes = to.attributes(index), to.planes(index)
    kind, extent = attributes['pool_type'], to.extent(planes)
    if attributes['global_pool']:
        if kind != 'avg':
            raise NoForm('over the whole map only means')
        return to.tail.mean(planes, to.draft.size_of[planes[0]])
    if len(attributes['kernel']) != 2 or attributes.get('layout', 'NCHW') != 'NCHW' \
            or attributes['pooling_convention'] not in ('valid', 'full'):
        raise NoForm('its convention')
    axes = window_axes(attributes, extent, to.output_extent(index))
    if axes is None:
        raise NoForm('its two strides differ')
    inside = all(axis.stays_inside() for axis in axes)
    size = to.draft.size(*to.output_extent(index))
    if kind == 'max':
        if not inside and not to.nonnegative(planes).all():
            raise NoForm('it is padded, and pixels may be below 0')
        if not all(axis.always_meets() for axis in axes):
            raise NoForm('a window lies beside the map')
        outs = to.draft.new_planes(len(planes), size, to.nonnegative(planes))
        to.draft.steps.append(Largest(
            size, window_sources(to.draft, planes, size, *axes)[0], outs))
        return outs
    padded = any(axis.taps()[-1] + axis.stride * (axis.outputs - 1) >= axis.inputs + axis.pad
                 for axis in axes)
    if kind != 'avg' or padded or not (inside or attributes['count_include_pad']):
        raise NoForm('pixels are not all divided by the same number')
    area = float(np.prod(attributes['kernel']))
    if to.output_extent(index) == (1, 1) and _ends_here(to, index):
        return _window_mean(to, planes, axes, area)
    sources = window_sources(to.draft, planes, size, *axes)[0]
    outs = to.draft.new_planes(len(planes), size, to.nonnegative(planes))
    weight = np.full((1, sources.shape[1]), 1 / area, np.float32)
    to.draft.steps.append(Convolution(size, [
        group for own, out in zip(sources, outs)
        for group in make_groups(own, weight, np.zeros(1, np.float32), np.array([out]))]))
    return outs


def _ends_here(to: Lowering, index: int) -> bool:
    """Whether everything that reads a node takes a vector."""
    readers = to.editor.consumers()[index]
    return all(reader == -1 or to.editor.nodes[reader].op in ('Flatten', 'FullyConnected')
               for reader in readers)


def _window_mean(to: Lowering, planes: np.ndarray, axes: Tuple[Axis, Axis], area: float
                 ) -> Vector:
    """The sum over the one window that there is, divided by `area`."""
    start = [max(axis.taps()[0], 0) for axis in axes]
    extent = [min(axis.taps()[-1] + 1, axis.inputs) - first for axis, first in zip(axes, start)]
    size = to.draft.size(*extent)
    if size != to.draft.size_of[planes[0]]:
        planes = np.array([view_of(to.draft, int(plane), 1, *start, size) for plane in planes],
                          np.int32)
    return to.tail.mean(planes, size).affine(np.prod(extent) / area, 0.0)


def _mean(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    if tuple(sorted(attributes['axis'])) != (2, 3) or attributes['exclude']:
        raise NoForm('its axes')
    planes = to.planes(index)
    return to.tail.mean(planes, to.draft.size_of[planes[0]])


def _fully_connected(to: Lowering, index: int) -> Value:
    if any(source not in to.editor.values for source, _ in to.editor.nodes[index].inputs[1:]):
        raise NoForm('its weight is computed')
    return to.tail.dense(to.vector(index), to.editor.value(index, 1), bias_of(to.editor, index))


def _batch_norm(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    if attributes['axis'] != 1 or attributes['output_mean_var'] or any(
            source not in to.editor.values
            for source, _ in to.editor.nodes[index].inputs[1:]):
        raise NoForm('its axis, outputs or parameters')
    return to.affine(index, *scale_and_shift(to.editor, index))


def _activation(to: Lowering, index: int) -> Value:
    node = to.editor.nodes[index]
    kind = node.attributes['act_type'] if node.op == 'Activation' else node.op
    if kind == 'relu':
        return to.clamped(index, 0.0, np.inf)
    if kind == 'sigmoid':
        return to.each(to.planes(index), activation=SIGMOID)
    raise NoForm(kind)


def _clip(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return to.clamped(index, attributes['a_min'], attributes['a_max'])


def _hard_sigmoid(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return to.each(to.planes(index), attributes['alpha'], attributes['beta'], low=0.0, high=1.0)


def _reorder(to: Lowering, index: int) -> Value:
    found = to.input(index)
    return found[shuffle_order(len(found), to.attributes(index)['branch_factor'])]


def _concat(to: Lowering, index: int) -> Value:
    if to.attributes(index)['dim'] not in (1, -3):
        raise NoForm('its axis')
    return np.concatenate([to.planes(index, place)
                           for place in range(len(to.editor.nodes[index].inputs))])


def _channels(to: Lowering, index: int, axis: int) -> np.ndarray:
    """The map whose channels a node chooses from."""
    planes = to.planes(index)
    if axis not in (1, -3):
        raise NoForm('its axis')
    return planes


def _slice_axis(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return _channels(to, index, attributes['axis'])[attributes['begin']:attributes['end']]


def _slice_channel(to: Lowering, index: int) -> List[Value]:
    attributes = to.attributes(index)
    planes = _channels(to, index, attributes['axis'])
    if attributes['squeeze_axis']:
        raise NoForm('it changes the shape')
    return np.split(planes, attributes['num_outputs'])


def _take(to: Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    planes = _channels(to, index, attributes['axis'])
    if to.editor.source(index, 1) not in to.editor.values or attributes['mode'] != 'clip':
        raise NoForm('its indices are computed')
    chosen = to.editor.value(index, 1)
    if chosen.ndim != 1:
        raise NoForm('it changes the shape')
    return planes[np.clip(chosen.astype(int), 0, len(planes) - 1)]


def _sum(to: Lowering, index: int) -> Value:
    total = to.planes(index)
    for place in range(1, len(to.editor.nodes[index].inputs)):
        other = to.planes(index, place)
        _require_alike(to, total, other)
        total = to.each(total, adds=other)
    return total


def _product(to: Lowering, index: int) -> Value:
    one, other = to.planes(index), to.planes(index, 1)
    _require_alike(to, one, other)
    return to.each(one, factors=other)


def _require_alike(to: Lowering, one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other) or to.extent(one) != to.extent(other):
        raise NoForm('its two inputs have other shapes')


def _with_constant(sign: int) -> Callable[[Lowering, int], Value]:
    """A broadcast sum (`sign` 1 or -1) or product (0) with a parameter for each channel."""
    def handle(to: Lowering, index: int) -> Value:
        if to.editor.source(index, 1) not in to.editor.values:
            return (_product if sign == 0 else _difference if sign < 0 else _sum)(to, index)
        value, shape = to.editor.value(index, 1), to.shapes[to.editor.nodes[index].name]
        if value.ndim != len(shape) or value.size not in (1, value.shape[1]):
            raise NoForm('its parameter is not one for each channel')
        value = value.reshape(-1).astype(np.float64)
        return to.affine(index, value) if sign == 0 else to.affine(index, shift=sign * value)
    return handle


def _difference(to: Lowering, index: int) -> Value:
    one, other = to.planes(index), to.planes(index, 1)
    _require_alike(to, one, other)
    return to.each(other, -1.0, adds=one)


def _scalar(scale: Callable[[float], float], shift: Callable[[float], float]
            ) -> Callable[[Lowering, int], Value]:
    def handle(to: Lowering, index: int) -> Value:
        value = to.attributes(index)['scalar']
        return to.affine(index, scale(value), shift(value))
    return handle


# By operator: the value of a node, or the values of its outputs.
OPERATORS: Dict[str, Callable] = {
    **dict.fromkeys(WITHOUT_EFFECT, _unchanged),
    **dict.fromkeys(('Activation', 'relu', 'sigmoid'), _activation),
    **dict.fromkeys(('elemwise_add', 'add_n'), _sum),
    'BatchNorm': _batch_norm, 'clip': _clip, 'Concat': _concat, 'Convolution': _convolution,
    'Flatten': _flatten, 'FullyConnected': _fully_connected, 'Pooling': _pooling,
    'Reorder': _reorder, 'Reshape': _reshape, 'SliceChannel': _slice_channel,
    'elemwise_mul': _product, 'elemwise_sub': _difference, 'hard_sigmoid': _hard_sigmoid,
    'mean': _mean, 'slice_axis': _slice_axis, 'take': _take,
    'broadcast_add': _with_constant(1), 'broadcast_mul': _with_constant(0),
    'broadcast_sub': _with_constant(-1),
    '_plus_scalar': _scalar(lambda value: 1.0, lambda value: value),
    '_minus_scalar': _scalar(lambda value: 1.0, lambda value: -value),
    '_rminus_scalar': _scalar(lambda value: -1.0, lambda value: value),
    '_mul_scalar': _scalar(lambda value: value, lambda value: 0.0),
    '_div_scalar': _scalar(lambda value: 1 / value, lambda value: 0.0),
}
