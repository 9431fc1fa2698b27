"""``igcnet release``: the network of a training run as released weights."""

from __future__ import annotations

from typing import List, Optional

from igcnet.cli.common import Parser, positive_int, run


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet release',
        description='Write the network of a training run as released weights: a parameter file '
                    'and a manifest with its settings, class names, preprocessing, the accuracy '
                    'that the run has recorded, and the command that trains it again. The '
                    'network is that of the end of the run, with averaged weights where the '
                    'recipe averages.')
    parser.add_argument('run', metavar='RUN', help='folder of the run')
    parser.add_argument('--output', required=True, metavar='FOLDER',
                        help="where the two files go; igcnet/weights are the package's own")
    parser.add_argument('--epoch', type=positive_int, metavar='N',
                        help='take the checkpoint after N epochs (default: the last of the run)')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    from igcnet.cli.train_command import train_command
    from igcnet.deploy.released import read_release
    from igcnet.train.release import release
    from igcnet.train.settings import read_settings

    params, manifest = release(args.run, args.output, train_command(read_settings(args.run)),
                               args.epoch)
    print('wrote %s and %s' % (params, manifest))
    print('%s, %s' % (params.stem, read_release(params).accuracy()))
    return 0
