"""``im2rec_pack.py verify|info|merge|split|extract``: what is done with record files."""

from __future__ import annotations

from typing import Callable, Dict, Tuple

from igcnet.cli.common import Parser, positive_int
from igcnet.errors import DataError

_RECORDS = {'metavar': 'PREFIX', 'help': 'record file or its prefix'}


def command_parser(name: str) -> Parser:
    """The parser of one command; its result has the function to call as ``command``."""
    text, add_arguments, command = COMMANDS[name]
    parser = Parser(prog='igcnet im2rec_pack ' + name, description=text)
    add_arguments(parser)
    parser.set_defaults(command=command)
    return parser


def _verify_arguments(parser: Parser) -> None:
    parser.add_argument('prefix', **_RECORDS)
    parser.add_argument('--num-thread', type=positive_int, help='worker processes (default: one '
                        'per core)')


def _verify(args) -> int:
    from igcnet.data.processes import allow_fork
    allow_fork()
    from igcnet.data.verifying import verify
    found = verify(args.prefix, args.num_thread, show_progress=True)
    for line in found.problems:
        print(line)
    for line in found.notes:
        print('note: %s' % line)
    if found.problems:
        raise DataError('%s: %d problems in %d records; they are listed above'
                        % (args.prefix, len(found.problems), found.records))
    print('%s: %d records, all good' % (args.prefix, found.records))
    return 0


def _info_arguments(parser: Parser) -> None:
    parser.add_argument('prefixes', nargs='+', **_RECORDS)


def _info(args) -> int:
    from igcnet.data.describing import describe
    for prefix in args.prefixes:
        print('\n'.join(describe(prefix)))
    return 0


def _merge_arguments(parser: Parser) -> None:
    parser.add_argument('out', metavar='OUT', help='prefix of the data set to write')
    parser.add_argument('prefixes', nargs='+', **_RECORDS)


def _merge(args) -> int:
    from igcnet.data.combining import merge
    count = merge(args.out, args.prefixes, show_progress=True)
    print('wrote %s.rec: %d records' % (args.out, count))
    return 0


def _split_arguments(parser: Parser) -> None:
    parser.add_argument('prefix', **_RECORDS)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument('--parts', type=int, metavar='N', help='write PREFIX_0, PREFIX_1, ... of '
                       'equal size')
    group.add_argument('--ratio', type=float, metavar='R', help='write PREFIX_train with this part '
                       'of the records, and PREFIX_val with the others')
    parser.add_argument('--stratified', action='store_true', help='take --ratio of each class')
    parser.add_argument('--seed', type=int, help='shuffle the records before; otherwise each part '
                        'keeps their order')


def _split(args) -> int:
    from igcnet.data.combining import split
    for prefix, count in split(args.prefix, args.parts, args.ratio, args.stratified, args.seed,
                               show_progress=True).items():
        print('wrote %s.rec: %d records' % (prefix, count))
    return 0


def _extract_arguments(parser: Parser) -> None:
    parser.add_argument('prefix', **_RECORDS)
    parser.add_argument('folder', metavar='FOLDER', help='where the class folders go')
    parser.add_argument('--first', type=positive_int, metavar='N',
                        help='only the first N images (default: all)')


def _extract(args) -> int:
    from igcnet.data.extracting import extract_images
    from igcnet.data.records import RecordFile
    files = extract_images(RecordFile(args.prefix), args.folder, args.first)
    print('wrote %d images into %s' % (len(files), args.folder))
    return 0


# Name -> what it does, its arguments, its function.
COMMANDS: Dict[str, Tuple[str, Callable, Callable]] = {
    'verify': ('Read every record, decode every image, and compare with index, list and manifest; '
               'every fault is a line that names file and record, and the exit code is 1.',
               _verify_arguments, _verify),
    'info': ('What a data set holds, how it was packed, and how many images each class has.',
             _info_arguments, _info),
    'merge': ('Write the records of several data sets with the same classes as one.',
              _merge_arguments, _merge),
    'split': ('Divide a data set into parts, images unchanged.', _split_arguments, _split),
    'extract': ('Write the images of a record file into one folder for each class, with their '
                'bytes unchanged.', _extract_arguments, _extract),
}
