"""From what a pickle built to plain Python and NumPy."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, Dict, Tuple

import numpy as np

from igcnet.convert.pickle_machine import PickleError
from igcnet.convert.torch_globals import NumpyArray
from igcnet.convert.torch_values import Storages, Tensor, tensor_array

DEEPEST = 100          # containers in containers
MOST_VALUES = 1 << 21  # when what is shared is written out
MOST_COPIED = 16       # times what all storages hold


def plain_value(value: Any, storages: Storages) -> Any:
    """`value` with arrays in the place of tensors, and a check that it is a reasonable tree.

    Parameters
    ----------
    storages : Storages
        With their bytes.

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
    return _Plain(storages).convert(value, 0)[0]


class _Plain:
    """Converts a tree; gives with each value how many values it holds, written out."""

    SCALARS = (str, bytes, int, float, bool, complex, type(None))

    def __init__(self, storages: Storages):
        self.storages = storages
        # Bytes that copies may take: of the types that NumPy lacks, views make copies.
        self.left = MOST_COPIED * sum(storages.lengths.values())
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
            return self.array(value), 1, 0
        if kind is NumpyArray and value.array is not None:
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

    def array(self, tensor: Tensor) -> np.ndarray:
        raw = self.storages.raw(tensor.storage.key)
        if tensor.storage.element_type in ('bool', 'bfloat16'):
            self.left -= math.prod(tensor.shape)
            if self.left < 0:
                raise PickleError('refused: its tensors are many copies of a few storages')
        return tensor_array(tensor, raw)
