"""Where images come from: record files, class folders, lists of files; one interface.

A source has ``len()``, ``classes`` (names by number, or None), ``labelled``, and for each
position in its order ``read(position)`` -> (label or None, encoded image), ``where(position)``
(how errors name it) and ``name(position)`` (how a table of predictions names it).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from igcnet.data.records import MAX_LENGTH, RecordFile
from igcnet.errors import DataError, UsageError
from igcnet.files import PathLike

IMAGE_SUFFIXES = frozenset('.bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp'.split())


class RecordSource:
    """The records of a file, in the order of its index."""

    labelled = True

    def __init__(self, records: RecordFile):
        self.records = records
        self.classes = records.classes
        self._names: Optional[Dict[int, str]] = None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, position: int) -> Tuple[Optional[float], bytes]:
        record = self.records.read(position)
        return float(np.ravel(record.label)[0]), record.image

    def where(self, position: int) -> str:
        return self.records.where(position)

    def name(self, position: int) -> str:
        """Source file from the ``.lst`` beside the records, else the key."""
        if self._names is None:
            path = self.records.paths.lst
            self._names = _listed_names(path) if path.is_file() else {}
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
    """

    def __init__(self, files: Sequence[PathLike], labels: Optional[Sequence[int]] = None,
                 classes: Optional[Sequence[str]] = None, root: Optional[PathLike] = None):
        self.files = [Path(file) for file in files]
        self.labels = labels
        self.classes = None if classes is None else list(classes)
        self.labelled = labels is not None
        self._root = root

    def __len__(self) -> int:
        return len(self.files)

    def read(self, position: int) -> Tuple[Optional[float], bytes]:
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
        return str(self.files[position])

    def name(self, position: int) -> str:
        path = self.files[position]
        return str(path.relative_to(self._root) if self._root else path)


def open_source(source, classes: Optional[Sequence[str]] = None):
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
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FileSource([path], classes=classes)
    return RecordSource(RecordFile(path))


def _folder_source(root: Path, classes: Optional[Sequence[str]]) -> FileSource:
    try:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith('.'))
    except OSError as problem:
        raise DataError('%s: cannot read this folder (%s)' % (root, problem.strerror)) from None
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if _is_image(entry)]
    if not folders and not loose:
        raise DataError('%s: no images and no class folders in this folder' % root)
    if not folders:
        return FileSource(loose, classes=classes, root=root)
    if loose:
        raise DataError('%s: %s lies beside class folders; a folder holds either images or one '
                        'folder for each class' % (root, loose[0].name))
    names = [folder.name for folder in folders] if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(names)}
    files: List[Path] = []
    labels: List[int] = []
    for folder in folders:
        if folder.name not in numbers:
            raise DataError('%s: this folder is none of the %d classes of the network (%s, ...)'
                            % (folder, len(names), ', '.join(names[:3])))
        found = sorted(file for file in folder.rglob('*') if _is_image(file))
        files += found
        labels += [numbers[folder.name]] * len(found)
    if not files:
        raise DataError('%s: no images in its %d class folders' % (root, len(folders)))
    return FileSource(files, labels, names, root)


def _is_image(path: Path) -> bool:
    return (path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')
            and path.is_file())


def _listed_names(path: Path) -> Dict[int, str]:
    """Key -> source file, from lines of key, labels and file name between tabs."""
    names = {}
    try:
        with open(path, encoding='utf-8', errors='surrogateescape') as lines:
            for number, line in enumerate(lines, 1):
                words = line.rstrip('\n').split('\t')
                if len(words) < 3 or not words[0].isdigit():
                    raise DataError('%s, line %d: not a list: each line must be a key, a label '
                                    'and a file name, with tabs between' % (path, number))
                names[int(words[0])] = words[-1]
    except OSError as problem:
        raise DataError('%s: cannot read this list (%s)' % (path, problem.strerror)) from None
    return names
