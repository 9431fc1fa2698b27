"""The originals' optimisers, written out.

MXNet's own rules of the same names are others: the ``nag`` of MXNet 1.9.1 keeps the rate inside
its buffer, its ``rmsprop`` has no momentum and puts epsilon inside the root.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple, Type

import mxnet as mx
import numpy as np

from igcnet import native
from igcnet.errors import UsageError
from igcnet.train.recipe_values import check_settings
from igcnet.train.recipes import Recipe


class Rule(mx.optimizer.Optimizer):
    """Base class: the gradient times ``rescale_grad``, clipped to ``clip_gradient`` if given, plus
    ``wd * weight``, goes into the rule's `step`.

    Weight decay reaches every parameter, BN and biases included, unless a parameter's ``wd_mult``
    says otherwise.

    Attributes
    ----------
    SETTINGS : dict
        Name and default of everything that a recipe's ``optimizer_settings`` can say.
    MOMENTUM : bool
        Whether the rule has a momentum.
    """

    SETTINGS: Dict[str, Any] = {}
    MOMENTUM = True

    def states(self) -> int:
        """How many arrays of the weight's shape the rule keeps; all start at 0."""
        return 1

    def create_state(self, index, weight):
        arrays = tuple(mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype)
                       for _ in range(self.states()))
        return arrays if len(arrays) > 1 else arrays[0]

    def update(self, index, weight, grad, state):
        self._update_count(index)
        lr, wd = self._get_lr(index), self._get_wd(index)
        grad = grad * self.rescale_grad
        if self.clip_gradient is not None:
            grad = mx.nd.clip(grad, -self.clip_gradient, self.clip_gradient)
        grad += wd * weight
        self.step(weight, grad, state, lr, self._index_update_count[index])

    def step(self, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: Any, lr: float,
             count: int) -> None:
        """Change `weight` and `state` in place; `grad` may be overwritten.

        `count` is the number of this update, from 1, and `lr` its rate.
        """
        raise NotImplementedError


class _Momentum(Rule):
    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum


@mx.optimizer.register
class Nesterov(_Momentum):
    """SGD with Nesterov momentum; the learning rate stays outside the momentum buffer::

        m = momentum * m + g          (m starts at 0)
        w = w - lr * (g + momentum * m)

    This is what MXNet 0.7 computed, and what PyTorch's SGD with ``nesterov=True`` computes. It
    parts from the ``nag`` of MXNet 1.9.1 after the first drop of the rate.

    Sources: hellozting/InterleavedGroupConvolutions with the NAG class of hellozting/mxnet;
    clavichord93/MENet; taoyang1122/MutualNet; the DGC code.

    On a CPU all parameters are updated by one operator of `igcnet.native` where that is built,
    with the same bits.
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(momentum, **kwargs)
        # More than 0: the updater hands over lists of up to so many parameters of one type.
        self.aggregate_num = 0 if native.missing() else 1 << 16

    def update(self, index, weight, grad, state):
        if not isinstance(index, (list, tuple)):
            super().update(index, weight, grad, state)
        elif all(w.context.device_type == 'cpu' and w.dtype == np.float32 for w in weight):
            self._update_together(index, weight, grad, state)
        else:
            for each in zip(index, weight, grad, state):
                super().update(*each)

    def _update_together(self, indices, weights, gradients, states):
        self._update_count(indices)
        changed = mx.nd.igcnet_nesterov(
            *weights, *states, *gradients, count=len(indices), momentum=repr(self.momentum),
            scale=repr(float(self.rescale_grad)),
            clip='none' if self.clip_gradient is None else repr(float(self.clip_gradient)),
            rates=' '.join(map(repr, map(float, self._get_lrs(indices)))),
            decays=' '.join(map(repr, map(float, self._get_wds(indices)))))
        for new, weight in zip(changed if len(weights) > 1 else [changed], weights):
            new.copyto(weight)

    def step(self, weight, grad, state, lr, count):
        state *= self.momentum
        state += grad
        grad += self.momentum * state
        grad *= lr
        weight -= grad


@mx.optimizer.register
class TorchSGD(_Momentum):
    """PyTorch's SGD without Nesterov; the learning rate stays outside the momentum buffer::

        m = momentum * m + g
        w = w - lr * m

    Sources: xxradon/IGCV3-pytorch; clavichord93/MENet (its ``no-nesterov`` files).
    """

    def step(self, weight, grad, state, lr, count):
        state *= self.momentum
        state += grad
        weight -= lr * state


@mx.optimizer.register
class MXNetSGD(_Momentum):
    """MXNet's ``sgd``, whose momentum buffer holds steps, not gradients::

        m = momentum * m - lr * g
        w = w + m

    After a drop of the rate the old steps keep their size. Source: homles11/IGCV3.
    """

    def step(self, weight, grad, state, lr, count):
        state *= self.momentum
        state -= lr * grad
        weight += state


@mx.optimizer.register
class TorchRMSprop(_Momentum):
    """PyTorch's RMSprop::

        s = alpha * s + (1 - alpha) * g^2
        m = momentum * m + g / (sqrt(s) + epsilon)
        w = w - lr * m

    With `centered` the root is of s - a^2, where a is the running mean of g. Sources:
    clavichord93/MENet (alpha 0.9, epsilon 1); xxradon/IGCV3-pytorch (PyTorch's defaults).
    """

    SETTINGS = {'alpha': 0.99, 'epsilon': 1e-8, 'centered': False}

    def __init__(self, alpha: float = 0.99, epsilon: float = 1e-8, centered: bool = False,
                 **kwargs):
        super().__init__(**kwargs)
        self.alpha, self.epsilon, self.centered = alpha, epsilon, centered

    def states(self):
        return 3 if self.centered else 2

    def step(self, weight, grad, state, lr, count):
        square, moment = state[:2]
        square *= self.alpha
        square += (1 - self.alpha) * grad * grad
        variance = square
        if self.centered:
            mean = state[2]
            mean *= self.alpha
            mean += (1 - self.alpha) * grad
            variance = square - mean * mean
        moment *= self.momentum
        moment += grad / (mx.nd.sqrt(variance) + self.epsilon)
        weight -= lr * moment


@mx.optimizer.register
class TorchAdam(Rule):
    """Adam as PyTorch computed it in 2018: epsilon is added before the bias correction::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        w = w - lr * sqrt(1 - beta2^n) / (1 - beta1^n) * m / (sqrt(v) + epsilon)

    n counts the updates. Source: clavichord93/MENet accepts it.
    """

    SETTINGS = {'beta1': 0.9, 'beta2': 0.999, 'epsilon': 1e-8}
    MOMENTUM = False

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, **kwargs):
        super().__init__(**kwargs)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def states(self):
        return 2

    def step(self, weight, grad, state, lr, count):
        mean, square = state
        mean *= self.beta1
        mean += (1 - self.beta1) * grad
        square *= self.beta2
        square += (1 - self.beta2) * grad * grad
        lr *= math.sqrt(1 - self.beta2 ** count) / (1 - self.beta1 ** count)
        weight -= lr * mean / (mx.nd.sqrt(square) + self.epsilon)


@mx.optimizer.register
class TorchAdadelta(Rule):
    """PyTorch's Adadelta::

        s = rho * s + (1 - rho) * g^2
        d = sqrt(a + epsilon) / sqrt(s + epsilon) * g
        a = rho * a + (1 - rho) * d^2
        w = w - lr * d

    Source: clavichord93/MENet accepts it.
    """

    SETTINGS = {'rho': 0.9, 'epsilon': 1e-6}
    MOMENTUM = False

    def __init__(self, rho: float = 0.9, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.rho, self.epsilon = rho, epsilon

    def states(self):
        return 2

    def step(self, weight, grad, state, lr, count):
        square, steps = state
        square *= self.rho
        square += (1 - self.rho) * grad * grad
        step = mx.nd.sqrt(steps + self.epsilon) / mx.nd.sqrt(square + self.epsilon) * grad
        steps *= self.rho
        steps += (1 - self.rho) * step * step
        weight -= lr * step


RULES: Dict[str, Type[Rule]] = {
    'nesterov': Nesterov, 'sgd': TorchSGD, 'sgd-mxnet': MXNetSGD, 'rmsprop': TorchRMSprop,
    'adam': TorchAdam, 'adadelta': TorchAdadelta}


def find_rule(recipe: Recipe) -> Tuple[Type[Rule], Dict[str, Any]]:
    """The class of a recipe's optimiser, and its settings with their defaults.

    Raises
    ------
    UsageError
        Unknown optimiser or setting, or a value of another type than the default's.
    """
    if recipe.optimizer not in RULES:
        raise UsageError('optimizer=%s: must be one of %s' % (recipe.optimizer, ', '.join(RULES)))
    rule = RULES[recipe.optimizer]
    settings = check_settings('optimizer_settings', 'optimizer ' + recipe.optimizer, rule.SETTINGS,
                              recipe.optimizer_settings)
    return rule, settings


def make_optimizer(recipe: Recipe, schedule: mx.lr_scheduler.LRScheduler) -> Rule:
    """The optimiser of a recipe, for a ``gluon.Trainer``."""
    rule, settings = find_rule(recipe)
    if rule.MOMENTUM:
        settings['momentum'] = recipe.momentum
    return rule(learning_rate=recipe.rate, wd=recipe.wd, lr_scheduler=schedule,
                clip_gradient=recipe.clip_value or None, **settings)
