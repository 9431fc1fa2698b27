"""How the records of each paper are packed, as far as that is known."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple


class PackingPreset(NamedTuple):
    """Options of `igcnet.data.encoding.Encoding`, and a sentence about where they come from."""

    options: Dict[str, Any]
    note: str


_LOSSLESS = {'encoding': '.png', 'quality': 9}
_ORIGINAL_FILES = {'pass_through': True}

PRESETS: Dict[str, PackingPreset] = {
    # hellozting/InterleavedGroupConvolutions, train_model.py and train_imagenet.py.
    'igc-imagenet': PackingPreset(
        {'resize': 480, 'quality': 95, 'encoding': '.jpg', 'interp': 'bilinear'},
        "the scripts of IGC read records with the shorter side at 480; its JPEG quality and "
        "interpolation are not known, 95 and bilinear are those of MXNet's im2rec"),
    # homles11/IGCV3, train_imagenet.py: scales from 0.533, as in IGC, so that 480 becomes 256.
    'igcv3-imagenet': PackingPreset(
        {'resize': 480, 'quality': 95, 'encoding': '.jpg', 'interp': 'bilinear'},
        'the scripts of IGCV3 read records at scales from 0.533 and cut out 224 pixels, which fits '
        "a shorter side of 480; quality and interpolation are those of MXNet's im2rec"),
    'igc-small': PackingPreset(
        _LOSSLESS,
        'how IGC coded its records of CIFAR and SVHN is not known; PNG keeps the published pixels'),
    # The loaders of these repositories open the data set's own files.
    'menet-imagenet': PackingPreset(
        _ORIGINAL_FILES, "clavichord93/MENet reads ImageNet's own files; their bytes are kept"),
    'mutualnet-imagenet': PackingPreset(
        _ORIGINAL_FILES, "taoyang1122/MutualNet reads ImageNet's own files; their bytes are kept"),
    'dgc-imagenet': PackingPreset(
        _ORIGINAL_FILES,
        "the authors' code of dynamic group convolution reads ImageNet's own files; their bytes "
        'are kept'),
}
