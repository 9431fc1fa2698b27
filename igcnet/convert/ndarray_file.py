"""Reading and writing MXNet's ``.params`` files (NDArray lists) in NumPy.

``mx.nd.load`` allocates what a damaged header asks for and ends the process on a negative
dimension count, so files from strangers are read here: every length is compared with the size of
the file before anything is allocated.

Layout, little endian: u64 0x112, u64 0, u64 number of arrays; the arrays; u64 number of names;
each name as u64 length and bytes. An array begins with one of

====================  =====================================================================
u32 0xF993FAC9        version 2, MXNet 1.x: i32 storage type (0: dense), i32 ndim, i64 dims
u32 0xF993FACA        version 3, with NumPy shapes: the same, but no dimensions means a scalar
u32 0xF993FAC8        version 1: i32 ndim, i64 dims
anything else         the oldest: this u32 is ndim itself, u32 dims
====================  =====================================================================

and goes on with i32 device type, i32 device number, i32 element type and the elements.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np

from igcnet.errors import CheckpointError
from igcnet.files import PathLike, atomic_path

LIST_MAGIC = 0x112
V3_MAGIC, V2_MAGIC, V1_MAGIC = 0xF993FACA, 0xF993FAC9, 0xF993FAC8

DTYPES = {0: '<f4', 1: '<f8', 2: '<f2', 3: '<u1', 4: '<i4', 5: '<i1', 6: '<i8', 7: '|b1',
          8: '<i2', 9: '<u2', 10: '<u4', 11: '<u8'}
BFLOAT16 = 12
WRITABLE = {np.dtype(DTYPES[code]): code for code in range(8)}

DENSE, CPU = 0, 1
DEVICES = {1: 'cpu', 2: 'gpu', 3: 'cpu_pinned', 5: 'cpu_shared'}
MAX_DIMENSIONS = 32  # NumPy's own limit
MAX_NAME_BYTES = 1024


class _Entry(NamedTuple):
    """Where the elements of one array are."""

    shape: Tuple[int, ...]
    code: int
    offset: int


def file_size(path: PathLike, what: str) -> int:
    """Size of the regular file `path`; a `CheckpointError` for anything else.

    A pipe or device would block the reader or never end.
    """
    try:
        status = os.stat(str(path))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, 'strerror', None) or 'not a usable path'
        raise CheckpointError('%s: cannot read this %s (%s)' % (path, what, reason)) from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError('%s: not a file; a %s is needed' % (path, what))
    return status.st_size


def read_ndarrays(path: PathLike) -> Dict[str, np.ndarray]:
    """Read a ``.params`` file of any MXNet from 0.7 to 1.x.

    Returns
    -------
    dict
        Arrays by name, names as they stand in the file (with ``arg:`` or ``aux:`` where it has
        them), in its order. bfloat16 comes as float32.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or damaged, has bytes left over, sparse or empty arrays,
        or names that are missing, repeated or not printable UTF-8.
    """
    size = file_size(path, 'parameter file')
    try:
        with open(str(path), 'rb') as stream:
            scanner = _Scanner(stream, path, size)
            entries, names = scanner.scan()
            return {name: scanner.elements(entry, name)
                    for name, entry in zip(names, entries)}
    except OSError as problem:
        raise CheckpointError('%s: cannot read this parameter file (%s)'
                              % (path, problem.strerror)) from None


def write_ndarrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` to `path` atomically, byte for byte as ``mx.nd.save`` of MXNet 1.x does.

    Raises
    ------
    CheckpointError
        An array that the layout cannot hold: a scalar, an empty one, or an element type that
        MXNet 1.9.1 does not have.
    """
    prepared = []
    for name, array in arrays.items():
        array = np.asarray(array)
        code = WRITABLE.get(array.dtype.newbyteorder('<'))
        if code is None:
            raise CheckpointError('%s: %r has elements of type %s, which MXNet does not have'
                                  % (path, name, array.dtype))
        if not array.ndim or not array.size:
            raise CheckpointError('%s: %r of shape %s: scalars and empty arrays cannot be written'
                                  % (path, name, array.shape))
        prepared.append((code, np.ascontiguousarray(array, dtype=DTYPES[code])))
    with atomic_path(path) as temporary, open(str(temporary), 'wb') as stream:
        stream.write(struct.pack('<QQQ', LIST_MAGIC, 0, len(prepared)))
        for code, array in prepared:
            stream.write(struct.pack('<Iii', V2_MAGIC, DENSE, array.ndim))
            stream.write(struct.pack('<%dq' % array.ndim, *array.shape))
            stream.write(struct.pack('<iii', CPU, 0, code))
            stream.write(array.data)
        stream.write(struct.pack('<Q', len(arrays)))
        for name in arrays:
            encoded = name.encode('utf-8')
            stream.write(struct.pack('<Q', len(encoded)) + encoded)


class _Scanner:
    """Walks through a file: first all headers and names, so that the whole structure is known
    to be sound before any element is read."""

    def __init__(self, stream: BinaryIO, path: PathLike, size: int):
        self.stream, self.path, self.size = stream, Path(path), size
        self.position = 0

    def fail(self, text: str, *values) -> CheckpointError:
        return CheckpointError('%s: %s' % (self.path, text % values))

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, after a check that the file has them."""
        left = self.size - self.position
        if count > left:
            raise self.fail('truncated or damaged: %s needs %d bytes at offset %d, %d are left',
                            what, count, self.position, left)
        self.position += count
        data = self.stream.read(count)
        if len(data) != count:
            raise self.fail('became shorter while it was read')
        return data

    def unpack(self, layout: str, what: str) -> Tuple[int, ...]:
        return struct.unpack('<' + layout, self.take(struct.calcsize('<' + layout), what))

    def scan(self) -> Tuple[List[_Entry], List[str]]:
        magic, reserved = self.unpack('QQ', 'the header')
        if magic != LIST_MAGIC or reserved:
            raise self.fail('not an MXNet parameter file')
        count, = self.unpack('Q', 'the number of arrays')
        entries = []
        while len(entries) < count:
            entries.append(self.entry('array %d of %d' % (len(entries) + 1, count)))
        names = self.names(count)
        if self.position != self.size:
            raise self.fail('damaged: %d bytes left over behind the last name',
                            self.size - self.position)
        return entries, names

    def entry(self, what: str) -> _Entry:
        """Check the header of one array and step over its elements."""
        shape = self.shape(what)
        device, _, code = self.unpack('iii', what)
        if device not in DEVICES:
            raise self.fail('%s: damaged: device type %d', what, device)
        if code != BFLOAT16 and code not in DTYPES:
            raise self.fail('%s: damaged: element type %d', what, code)
        width = 2 if code == BFLOAT16 else np.dtype(DTYPES[code]).itemsize
        count, left = math.prod(shape), self.size - self.position
        if not count:
            raise self.fail('%s: shape %s has no elements', what, _shape_text(shape))
        if count * width > left:
            raise self.fail('%s: truncated or damaged: shape %s needs %d bytes, %d are left',
                            what, _shape_text(shape), count * width, left)
        entry = _Entry(shape, code, self.position)
        self.position += count * width
        self.stream.seek(self.position)
        return entry

    def shape(self, what: str) -> Tuple[int, ...]:
        magic, = self.unpack('I', what)
        if magic in (V2_MAGIC, V3_MAGIC):
            storage, = self.unpack('i', what)
            if storage != DENSE:
                raise self.fail('%s: sparse or damaged (storage type %d); only dense arrays can '
                                'be read', what, storage)
        modern = magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC)
        ndim = self.unpack('i', what)[0] if modern else magic
        if not 0 <= ndim <= MAX_DIMENSIONS:
            raise self.fail('%s: damaged: %d dimensions', what, ndim)
        if not ndim and magic != V3_MAGIC:
            raise self.fail('%s: no shape: the array was saved before it had values', what)
        shape = self.unpack('%d%s' % (ndim, 'q' if modern else 'I'), what)
        if any(extent < 0 for extent in shape):
            raise self.fail('%s: damaged: shape %s', what, _shape_text(shape))
        return shape

    def names(self, arrays: int) -> List[str]:
        count, = self.unpack('Q', 'the number of names')
        if arrays and not count:
            raise self.fail('a list of %d arrays without names, not of parameters', arrays)
        if count != arrays:
            raise self.fail('damaged: %d names for %d arrays', count, arrays)
        names: Dict[str, None] = {}
        while len(names) < count:
            what = 'name %d of %d' % (len(names) + 1, count)
            length, = self.unpack('Q', what)
            if length > MAX_NAME_BYTES:
                raise self.fail('%s: damaged: %d bytes long', what, length)
            try:
                name = self.take(length, what).decode('utf-8')
            except UnicodeDecodeError:
                raise self.fail('%s: damaged: not UTF-8', what) from None
            if not name.isprintable():
                raise self.fail('%s: damaged: %r is not printable', what, name)
            if name in names:
                raise self.fail('two arrays are called %r', name)
            names[name] = None
        return list(names)

    def elements(self, entry: _Entry, name: str) -> np.ndarray:
        dtype = '<u2' if entry.code == BFLOAT16 else DTYPES[entry.code]
        values = np.empty(math.prod(entry.shape), '|u1' if dtype == '|b1' else dtype)
        self.stream.seek(entry.offset)
        if self.stream.readinto(values.view(np.uint8)) != values.nbytes:
            raise self.fail('became shorter while %r was read', name)
        if entry.code == BFLOAT16:  # the upper half of a float32
            values = (values.astype('<u4') << 16).view('<f4')
        elif dtype == '|b1':
            values = values != 0
        return values.reshape(entry.shape)


def _shape_text(shape: Tuple[int, ...]) -> str:
    text = str(tuple(shape))
    return text if len(text) <= 80 else text[:77] + '...'
