"""``igcnet data bench``: how fast a record file is read, decoded and augmented."""

from __future__ import annotations

import argparse
from typing import List, Optional

from igcnet.cli.common import Parser, positive_int, run
from igcnet.errors import DataError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet data', description='Work on record files.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    bench = commands.add_parser(
        'bench', prog='igcnet data bench', formatter_class=argparse.HelpFormatter,
        help='images/s of reading and of the augmentation presets',
        description='Images per second of reading and decoding in one thread, and of batches '
                    'of the training reader for each augmentation preset: decoded each time, '
                    'and from memory, where images of one size are kept.')
    bench.add_argument('records', metavar='RECORDS', help='record file or its prefix')
    bench.add_argument('--preset', action='append', metavar='NAME',
                       help='only this preset; may be repeated (default: all)')
    bench.add_argument('--size', type=positive_int, metavar='N',
                       help='height and width of the crops (default: 224, or the shorter side of '
                            'the first image if that is smaller)')
    bench.add_argument('--batch-size', type=positive_int, default=64, metavar='N',
                       help='images in a batch (default: 64)')
    bench.add_argument('--decode-threads', type=positive_int, default=0, metavar='N',
                       help='threads of the reader (default: one for each core)')
    bench.add_argument('--seconds', type=_seconds, default=0.5, metavar='S',
                       help='time for each number (default: 0.5)')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    from igcnet.data import benchmark
    from igcnet.data.augment import PRESETS, find_augmentation
    from igcnet.data.records import RecordFile
    from igcnet.progress import format_count
    records = RecordFile(args.records)
    size = args.size or benchmark.usual_size(records)
    names = args.preset or sorted(PRESETS)
    for name in names:
        find_augmentation(name, size, benchmark.MEAN)
    print('%s: %d images, crops of %dx%d, batches of %d'
          % (records.paths.rec, len(records), size, size, args.batch_size))
    row = '%%-%ds  %%12s  %%12s' % max(map(len, [*names, 'one thread: decoded']))
    print(row % ('images/s', 'from records', 'from memory'))
    for what, measure in (('read', benchmark.reading_rate), ('decoded', benchmark.decoding_rate)):
        print(row % ('one thread: ' + what,
                     format_count(measure(records, args.seconds).per_second), ''))
    for name in names:
        try:
            rates = benchmark.preset_rates(records, name, size, args.batch_size,
                                           args.decode_threads, args.seconds)
        except DataError as problem:
            print('%s: %s' % (name, problem))
            continue
        print(row % (name, *('' if rate is None else format_count(rate.per_second)
                             for rate in rates)), flush=True)
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError('%r is not a number of seconds' % text)
    return value
