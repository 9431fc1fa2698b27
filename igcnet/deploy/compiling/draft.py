"""A program before its planes have slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Union

import numpy as np

from igcnet.deploy.program import (
    CLAMP,
    NOTHING,
    Convolution,
    Dense,
    Group,
    Largest,
    Mean,
)


class NoForm(Exception):
    """Why a node of a graph cannot be computed over planes."""


class View(NamedTuple):
    """Pixels of another plane, or of a channel of the image: pixel (y, x) is its pixel
    (row + stride y, column + stride x), 0 beyond its end.

    Parameters
    ----------
    source : int
        A plane that is no view, or `channel` of the image where that is no plane.
    of_image : bool
    stride, row, column : int
    """

    source: int
    of_image: bool
    stride: int
    row: int
    column: int


@dataclass(frozen=True)
class Each:
    """What is done to each plane by itself: out = activation(scale x + shift + add) x factor.

    Parameters
    ----------
    size : int
        Of all planes.
    sources, adds, factors, outs : numpy.ndarray
        int32 (n,): planes; of `adds` and `factors` may be `NOTHING`.
    scale, shift : numpy.ndarray
        (n,)
    activation, low, high
        As of `Convolution`.
    """

    size: int
    sources: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    adds: np.ndarray
    factors: np.ndarray
    outs: np.ndarray
    activation: str = CLAMP
    low: float = -np.inf
    high: float = np.inf

    def only(self, kept: np.ndarray) -> Each:
        """Some of the planes, by number or mask."""
        return replace(self, **{name: getattr(self, name)[kept] for name in (
            'sources', 'scale', 'shift', 'adds', 'factors', 'outs')})


Written = Union[Convolution, Each, Largest, Mean, Dense]


class Draft:
    """Steps over planes that are numbered without end, each of them written by one step.

    Views are written by no step: they are made of their sources when they are first read. No
    view is a source of another one.

    Attributes
    ----------
    image_shape : tuple of int
        (channels, height, width).
    extents : list of (int, int)
        Height and width of each size.
    size_of : list of int
        Number of the size of each plane.
    nonnegative : list of bool
        Of each plane whether no pixel can be below 0.
    views : dict
        By plane.
    steps : list
        Everything but `Enter` and `Split`.
    """

    def __init__(self, image_shape: Tuple[int, int, int]):
        self.image_shape = image_shape
        self.extents: List[Tuple[int, int]] = []
        self.size_of: List[int] = []
        self.nonnegative: List[bool] = []
        self.views: Dict[int, View] = {}
        self.steps: List[Written] = []
        self._known: Dict[Tuple[View, int], int] = {}

    def size(self, height: int, width: int) -> int:
        """Number of a size."""
        if (height, width) not in self.extents:
            self.extents.append((height, width))
        return self.extents.index((height, width))

    def new_planes(self, count: int, size: int, nonnegative: Iterable[bool] = ()) -> np.ndarray:
        """Numbers of `count` planes of a size that did not exist before.

        Parameters
        ----------
        count : int
        size : int
            Number of their size.
        nonnegative : iterable of bool
            Of each whether no pixel can be below 0; by default of none.
        """
        first = len(self.size_of)
        self.size_of += [size] * count
        self.nonnegative += list(nonnegative) or [False] * count
        return np.arange(first, first + count, dtype=np.int32)

    def image_view(self, channel: int, stride: int, row: int, column: int, size: int) -> int:
        """The plane of these pixels of the image.

        Parameters
        ----------
        channel, stride, row, column : int
            As of `View`.
        size : int
            Number of the view's size.
        """
        return self._view(View(channel, True, stride, row, column), size, False)

    def view(self, plane: int, stride: int, row: int, column: int, size: int) -> Optional[int]:
        """The plane of these pixels of another one; None where they would be a view of a view
        that lacks pixels of its source.

        Parameters
        ----------
        plane, stride, row, column : int
            As of `View`, but that the plane may be a view.
        size : int
            Number of the view's size.
        """
        inner = self.views.get(plane)
        if inner is None:
            return self._view(View(plane, False, stride, row, column), size,
                              self.nonnegative[plane])
        held, wanted = self.extents[self.size_of[plane]], self.extents[size]
        if any(first + stride * (count - 1) >= limit and self._ends(inner, axis, limit)
               for axis, (first, count, limit) in enumerate(zip((row, column), wanted, held))):
            return None
        composed = View(inner.source, inner.of_image, inner.stride * stride,
                        inner.row + inner.stride * row, inner.column + inner.stride * column)
        return self._view(composed, size, self.nonnegative[plane])

    def _ends(self, view: View, axis: int, count: int) -> bool:
        """Whether a view of so many pixels along an axis ends before its source does."""
        whole = (self.image_shape[1:] if view.of_image
                 else self.extents[self.size_of[view.source]])[axis]
        return (view.row, view.column)[axis] + view.stride * count < whole

    def _view(self, view: View, size: int, nonnegative: bool) -> int:
        key = (view, size)
        if key not in self._known:
            plane = int(self.new_planes(1, size, [nonnegative])[0])
            self._known[key] = plane
            self.views[plane] = view
        return self._known[key]

    def reads(self) -> Dict[int, int]:
        """By plane how often steps and views read it; views that no step reads do not count."""
        found: Dict[int, int] = {}
        for step in self.steps:
            for plane in planes_read(step).tolist():
                found[plane] = found.get(plane, 0) + 1
        for plane, view in self.views.items():
            if plane in found and not view.of_image:
                found[view.source] = found.get(view.source, 0) + 1
        return found

    def remove_unread(self) -> None:
        """Leave out outputs that nothing reads."""
        needed, kept = set(), []
        for step in reversed(self.steps):
            only = _outputs_of(step, needed)
            if only is None:
                continue
            kept.append(only)
            for plane in planes_read(only).tolist():
                view = self.views.get(plane)
                needed.add(plane if view is None else view.source)
        self.steps = kept[::-1]


def as_convolution(step: Each) -> Convolution:
    """The same as a convolution, in which every output is a group of its own."""
    sources = np.zeros((len(step.outs), 1, 3), np.int32)
    sources[:, 0, 0] = step.sources
    weight, bias = np.float32(step.scale).reshape(-1, 1, 1), np.float32(step.shift).reshape(-1, 1)
    return Convolution(step.size, [Group(*parts) for parts in zip(
        sources, weight, bias, *(planes.reshape(-1, 1) for planes in (
            step.outs, step.adds, step.factors)))], step.activation, step.low, step.high)


def outputs_of(group: Group, kept: np.ndarray) -> Group:
    """Some outputs of a group, by number or mask."""
    return Group(group.sources, group.weight[kept], group.bias[kept], group.outs[kept],
                 group.adds[kept], group.factors[kept])


def _outputs_of(step: Written, needed: Set[int]) -> Optional[Written]:
    """A step without the outputs that are not needed; None without any."""
    if not isinstance(step, (Convolution, Each, Largest)):
        return step
    wanted = np.array([plane in needed for plane in planes_written(step).tolist()])
    if wanted.all() or not wanted.any():
        return step if wanted.any() else None
    if isinstance(step, Each):
        return step.only(wanted)
    if isinstance(step, Largest):
        return replace(step, sources=step.sources[wanted], outs=step.outs[wanted])
    masks = np.split(wanted, np.cumsum([len(group.outs) for group in step.groups])[:-1])
    return replace(step, groups=[outputs_of(group, mask)
                                 for group, mask in zip(step.groups, masks) if mask.any()])


def planes_read(step: Written) -> np.ndarray:
    """Numbers of the planes (or slots) that a step reads, once for each time."""
    if isinstance(step, Convolution):
        found = np.concatenate([part for group in step.groups for part in (
            group.sources[:, 0], group.adds, group.factors)])
        return found[found != NOTHING]
    if isinstance(step, Each):
        found = np.concatenate([step.sources, step.adds, step.factors])
        return found[found != NOTHING]
    if isinstance(step, Largest):
        return step.sources[:, :, 0].ravel()
    return step.slots if isinstance(step, Mean) else np.zeros(0, np.int32)


def planes_written(step: Written) -> np.ndarray:
    """Numbers of the planes (or slots) that a step writes."""
    if isinstance(step, Convolution):
        return np.concatenate([group.outs for group in step.groups])
    return step.outs if isinstance(step, (Each, Largest)) else np.zeros(0, np.int32)
