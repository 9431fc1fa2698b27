"""One data set out of several, and several out of one, with the images' bytes unchanged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from igcnet.data.lists import Item, shuffled, split_items
from igcnet.data.records import RecordFile, RecordPaths, plain_label
from igcnet.data.writing import record_writer
from igcnet.errors import DataError, UsageError
from igcnet.files import PathLike
from igcnet.progress import Progress


def merge(out: PathLike, inputs: Sequence[PathLike], show_progress: bool = False) -> int:
    """Write the records of all `inputs`, one after the other, as the data set `out`.

    Keys are counted anew from 0; labels stay.

    Returns
    -------
    int
        Number of records.

    Raises
    ------
    UsageError
        `out` is one of `inputs`.
    DataError
        Class names differ, or a record is damaged.
    """
    for path in inputs:
        if os.path.realpath(RecordPaths.of(path).rec) == os.path.realpath(RecordPaths.of(out).rec):
            raise UsageError('%s is both input and output; choose another name for the result'
                             % out)
    files = [RecordFile(path) for path in inputs]
    for records in files[1:]:
        _check_same_classes(files[0], records)
    options = [(records.manifest or {}).get('options') for records in files]
    facts = {
        'source': {'kind': 'merge', 'parts': [
            {'name': records.paths.rec.name, 'records': len(records),
             'source': (records.manifest or {}).get('source')} for records in files]},
        # Of records that were packed in different ways no one set of options is true.
        'options': options[0] if all(option == options[0] for option in options) else None}
    total = sum(map(len, files))
    with record_writer(out, files[0].classes, facts) as writer, \
            Progress(total, 'merging', 'records', enabled=show_progress) as progress:
        for records in files:
            names = records.source_names()
            for position in range(len(records)):
                item, image = _entry(records, position, names)
                writer.add(item._replace(key=writer.records), image)
                progress.advance()
    return total


def _check_same_classes(first: RecordFile, other: RecordFile) -> None:
    if first.classes == other.classes:
        return
    names = [set(records.classes or ()) for records in (first, other)]
    if None in (first.classes, other.classes):
        reason = 'only one of them has class names'
    elif names[0] == names[1]:
        reason = 'the same classes have other numbers'
    else:
        reason = 'only one of them has %s' % ', '.join(sorted(names[0] ^ names[1])[:3])
    raise DataError('%s and %s have different class names (%s); pack them with the same classes'
                    % (first.paths.rec, other.paths.rec, reason))


def split(path: PathLike, parts: Optional[int] = None, ratio: Optional[float] = None,
          stratified: bool = False, seed: Optional[int] = None,
          show_progress: bool = False) -> Dict[str, int]:
    """Divide a data set, with keys, labels and images as they are.

    Parameters
    ----------
    parts : int, optional
        Into so many of equal size, ``<prefix>_0``, ``<prefix>_1``, ...
    ratio : float, optional
        Into ``<prefix>_train`` with this part of the records, and ``<prefix>_val``.
    stratified : bool
        With `ratio`: this part of each class.
    seed : int, optional
        Shuffle before; otherwise each part keeps the order of the index.

    Returns
    -------
    dict of str to int
        Number of records by prefix.

    Raises
    ------
    UsageError
        Not exactly one of `parts` and `ratio`, or a value with which a part would be empty.
    """
    if (parts is None) == (ratio is None):
        raise UsageError('give either --parts or --ratio')
    if stratified and ratio is None:
        raise UsageError('--stratified goes with --ratio')
    if parts is not None and parts < 2:
        raise UsageError('--parts %d: must be at least 2' % parts)
    if ratio is not None and not 0 < ratio < 1:
        raise UsageError('--ratio %g: must lie between 0 and 1' % ratio)
    records = RecordFile(path)
    if parts is not None and parts > len(records):
        raise UsageError('--parts %d: there are only %d records' % (parts, len(records)))
    names = records.source_names()
    labels = records.labels().tolist()
    # The place in the index stands for the key, which need not be unique here.
    places = [Item(place, label, '') for place, label in enumerate(labels)]
    if seed is not None:
        places = shuffled(places, seed)
    divided = split_items(places, parts or 1, ratio or 1.0, stratified=stratified)
    prefix = os.fspath(records.paths.rec)[:-len('.rec')]
    manifest = records.manifest or {}
    written = {}
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(records), 'splitting', 'records',
                                                enabled=show_progress))
        for name, chosen in divided.items():
            facts: Dict[str, Any] = {
                'source': {'kind': 'split', 'of': Path(prefix).name, 'parts': parts,
                           'ratio': ratio, 'stratified': stratified, 'seed': seed,
                           'source': manifest.get('source')},
                'options': manifest.get('options')}
            part = '%s_%s' % (prefix, name)
            writer = stack.enter_context(record_writer(part, records.classes, facts))
            for place in chosen:
                writer.add(*_entry(records, place.key, names))
                progress.advance()
            written[part] = writer.records
    return written


def _entry(records: RecordFile, position: int, names: Dict[int, str]) -> Tuple[Item, bytes]:
    key = int(records.keys[position])
    record = records.read(position)
    return Item(key, plain_label(record.label),
                names.get(key, '%s/%d' % (records.paths.rec.stem, key))), record.image
