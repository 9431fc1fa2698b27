"""``igcnet predict``: the most probable classes of images, or the logits of a prepared array."""

from __future__ import annotations

import zipfile
from typing import List, Optional, Tuple

import numpy as np

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, positive_int, run
from igcnet.cli.source import add_source_options, explain_sizes, load_source
from igcnet.errors import DataError, UsageError
from igcnet.files import atomic_path


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet predict',
                    description='Classify images, folders of images, or an .npz file with an '
                                'array x (N, 3, H, W) that is normalised already.')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help='image files and folders of images; or one record file or .npz file')
    add_source_options(parser)
    output = parser.add_argument_group('output')
    output.add_argument('--top', type=positive_int, default=5, metavar='K',
                        help='classes shown for each image')
    output.add_argument('--output', metavar='FILE.npz',
                        help='write the logits (N, classes), before the softmax, instead of the '
                             'table; for images also their names')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(args.threads or 0)
    from igcnet.train.devices import contexts

    devices = contexts(args.gpus, args.cpus)
    arrays = [name for name in args.inputs if name.endswith('.npz')]
    if arrays and len(args.inputs) > 1:
        raise UsageError('%s: an .npz file must be the only input' % arrays[0])
    prepared = read_input_array(arrays[0]) if arrays else None
    found = load_source(args, devices)
    if prepared is not None:
        names = ['x[%d]' % row for row in range(len(prepared))]
        logits = _run(found, _slices(prepared, args.batch_size), devices, arrays[0])
    else:
        names, logits = _classify_images(args, found, devices)
    if args.output:
        with atomic_path(args.output) as temporary, open(temporary, 'wb') as file:
            extra = {} if prepared is not None else {'names': np.array(names)}
            np.savez(file, logits=logits, **extra)
        print('wrote %s: logits %s' % (args.output, logits.shape))
    else:
        print(table(names, logits, found.classes, args.top))
    return 0


def _classify_images(args, found, devices) -> Tuple[List[str], np.ndarray]:
    from igcnet.data.reader import EvalReader
    if found.preprocessing is None:
        raise UsageError('%s: its preprocessing is unknown; name the data set with '
                         '--dataset, or give an .npz file' % found.description)
    reader = EvalReader(_images(args.inputs), args.batch_size, found.preprocessing)
    logits = _run(found, (batch.images for batch in reader), devices, args.inputs[0])
    return [reader.source.name(position) for position in range(len(reader))], logits


def _images(inputs: List[str]):
    """What the reader reads: the one input as it is, or the files of several together."""
    from igcnet.data.sources import RecordSource, open_source
    if len(inputs) == 1:
        return inputs[0]
    sources = [open_source(name) for name in inputs]
    for name, source in zip(inputs, sources):
        if isinstance(source, RecordSource):
            raise UsageError('%s: a record file must be the only input' % name)
    return [file for source in sources for file in source.files]


def _run(found, batches, devices, source: str) -> np.ndarray:
    from igcnet.train.evaluate import forward
    with explain_sizes(source, found):
        return np.concatenate([forward(found.net, images, devices) for images in batches])


def read_input_array(path: str) -> np.ndarray:
    """The array ``x`` of an ``.npz`` file, checked, as float32 (N, 3, H, W).

    Raises
    ------
    DataError
        Unreadable file, or an array of another form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if 'x' not in file.files:
                raise DataError('%s: has no array named x (it has: %s)'
                                % (path, ', '.join(file.files) or 'none'))
            array = file['x']
    except OSError as problem:
        raise DataError('%s: cannot read this file (%s)'
                        % (path, problem.strerror or problem)) from None
    except (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as problem:
        raise DataError('%s: not an .npz file of plain arrays (%s)'
                        % (path, str(problem).split('\n')[0])) from None
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype.kind not in 'fiu' or not array.size:
        raise DataError('%s: x is %s %s; it must be numbers of the shape (N, 3, H, W)'
                        % (path, array.dtype, array.shape))
    return array.astype(np.float32)


def table(names: List[str], logits: np.ndarray, classes: Optional[List[str]], top: int) -> str:
    """The `top` classes of each image with their probabilities, as lines of text."""
    from igcnet.train.metrics import softmax
    probabilities = softmax(logits.astype(np.float64))
    width = max(map(len, names))
    lines = []
    for name, row in zip(names, probabilities):
        order = np.argsort(-row, kind='stable')[:top]
        shown = ('%s %5.1f %%' % (classes[k] if classes and k < len(classes) else 'class %d' % k,
                                  100 * row[k]) for k in order)
        lines.append('%s  %s' % (name.ljust(width), ', '.join(shown)))
    return '\n'.join(lines)


def _slices(array: np.ndarray, size: int):
    return (array[start:start + size] for start in range(0, len(array), size))
