"""``igcnet torch_to_mxnet``: an original's checkpoint as a network of ours."""

from __future__ import annotations

from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, run
from igcnet.cli.network_options import add_network_options, network_from
from igcnet.cli.verification import add_verify_options, verify


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet torch_to_mxnet',
        description="Convert a checkpoint of a network's original. Every entry must be explained: "
                    'a parameter that is missing, has another shape, or that the network does not '
                    'know is an error. The file is read without being executed.')
    add_network_options(parser)
    files = parser.add_argument_group('files')
    files.add_argument('--input', required=True, metavar='FILE',
                       help='checkpoint of the PyTorch original (.pth.tar, .pt, ...), or a '
                            '.params file of an MXNet original')
    files.add_argument('--output', required=True, metavar='PREFIX',
                       help='write PREFIX-symbol.json, PREFIX-0000.params and '
                            'PREFIX-manifest.json, for evaluate and predict; PREFIX-origin.pt '
                            'keeps the rest of a PyTorch file for the way back')
    parser.add_argument('--allow-missing', action='store_true',
                        help='take over what fits; the rest keeps its initial values')
    parser.add_argument('--list', action='store_true', help='name every converted entry')
    add_verify_options(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(0)
    from igcnet.convert.torch_convert import MismatchError
    from igcnet.deploy.conversion import to_mxnet

    spec, settings = network_from(args)
    try:
        done = to_mxnet(spec, settings, args.input, args.output, args.allow_missing)
    except MismatchError as problem:
        print(problem.report.table(args.list))
        raise
    if done.report is not None:
        print(done.report.table(args.list))
    for path in filter(None, (done.symbol, done.params, done.origin)):
        print('wrote %s' % path)
    if done.symbol is None:
        print('no symbol file: the network has several widths; give --network %s --params %s'
              % (spec.name, done.params))
    return verify(args, done.load(spec, settings), spec, done.values)
