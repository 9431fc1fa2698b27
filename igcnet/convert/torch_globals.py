"""What the pickles in PyTorch's files may name: tensors, NumPy values, plain Python.

Each name stands for a function of our own that checks its arguments, or for inert data.
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
from igcnet.convert.torch_values import (
    ELEMENT_TYPES,
    STORAGE_CLASSES,
    Storage,
    StorageClass,
    Tensor,
    check_shape,
    checked_view,
    is_count,
    item_size,
)

# Present names of modules that have had others.
MODULES = (('__builtin__.', 'builtins.'), ('numpy._core.', 'numpy.core.'),
           ('torch.cuda.', 'torch.'), ('torch.storage.', 'torch.'), ('torch.tensor.', 'torch.'),
           ('torch._tensor.', 'torch.'))
NUMPY_TYPE = re.compile(r'[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)')


class Inert(NamedTuple):
    """A class that a pickle names as an argument; it has no effect."""

    name: str


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


class NumpyArray(Unfinished):
    """An array, whose elements come later."""

    array: Optional[np.ndarray] = None

    def set_state(self, state: Any) -> None:
        _, shape, kind, fortran_order, data = state
        check_shape(shape)
        if type(data) is not bytes or type(kind) is not _NumpyType:
            raise TypeError
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise PickleError('damaged: a NumPy array of shape %s with %d bytes'
                              % (shape, len(data)))
        flat = np.frombuffer(data, kind.dtype) if data else np.zeros(0, kind.dtype)
        self.array = flat.reshape(shape, order='F' if fortran_order is True else 'C')


def _numpy_type(machine: Machine, code: Any, *unused: Any) -> _NumpyType:
    return _NumpyType(code)


def _numpy_array(machine: Machine, kind: Any, shape: Any, code: Any) -> NumpyArray:
    if kind != Inert('numpy.ndarray'):
        raise TypeError
    return NumpyArray()


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
