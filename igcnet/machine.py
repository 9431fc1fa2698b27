"""The machine: its processor, and where igcnet keeps what it has built or measured on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import List


def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    return _cpuinfo('model name') or platform.processor() or platform.machine()


def cpu_flags() -> List[str]:
    """What the processor can do, by the system's names; nothing where it does not tell."""
    return _cpuinfo('flags').split()


def cache_folder() -> Path:
    """Where igcnet keeps what it has built or measured for this user."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'igcnet'


def _cpuinfo(label: str) -> str:
    """The first processor's entry of that name; empty if there is none."""
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            found, _, value = line.partition(':')
            if found.strip() == label:
                return value.strip()
    except OSError:
        pass
    return ''
