"""Windows that slide over planes, as of convolutions and pooling, as planes and offsets."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from igcnet.deploy.compiling.draft import Draft, Each, NoForm
from igcnet.deploy.program import NOTHING


class Axis(NamedTuple):
    """A window along one axis.

    Parameters
    ----------
    kernel, stride, dilate, pad : int
        Of the operator.
    inputs, outputs : int
        Pixels before and behind.
    """

    kernel: int
    stride: int
    dilate: int
    pad: int
    inputs: int
    outputs: int

    def taps(self) -> List[int]:
        """Where each pixel of the window lies, of the first output."""
        return [number * self.dilate - self.pad for number in range(self.kernel)]

    def meets(self, tap: int) -> bool:
        """Whether a tap lies on the map for any output."""
        first = tap if tap >= 0 else tap % self.stride
        return first < self.inputs and first <= tap + self.stride * (self.outputs - 1)

    def stays_inside(self) -> bool:
        """Whether the whole window lies on the map for every output."""
        taps = self.taps()
        return taps[0] >= 0 and taps[-1] + self.stride * (self.outputs - 1) < self.inputs

    def always_meets(self) -> bool:
        """Whether the window lies on the map at least in part for every output."""
        taps = self.taps()
        return taps[-1] >= 0 and taps[0] + self.stride * (self.outputs - 1) < self.inputs

    def phase(self, tap: int) -> Tuple[int, int]:
        """First pixel of a view with the operator's stride, and the offset in it.

        Beyond the view's end, where it is as long as the output, must not be more of the map.
        """
        first, offset = tap % self.stride, tap // self.stride
        if offset > 0 and first + self.stride * self.outputs < self.inputs:
            return tap, 0
        return first, offset


def window_sources(draft: Draft, planes: np.ndarray, size: int, rows: Axis, columns: Axis
                   ) -> Tuple[np.ndarray, np.ndarray]:
    """What every output pixel of a window reads of each plane.

    Parameters
    ----------
    planes : numpy.ndarray
        The map.
    size : int
        Number of the size behind the window.
    rows, columns : Axis
        The window.

    Returns
    -------
    sources : numpy.ndarray
        int32 (planes, taps, 3): plane, rows down, columns to the right; planes of `size`.
    kept : numpy.ndarray
        bool (kh, kw): the taps that lie on the map at all.
    """
    kept = np.array([[rows.meets(down) and columns.meets(right) for right in columns.taps()]
                     for down in rows.taps()])
    taps = [(down, right) for down in rows.taps() for right in columns.taps()
            if rows.meets(down) and columns.meets(right)]
    if not taps:
        raise NoForm('its window lies beside the map')
    inputs, outputs = (rows.inputs, columns.inputs), (rows.outputs, columns.outputs)
    plain = inputs == outputs and (rows.stride == columns.stride == 1 or inputs == (1, 1))
    if inputs == outputs and not plain:
        raise NoForm('it has strides, but its map is as large behind it as before')
    sources = np.empty((len(planes), len(taps), 3), np.int32)
    for place, plane in enumerate(planes):
        for number, (down, right) in enumerate(taps):
            if plain:
                sources[place, number] = plane, down, right
                continue
            (row, y), (column, x) = rows.phase(down), columns.phase(right)
            sources[place, number] = view_of(draft, int(plane), rows.stride, row, column,
                                             size), y, x
    return sources, kept


def view_of(draft: Draft, plane: int, stride: int, row: int, column: int, size: int) -> int:
    """A view of a plane, which is copied first where it is a view itself and ends too early.

    Parameters
    ----------
    plane, stride, row, column, size : int
        As of `Draft.view`.
    """
    found = draft.view(plane, stride, row, column, size)
    if found is None:
        own = draft.size_of[plane]
        copy, nothing = draft.new_planes(1, own, [draft.nonnegative[plane]]), np.array([NOTHING])
        draft.steps.append(Each(own, np.array([plane]), np.ones(1), np.zeros(1), nothing, nothing,
                                copy))
        found = draft.view(int(copy[0]), stride, row, column, size)
    return found


def window_axes(attributes: dict, inputs: Tuple[int, int], outputs: Tuple[int, int]
                ) -> Optional[Tuple[Axis, Axis]]:
    """The two axes of a convolution's or pooling's window; None if the strides differ.

    Parameters
    ----------
    attributes : dict
        Of the operator, with defaults filled in.
    inputs, outputs : tuple of int
        Height and width before and behind it.
    """
    if len(set(attributes['stride'])) > 1:
        return None
    return tuple(Axis(*numbers) for numbers in zip(
        attributes['kernel'], attributes['stride'], attributes.get('dilate', (1, 1)),
        attributes['pad'], inputs, outputs))
