"""Starting worker processes, with nothing imported that would delay them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Iterator

_alone = False


def allow_fork() -> None:
    """Say that this process is a command of ours that has only begun.

    A child of a program that has used OpenCV's or MXNet's threads inherits their locks without the
    threads that would open them, and waits for ever. Where neither is loaded yet, and the command
    uses no threads before its workers, they can be made by fork, which takes no start of another
    Python: a quarter of the processor time of packing 60,000 small images.
    """
    global _alone
    # From 3.11 on, a pool that forks starts all its processes before its own threads.
    _alone = (sys.platform.startswith('linux') and sys.version_info >= (3, 11)
              and threading.active_count() == 1 and not {'cv2', 'mxnet'} & set(sys.modules))


def process_context() -> BaseContext:
    """Context whose processes start with the packer's modules loaded, by fork if that is allowed.

    Otherwise the first call starts the process that the others are made from, which loads the
    modules while the caller goes on.
    """
    if _alone and threading.active_count() == 1:
        return multiprocessing.get_context('fork')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['igcnet.data.packing'])
    resource_tracker.ensure_running()  # otherwise done below, where it would lift the mask
    # Ctrl-C reaches every process of the terminal, and the main one decides what happens: the
    # others inherit the mask.
    with interrupt_later(), _search_here_first():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _search_here_first() -> Iterator[None]:
    """Let a new process import this package, not another igcnet that may be installed."""
    before = os.environ.get('PYTHONPATH')
    here = str(Path(__file__).resolve().parent.parent.parent)
    os.environ['PYTHONPATH'] = os.pathsep.join([here] + [before] * (before is not None))
    try:
        yield
    finally:
        del os.environ['PYTHONPATH']
        if before is not None:
            os.environ['PYTHONPATH'] = before


@contextlib.contextmanager
def interrupt_later() -> Iterator[None]:
    """Put Ctrl-C off until the end of the ``with`` block."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def usable_cores() -> int:
    """Number of processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
