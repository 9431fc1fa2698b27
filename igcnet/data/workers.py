"""Encoding in worker processes, with the records in the order of the list.

Workers are processes: for small images Python's share of the work is the larger one, a decoder
that crashes takes only its worker with it, and what a decoder writes to the error output can be
told apart by image.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, Callable, Deque, Iterator, List, Optional, Sequence, Tuple, Union

import cv2

from igcnet.data.encoding import Encoding, Source
from igcnet.data.lists import Item
from igcnet.data.records import frame, pack_record
from igcnet.errors import DataError

_CHUNK_BYTES = 1 << 22
_MAX_CHUNK = 512

# libjpeg decodes damaged data to the end and only says so. A few odd bytes before a marker are
# what some encoders leave; more of them mean that the decoder lost its way.
_DAMAGE = re.compile(r'(?i)premature end|corrupt jpeg data|invalid sos|inconsistent progression')
_ODD_BYTES = re.compile(r'(\d+) extraneous bytes before marker')
_HARMLESS_BYTES = 16

# A framed record, or the reason why there is none.
Outcome = Union[bytes, str]


class EncoderPool:
    """Worker processes that encode; use it as a context.

    Parameters
    ----------
    encoding : Encoding
    workers : int
        Number of processes. The records do not depend on it.
    """

    def __init__(self, encoding: Encoding, workers: int):
        self._workers = workers
        self._executor = ProcessPoolExecutor(workers, _process_context(), _start_worker,
                                             (encoding,))
        self._pending: Deque[Tuple[Sequence[Item], Future]] = deque()

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(self, kind, problem, trace):
        for _, future in self._pending:
            future.cancel()
        self._executor.shutdown()

    def run(self, items: Sequence[Item],
            fetch: Callable[[Item], Source]) -> Iterator[Tuple[Sequence[Item], List[Outcome]]]:
        """Yield some items at a time with an outcome for each, in order.

        Parameters
        ----------
        fetch : function
            The source of an item; its DataError becomes the item's reason.
        """
        start, size, done, total_bytes = 0, 16, 0, 0
        while start < len(items) or self._pending:
            try:
                while start < len(items) and len(self._pending) < 2 * self._workers + 1:
                    chunk = items[start:start + size]
                    tasks = [(item, _fetch_or_problem(fetch, item)) for item in chunk]
                    self._pending.append((chunk, self._executor.submit(_encode_chunk, tasks)))
                    start += len(chunk)
                chunk, future = self._pending[0]
                outcomes = future.result()
            except BrokenProcessPool:
                suspects = [item.name for waiting, _ in self._pending for item in waiting]
                suspects = suspects or [item.name for item in chunk]
                raise DataError('a worker process died while it encoded one of the images from %s '
                                'to %s (out of memory?)' % (suspects[0], suspects[-1])) from None
            self._pending.popleft()
            yield chunk, outcomes
            # Large enough that handing over costs little, small enough for the memory.
            done += len(chunk)
            total_bytes += sum(map(len, outcomes))
            size = max(1, min(_MAX_CHUNK, _CHUNK_BYTES * done // (total_bytes + 1)))


def usable_cores() -> int:
    """Number of processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _process_context():
    # Not fork: a child of a program that has used OpenCV's or MXNet's threads inherits their locks
    # without the threads that would open them, and waits for ever.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    # Ctrl-C reaches every process of the terminal, and the main one decides what happens: the
    # others inherit the mask, so that not even their start can be interrupted.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return context


def _fetch_or_problem(fetch: Callable[[Item], Source], item: Item) -> Union[Source, DataError]:
    try:
        return fetch(item)
    except DataError as problem:
        return problem


# What a worker process keeps between chunks.
_worker_encoding = Encoding()
_worker_messages: Any = None


def _start_worker(encoding: Encoding) -> None:
    global _worker_encoding, _worker_messages
    cv2.setNumThreads(1)
    _worker_encoding = encoding
    _worker_messages = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
    os.dup2(_worker_messages.fileno(), 2)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A main process that was killed cannot send its workers home; they would wait for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_chunk(tasks: Sequence[Tuple[Item, Union[Source, DataError]]]) -> List[Outcome]:
    return [_encode_item(item, source) for item, source in tasks]


def _encode_item(item: Item, source: Union[Source, DataError]) -> Outcome:
    try:
        if isinstance(source, DataError):
            raise source
        before = os.lseek(2, 0, os.SEEK_CUR)
        image = _worker_encoding.encode(source, item.name)
        length = os.lseek(2, 0, os.SEEK_CUR) - before
        if length:
            damage = find_damage(os.pread(_worker_messages.fileno(), length, before))
            if damage:
                return damage
        return frame(pack_record(item.label, item.key, image))
    except DataError as problem:
        # The report has the name in a column of its own.
        text = str(problem)
        return text[len(item.name) + 2:] if text.startswith(item.name + ': ') else text
    except MemoryError:
        return 'not enough memory'


def find_damage(messages: bytes) -> Optional[str]:
    """The line among a decoder's messages that means damaged data, if there is one."""
    for line in messages.decode('utf-8', 'replace').splitlines():
        odd_bytes = _ODD_BYTES.search(line)
        if odd_bytes and int(odd_bytes.group(1)) <= _HARMLESS_BYTES:
            continue
        if _DAMAGE.search(line):
            return line.strip()
    return None
