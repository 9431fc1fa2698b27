"""Writing files so that a reader never sees half of one, reading JSON without surprises, and
checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Iterator, Union

from igcnet.errors import IgcnetError

PathLike = Union[str, 'os.PathLike[str]']
_BLOCK = 1 << 20


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is synced and renamed to `path`.

    Whatever happens inside the ``with`` block, `path` either keeps its old content or has
    the complete new one, and no temporary file stays behind.

    Raises
    ------
    IgcnetError
        When the folder cannot be written or the disk is full.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix='.' + path.name + '.', dir=str(path.parent))
        os.close(handle)
    temporary = Path(name)
    try:
        with explain_os_errors(path):
            yield temporary
            sync_file(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(str(temporary), str(path))
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_file(path: PathLike) -> None:
    """Flush the content of `path` to the disk."""
    descriptor = os.open(str(path), os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: PathLike) -> None:
    """Flush the names in `folder` to the disk, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(str(folder), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def read_json(path: PathLike, what: str, error: type = IgcnetError) -> Any:
    """Read a JSON file; every failure becomes one line of class `error`.

    Parameters
    ----------
    what : str
        What the file should be ('symbol file', 'manifest'), for the message.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as problem:
        raise error('%s: cannot read this %s (%s)' % (path, what, problem.strerror)) from None
    except (ValueError, RecursionError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise error('%s: not a %s: the JSON is damaged (%s)' % (path, what, reason)) from None


def sha256(path: PathLike, error: type = IgcnetError) -> str:
    """Checksum of a file, in hexadecimal digits; one that cannot be read is of class `error`."""
    digest = hashlib.sha256()
    try:
        with open(str(path), 'rb') as file:
            for block in iter(lambda: file.read(_BLOCK), b''):
                digest.update(block)
    except OSError as problem:
        raise error('%s: cannot read it (%s)' % (path, problem.strerror)) from None
    return digest.hexdigest()


@contextlib.contextmanager
def explain_os_errors(path: PathLike) -> Iterator[None]:
    """Turn an ``OSError`` about `path` into one line that says what would be right."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = 'no space left on the device; free some space or choose another folder'
        elif problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = 'not writable; choose a folder that you may write to'
        else:
            advice = problem.strerror or str(problem)
        raise IgcnetError('%s: cannot write: %s' % (path, advice)) from problem


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
