"""``igcnet list``: what can be built, its exact counts and its published figures."""

from __future__ import annotations

import json
from typing import List, Optional

from igcnet.cli.common import Parser, run
from igcnet.errors import UsageError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet list', description='Names for --network, with trainable '
                    'parameters and multiply-adds (convolutions and fully connected layers, '
                    'without bias, for one image), the figures published for them, and the '
                    'accuracy of the weights that come with the package.')
    parser.add_argument('pattern', nargs='?', default='*',
                        help="names to show, such as 'resnet*'")
    output = parser.add_mutually_exclusive_group()
    output.add_argument('--json', action='store_true', help='print JSON')
    output.add_argument('--markdown', action='store_true', help='print a Markdown table')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run ``igcnet list``; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    from igcnet.deploy.released import summaries
    from igcnet.profiling.report import align
    from igcnet.profiling.table import network_row, networks_markdown
    from igcnet.registry import list_models

    names = list_models(args.pattern)
    if not names:
        raise UsageError("no network is called %r; a pattern such as '*%s*' finds parts of names"
                         % (args.pattern, args.pattern.strip('*')))
    if args.markdown:
        print(networks_markdown(names, summaries()))
        return 0
    weights = summaries()
    rows = [network_row(name, weights) for name in names]
    if args.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
        return 0
    header = ('name', 'input', 'parameters', 'multiply-adds', 'published params', 'published macs',
              'top-1 error', 'top-5 error', 'released weights')
    print('\n'.join(align(header, [
        (row.name, '%d' % row.input_size, '{:,}'.format(row.parameters),
         '{:,}'.format(row.macs), *row.figures, row.weights or '-')
        for row in rows], right=range(1, 8))))
    return 0
