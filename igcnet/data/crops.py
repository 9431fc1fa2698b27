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
FEW = 8  # images that are quicker mirrored one by one, where they are


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
        """Random numbers that an image takes."""
        return 3 if self.random else 0

    def check(self, height: int, width: int) -> None:
        """Raise `DataError` for a size of which no crop can be taken."""
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
        top = (randoms[:, self.TOP] * (rows + 1)).astype(np.intp)
        left = (randoms[:, self.LEFT] * (columns + 1)).astype(np.intp)
        windows = _windows(np.ascontiguousarray(images), size, size)
        crops = windows[np.arange(len(images)), top, left].view(np.uint8).reshape(-1, size, size, 3)
        turned = np.flatnonzero(randoms[:, self.MIRROR] < 0.5)
        if len(turned) < FEW:
            for place in turned:
                cv2.flip(crops[place], 1, crops[place])
        else:
            # On top of each other they are one image, which one call mirrors.
            tower = crops[turned].reshape(-1, size, 3)
            crops[turned] = cv2.flip(tower, 1).reshape(-1, size, size, 3)
        return crops.transpose(0, 3, 1, 2)


def fill_colour(values: Sequence[float]) -> Tuple[int, int, int]:
    """`values` rounded to whole numbers; UsageError if they are no RGB colour."""
    colour = tuple(int(round(value)) for value in check_colour('fill', values))
    if min(colour) < 0 or max(colour) > 255:
        raise UsageError('fill=%r: must be between 0 and 255' % (values,))
    return colour


def _padded(images: np.ndarray, pad: int, fill: Optional[Tuple[int, int, int]]) -> np.ndarray:
    """`images` with `pad` pixels of the colour `fill` around, or of their reflection."""
    if fill is None:
        return np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), 'reflect')
    count, height, width, _ = images.shape
    canvas = np.empty((count, height + 2 * pad, width + 2 * pad, 3), np.uint8)
    canvas.reshape(count, -1)[:] = np.frombuffer(bytes(fill) * (canvas[0].size // 3), np.uint8)
    _windows(canvas, height, width)[:, pad, pad] = _windows(
        np.ascontiguousarray(images), height, width)[:, 0, 0]
    return canvas


def _windows(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """All windows of that size in contiguous `images` (N, H, W, 3), without a copy.

    Element (n, top, left, i) is the i-th line of a window as one item of 3 * width bytes: numpy
    copies an item at once, and windows at different places by one call.
    """
    count, rows, columns, _ = images.shape
    image, line, pixel, _ = images.strides
    return np.ndarray((count, rows - height + 1, columns - width + 1, height), 'V%d' % (3 * width),
                      images, strides=(image, line, pixel, line))


def mirror(image: np.ndarray, u: float, out: np.ndarray) -> None:
    """Copy `image` (H, W, 3) to `out`, turned round if `u` is below 1/2."""
    if u < 0.5:
        cv2.flip(image, 1, out)  # many times faster than a copy of numpy's reversed view
    else:
        out[:] = image


def symmetric(u: float, limit: float) -> float:
    """Uniform in plus or minus `limit`."""
    return (2 * u - 1) * limit
