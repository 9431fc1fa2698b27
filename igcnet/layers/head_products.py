"""The convolutions of the heads of a dynamic group convolution, on the CPU, image by image.

The stock graph multiplies the map by the saliencies of each head, which makes `heads` scaled
copies of it, and keeps them for the backward pass. The operator here keeps nothing but its inputs.
For each image it does one of two things, both exact:

- scaled weights: ``conv(x * s, W) = conv(x, W * s)``, one matrix product for all heads;
- gathered channels: each head multiplies only the channels that it keeps, which pays when they
  are few.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np

from igcnet.layers.array_views import Result, view
from igcnet.layers.products import multiply, multiply_each

OPERATOR = 'igcnet_head_products'
# A head gathers its channels if it keeps no more than this share of them: with a kernel of one
# tap, and with a larger one, where moving a channel costs less beside computing with it.
GATHER_UP_TO, GATHER_WINDOWS_UP_TO = 0.35, 0.5
# And if that saves so many multiply-adds for an image: below, the calls cost more than it gains.
GATHER_FROM = 1.5e6


def gate(saliency: np.ndarray, inactive: int) -> np.ndarray:
    """Saliencies (N, heads, C) with the `inactive` smallest of each head, and ties, set to 0."""
    if not inactive:
        return saliency.copy()
    last_dropped = np.partition(saliency, inactive - 1, axis=-1)[..., inactive - 1:inactive]
    return saliency * (saliency > last_dropped)


class Window(NamedTuple):
    """Kernel, stride, padding and dilation of a convolution, and the map that it runs over."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    height: int
    width: int

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel is a function of the input pixel at its place alone."""
        return self.kernel == self.stride == 1 and not self.padding

    @property
    def output(self) -> Tuple[int, int]:
        """Height and width of the output."""
        reach = self.dilation * (self.kernel - 1) + 1
        return tuple((size + 2 * self.padding - reach) // self.stride + 1
                     for size in (self.height, self.width))

    def columns(self, image: np.ndarray) -> np.ndarray:
        """What the taps of the kernel see: (C, H, W) -> (C, taps, H'*W')."""
        if self.pointwise:
            return image.reshape(len(image), 1, -1)
        framed = np.pad(image, ((0, 0), (self.padding,) * 2, (self.padding,) * 2))
        result = np.empty((len(image), self.kernel ** 2, *self.output), image.dtype)
        for tap, part in enumerate(self._views(framed)):
            result[:, tap] = part
        return result.reshape(len(image), self.kernel ** 2, -1)

    def add_columns(self, columns: np.ndarray, image: np.ndarray) -> None:
        """The reverse of `columns`, added to `image` (C, H, W)."""
        if self.pointwise:
            image += columns.reshape(image.shape)
            return
        padding = self.padding
        framed = np.zeros((len(image), self.height + 2 * padding, self.width + 2 * padding),
                          image.dtype)
        columns = columns.reshape(len(image), self.kernel ** 2, *self.output)
        for tap, part in enumerate(self._views(framed)):
            part += columns[:, tap]
        image += framed[:, padding:padding + self.height, padding:padding + self.width]

    def _views(self, framed: np.ndarray):
        height, width = self.output
        for row in range(0, self.kernel * self.dilation, self.dilation):
            for column in range(0, self.kernel * self.dilation, self.dilation):
                yield framed[:, row:row + self.stride * height:self.stride,
                             column:column + self.stride * width:self.stride]


class HeadProducts:
    """Forward and backward pass of one batch in NumPy.

    Parameters
    ----------
    x : (N, C, H, W)
        Map that all heads see.
    saliency : (N, heads, C)
        Not negative.
    weight : (O, C, k, k)
        Filters, head by head.
    inactive : int
        Channels that each head drops at least, see `gate`.
    window : Window
    """

    def __init__(self, x: np.ndarray, saliency: np.ndarray, weight: np.ndarray, inactive: int,
                 window: Window):
        self.x, self.weight, self.window = x, weight, window
        self.gated = gate(saliency, inactive)
        self.heads, self.channels = saliency.shape[1:]
        self.filters, self.taps = len(weight) // self.heads, window.kernel ** 2
        limit = GATHER_UP_TO if self.taps == 1 else GATHER_WINDOWS_UP_TO
        self.kept = max(1, self.channels - inactive)
        saved = (weight.size - weight.size // self.channels * self.kept) * int(
            np.prod(window.output))
        if self.kept > limit * self.channels or saved < GATHER_FROM:
            self.kept = self.channels
        # (heads, filters, C, taps), and with the gathered axes in front for the other way
        self.filters_first = weight.reshape(self.heads, self.filters, self.channels, self.taps)
        if self.gathers:
            self.channels_first = np.ascontiguousarray(self.filters_first.transpose(0, 2, 3, 1))

    @property
    def gathers(self) -> bool:
        """Whether channels are gathered, instead of weights scaled."""
        return self.kept < self.channels

    def forward(self, out: np.ndarray) -> None:
        """Output (N, O, H', W') with the filters of the heads interleaved."""
        product = np.empty((self.heads, self.filters, int(np.prod(self.window.output))),
                           out.dtype)
        for image, gated, result in zip(self.x, self.gated, out):
            columns = self.window.columns(image)
            if self.gathers:
                chosen = self._choose(gated)
                multiply_each(self._gathered_weight(chosen, gated)[1].transpose(0, 2, 1),
                              self._gather(columns, chosen), product)
            else:
                scaled = self.filters_first * gated[:, None, :, None]
                multiply(scaled.reshape(len(self.weight), -1),
                         columns.reshape(self.channels * self.taps, -1),
                         product.reshape(len(self.weight), -1))
            interleaved = result.reshape(self.filters, self.heads, -1)
            interleaved[...] = product.transpose(1, 0, 2)

    def backward(self, gradient: np.ndarray, x: np.ndarray, saliency: np.ndarray,
                 weight: np.ndarray) -> None:
        """Gradients of the inputs into `x`, `saliency` and `weight`, from `gradient`, that of the
        output."""
        x[...], saliency[...] = 0, 0
        backward = self._backward_gathered if self.gathers else self._backward_scaled
        total = np.zeros_like(self.channels_first if self.gathers else self.filters_first)
        for number, image in enumerate(self.x):
            head_by_head = np.ascontiguousarray(gradient[number].reshape(
                self.filters, self.heads, -1).transpose(1, 0, 2))
            backward(self.window.columns(image), self.gated[number], head_by_head, x[number],
                     saliency[number], total)
        saliency *= self.gated > 0
        weight.reshape(self.filters_first.shape)[...] = (
            total.transpose(0, 3, 1, 2) if self.gathers else total)

    def _backward_scaled(self, columns, gated, gradient, to_x, to_saliency, total):
        rows, outputs = self.channels * self.taps, len(self.weight)
        factors = gated[:, None, :, None]
        gradient = gradient.reshape(outputs, -1)
        scaled = (self.filters_first * factors).reshape(outputs, rows)
        to_columns = np.empty_like(columns)
        multiply(scaled.T, gradient, to_columns.reshape(rows, -1))
        self.window.add_columns(to_columns, to_x)
        of_scaled = scaled.reshape(self.filters_first.shape)  # its memory serves twice
        multiply(gradient, columns.reshape(rows, -1).T, scaled)
        to_saliency += np.einsum('hoct,hoct->hc', of_scaled, self.filters_first)
        of_scaled *= factors
        total += of_scaled

    def _backward_gathered(self, columns, gated, gradient, to_x, to_saliency, total):
        chosen = self._choose(gated)
        weight, scaled = self._gathered_weight(chosen, gated)
        gathered = self._gather(columns, chosen)
        of_scaled = np.empty_like(scaled)
        multiply_each(gathered, gradient.transpose(0, 2, 1), of_scaled)
        np.put_along_axis(to_saliency, chosen, np.einsum('hro,hro->hr', of_scaled, weight).reshape(
            self.heads, self.kept, self.taps).sum(axis=2), axis=1)
        factors = np.take_along_axis(gated, chosen, axis=1)[:, :, None, None]
        of_scaled = of_scaled.reshape(self.heads, self.kept, self.taps, self.filters)
        of_scaled *= factors
        multiply_each(scaled, gradient, gathered)
        to_columns = np.zeros_like(columns) if not self.window.pointwise else \
            to_x.reshape(columns.shape)
        for head, channels in enumerate(chosen):
            total[head][channels] += of_scaled[head]
            to_columns[channels] += gathered[head].reshape(self.kept, self.taps, -1)
        if not self.window.pointwise:
            self.window.add_columns(to_columns, to_x)

    def _choose(self, gated: np.ndarray) -> np.ndarray:
        """Channels that hold all non-zero saliencies, (heads, kept); some may be 0."""
        first = self.channels - self.kept
        return np.sort(gated.argpartition(first, axis=1)[:, first:], axis=1)

    def _gather(self, columns: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(heads, kept*taps, pixels)"""
        return columns.take(chosen, axis=0).reshape(self.heads, self.kept * self.taps, -1)

    def _gathered_weight(self, chosen, gated):
        """Weights of the chosen channels, (heads, kept*taps, filters), bare and scaled."""
        rows = chosen + np.arange(self.heads)[:, None] * self.channels
        bare = self.channels_first.reshape(-1, self.taps, self.filters).take(rows, axis=0)
        scaled = bare * gated.take(rows)[:, :, None, None]
        shape = (self.heads, self.kept * self.taps, self.filters)
        return bare.reshape(shape), scaled.reshape(shape)


class _Operator(mx.operator.CustomOp):
    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def forward(self, is_train, req, in_data, out_data, aux):
        out = Result(out_data[0], req[0])
        self._products(in_data).forward(out.array)
        out.hand_over()

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        results = [Result(*pair) for pair in zip(in_grad, req)]
        *learned, inactive = results
        self._products(in_data).backward(view(out_grad[0]),
                                         *(result.array for result in learned))
        inactive.array[...] = 0
        for result in results:
            result.hand_over()

    def _products(self, in_data):
        x, saliency, weight, inactive = map(view, in_data)
        return HeadProducts(x, saliency, weight, int(inactive[0]), self.window)


@mx.operator.register(OPERATOR)
class _OperatorProperties(mx.operator.CustomOpProp):
    """MXNet hands over all attributes as text."""

    def __init__(self, kernel, stride, padding, dilation):
        super().__init__(need_top_grad=True)
        self._attributes = tuple(map(int, (kernel, stride, padding, dilation)))

    def list_arguments(self) -> Sequence[str]:
        return ['data', 'saliency', 'weight', 'inactive']

    def list_outputs(self) -> Sequence[str]:
        return ['output']

    def _window(self, shape) -> Window:
        return Window(*self._attributes, *shape[2:])

    def infer_shape(self, in_shape):
        data, _, weight, _ = in_shape
        return in_shape, [(data[0], weight[0], *self._window(data).output)], []

    def create_operator(self, ctx, shapes, dtypes):
        return _Operator(self._window(shapes[0]))
