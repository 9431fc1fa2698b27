"""``igcnet profile NAME``: the layers of a network with their exact counts, or their times."""

from __future__ import annotations

import json
import os
from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.network_options import add_network_options, network_from
from igcnet.errors import UsageError


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet profile', description='Output shape, trainable parameters and '
                    'multiply-adds of every layer, for one image. Multiply-adds are those of '
                    'convolutions and fully connected layers, without bias.')
    add_network_options(parser, positional=True)
    parser.add_argument('--input-size', type=positive_int, metavar='N',
                        help='height and width of the image (default: those the network is made '
                             'for)')
    parser.add_argument('--all', action='store_true',
                        help='also operators without parameters: ReLU, pooling, shuffles, sums')
    times = parser.add_argument_group('times')
    times.add_argument('--time', action='store_true',
                       help='instead, where the time of a training step goes on this machine: '
                            'forward, backward, optimiser, and every layer on its own')
    times.add_argument('--batch-size', type=positive_int, metavar='N',
                       help='images in a batch (default: 64)')
    times.add_argument('--lowering', choices=('stock', 'blocked', 'native', 'auto'),
                       help='how grouped convolutions and shuffles are computed, as for train '
                            '(default: stock)')
    times.add_argument('--rounds', type=positive_int, metavar='N',
                       help='steps of which the median is taken (default: 5)')
    times.add_argument('--threads', type=positive_int, metavar='N',
                       help='threads of the CPU kernels (default: OMP_NUM_THREADS, or all '
                            'physical cores)')
    times.add_argument('--data', metavar='FILE',
                       help='also the time to read and decode a batch of this record file')
    output = parser.add_mutually_exclusive_group()
    output.add_argument('--json', action='store_true', help='print JSON')
    output.add_argument('--csv', action='store_true', help='print the layers as CSV')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run ``igcnet profile``; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    timing = {name: getattr(args, name) for name in ('batch_size', 'lowering', 'rounds', 'threads',
                                                     'data')}
    if args.time:
        if args.csv or args.all:
            raise UsageError('--time goes with neither --csv nor --all')
        set_threads(args.threads or 0)
    else:
        for name, value in timing.items():
            if value is not None:
                raise UsageError('--%s goes with --time only' % name.replace('_', '-'))
    spec, overrides = network_from(args)
    from igcnet.profiling import format_csv, format_table, profile
    from igcnet.registry import get_model

    settings = {**spec.settings(), **overrides}
    net = get_model(spec.name, **overrides)
    size = args.input_size or net.input_size
    if args.time:
        return _print_times(args, spec, net, settings, size)
    counted = profile(net, (1, 3, size, size))
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


def _print_times(args, spec, net, settings, size: int) -> int:
    from igcnet.profiling import format_times, time_step
    from igcnet.train.optimizer import Nesterov

    batch = args.batch_size or 64
    reading = {} if args.data is None else {'reading': _seconds_of_reading(args.data, batch, size)}
    net.initialize()
    lowering = net.set_lowering(args.lowering or 'stock')
    times = time_step(net, Nesterov(momentum=0.9, learning_rate=0.01, wd=1e-4), batch, size,
                      args.rounds or 5)
    times = times._replace(parts={**reading, **times.parts})
    if args.json:
        print(json.dumps({'network': spec.name, 'settings': settings, 'lowering': lowering,
                          'batch_size': batch, **times.as_dict()}, indent=2))
    else:
        print('%s, lowering %s, batch %d of %dx%d, %s threads' % (
            spec.name, lowering, batch, size, size, os.environ['OMP_NUM_THREADS']))
        print(format_times(times))
    return 0


def _seconds_of_reading(path: str, batch: int, size: int) -> float:
    """Seconds in which a batch is read, decoded and augmented while nothing is computed."""
    from igcnet.data.benchmark import preset_rates
    from igcnet.data.records import RecordFile

    return batch / preset_rates(RecordFile(path), 'igc-1', size, batch).decoding.per_second
