"""The options that calibrate a slimmable network, shared by evaluate and query_table."""

from __future__ import annotations

import argparse
from typing import Any, Callable, Dict, Iterator

from igcnet.cli.common import Parser, positive_int, seed

# Presets of the original for small images and for its MobileNets on ImageNet.
SMALL_IMAGES, SMALL_PRESET, LARGE_PRESET = 64, 'mutualnet-cifar', 'mutualnet-mobile'


def add_calibration_options(parser: Parser, text: str, required: bool = False) -> None:
    """Add ``--calibrate`` with `text` as its help, and what goes with it."""
    group = parser.add_argument_group('calibration')
    group.add_argument('--calibrate', metavar='RECORDS', required=required, help=text)
    group.add_argument('--calibrate-batches', type=positive_int, default=9, metavar='N',
                       help="batches, each of which counts the same (the original's are 9)")
    group.add_argument('--calibrate-batch-size', type=positive_int, default=128, metavar='N',
                       help='images in each')
    group.add_argument('--calibrate-augmentation', metavar='NAME',
                       help='preset of `igcnet augment --list` for these images (default: %s up '
                            'to %d pixels, else %s)' % (SMALL_PRESET, SMALL_IMAGES, LARGE_PRESET))
    group.add_argument('--calibrate-seed', type=seed, default=0, metavar='N',
                       help='which images, and how they are augmented')


def calibration_facts(args: argparse.Namespace, preprocessing: Any) -> Dict[str, Any]:
    """What the running statistics depend on beside the weights, as plain values."""
    small = preprocessing.input_size <= SMALL_IMAGES
    return {'records': args.calibrate, 'batches': args.calibrate_batches,
            'batch_size': args.calibrate_batch_size,
            'augmentation': args.calibrate_augmentation or (SMALL_PRESET if small
                                                            else LARGE_PRESET),
            'seed': args.calibrate_seed}


def calibration_batches(args: argparse.Namespace,
                        preprocessing: Any) -> Callable[[], Iterator[Any]]:
    """A function that gives the batches of training images, the same ones at each call.

    Raises
    ------
    UsageError, DataError
        Unknown preset, missing or damaged records.
    """
    from igcnet.data.augment import find_augmentation
    from igcnet.data.reader import TrainReader
    from igcnet.train.calibrate import first_batches
    facts = calibration_facts(args, preprocessing)
    augmentation = find_augmentation(facts['augmentation'], preprocessing.input_size,
                                     tuple(int(round(value)) for value in preprocessing.mean))
    # So few images of a large file that keeping all of it would not pay.
    reader = TrainReader(facts['records'], facts['batch_size'], augmentation, facts['seed'],
                         mean=preprocessing.mean, std=preprocessing.std, memory_limit=0)
    return lambda: first_batches(reader, facts['batches'])
