"""The augmentation of IGC's ImageNet script: an affine map, a crop and shifts of the colour.

Source: hellozting/InterleavedGroupConvolutions, `train_imagenet.py`, whose `ImageRecordIter` comes
from the authors' branch of MXNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

from igcnet.data.crops import fill_colour, mirror, symmetric
from igcnet.data.transforms import check_size
from igcnet.errors import UsageError


@dataclass(frozen=True)
class WarpCrop:
    """The original's ImageNet augmentation: scale and aspect ratio, crop, colour, mirror.

    In this order, for an image of height h and width w:

    1. s is uniform in `min_scale` .. `max_scale` and r in 1 - `aspect` .. 1 + `aspect`. An affine
       map scales x by 2s/(1+r) and y by 2sr/(1+r), about the centre, onto a canvas of
       max(`canvas`, s*w) by max(`canvas`, s*h) pixels whose uncovered part has the fill colour.
       Interpolation: cubic if both sides of the canvas exceed those of the image, "area" if both
       are smaller (which OpenCV's affine map computes as bilinear), else bilinear.
    2. Random crop of `size`.
    3. 8-bit HLS (hue 0..180): whole-number offsets, uniform in plus or minus `hue`, `lightness`
       and `saturation` and cut off towards zero; the results are clipped.
    4. Mirror, with probability 1/2. (The original mirrors while normalising: the same.)

    Records are expected with the shorter side at 480: scale 0.533 makes it 256.

    Parameters
    ----------
    size, canvas : int
        Height and width of the crop, and the smallest canvas it is cut from.
    fill : sequence of three numbers
        RGB colour of the border, 0..255, rounded to whole numbers.
    random : bool
        False: `min_scale`, the centre crop, and nothing else.
    """

    size: int
    fill: Sequence[float] = (0, 0, 0)
    min_scale: float = 0.533
    max_scale: float = 1.0
    aspect: float = 0.25
    hue: int = 36
    lightness: int = 50
    saturation: int = 50
    canvas: int = 256
    random: bool = True

    SCALE, ASPECT, TOP, LEFT, HUE, LIGHTNESS, SATURATION, MIRROR = range(8)

    def __post_init__(self):
        check_size(self.size)
        object.__setattr__(self, 'fill', fill_colour(self.fill))
        if not 0 < self.min_scale <= self.max_scale:
            raise UsageError('min_scale=%r, max_scale=%r: must be positive and in this order'
                             % (self.min_scale, self.max_scale))
        if not 0 <= self.aspect < 1:
            raise UsageError('aspect=%r: must be at least 0 and below 1' % (self.aspect,))
        if min(self.hue, self.lightness, self.saturation) < 0:
            raise UsageError('hue, lightness, saturation=%r: must not be negative'
                             % ((self.hue, self.lightness, self.saturation),))
        if self.canvas < self.size:
            raise UsageError('canvas=%r: must be at least the crop size, %d'
                             % (self.canvas, self.size))

    @property
    def draws(self) -> int:
        """Random numbers that an image takes."""
        return 8 if self.random else 0

    def check(self, height: int, width: int) -> None:
        """Every size will do: what is small gets a border."""

    def __call__(self, images: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        if not self.random:
            crops = [self._centre(self._warp(image, self.min_scale, 1.0)) for image in images]
            return np.stack(crops).transpose(0, 3, 1, 2)
        crops = np.empty((len(images), self.size, self.size, 3), np.uint8)
        for image, u, out in zip(images, randoms.tolist(), crops):
            mirror(self._one(image, u), u[self.MIRROR], out)
        return crops.transpose(0, 3, 1, 2)

    def _one(self, image: np.ndarray, u: Sequence[float]) -> np.ndarray:
        scale = self.min_scale + u[self.SCALE] * (self.max_scale - self.min_scale)
        warped = self._warp(image, scale, 1 + symmetric(u[self.ASPECT], self.aspect))
        top, left = (int(u[column] * (side - self.size + 1))
                     for column, side in zip((self.TOP, self.LEFT), warped.shape))
        crop = warped[top:top + self.size, left:left + self.size]
        return self._shift_colour(crop, [
            int(symmetric(u[column], limit)) for column, limit in (
                (self.HUE, self.hue), (self.LIGHTNESS, self.lightness),
                (self.SATURATION, self.saturation))])

    def _warp(self, image: np.ndarray, scale: float, ratio: float) -> np.ndarray:
        # In float32 like MXNet's augmenter, whose pixels this reproduces exactly.
        height, width = np.float32(image.shape[0]), np.float32(image.shape[1])
        scale, ratio, canvas = np.float32(scale), np.float32(ratio), np.float32(self.canvas)
        x_factor = 2 * scale / (1 + ratio)
        y_factor = ratio * x_factor
        new_width, new_height = max(canvas, scale * width), max(canvas, scale * height)
        matrix = np.array([[x_factor, 0, (new_width - x_factor * width) / 2],
                           [0, y_factor, (new_height - y_factor * height) / 2]], np.float32)
        if new_width > width and new_height > height:
            method = cv2.INTER_CUBIC
        elif new_width < width and new_height < height:
            method = cv2.INTER_AREA
        else:
            method = cv2.INTER_LINEAR
        return cv2.warpAffine(image, matrix, (int(new_width), int(new_height)), flags=method,
                              borderMode=cv2.BORDER_CONSTANT, borderValue=self.fill)

    def _centre(self, image: np.ndarray) -> np.ndarray:
        top, left = ((side - self.size) // 2 for side in image.shape[:2])
        return image[top:top + self.size, left:left + self.size]

    def _shift_colour(self, image: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
        """Add the offsets of H, L and S."""
        if not (self.hue or self.lightness or self.saturation):
            return image
        table = np.clip(np.arange(256)[:, None] + offsets, 0, (180, 255, 255)).astype(np.uint8)
        hls = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HLS), table[None])
        return cv2.cvtColor(hls, cv2.COLOR_HLS2RGB)
