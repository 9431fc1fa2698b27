"""Crops at random places of padded images, mirrored at random.

Each random number has a fixed column in `randoms`, so that one image's augmentation can be
repeated from its numbers alone. Transforms are objects as `igcnet.data.transforms` describes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import cv2
import numpy as np

from igcnet.data.transforms import check_choice, check_colour, check_size
from igcnet.errors import DataError, UsageError

BORDERS = ('fill', 'reflect')


@dataclass(frozen=True)
class CropMirror:
    """Pad with a colour, crop at a random place, mirror every other image.

    Parameters
    ----------
    size : int
        Height and width of the crop.
    fill : sequence of three numbers
        RGB colour of the padding, 0..255, rounded to whole numbers.
    pad : int
        Pixels added on each side.
    border : {'fill', 'reflect'}
        The padding has the fill colour, or mirrors the image about its outermost pixels.
    random : bool
        False: the centre crop, not mirrored.
    """

    size: int
    fill: Sequence[float] = (0, 0, 0)
    pad: int = 0
    random: bool = True
    border: str = 'fill'

    TOP, LEFT, MIRROR = range(3)

    def __post_init__(self):
        check_size(self.size)
        object.__setattr__(self, 'fill', fill_colour(self.fill))
        if self.pad < 0:
            raise UsageError('pad=%r: must not be negative' % (self.pad,))
        check_choice('border', self.border, BORDERS)

    @property
    def draws(self) -> int:
        return 3 if self.random else 0

    def check(self, height: int, width: int) -> None:
        if min(height, width) + 2 * self.pad < self.size:
            raise DataError('the image has %dx%d pixels, too few for a crop of %dx%d; pack with '
                            '--resize %d' % (width, height, self.size, self.size, self.size))
        if self.border == 'reflect' and min(height, width) <= self.pad:
            raise DataError('the image has %dx%d pixels, too few to reflect %d of them'
                            % (width, height, self.pad))

    def __call__(self, images: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        if self.pad:
            images = _padded(images, self.pad, self.fill if self.border == 'fill' else None)
        rows, columns = (side - self.size for side in images.shape[1:3])
        size = self.size
        if not self.random:
            top, left = rows // 2, columns // 2
            return images[:, top:top + size, left:left + size].transpose(0, 3, 1, 2)
        crops = np.empty((len(images), size, size, 3), np.uint8)
        for image, u, out in zip(images, randoms.tolist(), crops):
            top, left = int(u[self.TOP] * (rows + 1)), int(u[self.LEFT] * (columns + 1))
            mirror(image[top:top + size, left:left + size], u[self.MIRROR], out)
        return crops.transpose(0, 3, 1, 2)


def fill_colour(values: Sequence[float]) -> Tuple[int, int, int]:
    """`values` rounded to whole numbers and checked to be an RGB colour."""
    colour = tuple(int(round(value)) for value in check_colour('fill', values))
    if min(colour) < 0 or max(colour) > 255:
        raise UsageError('fill=%r: must be between 0 and 255' % (values,))
    return colour


def _padded(images: np.ndarray, pad: int, fill: Optional[Tuple[int, int, int]]) -> np.ndarray:
    """`images` with `pad` pixels of the colour `fill` around, or of their reflection."""
    if fill is None:
        return np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), 'reflect')
    count, height, width, _ = images.shape
    blank = np.full((height + 2 * pad, width + 2 * pad, 3), fill, np.uint8)
    canvas = np.empty((count,) + blank.shape, np.uint8)
    canvas[:] = blank
    canvas[:, pad:pad + height, pad:pad + width] = images
    return canvas


def mirror(image: np.ndarray, u: float, out: np.ndarray) -> None:
    """Copy `image` (H, W, 3) to `out`, turned round if `u` is below 1/2."""
    if u < 0.5:
        cv2.flip(image, 1, out)  # many times faster than a copy of numpy's reversed view
    else:
        out[:] = image


def symmetric(u: float, limit: float) -> float:
    """Uniform in plus or minus `limit`."""
    return (2 * u - 1) * limit
