"""The tar container in which PyTorch kept tensors before version 0.1.12."""

from __future__ import annotations

from typing import Any, BinaryIO, Dict, Iterator, Optional, Tuple

from igcnet.convert.pickle_machine import FAULTS, Machine, PickleError, Source
from igcnet.convert.torch_globals import find_global
from igcnet.convert.torch_plain import plain_value
from igcnet.convert.torch_values import (
    MOST_DIMENSIONS,
    StorageClass,
    Storages,
    checked_view,
    is_count,
    refuse_identity,
)

BLOCK = 512
FILE_KINDS = (b'0', b'\0')


def is_tar(start: bytes) -> bool:
    """Whether a file that begins with the block `start` is a tar file."""
    return _member(start) is not None


def read_tar(stream: BinaryIO, size: int) -> Any:
    """The object in a file of `size` bytes, as `igcnet.convert.torch_file.read_torch` gives it.

    Raises
    ------
    PickleError
        Damaged, or no checkpoint.
    """
    places = _members(Source(stream, size))
    lacking = [name for name in ('storages', 'tensors', 'pickle') if name not in places]
    if lacking:
        raise PickleError('not a PyTorch checkpoint: a tar file without %s' % lacking[0])
    reader = _Reader(stream, places, size)
    try:
        reader.read_storages()
        reader.read_tensors()
    except PickleError:
        raise
    except FAULTS:
        raise PickleError('damaged: its tar container describes what it does not have') from None
    return plain_value(reader.run(reader.member('pickle')), reader.storages)


def _member(block: bytes) -> Optional[Tuple[str, bytes, int]]:
    """Name, kind and length that a header block tells; None when it is none."""
    digits = block[124:136].strip(b' \0')
    if len(block) != BLOCK or block[257:262] != b'ustar' or not digits.isdigit():
        return None
    try:
        return block[:100].rstrip(b'\0').decode('ascii'), block[156:157], int(digits, 8)
    except ValueError:
        return None


def _members(source: Source) -> Dict[str, Tuple[int, int]]:
    """Offset and length of each file in the archive."""
    found: Dict[str, Tuple[int, int]] = {}
    while source.size - source.position >= BLOCK:
        member = _member(source.take(BLOCK))
        if member is None:  # the blocks of zeros at the end
            break
        name, kind, length = member
        if kind in FILE_KINDS:
            found[name] = source.position, length
        source.skip(min(-(-length // BLOCK) * BLOCK, source.size - source.position))
    return found


class _Reader:
    """Objects are known by whole numbers, their addresses in the program that saved them."""

    def __init__(self, stream: BinaryIO, places: Dict[str, Tuple[int, int]], size: int):
        self.stream, self.places, self.size = stream, places, size
        self.storages = Storages(size)
        self.objects: Dict[int, Any] = {}

    def member(self, name: str) -> Source:
        """One file of the archive."""
        offset, length = self.places[name]
        if offset + length > self.size:
            raise PickleError('truncated: %r in its tar container' % name)
        self.stream.seek(offset)
        return Source(self.stream, length)

    def run(self, source: Source) -> Any:
        return Machine(source, find_global, self.find_object).run()

    def find_object(self, identity: Any) -> Any:
        if type(identity) is str and identity.isdecimal() and len(identity) <= 20:
            identity = int(identity)
        if type(identity) is not int or identity not in self.objects:
            raise refuse_identity(identity)
        return self.objects[identity]

    def descriptions(self, source: Source) -> Iterator[Any]:
        """As many pickled descriptions as the pickled number before them says, one by one."""
        count = self.run(source)
        if not is_count(count):
            raise PickleError('damaged: %r descriptions' % type(count).__name__)
        for _ in range(count):
            yield self.run(source)

    def read_storages(self) -> None:
        source = self.member('storages')
        for key, _, kind in self.descriptions(source):
            if type(key) is not int or type(kind) is not StorageClass:
                raise PickleError('damaged: the description of a storage')
            self.objects[key] = self.storages.add(str(key), kind.element_type,
                                                  source.unpack('<Q'))
            self.storages.data[str(key)] = source.take(self.storages.lengths[str(key)])
        for target, root, offset, count in self.run(source):
            base = self.objects[root]
            if type(target) is not int or not is_count(offset) or not is_count(count) or (
                    offset + count > base.count):
                raise PickleError('damaged: a view beyond its storage')
            self.objects[target] = base._replace(start=offset, count=count)

    def read_tensors(self) -> None:
        source = self.member('tensors')
        for key, storage, _ in self.descriptions(source):
            dimensions = source.unpack('<i')
            source.take(4)  # the upper half of what was meant as 64 bits
            if type(key) is not int or not 0 <= dimensions <= MOST_DIMENSIONS:
                raise PickleError('damaged: the description of a tensor')
            shape = tuple(source.unpack('<q') for _ in range(dimensions))
            strides = tuple(source.unpack('<q') for _ in range(dimensions))
            self.objects[key] = checked_view(self.objects[storage], source.unpack('<q'), shape,
                                             strides)
