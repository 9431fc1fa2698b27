"""How the C library treats the memory that one image leaves to the next."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import lru_cache

_SETTINGS = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES')
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_MMAP_BYTES = 1 << 25  # the largest that it takes


@lru_cache(maxsize=None)
def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the next image; True where that can be said.

    By default glibc gives blocks of the size of a photograph back to the system, which clears
    every page again for the next one: 7 % of the processor time of packing photographs, and
    more of that of reading them. Left alone, it comes to these limits by itself in programs that
    free a block of 32 MB. Settings from the environment stay as they are, and other C libraries
    are not touched.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
                    and mallopt(_M_TRIM_THRESHOLD, 2 * _MMAP_BYTES))
    return False
