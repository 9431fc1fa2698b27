"""``igcnet compare_originals``: all checkpoints of the originals below a folder, both ways."""

from __future__ import annotations

import tempfile
from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, run
from igcnet.cli.verification import tolerance
from igcnet.errors import CheckpointError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet compare_originals',
        description="Convert every original's checkpoint below a folder to MXNet and back. The "
                    'logits of the exported network are compared with the stored ones, the file '
                    'written back with the original: keys, order, types, every bit. A case is '
                    'CASE.json with the facts, the checkpoint, and CASE.npz with x and logits.')
    parser.add_argument('folder', metavar='FOLDER', help='folder with the cases')
    parser.add_argument('--tolerance', type=tolerance, default=1e-4, metavar='NUMBER',
                        help='largest difference of logits')
    parser.add_argument('--keep', metavar='FOLDER',
                        help='write the converted files there (default: throw them away)')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(0)
    from igcnet.deploy.originals import compare_all, find_cases, format_rows
    from igcnet.progress import Progress

    rows = []
    with tempfile.TemporaryDirectory() as scratch, \
            Progress(len(find_cases(args.folder)), 'converting', 'checkpoints') as progress:
        for row in compare_all(args.folder, args.keep or scratch, args.tolerance):
            rows.append(row)
            progress.advance(1)
    print(format_rows(rows))
    wrong = sum(not row.sound for row in rows)
    if wrong:
        raise CheckpointError('%d of %d checkpoints are not as they should be'
                              % (wrong, len(rows)))
    return 0
