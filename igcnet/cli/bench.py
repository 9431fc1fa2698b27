"""``igcnet bench``: how fast a network runs in our forms and in those of others."""

from __future__ import annotations

import argparse
from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.network_options import add_network_options, network_from
from igcnet.cli.source import add_threads_option
from igcnet.errors import UsageError
from igcnet.files import write_json

# As in igcnet.deploy.bench, by the words of the option (a test compares them).
FORMS = {'stock': 'MXNet stock', 'mxnet': 'MXNet optimised', 'native': 'igcnet engine',
         'naive': 'ONNX Runtime naive', 'onnx': 'ONNX Runtime optimised',
         'mxnet-int8': 'MXNet int8', 'onnx-int8': 'ONNX Runtime int8', 'torch': 'PyTorch eager',
         'torch-channels-last': 'PyTorch channels_last', 'torch-compiled': 'PyTorch compiled'}


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet bench',
        description='Latency and throughput of a network on this CPU, all forms taking turns: as '
                    'it is and optimised under MXNet, exported as PyTorch would and optimised '
                    'under ONNX Runtime, and in PyTorch. The parameters are random: speed does '
                    'not depend on them.')
    add_network_options(parser, positional=True)
    parser.add_argument('--input-size', type=positive_int, metavar='N',
                        help='height and width of the images (default: those the network is made '
                             'for)')
    parser.add_argument('--batch-sizes', type=batch_sizes, default='1,32', metavar='N,N,...',
                        help='images in a call')
    parser.add_argument('--forms', type=forms, default=','.join(FORMS), metavar='NAME,...',
                        help='what to compare')
    parser.add_argument('--rounds', type=positive_int, default=7, metavar='N',
                        help='turns of each form; their median counts')
    add_threads_option(parser)
    output = parser.add_argument_group('output')
    output.add_argument('--json', metavar='FILE', help='write everything as JSON')
    output.add_argument('--plot', metavar='FILE', help='write a bar chart (.png, .svg, .pdf)')
    return parser


def batch_sizes(text: str) -> List[int]:
    """An argparse type: whole numbers with commas between them."""
    return [positive_int(word) for word in text.split(',')]


def forms(text: str) -> List[str]:
    """An argparse type: words of `FORMS` with commas between them."""
    unknown = [word for word in text.split(',') if word not in FORMS]
    if unknown:
        raise argparse.ArgumentTypeError('%r is none of %s' % (unknown[0], ', '.join(FORMS)))
    return [FORMS[word] for word in text.split(',')]


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    if args.plot and not args.plot.lower().endswith(('.png', '.svg', '.pdf')):
        raise UsageError('--plot %s: must end in .png, .svg or .pdf' % args.plot)
    set_threads(args.threads or 0)
    from igcnet.deploy.bench import bench, format_bench, give_random_parameters, plot_bench
    from igcnet.layers import SlimmableNetwork
    from igcnet.registry import get_model

    spec, overrides = network_from(args)
    net = get_model(spec.name, **overrides)
    size = args.input_size or net.input_size
    if isinstance(net, SlimmableNetwork):
        net = net.cut()
    give_random_parameters(net, size)
    result = bench(net, spec.name, size, args.batch_sizes, args.forms, args.rounds,
                   report=lambda line: print(line, flush=True))
    print(format_bench(result))
    if args.json:
        write_json(args.json, result.as_dict())
    if args.plot:
        print('wrote %s' % plot_bench(result, args.plot))
    return 0
