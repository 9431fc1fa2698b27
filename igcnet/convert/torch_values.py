"""What the pickles in PyTorch's files may name, and how it becomes plain Python and NumPy.

While a pickle runs, tensors are only descriptions: storage, offset, shape and strides, checked
against the size of the storage. When the file's storages are known, `plain_value` replaces them
by arrays. Devices are dropped: a tensor of a GPU is an array like any other.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from igcnet.convert.pickle_machine import (
    BYTES_PER_STEP,
    Constructor,
    Machine,
    PickleError,
    Unfinished,
    set_items,
)

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
LARGEST_SHAPE = 1 << 48    # product of the extents, of arrays without elements too
DEEPEST = 100              # containers in containers
MOST_VALUES = 1 << 23      # when what is shared is written out

# Present names of modules that have had others.
MODULES = (('__builtin__.', 'builtins.'), ('numpy._core.', 'numpy.core.'),
           ('torch.cuda.', 'torch.'), ('torch.storage.', 'torch.'), ('torch.tensor.', 'torch.'),
           ('torch._tensor.', 'torch.'))
NUMPY_TYPE = re.compile(r'[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)')


class Inert(NamedTuple):
    """A class that a pickle names as an argument; it has no effect."""

    name: str


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


def find_global(name: str) -> Any:
    """What the dotted `name` in a pickle stands for.

    Raises
    ------
    PickleError
        It is not in the table.
    """
    present = name
    for old, new in MODULES:
        if present.startswith(old):
            present = new + present[len(old):]
    if present in GLOBALS:
        return GLOBALS[present]
    module, _, last = present.rpartition('.')
    if module == 'torch' and last in STORAGE_CLASSES:
        return StorageClass(STORAGE_CLASSES[last])
    if module == 'torch' and last in ELEMENT_TYPES:
        return present
    if module == 'torch' and last.endswith('Tensor') and (
            last[:-len('Tensor')] + 'Storage' in STORAGE_CLASSES):  # the tar container names it
        return Inert(present)
    raise PickleError('refused: it names %s, which is no part of plain data; nothing was run'
                      % (name if name.isprintable() and len(name) <= 200 else repr(name[:200])))


# Storages

class Storages:
    """The storages that a pickle speaks of: first their sizes, later their bytes."""

    def __init__(self, size: int):
        self.left = size  # bytes that they can have in all
        self.counts: Dict[str, int] = {}   # elements
        self.lengths: Dict[str, int] = {}  # bytes
        self.data: Dict[str, bytes] = {}

    def add(self, key: str, element_type: str, count: int) -> Storage:
        """Register `count` elements under `key`, or find them again."""
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
            not is_count(count)):
        raise refuse_identity(identity)
    return key, kind.element_type, count


# Tensors

def _tensor(machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any,
            *unused: Any) -> Tensor:
    if type(storage) is not Storage:
        raise TypeError
    return checked_view(storage, offset, shape, strides)


def _tensor_of_type(machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any,
                    requires_grad: Any, hooks: Any, element_type: Any, *unused: Any) -> Tensor:
    """A tensor on an untyped storage, whose type comes beside it."""
    name = element_type[len('torch.'):]
    if type(storage) is not Storage or storage.start:
        raise TypeError
    count = storage.count * item_size(storage.element_type) // item_size(name)
    return checked_view(Storage(storage.key, name, 0, count), offset, shape, strides)


def checked_view(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A `Tensor`, after a check that all its elements lie in the storage."""
    _check_shape(shape)
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


def _check_shape(shape: Any) -> None:
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS or not all(map(is_count, shape)):
        raise PickleError('damaged: a shape that cannot be')
    if math.prod(filter(None, shape)) > LARGEST_SHAPE:
        raise PickleError('damaged: a tensor of shape %s' % (shape,))


def _first(machine: Machine, value: Any, *unused: Any) -> Any:
    """What a parameter is made of."""
    if type(value) is not Tensor:
        raise TypeError
    return value


def _from_type(machine: Machine, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes, which are dropped."""
    if function.build not in (_tensor, _tensor_of_type, _first):
        raise TypeError
    return machine.construct(function, arguments)


# NumPy

class _NumpyType(Unfinished):
    """An element type, whose byte order comes later."""

    def __init__(self, code: str):
        if type(code) is not str or not NUMPY_TYPE.fullmatch(code):
            raise PickleError('refused: NumPy elements that are no numbers')
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or state[1] not in ('<', '>', '|', '='):
            raise TypeError
        self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray(Unfinished):
    """An array, whose elements come later."""

    array: Optional[np.ndarray] = None

    def set_state(self, state: Any) -> None:
        _, shape, kind, fortran_order, data = state
        _check_shape(shape)
        if type(data) is not bytes or type(kind) is not _NumpyType:
            raise TypeError
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise PickleError('damaged: a NumPy array of shape %s with %d bytes'
                              % (shape, len(data)))
        flat = np.frombuffer(data, kind.dtype) if data else np.zeros(0, kind.dtype)
        self.array = flat.reshape(shape, order='F' if fortran_order is True else 'C')


def _numpy_type(machine: Machine, code: Any, *unused: Any) -> _NumpyType:
    return _NumpyType(code)


def _numpy_array(machine: Machine, kind: Any, shape: Any, code: Any) -> _NumpyArray:
    if kind != Inert('numpy.ndarray'):
        raise TypeError
    return _NumpyArray()


def _numpy_scalar(machine: Machine, kind: Any, data: Any) -> Any:
    if type(data) is str:  # Python 2's bytes, when they happened to be UTF-8
        data = data.encode('utf-8')
    if type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise TypeError
    return np.frombuffer(data, kind.dtype)[0].item()


# Plain Python

def _ordered_dict(machine: Machine, pairs: Any = ()) -> OrderedDict:
    """Python 2 gives the pairs at once, Python 3 sets them one by one."""
    machine.spend(len(pairs))
    made = OrderedDict()
    set_items(made, pairs.items() if isinstance(pairs, dict) else pairs)
    return made


def _dict(machine: Machine, pairs: Any = ()) -> Dict[Any, Any]:
    return dict(_ordered_dict(machine, pairs))


def _default_dict(machine: Machine, factory: Any = None) -> Dict[Any, Any]:
    """Without the factory, which only matters to who writes into it."""
    return {}


def _namespace(machine: Machine) -> Dict[Any, Any]:
    """Its variables follow as the state."""
    return {}


def _set(kind: type) -> Callable[..., Any]:
    def build(machine: Machine, items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise TypeError
        machine.spend(len(items))
        made: Dict[Any, None] = {}
        set_items(made, ((item, None) for item in items))
        return kind(made)
    return build


def _complex(machine: Machine, real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError
    return complex(real, imaginary)


def _bytes(machine: Machine, text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ('latin1', 'latin-1'):
        raise TypeError
    machine.spend(len(text) // BYTES_PER_STEP)
    return text.encode('latin-1')


def _size(machine: Machine, extents: Any = ()) -> Tuple[int, ...]:
    if type(extents) not in (list, tuple) or not all(map(is_count, extents)):
        raise TypeError
    machine.spend(len(extents))
    return tuple(extents)


def _device(machine: Machine, kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or is_count(index)):
        raise TypeError
    return kind if index is None else '%s:%d' % (kind, index)


def _layout(machine: Machine, name: Any) -> str:
    if type(name) is not str:
        raise TypeError
    return name


def _table() -> Dict[str, Any]:
    builders = {
        'torch._utils._rebuild_tensor': _tensor,
        'torch._utils._rebuild_tensor_v2': _tensor,
        'torch._utils._rebuild_tensor_v3': _tensor_of_type,
        'torch._utils._rebuild_parameter': _first,
        'torch._utils._rebuild_parameter_with_state': _first,
        'torch.nn.parameter.Parameter': _first,
        'torch._rebuild_from_type_v2': _from_type,  # of torch._tensor
        'torch.Size': _size, 'torch.device': _device,
        'torch.serialization._get_layout': _layout,
        'numpy.dtype': _numpy_type,
        'numpy.core.multiarray.scalar': _numpy_scalar,
        'numpy.core.multiarray._reconstruct': _numpy_array,
        'collections.OrderedDict': _ordered_dict, 'collections.Counter': _dict,
        'collections.defaultdict': _default_dict,
        'argparse.Namespace': _namespace, 'types.SimpleNamespace': _namespace,
        'builtins.set': _set(set), 'builtins.frozenset': _set(frozenset),
        'builtins.complex': _complex, '_codecs.encode': _bytes,
    }
    inert = ['numpy.ndarray', 'torch.Tensor', 'builtins.dict', 'builtins.list', 'builtins.tuple',
             'builtins.int', 'builtins.float', 'builtins.bool', 'builtins.str']
    return {**{name: Constructor(name, build) for name, build in builders.items()},
            **{name: Inert(name) for name in inert}}


GLOBALS = _table()


# Making it plain

def plain_value(value: Any, raw_data: Callable[[str], np.ndarray]) -> Any:
    """`value` with arrays in the place of tensors, and a check that it is a reasonable tree.

    Parameters
    ----------
    raw_data : callable
        Gives all bytes of the storage with a key, as a flat uint8 array.

    Returns
    -------
    Any
        Dictionaries, lists, tuples, sets, texts, numbers and read-only NumPy arrays. Tensors that
        share a storage are views of one memory.

    Raises
    ------
    PickleError
        Something in it is no data, it contains itself, or is too deep or too large once
        everything shared in it is written out.
    """
    return _Plain(raw_data).convert(value, 0)[0]


class _Plain:
    """Converts a tree; gives with each value how many values it holds, written out."""

    SCALARS = (str, bytes, int, float, bool, complex, type(None))

    def __init__(self, raw_data: Callable[[str], np.ndarray]):
        self.raw_data = raw_data
        self.done: Dict[int, Tuple[Any, int, int]] = {}
        self.open = set()

    def convert(self, value: Any, depth: int) -> Tuple[Any, int, int]:
        """The plain value, the values in it, and how deep they go."""
        kind = type(value)
        if kind in self.SCALARS:
            return value, 1, 0
        identity = id(value)
        if identity in self.done:
            return self.done[identity]
        if identity in self.open or depth > DEEPEST:
            raise PickleError('refused: it contains itself, or is more than %d levels deep'
                              % DEEPEST)
        self.open.add(identity)
        made, values, levels = self.new(value, kind, depth)
        self.open.discard(identity)
        if values > MOST_VALUES or levels > DEEPEST:
            raise PickleError('refused: written out it would hold %d values in %d levels'
                              % (values, levels))
        self.done[identity] = made, values, levels
        return self.done[identity]

    def new(self, value: Any, kind: type, depth: int) -> Tuple[Any, int, int]:
        if kind is Tensor:
            return tensor_array(value, self.raw_data(value.storage.key)), 1, 0
        if kind is _NumpyArray and value.array is not None:
            return value.array, 1, 0
        if kind in (set, frozenset):  # their items are scalars
            return value, 1 + len(value), 1
        if kind in (list, tuple):
            parts = [self.convert(part, depth + 1) for part in value]
            made: Any = kind(part[0] for part in parts)
        elif kind in (dict, OrderedDict):
            parts = [self.convert(part, depth + 1) for part in value.values()]
            made = kind(zip(value, (part[0] for part in parts)))
            if hasattr(value, '_metadata'):
                parts.append(self.convert(value._metadata, depth + 1))
                made._metadata = parts[-1][0]
        else:
            name = getattr(value, 'name', None) or getattr(value, 'element_type', '')
            raise PickleError('refused: %s stands where a value should be'
                              % (name or 'something unfinished'))
        return (made, 1 + sum(part[1] for part in parts),
                1 + max((part[2] for part in parts), default=0))


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
