"""From records back to image files."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import numpy as np

from igcnet.data.images import check_image
from igcnet.data.records import RecordFile
from igcnet.errors import DataError
from igcnet.files import PathLike, atomic_path

SUFFIXES = {'JPEG': '.jpg', 'PNG': '.png', 'BMP': '.bmp', 'TIFF': '.tif', 'WebP': '.webp'}


def extract_images(records: RecordFile, folder: PathLike, first: Optional[int] = None
                   ) -> List[Path]:
    """Write images of a record file as ``<folder>/<class>/<key>.<suffix>``, bytes unchanged.

    Parameters
    ----------
    first : int, optional
        Only so many, from the beginning of the index.

    Returns
    -------
    list of Path
        The files, in the order of the index.

    Raises
    ------
    DataError
        A damaged record, or a class name that is no folder name.
    """
    count = len(records) if first is None else min(first, len(records))
    written = []
    for position in range(count):
        record = records.read(position)
        kind = check_image(record.image, records.where(position))
        path = Path(folder) / _class_folder(records, position, record.label) / (
            '%d%s' % (records.keys[position], SUFFIXES.get(kind, '')))
        with atomic_path(path) as temporary:
            temporary.write_bytes(record.image)
        written.append(path)
    return written


def _class_folder(records: RecordFile, position: int, label) -> str:
    number = float(np.ravel(label)[0])
    if not 0 <= number < 1e9:  # also NaN
        raise DataError('%s: its label is %g, no class number' % (records.where(position), number))
    names = records.classes
    name = names[int(number)] if names and int(number) < len(names) else '%d' % number
    if name in ('', '.', '..') or '/' in name or '\0' in name:
        raise DataError('%s: the class name %r of the manifest cannot be a folder'
                        % (records.where(position), name))
    return name
