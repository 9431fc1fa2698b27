"""``igcnet cut``: one width of a slimmable network as an ordinary exported network."""

from __future__ import annotations

from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.source import add_trained_options, load_source
from igcnet.errors import UsageError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet cut',
        description='Write the sub-network of one --width of a slimmable network as PREFIX-'
                    'symbol.json, PREFIX-0000.params and PREFIX-manifest.json: an ordinary '
                    'network with small parameters of its own and equal outputs. Its images are '
                    'preprocessed as those of the whole network, then resized to the resolution.')
    parser.add_argument('--output', required=True, metavar='PREFIX', help='files to write')
    parser.add_argument('--table', metavar='FILE',
                        help='take the running statistics of this query table, made for these '
                             'weights (default: those of the parameter file)')
    parser.add_argument('--resolution', type=positive_int, metavar='N',
                        help='with --table: of this resolution (default: the input size)')
    add_trained_options(parser, graphs=False)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(0)
    if args.symbol:
        raise UsageError('--symbol %s: a graph has one width already; give --network' % args.symbol)
    if args.resolution and not args.table:
        raise UsageError('--resolution %d: goes with --table, which has the statistics of each '
                         'resolution' % args.resolution)
    import mxnet as mx

    from igcnet.deploy import export
    from igcnet.layers import SlimmableNetwork
    from igcnet.profiling import count_parameters

    found = load_source(args, [mx.cpu()])
    net = found.net
    if not isinstance(net, SlimmableNetwork):
        raise UsageError('--network %s: has one width only; what is cut is a slimmable network '
                         '(igcnet list)' % found.network)
    resolution = args.resolution or found.preprocessing.input_size
    figures = {'width': net.width, 'resolution': resolution}
    if args.table:
        figures.update(_use_table(args.table, args.params or found.description, net,
                                  resolution))
    part = net.cut()
    # The whole network of this width has the same shapes.
    settings = {**found.settings, 'width_mult_range': [net.width] * 2,
                'width_mult_list': [net.width]}
    symbol, params, _ = export(part, args.output, found.preprocessing, found.network, settings,
                               found.classes, figures)
    print('%s: %d parameters of %d' % (found.description, count_parameters(part),
                                       count_parameters(net)))
    print('wrote %s and %s' % (symbol, params))
    return 0


def _use_table(path: str, params: str, net, resolution: int):
    """Put the statistics of the present width and `resolution` into `net`; figures of the pair."""
    from igcnet.deploy.query_table import check_weights, read_statistics, read_table
    table = read_table(path)
    check_weights(net, table, params, path)
    pair = table.find(net.width, resolution)
    if pair is None:
        raise UsageError('%s: has no pair of width %g and resolution %d'
                         % (path, net.width, resolution))
    if not net.has_statistics():
        net.add_statistics(net.width)
    net.set_statistics(read_statistics(path, pair))
    return {'macs': pair.macs, 'milliseconds': pair.milliseconds, 'val_top1': pair.top1,
            'val_top5': pair.top5, 'val_loss': pair.loss, 'val_count': pair.images}
