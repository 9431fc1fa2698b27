"""Decoding and transforming the images of a source, with one rule for bad ones."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from igcnet.data.background import in_background
from igcnet.data.images import decode_image
from igcnet.data.memory import keep_freed_memory
from igcnet.data.sources import Place
from igcnet.data.transforms import Normalisation, check_choice
from igcnet.errors import DataError, UsageError

ON_BAD = ('error', 'skip')


class Loaded(NamedTuple):
    """One decoded image: uint8 (H, W, 3) RGB; `label` is None where the source has none."""

    position: int
    label: Optional[float]
    image: np.ndarray


class Loader:
    """Images of a source as the network sees them.

    Parameters
    ----------
    source
        See `igcnet.data.sources`.
    transform
        See `igcnet.data.transforms`.
    normalisation : Normalisation
        Of the transformed pixels.
    on_bad : {'error', 'skip'}
        What an image does that can't be read, decoded or transformed: raise `DataError`, or be
        left out and noted in `bad`.

    Attributes
    ----------
    bad : dict of int to str
        Position and reason of each image left out so far.
    """

    def __init__(self, source, transform, normalisation: Normalisation, on_bad: str = 'error'):
        check_choice('on_bad', on_bad, ON_BAD)
        keep_freed_memory()
        self.source = source
        self.transform = transform
        self.normalisation = normalisation
        self.skip = on_bad == 'skip'
        self.bad: Dict[int, str] = {}

    def load(self, position: int) -> Optional[Loaded]:
        """The decoded image, or None when it is bad and to be skipped."""
        if position in self.bad:
            return None
        where = Place(self.source, position)
        try:
            label, data = self.source.read(position)
            image = decode_image(data, where)
            self._check_size(image, where)
        except DataError as problem:
            if not self.skip:
                raise
            self.bad[position] = str(problem)
            return None
        return Loaded(position, label, image)

    def render(self, images: Sequence[np.ndarray], randoms: np.ndarray, out: np.ndarray) -> None:
        """Transform and normalise `images` (H, W, 3) into `out`, float32 (N, 3, size, size)."""
        if len({image.shape for image in images}) == 1:
            self.normalisation(self.transform(_stacked(images), randoms), out)
        else:
            for number, image in enumerate(images):
                one = slice(number, number + 1)
                self.normalisation(self.transform(image[None], randoms[one]), out[one])

    def empty_images(self, count: int) -> np.ndarray:
        """Room for `count` rendered images."""
        size = self.transform.size
        return np.empty((count, 3, size, size), np.float32)

    def bad_examples(self) -> str:
        """How many images are bad, and the reason of the first."""
        first = self.bad[min(self.bad)]
        return '%d of %d images are unreadable, the first: %s' % (
            len(self.bad), len(self.source), first)

    def _check_size(self, image: np.ndarray, where: Place) -> None:
        try:
            self.transform.check(*image.shape[:2])
        except DataError as problem:
            raise DataError('%s: %s' % (where, problem)) from None


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one shape as one array.

    numpy's `stack` gives up Python's lock for each of them, which costs more than to copy a small
    image when another thread waits for it.
    """
    return np.frombuffer(b''.join(images), np.uint8).reshape(len(images), *images[0].shape)


class Decoded(NamedTuple):
    """All images of a source in memory.

    ``images`` is uint8 (N, H, W, 3), of any content where it is not ``readable``; ``labels``
    float32 (N,), ``readable`` bool (N,).
    """

    images: np.ndarray
    labels: np.ndarray
    readable: np.ndarray


class _SizesDifferError(Exception):
    pass


def decode_all(loader: Loader, limit: int, threads: int) -> Optional[Decoded]:
    """Decode a labelled source whose images have one size and need at most `limit` bytes.

    Returns None for other sources. Raises `DataError` when no image is readable.
    """
    count = len(loader.source)
    first = next(filter(None, map(loader.load, range(count))), None)
    if first is None:
        raise DataError(loader.bad_examples())
    if count * first.image.size > limit:
        return None
    decoded = Decoded(np.empty((count,) + first.image.shape, np.uint8),
                      np.zeros(count, np.float32), np.zeros(count, bool))

    def decode(positions: range) -> None:
        loaded = list(filter(None, map(loader.load, positions)))
        if any(one.image.shape != first.image.shape for one in loaded):
            raise _SizesDifferError
        if loaded:
            places = [one.position for one in loaded]
            decoded.images[places] = _stacked([one.image for one in loaded])
            decoded.labels[places] = [one.label for one in loaded]
            decoded.readable[places] = True

    jobs = ((None, [partial(decode, positions)]) for positions in split(count, 256))
    try:
        for _ in in_background(jobs, threads, ahead=8):
            pass
    except _SizesDifferError:
        return None
    return decoded


def check_at_least(name: str, value: Any, smallest: int) -> None:
    """Refuse a value that is not a whole number of at least `smallest`."""
    if not isinstance(value, (int, np.integer)) or value < smallest:
        raise UsageError('%s=%r: must be a whole number of at least %d' % (name, value, smallest))


def split(count: int, length: int) -> List[range]:
    """0 .. count-1 in pieces of at most `length`."""
    return [range(begin, min(begin + length, count)) for begin in range(0, count, length)]
