"""How many images a second: reading, decoding, each augmentation preset."""

from __future__ import annotations

import time
from typing import Callable, Iterator, NamedTuple, Optional

from igcnet.data.augment import find_augmentation
from igcnet.data.images import decode_image
from igcnet.data.reader import TrainReader
from igcnet.data.records import RecordFile
from igcnet.progress import format_count

# Of ImageNet; the speed does not depend on them.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Rate(NamedTuple):
    """So many images in so many seconds."""

    images: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Images a second."""
        return self.images / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        return '%d images in %.2f s, %s images/s' % (self.images, self.seconds,
                                                     format_count(self.per_second))


class PresetRates(NamedTuple):
    """Images a second of one preset; `from_memory` is None if they are not kept there."""

    decoding: Rate
    from_memory: Optional[Rate]


def timed_epoch(reader: TrainReader, number: int) -> Rate:
    """Read one epoch; decoding into memory counts."""
    begin = time.perf_counter()
    images = sum(len(labels) for _, labels in reader.epoch(number))
    return Rate(images, time.perf_counter() - begin)


def reading_rate(records: RecordFile, seconds: float) -> Rate:
    """One thread that reads records without decoding them."""
    return _for_a_while(records, records.read_image, seconds)


def decoding_rate(records: RecordFile, seconds: float) -> Rate:
    """One thread that reads and decodes."""
    return _for_a_while(records, lambda position: decode_image(
        records.read_image(position)[1], records.where(position)), seconds)


def preset_rates(records: RecordFile, name: str, size: int, batch_size: int = 64,
                 threads: int = 0, seconds: float = 1.0) -> PresetRates:
    """Batches of a `TrainReader` with a preset: decoded each time, and from memory.

    Raises
    ------
    DataError
        The preset can't work on these images.
    """
    augmentation = find_augmentation(name, size, MEAN)

    def reader(**settings) -> TrainReader:
        return TrainReader(records, batch_size, augmentation, 0, threads=threads, mean=MEAN,
                           std=STD, **settings)
    decoding = _reader_rate(reader(memory_limit=0), seconds)
    kept = reader()
    kept.epoch(0).close()
    return PresetRates(decoding, _reader_rate(kept, seconds) if kept.in_memory else None)


def usual_size(records: RecordFile) -> int:
    """224, or the shorter side of the first image if that is smaller."""
    image = decode_image(records.read_image(0)[1], records.where(0))
    return min(224, *image.shape[:2])


def _reader_rate(reader: TrainReader, seconds: float) -> Rate:
    images = 0
    begin = time.perf_counter()
    for labels in _labels(reader):
        images += len(labels)
        if time.perf_counter() - begin >= seconds:
            break
    return Rate(images, time.perf_counter() - begin)


def _labels(reader: TrainReader) -> Iterator:
    """The labels of one epoch after the other, without end."""
    number = 0
    while True:
        for _, labels in reader.epoch(number):
            yield labels
        number += 1


def _for_a_while(records: RecordFile, do: Callable[[int], object], seconds: float) -> Rate:
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        do(count % len(records))
        count += 1
    return Rate(count, time.perf_counter() - begin)
