"""Finding and loading what `igcnet.native.build` has built: the operators and the engine."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from igcnet.errors import IgcnetError
from igcnet.machine import cache_folder

PACKAGE = Path(__file__).resolve().parent  # where the libraries stand
SOURCES = PACKAGE
HOW_TO_BUILD = 'python -m igcnet.native.build'


@dataclass(frozen=True)
class Library:
    """A shared object and what it is built from.

    Parameters
    ----------
    stem : str
        What its file's name begins with.
    title : str
        Its name for people.
    folders : tuple of str
        Folders of the package that hold its sources.
    """

    stem: str
    title: str
    folders: Tuple[str, ...]

    def sources(self) -> List[Path]:
        """Every file that it is built from."""
        return [path for folder in self.folders for path in sorted((SOURCES / folder).iterdir())
                if path.suffix in ('.cc', '.h')]

    def fingerprint(self) -> str:
        """What it must have been built from to be used: a digest of the sources."""
        digest = hashlib.sha256()
        for path in self.sources():
            digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
        return digest.hexdigest()[:16]

    def candidates(self) -> List[Path]:
        """The libraries there are, in the package and in the user's cache."""
        return [path for folder in (PACKAGE, cache_folder()) if folder.is_dir()
                for path in sorted(folder.glob(self.stem + '*.so'))]

    def find(self) -> Path:
        """The library of the present sources.

        Raises
        ------
        IgcnetError
            It is not built, or was built from other sources.
        """
        found = self.candidates()
        for path in found:
            if _built_from(path) == self.fingerprint():
                return path
        raise IgcnetError('%s %s: %s' % (
            self.title, 'was built from other sources (%s)' % found[0] if found
            else 'is not built', HOW_TO_BUILD))


OPERATORS = Library('_operators', 'the operator library', ('src',))
ENGINE = Library('_engine', 'the inference engine', ('engine', 'src'))


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
    path = OPERATORS.find()
    try:
        mx.library.load(str(path), False)
    except mx.base.MXNetError as problem:
        raise IgcnetError('%s: MXNet does not load it (%s)'
                          % (path, str(problem).strip().splitlines()[-1])) from None
    library = ctypes.CDLL(str(path))
    library.igcnet_kernels.restype = ctypes.c_char_p
    library.igcnet_multiply_adds.argtypes = [ctypes.c_long]
    library.igcnet_multiply_adds.restype = ctypes.c_double
    return library


@functools.lru_cache(maxsize=None)
def load_engine() -> ctypes.CDLL:
    """The inference engine, which needs no MXNet; `igcnet.deploy.engine` knows its functions.

    Raises
    ------
    IgcnetError
        It is not built, or was built from other sources.
    """
    return ctypes.CDLL(str(ENGINE.find()))


def missing() -> Optional[str]:
    """Why the operators cannot be used, in one line; None when they can."""
    return _why_not(load)


def engine_missing() -> Optional[str]:
    """Why the engine cannot be used, in one line; None when it can."""
    return _why_not(load_engine)


def _why_not(load_it: Callable[[], ctypes.CDLL]) -> Optional[str]:
    try:
        load_it()
    except IgcnetError as problem:
        return str(problem)
    return None
