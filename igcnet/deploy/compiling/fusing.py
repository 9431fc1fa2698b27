"""What follows a convolution computed with it: BN, activations, sums and products."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional

import numpy as np

from igcnet.deploy.compiling.draft import Draft, Each, Written, as_convolution, planes_written
from igcnet.deploy.program import CLAMP, NOTHING, Convolution, Group


def fuse(draft: Draft) -> None:
    """Let convolutions do what is done to their outputs alone; no `Each` is left.

    What is done to each plane by itself is joined to the convolutions whose outputs it alone
    reads, where one `Convolution` can express both. Of a sum's or product's two operands the one
    that is written later is preferred.
    """
    draft.remove_unread()
    fusion = _Fusion(draft)
    for number, step in enumerate(list(draft.steps)):
        if isinstance(step, Each):
            fusion.do(number)
    draft.steps = fusion.finish()


class _Fusion:

    def __init__(self, draft: Draft):
        self.reads = np.zeros(len(draft.size_of) + 1, int)
        for plane, times in draft.reads().items():
            self.reads[plane] = times
        self.steps: List[Optional[Written]] = list(draft.steps)
        # Where a step stands: one that others were joined to stands where the last of them did.
        self.places = list(range(len(self.steps)))
        # By plane the step that writes it; the last one: of `NOTHING`, and of views.
        self.writer = np.full(len(draft.size_of) + 1, NOTHING)
        for number in range(len(self.steps)):
            self._note(number)

    def do(self, number: int) -> None:
        """Join a step to those before it, as far as that is possible."""
        step: Each = self.steps[number]
        writers = set(self.writer[np.concatenate([step.sources, step.adds, step.factors])].tolist())
        for writer in sorted(writers - {NOTHING}, key=lambda writer: -self.places[writer]):
            first = self.steps[writer]
            if not isinstance(first, (Convolution, Each)) or first.size != step.size:
                continue
            if isinstance(first, Each):
                first = as_convolution(first)
            seen = _seen_from(step, lambda planes, own=writer: self.writer[planes] == own)
            own = (self.writer[seen.sources] == writer) & (self.reads[seen.sources] == 1)
            outs = planes_written(first)
            if own.sum() < len(outs):
                continue
            joined = _joined(first, outs, seen.only(own))
            if joined is None:
                continue
            self.steps.append(joined)
            self.places.append(self.places[number])
            self._note(len(self.steps) - 1)
            self.steps[writer] = None
            step = step.only(~own)
        self.steps[number] = step if len(step.outs) else None

    def finish(self) -> List[Written]:
        """The steps that are left, in order."""
        order = sorted(range(len(self.steps)), key=lambda number: (self.places[number], number))
        left = [self.steps[number] for number in order if self.steps[number] is not None]
        return [as_convolution(step) if isinstance(step, Each) else step for step in left]

    def _note(self, number: int) -> None:
        self.writer[planes_written(self.steps[number])] = number


def _seen_from(step: Each, is_own) -> Each:
    """The same with operands exchanged, where that makes one of a convolution's own planes the
    source."""
    sources, adds, factors = step.sources.copy(), step.adds.copy(), step.factors.copy()
    plain = ~is_own(sources) & (step.scale == 1)
    swapped = plain & (adds != NOTHING) & is_own(adds)
    sources[swapped], adds[swapped] = step.adds[swapped], step.sources[swapped]
    if _is_linear(step):
        swapped = plain & (step.shift == 0) & (step.adds == NOTHING) & (
            factors != NOTHING) & is_own(factors)
        sources[swapped], factors[swapped] = step.factors[swapped], step.sources[swapped]
    return replace(step, sources=sources, adds=adds, factors=factors)


def _joined(first: Convolution, outs: np.ndarray, step: Each) -> Optional[Convolution]:
    """A convolution that writes `outs` and what is done to them, if that is one convolution."""
    place = {plane: number for number, plane in enumerate(step.sources.tolist())}
    step = step.only(np.array([place[plane] for plane in outs.tolist()]))
    adds, factors = (np.concatenate([getattr(group, name) for group in first.groups])
                     for name in ('adds', 'factors'))
    if (factors != NOTHING).any():
        return None
    activation, low, high = step.activation, step.low, step.high
    if _is_linear(first):
        if ((adds != NOTHING) & ((step.scale != 1) | (step.adds != NOTHING))).any():
            return None
    elif (step.scale != 1).any() or step.shift.any() or (step.adds != NOTHING).any():
        return None
    elif first.activation == step.activation == CLAMP:
        low, high = np.clip([first.low, first.high], low, high).tolist()
    elif _is_linear(step):
        activation, low, high = first.activation, first.low, first.high
    else:
        return None
    adds = np.where(step.adds == NOTHING, adds, step.adds)
    groups, begin = [], 0
    for group in first.groups:
        rows = slice(begin, begin + len(group.outs))
        begin = rows.stop
        scale = step.scale[rows]
        groups.append(Group(
            group.sources, np.float32(group.weight * scale[:, None]),
            np.float32(group.bias * scale + step.shift[rows]), step.outs[rows], adds[rows],
            step.factors[rows]))
    return Convolution(first.size, groups, activation, low, high)


def _is_linear(step: Written) -> bool:
    return step.activation == CLAMP and np.isneginf(step.low) and np.isposinf(step.high)
