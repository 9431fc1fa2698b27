"""What to pack and under which names: class folders, split trees, and lists in im2rec's form."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from igcnet.data.arrays import ArrayDataset
from igcnet.data.encoding import Source
from igcnet.data.labelling import label_flat
from igcnet.data.lists import (
    Item,
    check_ratios,
    find_lists,
    read_list,
    shuffled,
    split_items,
    write_list,
)
from igcnet.data.packing import Plan
from igcnet.data.records import RecordPaths
from igcnet.data.scanning import EXTENSIONS, Scan, scan_flat, scan_tree
from igcnet.data.trees import FolderTree, TarTree, Tree
from igcnet.errors import DataError, IgcnetError, UsageError
from igcnet.files import read_json, write_text


class ListOptions(NamedTuple):
    """How images are found, ordered and split; names and meanings are those of im2rec.

    Attributes
    ----------
    exts : tuple of str
        Extensions of images.
    recursive : bool
        Each folder with images is a class, at any depth.
    shuffle : bool
        Otherwise the images stay class after class.
    seed : int
        Of the order; im2rec's own is 100.
    chunks : int
        Number of data sets of equal size.
    train_ratio, test_ratio : float
        Parts of the images; what is left is for validation.
    stratified : bool
        The parts have these ratios of each class, not only of the whole.
    split_by_folder : bool
        The top folders are parts (train, val, test), whatever else is there. Without it a tree
        is taken so when it holds nothing but such folders.
    """

    exts: Tuple[str, ...] = EXTENSIONS
    recursive: bool = False
    shuffle: bool = True
    seed: int = 100
    chunks: int = 1
    train_ratio: float = 1.0
    test_ratio: float = 0.0
    stratified: bool = False
    split_by_folder: bool = False

    def check(self) -> ListOptions:
        """The same with normal extensions; UsageError for values that cannot work."""
        check_ratios(self.train_ratio, self.test_ratio)
        if self.chunks < 1:
            raise UsageError('--chunks %d: must be at least 1' % self.chunks)
        if self.stratified and self.train_ratio == 1:
            raise UsageError('--stratified says how --train-ratio divides; give --train-ratio')
        exts = tuple(sorted({'.' + name.lower().lstrip('.') for name in self.exts}))
        return self._replace(exts=exts)


def is_folder(prefix: str) -> bool:
    """True when the parts of a data set go into a folder of this name, not beside it."""
    return prefix.endswith('/') or os.path.isdir(prefix)


def part_prefix(prefix: str, part: str, in_folder: bool) -> str:
    """Prefix of one part: ``<prefix>_train`` as im2rec names it, or ``<prefix>/train``.

    Refuses a prefix without a name where one is needed.
    """
    if in_folder:
        if not part:
            raise UsageError('%s is a folder: name the records in it, such as %s'
                             % (prefix, os.path.join(prefix, 'train')))
        return os.path.join(prefix, part)
    return prefix + '_' + part if part else prefix


def scan_parts(tree: Tree, where: str, options: ListOptions) -> Tuple[Scan, bool]:
    """Classes and parts of a tree, shuffled and split as `options` say.

    Returns
    -------
    scan : Scan
    by_folder : bool
        The tree itself is split into ``train`` and other folders.

    Raises
    ------
    UsageError
        Options for a split that the tree has made already.
    """
    options = options.check()
    scan = scan_tree(tree.folders(), where, options.exts, options.recursive,
                     isinstance(tree, TarTree), options.split_by_folder)
    by_folder = '' not in scan.parts
    warnings = list(scan.warnings)
    if by_folder and (options.chunks, options.train_ratio, options.test_ratio) != (1, 1.0, 0.0):
        raise UsageError('%s is split into folders %s already; leave out --chunks, --train-ratio '
                         'and --test-ratio' % (where, ', '.join(scan.parts)))
    parts = {part: shuffled(items, options.seed) if options.shuffle else items
             for part, items in scan.parts.items()}
    if not by_folder:
        parts = split_items(parts[''], options.chunks, options.train_ratio, options.test_ratio,
                            options.stratified)
        warnings += _missing_classes(parts, scan.classes)
    if len(scan.classes) == 1:
        warnings.append('%s: only one class (%s)' % (where, scan.classes[0]))
    return Scan(scan.classes, parts, warnings), by_folder


def _missing_classes(parts: Dict[str, Sequence[Item]], classes: Sequence[str]) -> List[str]:
    warnings = []
    for part, items in parts.items():
        if part.endswith('train'):
            present = {item.label for item in items}
            missing = [name for number, name in enumerate(classes) if number not in present]
            if missing:
                warnings.append('part %s has no images of %d classes (%s)'
                                % (part, len(missing), ', '.join(missing[:3])))
    return warnings


def plan_tree(prefix: str, tree: Tree, where: str,
              options: ListOptions) -> Tuple[List[Plan], List[str], List[str]]:
    """Plans for a tree of class folders, its class names, and warnings."""
    scan, by_folder = scan_parts(tree, where, options)
    in_folder = by_folder or is_folder(prefix)
    source = {'kind': 'split-class-folders' if by_folder else 'class-folders'}
    plans = [Plan(part_prefix(prefix, part, in_folder), items, fetch_from(tree), source)
             for part, items in scan.parts.items()]
    return plans, scan.classes, scan.warnings


def plan_labelled(prefix: str, tree: Tree, where: str, labels: str, names: Optional[Sequence[str]],
                  options: ListOptions) -> Tuple[List[Plan], Optional[List[str]], List[str]]:
    """Plan for a flat folder with a label file, see `igcnet.data.labelling.label_flat`.

    Images without a label are in the plan as images that cannot be packed.
    """
    options = options.check()
    items, classes, unlabelled = label_flat(tree.folders(), where, labels, names, options.exts)
    if options.shuffle:
        items = shuffled(items, options.seed)
    fetch = fetch_from(tree)
    warnings = []
    if unlabelled:
        warnings.append('%d images have no line in %s (such as %s)'
                        % (len(unlabelled), labels, unlabelled[0]))
        first, problem = len(items), DataError('no line in the label file')
        items = items + [Item(first + place, 0.0, name) for place, name in enumerate(unlabelled)]

        def fetch(item):
            if item.key >= first:
                raise problem
            return tree.read(item.name)
    if is_folder(prefix):
        part_prefix(prefix, '', True)  # refuses
    return [Plan(prefix, items, fetch, {'kind': 'labelled-folder'})], classes, warnings


def plan_arrays(prefix: str, dataset: ArrayDataset, source: Dict[str, Any],
                seed: Optional[int]) -> List[Plan]:
    """Plans for a data set in memory, in the folder `prefix`; no `seed` keeps its order."""
    plans = []
    for part, arrays in dataset.parts.items():
        items = arrays.items() if seed is None else shuffled(arrays.items(), seed)
        plans.append(Plan(part_prefix(prefix, part, True), items, arrays.fetch, source))
    return plans


def fetch_from(tree: Tree) -> Union[str, Callable[[Item], Source]]:
    """How `Plan` gets at the images of `tree`."""
    if isinstance(tree, FolderTree):
        return tree.root
    return lambda item: tree.read(item.name)


def write_lists(prefix: str, tree: Tree, where: str,
                options: ListOptions) -> Tuple[List[str], List[str]]:
    """Write the ``.lst`` files of a tree, and its class names beside them.

    Returns
    -------
    paths : list of str
        The files written.
    warnings : list of str
    """
    flat = scan_flat(tree.folders(), options.check().exts)
    if flat and not options.split_by_folder:
        # im2rec's form for images whose labels are filled in later.
        items = shuffled(flat, options.seed) if options.shuffle else flat
        parts = split_items(items, options.chunks, options.train_ratio, options.test_ratio,
                            options.stratified)
        warnings = ['%s has no class folders: every image gets label 0' % where]
        in_folder, classes = is_folder(prefix), None
    else:
        scan, by_folder = scan_parts(tree, where, options)
        parts, classes, warnings = scan.parts, scan.classes, scan.warnings
        in_folder = by_folder or is_folder(prefix)
    paths = []
    for part, items in parts.items():
        paths.append(part_prefix(prefix, part, in_folder) + '.lst')
        write_list(paths[-1], items)
    if classes is not None:
        paths.append(classes_path(prefix, in_folder))
        write_text(paths[-1], ''.join(name + '\n' for name in classes))
    return paths, warnings


def classes_path(prefix: str, in_folder: bool) -> str:
    """The file of class names, one per line by number, that goes with lists."""
    return os.path.join(prefix, 'classes.txt') if in_folder else prefix + '-classes.txt'


def input_lists(prefix: str) -> List[Path]:
    """The lists of `prefix` that are there to be packed.

    A list that an earlier run wrote beside its records, and that nobody changed since, is a
    result and not an input.
    """
    return [path for path in find_lists(prefix) if not _is_result(path)]


def _is_result(path: Path) -> bool:
    manifest_path = RecordPaths.of(os.fspath(path)[:-len('.lst')]).manifest
    try:
        manifest: Any = read_json(manifest_path, 'manifest')
        return (manifest['source']['kind'] != 'list'
                and manifest['sha256']['lst'] == hashlib.sha256(path.read_bytes()).hexdigest())
    except (IgcnetError, OSError, KeyError, TypeError):
        return False


def plan_lists(prefix: str, paths: Sequence[Path], tree: Tree,
               pack_label: bool) -> Tuple[List[Plan], Optional[List[str]], List[str]]:
    """Plans for packing lists, their class names if they can be told, and warnings.

    Parameters
    ----------
    pack_label : bool
        Pack all labels of a line; otherwise only the first.
    """
    plans, warnings = [], []
    for path in paths:
        items = read_list(path)
        several = sum(isinstance(item.label, tuple) for item in items)
        if several and not pack_label:
            warnings.append('%s: %d lines have several labels and only the first is packed; '
                            '--pack-label packs all' % (path, several))
            items = [item._replace(label=item.label[0]) if isinstance(item.label, tuple) else item
                     for item in items]
        plans.append(Plan(os.fspath(path)[:-len('.lst')], items, fetch_from(tree),
                          {'kind': 'list'}, with_list=False))
    names_path = Path(classes_path(prefix, is_folder(prefix)))
    if names_path.is_file():
        try:
            names = names_path.read_text(encoding='utf-8').rstrip('\n').split('\n')
        except (OSError, UnicodeDecodeError) as problem:
            raise DataError('%s: cannot read these class names (%s)'
                            % (names_path, problem)) from None
        return plans, names, warnings
    classes = classes_of_folders([item for plan in plans for item in plan.items])
    if classes is None:
        warnings.append('class names are not known and will be missing in the manifest; put them '
                        'into %s, one per line' % names_path)
    return plans, classes, warnings


def classes_of_folders(items: Sequence[Item]) -> Optional[List[str]]:
    """Class names by number when labels and folders of the images correspond one to one."""
    pairs = {(item.label, item.name.rpartition('/')[0]) for item in items}
    names = dict(pairs)
    if len(names) < len(pairs) or any(isinstance(label, tuple) for label in names):
        return None
    numbers = sorted(names)
    if numbers != list(range(len(names))) or len(set(names.values())) != len(names) \
            or '' in names.values():
        return None
    return [names[number] for number in numbers]
