"""What follows a convolution computed with it: BN, activations, sums and products."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from igcnet.deploy.compiling.draft import (
    Draft,
    Written,
    is_each_plane,
    planes_written,
)
from igcnet.deploy.program import CLAMP, NOTHING, Convolution, Group


def fuse(draft: Draft) -> None:
    """Let convolutions do what is done to their outputs alone.

    A step that works on each plane by itself is joined to the convolutions whose outputs it
    alone reads, where one `Convolution` can express both. Of a sum's or product's two operands
    the one that is written later is preferred.
    """
    draft.remove_unread()
    fusion = _Fusion(draft)
    for number, step in enumerate(list(draft.steps)):
        if is_each_plane(step):
            fusion.do(number)
    draft.steps = fusion.finish()


class Own(NamedTuple):
    """What is done to one plane by itself: activation(scale x + shift + add) x factor.

    Parameters
    ----------
    scale, shift : float
    add, factor : int
        Planes, or `NOTHING`.
    out : int
        The plane that is written.
    """

    scale: float
    shift: float
    add: int
    factor: int
    out: int


class _Fusion:

    def __init__(self, draft: Draft):
        self.reads = draft.reads()
        self.steps: List[Optional[Written]] = list(draft.steps)
        # Where a step stands: one that others were joined to stands where the last of them did.
        self.places = list(range(len(self.steps)))
        self.writer: Dict[int, int] = {}
        for number in range(len(self.steps)):
            self._note(number)

    def do(self, number: int) -> None:
        """Join a step to those before it, as far as that is possible."""
        step = self.steps[number]
        left = list(step.groups)
        writers = {self.writer[plane] for group in left for plane in (
            group.sources[0, 0], group.adds[0], group.factors[0]) if plane in self.writer}
        for writer in sorted(writers, key=lambda writer: -self.places[writer]):
            first = self.steps[writer]
            if not isinstance(first, Convolution) or first.size != step.size:
                continue
            outs = set(planes_written(first).tolist())
            owns, others = {}, []
            for group in left:
                plane, own = _seen_from(group, step, outs)
                if own is not None and self.reads[plane] == 1:
                    owns[plane] = own
                else:
                    others.append(group)
            if len(owns) < len(outs):
                continue
            joined = _joined(first, owns, step)
            if joined is not None:
                self.steps.append(joined)
                self.places.append(self.places[number])
                self._note(len(self.steps) - 1)
                self.steps[writer] = None
                left = others
        self.steps[number] = replace(step, groups=left) if left else None

    def finish(self) -> List[Written]:
        """The steps that are left, in order."""
        order = sorted(range(len(self.steps)), key=lambda number: (self.places[number], number))
        return [self.steps[number] for number in order if self.steps[number] is not None]

    def _note(self, number: int) -> None:
        self.writer.update(dict.fromkeys(planes_written(self.steps[number]).tolist(), number))


def _seen_from(group: Group, step: Convolution, planes: set) -> tuple:
    """The one of `planes` that a group of one source works on, and what it does to it; None
    where it works on none of them."""
    plane, add, factor = (int(values) for values in (
        group.sources[0, 0], group.adds[0], group.factors[0]))
    own = Own(float(group.weight[0, 0]), float(group.bias[0]), add, factor, int(group.outs[0]))
    if plane in planes:
        return plane, own
    if add in planes and own.scale == 1:
        return add, own._replace(add=plane)
    if factor in planes and (own.scale, own.shift, add) == (1, 0, NOTHING) and _is_linear(step):
        return factor, own._replace(factor=plane)
    return plane, None


def _joined(first: Convolution, owns: Dict[int, Own], step: Convolution
            ) -> Optional[Convolution]:
    """A convolution and what is done to each of its outputs behind it, if that is one."""
    rows = [[owns[plane] for plane in group.outs.tolist()] for group in first.groups]
    flat = [own for row in rows for own in row]
    adds, factors = (np.concatenate([getattr(group, name) for group in first.groups])
                     for name in ('adds', 'factors'))
    if (factors != NOTHING).any():
        return None
    activation, low, high = step.activation, step.low, step.high
    if _is_linear(first):
        if any(add != NOTHING and (own.scale != 1 or own.add != NOTHING)
               for add, own in zip(adds, flat)):
            return None
    elif any((own.scale, own.shift, own.add) != (1, 0, NOTHING) for own in flat):
        return None
    elif first.activation == step.activation == CLAMP:
        low, high = np.clip([first.low, first.high], low, high).tolist()
    elif _is_linear(step):
        activation, low, high = first.activation, first.low, first.high
    else:
        return None
    return replace(first, groups=[_with(group, row) for group, row in zip(first.groups, rows)],
                   activation=activation, low=low, high=high)


def _with(group: Group, owns: List[Own]) -> Group:
    scale, shift = (np.array([getattr(own, name) for own in owns], np.float64)
                    for name in ('scale', 'shift'))
    adds, factors, outs = (np.array([getattr(own, name) for own in owns], np.int32)
                           for name in ('add', 'factor', 'out'))
    return replace(group, weight=np.float32(group.weight * scale[:, None]),
                   bias=np.float32(group.bias * scale + shift),
                   adds=np.where(adds == NOTHING, group.adds, adds), factors=factors, outs=outs)


def _is_linear(step: Convolution) -> bool:
    return step.activation == CLAMP and np.isneginf(step.low) and np.isposinf(step.high)
