"""Is a data set whole? Every record, every image, the index, the list and the manifest."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from igcnet.data.encoding import READABLE_BY_MXNET
from igcnet.data.images import check_image
from igcnet.data.lists import read_list
from igcnet.data.processes import usable_cores
from igcnet.data.records import RecordFile, plain_label
from igcnet.data.workers import DecoderMessages, Task, WorkerPool, reason_of
from igcnet.errors import DataError
from igcnet.files import PathLike, sha256
from igcnet.progress import Progress


class Verified(NamedTuple):
    """What was found.

    Attributes
    ----------
    records : int
        Number of records in the index.
    problems : list of str
        One line each, naming file and record.
    notes : list of str
        What could not be checked, and why.
    """

    records: int
    problems: List[str]
    notes: List[str]


def verify(path: PathLike, workers: Optional[int] = None, show_progress: bool = False) -> Verified:
    """Read every record, decode every image, and compare with index, list and manifest.

    Parameters
    ----------
    workers : int, optional
        Worker processes; default: all usable cores.

    Raises
    ------
    DataError
        The file cannot be read at all, or it is damaged and has no index to go on with.
    """
    records = RecordFile(path, check_ends=False)
    problems, notes = [], []
    if not records.has_index:
        problems.append('%s: the index is missing' % records.paths.idx)
    items = _list_items(records, problems, notes)
    names = {key: item.name for key, item in items.items()}
    labels, ends, bad = _read_all(records, workers or usable_cores(), show_progress)
    for position, reason in sorted(bad.items()):
        name = names.get(int(records.keys[position]))
        problems.append('%s: %s%s' % (records.where(position), name + ': ' if name else '',
                                      reason))
    problems += _index_problems(records, ends)
    problems += _list_problems(records, items, labels)
    if records.manifest is None:
        notes.append('%s is missing: checksums, counts and class names are not checked'
                     % records.paths.manifest)
    else:
        problems += _manifest_problems(records, labels, not bad)
    return Verified(len(records), problems, notes)


def _list_items(records: RecordFile, problems: List[str], notes: List[str]) -> Dict[int, Any]:
    if not records.paths.lst.is_file():
        notes.append('%s is missing: the sources of the images are not known' % records.paths.lst)
        return {}
    try:
        return {item.key: item for item in read_list(records.paths.lst)}
    except DataError as problem:
        problems.append(str(problem))
        return {}


def _read_all(records: RecordFile, workers: int, show_progress: bool
              ) -> Tuple[List[Any], np.ndarray, Dict[int, str]]:
    """Label and end of each record (None and -1 for a damaged one), and what is wrong with it."""
    path = str(records.paths.rec)
    labels: List[Any] = []
    ends: List[int] = []
    bad: Dict[int, str] = {}

    def prepare(positions):
        return Task(_check_chunk, (path, positions.start, positions.stop),
                    records.where(positions[0]), records.where(positions[-1]))

    with WorkerPool(workers) as pool, Progress(len(records), 'verifying ' + records.paths.rec.name,
                                               'records', enabled=show_progress) as progress:
        for positions, (some_labels, some_ends, some_bad) in pool.run(range(len(records)),
                                                                      prepare):
            labels += some_labels
            ends += some_ends
            bad.update(some_bad)
            progress.advance(len(positions))
    return labels, np.asarray(ends, np.int64), bad


@functools.lru_cache(maxsize=1)
def _open_records(path: str) -> RecordFile:
    return RecordFile(path, check_ends=False)


def _check_chunk(argument) -> Tuple[Tuple[List[Any], List[int], Dict[int, str]], int]:
    """In a worker: check the records from one position to another."""
    path, start, stop = argument
    records = _open_records(path)
    messages = DecoderMessages()
    labels: List[Any] = []
    ends: List[int] = []
    bad, size = {}, 0
    for position in range(start, stop):
        where = records.where(position)
        label, end = None, -1
        try:
            record, end = records.read_to_end(position)
            label = plain_label(record.label)
            size += len(record.image)
            kind = check_image(record.image, where)
            damage = messages.damage()
            if damage:
                raise DataError(damage)
            if kind not in READABLE_BY_MXNET:
                raise DataError('a %s image, which MXNet cannot decode' % kind)
        except (DataError, MemoryError) as problem:
            bad[position] = reason_of(problem, where)
        labels.append(label)
        ends.append(end)
    return (labels, ends, bad), size


def _index_problems(records: RecordFile, ends: np.ndarray) -> List[str]:
    problems = []
    if not len(ends):
        return ['%s: the index is empty' % records.paths.idx]
    counts = Counter(records.keys.tolist())
    problems += ['%s: key %d stands %d times; keys must differ' % (records.paths.idx, key, count)
                 for key, count in counts.items() if count > 1]
    order = np.argsort(records.offsets, kind='stable')
    # Of a record that cannot be read, the end is not known; it is reported already.
    starts, stops = records.offsets[order], ends[order]
    before = np.concatenate([[0], stops])
    after = np.concatenate([starts, [records.size]])
    for place in np.flatnonzero((before >= 0) & (before != after)).tolist():
        problems.append('%s: bytes %d to %d of the record file are %s'
                        % (records.paths.idx, min(before[place], after[place]),
                           max(before[place], after[place]),
                           'not in the index' if before[place] < after[place]
                           else 'in two records'))
    return problems


def _list_problems(records: RecordFile, items: Dict[int, Any], labels: Sequence[Any]) -> List[str]:
    if not items:
        return []
    problems = []
    for position, (key, label) in enumerate(zip(records.keys.tolist(), labels)):
        item = items.get(key)
        if item is None:
            problems.append('%s: not in the list %s' % (records.where(position),
                                                        records.paths.lst.name))
        # A list of several labels may have been packed with the first of them only.
        elif label is not None and not np.allclose(
                np.ravel(item.label)[:np.size(label)], np.ravel(label), 1e-6, 1e-6):
            problems.append('%s: its label is %s, in the list %s'
                            % (records.where(position), label, item.label))
    return problems


def _manifest_problems(records: RecordFile, labels: Sequence[Any], complete: bool) -> List[str]:
    """What the manifest says otherwise; `complete` means that all labels are known."""
    manifest, name, problems = records.manifest or {}, records.paths.manifest, []
    sums = manifest.get('sha256')
    for part, expected in (sums if isinstance(sums, dict) else {}).items():
        path = {'rec': records.paths.rec, 'idx': records.paths.idx,
                'lst': records.paths.lst}.get(part)
        if path is not None and path.is_file() and sha256(path, DataError) != expected:
            problems.append('%s: its checksum is not that of the manifest; it was changed or '
                            'damaged after packing' % path)
    if manifest.get('records', len(records)) != len(records):
        problems.append('%s: %s records according to the manifest, %d in the index'
                        % (name, manifest['records'], len(records)))
    classes = records.classes
    if classes is None:
        return problems
    for position, label in enumerate(labels):
        if isinstance(label, float) and not (0 <= label < len(classes) and label == int(label)):
            problems.append('%s: its label is %g, but the manifest names the classes 0 to %d'
                            % (records.where(position), label, len(classes) - 1))
    expected_counts = manifest.get('records_per_class')
    if complete and isinstance(expected_counts, list):
        counts = Counter(labels)
        for number, expected in enumerate(expected_counts):
            if counts[float(number)] != expected:
                problems.append('%s: %s records of class %d according to the manifest, %d in the '
                                'file' % (name, expected, number, counts[float(number)]))
    return problems
