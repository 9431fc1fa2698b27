"""From decoded images to the pixels of a batch, without randomness; and the normalisation.

A transform is an object with

- ``size``: height and width of what it makes;
- ``draws``: how many random numbers it uses for one image (0 here, see `igcnet.data.augment`);
- ``check(height, width)``: raises `DataError` for an image it cannot work on;
- ``transform(images, randoms)``: images of one size, uint8 RGB (N, H, W, 3), and uniform random
  numbers (N, draws) become uint8 (N, 3, size, size), any strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import cv2
import numpy as np

from igcnet.errors import DataError, UsageError
from igcnet.registry import Preprocessing

INTERPOLATIONS = ('area', 'bilinear', 'cubic', 'pil-bilinear')
# Above this ratio of the sides, resizing a small file could ask for gigabytes.
LARGEST_ASPECT = 100


@dataclass(frozen=True)
class ResizeCrop:
    """Resize the shorter side, then cut out the centre: how evaluation sees an image.

    Parameters
    ----------
    size : int
        Height and width of the crop.
    resize_shorter : int, optional
        Shorter side before the crop; the longer one keeps the ratio and is rounded down. None:
        the image keeps its size, unless it is smaller than the crop; then it is enlarged.
    interpolation : str
        'bilinear' and 'cubic' are OpenCV's, without anti-aliasing. 'area' is OpenCV's when the
        image shrinks and cubic when it grows, as MXNet's method 9. 'pil-bilinear' is Pillow's,
        which widens its filter when the image shrinks.

    Notes
    -----
    The crop starts at half of what is left over: rounded down, as in MXNet; with 'pil-bilinear'
    to the nearest even number at .5, as ``Resize`` and ``CenterCrop`` of torchvision do. One
    pixel decides up to 6 % of the predictions of small networks (clavichord93/MENet).
    """

    size: int
    resize_shorter: Optional[int] = None
    interpolation: str = 'area'

    draws = 0

    def __post_init__(self):
        check_size(self.size)
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError('interpolation=%r: must be one of %s'
                             % (self.interpolation, ', '.join(INTERPOLATIONS)))
        if self.resize_shorter is not None and self.resize_shorter < self.size:
            raise UsageError('resize_shorter=%r: must be at least the crop size, %d'
                             % (self.resize_shorter, self.size))

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> ResizeCrop:
        """The geometry of a named configuration's preprocessing."""
        return cls(preprocessing.input_size, preprocessing.resize_shorter,
                   preprocessing.interpolation)

    def check(self, height: int, width: int) -> None:
        """Raise `DataError` for a size of which no crop can be taken."""
        check_aspect(height, width)

    def __call__(self, images: np.ndarray, randoms: Optional[np.ndarray] = None) -> np.ndarray:
        height, width = images.shape[1:3]
        shorter = self.resize_shorter or max(self.size, min(height, width))
        new_height, new_width = resized_shape(height, width, shorter)
        if (new_height, new_width) != (height, width):
            images = np.stack([resize(image, new_width, new_height, self.interpolation)
                               for image in images])
        top, left = (self._start(side - self.size) for side in (new_height, new_width))
        crops = images[:, top:top + self.size, left:left + self.size]
        return crops.transpose(0, 3, 1, 2)

    def _start(self, left_over: int) -> int:
        return round(left_over / 2) if self.interpolation == 'pil-bilinear' else left_over // 2


def resized_shape(height: int, width: int, shorter: int) -> Tuple[int, int]:
    """Height and width when the shorter side becomes `shorter`; the longer is rounded down."""
    if height < width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def resize(image: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    """`image` (H, W, 3) uint8 scaled to `width` and `height`, by an `interpolation` of
    `ResizeCrop`."""
    if interpolation == 'pil-bilinear':
        from PIL import Image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))
    shrinks = width < image.shape[1] or height < image.shape[0]
    method = {'bilinear': cv2.INTER_LINEAR, 'cubic': cv2.INTER_CUBIC,
              'area': cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC}[interpolation]
    return cv2.resize(image, (width, height), interpolation=method)


def resize_aligned(images: np.ndarray, size: int, out: np.ndarray) -> None:
    """Bilinear resizing of a batch whose corner pixels stay where they are.

    That is PyTorch's ``interpolate(mode='bilinear', align_corners=True)`` and MXNet's
    ``contrib.BilinearResize2D``: no filter against aliasing. MutualNet makes its smaller inputs
    from the normalised image in this way.

    Parameters
    ----------
    images : numpy.ndarray
        float32 (N, C, H, W).
    size : int
        Height and width of the result.
    out : numpy.ndarray
        float32 (N, C, size, size), to be filled.
    """
    low, high, weight = _aligned(images.shape[2], size)
    weight = weight[:, None]
    rows = images[:, :, low] * (1 - weight) + images[:, :, high] * weight
    low, high, weight = _aligned(images.shape[3], size)
    np.multiply(rows[..., low], 1 - weight, out=out)
    out += rows[..., high] * weight


def _aligned(length: int, size: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `size` places: the neighbours among `length` and the weight of the second."""
    step = np.float32(length - 1) / np.float32(max(size - 1, 1))
    places = np.arange(size, dtype=np.float32) * step
    low = np.minimum(places.astype(np.int64), length - 1)
    return low, np.minimum(low + 1, length - 1), places - low.astype(np.float32)


class Normalisation:
    """(pixel - mean) * (1 / std) for each channel, in float32.

    Parameters
    ----------
    mean, std : sequence of three floats
        RGB, in units of 0..255.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = check_colour('mean', mean)
        self.std = check_colour('std', std)
        if min(self.std) <= 0:
            raise UsageError('std=%r: must be positive' % (self.std,))
        self._mean = np.array(self.mean, np.float32)
        self._scale = np.array([1 / value for value in self.std], np.float32)

    def __call__(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Fill `out`, float32 (N, 3, H, W), from uint8 `pixels` of the same shape."""
        count, _, height, width = pixels.shape
        # OpenCV takes channels apart faster than numpy walks over them; transforms return
        # pixels whose channels lie side by side, so the reshape copies nothing.
        planes = cv2.split(pixels.transpose(0, 2, 3, 1).reshape(count * height, width, 3))
        for plane, mean, scale, channel in zip(planes, self._mean, self._scale,
                                               out.transpose(1, 0, 2, 3)):
            # In one piece of memory: numpy is slower on a channel of many images.
            values = channel if count == 1 else np.empty(channel.shape, np.float32)
            values[...] = plane.reshape(count, height, width)
            values -= mean
            values *= scale
            if count > 1:
                channel[...] = values


def check_aspect(height: int, width: int) -> None:
    """Refuse an image whose resizing by the shorter side could take gigabytes."""
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        raise DataError('the image has %dx%d pixels, one side more than %d times the other'
                        % (width, height, LARGEST_ASPECT))


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is none of `choices`."""
    if value not in choices:
        raise UsageError('%s=%r: must be %s' % (name, value, ' or '.join(map(repr, choices))))


def check_size(size: int) -> None:
    """Refuse a crop size that is not a positive whole number."""
    if not isinstance(size, int) or size < 1:
        raise UsageError('size=%r: must be a whole number of at least 1' % (size,))


def check_colour(name: str, values: Sequence[float]) -> Tuple[float, float, float]:
    """Three finite numbers, for red, green and blue; UsageError if `values` are not."""
    try:
        colour = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        colour = ()
    if len(colour) != 3 or not np.isfinite(colour).all():
        raise UsageError('%s=%r: must be three numbers, for red, green and blue' % (name, values))
    return colour
