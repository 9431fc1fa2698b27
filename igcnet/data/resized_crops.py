"""torchvision's random crops of photographs, with Pillow's pixels.

Sources: the training pipelines of clavichord93/MENet (torchvision 0.2.0), taoyang1122/MutualNet
(0.2.2) and the DGC code (a later one); they differ in how the shape of a crop is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from igcnet.data.crops import mirror
from igcnet.data.transforms import (
    check_aspect,
    check_choice,
    check_size,
    resize,
    resized_shape,
)
from igcnet.errors import UsageError

SHAPES = ('swapped', 'swapped-in-range', 'log-uniform')
ASPECTS = 3 / 4, 4 / 3
TRIES = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to a square; mirrored every other time.

    At most ten times, a fraction of the image's area and a ratio of width to height in 3/4 .. 4/3
    are drawn; the first crop that fits is taken, at a random place. It is resized with Pillow's
    bilinear filter, which widens when the crop shrinks.

    Parameters
    ----------
    size : int
        Height and width of the result.
    area : tuple of two floats
        Range of the fraction of the area.
    shapes : str
        'swapped' (torchvision 0.2.0): the ratio is uniform, width and height are exchanged every
        other time. 'swapped-in-range' (0.2.2): not if the ratio of the rounded sides would leave
        the range. 'log-uniform' (from 0.3 on): the logarithm of the ratio is uniform, nothing is
        exchanged. If no try fits, the first two take the centre square of the shorter side, the
        last one the largest crop around the centre with a ratio in the range.
    """

    size: int
    area: Tuple[float, float] = (0.08, 1.0)
    shapes: str = 'log-uniform'

    TOP, LEFT, MIRROR, FIRST_TRY = range(4)

    draws = 3 + 3 * TRIES

    def __post_init__(self):
        check_size(self.size)
        check_choice('shapes', self.shapes, SHAPES)
        if not (len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1):
            raise UsageError('area=%r: must be two fractions above 0 and up to 1, in this order'
                             % (self.area,))

    def check(self, height: int, width: int) -> None:
        """Every size will do."""

    def __call__(self, images: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        crops = np.empty((len(images), self.size, self.size, 3), np.uint8)
        for image, u, out in zip(images, randoms.tolist(), crops):
            top, left, height, width = self.box(*image.shape[:2], u)
            crop = resize(image[top:top + height, left:left + width], self.size, self.size,
                          'pil-bilinear')
            mirror(crop, u[self.MIRROR], out)
        return crops.transpose(0, 3, 1, 2)

    def box(self, height: int, width: int, u: Sequence[float]) -> Tuple[int, int, int, int]:
        """Top, left, height and width of the crop that the numbers `u` draw."""
        low, high = ASPECTS
        for at in range(self.FIRST_TRY, self.draws, 3):
            area = height * width * (self.area[0] + u[at] * (self.area[1] - self.area[0]))
            if self.shapes == 'log-uniform':
                ratio = math.exp(math.log(low) + u[at + 1] * (math.log(high) - math.log(low)))
            else:
                ratio = low + u[at + 1] * (high - low)
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if not crop_width or not crop_height:
                continue
            if u[at + 2] < 0.5 and (
                    self.shapes == 'swapped' or
                    self.shapes == 'swapped-in-range' and low <= crop_height / crop_width <= high):
                crop_width, crop_height = crop_height, crop_width
            if crop_width <= width and crop_height <= height:
                return (int(u[self.TOP] * (height - crop_height + 1)),
                        int(u[self.LEFT] * (width - crop_width + 1)), crop_height, crop_width)
        crop_height, crop_width = self._last_resort(height, width)
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width

    def _last_resort(self, height: int, width: int) -> Tuple[int, int]:
        if self.shapes != 'log-uniform':
            return (min(height, width),) * 2
        low, high = ASPECTS
        return (min(height, max(1, round(width / low))), min(width, max(1, round(height * high))))


@dataclass(frozen=True)
class ResizeRandomCrop:
    """Resize the shorter side with Pillow's bilinear filter, crop at a random place, mirror.

    Parameters
    ----------
    size : int
        Height and width of the crop.
    resize_shorter : int
        Shorter side before the crop; the longer one keeps the ratio and is rounded down.
    """

    size: int
    resize_shorter: int = 256

    TOP, LEFT, MIRROR = range(3)

    draws = 3

    def __post_init__(self):
        check_size(self.size)
        if self.resize_shorter < self.size:
            raise UsageError('resize_shorter=%r: must be at least the crop size, %d'
                             % (self.resize_shorter, self.size))

    def check(self, height: int, width: int) -> None:
        """Raise `DataError` for a size of which no crop can be taken."""
        check_aspect(height, width)

    def __call__(self, images: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        height, width = resized_shape(*images.shape[1:3], self.resize_shorter)
        crops = np.empty((len(images), self.size, self.size, 3), np.uint8)
        for image, u, out in zip(images, randoms.tolist(), crops):
            if image.shape[:2] != (height, width):
                image = resize(image, width, height, 'pil-bilinear')
            top = int(u[self.TOP] * (height - self.size + 1))
            left = int(u[self.LEFT] * (width - self.size + 1))
            mirror(image[top:top + self.size, left:left + self.size], u[self.MIRROR], out)
        return crops.transpose(0, 3, 1, 2)
