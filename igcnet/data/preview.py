"""Pictures that show what an augmentation does."""

from __future__ import annotations

from typing import Any, Sequence

import cv2
import numpy as np

from igcnet.data.images import encode_image
from igcnet.data.loading import check_at_least
from igcnet.data.randomness import uniforms
from igcnet.errors import UsageError
from igcnet.files import PathLike, atomic_path

GAP = 4
_WHITE = 255


def preview(images: Sequence[np.ndarray], augmentation: Any, times: int = 6, seed: int = 0,
            tile: int = 0) -> np.ndarray:
    """A grid with a row for each image: the image itself, then some of its augmentations.

    Parameters
    ----------
    images : sequence of numpy.ndarray
        uint8 RGB (H, W, 3), each of any size that the augmentation takes.
    augmentation
        From `igcnet.data.augment.find_augmentation`.
    times : int
        Augmentations in a row: what the first so many epochs with this seed show of image 0, 1, ...
    seed : int
        As of a `TrainReader`.
    tile : int
        Height and width that each picture is shown with; 0: the size of the crops.

    Returns
    -------
    numpy.ndarray
        uint8 RGB, with white lines between the pictures.
    """
    check_at_least('times', times, 1)
    check_at_least('tile', tile, 0)
    tile = tile or augmentation.size
    rows = []
    for number, image in enumerate(images):
        augmentation.check(*image.shape[:2])
        pictures = [_fitted(image, tile)]
        for epoch in range(times):
            pixels = augmentation(image[None],
                                  uniforms(seed, epoch, [number], augmentation.draws))[0]
            pictures.append(_fitted(np.ascontiguousarray(pixels.transpose(1, 2, 0)), tile))
        rows.append(_joined(pictures, 1))
    return _joined(rows, 0)


def write_picture(path: PathLike, image: np.ndarray) -> None:
    """Write an RGB array as a ``.png`` or ``.jpg`` file; UsageError for another ending."""
    encoding = '.' + str(path).rpartition('.')[2].lower()
    if encoding not in ('.png', '.jpg'):
        raise UsageError('%s: a picture must end in .png or .jpg' % path)
    data = encode_image(image, encoding, 80 if encoding == '.jpg' else None)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _fitted(image: np.ndarray, side: int) -> np.ndarray:
    """`image` in a white square, as large as it fits."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    square = np.full((side, side, 3), _WHITE, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top:top + height, left:left + width] = cv2.resize(image, (width, height),
                                                             interpolation=method)
    return square


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, _WHITE, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis)
