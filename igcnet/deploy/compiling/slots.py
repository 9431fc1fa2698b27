"""Slots for the planes of a draft: as few as are alive at one time."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Tuple

import numpy as np

from igcnet.deploy.compiling.draft import Draft, planes_read, planes_written
from igcnet.deploy.program import (
    NOTHING,
    Convolution,
    Enter,
    Group,
    Largest,
    Mean,
    Program,
    Size,
    Split,
    Step,
)


def place(draft: Draft) -> Program:
    """The program of a draft.

    Views are made right before they are first read, all those of a plane at once. A slot is free
    again behind the last step that reads it; what only one output adds or multiplies is written
    over by that output.
    """
    steps = with_views(draft)
    last: Dict[int, int] = {}
    for number, step in enumerate(steps):
        last.update(dict.fromkeys(_read(step).tolist(), number))
    pools = [_Pool() for _ in draft.extents]
    slot = np.full(len(draft.size_of) + 1, NOTHING, np.int32)  # the last one: of NOTHING
    placed: List[Step] = []
    for number, step in enumerate(steps):
        dying = {plane for plane in _read(step).tolist() if last[plane] == number}
        for plane, over in _written_over(step).items():
            if over in dying:
                slot[plane] = slot[over]
                dying.discard(over)
        for plane in _written(step).tolist():
            if slot[plane] == NOTHING:
                slot[plane] = pools[draft.size_of[plane]].take()
        placed.append(_renumbered(step, slot))
        for plane in sorted(dying, reverse=True):
            pools[draft.size_of[plane]].give_back(int(slot[plane]))
    classes = len(placed[-1].bias)
    return _without_empty_sizes(draft, [pool.count for pool in pools], placed, classes)


def with_views(draft: Draft) -> List[Step]:
    """The steps of a draft and, where they are needed, those that make views."""
    read = [plane for step in draft.steps for plane in planes_read(step).tolist()]
    alike: Dict[Tuple, List[int]] = {}
    for plane in dict.fromkeys(read):
        if plane in draft.views:
            alike.setdefault(_kind(draft, plane), []).append(plane)
    found: List[Step] = []
    made = set()
    for step in draft.steps:
        missing: Dict[Tuple, List[int]] = {}
        for plane in dict.fromkeys(planes_read(step).tolist()):
            if plane in draft.views and plane not in made:
                own = alike[_kind(draft, plane)]
                made.update(own)
                missing.setdefault(_kind(draft, plane)[1:], []).extend(own)
        for (of_image, source, stride, size), planes in missing.items():
            table = np.array([[view.source, view.row, view.column, plane] for plane, view in
                              ((plane, draft.views[plane]) for plane in planes)], np.int32)
            found.append(Enter(size, stride, table) if of_image
                         else Split(source, size, stride, table))
        found.append(step)
    return found


def _kind(draft: Draft, plane: int) -> Tuple:
    """Source of a view, and what the views that one step makes share."""
    view = draft.views[plane]
    return (view.source, view.of_image, NOTHING if view.of_image else draft.size_of[view.source],
            view.stride, draft.size_of[plane])


class _Pool:
    """The slots of one size; the one that was freed last is taken first: it is in the cache."""

    def __init__(self) -> None:
        self.count = 0
        self.free: List[int] = []

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        self.count += 1
        return self.count - 1

    def give_back(self, slot: int) -> None:
        self.free.append(slot)


def _written_over(step: Step) -> Dict[int, int]:
    """By output the plane whose slot it may take: one that nothing else in the step reads."""
    if not isinstance(step, Convolution):
        return {}
    planes, counts = np.unique(planes_read(step), return_counts=True)
    alone = set(planes[counts == 1].tolist())
    found, taken = {}, set()
    for group in step.groups:
        for out, *operands in zip(group.outs.tolist(), group.adds.tolist(),
                                  group.factors.tolist()):
            for plane in operands:
                if plane in alone and plane not in taken and out not in found:
                    found[out] = plane
                    taken.add(plane)
    return found


def _read(step: Step) -> np.ndarray:
    if isinstance(step, Enter):
        return np.zeros(0, np.int32)
    return step.table[:, 0] if isinstance(step, Split) else planes_read(step)


def _written(step: Step) -> np.ndarray:
    return step.table[:, 3] if isinstance(step, (Enter, Split)) else planes_written(step)


def _renumbered(step: Step, slot: np.ndarray) -> Step:
    def first_of(table: np.ndarray) -> np.ndarray:
        table = table.copy()
        table[..., 0] = slot[table[..., 0]]
        return table

    if isinstance(step, (Enter, Split)):
        table = first_of(step.table) if isinstance(step, Split) else step.table.copy()
        table[:, 3] = slot[table[:, 3]]
        return replace(step, table=table)
    if isinstance(step, Convolution):
        return replace(step, groups=[
            Group(first_of(group.sources), group.weight, group.bias, slot[group.outs],
                  slot[group.adds], slot[group.factors]) for group in step.groups])
    if isinstance(step, Largest):
        return replace(step, sources=first_of(step.sources), outs=slot[step.outs])
    return replace(step, slots=slot[step.slots]) if isinstance(step, Mean) else step


def _without_empty_sizes(draft: Draft, slots: List[int], steps: List[Step], classes: int
                         ) -> Program:
    """The program, with the sizes that it has planes of."""
    used = [size for size, count in enumerate(slots) if count]
    number = {size: place for place, size in enumerate(used)}
    steps = [step if not hasattr(step, 'size') else replace(
        step, size=number[step.size],
        **({'source': number[step.source]} if isinstance(step, Split) else {}))
        for step in steps]
    gaps = [0] * len(used)
    for step in steps:
        for sources in ([group.sources for group in step.groups]
                        if isinstance(step, Convolution) else
                        [step.sources] if isinstance(step, Largest) else []):
            gaps[step.size] = max(gaps[step.size], int(np.abs(sources[..., 1:]).max()))
    sizes = [Size(*draft.extents[size], gap, slots[size]) for size, gap in zip(used, gaps)]
    return Program(draft.image_shape, classes, sizes, steps)
