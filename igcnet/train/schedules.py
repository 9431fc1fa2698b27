"""Learning rates as pure functions of the update number, so that resuming cannot shift them.

``schedule(n)`` is the rate of the n-th update, counted from 1 as MXNet's optimisers count. The
classes hold plain numbers only, so that a schedule can be sent to a parameter server.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import mxnet as mx


class MultiFactor(mx.lr_scheduler.LRScheduler):
    """The rate, `base_lr` at first, is multiplied by `factor` after each of `steps` updates.

    The MXNet originals drop the rate once the number of updates is *greater* than a threshold
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


class EpochFactor(mx.lr_scheduler.LRScheduler):
    """The rate, `base_lr` at first, is multiplied by `factor` at the start of the first epoch at
    or after each of `epochs`, counted from 0, as the PyTorch originals do.

    Current PyTorch steps a scheduler after the epoch, the originals' did before it; run today,
    their code drops one epoch early. This is the rate that they were trained with.
    """

    def __init__(self, base_lr: float, factor: float, epochs: Sequence[float],
                 steps_per_epoch: int):
        super().__init__(base_lr)
        self.factor = factor
        self.epochs = sorted(epochs)
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, num_update):
        epoch = (num_update - 1) // self.steps_per_epoch
        drops = sum(epoch >= start for start in self.epochs)
        return self.base_lr * self.factor ** drops


class Cosine(mx.lr_scheduler.LRScheduler):
    """Half a cosine from `base_lr` at update `delay` down to 0 at update ``delay + period``.

    With T updates in the run:

    - GluonCV: ``period=T - 1, delay=1``; the last update reaches 0.
    - PyTorch, and the DGC original: ``period=T, delay=1``; it stops just above 0.
    - PyTorch 1.0, and the MutualNet original: ``period=T, delay=2``; the counter of that version
      starts one early, so the first rate is used twice.
    """

    def __init__(self, base_lr: float, period: int, delay: int = 1):
        super().__init__(base_lr)
        self.period, self.delay = max(1, period), delay

    def __call__(self, num_update):
        done = min(max(0, num_update - self.delay), self.period)
        return self.base_lr / 2 * (1 + math.cos(math.pi * done / self.period))


class Polynomial(mx.lr_scheduler.LRScheduler):
    """``base_lr * (1 - n / total) ** power`` at update n, MXNet's rule."""

    def __init__(self, base_lr: float, total: int, power: float):
        super().__init__(base_lr)
        self.total, self.power = total, power

    def __call__(self, num_update):
        return self.base_lr * (1 - min(num_update, self.total) / self.total) ** self.power


class Warmup(mx.lr_scheduler.LRScheduler):
    """Linear rise from 0 to the base rate in `updates`, the last of which reaches it.

    `after` is the schedule that follows; it counts from the end of the rise if `restart`, else
    from the run's start, so that its drops stay where they are.
    """

    def __init__(self, updates: int, after: mx.lr_scheduler.LRScheduler, restart: bool):
        super().__init__(after.base_lr)
        self.updates, self.after, self.restart = updates, after, restart

    def __call__(self, num_update):
        if num_update <= self.updates:
            return self.base_lr * (num_update - 1) / (self.updates - 1)
        return self.after(num_update - self.updates if self.restart else num_update)


class Scaled(mx.lr_scheduler.LRScheduler):
    """Another schedule times `factor`."""

    def __init__(self, schedule: mx.lr_scheduler.LRScheduler, factor: float):
        super().__init__(schedule.base_lr * factor)
        self.schedule, self.factor = schedule, factor

    def __call__(self, num_update):
        return self.factor * self.schedule(num_update)


def make_schedule(recipe: Any, num_examples: int,
                  steps_per_epoch: int) -> mx.lr_scheduler.LRScheduler:
    """The schedule of an `igcnet.train.recipes.Recipe`.

    Parameters
    ----------
    num_examples : int
        Training images that an epoch counts as, for 'steps'.
    steps_per_epoch : int
        Updates that an epoch has.
    """
    rate, kind = recipe.rate, recipe.schedule
    total = recipe.num_epochs * steps_per_epoch
    share = recipe.num_epochs if recipe.warmup_epochs < 1 else 1
    warmup = round(recipe.warmup_epochs * share * steps_per_epoch)
    if warmup < 2:  # a rise of one update starts and ends at the base rate
        warmup = 0
    rest = max(1, total - warmup)
    if kind == 'steps':
        epoch_size = max(1, num_examples // recipe.batch_size)
        after = MultiFactor(rate, recipe.lr_factor,
                            [int(epoch_size * epoch) for epoch in recipe.drop_epochs()])
    elif kind == 'steps-torch':
        after = EpochFactor(rate, recipe.lr_factor, recipe.drop_epochs(), steps_per_epoch)
    elif kind == 'poly':
        after = Polynomial(rate, rest, recipe.lr_power)
    else:
        period, delay = {'cosine': (rest - 1, 1), 'cosine-torch': (rest, 1),
                         'cosine-torch-1.0': (rest, 2)}[kind]
        after = Cosine(rate, period, delay)
    restart = not kind.startswith('steps')
    return Warmup(warmup, after, restart) if warmup else after
