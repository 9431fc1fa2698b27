"""What comes behind the last map: its mean, a vector, and fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from igcnet.deploy.compiling.draft import Draft, NoForm
from igcnet.deploy.program import Dense, Mean


@dataclass(frozen=True)
class Vector:
    """scale x vector[chosen] + shift.

    Parameters
    ----------
    version : int
        Of which vector: each one takes the place of the one before it.
    chosen : numpy.ndarray
        Places in the vector.
    scale, shift : numpy.ndarray
        One for each place.
    """

    version: int
    chosen: np.ndarray
    scale: np.ndarray
    shift: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, order: np.ndarray) -> Vector:
        return Vector(self.version, self.chosen[order], self.scale[order], self.shift[order])

    def affine(self, scale: Union[float, np.ndarray], shift: Union[float, np.ndarray]) -> Vector:
        """With another scale and shift behind its own."""
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def is_plain(self, width: int) -> bool:
        """Whether it is the vector itself, which has `width` places."""
        return (np.array_equal(self.chosen, np.arange(width)) and (self.scale == 1).all()
                and not self.shift.any())


class Tail:
    """The steps of a draft that make and read vectors: there is only one vector at a time."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.width = self.version = 0

    def mean(self, planes: np.ndarray, size: int) -> Vector:
        """The mean of each plane."""
        if self.width:
            raise NoForm('it is not the only mean of maps')
        self.draft.steps.append(Mean(size, np.asarray(planes, np.int32)))
        return self._fresh(len(planes))

    def dense(self, vector: Vector, weight: np.ndarray, bias: np.ndarray) -> Vector:
        """A fully connected layer."""
        self._require_newest(vector)
        whole = np.zeros((len(weight), self.width))
        whole[:, vector.chosen] = weight * vector.scale
        self.draft.steps.append(Dense(np.float32(whole),
                                      np.float32(bias + weight @ vector.shift)))
        return self._fresh(len(weight))

    def clamp(self, vector: Vector, low: float, high: float) -> Vector:
        """Between two limits."""
        self._require_newest(vector)
        last = self.draft.steps[-1]
        if not isinstance(last, Dense) or not vector.is_plain(self.width):
            vector = self.dense(vector, np.eye(len(vector)), np.zeros(len(vector)))
            last = self.draft.steps[-1]
        limits = np.clip([last.low, last.high], low, high).tolist()
        self.draft.steps[-1] = replace(last, low=limits[0], high=limits[1])
        return self._fresh(self.width)

    def finish(self, vector: Vector) -> None:
        """Let the vector be the last one."""
        self._require_newest(vector)
        if not isinstance(self.draft.steps[-1], Dense) or not vector.is_plain(self.width):
            self.dense(vector, np.eye(len(vector)), np.zeros(len(vector)))

    def _fresh(self, width: int) -> Vector:
        self.width, self.version = width, self.version + 1
        return Vector(self.version, np.arange(width), np.ones(width), np.zeros(width))

    def _require_newest(self, vector: Vector) -> None:
        if vector.version != self.version:
            raise NoForm('it is a second branch behind the mean of maps')
