"""Work done ahead in background threads, handed over in order."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, Sequence, Tuple, TypeVar

Result = TypeVar('Result')
Part = Callable[[], None]

THREAD_NAME = 'igcnet-reader'


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_background(jobs: Iterable[Tuple[Result, Sequence[Part]]], threads: int,
                  ahead: int = 2) -> Iterator[Result]:
    """Yield the result of each job, in order, once all its parts have run.

    Parameters
    ----------
    jobs : iterable of (result, parts)
        Parts are functions without arguments that complete the result. They run in any order and
        at the same time. Jobs are taken from the iterable as they are needed.
    threads : int
        Threads that run the parts; 0: one for each core this process may use.
    ahead : int
        Jobs begun before the caller asks for them; this many more results are in memory.

    Notes
    -----
    An exception in a part is raised here. However the generator ends (also closed early, or by
    Ctrl-C), it begins no further part and waits for those that run, so no thread is left.
    """
    pool = ThreadPoolExecutor(threads or available_cores(), thread_name_prefix=THREAD_NAME)
    waiting = deque()
    try:
        for result, parts in jobs:
            waiting.append((result, [pool.submit(part) for part in parts]))
            if len(waiting) > ahead:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()
        pool.shutdown(wait=True)


def _finished(waiting: deque):
    """The oldest result. It leaves the queue last, so that its parts can still be cancelled."""
    result, futures = waiting[0]
    for future in futures:
        future.result()
    waiting.popleft()
    return result
