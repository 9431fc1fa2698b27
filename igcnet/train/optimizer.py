"""The optimiser of the IGC original."""

from __future__ import annotations

import mxnet as mx


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
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def create_state(self, index, weight):
        return mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype)

    def update(self, index, weight, grad, state):
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
