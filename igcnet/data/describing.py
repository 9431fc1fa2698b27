"""What a data set holds and how it was packed, in lines for people."""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np

from igcnet.data.images import decode_bgr, image_format
from igcnet.data.records import RecordFile
from igcnet.errors import DataError
from igcnet.files import PathLike

# These say something about what is stored; the others have been at work before.
_STORING = ('preset', 'pass_through', 'resize', 'interp', 'center_crop', 'quality', 'encoding',
            'color')


def describe(path: PathLike) -> List[str]:
    """Size, first image, classes with their counts, and what the manifest says.

    Labels are read, images are not checked: that is `igcnet.data.verifying.verify`.

    Raises
    ------
    DataError
        The record file or the manifest cannot be read.
    """
    records = RecordFile(path)
    manifest = records.manifest or {}
    rows = [('records', '%d in %.1f MB%s' % (len(records), records.size / 1e6,
                                            '' if records.has_index else ', without an index')),
            ('first image', _first_image(records))]
    if records.manifest is None:
        rows.append(('manifest', 'none: class names and options are not known'))
    else:
        rows += _packing(manifest)
    labels = records.labels()
    numbers, counts = np.unique(labels, return_counts=True)
    rows.append(('labels', '%d different, %g to %g' % (len(numbers), numbers[0], numbers[-1])))
    lines = [str(records.paths.rec)]
    lines += ['  %s  %s' % (name.ljust(11), value) for name, value in rows]
    if records.classes is not None:
        by_number = dict(zip(numbers.tolist(), counts.tolist()))
        width = max(map(len, records.classes), default=0)
        lines.append('')
        lines += ['  %5d  %s  %8d' % (number, name.ljust(width), by_number.get(number, 0))
                  for number, name in enumerate(records.classes)]
    return lines


def _packing(manifest) -> List[Tuple[str, str]]:
    rows = []
    source, options, versions = (manifest.get(name) for name in ('source', 'options', 'versions'))
    if isinstance(source, dict):
        rows.append(('source', _words(source)))
    if isinstance(options, dict):
        stored = {name: options[name] for name in _STORING if options.get(name)}
        rows.append(('stored', _words(stored)))
        order = {name: options[name] for name in ('shuffle', 'seed') if name in options}
        if order:
            rows.append(('order', _words(order)))
    if manifest.get('skipped'):
        rows.append(('skipped', '%s images that could not be packed' % manifest['skipped']))
    if isinstance(versions, dict):
        rows.append(('packed by', _words(versions)))
    return rows


def _words(values) -> str:
    return ', '.join('%s %s' % (name, _word(value)) for name, value in values.items()
                     if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list):
        return '%d' % len(value)
    return '(%s)' % _words(value) if isinstance(value, dict) else str(value)


def _first_image(records: RecordFile) -> str:
    where = records.where(0)
    try:
        data = records.read(0).image
        height, width = decode_bgr(data, where, -1).shape[:2]
    except DataError as problem:
        return 'damaged: %s' % problem
    return '%s, %d x %d, %d bytes' % (image_format(data), width, height, len(data))
