"""Where images come from: record files, class folders, lists of files; one interface.

A source has ``len()``, ``classes`` (names by number, or None), ``labelled``, and for each
position in its order ``read(position)`` -> (label or None, encoded image), ``where(position)``
(how errors name it) and ``name(position)`` (how a table of predictions names it). ``warnings``
says what of a folder was left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from igcnet.data.labelling import read_labels
from igcnet.data.records import MAX_LENGTH, RecordFile
from igcnet.data.scanning import EXTENSIONS, scan_flat, scan_tree
from igcnet.data.trees import FolderTree
from igcnet.errors import DataError, UsageError
from igcnet.files import PathLike


class Place:
    """Where an image of a source is, put into words only when an error needs them."""

    __slots__ = ('position', 'source')

    def __init__(self, source, position: int):
        self.source, self.position = source, position

    def __str__(self) -> str:
        return self.source.where(self.position)


class RecordSource:
    """The records of a file, in the order of its index."""

    labelled = True
    warnings = ()

    def __init__(self, records: RecordFile):
        self.records = records
        self.classes = records.classes
        self._names: Optional[Dict[int, str]] = None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, position: int) -> Tuple[Optional[float], bytes]:
        """Label and encoded image."""
        return self.records.read_image(position)

    def where(self, position: int) -> str:
        """What messages call an image."""
        return self.records.where(position)

    def name(self, position: int) -> str:
        """Source file from the ``.lst`` beside the records, else the key."""
        if self._names is None:
            self._names = self.records.source_names()
        key = int(self.records.keys[position])
        return self._names.get(key, 'record %d' % key)


class FileSource:
    """Image files, with or without labels.

    Parameters
    ----------
    files : sequence of path
        Image files.
    labels : sequence of int, optional
        Class number of each file.
    classes : sequence of str, optional
        Class names by number.
    root : path, optional
        Folder that names are relative to; without it they are as given.
    warnings : sequence of str
        What was left out of the folder, one line each.
    """

    def __init__(self, files: Sequence[PathLike], labels: Optional[Sequence[int]] = None,
                 classes: Optional[Sequence[str]] = None, root: Optional[PathLike] = None,
                 warnings: Sequence[str] = ()):
        self.files = [Path(file) for file in files]
        self.labels = labels
        self.classes = None if classes is None else list(classes)
        self.labelled = labels is not None
        self.warnings = list(warnings)
        self._root = root

    def __len__(self) -> int:
        return len(self.files)

    def read(self, position: int) -> Tuple[Optional[float], bytes]:
        """Label, or None, and encoded image."""
        path = self.files[position]
        try:
            if not path.is_file():
                raise DataError('%s: no such image file' % path)
            if path.stat().st_size > MAX_LENGTH:
                raise DataError('%s: larger than any image (%d bytes)'
                                % (path, path.stat().st_size))
            data = path.read_bytes()
        except OSError as problem:
            raise DataError('%s: cannot read this image (%s)' % (path, problem.strerror)) from None
        return (float(self.labels[position]) if self.labelled else None), data

    def where(self, position: int) -> str:
        """What messages call an image."""
        return str(self.files[position])

    def name(self, position: int) -> str:
        """File name below the folder of the source."""
        path = self.files[position]
        return str(path.relative_to(self._root) if self._root else path)


def open_source(source: Any, classes: Optional[Sequence[str]] = None
                ) -> Union[RecordSource, FileSource]:
    """The source that `source` stands for.

    Parameters
    ----------
    source : path, list of paths, RecordFile or source
        A record file (``.rec``, or its prefix), a folder of class folders, a folder of images,
        an image file or a list of image files.
    classes : sequence of str, optional
        Class names by number, for class folders. Without them, the sorted folder names are the
        classes, as in the packer.

    Raises
    ------
    UsageError
        An empty list.
    DataError
        Nothing there, no images, or a folder that is none of `classes`.
    """
    if isinstance(source, RecordFile):
        return RecordSource(source)
    if isinstance(source, (list, tuple)):
        if not source:
            raise UsageError('the list of images is empty; name at least one file')
        return FileSource(source, classes=classes)
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    if path.is_dir():
        return _folder_source(path, classes)
    if path.suffix.lower() in EXTENSIONS or (path.is_file() and path.suffix != '.rec'):
        return FileSource([path], classes=classes)
    return RecordSource(RecordFile(path))


def labelled_folder(root: PathLike, labels: PathLike) -> FileSource:
    """Images of a flat folder with the class numbers of a label file, in its order.

    Parameters
    ----------
    labels : path
        Lines of a file name, any other columns, and the class number last, separated by tabs; the
        first line may be a heading. ImageNet's validation images come this way.

    Raises
    ------
    DataError
        A line of another form, or a label file without lines.
    """
    rows = read_labels(labels)
    for row in rows:
        if row.name is None or not row.label.isdigit():
            raise DataError('%s: must be a file name, a tab and a class number' % row.where)
    return FileSource([Path(root) / row.name for row in rows], [int(row.label) for row in rows],
                      root=root)


def _folder_source(root: Path, classes: Optional[Sequence[str]]) -> FileSource:
    folders = FolderTree(root).folders()
    flat = scan_flat(folders)
    if flat:
        return FileSource([root / item.name for item in flat], classes=classes, root=root)
    scan = scan_tree(folders, str(root))
    if '' not in scan.parts:
        raise DataError('%s: a data set in parts (%s); name the folder of one part'
                        % (root, ', '.join(sorted(scan.parts))))
    names = scan.classes if classes is None else list(classes)
    for folder in scan.classes:
        if folder not in names:
            raise DataError('%s: this folder is none of the %d classes of the network (%s, ...)'
                            % (root / folder, len(names), ', '.join(names[:3])))
    numbers = [names.index(folder) for folder in scan.classes]
    items = scan.parts['']
    return FileSource([root / item.name for item in items],
                      [numbers[int(item.label)] for item in items], names, root, scan.warnings)
