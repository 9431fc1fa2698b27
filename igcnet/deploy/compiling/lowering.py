"""A network's graph as a draft: what every operator does to planes, one after the other."""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple, Union

import numpy as np

from igcnet.convert.original import INPUT
from igcnet.deploy.compiling.draft import Draft, Each, NoForm
from igcnet.deploy.compiling.groups import make_groups, merge_alike
from igcnet.deploy.compiling.tail import Tail, Vector
from igcnet.deploy.compiling.windows import view_of, window_axes, window_sources
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.program import CLAMP, NOTHING, SIGMOID, Convolution, Largest
from igcnet.deploy.rewrites.batch_norm import scale_and_shift
from igcnet.deploy.rewrites.kernels import attributes_of, bias_of, is_plain_convolution
from igcnet.deploy.rewrites.shuffles import shuffle_order
from igcnet.deploy.rewrites.training_parts import WITHOUT_EFFECT
from igcnet.errors import UsageError

# A map: the plane of each channel.
Value = Union[np.ndarray, Vector]


def lower(model: Model) -> Draft:
    """The draft that computes a network.

    Raises
    ------
    UsageError
        A node has no native form; the message names it.
    """
    return _Lowering(model).draft


class _Lowering:

    def __init__(self, model: Model):
        self.editor, self.shapes = Editor(model), model.shapes()
        self.draft = Draft(model.image_shape)
        self.tail = Tail(self.draft)
        self.values: Dict[Tuple[int, int], Value] = {}
        for index, node in enumerate(self.editor.nodes):
            if index in self.editor.values:
                continue
            try:
                self._do(index)
                if (index, 0) in model.graph.heads:
                    self._finish(index)
            except NoForm as problem:
                raise UsageError('%s (%s): no native form%s' % (
                    node.name, node.op, ''.join(': %s' % word for word in problem.args))) from None

    def _do(self, index: int) -> None:
        node = self.editor.nodes[index]
        if node.is_variable:
            self.values[index, 0] = self._image(node.name)
            return
        handle = OPERATORS.get(node.op)
        if handle is None:
            raise NoForm()
        found = handle(self, index)
        for output, value in enumerate(found if isinstance(found, list) else [found]):
            self.values[index, output] = value

    def _finish(self, index: int) -> None:
        if len(self.shapes[self.editor.nodes[index].name]) != 2:
            raise NoForm('the output is no vector of logits')
        self.tail.finish(self.vector_of(self.values[index, 0]))

    def _image(self, name: str) -> np.ndarray:
        if name != INPUT:
            raise NoForm('it has no value')
        channels, height, width = self.draft.image_shape
        size = self.draft.size(height, width)
        return np.array([self.draft.image_view(channel, 1, 0, 0, size)
                         for channel in range(channels)], np.int32)

    # What handlers ask for.

    def input(self, index: int, place: int = 0) -> Value:
        """A map or vector that a node reads."""
        link = self.editor.nodes[index].inputs[place]
        if link not in self.values:
            raise NoForm('it computes with a parameter')
        return self.values[link]

    def planes(self, index: int, place: int = 0) -> np.ndarray:
        """A map that a node reads."""
        found = self.input(index, place)
        if isinstance(found, Vector):
            raise NoForm('its input is no map any more')
        return found

    def attributes(self, index: int) -> dict:
        """The attributes of a node with defaults filled in."""
        return attributes_of(self.editor, index)

    def vector_of(self, value: Value) -> Vector:
        if isinstance(value, Vector):
            return value
        if self.extent(value) != (1, 1):
            raise NoForm('a map is read as a vector')
        return self.tail.mean(value, self.draft.size_of[value[0]])

    def vector(self, index: int) -> Vector:
        """What a node reads, as a vector."""
        return self.vector_of(self.input(index))

    def extent(self, planes: np.ndarray) -> Tuple[int, int]:
        """Height and width of a map."""
        return self.draft.extents[self.draft.size_of[planes[0]]]

    def output_extent(self, index: int) -> Tuple[int, int]:
        """Height and width of the map that a node writes."""
        return tuple(self.shapes[self.editor.nodes[index].name][2:])

    def nonnegative(self, planes: np.ndarray) -> np.ndarray:
        """Of each plane whether no pixel can be below 0."""
        return np.array(self.draft.nonnegative)[planes]

    def each(self, planes: np.ndarray, scale=1.0, shift=0.0, adds=None, factors=None,
             activation: str = CLAMP, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
        """A step that works on each plane of a map by itself."""
        scale, shift = (np.broadcast_to(values, len(planes)) for values in (scale, shift))
        nonnegative = np.full(len(planes), activation == SIGMOID or low >= 0)
        if not nonnegative.all() and activation == CLAMP:
            nonnegative = (self.nonnegative(planes) & (scale >= 0) & (shift >= 0) & (high >= 0)
                           & (True if adds is None else self.nonnegative(adds)))
        if factors is not None:
            nonnegative = nonnegative & self.nonnegative(factors)
        size = self.draft.size_of[planes[0]]
        outs = self.draft.new_planes(len(planes), size, nonnegative)
        nothing = np.full(len(planes), NOTHING, np.int32)
        self.draft.steps.append(Each(
            size, planes, scale, shift, nothing if adds is None else adds,
            nothing if factors is None else factors, outs, activation, low, high))
        return outs

    def affine(self, index: int, scale=1.0, shift=0.0) -> Value:
        """What a node reads, with a scale and a shift for each channel."""
        found = self.input(index)
        if isinstance(found, Vector):
            return found.affine(scale, shift)
        return self.each(found, scale, shift)

    def clamped(self, index: int, low: float, high: float) -> Value:
        """What a node reads, between two limits."""
        found = self.input(index)
        if isinstance(found, Vector):
            return self.tail.clamp(found, low, high)
        return self.each(found, low=low, high=high)


def _unchanged(to: _Lowering, index: int) -> Value:
    return to.input(index)


def _reshape(to: _Lowering, index: int) -> Value:
    node = to.editor.nodes[index]
    if to.shapes[node.name] != to.shapes[to.editor.nodes[node.inputs[0][0]].name]:
        raise NoForm('it changes the shape')
    return to.input(index)


def _flatten(to: _Lowering, index: int) -> Value:
    return to.vector(index)


def _convolution(to: _Lowering, index: int) -> Value:
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


def _pooling(to: _Lowering, index: int) -> Value:
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


def _ends_here(to: _Lowering, index: int) -> bool:
    """Whether everything that reads a node takes a vector."""
    readers = to.editor.consumers()[index]
    return all(reader == -1 or to.editor.nodes[reader].op in ('Flatten', 'FullyConnected')
               for reader in readers)


def _window_mean(to: _Lowering, planes: np.ndarray, axes, area: float) -> Vector:
    """The sum over the one window that there is, divided by `area`."""
    start = [max(axis.taps()[0], 0) for axis in axes]
    extent = [min(axis.taps()[-1] + 1, axis.inputs) - first for axis, first in zip(axes, start)]
    size = to.draft.size(*extent)
    if size != to.draft.size_of[planes[0]]:
        planes = np.array([view_of(to.draft, int(plane), 1, *start, size) for plane in planes],
                          np.int32)
    return to.tail.mean(planes, size).affine(np.prod(extent) / area, 0.0)


def _mean(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    if tuple(sorted(attributes['axis'])) != (2, 3) or attributes['exclude']:
        raise NoForm('its axes')
    planes = to.planes(index)
    return to.tail.mean(planes, to.draft.size_of[planes[0]])


def _fully_connected(to: _Lowering, index: int) -> Value:
    if any(source not in to.editor.values for source, _ in to.editor.nodes[index].inputs[1:]):
        raise NoForm('its weight is computed')
    return to.tail.dense(to.vector(index), to.editor.value(index, 1), bias_of(to.editor, index))


def _batch_norm(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    if attributes['axis'] != 1 or attributes['output_mean_var'] or any(
            source not in to.editor.values
            for source, _ in to.editor.nodes[index].inputs[1:]):
        raise NoForm('its axis, outputs or parameters')
    return to.affine(index, *scale_and_shift(to.editor, index))


def _activation(to: _Lowering, index: int) -> Value:
    node = to.editor.nodes[index]
    kind = node.attributes['act_type'] if node.op == 'Activation' else node.op
    if kind == 'relu':
        return to.clamped(index, 0.0, np.inf)
    if kind == 'sigmoid':
        return to.each(to.planes(index), activation=SIGMOID)
    raise NoForm(kind)


def _clip(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return to.clamped(index, attributes['a_min'], attributes['a_max'])


def _hard_sigmoid(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return to.each(to.planes(index), attributes['alpha'], attributes['beta'], low=0.0, high=1.0)


def _reorder(to: _Lowering, index: int) -> Value:
    found = to.input(index)
    return found[shuffle_order(len(found), to.attributes(index)['branch_factor'])]


def _concat(to: _Lowering, index: int) -> Value:
    if to.attributes(index)['dim'] not in (1, -3):
        raise NoForm('its axis')
    return np.concatenate([to.planes(index, place)
                           for place in range(len(to.editor.nodes[index].inputs))])


def _channels(to: _Lowering, index: int, axis: int) -> np.ndarray:
    """The map whose channels a node chooses from."""
    planes = to.planes(index)
    if axis not in (1, -3):
        raise NoForm('its axis')
    return planes


def _slice_axis(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    return _channels(to, index, attributes['axis'])[attributes['begin']:attributes['end']]


def _slice_channel(to: _Lowering, index: int) -> List[Value]:
    attributes = to.attributes(index)
    planes = _channels(to, index, attributes['axis'])
    if attributes['squeeze_axis']:
        raise NoForm('it changes the shape')
    return np.split(planes, attributes['num_outputs'])


def _take(to: _Lowering, index: int) -> Value:
    attributes = to.attributes(index)
    planes = _channels(to, index, attributes['axis'])
    if to.editor.source(index, 1) not in to.editor.values or attributes['mode'] != 'clip':
        raise NoForm('its indices are computed')
    chosen = to.editor.value(index, 1)
    if chosen.ndim != 1:
        raise NoForm('it changes the shape')
    return planes[np.clip(chosen.astype(int), 0, len(planes) - 1)]


def _sum(to: _Lowering, index: int) -> Value:
    total = to.planes(index)
    for place in range(1, len(to.editor.nodes[index].inputs)):
        other = to.planes(index, place)
        _require_alike(to, total, other)
        total = to.each(total, adds=other)
    return total


def _product(to: _Lowering, index: int) -> Value:
    one, other = to.planes(index), to.planes(index, 1)
    _require_alike(to, one, other)
    return to.each(one, factors=other)


def _require_alike(to: _Lowering, one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other) or to.extent(one) != to.extent(other):
        raise NoForm('its two inputs have other shapes')


def _with_constant(sign: int) -> Callable[[_Lowering, int], Value]:
    """A broadcast sum (`sign` 1 or -1) or product (0) with a parameter for each channel."""
    def handle(to: _Lowering, index: int) -> Value:
        if to.editor.source(index, 1) not in to.editor.values:
            return (_product if sign == 0 else _difference if sign < 0 else _sum)(to, index)
        value, shape = to.editor.value(index, 1), to.shapes[to.editor.nodes[index].name]
        if value.ndim != len(shape) or value.size not in (1, value.shape[1]):
            raise NoForm('its parameter is not one for each channel')
        value = value.reshape(-1).astype(np.float64)
        return to.affine(index, value) if sign == 0 else to.affine(index, shift=sign * value)
    return handle


def _difference(to: _Lowering, index: int) -> Value:
    one, other = to.planes(index), to.planes(index, 1)
    _require_alike(to, one, other)
    return to.each(other, -1.0, adds=one)


def _scalar(scale: Callable[[float], float], shift: Callable[[float], float]
            ) -> Callable[[_Lowering, int], Value]:
    def handle(to: _Lowering, index: int) -> Value:
        value = to.attributes(index)['scalar']
        return to.affine(index, scale(value), shift(value))
    return handle


OPERATORS: Dict[str, Callable[[_Lowering, int], Union[Value, List[Value]]]] = {
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
