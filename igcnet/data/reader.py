"""Reading batches exactly: every image once, in an order that can be repeated and resumed.

MXNet's `ImageRecordIter` repeats images in evaluation, ignores options it does not know, can't
repeat or resume its order and dies on damaged files; these readers take its place.
"""

from __future__ import annotations

from functools import partial
from typing import Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from igcnet.data.background import in_background
from igcnet.data.crops import CropMirror
from igcnet.data.loading import Loader, check_at_least, decode_all, split
from igcnet.data.randomness import check_seed, permutation, uniforms
from igcnet.data.records import RecordFile
from igcnet.data.sources import RecordSource, open_source
from igcnet.data.transforms import Normalisation, ResizeCrop, check_choice, resize_aligned
from igcnet.errors import DataError, UsageError
from igcnet.files import PathLike
from igcnet.registry import Preprocessing

LAST_BATCH = ('wrap', 'discard')
# Pixels that one call of a background thread makes: so few that closing is prompt, so many that
# what a call costs by itself does not count.
CHUNK_PIXELS = 1 << 18
QUICK_SIZE = 64


class TrainReader:
    """Shuffled, augmented batches of a record file.

    The order of an epoch depends on (seed, epoch) only, the augmentation of an image on (seed,
    epoch, record) only: neither depends on batch size, threads or number of parts, and an epoch
    can be begun at any step.

    Parameters
    ----------
    records : RecordFile or path
        The training images.
    batch_size : int
        Images in a batch of this part.
    augmentation
        From `igcnet.data.augment.find_augmentation`.
    seed : int
        Of order and augmentation.
    part_index, num_parts : int
        This worker's number and the number of workers. At each step the workers share
        ``num_parts * batch_size`` successive images of the epoch's order, so that they see
        together what one worker with the whole batch would see.
    threads : int
        Background threads; 0: one for each core this process may use.
    mean, std : sequence of three floats
        RGB, in units of 0..255: input = (pixel - mean) / std.
    last_batch : {'wrap', 'discard'}
        What happens when the images do not fill the last step: it is filled from the beginning
        of the same epoch's order, or left out. (The original fills it too, but starts the next
        epoch behind the images it used for that.)
    on_bad : {'error', 'skip'}
        An unreadable image raises `DataError`, or the next readable one in the epoch's order
        stands in for it; `bad` lists them.
    resolutions : sequence of int
        MutualNet's inputs: each batch comes in all of these sizes, made from the same normalised
        pixels by `igcnet.data.transforms.resize_aligned`.
    memory_limit : int
        Images that have all the same size and need at most so many bytes are decoded once, in
        the first epoch, and kept. The batches do not depend on it.

    Attributes
    ----------
    steps_per_epoch : int
        Batches in an epoch, the same for every part.
    bad : dict of int to str
        Record number and reason of each unreadable image met so far.
    in_memory : bool
        Whether the decoded images are kept; known once an epoch has been begun.

    Raises
    ------
    UsageError
        A value that cannot work, also a discarded last step that was the only one.
    DataError
        Missing or damaged record file.
    """

    def __init__(self, records: Union[RecordFile, PathLike], batch_size: int, augmentation,
                 seed: int, part_index: int = 0, num_parts: int = 1, threads: int = 0, *,
                 mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1),
                 last_batch: str = 'wrap', on_bad: str = 'error', resolutions: Sequence[int] = (),
                 memory_limit: int = 512 << 20):
        check_at_least('batch_size', batch_size, 1)
        check_part(part_index, num_parts)
        check_at_least('threads', threads, 0)
        check_at_least('memory_limit', memory_limit, 0)
        check_choice('last_batch', last_batch, LAST_BATCH)
        for size in resolutions:
            check_at_least('resolutions', size, 1)
        self.records = records if isinstance(records, RecordFile) else RecordFile(records)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = check_seed(seed)
        self.part_index = part_index
        self.num_parts = num_parts
        self.threads = threads
        self.resolutions = tuple(resolutions)
        self.memory_limit = memory_limit
        self._loader = Loader(RecordSource(self.records), augmentation, Normalisation(mean, std),
                              on_bad)
        self._decoded = None  # False when the images do not fit into memory
        total = batch_size * num_parts
        whole_steps, rest = divmod(len(self.records), total)
        self.steps_per_epoch = whole_steps + (rest > 0 and last_batch == 'wrap')
        if not self.steps_per_epoch:
            raise UsageError("batch_size=%d in %d parts: %s holds only %d images; take a smaller "
                             "batch, or last_batch='wrap'"
                             % (batch_size, num_parts, self.records.paths.rec, len(self.records)))

    @property
    def bad(self):
        return self._loader.bad

    @property
    def in_memory(self) -> bool:
        return bool(self._decoded)

    def epoch(self, number: int, start_step: int = 0
              ) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """The batches of one epoch.

        Parameters
        ----------
        number : int
            Number of the epoch, from 0.
        start_step : int
            Leave out so many steps; the others are what they are in the whole epoch.

        Yields
        ------
        images : numpy.ndarray
            float32 (batch_size, 3, H, W), RGB, normalised; a tuple of them, one for each of
            `resolutions`, if there are any.
        labels : numpy.ndarray
            float32 (batch_size,), the first label of each record.

        Raises
        ------
        UsageError
            There is no such step.
        DataError
            An image that can't be read, named by record file, position and key.
        """
        check_at_least('epoch', number, 0)
        check_at_least('start_step', start_step, 0)
        if start_step > self.steps_per_epoch:
            raise UsageError('start_step=%d: an epoch has %d steps'
                             % (start_step, self.steps_per_epoch))
        if self._decoded is None:
            self._decoded = decode_all(self._loader, self.memory_limit, self.threads) or False
        order = permutation(self.seed, number, len(self.records))
        jobs = (self._job(order, number, step)
                for step in range(start_step, self.steps_per_epoch))
        return in_background(jobs, 1 if self._is_quick() else self.threads)

    def _is_quick(self) -> bool:
        """Whether a batch takes so little that threads would mostly wait for Python's lock."""
        return (self.in_memory and isinstance(self.augmentation, CropMirror)
                and self.augmentation.size <= QUICK_SIZE)

    def _job(self, order: np.ndarray, epoch: int, step: int):
        """The batch of one step, still empty, and the functions that fill it."""
        begin = (step * self.num_parts + self.part_index) * self.batch_size
        images = self._loader.empty_images(self.batch_size)
        labels = np.empty(self.batch_size, np.float32)
        sizes = tuple(images if size == images.shape[2] else
                      np.empty((self.batch_size, 3, size, size), np.float32)
                      for size in self.resolutions)
        return (sizes or images, labels), [
            partial(self._fill_rows, order, epoch, begin, rows, images, labels, sizes)
            for rows in split(self.batch_size, _chunk(images))]

    def _fill_rows(self, order: np.ndarray, epoch: int, begin: int, rows: range,
                   images: np.ndarray, labels: np.ndarray, sizes: Sequence[np.ndarray]) -> None:
        """Fill some rows of a batch, in all its sizes."""
        rows = slice(rows.start, rows.stop)
        fill = self._fill_from_memory if self._decoded else self._fill
        fill(order, epoch, begin + rows.start, images[rows], labels[rows])
        for smaller in sizes:
            if smaller is not images:
                resize_aligned(images[rows], smaller.shape[2], smaller[rows])

    def _fill(self, order: np.ndarray, epoch: int, begin: int, images: np.ndarray,
              labels: np.ndarray) -> None:
        """Fill `images` and `labels` with what stands at `begin` ... of the epoch's order."""
        loaded = []
        for slot in range(begin, begin + len(labels)):
            one = self._loader.load(int(order[slot % len(order)])) or next(
                filter(None, map(self._loader.load, _following(order, slot))), None)
            if one is None:
                raise DataError(self._loader.bad_examples())
            loaded.append(one)
        labels[:] = [one.label for one in loaded]
        randoms = self._randoms(epoch, [one.position for one in loaded])
        self._loader.render([one.image for one in loaded], randoms, images)

    def _fill_from_memory(self, order: np.ndarray, epoch: int, begin: int, images: np.ndarray,
                          labels: np.ndarray) -> None:
        """As `_fill`, by whole arrays."""
        decoded = self._decoded
        positions = order[np.arange(begin, begin + len(labels)) % len(order)]
        for row in np.flatnonzero(~decoded.readable[positions]):
            positions[row] = next(filter(decoded.readable.__getitem__,
                                         _following(order, begin + row)))
        labels[:] = decoded.labels[positions]
        self._loader.normalisation(
            self.augmentation(decoded.images[positions], self._randoms(epoch, positions)), images)

    def _randoms(self, epoch: int, positions) -> np.ndarray:
        return uniforms(self.seed, epoch, positions, self.augmentation.draws)


class EvalBatch(NamedTuple):
    """Some images of an evaluation.

    ``images`` is float32 (B, 3, H, W), ``labels`` float32 (B,), or None where the source has
    none, ``positions`` int64 (B,) in the order of the source.
    """

    images: np.ndarray
    labels: Optional[np.ndarray]
    positions: np.ndarray


class EvalReader:
    """Every image of a source exactly once, in its order, for any batch size.

    Parameters
    ----------
    source : path, list of paths, RecordFile, or a source of `igcnet.data.sources`
        A record file, a folder of class folders, a folder of images, or image files.
    batch_size : int
        Images in a batch; the last one is shorter when they do not fill it.
    preprocessing : Preprocessing
        Of the network: input size, resizing, mean and deviation.
    transform : optional
        Takes the place of the preprocessing's geometry, such as the original's for records of
        ImageNet (`find_augmentation('igc-imagenet-validation', ...)`). It must not be random.
    classes : sequence of str, optional
        Class names by number, for a folder of class folders; its sorted names without them.
    threads : int
        Background threads; 0: one for each core this process may use.
    on_bad : {'error', 'skip'}
        An unreadable image raises `DataError`, or is left out and noted in `bad`.
    part_index, num_parts : int
        Read only every `num_parts`-th batch, from number `part_index` on.

    Attributes
    ----------
    source
        With ``name(position)`` for each image, ``labelled`` and ``classes``.
    bad : dict of int to str
        Position and reason of each unreadable image met so far.

    Raises
    ------
    UsageError
        A value that cannot work.
    DataError
        Missing, damaged or empty source.
    """

    def __init__(self, source, batch_size: int, preprocessing: Preprocessing, transform=None,
                 classes: Optional[Sequence[str]] = None, threads: int = 0,
                 on_bad: str = 'error', part_index: int = 0, num_parts: int = 1):
        check_at_least('batch_size', batch_size, 1)
        check_at_least('threads', threads, 0)
        check_part(part_index, num_parts)
        transform = transform or ResizeCrop.of(preprocessing)
        if transform.draws:
            raise UsageError('transform=%s: random, so it cannot serve evaluation' % (transform,))
        self.source = open_source(source, classes)
        self.batch_size = batch_size
        self.threads = threads
        self._parts = slice(part_index, None, num_parts)
        self._loader = Loader(self.source, transform,
                              Normalisation(preprocessing.mean, preprocessing.std), on_bad)

    def __len__(self) -> int:
        """Number of images, the unreadable included."""
        return len(self.source)

    @property
    def bad(self):
        return self._loader.bad

    def __iter__(self) -> Iterator[EvalBatch]:
        jobs = map(self._job, split(len(self.source), self.batch_size)[self._parts])
        for batch, good in in_background(jobs, self.threads):
            if good.all():
                yield batch
            elif good.any():
                yield EvalBatch(*(None if array is None else array[good] for array in batch))

    def _job(self, positions: range):
        count = len(positions)
        batch = EvalBatch(self._loader.empty_images(count),
                          np.empty(count, np.float32) if self.source.labelled else None,
                          np.array(positions))
        good = np.zeros(count, bool)
        return (batch, good), [partial(self._fill, batch, good, rows)
                               for rows in split(count, _chunk(batch.images))]

    def _fill(self, batch: EvalBatch, good: np.ndarray, rows: range) -> None:
        loaded = {row: self._loader.load(int(batch.positions[row])) for row in rows}
        kept = [row for row in rows if loaded[row] is not None]
        if not kept:
            return
        images = self._loader.empty_images(len(kept))
        self._loader.render([loaded[row].image for row in kept], np.empty((len(kept), 0)), images)
        batch.images[kept] = images
        if batch.labels is not None:
            batch.labels[kept] = [loaded[row].label for row in kept]
        good[kept] = True


def check_part(part_index: int, num_parts: int) -> None:
    """Raise `UsageError` unless there can be such a part."""
    check_at_least('num_parts', num_parts, 1)
    check_at_least('part_index', part_index, 0)
    if part_index >= num_parts:
        raise UsageError('part_index=%d: must be below num_parts=%d' % (part_index, num_parts))


def _chunk(images: np.ndarray) -> int:
    """Images of a batch that are made by one call."""
    return max(1, CHUNK_PIXELS // images[0, 0].size) if len(images) else 1


def _following(order: np.ndarray, slot: int) -> Iterator[int]:
    """Records from one place of the order on, once round."""
    return (int(order[(slot + step) % len(order)]) for step in range(len(order)))
