"""Layers of the DGC networks for one image at a time, in NumPy and BLAS.

At batch 1 the stock graph of a dynamic group convolution spends its time on some forty small
operators and on channels that are multiplied by zero. Here a layer is a dozen calls:

- BN before a ReLU is folded away: ``relu(a*x + b) = |a| * relu(sign(a)*x + b/|a|)``, where |a|
  goes into the weights that follow; BN behind a convolution is folded into its weight and a bias;
- the selectors of all heads are two matrix products;
- the convolution has two forms, 'gathered' and 'scaled', see `DynamicConv`.
"""

from __future__ import annotations

import math
import time
from typing import Dict, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Parameter

from igcnet.layers import BatchNorm, Conv2D, DynamicGroupConv
from igcnet.layers.head_products import Window, gate
from igcnet.layers.products import multiply, multiply_each

FORMS = ('gathered', 'scaled')
# A BN scale below this is not divided by: the quotient would leave the range of float32.
SMALLEST_SCALE = 1e-6


class Memory:
    """Float32 memory that layers share, one after the other: what stays in the cache is fast."""

    def __init__(self):
        self._arrays: Dict[str, np.ndarray] = {}

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """An array of `shape` whose content is whatever was left there."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.empty(size, np.float32)
        return array[:size].reshape(shape)

    def framed(self, channels: int, side: int) -> np.ndarray:
        """(channels, 3, side + 2, side) of zeros; only `ShiftedConv` writes into it."""
        name = 'framed %d %d' % (channels, side)
        if name not in self._arrays:
            self._arrays[name] = np.zeros((channels, 3, side + 2, side), np.float32)
        return self._arrays[name]


def values(parameter: Parameter) -> np.ndarray:
    """A parameter's values, in float32."""
    return parameter.list_data()[0].asnumpy().astype(np.float32, copy=False)


def affine(norm: BatchNorm) -> Tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BN in evaluation, (C,) each."""
    scale = values(norm.gamma) / np.sqrt(values(norm.running_var) + norm.epsilon)
    return scale, values(norm.beta) - values(norm.running_mean) * scale


class NormRelu:
    """BN and ReLU of one image, without the positive `factor` (C,) of each channel."""

    def __init__(self, norm: BatchNorm, memory: Memory):
        scale, shift = affine(norm)
        divides = np.abs(scale) > SMALLEST_SCALE
        self.factor = np.where(divides, np.abs(scale), 1).astype(np.float32)
        signs = (scale / self.factor)[:, None]
        self.signs: Optional[np.ndarray] = None if (signs == 1).all() else signs
        self.shift = (shift / self.factor)[:, None]
        self.memory = memory

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(C, pixels) -> (C, pixels), in shared memory."""
        result = self.memory('activated', *x.shape)
        if self.signs is not None:
            x = np.multiply(x, self.signs, out=result)
        np.add(x, self.shift, out=result)
        return np.maximum(result, 0, out=result)


def move_columns(framed: np.ndarray) -> None:
    """Make two copies of a framed map, moved by a column each, for a kernel of three columns.

    Parameters
    ----------
    framed : (C, 3, side + 2, side)
        The map is ``[:, 1]``, with a line of zeros above and below; the copies are written into
        ``[:, 0]``, moved to the right, and ``[:, 2]``, moved to the left.
    """
    flat = framed.reshape(*framed.shape[:2], -1)
    flat[:, 0, 1:] = flat[:, 1, :-1]
    flat[:, 2, :-1] = flat[:, 1, 1:]
    framed[:, 0, :, 0] = 0  # what came round from the line before
    framed[:, 2, :, -1] = 0


def sum_lines(product: np.ndarray, side: int, out: np.ndarray) -> None:
    """Sum the results of the three rows of a kernel, moved by a line each.

    Parameters
    ----------
    product : (G, 3, filters, (side + 2) * side)
    out : (G, filters, side * side)
    """
    pixels = side * side
    np.add(product[:, 0, :, :pixels], product[:, 1, :, side:side + pixels], out=out)
    np.add(out, product[:, 2, :, 2 * side:], out=out)


class ShiftedConv:
    """Convolution of one image with a 3x3 kernel, stride 1, padding 1, in groups.

    Three copies of the map, moved by a column each, with a line of zeros above and below, make
    one matrix product for each group; the three rows of the kernel are then summed from its
    result, moved by a line each. The input is written into `inside` (C, side*side).

    `weight` is (channels, C/groups, 3, 3).
    """

    def __init__(self, weight: np.ndarray, groups: int, side: int, memory: Memory):
        outputs, width = weight.shape[0] // groups, weight.shape[1]
        self._framed = memory.framed(groups * width, side)
        flat = self._framed.reshape(groups * width, 3, -1)
        self.inside = flat[:, 1, side:-side]
        self._stacked = flat.reshape(groups, 3 * width, -1)
        # (groups, row of the kernel, filter, channel, column of the kernel)
        split = weight.reshape(groups, outputs, width, 3, 3).transpose(0, 3, 1, 2, 4)
        self._weight = np.ascontiguousarray(split).reshape(groups, 3 * outputs, 3 * width)
        self._shape, self._side, self.memory = (groups, outputs, side * side), side, memory
        self.macs = weight.size * side * side

    def __call__(self, out: np.ndarray) -> None:
        """Write the result into `out` (O, side*side)."""
        move_columns(self._framed)
        groups, outputs, _ = self._shape
        product = self.memory('rows', *self._weight.shape[:2], self._stacked.shape[2])
        multiply_each(self._weight, self._stacked, product)
        sum_lines(product.reshape(groups, 3, outputs, -1), self._side, out.reshape(self._shape))


def window_of(conv: Conv2D, side: int) -> Window:
    """The window of a convolution over a square map."""
    given = conv._kwargs
    return Window(given['kernel'][0], given['stride'][0], given['pad'][0], given['dilate'][0],
                  side, side)


class PlainConv:
    """Any convolution without groups, of one image (C, side, side), with the `norm` behind it and
    the BN and ReLU `before` it."""

    def __init__(self, conv: Conv2D, side: int, norm: Optional[BatchNorm] = None,
                 before: Optional[NormRelu] = None, name: str = ''):
        self.name, self.before = name, before
        self.window = window_of(conv, side)
        weight = values(conv.weight)
        if before is not None:
            weight = weight * before.factor[:, None, None]
        self.bias = None
        if norm is not None:
            scale, shift = affine(norm)
            weight, self.bias = weight * scale[:, None, None, None], shift[:, None]
        self.weight = np.ascontiguousarray(weight.reshape(len(weight), -1))
        self.times: Optional[List[float]] = None
        self.macs = self.weight.size * math.prod(self.window.output)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(C, pixels) -> (O, pixels')."""
        begin = time.perf_counter()
        if self.before is not None:
            x = self.before(x)
        side = self.window.height
        columns = self.window.columns(x.reshape(-1, side, side))
        columns = columns.reshape(self.weight.shape[1], -1)
        out = np.empty((len(self.weight), columns.shape[1]), np.float32)
        multiply(self.weight, columns, out)
        if self.bias is not None:
            np.add(out, self.bias, out=out)
        if self.times is not None:
            self.times.append(time.perf_counter() - begin)
        return out


class DynamicConv:
    """A dynamic group convolution of one image, with a BN behind it.

    The number of inactive channels is that of the layer when this is made. Two forms, equal up to
    rounding:

    - 'gathered': each head copies the maps and the weights of the channels that it keeps, and
      multiplies those alone: ``(C - inactive) / C`` of the multiply-adds;
    - 'scaled': the weights are multiplied by the saliencies, 0 included, and one product without
      groups computes everything; nothing is copied.

    Parameters
    ----------
    layer : DynamicGroupConv
    side : int
        Height and width of the map.
    memory : Memory
    norm : BatchNorm
        Behind the convolution.

    Attributes
    ----------
    form : str
        One of `FORMS`; with no or all channels inactive only 'scaled' is possible.
    times : list of float, optional
        If it is a list, every call appends its seconds.
    """

    def __init__(self, layer: DynamicGroupConv, side: int, memory: Memory, norm: BatchNorm):
        heads = layer.heads
        self.name, self.memory = layer.name, memory
        self.window = window_of(heads[0].conv, side)
        self.taps = self.window.kernel ** 2
        # A 3x3 kernel that keeps the size is three lines of three columns, see `ShiftedConv`.
        self._lines = 3 if self.window[:4] == (3, 1, 1, 1) else 1
        self._across = self.taps // self._lines
        self.heads, self.channels = len(heads), layer.in_channels
        self.inactive = layer.inactive
        self.pixels = math.prod(self.window.output)
        self.before = NormRelu(layer.norm, memory)
        factor = self.before.factor
        first = np.concatenate([values(head.fc1.weight) for head in heads])
        self._fc1 = first * factor / side ** 2  # from sums instead of means
        self._fc2 = np.stack([values(head.fc2.weight) for head in heads])
        self._fc2_bias = np.stack([values(head.fc2.bias) for head in heads])[:, :, None]
        self._ones = np.ones(side ** 2, np.float32)

        filters = heads[0].conv._channels
        scale, shift = (vector.reshape(filters, self.heads).T for vector in affine(norm))
        weight = np.stack([values(head.conv.weight) for head in heads]).reshape(
            self.heads, filters, self.channels, self._lines, self._across)
        weight = weight * scale[:, :, None, None, None] * factor[:, None, None]
        self.bias = np.ascontiguousarray(shift)[:, :, None]
        # (heads, lines, filters, C, across), and (heads * C, across * lines * filters)
        self._filters_first = np.ascontiguousarray(weight.transpose(0, 3, 1, 2, 4))
        self._channels_first = np.ascontiguousarray(weight.transpose(0, 2, 4, 3, 1)).reshape(
            self.heads * self.channels, -1)
        self._offsets = (np.arange(self.heads) * self.channels)[:, None]
        self.filters = filters
        self.can_gather = 0 < self.inactive < self.channels
        self.form = 'gathered' if self.can_gather else 'scaled'
        self.times: Optional[List[float]] = None

    @property
    def macs(self) -> int:
        """Multiply-adds of the convolution and the selectors, as they are executed."""
        kept = self.channels - self.inactive if self.form == 'gathered' else self.channels
        convolution = self.heads * self.filters * kept * self.taps
        return convolution * self.pixels + self._fc1.size + self._fc2.size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(C, pixels) -> (heads, filters, pixels'), in shared memory.

        Output channel ``j*heads + h`` of the layer is filter j of head h.
        """
        begin = time.perf_counter()
        activated = self.before(x)
        saliency = self.saliencies(activated)
        out = self.memory('heads', self.heads, self.filters, self.pixels)
        (self._gathered if self.form == 'gathered' else self._scaled)(activated, saliency, out)
        np.add(out, self.bias, out=out)
        if self.times is not None:
            self.times.append(time.perf_counter() - begin)
        return out

    def saliencies(self, activated: np.ndarray) -> np.ndarray:
        """(heads, C), before any is dropped."""
        hidden = np.maximum(self._fc1 @ (activated @ self._ones), 0)
        saliency = np.matmul(self._fc2, hidden.reshape(self.heads, -1, 1))
        saliency += self._fc2_bias
        return np.maximum(saliency, 0, out=saliency)[:, :, 0]

    def _columns(self, maps: np.ndarray) -> np.ndarray:
        """What the kernel sees of some maps: (n, pixels) -> (n * across, places)."""
        side = self.window.height
        if self.window.pointwise:
            return maps
        if self._lines == 1:
            return self.window.columns(maps.reshape(-1, side, side)).reshape(
                len(maps) * self.taps, -1)
        framed = self.memory('framed', len(maps), 3, side + 2, side)
        flat = framed.reshape(len(maps), 3, -1)
        flat[:, 1, :side], flat[:, 1, -side:] = 0, 0
        flat[:, 1, side:-side] = maps
        move_columns(framed)
        return framed.reshape(len(maps) * 3, -1)

    def _product(self, places: int, out: np.ndarray) -> np.ndarray:
        """Where the matrix product goes, (heads, lines * filters, places)."""
        if self._lines == 1:
            return out
        return self.memory('rows', self.heads, self._lines * self.filters, places)

    def _finish(self, product: np.ndarray, out: np.ndarray) -> None:
        if self._lines > 1:
            sum_lines(product.reshape(self.heads, self._lines, self.filters, -1),
                      self.window.height, out)

    def _scaled(self, activated, saliency, out):
        gated = gate(saliency, self.inactive)[:, None, None, :, None]
        weight = self.memory('weight', *self._filters_first.shape)
        np.multiply(self._filters_first, gated, out=weight)
        columns = self._columns(activated)
        product = self._product(columns.shape[1], out)
        multiply(weight.reshape(-1, len(columns)), columns, product.reshape(-1, columns.shape[1]))
        self._finish(product, out)

    def _gathered(self, activated, saliency, out):
        kept = self.channels - self.inactive
        rows = saliency.argpartition(self.inactive - 1, axis=1)[:, self.inactive - 1:]
        rows += self._offsets
        found = saliency.take(rows)
        # Channels that tie with the last dropped one, which comes first, are dropped too.
        factors = found[:, 1:] * (found[:, 1:] > found[:, :1])
        rows = rows[:, 1:]
        weight = self.memory('weight', self.heads, kept, self.taps * self.filters)
        self._channels_first.take(rows, axis=0, out=weight, mode='clip')
        weight *= factors[:, :, None]
        maps = self.memory('maps', self.heads, kept, activated.shape[1])
        activated.take(rows - self._offsets, axis=0, out=maps, mode='clip')
        columns = self._columns(maps.reshape(self.heads * kept, -1))
        columns = columns.reshape(self.heads, kept * self._across, -1)
        product = self._product(columns.shape[2], out)
        weight = weight.reshape(self.heads, kept * self._across, -1)
        multiply_each(weight.transpose(0, 2, 1), columns, product)
        self._finish(product, out)
