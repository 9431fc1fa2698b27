"""Reading PyTorch's checkpoint files without PyTorch, and without running what they hold.

Three containers have been in use; the suffix (``.pth.tar``, ``.pt``) says nothing about them.

=========  =====================================================================================
zip        PyTorch 1.6 on: ``NAME/data.pkl`` with the object, ``NAME/data/KEY`` with the raw bytes
           of each storage, ``NAME/byteorder``
legacy     0.1.12 to 1.5: pickles of a magic number, of the version 1001, of facts about the
           system, of the object and of the list of storage keys; then, in the order of that list,
           each storage as its i64 number of elements and the elements
tar        before that: ``storages`` and ``tensors``, each a pickled number followed by that many
           pickled descriptions with their raw data, and ``pickle`` with the object
=========  =====================================================================================

All data is little endian. In the object a tensor is a call with a storage, an offset, a shape and
strides, so several tensors may share a storage.
"""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from typing import Any, BinaryIO, Dict, NamedTuple

from igcnet.convert.ndarray_file import file_size
from igcnet.convert.pickle_machine import Machine, PickleError, Source
from igcnet.convert.torch_globals import find_global
from igcnet.convert.torch_plain import plain_value
from igcnet.convert.torch_tar import BLOCK, is_tar, read_tar
from igcnet.convert.torch_values import (
    Storage,
    Storages,
    is_count,
    storage_identity,
)
from igcnet.errors import CheckpointError
from igcnet.files import PathLike

ZIP, LEGACY, TAR = 'zip', 'legacy', 'tar'
ZIP_START = b'PK\x03\x04'
LEGACY_MAGIC, LEGACY_VERSION = 0x1950a86a20f9469cfc6c, 1001

LARGEST_PICKLE = 64 << 20
# torch.save stores without compression. Weights that someone packed again hardly get smaller.
MOST_INFLATED = 8
SMALL = 1 << 20


class TorchFile(NamedTuple):
    """What a file holds, and the container it came in ('zip', 'legacy' or 'tar')."""

    value: Any
    container: str


def read_torch(path: PathLike) -> TorchFile:
    """Read a file that ``torch.save`` wrote.

    Returns
    -------
    TorchFile
        Its value consists of dictionaries, lists, tuples, sets, texts, numbers, bytes and
        read-only NumPy arrays. Tensors and parameters are arrays (bfloat16 as float32), whatever
        device they were on; those that shared a storage share memory. NumPy scalars are
        numbers; namespaces and default dictionaries are dictionaries; sizes are tuples; devices
        and element types are texts. An OrderedDict keeps its attribute ``_metadata``.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or damaged, no PyTorch file, or names anything but data,
        as files with whole modules or with code to run do.
    """
    size = file_size(path, 'checkpoint')
    try:
        with open(str(path), 'rb') as stream:
            start = stream.read(BLOCK)
            stream.seek(0)
            if start.startswith(ZIP_START):
                return TorchFile(_read_zip(stream, size), ZIP)
            if start[:1] == b'\x80':
                return TorchFile(_read_legacy(Source(stream, size)), LEGACY)
            if is_tar(start):
                return TorchFile(read_tar(stream, size), TAR)
    except PickleError as problem:
        raise CheckpointError('%s: %s' % (path, problem)) from None
    except OSError as problem:
        raise CheckpointError('%s: cannot read this checkpoint (%s)'
                              % (path, problem.strerror or problem)) from None
    except MemoryError:
        raise CheckpointError('%s: not enough memory to read it' % path) from None
    raise CheckpointError('%s: not a PyTorch checkpoint: it is none of the containers zip, legacy '
                          'and tar' % path)


# zip

def _read_zip(stream: BinaryIO, size: int) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            return _Zip(archive, size).read()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError,
            OverflowError, LookupError) as problem:
        raise PickleError('damaged: its zip container is broken (%s)'
                          % str(problem).split('\n')[0]) from None


class _Zip:
    """One archive; every member is checked before anything is unpacked."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self.archive, self.size = archive, size
        members = archive.infolist()
        self.members = {member.filename: member for member in members}
        if len(self.members) != len(members):
            raise PickleError('damaged: two members of its zip container have one name')
        if any(member.file_size != member.compress_size for member in members
               if member.compress_type == zipfile.ZIP_STORED):
            raise PickleError('damaged: the sizes in its zip container contradict each other')
        if sum(member.file_size for member in members) > MOST_INFLATED * size + SMALL:
            raise PickleError('refused: its zip container would unpack to more than %d times the '
                              'size of the file' % MOST_INFLATED)

    def read(self) -> Any:
        roots = [name[:-len('data.pkl')] for name in self.members
                 if name.endswith('/data.pkl') and name.count('/') == 1]
        if len(roots) != 1:
            raise PickleError('not a PyTorch checkpoint: a zip file without data.pkl')
        root = roots[0]
        if self.member(root + 'byteorder', b'little') != b'little':
            raise PickleError('its numbers are big endian; save it on a little-endian machine')
        pickled = self.member(root + 'data.pkl')
        if len(pickled) > LARGEST_PICKLE:
            raise PickleError('refused: a pickle of %d bytes' % len(pickled))
        storages = Storages(MOST_INFLATED * self.size + SMALL)

        def load_storage(identity: Any) -> Storage:
            key, element_type, count = storage_identity(identity, 5)
            storage = storages.add(key, element_type, count)
            if key not in storages.data:
                data = self.member('%sdata/%s' % (root, key))
                if len(data) != storages.lengths[key]:
                    raise PickleError('damaged: storage %r has %d bytes instead of %d'
                                      % (key, len(data), storages.lengths[key]))
                storages.data[key] = data
            return storage

        machine = Machine(Source(BytesIO(pickled), len(pickled)), find_global, load_storage)
        return plain_value(machine.run(), storages)

    def member(self, name: str, default: bytes = None) -> bytes:
        """All bytes of a member, whose checksum `zipfile` compares."""
        found = self.members.get(name)
        if found is None:
            if default is None:
                raise PickleError('damaged: its zip container lacks %r' % name)
            return default
        with self.archive.open(found) as member:
            data = member.read(found.file_size)  # a number, lest it unpack without an end
        if len(data) != found.file_size:
            raise PickleError('truncated: %r in its zip container' % name)
        return data


# legacy

def _read_legacy(source: Source) -> Any:
    storages = Storages(source.size)
    views: Dict[str, Storage] = {}

    def load_storage(identity: Any) -> Storage:
        key, element_type, count = storage_identity(identity, 6)
        storage, view = storages.add(key, element_type, count), identity[5]
        if view is None:
            return storage
        if type(view) is not tuple or len(view) != 3 or type(view[0]) is not str or not all(
                map(is_count, view[1:])) or sum(view[1:]) > count:
            raise PickleError('damaged: a view beyond storage %r' % key)
        return views.setdefault(view[0], Storage(key, element_type, *view[1:]))

    def run() -> Any:
        return Machine(source, find_global, load_storage).run()

    try:
        known = run() == LEGACY_MAGIC
    except PickleError as problem:
        if str(problem).startswith('refused'):
            raise
        known = False
    if not known:
        raise PickleError('not a PyTorch checkpoint: a pickle of something else')
    if run() != LEGACY_VERSION:
        raise PickleError('damaged: the version of its layout is not %d' % LEGACY_VERSION)
    run()  # byte order and sizes of the machine it was written on, without effect on the file
    value, keys = run(), run()
    if type(keys) is not list or set(map(type, keys)) - {str} or (
            sorted(keys) != sorted(storages.lengths)):
        raise PickleError('damaged: its storages are not those that its tensors need')
    for key in keys:
        count = source.unpack('<q')
        if count != storages.counts[key]:
            raise PickleError('damaged: storage %r has %d elements instead of %d'
                              % (key, count, storages.counts[key]))
        storages.data[key] = source.take(storages.lengths[key])
    return plain_value(value, storages)
