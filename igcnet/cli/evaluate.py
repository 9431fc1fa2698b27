"""``igcnet evaluate``: accuracy of a trained network on a record file or an image folder."""

from __future__ import annotations

import csv
from typing import Any, List, Optional

import numpy as np

from igcnet._backend import set_threads
from igcnet.cli.calibration import add_calibration_options, calibration_batches
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.source import add_source_options, explain_sizes, load_source
from igcnet.errors import DataError, UsageError
from igcnet.files import atomic_path, write_json


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet evaluate',
                    description='Top-1 and top-5 accuracy and loss; every image counts exactly '
                                'once, whatever the batch size.')
    parser.add_argument('--data', required=True, metavar='PATH',
                        help='record file, or a folder with one folder of images for each class')
    parser.add_argument('--labels', metavar='FILE',
                        help='the folder is flat; this file has a line with name, tab and class '
                             'number for each image')
    parser.add_argument('--resolution', type=positive_int, metavar='N',
                        help='resize the preprocessed images to NxN (bilinear, aligned corners), '
                             'as MutualNet does')
    add_source_options(parser)
    add_calibration_options(parser, 'compute the running statistics of a slimmable network anew, '
                            'at its --width and the --resolution, from training images: a record '
                            'file')
    output = parser.add_argument_group('output')
    output.add_argument('--confusion', metavar='PREFIX',
                        help='write the confusion matrix as PREFIX.png and PREFIX.csv')
    output.add_argument('--predictions', metavar='FILE',
                        help='write one line an image as CSV: name, label, prediction, probability')
    output.add_argument('--json', metavar='FILE', help='write the figures as JSON')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(args.threads or 0)
    from igcnet.data.reader import EvalReader
    from igcnet.data.sources import labelled_folder
    from igcnet.progress import Progress
    from igcnet.registry import get_spec
    from igcnet.train.confusion import Confusion
    from igcnet.train.devices import contexts
    from igcnet.train.evaluate import evaluate
    from igcnet.train.metrics import softmax

    devices = contexts(args.gpus, args.cpus)
    found = load_source(args, devices)
    if found.preprocessing is None:
        raise UsageError('%s: its preprocessing is unknown; name the data set with '
                         '--dataset' % found.description)
    _prepare_width(args, found)
    data = labelled_folder(args.data, args.labels) if args.labels else args.data
    reader = EvalReader(data, args.batch_size, found.preprocessing, classes=found.classes)
    if not reader.source.labelled:
        raise DataError('%s: the images have no labels; evaluation needs one folder for each '
                        'class, or a file for --labels' % args.data)
    confusion = None
    rows = []
    progress = Progress(len(reader), 'evaluating', 'images')

    def collect(batch, logits):
        nonlocal confusion
        check_batch_labels(reader, batch, logits.shape[1])
        best = logits.argmax(axis=1)
        confusion = confusion or Confusion(logits.shape[1], args.data)
        confusion.add(batch.labels, best)
        if args.predictions:
            probabilities = softmax(logits)
            for row, position in enumerate(batch.positions):
                rows.append((reader.source.name(int(position)), int(batch.labels[row]),
                             int(best[row]), '%.6f' % probabilities[row, best[row]]))
        progress.advance(len(logits))

    size = '--resolution %d' % args.resolution if args.resolution else args.data
    with progress, explain_sizes(size, found):
        scores = evaluate(found.net, reader, devices, collect, args.resolution)
    means = scores.means()
    print('%s on %s' % (found.description, args.data))
    print('%d images: top-1 %.3f %%, top-5 %.3f %%, loss %.5f'
          % (scores.count, 100 * means['top1'], 100 * means['top5'], means['loss']))
    if found.network and get_spec(found.network).family == 'dgc':
        # The line that the original ends with, for what reads its output.
        print(' * Prec@1 %.3f Prec@5 %.3f' % (100 * means['top1'], 100 * means['top5']))
    names = found.classes or reader.source.classes
    if args.json:
        write_json(args.json, {'images': scores.count, **means})
    if args.predictions:
        with atomic_path(args.predictions) as temporary, \
                open(temporary, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(['image', 'label', 'prediction', 'probability'])
            writer.writerows(rows)
    if args.confusion:
        for path in confusion.write(args.confusion, names):
            print('wrote %s' % path)
    return 0


def _prepare_width(args, found) -> None:
    """Calibrate a slimmable network, and check what is asked of any network."""
    from igcnet.layers import Network, SlimmableNetwork
    from igcnet.layers.resolution import check_resolution
    from igcnet.train.calibrate import calibrate
    net = found.net
    if args.resolution and isinstance(net, Network):
        check_resolution(net, args.resolution)
    if args.calibrate:
        if not isinstance(net, SlimmableNetwork):
            raise UsageError('--calibrate: %s has one width, with its own statistics; only '
                             'slimmable networks are calibrated' % found.description)
        calibrate(net, calibration_batches(args, found.preprocessing)(), net.width,
                  args.resolution)
    elif isinstance(net, SlimmableNetwork) and not net.has_statistics():
        raise UsageError('--width %g: %s has BN statistics for the widths %s only; --calibrate '
                         'RECORDS computes them from training images'
                         % (net.width, found.description,
                            ', '.join('%g' % w for w in net.listed_widths)))


def check_batch_labels(reader: Any, batch: Any, classes: int) -> None:
    """The labels of a batch of an `EvalReader` must be classes of the network.

    Raises
    ------
    DataError
        A label is not; the message names its image.
    """
    largest = int(np.argmax(batch.labels))
    if batch.labels[largest] >= classes:
        raise DataError('%s has the label %d, but the network has %d classes; it belongs to other '
                        'data' % (reader.source.name(int(batch.positions[largest])),
                                  batch.labels[largest], classes))
