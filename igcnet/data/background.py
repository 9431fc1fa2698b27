"""Work done ahead in background threads, handed over in order."""

from __future__ import annotations

import atexit
import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Callable, Iterable, Iterator, Sequence, Tuple, TypeVar

from igcnet.data.processes import usable_cores

Result = TypeVar('Result')
Part = Callable[[], None]

THREAD_NAME = 'igcnet-reader'


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
    pool = _Pool(threads or usable_cores())
    waiting = deque()
    try:
        for result, parts in jobs:
            waiting.append((result, [pool.submit(part) for part in parts]))
            if len(waiting) > ahead:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        pool.stop()


class _Pool:
    """Threads that run parts until they are stopped, at the latest when the process ends.

    (ThreadPoolExecutor would run everything that waits before it lets the process end.)
    """

    def __init__(self, threads: int):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._stopped = False
        self._threads = [threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
                         for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        # Daemon threads are not waited for before this runs, so that it can tell them to end.
        atexit.register(self.stop)

    def submit(self, part: Part) -> Future:
        future: Future = Future()
        self._tasks.put((future, part))
        return future

    def stop(self) -> None:
        self._stopped = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            # The garbage collector may close a generator in any thread, also in one of these.
            if thread is not threading.current_thread():
                thread.join()
        atexit.unregister(self.stop)

    def _work(self) -> None:
        for future, part in iter(self._tasks.get, None):
            if self._stopped:
                continue
            try:
                part()
            except BaseException as problem:
                future.set_exception(problem)
            else:
                future.set_result(None)


def _finished(waiting: deque):
    """The oldest result, once its parts have run."""
    result, futures = waiting.popleft()
    for future in futures:
        future.result()
    return result
