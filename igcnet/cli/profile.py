"""``igcnet profile NAME``: the layers of a network with their exact counts."""

from __future__ import annotations

import json
from typing import List, Optional

from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.network_options import add_network_options, network_from


def build_parser() -> Parser:
    parser = Parser(prog='igcnet profile', description='Output shape, trainable parameters and '
                    'multiply-adds of every layer, for one image. Multiply-adds are those of '
                    'convolutions and fully connected layers, without bias.')
    add_network_options(parser, positional=True)
    parser.add_argument('--input-size', type=positive_int, metavar='N',
                        help="height and width of the image (default: the configuration's)")
    parser.add_argument('--all', action='store_true',
                        help='also operators without parameters: ReLU, pooling, shuffles, sums')
    output = parser.add_mutually_exclusive_group()
    output.add_argument('--json', action='store_true', help='print JSON')
    output.add_argument('--csv', action='store_true', help='print the layers as CSV')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run ``igcnet profile``; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    spec, overrides = network_from(args)
    from igcnet.profiling import format_csv, format_table, profile
    from igcnet.registry import get_model

    settings = {**spec.settings(), **overrides}
    size = args.input_size or spec.preprocessing.input_size
    counted = profile(get_model(spec.name, **overrides), (1, 3, size, size))
    if args.json:
        print(json.dumps({'network': spec.name, 'settings': settings, **counted.as_dict(args.all)},
                         indent=2))
    elif args.csv:
        print(format_csv(counted, args.all), end='')
    else:
        print('%s (%s), input %dx%d' % (
            spec.name, ', '.join('%s=%s' % item for item in settings.items()), size, size))
        print(format_table(counted, args.all))
    return 0
