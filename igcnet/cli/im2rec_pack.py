"""``im2rec_pack.py``: image folders and data sets to MXNet records."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Set

from igcnet.cli import record_commands
from igcnet.cli.common import Parser, positive_int, run
from igcnet.data.packing_presets import PRESETS
from igcnet.errors import UsageError

DESCRIPTION = """\
Pack images into MXNet records: PREFIX.rec, PREFIX.idx, PREFIX.lst and PREFIX-manifest.json.

  im2rec_pack.py data/flowers photos/                     class folders to records, in one step
  im2rec_pack.py data/flowers photos/ --train-ratio 0.8   data/flowers_train.*, data/flowers_val.*
  im2rec_pack.py data/flowers photos/ --list --recursive  only the list; edit it, then
  im2rec_pack.py data/flowers photos/ --resize 256        pack PREFIX.lst and PREFIX_*.lst
  im2rec_pack.py data/digits --dataset digits             data/digits/train.*, data/digits/test.*
  im2rec_pack.py data/cifar10 cifar-10-python.tar.gz --dataset cifar10
  im2rec_pack.py data/svhn --dataset svhn --download      files go to data/svhn/download
  im2rec_pack.py data/val ILSVRC2012_img_val/ --labels val.txt --class-names data/train

ROOT is a folder of class folders, a folder of train, val and test folders of class folders (then
PREFIX becomes a folder with one data set for each), or a tar archive of either. Class numbers
follow the sorted folder names. Names that start with a dot are left out.

Commands for record files (a prefix with such a name is written ./verify):
  im2rec_pack.py verify PREFIX           every fault of a data set, by file and record
  im2rec_pack.py info PREFIX ...         what it holds and how it was packed
  im2rec_pack.py merge OUT PREFIX ...    several data sets of the same classes as one
  im2rec_pack.py split PREFIX            --parts N, or --ratio 0.9 for train and val
  im2rec_pack.py extract PREFIX FOLDER   the images, in class folders
"""

DATASETS = ('digits', 'cifar10', 'cifar100', 'svhn')
# Those of igcnet.data.transforms, which would bring OpenCV with it.
INTERPOLATIONS = ('bilinear', 'area', 'cubic', 'pil-bilinear')

# Which options mean something in which way of working: option name -> groups.
_LISTING = ('exts', 'recursive', 'chunks', 'train_ratio', 'test_ratio', 'stratified',
            'split_by_folder')
_ORDER = ('shuffle', 'seed')
_LABELS = ('labels', 'class_names')
_STORING = ('resize', 'interp', 'center_crop', 'quality', 'color', 'encoding')
_RUNNING = ('num_thread', 'max_bad')
_PACKING = ('preset', 'pass_through') + _STORING + _RUNNING


class _PackParser(Parser):
    """Hands over to the parser of a command when the first argument is one."""

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        if words and words[0] in record_commands.COMMANDS:
            return record_commands.command_parser(words[0]).parse_known_args(words[1:], namespace)
        return super().parse_known_args(words, namespace)


def build_parser() -> Parser:
    """The options of MXNet's im2rec under their names, and ours; or a command's, by its name."""
    parser = _PackParser(prog='igcnet im2rec_pack', description=DESCRIPTION,
                    formatter_class=_Formatter)
    parser.add_argument('prefix', metavar='PREFIX', help='path and first part of the names of the '
                        'files to write')
    parser.add_argument('root', metavar='ROOT', nargs='?', default=argparse.SUPPRESS,
                        help='folder or tar archive of the images')
    parser.add_argument('--dataset', choices=DATASETS, default=argparse.SUPPRESS,
                        help='pack a known data set: digits comes with scikit-learn and needs no '
                        'ROOT; for the others, ROOT holds the published files (CIFAR in python or '
                        'binary form, folder or archive; SVHN as .mat files)')
    parser.add_argument('--download', action='store_true', help='fetch the files of --dataset that '
                        'are not there yet into ROOT (default: PREFIX/download)')
    group = parser.add_argument_group('finding and ordering images')
    group.add_argument('--list', action='store_true', help='only write the .lst files')
    group.add_argument('--exts', nargs='+', default=['.jpeg', '.jpg', '.png'],
                       help='extensions of images')
    group.add_argument('--chunks', type=positive_int, default=1, help='number of data sets to '
                       'divide the images into')
    group.add_argument('--train-ratio', type=float, default=1.0, help='part of the images for '
                       'PREFIX_train; what train and test leave is PREFIX_val')
    group.add_argument('--test-ratio', type=float, default=0.0, help='part of the images for '
                       'PREFIX_test')
    group.add_argument('--labels', metavar='FILE', default=argparse.SUPPRESS, help='ROOT is a flat '
                       'folder; FILE has lines of a file name, a tab and the class (number or '
                       'name), or of a class only, in the order of the sorted file names')
    group.add_argument('--class-names', metavar='FILE', default=argparse.SUPPRESS, help='with '
                       '--labels: the class names by number, one a line, or a data set that is '
                       'packed already (default: the sorted names in --labels)')
    group.add_argument('--stratified', action='store_true', help='take --train-ratio and '
                       '--test-ratio of each class, not only of the whole')
    group.add_argument('--split-by-folder', action='store_true', help='the folders train, val and '
                       'test of ROOT are the parts; this is seen without the option when ROOT '
                       'holds nothing else')
    group.add_argument('--recursive', action='store_true', help='each folder with images is a '
                       'class, at any depth')
    group.add_argument('--no-shuffle', dest='shuffle', action='store_false',
                       help='keep the images class after class')
    group.add_argument('--seed', type=int, default=100, help='of the order; 100 is the order of '
                       "MXNet's im2rec")
    group = parser.add_argument_group('storing images')
    group.add_argument('--preset', choices=sorted(PRESETS), default=argparse.SUPPRESS,
                       help="store as for a paper's data; docs/packing.md says what each means")
    group.add_argument('--pass-through', action='store_true', help='keep the bytes of each file; '
                       'it is decoded all the same, to check it')
    group.add_argument('--resize', type=int, default=0, help='new length of the shorter side; 0 '
                       'keeps the size')
    group.add_argument('--interp', choices=INTERPOLATIONS, default='bilinear', help='how --resize '
                       "interpolates; bilinear is MXNet's im2rec, area avoids its aliasing")
    group.add_argument('--center-crop', action='store_true', help='cut to a centred square, before '
                       'resizing')
    group.add_argument('--quality', type=int, default=argparse.SUPPRESS,
                       help='JPEG quality 1 to 100 (default: 95), or PNG compression 1 to 9 '
                       '(default: 9)')
    group.add_argument('--color', type=int, default=1, choices=[-1, 0, 1], help='1: colour, 0: '
                       'grey, -1: as stored, with alpha channel')
    group.add_argument('--encoding', choices=['.jpg', '.png'], default=argparse.SUPPRESS,
                       help='of the stored images (default: .jpg; with --dataset .png, which '
                       'loses nothing)')
    group.add_argument('--pack-label', action='store_true', help='pack all labels of each line of '
                       'a list')
    group = parser.add_argument_group('running')
    group.add_argument('--num-thread', type=positive_int, default=argparse.SUPPRESS,
                       help='worker processes (default: one per core); the files do not depend on '
                       'it')
    group.add_argument('--max-bad', type=int, default=0, help='write the records although up to '
                       'this many images cannot be packed; they are listed with the reason in '
                       'PREFIX-skipped.txt')
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the examples' lines."""


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if 'command' in vars(arguments):
        return arguments.command(arguments)
    given = {name for name, value in vars(arguments).items() if value != parser.get_default(name)}
    if 'preset' in given:
        given = _apply_preset(arguments, given)
    if arguments.max_bad < 0:
        raise UsageError('--max-bad %d: must be 0 or more' % arguments.max_bad)
    if 'dataset' in given:
        return _pack_dataset(arguments, given)
    _refuse(given, ('download',), '--download goes with --dataset')
    if 'root' not in given:
        raise UsageError('ROOT is missing: the folder or archive of the images (see '
                         'im2rec_pack.py --help)')
    from igcnet.data.processes import allow_fork
    allow_fork()
    from igcnet.data.trees import open_tree
    scratch = os.path.dirname(arguments.prefix.rstrip('/')) or '.'
    with open_tree(arguments.root, scratch) as tree:
        if arguments.list:
            return _write_lists(arguments, given, tree)
        return _pack_tree(arguments, given, tree)


def _apply_preset(arguments, given) -> Set[str]:
    """Set the options of the preset; return the options that were given, with them."""
    preset = PRESETS[arguments.preset]
    _refuse(given, _STORING + ('pass_through',), '--preset %s sets how images are stored'
            % arguments.preset)
    for name, value in preset.options.items():
        setattr(arguments, name, value)
    return given | set(preset.options)


def _write_lists(arguments, given, tree) -> int:
    from igcnet.data.planning import write_lists
    _refuse(given, _PACKING + _LABELS + ('pack_label',), '--list only writes lists')
    paths, warnings = write_lists(arguments.prefix, tree, arguments.root, _list_options(arguments))
    _warn(warnings)
    for path in paths:
        print('wrote %s' % path)
    return 0


def _pack_tree(arguments, given, tree) -> int:
    from igcnet.data.planning import input_lists, plan_lists, plan_tree
    lists = input_lists(arguments.prefix)
    options: Dict[str, Any]
    if 'labels' in given and not lists:
        return _pack_labelled(arguments, given, tree)
    if lists:
        names = ', '.join(str(path) for path in lists)
        _refuse(given, _LISTING + _ORDER + _LABELS, 'the lists that are there are packed as they '
                'are (%s); remove them to pack the class folders of ROOT' % names)
        print('packing %s' % names)
        plans, classes, warnings = plan_lists(arguments.prefix, lists, tree, arguments.pack_label)
        options = {'pack_label': arguments.pack_label}
    else:
        _refuse(given, ('class_names',), '--class-names goes with --labels')
        _refuse(given, ('pack_label',), 'there is no list %s.lst whose labels could be packed'
                % arguments.prefix)
        list_options = _list_options(arguments)
        plans, classes, warnings = plan_tree(arguments.prefix, tree, arguments.root, list_options)
        options = list_options.check()._asdict()
    _warn(warnings)
    return _pack(arguments, plans, classes, options, '.jpg')


def _pack_labelled(arguments, given, tree) -> int:
    from igcnet.data.labelling import class_names
    from igcnet.data.planning import plan_labelled
    _refuse(given, ('pack_label',) + tuple(name for name in _LISTING if name != 'exts'),
            '--labels says which images there are, in one part')
    names = class_names(arguments.class_names) if 'class_names' in given else None
    plans, classes, warnings = plan_labelled(arguments.prefix, tree, arguments.root,
                                             arguments.labels, names, _list_options(arguments))
    _warn(warnings)
    options = {'shuffle': arguments.shuffle, 'seed': arguments.seed}
    return _pack(arguments, plans, classes, options, '.jpg')


def _pack_dataset(arguments, given) -> int:
    from igcnet.data.arrays import load_cifar, load_digits
    from igcnet.data.planning import plan_arrays
    from igcnet.data.svhn import load_svhn
    from igcnet.data.trees import open_tree
    _refuse(given, ('list', 'pass_through', 'pack_label') + _LABELS + _LISTING,
            '--dataset %s is packed as it is published' % arguments.dataset)
    if arguments.dataset == 'digits':
        _refuse(given, ('download',), 'digits come with scikit-learn')
        if 'root' in given:
            raise UsageError('--dataset digits comes with scikit-learn: leave out ROOT (%s)'
                             % arguments.root)
        dataset = load_digits()
    else:
        root = _dataset_root(arguments, given)
        with open_tree(root, arguments.prefix) as tree:
            if arguments.dataset == 'svhn':
                dataset, warnings = load_svhn(tree, root)
                _warn(warnings)
            else:
                dataset = load_cifar(arguments.dataset, tree, root)
    plans = plan_arrays(arguments.prefix, dataset,
                        {'kind': arguments.dataset, 'form': dataset.form},
                        arguments.seed if arguments.shuffle else None)
    options = {'shuffle': arguments.shuffle, 'seed': arguments.seed}
    return _pack(arguments, plans, dataset.classes, options, '.png')


def _dataset_root(arguments, given) -> str:
    """Where the published files of --dataset are, after fetching them if that is asked for."""
    if 'download' not in given:
        if 'root' not in given:
            raise UsageError('--dataset %s needs ROOT, the folder or archive of the published '
                             'files, or --download' % arguments.dataset)
        return arguments.root
    from igcnet.data.downloading import PUBLISHED, download
    folder = arguments.root if 'root' in given else os.path.join(arguments.prefix, 'download')
    paths = download(PUBLISHED[arguments.dataset], folder, show_progress=True)
    return str(paths[0]) if len(paths) == 1 else folder


def _pack(arguments, plans, classes, options: Dict[str, Any], encoding: str) -> int:
    from igcnet.data.encoding import Encoding
    from igcnet.data.packing import pack
    settings = vars(arguments)
    how = Encoding(arguments.pass_through, arguments.resize, arguments.center_crop,
                   settings.get('quality'), arguments.color, settings.get('encoding', encoding),
                   arguments.interp)
    if 'preset' in settings:
        options = dict(options, preset=arguments.preset,
                       preset_note=PRESETS[arguments.preset].note)
    packed = pack(plans, classes, how, options, settings.get('num_thread'), arguments.max_bad,
                  show_progress=True)
    for plan, records, skipped in packed:
        print('wrote %s.rec: %d images%s%s'
              % (plan.prefix, records, '' if classes is None else ' of %d classes' % len(classes),
                 ', %d skipped (reasons in %s)' % (skipped, plan.report) if skipped else ''))
    return 0


def _list_options(arguments):
    from igcnet.data.planning import ListOptions
    return ListOptions(tuple(arguments.exts), arguments.recursive, arguments.shuffle,
                       arguments.seed, arguments.chunks, arguments.train_ratio,
                       arguments.test_ratio, arguments.stratified, arguments.split_by_folder)


def _refuse(given, options: Sequence[str], reason: str) -> None:
    """Raise UsageError for options that would have no effect."""
    flags = {'shuffle': '--no-shuffle'}
    wrong = [flags.get(name, '--' + name.replace('_', '-')) for name in options if name in given]
    if wrong:
        raise UsageError('%s: %s; leave out %s' % (wrong[0], reason, ' '.join(wrong)))


def _warn(warnings: Sequence[str]) -> None:
    for line in warnings:
        print('warning: %s' % line, file=sys.stderr)
