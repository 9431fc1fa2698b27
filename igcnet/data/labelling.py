"""Labels of the images of a flat folder, from a file; ImageNet's validation images come so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from igcnet.data.lists import Item
from igcnet.data.records import RecordFile
from igcnet.data.scanning import EXTENSIONS, scan_flat
from igcnet.data.trees import Folders
from igcnet.errors import DataError
from igcnet.files import PathLike


class LabelRow(NamedTuple):
    """One line: the file (None when the line has a label only), the label, and where it stands."""

    name: Optional[str]
    label: str
    where: str


def read_labels(path: PathLike) -> List[LabelRow]:
    """Read a label file of one of two forms.

    Either each line has a file name, any other columns, and the label last, separated by tabs,
    and the first line may be a heading. Or each line has a label only: they belong to the files in
    the order of their sorted names.

    Raises
    ------
    DataError
        No such file, no labels, or a line of another form.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError('%s: cannot read this label file (%s)' % (path, problem)) from None
    table = any('\t' in line for line in lines)
    rows = []
    for number, line in enumerate(lines, 1):
        where = '%s, line %d' % (path, number)
        words = [word.strip() for word in line.split('\t')]
        if table and len(words) < 2 or not words[-1] or not words[0]:
            raise DataError('%s: must be a file name, a tab and a class number' % where)
        # A heading has names of columns, and no file name with an extension.
        if table and number == 1 and not words[-1].isdigit() and not os.path.splitext(words[0])[1]:
            continue
        rows.append(LabelRow(words[0] if table else None, words[-1], where))
    if not rows:
        raise DataError('%s: no labels in this file' % path)
    return rows


def class_names(path: PathLike) -> List[str]:
    """Class names by number: of a data set that is packed already, or of a text file with one
    name a line."""
    if os.path.isfile(path) and not os.fspath(path).endswith('.rec'):
        try:
            names = Path(path).read_text(encoding='utf-8').split('\n')
        except (OSError, UnicodeDecodeError) as problem:
            raise DataError('%s: cannot read these class names (%s)' % (path, problem)) from None
        names = [name.strip() for name in names]
        while names and not names[-1]:
            names.pop()
    else:
        names = RecordFile(path).classes or []
    if not names or '' in names or len(set(names)) != len(names):
        raise DataError('%s: no class names, one a line and all different' % path)
    return names


def label_flat(folders: Folders, where: str, labels: PathLike, names: Optional[Sequence[str]],
               extensions: Sequence[str] = EXTENSIONS
               ) -> Tuple[List[Item], Optional[List[str]], List[str]]:
    """The images of a flat folder with the labels of a file.

    Parameters
    ----------
    where : str
        Name of the root, for messages.
    labels : path
        The file.
    extensions : collection of str
        Of the images: lower-case, with the dot.
    names : sequence of str, optional
        Class names by number, for labels that are names. Without them, and when the labels are
        names, the sorted names are the classes.

    Returns
    -------
    items : list of Item
        Keys count the sorted files that have a label.
    classes : list of str or None
    unlabelled : list of str
        Images without a line.

    Raises
    ------
    DataError
        Images are missing or lie in sub-folders, or a label is not one of the classes.
    """
    images = [item.name for item in scan_flat(folders, extensions)]
    if not images:
        raise DataError('%s: no images right in it, which %s could label' % (where, labels))
    rows = read_labels(labels)
    if rows[0].name is None:
        if len(rows) != len(images):
            raise DataError('%s: %d labels for the %d images in %s; give file names as well, or '
                            'the complete folder' % (labels, len(rows), len(images), where))
        rows = [row._replace(name=name) for row, name in zip(rows, images)]
    present, by_name = set(images), {}
    for row in rows:
        if row.name not in present:
            raise DataError('%s: there is no image %s in %s' % (row.where, row.name, where))
        if row.name in by_name:
            raise DataError('%s: %s has a label already' % (row.where, row.name))
        by_name[row.name] = row
    numbers, classes = _numbers(rows, labels, names)
    labelled = sorted(by_name)
    items = [Item(key, float(numbers[by_name[name].label]), name)
             for key, name in enumerate(labelled)]
    return items, classes, [name for name in images if name not in by_name]


def _numbers(rows: Sequence[LabelRow], labels: PathLike, names: Optional[Sequence[str]]
             ) -> Tuple[Dict[str, int], Optional[List[str]]]:
    """The class number of each label as it is written."""
    words = {row.label: row for row in rows}
    if names is None and not all(word.isdigit() for word in words):
        names = sorted(words)
    if names is not None and not all(word.isdigit() for word in words):
        by_name: Dict[str, Any] = {name: number for number, name in enumerate(names)}
        for word, row in words.items():
            if word not in by_name:
                raise DataError('%s: %r is none of the %d class names' % (row.where, word,
                                                                          len(names)))
        return {word: by_name[word] for word in words}, list(names)
    numbers = {word: int(word) for word in words}
    if (min(numbers.values()), max(numbers.values())) == (1, 1000):
        raise DataError('%s: the numbers go from 1 to 1000, like the ILSVRC2012_IDs of ImageNet, '
                        'whose order is not that of the sorted class folders; give class numbers '
                        'from 0, or the names of the class folders' % labels)
    if names is not None and max(numbers.values()) >= len(names):
        raise DataError('%s: the numbers go up to %d, but there are %d class names'
                        % (labels, max(numbers.values()), len(names)))
    return numbers, None if names is None else list(names)
