"""Work on many images in worker processes, with the results in order.

Workers are processes: for small images Python's share of the work is the larger one, a decoder
that crashes takes only its worker with it, and what a decoder writes to the error output can be
told apart by image.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Deque, Iterator, NamedTuple, Optional, Sequence, Tuple

import cv2

from igcnet.data.memory import keep_freed_memory
from igcnet.data.processes import interrupt_later, process_context
from igcnet.errors import DataError

_CHUNK_BYTES = 1 << 22
_MAX_CHUNK = 512

# libjpeg decodes damaged data to the end and only says so. A few odd bytes before a marker are
# what some encoders leave; more of them mean that the decoder lost its way.
_DAMAGE = re.compile(r'(?i)premature end|corrupt jpeg data|invalid sos|inconsistent progression')
_ODD_BYTES = re.compile(r'(\d+) extraneous bytes before marker')
_HARMLESS_BYTES = 16


class Task(NamedTuple):
    """What a worker gets: ``function(argument)`` is called there.

    Attributes
    ----------
    function : function
        Of a module; returns a result, and the bytes of the images it has worked on.
    argument : any
        Small, or made of bytes, because it is copied.
    first_name, last_name : str
        First and last name of the images, for the message about a dead worker.
    """

    function: Callable[[Any], Tuple[Any, int]]
    argument: Any
    first_name: str
    last_name: str


class WorkerPool:
    """Worker processes; use it as a context.

    Parameters
    ----------
    workers : int
        Number of processes. The results do not depend on it.
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._executor = ProcessPoolExecutor(workers, process_context(), _start_worker)
        # Now, while there are neither threads nor open files to inherit; a half-started worker
        # would be left behind by an interrupt.
        with interrupt_later():
            self._executor.submit(os.getpid)
        self._pending: Deque[Tuple[Sequence[Any], Task, Future]] = deque()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind, problem, trace):
        for _, _, future in self._pending:
            future.cancel()
        self._executor.shutdown()

    def run(self, items: Sequence[Any],
            prepare: Callable[[Sequence[Any]], Task]) -> Iterator[Tuple[Sequence[Any], Any]]:
        """Yield some items at a time with the result of their task, in order.

        Parameters
        ----------
        prepare : function
            The task for some items.
        """
        start, size, done, total_bytes = 0, 16, 0, 0
        while start < len(items) or self._pending:
            try:
                while start < len(items) and len(self._pending) < 2 * self._workers + 1:
                    chunk = items[start:start + size]
                    task = prepare(chunk)
                    # This may start more workers, too.
                    with interrupt_later():
                        future = self._executor.submit(task.function, task.argument)
                    self._pending.append((chunk, task, future))
                    start += len(chunk)
                chunk, task, future = self._pending[0]
                result, result_bytes = future.result()
            except BrokenProcessPool:
                tasks = [waiting for _, waiting, _ in self._pending] or [task]
                raise DataError('a worker process died while it worked on one of the images from '
                                '%s to %s (out of memory?)'
                                % (tasks[0].first_name, tasks[-1].last_name)) from None
            self._pending.popleft()
            yield chunk, result
            # Large enough that handing over costs little, small enough for the memory.
            done += len(chunk)
            total_bytes += result_bytes
            size = max(1, min(_MAX_CHUNK, _CHUNK_BYTES * done // (total_bytes + 1)))


# The error output of a worker process: a file, in which messages are told apart by position.
_messages: Any = None


def _start_worker() -> None:
    global _messages
    cv2.setNumThreads(1)
    keep_freed_memory()
    _messages = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
    os.dup2(_messages.fileno(), 2)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A main process that was killed cannot send its workers home; they would wait for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


class DecoderMessages:
    """What the decoders have written to the error output of a worker process."""

    def __init__(self):
        self._position = os.lseek(2, 0, os.SEEK_CUR)

    def is_silent(self) -> bool:
        """True when there was none since the last call."""
        position, self._position = self._position, os.lseek(2, 0, os.SEEK_CUR)
        return position == self._position

    def damage(self) -> Optional[str]:
        """The line since the last call that means damaged data, if there is one."""
        position, self._position = self._position, os.lseek(2, 0, os.SEEK_CUR)
        if position == self._position:
            return None
        return find_damage(os.pread(_messages.fileno(), self._position - position, position))


def find_damage(messages: bytes) -> Optional[str]:
    """The line among a decoder's messages that means damaged data, if there is one."""
    for line in messages.decode('utf-8', 'replace').splitlines():
        odd_bytes = _ODD_BYTES.search(line)
        if odd_bytes and int(odd_bytes.group(1)) <= _HARMLESS_BYTES:
            continue
        if _DAMAGE.search(line):
            return line.strip()
    return None


def reason_of(problem: Exception, name: str) -> str:
    """The message of a problem without the name it starts with, which reports show apart."""
    text = str(problem) if isinstance(problem, DataError) else 'not enough memory'
    return text[len(name) + 2:] if text.startswith(name + ': ') else text
