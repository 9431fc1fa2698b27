"""Between the method's gradients and the optimiser: accumulation, clipping, the finite check."""

from __future__ import annotations

from typing import List, Sequence

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.train.methods import Method, Outcome, Place

# MXNet 1.9.1's multi_all_finite has room for so many arrays, and writes beyond it without a check.
MOST_ARRAYS = 200


def batch_gradients(method: Method, place: Place, images: np.ndarray, labels: np.ndarray,
                    contexts: Sequence[mx.Context], parameters: Sequence[gluon.Parameter],
                    parts: int) -> Outcome:
    """`Method.gradients` of a batch in `parts`, one after the other, summed in `parameters`.

    Each part is what the devices hold at a time, and normalises by its own BN statistics.
    """
    if parts == 1:
        return method.gradients(place, images, labels, contexts)
    outcomes, sums = [], []
    for part in zip(np.array_split(images, parts), np.array_split(labels, parts)):
        outcomes.append(method.gradients(place, *part, contexts))
        found = [array for p in parameters for array in p.list_grad()]
        if sums:
            for total, array in zip(sums, found):
                total += array
        else:
            sums = [array.copy() for array in found]
    for array, total in zip(found, sums):
        array[:] = total
    return Outcome(place, labels, [output for each in outcomes for output in each.outputs],
                   [loss for each in outcomes for loss in each.losses])


def all_finite(parameters: Sequence[gluon.Parameter],
               contexts: Sequence[mx.Context]) -> List[mx.nd.NDArray]:
    """For each device 1 if every gradient on it is finite, else 0, computed without waiting.

    The loss alone does not tell: MXNet's ReLU turns NaN into 0 on the CPU.
    """
    flags = []
    for context in contexts:
        gradients = [p.grad(context) for p in parameters]
        groups = [gradients[first:first + MOST_ARRAYS]
                  for first in range(0, len(gradients), MOST_ARRAYS)]
        flag, *others = (mx.nd.multi_all_finite(*group, num_arrays=len(group))
                         for group in groups)
        for other in others:
            flag = flag * other
        flags.append(flag)
    return flags


def update(trainer: gluon.Trainer, images: int, clip_norm: float, scale: float = 1.0) -> None:
    """Update the weights by the gradients of a batch of `images`, which are `scale` too large.

    With `clip_norm` the mean gradient of the batch, all parameters together, is first shortened
    to that norm if it is longer.
    """
    if not clip_norm:
        trainer.step(images * scale)
        return
    trainer.allreduce_grads()
    # Every device has the same sums now.
    for gradients in zip(*(p.list_grad() for p in trainer._params)):
        squares = mx.nd.add_n(*(mx.nd.square(gradient).sum() for gradient in gradients))
        shorter = mx.nd.minimum(clip_norm * images * scale / mx.nd.sqrt(squares), 1)
        for gradient in gradients:
            gradient *= shorter
    trainer.update(images * scale)


def leave_out_update(trainer: gluon.Trainer) -> None:
    """Count an update without making it, so that the schedule goes on."""
    rule = trainer._optimizer
    for device in range(len(trainer._contexts)):
        rule._set_current_context(device)
        for index in range(len(trainer._params)):
            rule._update_count(index)
