"""``igcnet dgc``: what dynamic group convolutions choose, and their static form."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, run
from igcnet.cli.source import add_source_options, load_source
from igcnet.errors import UsageError
from igcnet.files import PathLike, atomic_path, write_json

LARGEST_NAMED = 20


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet dgc', formatter_class=argparse.HelpFormatter,
                    description='Networks of dynamic group convolutions on a data set.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND',
                                     parser_class=Parser)
    inspect = commands.add_parser(
        'inspect', help='which channels are on, by class and layer, and what that costs',
        description='Count which channels the heads choose for the images of a data set: a table '
                    'of the multiply-adds of each layer for an image, and a picture.')
    _add_data(inspect)
    inspect.add_argument('--picture', metavar='FILE',
                         help='write a picture with a panel for each layer: classes by channels')
    inspect.add_argument('--json', metavar='FILE', help='write the table as JSON')
    add_source_options(inspect, graphs=False)
    freeze = commands.add_parser(
        'freeze', help='give each head the channels that it chooses on average, for good',
        description='Make an ordinary grouped network: each head keeps the channels with the '
                    'largest mean saliency over a data set. Prints the accuracy of both.')
    _add_data(freeze)
    freeze.add_argument('--test', metavar='PATH',
                        help='data for the accuracy before and after (default: those of --data)')
    freeze.add_argument('--output', required=True, metavar='PREFIX',
                        help='write PREFIX-symbol.json, PREFIX-0000.params and '
                             'PREFIX-manifest.json, for evaluate and predict')
    add_source_options(freeze, graphs=False)
    return parser


def _add_data(parser: Parser) -> None:
    parser.add_argument('--data', required=True, metavar='PATH',
                        help='record file, or a folder with one folder of images for each class')


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(args.threads or 0)
    from igcnet.deploy.selection import SelectionRecorder
    from igcnet.train.devices import contexts
    from igcnet.train.evaluate import evaluate
    devices = contexts(args.gpus, args.cpus)
    if args.symbol:
        raise UsageError('--symbol %s: the layers of a graph are not known; give --network and '
                         '--params' % args.symbol)
    found = load_source(args, devices)
    reader = _reader(args.data, args, found)
    found = found._replace(classes=found.classes or reader.source.classes)
    recorder = SelectionRecorder(found.net, found.preprocessing.input_size)
    scores = evaluate(recorder, reader, devices,
                      lambda batch, logits: recorder.add(batch.labels))
    print('%s on %s: %d images, top-1 %.3f %%, top-5 %.3f %%'
          % (found.description, args.data, scores.count, *_percent(scores)))
    return {'inspect': _inspect, 'freeze': _freeze}[args.command](
        args, found, devices, recorder, scores)


def _reader(data: str, args, found):
    """The images of a data set with labels."""
    from igcnet.data.reader import EvalReader
    reader = EvalReader(data, args.batch_size, found.preprocessing, classes=found.classes)
    if not reader.source.labelled:
        raise UsageError('%s: the images have no labels' % data)
    return reader


def _percent(scores) -> Sequence[float]:
    means = scores.means()
    return 100 * means['top1'], 100 * means['top5']


def _inspect(args, found, devices, recorder, scores) -> int:
    from igcnet.profiling import profile
    rows = recorder.table()
    keys = ('all', 'counter', 'kept', 'on')
    size = found.preprocessing.input_size
    rest = profile(found.net, (1, 3, size, size)).macs - sum(row['all'] for row in rows)
    totals = {key: sum(row[key] for row in rows) + rest for key in keys}
    width = max(len(row['layer']) for row in rows)
    print('multiply-adds for an image: of all channels (masked), by the gate factor (the '
          "original's counter), of the channels kept, of those not 0")
    print('  '.join(['layer'.ljust(width), 'channels', 'inactive', *(
        key.rjust(13) for key in keys), ' used']))
    for row in rows:
        print('  '.join([row['layer'].ljust(width), '%8d' % row['channels'],
                         '%8d' % row['inactive'], *('%13s' % format(round(row[key]), ',')
                                                    for key in keys), '%4.0f%%' % (
                                                        100 * row['used'])]))
    print('  '.join(['all other layers'.ljust(width), ' ' * 18, *(
        ['%13s' % format(rest, ',')] * len(keys))]))
    print('  '.join(['network'.ljust(width), ' ' * 18, *(
        '%13s' % format(round(totals[key]), ',') for key in keys)]))
    if args.json:
        means = scores.means()
        write_json(args.json, {'images': scores.count, 'top1': means['top1'],
                               'top5': means['top5'],
                               'network': totals, 'other_layers': rest, 'layers': rows})
    if args.picture:
        draw(args.picture, recorder.shares(), found.classes)
        print('wrote %s' % args.picture)
    return 0


def _freeze(args, found, devices, recorder, scores) -> int:
    from igcnet.deploy import export
    from igcnet.deploy.freeze import freeze
    from igcnet.train.evaluate import evaluate
    static = freeze(found.net, found.network, found.settings, recorder.saliencies())
    data = args.test or args.data
    before = scores
    if args.test:
        before = evaluate(found.net, _reader(data, args, found), devices)
    after = evaluate(static, _reader(data, args, found), devices)
    print('on %s, %d images: top-1 %.3f %% dynamic, %.3f %% static (%+.3f); top-5 %.3f, %.3f '
          '(%+.3f)' % (data, after.count, *_change(before, after, 0), *_change(before, after, 1)))
    from igcnet.profiling import profile
    shape = (1, 3, *[found.preprocessing.input_size] * 2)
    counts = [profile(net, shape) for net in (found.net, static)]
    print('multiply-adds %s -> %s, parameters %s -> %s' % tuple(
        format(getattr(count, key), ',') for key in ('macs', 'parameters') for count in counts))
    paths = export(static, args.output, found.preprocessing, found.network,
                   {**found.settings, 'selection': 'static'}, found.classes,
                   {'val_top1': after.means()['top1'], 'val_top5': after.means()['top5']})
    for path in paths:
        print('wrote %s' % path)
    return 0


def _change(before, after, which: int) -> Sequence[float]:
    old, new = _percent(before)[which], _percent(after)[which]
    return old, new, new - old


def draw(path: PathLike, shares: Dict[str, np.ndarray], classes: Optional[Sequence[Any]] = None,
         columns: int = 3) -> None:
    """A picture with a panel for each layer: how often each channel is on for each class.

    Parameters
    ----------
    shares : dict
        (classes, C) by layer name, see `SelectionRecorder.shares`.
    classes : sequence of str, optional
        Their names; shown if there are at most `LARGEST_NAMED`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    rows = -(-len(shares) // columns)
    count = len(next(iter(shares.values())))
    height = 0.6 + min(2.5, 0.12 * count)
    figure = Figure(figsize=(4.5 * columns, rows * height + 0.5), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    image = None
    named = classes is not None and count <= LARGEST_NAMED
    for panel, (name, values) in zip(axes.flat, shares.items()):
        image = panel.imshow(values, cmap='viridis', vmin=0, vmax=1, aspect='auto',
                             interpolation='nearest')
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=6)
        if named:
            panel.set_yticks(range(count), classes if panel in axes[:, 0] else [''] * count)
    for panel in axes.flat[len(shares):]:
        panel.axis('off')
    figure.colorbar(image, ax=axes, label='share of (image, head) pairs with the channel on',
                    shrink=0.6)
    figure.supxlabel('input channel of the layer', fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(str(temporary), format='png')
