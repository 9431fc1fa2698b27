"""A network as a list of steps over planes: what the engine computes, see `igcnet.deploy.engine`.

A plane is one channel of a map, row after row, with a gap of zeros between the rows and above and
below: a convolution reads its neighbours by an offset and never asks where the border is. Planes
are numbered (slots), so that shuffles, concatenations and slices of channels are only other
numbers, and a group of a convolution may have any number of channels.

Every map that a step reads or writes has the same size: a stride is computed by splitting a plane
into its phases (even and odd rows and columns) first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Tuple, Union

import numpy as np

NOTHING = -1  # in tables of slots: none
SIGMOID = 'sigmoid'
CLAMP = 'clamp'


@dataclass(frozen=True)
class Size:
    """The planes of one size.

    Parameters
    ----------
    height, width : int
        Pixels.
    gap : int
        Zeros between two rows, and rows of zeros above and below; at least as many as the
        largest offset of a `Convolution` or `Largest` of this size.
    slots : int
        Number of planes.
    """

    height: int
    width: int
    gap: int
    slots: int


@dataclass(frozen=True)
class Enter:
    """Writes phases of the images' channels into planes.

    Parameters
    ----------
    size : int
        Number of the planes' size.
    stride : int
        1: the channels as they are.
    table : numpy.ndarray
        int32 (n, 4): channel of the image, first row, first column, slot. Pixel (y, x) of the slot
        is pixel (first row + stride y, first column + stride x) of the channel, 0 beyond its
        end.
    """

    size: int
    stride: int
    table: np.ndarray


@dataclass(frozen=True)
class Split:
    """Writes phases of planes into planes of another size; as `Enter`, the first column of the
    table being a slot of the size `source`."""

    source: int
    size: int
    stride: int
    table: np.ndarray


@dataclass(frozen=True)
class Group:
    """Output channels that read the same input channels.

    Parameters
    ----------
    sources : numpy.ndarray
        int32 (K, 3): slot, rows down, columns to the right.
    weight : numpy.ndarray
        float32 (O, K).
    bias : numpy.ndarray
        float32 (O,).
    outs : numpy.ndarray
        int32 (O,): slots written.
    adds, factors : numpy.ndarray
        int32 (O,): slots added before the activation and multiplied behind it, or `NOTHING`.
        A slot of `adds` or `factors` may be the one that is written.
    """

    sources: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    outs: np.ndarray
    adds: np.ndarray
    factors: np.ndarray


@dataclass(frozen=True)
class Convolution:
    """out = activation(weight x sources + bias + add) x factor, for every pixel.

    Sums, products, BN and activations on their own are convolutions of one or two sources.

    Parameters
    ----------
    size : int
        Of all planes.
    groups : list of Group
        No group reads by an offset, or reads as a source at all, what another group writes.
    activation : str
        `CLAMP` between `low` and `high`, which may be infinite, or `SIGMOID`.
    """

    size: int
    groups: List[Group]
    activation: str = CLAMP
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Largest:
    """The largest of several pixels; beyond the border stand zeros, so no pixel may be negative
    unless no offset leaves the map.

    Parameters
    ----------
    size : int
        Of all planes.
    sources : numpy.ndarray
        int32 (n, K, 3): slot, rows down, columns to the right, for each plane written.
    outs : numpy.ndarray
        int32 (n,): slots written.
    """

    size: int
    sources: np.ndarray
    outs: np.ndarray


@dataclass(frozen=True)
class Mean:
    """The mean of each plane; becomes the vector that `Dense` reads.

    Parameters
    ----------
    size : int
        Of the planes.
    slots : numpy.ndarray
        int32 (n,): the planes.
    """

    size: int
    slots: np.ndarray


@dataclass(frozen=True)
class Dense:
    """vector = clamp(weight x vector + bias); the last one's are the logits.

    Parameters
    ----------
    weight : numpy.ndarray
        float32 (outputs, inputs).
    bias : numpy.ndarray
        float32 (outputs,).
    """

    weight: np.ndarray
    bias: np.ndarray
    low: float = -np.inf
    high: float = np.inf


Step = Union[Enter, Split, Convolution, Largest, Mean, Dense]


@dataclass(frozen=True)
class Program:
    """The steps in order.

    Parameters
    ----------
    image_shape : tuple of int
        (channels, height, width) of an image.
    classes : int
        Number of logits.
    sizes : list of Size
        Sizes of planes.
    steps : list
        Begins with an `Enter`; ends with a `Mean` and at least one `Dense`.
    """

    image_shape: Tuple[int, int, int]
    classes: int
    sizes: List[Size]
    steps: List[Step] = field(default_factory=list)
