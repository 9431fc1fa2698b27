"""Writing files for ``torch.load`` without PyTorch.

Both containers that `igcnet.convert.torch_file` describes, in pickle protocol 2. What is written
stays within what ``torch.load(..., weights_only=True)`` admits, and the legacy container within
what PyTorch 0.2 on can read.
"""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO, Callable, Dict, List, Tuple

import numpy as np

from igcnet.convert.torch_file import LEGACY, LEGACY_MAGIC, LEGACY_VERSION, ZIP
from igcnet.convert.torch_plain import DEEPEST
from igcnet.convert.torch_values import ELEMENT_TYPES
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike, atomic_path

# NumPy element type -> storage class.
STORAGES = {np.dtype(raw): storage for storage, raw in ELEMENT_TYPES.values() if storage}
STORAGES[np.dtype(np.uint8)], STORAGES[np.dtype(bool)] = 'ByteStorage', 'BoolStorage'
del STORAGES[np.dtype('<u2')]  # bfloat16's raw data
# PyTorch wants the data of a storage aligned like this to map it into memory.
ALIGNMENT = 64
ZIP_ROOT = 'archive/'
SYSTEM = {'protocol_version': LEGACY_VERSION, 'little_endian': True,
          'type_sizes': {'short': 2, 'int': 4, 'long': 4}}


def write_torch(path: PathLike, value: Any, container: str = LEGACY) -> None:
    """Write `value` so that ``torch.load`` gives it back; the file is replaced atomically.

    Parameters
    ----------
    value
        Dictionaries, OrderedDicts (with their attribute ``_metadata``, as a state_dict has it),
        lists, tuples, sets, texts, bytes, numbers, None, and NumPy arrays, which become tensors
        on the CPU, each with a storage of its own. NumPy scalars become numbers.
    container : str
        'legacy', which every PyTorch reads, or 'zip', the default of PyTorch 1.6 on.

    Raises
    ------
    UsageError
        Unknown container.
    CheckpointError
        `value` holds something else, or is too deep.
    """
    if container not in (LEGACY, ZIP):
        raise UsageError("container=%r: must be 'legacy' or 'zip'" % (container,))
    try:
        pickler = _Pickler(container)
        pickled = pickler.dump(value)
    except ValueError as problem:
        raise CheckpointError('%s: cannot be written: %s' % (path, problem)) from None
    with atomic_path(path) as temporary:
        if container == ZIP:
            _write_zip(temporary, pickled, pickler.arrays)
        else:
            with open(str(temporary), 'wb') as stream:
                _write_legacy(stream, pickled, pickler.arrays)


def _write_legacy(stream: BinaryIO, pickled: bytes, arrays: List[np.ndarray]) -> None:
    keys = [str(number) for number in range(len(arrays))]
    for fact in (LEGACY_MAGIC, LEGACY_VERSION, SYSTEM):
        stream.write(_Pickler(LEGACY).dump(fact))
    stream.write(pickled)
    stream.write(_Pickler(LEGACY).dump(keys))
    for array in arrays:
        stream.write(struct.pack('<q', array.size))
        stream.write(array.data)


def _write_zip(path: PathLike, pickled: bytes, arrays: List[np.ndarray]) -> None:
    with zipfile.ZipFile(str(path), 'w', zipfile.ZIP_STORED) as archive:
        def add(name: str, data: Any) -> None:
            member = zipfile.ZipInfo(ZIP_ROOT + name)  # dated 1980: the same value, the same file
            # 30 bytes of header and the name, then an extra field of 4 bytes and the padding.
            begin = archive.fp.tell() + 30 + len(member.filename) + 4
            padding = -begin % ALIGNMENT
            member.extra = struct.pack('<2sH', b'FB', padding) + b'Z' * padding
            archive.writestr(member, data)

        add('data.pkl', pickled)
        add('byteorder', b'little')
        for number, array in enumerate(arrays):
            add('data/%d' % number, array.tobytes())
        add('version', b'3\n')


class _Pickler:
    """Writes plain values in protocol 2; arrays are numbered and collected."""

    def __init__(self, container: str):
        self.legacy = container == LEGACY
        self.out = bytearray()
        self.arrays: List[np.ndarray] = []
        self.globals: Dict[str, int] = {}  # those written already -> place in the memo

    def dump(self, value: Any) -> bytes:
        """The pickle of `value`."""
        self.out += b'\x80\x02'
        self.write(value, 0)
        return bytes(self.out + b'.')

    def write(self, value: Any, depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError('it is more than %d levels deep' % DEEPEST)
        if isinstance(value, np.generic):
            value = value.item()
        write = WRITERS.get(type(value))
        if write is None:
            raise ValueError('it holds a %s, which is no plain data' % type(value).__name__)
        write(self, value, depth + 1)

    def write_bool(self, value: bool, depth: int) -> None:
        self.out += b'\x88' if value else b'\x89'

    def write_int(self, value: int, depth: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += struct.pack('<cB', b'K', value)
        elif 0 <= value < 1 << 16:
            self.out += struct.pack('<cH', b'M', value)
        elif -1 << 31 <= value < 1 << 31:
            self.out += struct.pack('<ci', b'J', value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
            if len(data) > 255:
                raise ValueError('it holds a number of %d bytes' % len(data))
            self.out += struct.pack('<cB', b'\x8a', len(data)) + data

    def write_text(self, value: str, depth: int) -> None:
        data = value.encode('utf-8')
        self.out += struct.pack('<cI', b'X', len(data)) + data

    def write_bytes(self, value: bytes, depth: int) -> None:
        self.call('_codecs encode', (value.decode('latin-1'), 'latin1'), depth)

    def write_complex(self, value: complex, depth: int) -> None:
        self.call('__builtin__ complex', (value.real, value.imag), depth)

    def write_set(self, value: set, depth: int) -> None:
        self.call('__builtin__ set', (list(value),), depth)

    def write_tuple(self, value: Tuple[Any, ...], depth: int) -> None:
        self.out += b'('
        for part in value:
            self.write(part, depth)
        self.out += b't'

    def write_list(self, value: List[Any], depth: int) -> None:
        self.out += b']('
        for part in value:
            self.write(part, depth)
        self.out += b'e'

    def write_dict(self, value: Dict[Any, Any], depth: int) -> None:
        self.out += b'}'
        self.write_items(value, depth)

    def write_ordered_dict(self, value: OrderedDict[Any, Any], depth: int) -> None:
        self.call('collections OrderedDict', (), depth)
        self.write_items(value, depth)
        if hasattr(value, '_metadata'):
            self.write({'_metadata': value._metadata}, depth)
            self.out += b'b'

    def write_items(self, value: Dict[Any, Any], depth: int) -> None:
        self.out += b'('
        for key, part in value.items():
            self.write(key, depth)
            self.write(part, depth)
        self.out += b'u'

    def write_array(self, array: np.ndarray, depth: int) -> None:
        """A tensor: in the legacy container by the call that every version knows."""
        storage = STORAGES.get(array.dtype.newbyteorder('<'))
        if storage is None:
            raise ValueError('it holds an array of %s, which PyTorch does not have' % array.dtype)
        key = str(len(self.arrays))
        self.arrays.append(np.ascontiguousarray(array, array.dtype.newbyteorder('<')))
        strides = [1]
        for extent in array.shape[:0:-1]:
            strides.insert(0, strides[0] * max(extent, 1))
        self.write_global('torch._utils _rebuild_tensor%s' % ('' if self.legacy else '_v2'))
        self.out += b'(('
        self.write_text('storage', depth)
        self.write_global('torch ' + storage)
        for part in (key, 'cpu', array.size, None)[:4 if self.legacy else 3]:
            self.write(part, depth)
        self.out += b'tQ'
        for part in (0, array.shape, tuple(strides[:array.ndim])):
            self.write(part, depth)
        if not self.legacy:
            self.write(False, depth)
            self.call('collections OrderedDict', (), depth)
        self.out += b'tR'

    def call(self, name: str, arguments: Tuple[Any, ...], depth: int) -> None:
        self.write_global(name)
        self.write_tuple(arguments, depth)
        self.out += b'R'

    def write_global(self, name: str) -> None:
        """Name a function or class by module and name, the second time by its place."""
        if name in self.globals:
            self.out += struct.pack('<cI', b'j', self.globals[name])
            return
        place = self.globals[name] = len(self.globals)
        self.out += b'c' + name.replace(' ', '\n').encode('ascii') + b'\n'
        self.out += struct.pack('<cI', b'r', place)


WRITERS: Dict[type, Callable[..., None]] = {
    type(None): lambda pickler, value, depth: pickler.out.extend(b'N'),
    bool: _Pickler.write_bool, int: _Pickler.write_int,
    float: lambda pickler, value, depth: pickler.out.extend(struct.pack('>cd', b'G', value)),
    complex: _Pickler.write_complex, str: _Pickler.write_text, bytes: _Pickler.write_bytes,
    tuple: _Pickler.write_tuple, list: _Pickler.write_list, set: _Pickler.write_set,
    dict: _Pickler.write_dict, OrderedDict: _Pickler.write_ordered_dict,
    np.ndarray: _Pickler.write_array,
}
