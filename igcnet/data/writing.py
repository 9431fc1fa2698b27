"""Writing a data set: records, index, list and manifest appear complete, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Sequence

import cv2

import igcnet
from igcnet.data.lists import Item, list_line
from igcnet.data.records import RecordPaths, frame, pack_record
from igcnet.errors import DataError
from igcnet.files import PathLike, atomic_path, explain_os_errors, sync_file

FORMAT = 'igcnet-records'
FORMAT_VERSION = 1


class RecordWriter:
    """Adds records to one data set; made by `record_writer`.

    The bytes of ``.rec`` and ``.idx`` are those of ``mxnet.recordio.MXIndexedRecordIO`` for the
    same payloads.

    Parameters
    ----------
    files : dict of str to binary file
        The open parts 'rec', 'idx', 'lst' (may be missing) and 'manifest'.
    classes : list of str or None
        Class names by number.
    facts : mapping
        See `record_writer`.
    """

    def __init__(self, files: Dict[str, BinaryIO], classes: Optional[List[str]],
                 facts: Mapping[str, Any]):
        self._files = files
        self.sums = {part: hashlib.sha256() for part in ('rec', 'idx', 'lst')}
        self._classes = classes
        self._facts = facts
        self._counts: Optional[Counter] = Counter()
        self.size = 0
        self.records = 0
        self.skipped = 0

    def add(self, item: Item, image: bytes) -> None:
        """Append one encoded image with the label and key of `item`. Keys must differ."""
        record = frame(pack_record(item.label, item.key, image))
        self.add_framed([item], record, [len(record)])

    def add_framed(self, items: Sequence[Item], framed: bytes, lengths: Sequence[int]) -> None:
        """Append the records of `items` as `igcnet.data.records.frame` made them: joined in
        `framed`, and their `lengths`."""
        index = []
        for item, length in zip(items, lengths):
            index.append(b'%d\t%d\n' % (item.key, self.size))
            self.size += length
        self.records += len(items)
        self._write('rec', framed)
        self._write('idx', b''.join(index))
        if 'lst' in self._files:
            self._write('lst', b''.join(map(list_line, items)))
        if any(isinstance(item.label, tuple) for item in items):
            self._counts = None  # several labels per image: there are no classes to count
        elif self._counts is not None:
            self._counts.update(item.label for item in items)

    def _write(self, part: str, data: bytes) -> None:
        self._files[part].write(data)
        self.sums[part].update(data)

    def finish(self) -> None:
        """Write the manifest and close the files, which get their final names later."""
        if self._files['manifest'].closed:
            return
        checksums = {part: checksum.hexdigest() for part, checksum in self.sums.items()}
        manifest = {
            'format': FORMAT,
            'format_version': FORMAT_VERSION,
            'records': self.records,
            'skipped': self.skipped,
            'classes': self._classes,
            'records_per_class': self._records_per_class(),
            'versions': {'igcnet': igcnet.__version__, 'opencv': cv2.__version__},
            'sha256': checksums,
            **self._facts,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + '\n'
        self._files['manifest'].write(text.encode('utf-8'))
        for file in self._files.values():
            file.close()

    def _records_per_class(self) -> Optional[List[int]]:
        if self._counts is None or self._classes is None:
            return None
        counts = [self._counts.pop(number, 0) for number in range(len(self._classes))]
        for label in self._counts:
            raise DataError('label %g has no name: there are %d class names, for 0 to %d'
                            % (label, len(counts), len(counts) - 1))
        return counts


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep other writers from beginning in `folder`; False where the file system has no locks."""
    with contextlib.ExitStack() as stack:
        locked = False
        with contextlib.suppress(OSError):
            handle = os.open(str(folder), os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        yield locked


def _remove_leftovers(paths: RecordPaths) -> None:
    """Remove the temporary files of writers of this data set that were killed.

    A writer at work holds a lock on each of its files.
    """
    names = '|'.join(re.escape(path.name) for path in paths)
    pattern = re.compile(r'\.(%s)\.[a-z0-9_]{8}' % names)
    with contextlib.suppress(OSError), os.scandir(paths.rec.parent) as entries:
        for entry in entries:
            if not pattern.fullmatch(entry.name) or entry.is_symlink():
                continue
            with contextlib.suppress(OSError), open(entry.path, 'rb') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


@contextlib.contextmanager
def record_writer(prefix: PathLike, classes: Optional[List[str]] = None,
                  facts: Optional[Mapping[str, Any]] = None,
                  with_list: bool = True) -> Iterator[RecordWriter]:
    """Yield a `RecordWriter` for ``<prefix>.rec``, ``.idx``, ``.lst`` and ``-manifest.json``.

    The files are written under temporary names and renamed at the end of the ``with`` block;
    when it is left by an exception (Ctrl-C too) they are removed and older files stay as they
    were. What a killed process leaves is removed by the next writer of this prefix. The same
    records and arguments give the same bytes.

    Parameters
    ----------
    classes : list of str, optional
        Class names by number.
    facts : mapping, optional
        What else the manifest should say: 'source', 'options'.
    with_list : bool
        False when the records are packed from ``<prefix>.lst``: it is the user's and stays.

    Raises
    ------
    IgcnetError
        When the folder cannot be written or the disk is full.
    """
    paths = RecordPaths.of(prefix)
    # Entered first is renamed last. A manifest stands for a complete data set; a list without one
    # would be the user's, to be packed.
    parts = ['lst', 'manifest', 'idx', 'rec'] if with_list else ['manifest', 'idx', 'rec']
    with explain_os_errors(paths.rec):
        paths.rec.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as stack:
        files = {}
        with _alone(paths.rec.parent) as locked:
            if locked:
                _remove_leftovers(paths)
            for part in parts:
                temporary = stack.enter_context(atomic_path(getattr(paths, part)))
                files[part] = stack.enter_context(open(temporary, 'wb'))
                if locked:
                    # The copy keeps the lock after the file is closed, until it is renamed.
                    locks.callback(os.close, os.dup(files[part].fileno()))
                    with contextlib.suppress(OSError):
                        fcntl.flock(files[part], fcntl.LOCK_EX | fcntl.LOCK_NB)
        writer = RecordWriter(files, classes, facts or {})
        if not with_list:
            writer.sums['lst'].update(paths.lst.read_bytes())
        yield writer
        writer.finish()
        for file in files.values():
            sync_file(file.name)  # what takes long, while the old files are still there
        # Until the new ones have their names, nothing may pair old parts with new records.
        for part in parts[:-1]:
            with contextlib.suppress(FileNotFoundError):
                getattr(paths, part).unlink()
