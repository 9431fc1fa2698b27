"""Convolutions that only strides read, computed phase by phase.

A stride splits what it reads into phases: as many pixels again, all of which are moved. Where a
wide map is made of a narrow one, as by the expanding 1x1 convolution of IGCV3, the narrow one can
be split in its place, and the same convolution computes each phase of the wide one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from igcnet.deploy.compiling.draft import Draft, outputs_of, planes_read, planes_written
from igcnet.deploy.program import NOTHING, Convolution, Group

Phase = Tuple[int, int]


def move_phases_up(draft: Draft) -> None:
    """Split the inputs of convolutions in place of their outputs where that moves fewer planes.

    Done only where the phases fill the map exactly: pixels beyond its end would have to be 0.
    """
    reading = _Reading(draft)
    for number in range(len(draft.steps) - 1, -1, -1):
        step = draft.steps[number]
        strided = isinstance(step, Convolution) and reading.strided(step)
        moved = strided and _moved(draft, reading, step, strided)
        if moved:
            draft.steps[number] = moved
            for plane in planes_written(moved).tolist():
                draft.views.pop(plane)
            reading = _Reading(draft)


class Strided(NamedTuple):
    """How a step's outputs are read, if only by views that fill the map together.

    Parameters
    ----------
    stride, size : int
        Of all views.
    wanted : dict
        By plane written: the view of each phase (row, column) that is read.
    """

    stride: int
    size: int
    wanted: Dict[int, Dict[Phase, int]]


class _Reading:
    """Which planes steps read, and the views of each plane among them."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.read: Set[int] = set()
        for step in draft.steps:
            self.read.update(planes_read(step).tolist())
        self.views: Dict[int, List[int]] = {}
        for plane in sorted(self.read & set(draft.views)):
            if not draft.views[plane].of_image:
                self.views.setdefault(draft.views[plane].source, []).append(plane)

    def alone(self, step: Convolution) -> bool:
        """Whether no other step reads what a step reads."""
        own = set(planes_read(step).tolist())
        return not any(own & set(planes_read(other).tolist())
                       for other in self.draft.steps if other is not step)

    def strided(self, step: Convolution) -> Optional[Strided]:
        """How the outputs of a step are read; None where not by a stride alone."""
        draft, kinds, wanted = self.draft, set(), {}
        for plane in planes_written(step).tolist():
            if plane in self.read or plane not in self.views:
                return None
            views = {view: draft.views[view] for view in self.views[plane]}
            kinds.update((view.stride, draft.size_of[number]) for number, view in views.items())
            wanted[plane] = {(view.row, view.column): number for number, view in views.items()}
        (stride, size), *others = kinds
        fills = draft.extents[step.size] == tuple(
            stride * extent for extent in draft.extents[size])
        if others or stride == 1 or not fills or any(
                max(phase) >= stride for phases in wanted.values() for phase in phases):
            return None
        return Strided(stride, size, wanted)


def _moved(draft: Draft, reading: _Reading, step: Convolution, strided: Strided
           ) -> Optional[Convolution]:
    """The convolution that writes the views of a step's outputs itself, if that is better."""
    groups: List[Group] = []
    for group in step.groups:
        wanted = [strided.wanted[plane] for plane in group.outs.tolist()]
        for phase in sorted(set().union(*wanted)):
            part = outputs_of(group, np.array([phase in phases for phases in wanted]))
            outs = [phases[phase] for phases in wanted if phase in phases]
            part = _phase_of(draft, part, phase, strided, np.array(outs, np.int32))
            if part is None:
                return None
            groups.append(part)
    moved = replace(step, size=strided.size, groups=groups)
    new = set(planes_read(moved).tolist()) - reading.read
    # What only this step reads of the image is entered in any case, in one size or the other.
    if all(draft.views[plane].of_image for plane in new) and reading.alone(step):
        new = set()
    return moved if len(new) < len(planes_written(moved)) else None


def _phase_of(draft: Draft, group: Group, phase: Phase, strided: Strided, outs: np.ndarray
              ) -> Optional[Group]:
    """One phase of a group's outputs; None where a source cannot be split."""
    def split(plane: int, down: int, right: int) -> Optional[List[int]]:
        (y, row), (x, column) = (divmod(first + offset, strided.stride)
                                 for first, offset in zip(phase, (down, right)))
        view = draft.view(plane, strided.stride, row, column, strided.size)
        return None if view is None else [view, y, x]

    sources = [split(*source) for source in group.sources.tolist()]
    adds, factors = ([[NOTHING] if plane == NOTHING else split(plane, 0, 0)
                      for plane in planes.tolist()] for planes in (group.adds, group.factors))
    if None in sources + adds + factors:
        return None
    return Group(np.array(sources, np.int32), group.weight, group.bias, outs,
                 *(np.array([plane[0] for plane in planes], np.int32)
                   for planes in (adds, factors)))
