"""The originals' augmentations of training images, as named presets.

Sources: hellozting/InterleavedGroupConvolutions, clavichord93/MENet, taoyang1122/MutualNet, the
DGC code, homles11/IGCV3 (MXNet) and xxradon/IGCV3-pytorch. Their values and order of operations
are theirs; the random numbers are ours, see `igcnet.data.randomness`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Sequence

from igcnet.data.colour import Coloured
from igcnet.data.crops import CropMirror
from igcnet.data.resized_crops import RandomResizedCrop, ResizeRandomCrop
from igcnet.data.warp import WarpCrop
from igcnet.errors import UsageError


def _borderless(crop: Callable[..., Any], size: int, fill: Sequence[float], **settings):
    """Crops that have no border to fill."""
    return crop(size, **settings)


def _coloured(crop: Callable[..., Any], size: int, fill: Sequence[float], jitter=(0, 0, 0, 0),
              lighting: float = 0, **settings) -> Coloured:
    return Coloured(crop(size=size, fill=fill, **settings), tuple(jitter), lighting)


def _black(size: int, fill: Sequence[float], pad: int = 4, **settings) -> CropMirror:
    """torchvision pads with black, whatever the mean is."""
    return CropMirror(size, (0, 0, 0), pad, **settings)


def _igcv3_imagenet(size: int, fill: Sequence[float], **settings) -> WarpCrop:
    """MXNet's augmenter without a smallest canvas; its border is grey, whatever the mean is."""
    return WarpCrop(size, (127, 127, 127), **{'aspect': 0.0, 'canvas': size, **settings})


_resized = partial(_borderless, RandomResizedCrop)
_menet = {
    'more-aggressive': partial(_resized, area=(0.08, 1.0), shapes='swapped'),
    'aggressive': partial(_resized, area=(0.36, 1.0), shapes='swapped'),
    'less-aggressive': partial(_resized, area=(0.64, 1.0), shapes='swapped'),
    'conservative': partial(_borderless, ResizeRandomCrop),
}
_mutualnet = partial(_coloured, partial(_resized, shapes='swapped-in-range'),
                     jitter=(0.4, 0.4, 0.4, 0), lighting=0.1)

# The original's --aug-type on 32x32 images (and train_model.py's on ImageNet) is igc-0, -1, -2;
# that of train_imagenet.py is igc-imagenet-0, -1. The presets for validation are not random.
PRESETS: Dict[str, Callable[..., Any]] = {
    'igc-0': partial(CropMirror, random=False),
    'igc-1': partial(CropMirror, pad=4),
    'igc-2': CropMirror,
    'igc-imagenet-0': partial(WarpCrop, max_scale=0.533, aspect=0.0, hue=0, lightness=0,
                              saturation=0),
    'igc-imagenet-1': WarpCrop,
    'igc-imagenet-validation': partial(WarpCrop, random=False),
    'igcv3-cifar10': _black,
    'igcv3-cifar100': partial(_coloured, _black, jitter=(0.3, 0.3, 0.3, 0)),
    'igcv3-imagenet': _igcv3_imagenet,
    'igcv3-imagenet-validation': partial(_igcv3_imagenet, random=False),
    **{'menet-' + name: crop for name, crop in _menet.items()},
    **{'menet-%s-with-color-jitter' % name: partial(_coloured, crop, jitter=(0.1,) * 4)
       for name, crop in _menet.items()},
    'mutualnet-basic': partial(_mutualnet, area=(0.08, 1.0)),
    'mutualnet-mobile': partial(_mutualnet, area=(0.25, 1.0)),
    'mutualnet-cifar': partial(CropMirror, pad=4, border='reflect'),
    'dgc-cifar': _black,
    'dgc-imagenet': _resized,
}


def find_augmentation(name: str, size: int, fill: Sequence[float], **changes: Any) -> Any:
    """The preset called `name`, for crops of `size` and borders of colour `fill`.

    Presets of PyTorch originals have no border or a black one; they leave `fill` unused.
    `changes` are settings of the preset's transform that take the place of the preset's own.

    Raises
    ------
    UsageError
        Unknown name (the message lists all), or a value that cannot work.
    TypeError
        A change the preset has no setting for.
    """
    if name not in PRESETS:
        raise UsageError('unknown augmentation %r: must be one of %s'
                         % (name, ', '.join(sorted(PRESETS))))
    return PRESETS[name](size=size, fill=fill, **changes)
