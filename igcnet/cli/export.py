"""``igcnet export``: a trained network as the fastest files that compute the same."""

from __future__ import annotations

import argparse
from typing import Any, List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.source import add_threads_option, add_trained_options, load_source
from igcnet.errors import UsageError

TARGETS = {'symbol': 'mxnet', 'onnx': 'onnxruntime'}


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet export',
        description='Rewrite a trained network for inference on a CPU and write it for MXNet '
                    '(symbol, parameters, manifest) or ONNX Runtime (.onnx, manifest). A network '
                    'of several widths is exported at one, --width; one of dynamic group '
                    'convolutions with its gates as part of the graph.')
    add_trained_options(parser)
    output = parser.add_argument_group('output')
    output.add_argument('--output', metavar='PREFIX', required=True,
                        help='beginning of the names of the files')
    output.add_argument('--format', choices=sorted(TARGETS), default='symbol',
                        help='symbol: for MXNet; onnx: operator set 13, for ONNX Runtime')
    output.add_argument('--input-size', type=positive_int, metavar='N',
                        help='height and width of the images, which become fixed (default: as '
                             'the network was trained)')
    output.add_argument('--pixels', action='store_true',
                        help='the network takes RGB values from 0 to 255 and normalises them '
                             'itself')
    speed = parser.add_argument_group(
        'speed', 'BN is folded in any case; what is done about shuffles and narrow groups is '
        'measured on this machine for each stage, and remembered')
    speed.add_argument('--batch-size', type=positive_int, default=1, metavar='N',
                       help='batch size to be fast at; any other works')
    speed.add_argument('--strategy', default='measured', metavar='NAME',
                       help="'measured'; 'stock' leaves the network as it is; or one for all "
                            'stages, such as cheapest+merge (see docs/deployment.md)')
    speed.add_argument('--tune', action='store_true',
                       help='measure again, whatever is remembered')
    speed.add_argument('--explain', action='store_true',
                       help='show what was measured and what each rewriting did')
    add_threads_option(speed)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    if args.tune and args.strategy != 'measured':
        raise UsageError('--tune: nothing is measured with --strategy %s' % args.strategy)
    set_threads(args.threads or 0)
    import mxnet as mx

    from igcnet.deploy.optimizing import optimize

    found = load_source(args, [mx.cpu()], as_it_is=True)
    found = found._replace(net=_one_graph(found.net))
    if found.preprocessing is None:
        raise UsageError('%s: its preprocessing is unknown; name the data set with --dataset'
                         % found.description)
    size = args.input_size or found.preprocessing.input_size
    report = (lambda line: print('  ' + line, flush=True)) if args.explain else _quiet
    optimized = optimize(found.net, TARGETS[args.format], size, args.batch_size, args.strategy,
                         found.preprocessing if args.pixels else None, args.tune, report)
    if args.explain:
        print(optimized.explain())
    for path in _write(args, found, optimized, size):
        print('wrote %s' % path)
    print('%s, %dx%d images, for %s%s' % (
        found.description, size, size, optimized.target,
        '; %.2f times as fast as the stock form' % optimized.choice.speedup
        if args.strategy == 'measured' else ''))
    return 0


def _write(args: argparse.Namespace, found: Any, optimized: Any, size: int) -> List[Any]:
    """Write the files; returns their paths."""
    from dataclasses import replace

    from igcnet.deploy.export import manifest_facts
    from igcnet.deploy.onnx_form import to_onnx
    from igcnet.deploy.optimized_files import (
        pixel_preprocessing,
        write_onnx_form,
        write_symbol_form,
    )
    preprocessing = replace(found.preprocessing, input_size=size)
    if args.pixels:
        preprocessing = pixel_preprocessing(preprocessing)
    facts = {**manifest_facts(preprocessing, found.network, found.settings, size, found.classes),
             'target': optimized.target, 'batch_size': args.batch_size,
             **optimized.choice.as_dict()}
    if args.format == 'onnx':
        return list(write_onnx_form(to_onnx(optimized.model), args.output, facts))
    return list(write_symbol_form(optimized.model, args.output, facts))


def _one_graph(net: Any) -> Any:
    """The network itself, or of one with several widths the part that is exported."""
    from igcnet.layers import SlimmableNetwork
    if isinstance(net, SlimmableNetwork):
        print('exported at width %g' % net.width)
        return net.cut()
    if hasattr(net, 'dynamic_layers'):
        print('the gates of the dynamic group convolutions are part of the graph: every channel '
              'is computed, and those that a gate drops are set to 0')
    return net


def _quiet(line: str) -> None:
    pass
