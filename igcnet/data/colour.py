"""torchvision's colour jitter and the "PCA lighting" of MutualNet, with Pillow's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Sequence, Tuple

import numpy as np

from igcnet.data.crops import symmetric
from igcnet.errors import UsageError

# Eigenvalues and eigenvectors (the columns) of the colours of ImageNet, for values in 0..1.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009],
                         [-0.5808, -0.0045, -0.8140],
                         [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True)
class Coloured:
    """A crop whose colours are then changed at random.

    Mirroring is part of the crop. Some originals mirror later: no change of colour depends on it.

    Parameters
    ----------
    crop
        A transform, such as `RandomResizedCrop`.
    jitter : tuple of four floats
        Strengths of brightness, contrast, saturation and hue. The first three draw a factor in
        1 - strength .. 1 + strength that blends with black, with the image's mean grey and with
        its greyscale; hue draws a shift in plus or minus strength, in turns. Changes of strength 0
        are left out; the others come in random order.
    lighting : float
        Deviation of the lighting; 0: none. Each channel gets one random increment, which MutualNet
        adds to 0..255 although it is meant for 0..1: its only effect is that a channel whose
        increment is negative becomes darker by 1.
    """

    crop: Any
    jitter: Tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    lighting: float = 0.0

    def __post_init__(self):
        if len(self.jitter) != 4 or not all(0 <= value <= limit for value, limit in zip(
                self.jitter, (1, 1, 1, 0.5))):
            raise UsageError('jitter=%r: must be four numbers, for brightness, contrast, '
                             'saturation (up to 1) and hue (up to 0.5)' % (self.jitter,))
        if not 0 <= self.lighting < math.inf:
            raise UsageError('lighting=%r: must not be negative' % (self.lighting,))

    @property
    def size(self) -> int:
        """Height and width of the result."""
        return self.crop.size

    @property
    def draws(self) -> int:
        """Those of the crop, a strength and a place in the order for each change, lighting."""
        return self.crop.draws + 8 * any(self.jitter) + 4 * (self.lighting > 0)

    def check(self, height: int, width: int) -> None:
        """Raise `DataError` for a size of which no crop can be taken."""
        self.crop.check(height, width)

    def __call__(self, images: np.ndarray, randoms: np.ndarray) -> np.ndarray:
        from PIL import Image
        crops = self.crop(images, randoms[:, :self.crop.draws]).transpose(0, 2, 3, 1)
        out = np.empty(crops.shape, np.uint8)
        for crop, u, pixels in zip(crops, randoms[:, self.crop.draws:].tolist(), out):
            if any(self.jitter):
                crop = np.asarray(self._jittered(Image.fromarray(np.ascontiguousarray(crop)), u))
            pixels[:] = crop
            if self.lighting:
                for channel, increment in enumerate(self._increments(u[-4:])):
                    table = np.clip(np.arange(256) + increment, 0, 255).astype(np.uint8)
                    pixels[..., channel] = table[pixels[..., channel]]
        return out.transpose(0, 3, 1, 2)

    def _jittered(self, image, u: Sequence[float]):
        from PIL import ImageEnhance
        changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None)
        for number in sorted(range(4), key=lambda number: u[4 + number]):
            strength, change = self.jitter[number], changes[number]
            value = symmetric(u[number], strength)
            if strength and change:
                image = change(image).enhance(1 + value)
            elif strength:
                image = _hue_shifted(image, value)
        return image

    def _increments(self, u: Sequence[float]) -> np.ndarray:
        """The increment of each channel from four uniform numbers, by way of normal ones."""
        normals = self.lighting * np.array(normal(u[0], u[1]) + normal(u[2], u[3])[:1])
        return EIGENVECTORS @ (normals * EIGENVALUES)


def normal(first: float, second: float) -> Tuple[float, float]:
    """Two standard normal numbers from two uniform ones in [0, 1) (Box and Muller)."""
    radius, angle = math.sqrt(-2 * math.log(1 - first)), 2 * math.pi * second
    return radius * math.cos(angle), radius * math.sin(angle)


def _hue_shifted(image, turns: float):
    from PIL import Image
    hue, saturation, value = image.convert('HSV').split()
    offset = int(turns * 255)
    hue = hue.point([(level + offset) % 256 for level in range(256)])
    return Image.merge('HSV', (hue, saturation, value)).convert('RGB')
