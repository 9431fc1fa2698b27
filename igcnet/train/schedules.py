"""Learning rates as pure functions of the update number, so that resuming cannot shift them.

``schedule(n)`` is the rate of the n-th update, counted from 1 as MXNet's optimisers count.
"""

from __future__ import annotations

import math
from typing import List, Sequence

import mxnet as mx

from igcnet._gluoncv import import_gluoncv


class MultiFactor(mx.lr_scheduler.LRScheduler):
    """The rate is multiplied by `factor` after each of `steps` updates.

    The original drops the rate once the number of updates is *greater* than a threshold
    ``epoch_size * epoch`` with ``epoch_size = num_examples // batch_size``, although an epoch has
    one batch more when the batch size does not divide: drops come slightly early.
    """

    def __init__(self, base_lr: float, factor: float, steps: Sequence[int]):
        super().__init__(base_lr)
        self.factor = factor
        self.steps = sorted(steps)

    def __call__(self, num_update):
        drops = sum(num_update > step for step in self.steps)
        return self.base_lr * self.factor ** drops


class WarmupCosine(mx.lr_scheduler.LRScheduler):
    """Linear rise from 0 to `base_lr` in `warmup` updates, then a half cosine down to 0.

    Made of GluonCV's ``LRScheduler``: the last update of a stage reaches the stage's target.
    """

    def __init__(self, base_lr: float, warmup: int, total: int):
        super().__init__(base_lr)
        utils = import_gluoncv('gluoncv.utils')
        # A stage of one update would divide by zero there; it would change nothing here.
        warmup = warmup if warmup >= 2 else 0
        stages: List = []
        if warmup:
            stages.append(utils.LRScheduler('linear', 0, base_lr, niters=warmup))
        stages.append(utils.LRScheduler('cosine', base_lr, 0, niters=max(2, total - warmup)))
        self._sequence = utils.LRSequential(stages)

    def __call__(self, num_update):
        return self._sequence(num_update - 1)


class MutualNetCosine(mx.lr_scheduler.LRScheduler):
    """Half a cosine from `base_lr` towards 0 over `total` updates, as taoyang1122/MutualNet.

    It is ``base_lr / 2 * (1 + cos(pi * j / total))`` with j = 0 for the first *two* updates and
    j = n - 2 for the n-th: PyTorch 1.0's scheduler counts from -1. So the last rate is a little
    above 0.
    """

    def __init__(self, base_lr: float, total: int):
        super().__init__(base_lr)
        self.total = total

    def __call__(self, num_update):
        done = min(max(0, num_update - 2), self.total)
        return self.base_lr / 2 * (1 + math.cos(math.pi * done / self.total))


class Scaled(mx.lr_scheduler.LRScheduler):
    """Another schedule times `factor`."""

    def __init__(self, schedule: mx.lr_scheduler.LRScheduler, factor: float):
        super().__init__(schedule.base_lr * factor)
        self.schedule, self.factor = schedule, factor

    def __call__(self, num_update):
        return self.factor * self.schedule(num_update)
