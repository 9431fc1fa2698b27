"""Finding and loading the operator library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import List, Optional

from igcnet.errors import IgcnetError
from igcnet.machine import cache_folder

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / 'src'
STEM = '_operators'
HOW_TO_BUILD = 'python -m igcnet.native.build'


def fingerprint() -> str:
    """What a library must have been built from to be used: a digest of the sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in ('.cc', '.h'):
            digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    return digest.hexdigest()[:16]


def candidates() -> List[Path]:
    """The libraries there are, in the package and in the user's cache."""
    return [path for folder in (PACKAGE, cache_folder()) if folder.is_dir()
            for path in sorted(folder.glob(STEM + '*.so'))]


def _built_from(path: Path) -> Optional[str]:
    """The fingerprint in a library; None when it cannot be loaded or is no library of ours."""
    try:
        function = ctypes.CDLL(str(path)).igcnet_fingerprint
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_char_p
    return function().decode('ascii', 'replace')


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL:
    """The library; its operators become ``mx.nd.igcnet_...`` and ``mx.sym.igcnet_...``.

    Returns
    -------
    ctypes.CDLL
        For the few functions that are no operators.

    Raises
    ------
    IgcnetError
        It is not built, or was built from other sources.
    """
    import mxnet as mx
    found = candidates()
    for path in found:
        if _built_from(path) == fingerprint():
            try:
                mx.library.load(str(path), False)
            except mx.base.MXNetError as problem:
                raise IgcnetError('%s: MXNet does not load it (%s)'
                                  % (path, str(problem).strip().splitlines()[-1])) from None
            library = ctypes.CDLL(str(path))
            _declare(library)
            return library
    raise IgcnetError('the operator library %s: %s' % (
        'was built from other sources (%s)' % found[0] if found else 'is not built', HOW_TO_BUILD))


def missing() -> Optional[str]:
    """Why the library cannot be used, in one line; None when it can."""
    try:
        load()
    except IgcnetError as problem:
        return str(problem)
    return None


def _declare(library: ctypes.CDLL) -> None:
    library.igcnet_kernels.restype = ctypes.c_char_p
    library.igcnet_multiply_adds.argtypes = [ctypes.c_long]
    library.igcnet_multiply_adds.restype = ctypes.c_double
