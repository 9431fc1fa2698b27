"""The optimiser of the IGC original."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from igcnet import native

ALL_AT_ONCE = 1 << 16


@mx.optimizer.register
class Nesterov(mx.optimizer.Optimizer):
    """SGD with Nesterov momentum; the learning rate stays outside the momentum buffer.

    With g the gradient times ``rescale_grad`` (clipped to ``clip_gradient`` if given), per
    update::

        g = g + wd * w
        m = momentum * m + g          (m starts at 0)
        w = w - lr * (g + momentum * m)

    This is what MXNet 0.7 and Torch computed. The ``nag`` of MXNet 1.9.1 keeps the rate inside
    its buffer, so the two part after the first drop of the rate. Weight decay reaches every
    parameter, BN and biases included, unless a parameter's ``wd_mult`` says otherwise.

    Source: hellozting/InterleavedGroupConvolutions with the NAG class of hellozting/mxnet.

    On a CPU all parameters are updated by one operator of `igcnet.native` where that is built,
    with the same bits.
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        # More than 0: the updater hands over lists of so many parameters of one type.
        self.aggregate_num = 0 if native.missing() else ALL_AT_ONCE

    def create_state(self, index, weight):
        return mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype)

    def update(self, index, weight, grad, state):
        if isinstance(index, (list, tuple)):
            if all(w.context.device_type == 'cpu' and w.dtype == np.float32 for w in weight):
                return self._update_together(index, weight, grad, state)
            for each in zip(index, weight, grad, state):
                self.update(*each)
            return None
        self._update_count(index)
        lr, wd = self._get_lr(index), self._get_wd(index)
        grad = grad * self.rescale_grad
        if self.clip_gradient is not None:
            grad = mx.nd.clip(grad, -self.clip_gradient, self.clip_gradient)
        grad += wd * weight
        state *= self.momentum
        state += grad
        grad += self.momentum * state
        grad *= lr
        weight -= grad
        return None

    def _update_together(self, indices, weights, gradients, states):
        self._update_count(indices)
        mx.nd.igcnet_nesterov(
            *weights, *states, *gradients, count=len(indices), momentum=repr(self.momentum),
            scale=repr(float(self.rescale_grad)),
            clip='none' if self.clip_gradient is None else repr(float(self.clip_gradient)),
            rates=' '.join(map(repr, map(float, self._get_lrs(indices)))),
            decays=' '.join(map(repr, map(float, self._get_wds(indices)))))
