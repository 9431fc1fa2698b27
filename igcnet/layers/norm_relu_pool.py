"""BN, ReLU and the mean of each map in one operator on the CPU, image by image.

MXNet makes three operators of it, each of which reads and writes maps that no cache holds, and
keeps the output of BN for the backward pass. Here an image stays in the cache from the first
operation to the last, and only the operator's own input and output are kept.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import mxnet as mx
import numpy as np

from igcnet.layers.array_views import Result, view

OPERATOR = 'igcnet_norm_relu_pool'


def batch_statistics(x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel of (N, C, pixels)."""
    ones, count = np.ones(x.shape[2], x.dtype), x.shape[0] * x.shape[2]
    mean = sum((image @ ones).astype(np.float64) for image in x) / count
    variance, centred = np.zeros_like(mean), np.empty_like(x[0])
    for image in x:
        np.subtract(image, mean.astype(x.dtype)[:, None], out=centred)
        variance += np.einsum('cp,cp->c', centred, centred)
    return mean.astype(x.dtype), (variance / count).astype(x.dtype)


def forward(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, y: np.ndarray,
            pooled: np.ndarray) -> None:
    """``y = relu(scale * x + shift)``, (N, C, pixels), and its mean over the pixels into `pooled`,
    (N, C)."""
    ones = np.full(x.shape[2], 1 / x.shape[2], x.dtype)
    scale, shift = scale[:, None], shift[:, None]
    for image, result, mean in zip(x, y, pooled):
        np.multiply(image, scale, out=result)
        np.add(result, shift, out=result)
        np.maximum(result, 0, out=result)
        np.dot(result, ones, out=mean)


def backward(x: np.ndarray, y: np.ndarray, gamma: np.ndarray, mean: np.ndarray,
             inverse: np.ndarray, to_y: np.ndarray, to_pooled: np.ndarray, fixed: bool,
             to_x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Gradients of the input, into `to_x`, and of gamma and beta, which are returned.

    Parameters
    ----------
    x, y, to_y : (N, C, pixels)
        Input, output and the gradient of the output.
    gamma, mean, inverse : (C,)
        Scale; the mean, and one over the deviation, by which the input was normalised.
    to_pooled : (N, C)
        Gradient of the mean of the output.
    fixed : bool
        Whether mean and deviation are no functions of the input.
    """
    ones, count = np.ones(x.shape[2], x.dtype), x.shape[0] * x.shape[2]
    scratch, centre = np.empty_like(x[0]), mean[:, None]
    to_beta, product = np.zeros((2, len(mean)))
    for image, output, given, from_pooled, result in zip(x, y, to_y, to_pooled, to_x):
        np.add(given, from_pooled[:, None] / x.shape[2], out=result)
        np.multiply(result, output > 0, out=result)
        to_beta += result @ ones
        np.subtract(image, centre, out=scratch)
        product += np.einsum('cp,cp->c', result, scratch)
    scale = gamma * inverse
    slope = np.zeros_like(product) if fixed else -scale * inverse ** 2 * product / count
    offset = -slope * mean - (0 if fixed else scale * to_beta / count)
    scale, slope, offset = (vector.astype(x.dtype)[:, None] for vector in (scale, slope, offset))
    for image, result in zip(x, to_x):
        np.multiply(result, scale, out=result)
        if not fixed:
            np.multiply(image, slope, out=scratch)
            np.add(scratch, offset, out=scratch)
            np.add(result, scratch, out=result)
    return product * inverse, to_beta


class _Operator(mx.operator.CustomOp):
    """The running statistics are inputs that the backward pass writes to, as MXNet's BN does.

    MXNet 1.9.1 fails to differentiate an operator in Python that declares auxiliary states. So
    its engine does not know of the writing: the statistics are complete when the gradients are,
    and all that comes after an update of the weights finds them so.
    """

    def __init__(self, epsilon: float, momentum: float, fixed: bool):
        super().__init__()
        self.epsilon, self.momentum, self.fixed = epsilon, momentum, fixed
        self.uses_batch = False

    def forward(self, is_train, req, in_data, out_data, aux):
        x, gamma, beta, mean, variance = map(view, in_data)
        x = x.reshape(*x.shape[:2], -1)
        self.uses_batch = is_train and not self.fixed
        if self.uses_batch:
            mean, variance = batch_statistics(x)
        results = [Result(*pair) for pair in zip(out_data, req)]
        y, pooled, kept_mean, kept_variance = (result.array for result in results)
        scale = gamma * self._inverse(variance)
        forward(x, scale, beta - mean * scale, y.reshape(x.shape), pooled)
        kept_mean[...], kept_variance[...] = mean, variance
        for result in results:
            result.hand_over()

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        x, gamma, _, *running = map(view, in_data)
        y, _, *used = map(view, out_data)
        results = [Result(*pair) for pair in zip(in_grad, req)]
        to_x, to_gamma, to_beta, *to_running = (result.array for result in results)
        flat = (*x.shape[:2], -1)
        mean, variance = used
        to_gamma[...], to_beta[...] = backward(
            x.reshape(flat), y.reshape(flat), gamma, mean, self._inverse(variance),
            view(out_grad[0]).reshape(flat), view(out_grad[1]), not self.uses_batch,
            to_x.reshape(flat))
        for gradient in to_running:
            gradient[...] = 0
        for result in results:
            result.hand_over()
        if self.uses_batch:
            for old, new in zip(running, used):
                old *= self.momentum
                old += (1 - self.momentum) * new

    def _inverse(self, variance: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt(variance + variance.dtype.type(self.epsilon))


@mx.operator.register(OPERATOR)
class _OperatorProperties(mx.operator.CustomOpProp):
    """MXNet hands over all attributes as text."""

    def __init__(self, epsilon, momentum, fixed):
        super().__init__(need_top_grad=True)
        self._attributes = float(epsilon), float(momentum), fixed == 'True'

    def list_arguments(self) -> Sequence[str]:
        return ['data', 'gamma', 'beta', 'running_mean', 'running_var']

    def list_outputs(self) -> Sequence[str]:
        return ['output', 'pooled', 'mean', 'variance']

    def infer_shape(self, in_shape):
        data = in_shape[0]
        channels = [data[1]]
        return [data, *[channels] * 4], [data, data[:2], channels, channels], []

    def create_operator(self, ctx, shapes, dtypes):
        return _Operator(*self._attributes)
