"""What a run reads: its record files, and the readers of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import List, NamedTuple

from igcnet.data.augment import find_augmentation
from igcnet.data.benchmark import Rate, timed_epoch
from igcnet.data.datasets import DataSet, describe_records, find_dataset
from igcnet.data.reader import TrainReader
from igcnet.data.records import RecordFile
from igcnet.errors import UsageError
from igcnet.train.methods import find_method
from igcnet.train.settings import RunSettings
from igcnet.train.workers import ALONE, Alone


class Data(NamedTuple):
    """The two record files of a run, and what is known about them."""

    facts: DataSet
    train: RecordFile
    validation: RecordFile


def open_data(settings: RunSettings) -> Data:
    """Open and check the records of a run.

    Raises
    ------
    UsageError, DataError
        Unknown data set, missing or damaged records.
    """
    known = settings.dataset != 'records'
    facts = None
    if known:
        facts = find_dataset(settings.dataset + ('_fb' if settings.fb_mean else ''))
    folder = Path(settings.data_dir or 'data/' + settings.dataset)
    train = RecordFile(folder / settings.train_dataset)
    validation = RecordFile(folder / settings.val_dataset)
    if facts is None:
        facts = describe_records(train, settings.mean_rgb, settings.std_rgb,
                                 settings.data_shape or 32)
    elif settings.data_shape not in (None, facts.data_shape):
        raise UsageError('--data-shape %d: %s has %d; use --dataset records for records of your own'
                         % (settings.data_shape, facts.name, facts.data_shape))
    else:
        facts = replace(facts, mean=settings.mean_rgb or facts.mean,
                        std=settings.std_rgb or facts.std)
    return Data(facts, train, validation)


def with_augmentation(settings: RunSettings) -> RunSettings:
    """`settings` with the data set's own augmentation type where the recipe leaves it open."""
    if settings.recipe.aug_type is not None or settings.recipe.augmentation is not None:
        return settings
    known = settings.dataset != 'records'
    return settings.changed(aug_type=find_dataset(settings.dataset).aug_type if known else 1)


def make_reader(settings: RunSettings, data: Data, workers: Alone = ALONE) -> TrainReader:
    """The reader of a worker's part of the training images."""
    facts, recipe = data.facts, settings.recipe
    find_method(recipe.method).check_input(recipe, facts.data_shape)
    augmentation = find_augmentation(recipe.augmentation or facts.augmentation(recipe.aug_type),
                                     facts.data_shape, facts.fill)
    return TrainReader(data.train, recipe.batch_size // workers.size, augmentation,
                       settings.rand_seed, workers.rank, workers.size,
                       threads=settings.decode_threads, mean=facts.mean, std=facts.std,
                       on_bad=settings.on_bad)


def with_seed(settings: RunSettings) -> RunSettings:
    """`settings` with a seed from the clock where none was given."""
    if settings.rand_seed is not None:
        return settings
    return replace(settings, rand_seed=int(time.time()))


def test_io(settings: RunSettings, workers: Alone = ALONE) -> List[Rate]:
    """Read an epoch as training would, without the network; two, if images stay in memory."""
    settings = with_seed(with_augmentation(settings))
    reader = make_reader(settings, open_data(settings), workers)
    rates = [timed_epoch(reader, 0)]
    if reader.in_memory:
        rates.append(timed_epoch(reader, 1))
    return rates
