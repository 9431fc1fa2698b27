"""Tensors and storages in PyTorch's files.

While a pickle runs, tensors are only descriptions - storage, offset, shape and strides, checked
against the size of the storage - which `igcnet.convert.torch_plain` replaces by arrays when the
file's storages are known. Devices are dropped: a tensor of a GPU is an array like any other.
"""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from igcnet.convert.pickle_machine import PickleError

# Type name in torch -> (storage class in torch, element type of the raw data).
ELEMENT_TYPES = {
    'float32': ('FloatStorage', '<f4'), 'float64': ('DoubleStorage', '<f8'),
    'float16': ('HalfStorage', '<f2'), 'bfloat16': ('BFloat16Storage', '<u2'),
    'int64': ('LongStorage', '<i8'), 'int32': ('IntStorage', '<i4'),
    'int16': ('ShortStorage', '<i2'), 'int8': ('CharStorage', '|i1'),
    'uint8': ('ByteStorage', '|u1'), 'bool': ('BoolStorage', '|u1'),
    'complex64': ('ComplexFloatStorage', '<c8'), 'complex128': ('ComplexDoubleStorage', '<c16'),
    'uint16': (None, '<u2'), 'uint32': (None, '<u4'), 'uint64': (None, '<u8'),
}
STORAGE_CLASSES = {storage: name for name, (storage, _) in ELEMENT_TYPES.items() if storage}
STORAGE_CLASSES['UntypedStorage'] = 'uint8'

MOST_DIMENSIONS = 32       # NumPy's own limit
LONGEST_KEY = 100
LARGEST_SHAPE = 1 << 48    # product of the extents, of arrays without elements too


class StorageClass(NamedTuple):
    """A storage class, by the name of its element type."""

    element_type: str


class Storage(NamedTuple):
    """A run of elements: `start` and `count` in elements of `element_type`."""

    key: str
    element_type: str
    start: int
    count: int


class Tensor(NamedTuple):
    """A view of a storage; everything in elements, and known to be inside."""

    storage: Storage
    offset: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]


def item_size(element_type: str) -> int:
    """Bytes of one element."""
    return np.dtype(ELEMENT_TYPES[element_type][1]).itemsize


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number of at least 0."""
    return type(value) is int and value >= 0


class Storages:
    """The storages that a pickle speaks of: first their sizes, later their bytes."""

    def __init__(self, size: int):
        self.left = size  # bytes that they can have in all
        self.counts: Dict[str, int] = {}   # elements
        self.lengths: Dict[str, int] = {}  # bytes
        self.data: Dict[str, bytes] = {}

    def add(self, key: str, element_type: str, count: int) -> Storage:
        """Register `count` elements of `element_type` under `key`, or find them again."""
        length = count * item_size(element_type)
        if key not in self.lengths:
            self.left -= length
            self.counts[key], self.lengths[key] = count, length
            if self.left < 0:
                raise PickleError('truncated or damaged: its storages are larger than the file')
        if self.lengths[key] != length:
            raise PickleError('damaged: storage %r with two sizes' % key)
        return Storage(key, element_type, 0, count)

    def raw(self, key: str) -> np.ndarray:
        """All bytes under `key`."""
        return np.frombuffer(self.data[key], np.uint8)


def refuse_identity(identity: Any) -> PickleError:
    """The error for a persistent id that is not what its container writes."""
    if type(identity) is tuple and identity[:1] == ('module',):
        return PickleError('refused: it holds a whole module, that is, code; save its state_dict()')
    return PickleError('damaged: something in it is kept outside its pickle, and is no storage')


def storage_identity(identity: Any, parts: int) -> Tuple[str, str, int]:
    """Key, element type and number of elements from a storage's persistent id."""
    if type(identity) is not tuple or len(identity) != parts or identity[0] != 'storage':
        raise refuse_identity(identity)
    _, kind, key, location, count = identity[:5]
    if type(kind) is not StorageClass or type(key) is not str or type(location) is not str or (
            len(key) > LONGEST_KEY or not is_count(count)):
        raise refuse_identity(identity)
    return key, kind.element_type, count


def checked_view(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A `Tensor` with this `offset`, `shape` and `strides`, counted in elements, after a check that
    all its elements lie in the storage."""
    check_shape(shape)
    if type(strides) is not tuple or len(strides) != len(shape) or not all(
            map(is_count, (offset, *strides))):
        raise PickleError('damaged: a tensor with an offset or strides that cannot be')
    last = offset + sum((extent - 1) * step for extent, step in zip(shape, strides))
    count = math.prod(shape)
    # A view may repeat elements, but never hold more than its storage does.
    if count and max(last, count - 1) >= storage.count:
        raise PickleError('damaged: a tensor of shape %s reaches beyond its storage of %d elements'
                          % (shape, storage.count))
    return Tensor(storage, offset, shape, strides)


def check_shape(shape: Any) -> None:
    """Refuse what cannot be the shape of an array, or only of one too large for any memory."""
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS or not all(map(is_count, shape)):
        raise PickleError('damaged: a shape that cannot be')
    if math.prod(filter(None, shape)) > LARGEST_SHAPE:
        raise PickleError('damaged: a tensor of shape %s' % (shape,))


def tensor_array(tensor: Tensor, raw: np.ndarray) -> np.ndarray:
    """The array of a tensor on the bytes of its storage; bfloat16 becomes float32."""
    storage, dtype = tensor.storage, np.dtype(ELEMENT_TYPES[tensor.storage.element_type][1])
    if 0 in tensor.shape:
        array = np.zeros(tensor.shape, dtype)
    else:
        array = np.ndarray(tensor.shape, dtype, raw, (storage.start + tensor.offset) *
                           dtype.itemsize, tuple(step * dtype.itemsize for step in tensor.strides))
    if storage.element_type == 'bfloat16':
        array = (array.astype('<u4') << 16).view('<f4')
    elif storage.element_type == 'bool':
        array = array != 0
    array.flags.writeable = False
    return array
