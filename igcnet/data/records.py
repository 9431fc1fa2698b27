"""MXNet record files: checked random access, and writing all their parts at once.

A data set called ``<prefix>`` is four files: ``<prefix>.rec`` (the images), ``.idx`` (where each
record starts), ``.lst`` (key, label and source of each record) and ``<prefix>-manifest.json``
(class names, counts, the options it was packed with, checksums).

A record is u32 magic, u32 (3 bits continuation flag, 29 bits length), the payload, zeros up to
a multiple of 4. A payload that contains the magic at a multiple of 4 is split there into
several parts. A payload is u32 n, f32 label, u64 id, u64 id2, n more f32 labels if n > 0, and
the encoded image.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from igcnet.data.lists import read_list
from igcnet.errors import DataError
from igcnet.files import PathLike, read_json

MAGIC = 0xced7230a
MAX_LENGTH = (1 << 29) - 1
_MAGIC_BYTES = struct.pack('<I', MAGIC)
_FRAME = struct.Struct('<II')
_HEADER = struct.Struct('<IfQQ')
_FRAME_AND_HEADER = struct.Struct('<IIIfQQ')
_FRAMED_HEADER = struct.Struct('<IIIf16x')
_PADDING = [b'\0' * size for size in range(4)]
WHOLE, FIRST, MIDDLE, LAST = range(4)

Label = Union[float, Sequence[float]]


class Record(NamedTuple):
    """One image with its label: a float, or an array for several labels."""

    label: Union[float, np.ndarray]
    id: int
    image: bytes


class RecordPaths(NamedTuple):
    """The four files of one data set."""

    rec: Path
    idx: Path
    lst: Path
    manifest: Path

    @classmethod
    def of(cls, path: PathLike) -> RecordPaths:
        """From the prefix or from the name of the ``.rec`` file."""
        text = os.fspath(path)
        prefix = text[:-4] if text.endswith('.rec') else text
        return cls(Path(prefix + '.rec'), Path(prefix + '.idx'), Path(prefix + '.lst'),
                   Path(prefix + '-manifest.json'))


def pack_record(label: Label, number: int, image: bytes) -> bytes:
    """The payload of one record."""
    if np.ndim(label) == 0:
        return _HEADER.pack(0, float(label), number, 0) + image
    values = np.asarray(label, '<f4')
    return _HEADER.pack(len(values), 0.0, number, 0) + values.tobytes() + image


def unpack_record(payload: bytes, where: str) -> Record:
    """The inverse of `pack_record`; `where` names the record in errors."""
    if len(payload) < _HEADER.size:
        raise DataError('%s: %d bytes are too few for a record header' % (where, len(payload)))
    count, label, number, _ = _HEADER.unpack_from(payload)
    start = _HEADER.size + 4 * count
    if start > len(payload):
        raise DataError('%s: the header announces %d labels, more than the record holds'
                        % (where, count))
    if count:
        label = np.frombuffer(payload, '<f4', count, _HEADER.size).copy()
    return Record(label, number, payload[start:])


def plain_label(label: Union[float, np.ndarray]) -> Union[float, Tuple[float, ...]]:
    """The label of a `Record` as lists have it: a number, or a tuple of several."""
    return tuple(label.tolist()) if isinstance(label, np.ndarray) else label


def frame(payload: bytes) -> bytes:
    """The bytes that stand in the file for one payload."""
    if len(payload) > MAX_LENGTH:
        raise DataError('a record of %d bytes: the format holds at most %d'
                        % (len(payload), MAX_LENGTH))
    if _MAGIC_BYTES not in payload:
        return _FRAME.pack(MAGIC, len(payload)) + payload + b'\0' * (-len(payload) % 4)
    parts = _split_at_magic(payload)
    out = []
    for number, part in enumerate(parts):
        if len(parts) == 1:
            flag = WHOLE
        else:
            flag = FIRST if number == 0 else LAST if number == len(parts) - 1 else MIDDLE
        out.append(_FRAME.pack(MAGIC, flag << 29 | len(part)) + part + b'\0' * (-len(part) % 4))
    return b''.join(out)


def frame_all(labels: Sequence[float], keys: Sequence[int],
              images: Sequence[bytes]) -> Tuple[bytes, List[int]]:
    """The bytes of many records with one label each, joined, and their lengths.

    The same as `frame` of each `pack_record`, several times faster.
    """
    pieces, lengths = [], []
    for label, key, image in zip(labels, keys, images):
        length = _HEADER.size + len(image)
        padding = -length % 4
        pieces.append(_FRAME_AND_HEADER.pack(MAGIC, length, 0, label, key, 0))
        pieces.append(image)
        pieces.append(_PADDING[padding])
        lengths.append(_FRAME.size + length + padding)
    data = b''.join(pieces)
    if data.count(_MAGIC_BYTES) == len(lengths) and max(lengths, default=0) <= MAX_LENGTH:
        return data, lengths
    framed = [frame(pack_record(*record)) for record in zip(labels, keys, images)]
    return b''.join(framed), [len(record) for record in framed]


def _split_at_magic(payload: bytes) -> List[bytes]:
    parts, start, at = [], 0, payload.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            parts.append(payload[start:at])
            start = at + 4
            at = payload.find(_MAGIC_BYTES, start)
        else:
            at = payload.find(_MAGIC_BYTES, at + 1)
    return parts + [payload[start:]]


class RecordFile:
    """Random access to the records of one file, every read checked.

    Parameters
    ----------
    path : path
        The ``.rec`` file or the prefix of the data set.
    check_ends : bool
        Make sure that first and last record are where the index says and that it leaves nothing
        out; otherwise a fault shows when its record is read.

    Attributes
    ----------
    keys : numpy.ndarray of int64
        Key of each record in the index.
    manifest : dict or None
        Content of the manifest beside the file.
    classes : list of str or None
        Class names by number, from the manifest.

    Raises
    ------
    DataError
        Missing, empty or truncated file, index that does not fit it. When there is no index,
        the records are found by walking through the file.
    """

    def __init__(self, path: PathLike, check_ends: bool = True):
        self.paths = RecordPaths.of(path)
        self._name = str(self.paths.rec)
        try:
            with open(self.paths.rec, 'rb') as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size == 0:
                    raise DataError('%s: the record file is empty' % self._name)
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as problem:
            raise DataError('%s: cannot read this record file (%s); make one with '
                            'tools/im2rec_pack.py' % (self._name, problem.strerror)) from None
        self.has_index = self.paths.idx.is_file()
        if self.has_index:
            self.keys, self.offsets = read_index(self.paths.idx)
            if check_ends:
                self._check_ends()
        else:
            self.offsets = self._walk()
            self.keys = np.arange(len(self.offsets))
        self.manifest: Optional[Dict[str, Any]] = None
        if self.paths.manifest.is_file():
            manifest = read_json(self.paths.manifest, 'manifest', DataError)
            if not isinstance(manifest, dict):
                raise DataError('%s: not a manifest: the JSON is not an object'
                                % self.paths.manifest)
            self.manifest = manifest

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def classes(self) -> Optional[List[str]]:
        """Class names by number, if the manifest has them."""
        names = (self.manifest or {}).get('classes')
        return [str(name) for name in names] if isinstance(names, list) else None

    def where(self, position: int) -> str:
        """How errors name a record."""
        return '%s, record %d (key %d)' % (self._name, position, self.keys[position])

    def source_names(self) -> Dict[int, str]:
        """Source of each image by key, from the ``.lst`` beside the records if there is one."""
        if not self.paths.lst.is_file():
            return {}
        return {item.key: item.name for item in read_list(self.paths.lst)}

    def read(self, position: int) -> Record:
        """The record at `position` (0 .. len-1) in the order of the index."""
        return self.read_to_end(position)[0]

    def read_to_end(self, position: int) -> Tuple[Record, int]:
        """As `read`, and the offset where the next record starts."""
        where = self.where(position)
        payload, end = self._payload(int(self.offsets[position]), where)
        return unpack_record(payload, where), end

    def read_image(self, position: int) -> Tuple[float, bytes]:
        """First label and image of a record: `read` for readers, with less to do."""
        offset = int(self.offsets[position])
        if 0 <= offset <= self.size - _FRAMED_HEADER.size:
            magic, length, count, label = _FRAMED_HEADER.unpack_from(self._bytes, offset)
            end = offset + _FRAME.size + length
            # A record in one piece (the flag's bits in `length` are 0) with one label.
            if magic == MAGIC and count == 0 and _HEADER.size <= length <= MAX_LENGTH \
                    and end + (-length % 4) <= self.size:
                return label, self._bytes[offset + _FRAME.size + _HEADER.size:end]
        record = self.read(position)
        return float(np.ravel(record.label)[0]), record.image

    def labels(self) -> np.ndarray:
        """First label of every record, float32, without reading the images."""
        labels = np.empty(len(self), np.float32)
        for position, offset in enumerate(self.offsets.tolist()):
            length = self._part(offset, self.where(position))[1]
            start = offset + _FRAME.size
            if length < _HEADER.size:
                raise DataError('%s: %d bytes are too few for a record header'
                                % (self.where(position), length))
            count, label = struct.unpack_from('<If', self._bytes, start)
            if count:
                if _HEADER.size + 4 > length:
                    raise DataError('%s: its labels are missing' % self.where(position))
                label, = struct.unpack_from('<f', self._bytes, start + _HEADER.size)
            labels[position] = label
        return labels

    def _part(self, offset: int, where: str) -> Tuple[int, int]:
        """Continuation flag and length of the part that starts at `offset`."""
        if offset < 0 or offset + _FRAME.size > self.size:
            raise DataError('%s: offset %d is outside the file of %d bytes; the file is truncated '
                            'or the index is of another file' % (where, offset, self.size))
        magic, word = _FRAME.unpack_from(self._bytes, offset)
        if magic != MAGIC:
            raise DataError('%s: no record starts at offset %d; the file is damaged or the '
                            'index is of another file' % (where, offset))
        flag, length = word >> 29, word & MAX_LENGTH
        if offset + _FRAME.size + length + (-length % 4) > self.size:
            raise DataError('%s: %d bytes are announced at offset %d, but the file ends after '
                            '%d bytes; it is truncated' % (where, length, offset, self.size))
        return flag, length

    def _payload(self, offset: int, where: str) -> Tuple[bytes, int]:
        """Payload of the record at `offset`, and where the next one starts."""
        parts = []
        while True:
            flag, length = self._part(offset, where)
            expected = (WHOLE, FIRST) if not parts else (MIDDLE, LAST)
            if flag not in expected:
                raise DataError('%s: the parts of the record at offset %d are out of order; the '
                                'file is damaged' % (where, offset))
            start = offset + _FRAME.size
            parts.append(self._bytes[start:start + length])
            offset = start + length + (-length % 4)
            if flag in (WHOLE, LAST):
                return _MAGIC_BYTES.join(parts), offset

    def _check_ends(self) -> None:
        if not len(self.offsets):
            raise DataError('%s: the index is empty' % self.paths.idx)
        last = int(np.argmax(self.offsets))
        end = self._payload(int(self.offsets[last]), self.where(last))[1]
        if end < self.size:
            raise DataError('%s: the index ends at byte %d, but the record file has %d; the index '
                            'is of another file' % (self.paths.idx, end, self.size))
        first = int(np.argmin(self.offsets))
        self._payload(int(self.offsets[first]), self.where(first))

    def _walk(self) -> np.ndarray:
        offsets, offset = [], 0
        while offset < self.size:
            offsets.append(offset)
            where = '%s, record %d' % (self._name, len(offsets) - 1)
            offset = self._payload(offset, where)[1]
        return np.asarray(offsets, np.int64)


def read_index(path: PathLike) -> Tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of an ``.idx`` file, in its order.

    Raises
    ------
    DataError
        A line that is not ``key<TAB>offset``.
    """
    try:
        text = Path(path).read_text(encoding='ascii')
        table = np.array([[int(word) for word in line.split('\t')]
                          for line in text.splitlines()], np.int64)
    except OSError as problem:
        raise DataError('%s: cannot read this index (%s)' % (path, problem.strerror)) from None
    except (ValueError, OverflowError):
        table = np.empty((0, 0), np.int64)
        text = 'not a table of numbers'
    if table.size == 0 and not text:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if table.ndim != 2 or table.shape[1] != 2 or (table < 0).any():
        raise DataError('%s: not an index: each line must be a key, a tab and an offset' % path)
    return table[:, 0].copy(), table[:, 1].copy()
