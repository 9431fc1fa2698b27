"""``igcnet extract``: image files out of a record file."""

from __future__ import annotations

from typing import List, Optional

from igcnet.cli.common import Parser, positive_int, run


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet extract',
                    description='Write the images of a record file into one folder for each '
                                'class, with their bytes unchanged.')
    parser.add_argument('records', metavar='RECORDS', help='record file or its prefix')
    parser.add_argument('folder', metavar='FOLDER', help='where the class folders go')
    parser.add_argument('--first', type=positive_int, metavar='N',
                        help='only the first N images (default: all)')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    from igcnet.data.extracting import extract_images
    from igcnet.data.records import RecordFile
    files = extract_images(RecordFile(args.records), args.folder, args.first)
    print('wrote %d images into %s' % (len(files), args.folder))
    return 0
