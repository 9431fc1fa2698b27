"""A tree of files in a folder or in a tar archive, seen alike: names by folder, content by name."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import mmap
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import zlib
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple, Union

from igcnet.data.records import MAX_LENGTH
from igcnet.errors import DataError
from igcnet.files import PathLike, explain_os_errors

# Folder, relative to the root with '/', '' for the root itself -> names of its files.
Folders = Dict[str, List[str]]

_READ_SIZE = 1 << 13
_BLOCK = 512  # of a tar archive
_ZEROS = bytes(_BLOCK)
_OTHER_THAN_TIMES = re.compile(rb'^\d+ (?![amc]time=)', re.M)
_COMPRESSED = ((b'\x1f\x8b', gzip.open), (b'BZh', bz2.open), (b'\xfd7zXZ\0', lzma.open))


class FolderTree:
    """The files below a folder; names that start with a dot are left out.

    Links to folders are followed, as im2rec does, unless they lead back up.
    """

    def __init__(self, root: PathLike):
        self.root = os.fspath(root)

    def folders(self) -> Folders:
        """All folders, those without files too."""
        found: Folders = {}
        pending = [('', frozenset())]
        while pending:
            folder, above = pending.pop()
            path = os.path.join(self.root, folder)
            try:
                status = os.stat(path)
                identity = (status.st_dev, status.st_ino)
                if identity in above:
                    continue
                with os.scandir(path) as entries:
                    visible = [entry for entry in entries if not entry.name.startswith('.')]
            except OSError as problem:
                raise DataError('%s: cannot read this folder (%s)'
                                % (path, problem.strerror)) from None
            found[folder] = []
            for entry in visible:
                if _is_folder(entry):
                    pending.append((posixpath.join(folder, entry.name), above | {identity}))
                # A link to nowhere is a file that cannot be read, not one that is not there.
                elif entry.is_symlink() or entry.is_file():
                    found[folder].append(entry.name)
        return found

    def read(self, name: str) -> bytes:
        """Content of a file."""
        path = os.path.join(self.root, name)
        return read_file(path, path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class TarTree:
    """The regular files of an open tar archive; nothing is unpacked and links are left out."""

    def __init__(self, file: BinaryIO, where: str):
        self._file = file
        self._where = where
        self._members: Dict[str, Tuple[int, int]] = {}
        size = os.fstat(file.fileno()).st_size
        plain = _plain_members(file, size)
        if plain is not None:
            self._members = plain
            return
        try:
            file.seek(0)
            with tarfile.open(fileobj=file, mode='r:') as archive:
                for member in archive:
                    if member.isreg() and not member.issparse():
                        if member.offset_data + member.size > size:
                            raise EOFError('it is truncated')
                        name = posixpath.normpath(member.name).lstrip('/')
                        self._members[name] = (member.offset_data, member.size)
        # tarfile raises many types for damaged headers; none of them is a fault of ours.
        except Exception as problem:
            raise DataError('%s: not a readable tar archive (%s)' % (where, problem)) from None

    def folders(self) -> Folders:
        """All folders that hold files, and those above them."""
        found: Folders = {'': []}
        for name in self._members:
            if any(part.startswith('.') for part in name.split('/')):
                continue
            folder, base = posixpath.split(name)
            if folder not in found:
                while folder not in found:
                    found[folder] = []
                    folder = posixpath.dirname(folder)
                folder = posixpath.dirname(name)
            found[folder].append(base)
        return found

    def read(self, name: str) -> bytes:
        """Content of a file."""
        if name not in self._members:
            raise DataError('%s: there is no file %s in this archive' % (self._where, name))
        offset, size = self._members[name]
        if size > MAX_LENGTH:
            raise DataError('%s: %s has %d bytes; a record holds at most %d'
                            % (self._where, name, size, MAX_LENGTH))
        try:
            return os.pread(self._file.fileno(), size, offset)
        except OSError as problem:
            raise DataError('%s: cannot read %s (%s)'
                            % (self._where, name, problem.strerror)) from None


def _plain_members(file: BinaryIO, size: int) -> Optional[Dict[str, Tuple[int, int]]]:
    """Offset and length by name in an archive of nothing but files and folders with short names.

    Several times faster than `tarfile`, which gets everything else: None for an archive with other
    members, or with a fault for it to name.
    """
    members: Dict[str, Tuple[int, int]] = {}
    if not size:
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0
        while True:
            header = content[at:at + _BLOCK]
            if len(header) < _BLOCK:
                return None
            if header == _ZEROS:
                return members
            kind = header[156:157]
            try:
                checksum = int(header[148:156].strip(b' \0'), 8)
                length = int(header[124:136].strip(b' \0'), 8)
            except ValueError:
                return None
            # The checksum counts its own eight bytes as spaces.
            if checksum != sum(header) - sum(header[148:156]) + 8 * 32 or kind not in b'05x\0' \
                    or (kind == b'5' and length) or at + _BLOCK + length > size:
                return None
            name = header[:100].partition(b'\0')[0]
            if header[257:263] == b'ustar\0' and header[345]:
                name = header[345:500].partition(b'\0')[0] + b'/' + name
            if kind == b'x':  # more about the next member; only times do not matter here
                if _OTHER_THAN_TIMES.search(content[at + _BLOCK:at + _BLOCK + length]):
                    return None
            elif kind != b'5':
                if name.endswith(b'/'):  # the old form of a folder
                    return None
                text = posixpath.normpath(name.decode('utf-8', 'surrogateescape')).lstrip('/')
                members[text] = (at + _BLOCK, length)
            at += _BLOCK + -(-length // _BLOCK) * _BLOCK


Tree = Union[FolderTree, TarTree]


@contextlib.contextmanager
def open_tree(root: PathLike, scratch: PathLike) -> Iterator[Tree]:
    """Yield the tree of a folder, or of a tar archive (plain, gzip, bzip2 or xz).

    A compressed archive is expanded into an unnamed file in the folder `scratch` first, because
    images are read in shuffled order.

    Raises
    ------
    DataError
        Missing, unreadable, damaged, or neither a folder nor a tar archive.
    """
    root = os.fspath(root)
    if os.path.isdir(root):
        yield FolderTree(root)
        return
    with contextlib.ExitStack() as stack:
        try:
            file: Any = stack.enter_context(open(root, 'rb'))
            start = file.read(8)
            file.seek(0)
        except OSError as problem:
            raise DataError('%s: cannot read this folder or archive (%s)'
                            % (root, problem.strerror)) from None
        for signature, opener in _COMPRESSED:
            if start.startswith(signature):
                with explain_os_errors(scratch):
                    os.makedirs(scratch, exist_ok=True)
                    expanded = stack.enter_context(tempfile.TemporaryFile(dir=os.fspath(scratch)))
                    _expand(opener, file, expanded, root)
                file = expanded
        yield TarTree(file, root)


def _expand(opener, file: BinaryIO, expanded: BinaryIO, where: str) -> None:
    try:
        with opener(file) as source:
            shutil.copyfileobj(source, expanded, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as problem:
        raise DataError('%s: the archive is damaged or truncated (%s)' % (where, problem)) from None
    expanded.flush()
    expanded.seek(0)


def read_file(path: str, where: str, folder: Optional[int] = None) -> bytes:
    """Content of a file, with as few system calls as it takes.

    Parameters
    ----------
    where : str
        Its name, for messages.
    folder : int, optional
        Descriptor of the open folder that `path` is relative to.
    """
    try:
        # Without O_NONBLOCK a pipe in the place of a file would wait for a writer for ever.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
        try:
            data = os.read(file, _READ_SIZE)
            if len(data) < _READ_SIZE:
                return data
            size = os.fstat(file).st_size
            if size > MAX_LENGTH:
                raise DataError('%s: %d bytes; a record holds at most %d'
                                % (where, size, MAX_LENGTH))
            return data + os.read(file, max(0, size - len(data)))
        finally:
            os.close(file)
    except OSError as problem:
        raise DataError('%s: cannot be read (%s)' % (where, problem.strerror)) from None
