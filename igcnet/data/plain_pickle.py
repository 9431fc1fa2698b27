"""Reading a pickle as plain values: no class is looked up, nothing is called.

The unpicklers of the standard library build what a file asks for; even with a restricted
``find_class`` a few bytes can make them allocate gigabytes, and numpy's constructors can be made
to crash. CIFAR's published files need few operations, which are carried out here.
"""

from __future__ import annotations

import pickletools
from typing import Any, Dict, List, Optional

import numpy as np


class Built:
    """An object that a pickle asks to build: the name and arguments of the call, and the state
    that the object would get."""

    def __init__(self, name: str, arguments: Any):
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def uint8_rows(self, width: int) -> Optional[np.ndarray]:
        """The numpy array that this describes, if it is uint8 (N, width) in C order, else None."""
        try:
            _, (rows, columns), dtype, is_fortran, data = self.state
            # The types first: any value may stand here, and a product of others can be huge.
            if (type(rows) is int and self.name.endswith('multiarray _reconstruct')
                    and columns == width
                    and dtype.name == 'numpy dtype' and dtype.arguments[0] in (b'u1', 'u1')
                    and not is_fortran and isinstance(data, bytes)
                    and len(data) == rows * columns):
                return np.frombuffer(data, np.uint8).reshape(rows, columns)
        except (TypeError, ValueError, AttributeError, IndexError):
            pass
        return None


_BYTES_AS_TEXT = frozenset(['STRING', 'BINSTRING', 'SHORT_BINSTRING'])
_ARGUMENT_IS_VALUE = frozenset([
    'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE',
    'BINUNICODE8', 'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'FLOAT', 'BINFLOAT'])
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_MARK = object()


def read_pickle(data: bytes) -> Any:
    """The value in a pickle, its strings of Python 2 as bytes and its objects as `Built`.

    Raises
    ------
    ValueError
        Damaged, or with an operation that data files have no use for.
    """
    try:
        return _Machine().run(data)
    except ValueError:
        raise
    # The operations of a damaged file fail in many ways: an empty stack, a missing memo entry.
    except Exception as problem:
        raise ValueError('damaged pickle: %s' % (str(problem) or type(problem).__name__)) from None


class _Machine:
    """The stack, and what was memorised."""

    def __init__(self):
        self.stack: List[Any] = []
        self.memo: Dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        stack, memo = self.stack, self.memo
        for operation, argument, _ in pickletools.genops(data):
            name = operation.name
            if name in _ARGUMENT_IS_VALUE:
                stack.append(argument)
            elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
                memo[argument] = stack[-1]
            elif name == 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            elif name in ('BINGET', 'LONG_BINGET', 'GET'):
                stack.append(memo[argument])
            elif name in _BYTES_AS_TEXT:
                stack.append(argument.encode('latin-1'))
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == 'MARK':
                stack.append(_MARK)
            elif name == 'STOP':
                return stack.pop()
            elif name not in ('PROTO', 'FRAME'):
                self._combine(name, argument)
        raise ValueError('truncated pickle')

    def _combine(self, name: str, argument: Any) -> None:
        """An operation that makes one value of others."""
        stack = self.stack
        if name in ('EMPTY_LIST', 'EMPTY_DICT'):
            stack.append([] if name == 'EMPTY_LIST' else {})
        elif name == 'APPEND':
            self._extend([stack.pop()])
        elif name == 'APPENDS':
            self._extend(self._since_mark())
        elif name == 'LIST':
            stack.append(self._since_mark())
        elif name == 'SETITEM':
            value = stack.pop()
            self._update([stack.pop(), value])
        elif name == 'SETITEMS':
            self._update(self._since_mark())
        elif name == 'DICT':
            pairs = self._since_mark()
            stack.append({})
            self._update(pairs)
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name == 'TUPLE':
            stack.append(tuple(self._since_mark()))
        elif name == 'GLOBAL':
            stack.append(argument)
        elif name == 'STACK_GLOBAL':
            attribute = stack.pop()
            stack.append('%s %s' % (stack.pop(), attribute))
        elif name == 'REDUCE':
            arguments = stack.pop()
            stack.append(Built(str(stack.pop()), arguments))
        elif name == 'BUILD':
            state = stack.pop()
            if not isinstance(stack[-1], Built):
                raise ValueError('a state for something that is not an object')
            stack[-1].state = state
        else:
            raise ValueError('operation %s, which data files have no use for' % name)

    def _since_mark(self) -> List[Any]:
        stack = self.stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            if at == 0:
                raise ValueError('damaged pickle: a mark is missing')
            at -= 1
        values = stack[at + 1:]
        del stack[at:]
        return values

    def _extend(self, values: List[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError('damaged pickle: elements for something that is not a list')
        self.stack[-1].extend(values)

    def _update(self, pairs: List[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(pairs) % 2:
            raise ValueError('damaged pickle: entries for something that is not a dictionary')
        # Hashing a deeply nested tuple would overflow the stack of the process.
        if not all(isinstance(key, (bytes, str, int)) for key in pairs[::2]):
            raise ValueError('a dictionary key that is neither text nor number')
        self.stack[-1].update(zip(pairs[::2], pairs[1::2]))
