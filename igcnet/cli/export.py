"""``igcnet export``: a trained network as the fastest files that compute the same."""

from __future__ import annotations

import argparse
from typing import Any, Iterator, List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_float, positive_int, run
from igcnet.cli.source import add_threads_option, add_trained_options, load_source
from igcnet.errors import DataError, UsageError

TARGETS = {'symbol': 'mxnet', 'onnx': 'onnxruntime'}
ENGINE = {'auto': 'mxnet', 'always': 'native', 'never': 'mxnet-alone'}


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
    speed.add_argument('--engine', choices=ENGINE, default='auto',
                       help='whether our inference engine is to run --format symbol: auto, where '
                            'it is built and faster; never, to choose for machines without it')
    int8 = parser.add_argument_group(
        'eight bits', 'convolutions in whole numbers: faster where the CPU has VNNI, no longer '
        'exact')
    int8.add_argument('--int8', action='store_true',
                      help='compute convolutions in eight bits; needs --calibration')
    int8.add_argument('--calibration', metavar='DATA',
                      help='records or folder of images that are typical of what the network '
                           'will see')
    int8.add_argument('--calibration-images', type=positive_int, default=256, metavar='N',
                      help='number of images to take, evenly spread')
    int8.add_argument('--int8-tolerance', type=positive_float, metavar='PART',
                      help='layers stay in float32 until the error of the logits on these images, '
                           'as a part of the logits, is no larger (default: 0.06)')
    output.add_argument('--accuracy', metavar='DATA',
                        help='labelled records or folder: show the accuracy before and after')
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
    if args.int8 != (args.calibration is not None):
        raise UsageError('--int8 and --calibration go together')
    if args.int8_tolerance and not args.int8:
        raise UsageError('--int8-tolerance: nothing is rounded without --int8')
    if args.engine != 'auto' and args.format != 'symbol':
        raise UsageError('--engine: only --format symbol is ever run by the engine')
    set_threads(args.threads or 0)
    import mxnet as mx

    from igcnet.deploy.mixed_precision import INT8_TOLERANCE
    from igcnet.deploy.optimizing import optimize

    found = load_source(args, [mx.cpu()], as_it_is=True)
    found = found._replace(net=_one_graph(found.net))
    if found.preprocessing is None:
        raise UsageError('%s: its preprocessing is unknown; name the data set with --dataset'
                         % found.description)
    size = args.input_size or found.preprocessing.input_size
    calibration = list(_calibration(args, found, size)) if args.int8 else None
    report = (lambda line: print('  ' + line, flush=True)) if args.explain else _quiet
    target = TARGETS[args.format] if args.engine == 'auto' else ENGINE[args.engine]
    optimized = optimize(found.net, target, size, args.batch_size, args.strategy,
                         found.preprocessing if args.pixels else None, calibration,
                         args.int8_tolerance or INT8_TOLERANCE, args.tune, report)
    if args.explain:
        print(optimized.explain())
    for path in _write(args, found, optimized, size):
        print('wrote %s' % path)
    if calibration:
        _show_agreement(args, found, optimized, calibration)
    if args.accuracy:
        _show_accuracy(args, found, optimized, size)
    print('%s, %dx%d images, for %s%s' % (
        found.description, size, size, optimized.target,
        '; %.2f times as fast as the stock form' % optimized.choice.speedup
        if args.strategy == 'measured' else ''))
    return 0


def _write(args: argparse.Namespace, found: Any, optimized: Any, size: int) -> List[Any]:
    """Write the files; returns their paths."""
    from igcnet.deploy.export import manifest_facts
    from igcnet.deploy.int8 import gate_nodes, quantize_onnx
    from igcnet.deploy.onnx_form import to_onnx
    from igcnet.deploy.optimized_files import write_onnx_form, write_symbol_form
    facts = manifest_facts(_preprocessing(args, found, size), found.network, found.settings,
                           size, found.classes)
    facts.update(optimized.choice.as_dict(), target=optimized.target, batch_size=args.batch_size)
    eight_bits = optimized.eight_bits
    if args.int8:
        facts['in_float'] = list(eight_bits.in_float)
    if args.format == 'onnx':
        made = to_onnx(optimized.model)
        if args.int8:
            made = quantize_onnx(made, eight_bits.ranges,
                                 {*eight_bits.in_float, *gate_nodes(optimized.model)})
        return list(write_onnx_form(made, args.output, facts))
    if args.int8:
        facts['ranges'] = eight_bits.ranges
    return list(write_symbol_form(optimized.model, args.output, facts))


def _preprocessing(args: argparse.Namespace, found: Any, size: int) -> Any:
    """What an image goes through before it is the exported network's input."""
    from dataclasses import replace

    from igcnet.deploy.optimized_files import pixel_preprocessing
    preprocessing = replace(found.preprocessing, input_size=size)
    return pixel_preprocessing(preprocessing) if args.pixels else preprocessing


def _calibration(args: argparse.Namespace, found: Any, size: int) -> Iterator[Any]:
    """Batches of prepared images, evenly spread over the calibration data."""
    import numpy as np

    from igcnet.data.reader import EvalReader
    reader = EvalReader(args.calibration, 32, _preprocessing(args, found, size))
    count = min(args.calibration_images, len(reader))
    chosen = set(np.linspace(0, len(reader) - 1, count).round().astype(int))
    for batch in reader:
        rows = [row for row, position in enumerate(batch.positions) if int(position) in chosen]
        if rows:
            yield batch.images[rows].astype(np.float32)


def _show_agreement(args: argparse.Namespace, found: Any, optimized: Any,
                    calibration: List[Any]) -> None:
    """How often eight bits give the same class, on the calibration images."""
    import mxnet as mx
    import numpy as np

    run, agreeing = optimized.runner(), 0
    for images in calibration:
        prepared = images
        if args.pixels:
            mean, std = (np.reshape(values, (3, 1, 1)) for values in (
                found.preprocessing.mean, found.preprocessing.std))
            prepared = (images - mean) / std
        before = found.net(mx.nd.array(prepared)).asnumpy()
        agreeing += int((before.argmax(axis=1) == run(images).argmax(axis=1)).sum())
    count = sum(map(len, calibration))
    print('eight bits give the same class as before for %.1f %% of %d calibration images; the '
          'logits change by %.2g; %d layers stay in float32'
          % (100 * agreeing / count, count, optimized.eight_bits.error,
             len(optimized.eight_bits.in_float)))


def _show_accuracy(args: argparse.Namespace, found: Any, optimized: Any, size: int) -> None:
    """Accuracy of the given network and of the exported one on labelled data."""
    from dataclasses import replace

    import mxnet as mx

    from igcnet.cli.evaluate import check_batch_labels
    from igcnet.data.reader import EvalReader
    from igcnet.train.evaluate import evaluate

    run = optimized.runner()
    networks = {'before': (found.net, replace(found.preprocessing, input_size=size)),
                'after': (lambda x: mx.nd.array(run(x.asnumpy())),
                          _preprocessing(args, found, size))}
    for name, (net, preprocessing) in networks.items():
        reader = EvalReader(args.accuracy, 32, preprocessing, classes=found.classes)
        if not reader.source.labelled:
            raise DataError('%s: the images have no labels' % args.accuracy)
        scores = evaluate(net, reader, [mx.cpu()], lambda batch, logits, of=reader:
                          check_batch_labels(of, batch, logits.shape[1]))
        means = scores.means()
        print('%s: top-1 %.2f %%, top-5 %.2f %% of %d images'
              % (name, 100 * means['top1'], 100 * means['top5'], scores.count))


def _one_graph(net: Any) -> Any:
    """The network itself, or of one with several widths the part that is exported."""
    from igcnet.layers import SlimmableNetwork
    if isinstance(net, SlimmableNetwork):
        print('exported at width %g' % net.width)
        return net.cut()
    if getattr(net, 'dynamic_layers', None):
        print('the gates of the dynamic group convolutions are part of the graph: every channel '
              'is computed, and those that a gate drops are set to 0 (igcnet dgc freeze makes a '
              'network without gates)')
    return net


def _quiet(line: str) -> None:
    pass
