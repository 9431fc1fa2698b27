"""``igcnet query_table``: a slimmable network at every width and resolution, and the best for
each budget."""

from __future__ import annotations

from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.calibration import (
    add_calibration_options,
    calibration_batches,
    calibration_facts,
)
from igcnet.cli.common import Parser, positive_int, resolutions, run, widths
from igcnet.cli.evaluate import check_batch_labels
from igcnet.cli.source import add_source_options, load_source
from igcnet.errors import DataError, UsageError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet query_table',
        description='Accuracy, multiply-adds, parameters and time of a slimmable network at each '
                    'width and resolution. For a budget the pair with the highest top-1 accuracy '
                    'among those within it is the best. An interrupted command goes on where it '
                    'stopped.')
    parser.add_argument('--data', required=True, metavar='PATH',
                        help='images to evaluate: a record file, or a folder with one folder for '
                             'each class')
    parser.add_argument('--widths', type=widths, metavar='W,W,...|FIRST:LAST:STEP',
                        help='widths to measure (default: those that have running statistics in '
                             'the network)')
    parser.add_argument('--resolutions', type=resolutions, metavar='R,R,...',
                        help="resolutions to measure (default: the network's input size)")
    add_source_options(parser, graphs=False)
    add_calibration_options(parser, 'training images from which the running statistics of each '
                            'pair are computed: a record file', required=True)
    timing = parser.add_argument_group('time')
    timing.add_argument('--latency-batch-size', type=positive_int, default=1, metavar='N',
                        help='images in a timed call')
    timing.add_argument('--latency-repeats', type=positive_int, default=20, metavar='N',
                        help='timed calls of each pair; their median is kept')
    output = parser.add_argument_group('output')
    output.add_argument('--output', metavar='PREFIX', default='query_table',
                        help='write PREFIX.json, PREFIX.csv, PREFIX.png and the statistics of '
                             'each pair in PREFIX-statistics')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    threads = set_threads(args.threads or 0)
    if args.symbol:
        raise UsageError('--symbol %s: a graph has one width; give --network' % args.symbol)
    if 'width' in args.network_settings:
        raise UsageError('--width %s: give all widths with --widths'
                         % args.network_settings['width'])
    from igcnet.data.reader import EvalReader
    from igcnet.deploy.adaptive import GRAPH_FLAGS
    from igcnet.deploy.query_table import COSTS, QueryTable, blank_network, weights_checksum
    from igcnet.progress import Progress
    from igcnet.train.devices import contexts
    from igcnet.train.grid import Latency, measure, open_table, plot_frontier, remaining

    devices = contexts(args.gpus, args.cpus)
    found = load_source(args, devices)
    net, size = found.net, found.preprocessing.input_size
    blank = blank_network(found.network, found.settings, '--network')
    pairs = [(width, resolution) for resolution in args.resolutions or (size,)
             for width in args.widths or net.listed_widths]
    net.hybridize(**GRAPH_FLAGS)
    reader = EvalReader(args.data, args.batch_size, found.preprocessing, classes=found.classes)
    if not reader.source.labelled:
        raise DataError('%s: the images have no labels; give one folder for each class' % args.data)
    latency = Latency(args.latency_batch_size, args.latency_repeats)
    batches = calibration_batches(args, found.preprocessing)
    table = open_table(args.output, QueryTable(
        found.network, found.settings, weights_checksum(net), found.preprocessing, found.classes,
        {'data': args.data, 'images': len(reader),
         'calibration': calibration_facts(args, found.preprocessing),
         'latency': {**latency._asdict(), 'device': str(devices[0]), 'threads': threads}}))
    if table.pairs:
        print('%s.json: has %d pairs already' % (args.output, len(table.pairs)))
    pairs = remaining(table, args.output, pairs)

    def each_batch(batch, logits):
        check_batch_labels(reader, batch, logits.shape[1])
        progress.advance(len(logits))

    with Progress(len(pairs) * len(reader), 'evaluating', 'images') as progress:
        measure(net, blank, table, args.output, pairs, batches, reader, devices, latency,
                each_batch, lambda pair: progress.write(_line(pair)))
    plot_frontier(table, args.output + '.png')
    print('%s: %d pairs of width and resolution' % (found.description, len(table.pairs)))
    for cost in COSTS:
        print('best pairs by %s:' % cost)
        for pair in table.frontier(cost):
            print('  ' + _line(pair))
    print('wrote %s.json, .csv, .png and the statistics of each pair' % args.output)
    return 0


def _line(pair) -> str:
    return ('width %-5g resolution %-4d %9.3f M multiply-adds %10d parameters %9.3f ms  top-1 '
            '%.3f %%' % (pair.width, pair.resolution, pair.macs / 1e6, pair.parameters,
                         pair.milliseconds, 100 * pair.top1))
