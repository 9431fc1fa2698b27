"""A reader of pickles that can build data and nothing else.

A pickle is a program: it may name any function of any module, call it, and set the state of what
comes back. Here the names are looked up in a table of our own, a call reaches only what that table
holds, and objects are plain values or inert stand-ins. The program's length, its numbers and its
copies are counted, so that a short file cannot ask for much memory or time.
"""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from os import SEEK_CUR
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple

# Steps of one program. The largest network here, with its optimiser, needs a tenth.
MOST_STEPS = 1 << 20
BYTES_PER_STEP = 64    # what a copy of text costs
LONGEST_LINE = 512     # module or name of a global
LONGEST_NUMBER = 64    # bytes
NEWEST_PROTOCOL = 5
# Hashing nested tuples recurses without a limit, and long whole numbers can be made to collide.
KEY_TYPES = (str, bytes, int, float, bool, type(None))
LARGEST_KEY = 1 << 64
# What Python raises when an operation meets values that it was not made for.
FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class PickleError(ValueError):
    """What is wrong with a pickle, in one line; the caller adds the file's name."""


class Source:
    """A part of a file, handed out after a check that it has the bytes."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.size = stream, size
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if not 0 <= count <= self.size - self.position:
            raise PickleError('truncated or damaged: %d bytes wanted at offset %d, %d are left'
                              % (count, self.position, self.size - self.position))
        self.position += count
        data = self.stream.read(count)
        if len(data) != count:
            raise PickleError('became shorter while it was read')
        return data

    def skip(self, count: int) -> None:
        """Step over `count` bytes."""
        self.position += count
        self.stream.seek(count, SEEK_CUR)

    def line(self) -> str:
        """The next line, without its end."""
        data = self.stream.readline(min(LONGEST_LINE, self.size - self.position))
        self.position += len(data)
        if not data.endswith(b'\n'):
            raise PickleError('damaged: a name without an end at offset %d' % self.position)
        return data[:-1].decode('utf-8')

    def unpack(self, layout: str) -> Any:
        """The next number, as `struct` describes it."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]


class Constructor(NamedTuple):
    """What a pickle may call: `build` gets the machine, then the pickle's arguments."""

    name: str
    build: Callable[..., Any]


class Unfinished:
    """A stand-in whose state comes later; subclasses check it."""

    def set_state(self, state: Any) -> None:
        """Take what the pickle gives as the object's state."""
        raise NotImplementedError


class Machine:
    """Runs one pickle of a `Source`.

    Parameters
    ----------
    find_global : callable
        Gives the value for a dotted name such as ``torch._utils._rebuild_tensor``: a
        `Constructor`, or inert data. Must raise `PickleError` for anything it does not know.
    load_persistent : callable
        Gives the object for a persistent id, which may be any value.
    """

    def __init__(self, source: Source, find_global: Callable[[str], Any],
                 load_persistent: Callable[[Any], Any]):
        self.source, self.find_global = source, find_global
        self.load_persistent = load_persistent
        self.stack: List[Any] = []
        self.below_mark: List[List[Any]] = []
        self.memo: Dict[int, Any] = {}
        self.steps = 0

    def run(self) -> Any:
        """The value that the pickle describes.

        Raises
        ------
        PickleError
            Damaged, or it wants more than data.
        """
        while True:
            start = self.source.position
            self.spend(1)
            code = self.source.take(1)
            if code == b'.':
                if len(self.stack) != 1 or self.below_mark:
                    raise PickleError('damaged: the pickle ends at offset %d with %d values'
                                      % (start, len(self.stack)))
                return self.stack[0]
            operation = OPERATIONS.get(code)
            if operation is None:
                raise PickleError('refused: %s at offset %d' % (_operation_name(code), start))
            try:
                operation(self)
            except PickleError:
                raise
            except FAULTS:
                raise PickleError('damaged: %s at offset %d does not work'
                                  % (_operation_name(code), start)) from None

    def spend(self, steps: int) -> None:
        """Count work, so that copies of copies come to an end."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise PickleError('refused: its pickle takes more than %d steps' % MOST_STEPS)

    # Values

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def push_long(self, length: int) -> None:
        """A whole number of so many bytes."""
        if length > LONGEST_NUMBER:
            raise PickleError('refused: a number of %d bytes' % length)
        self.push(int.from_bytes(self.source.take(length), 'little', signed=True))

    def push_text(self, length: int) -> None:
        """UTF-8 of so many bytes."""
        self.push(self.source.take(length).decode('utf-8'))

    def push_string(self, length: int) -> None:
        """A Python 2 string: text where it is UTF-8, else bytes. Both can be turned back."""
        data = self.source.take(length)
        try:
            self.push(data.decode('utf-8'))
        except UnicodeDecodeError:
            self.push(data)

    def protocol(self) -> None:
        """Its number; refused if it is newer than any that is known."""
        number = self.source.take(1)[0]
        if number > NEWEST_PROTOCOL:
            raise PickleError('damaged: pickle protocol %d' % number)

    # Containers

    def mark(self) -> None:
        """Begin a container."""
        self.below_mark.append(self.stack)
        self.stack = []

    def above_mark(self) -> List[Any]:
        """What has come since the last mark, which is taken away."""
        items, self.stack = self.stack, self.below_mark.pop()
        return items

    def tuple_of(self, count: int) -> None:
        """So many values as a tuple."""
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def extend(self, items: List[Any]) -> None:
        """Append to a list."""
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError
        target.extend(items)

    def update(self, items: List[Any]) -> None:
        """Put keys and values, in turns, into a dictionary."""
        if len(items) % 2:
            raise ValueError
        set_items(self.stack[-1], zip(items[::2], items[1::2]))

    def add_items(self) -> None:
        """Put what is above the mark into a set."""
        items = self.above_mark()
        if type(self.stack[-1]) is not set:
            raise TypeError
        self.stack[-1].update(map(checked_key, items))

    # Memory

    def get(self, place: int) -> None:
        """Push what was kept."""
        self.push(self.memo[place])

    def put(self, place: int) -> None:
        """Keep the top of the stack."""
        self.memo[place] = self.stack[-1]

    # Objects

    def push_global(self, module: str, name: str) -> None:
        """What the table has for a dotted name."""
        if type(module) is not str or type(name) is not str:
            raise TypeError
        self.push(self.find_global('%s.%s' % (module, name)))

    def stack_global(self) -> None:
        """As `push_global`, with the names from the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def call(self) -> None:
        """As `construct`, from the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self.construct(function, arguments))

    def call_with_keywords(self) -> None:
        """As `call`; keywords are refused."""
        if self.stack.pop() != {}:
            raise TypeError
        self.call()

    def construct(self, function: Any, arguments: Any) -> Any:
        """Call a `Constructor`, and nothing else."""
        if type(function) is not Constructor or type(arguments) is not tuple:
            raise PickleError('refused: a call of something that is not in the table')
        try:
            return function.build(self, *arguments)
        except PickleError:
            raise
        except FAULTS:
            raise PickleError('damaged: %s with arguments that it cannot have'
                              % function.name) from None

    def set_state(self) -> None:
        """State of the object below it."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unfinished):
            target.set_state(state)
        elif type(target) is OrderedDict and type(state) is dict:
            # torch keeps the versions of the modules in an attribute of the state_dict.
            metadata = state.get('_metadata')
            if type(metadata) in (dict, OrderedDict):
                target._metadata = metadata
        elif type(target) is dict and type(state) is dict:  # the variables of a namespace
            self.spend(len(state))
            target.update(state)
        else:
            raise TypeError

    def persistent(self) -> None:
        """The object for a persistent id."""
        self.push(self.load_persistent(self.stack.pop()))


def set_items(target: Any, pairs: Any) -> None:
    """``target[key] = value`` for each pair, for a dictionary and keys that can be hashed."""
    if type(target) not in (dict, OrderedDict):
        raise TypeError
    for key, value in pairs:
        target[checked_key(key)] = value


def checked_key(key: Any) -> Any:
    """`key`, if it is safe as the key of a dictionary."""
    if type(key) not in KEY_TYPES or (type(key) is int and abs(key) > LARGEST_KEY):
        raise PickleError('refused: a key that is no text or number')
    return key


def _operation_name(code: bytes) -> str:
    known = pickletools.code2op.get(code.decode('latin-1'))
    return 'the pickle operation %s' % (known.name if known else repr(code))


OPERATIONS: Dict[bytes, Callable[[Machine], Any]] = {
    b'\x80': Machine.protocol,
    b'\x95': lambda m: m.source.take(8),  # FRAME: only a hint for reading ahead
    b'N': lambda m: m.push(None),
    b'\x88': lambda m: m.push(True),
    b'\x89': lambda m: m.push(False),
    b'J': lambda m: m.push(m.source.unpack('<i')),
    b'K': lambda m: m.push(m.source.unpack('<B')),
    b'M': lambda m: m.push(m.source.unpack('<H')),
    b'\x8a': lambda m: m.push_long(m.source.unpack('<B')),
    b'\x8b': lambda m: m.push_long(m.source.unpack('<I')),
    b'G': lambda m: m.push(m.source.unpack('>d')),
    b'X': lambda m: m.push_text(m.source.unpack('<I')),
    b'\x8c': lambda m: m.push_text(m.source.unpack('<B')),
    b'\x8d': lambda m: m.push_text(m.source.unpack('<Q')),
    b'U': lambda m: m.push_string(m.source.unpack('<B')),
    b'T': lambda m: m.push_string(m.source.unpack('<I')),
    b'B': lambda m: m.push(m.source.take(m.source.unpack('<I'))),
    b'C': lambda m: m.push(m.source.take(m.source.unpack('<B'))),
    b'\x8e': lambda m: m.push(m.source.take(m.source.unpack('<Q'))),
    b'(': Machine.mark,
    b')': lambda m: m.push(()),
    b'\x85': lambda m: m.tuple_of(1),
    b'\x86': lambda m: m.tuple_of(2),
    b'\x87': lambda m: m.tuple_of(3),
    b't': lambda m: m.push(tuple(m.above_mark())),
    b']': lambda m: m.push([]),
    b'a': lambda m: m.extend([m.stack.pop()]),
    b'e': lambda m: m.extend(m.above_mark()),
    b'}': lambda m: m.push({}),
    b's': lambda m: m.update([m.stack.pop(-2), m.stack.pop()]),
    b'u': lambda m: m.update(m.above_mark()),
    b'\x8f': lambda m: m.push(set()),
    b'\x90': Machine.add_items,
    b'\x91': lambda m: m.push(frozenset(map(checked_key, m.above_mark()))),
    b'h': lambda m: m.get(m.source.unpack('<B')),
    b'j': lambda m: m.get(m.source.unpack('<I')),
    b'q': lambda m: m.put(m.source.unpack('<B')),
    b'r': lambda m: m.put(m.source.unpack('<I')),
    b'\x94': lambda m: m.put(len(m.memo)),
    b'c': lambda m: m.push_global(m.source.line(), m.source.line()),
    b'\x93': Machine.stack_global,
    b'R': Machine.call,
    b'\x81': Machine.call,  # NEWOBJ
    b'\x92': Machine.call_with_keywords,
    b'b': Machine.set_state,
    b'Q': Machine.persistent,
}
