"""Requests to stop: SIGINT and SIGTERM, heeded where a run can be resumed."""

from __future__ import annotations

import signal
from typing import Any, Dict


class Interrupted(Exception):
    """Somebody asked the run to stop; it has written a checkpoint."""


class Stopped(Exception):
    """Raised by `StopRequest.heed`."""


class StopRequest:
    """Remembers SIGINT and SIGTERM while a run is in a ``with`` block.

    The first one lets the present step finish; a second one ends the program at once.
    """

    def __init__(self):
        self.requested = False
        self._old: Dict[int, Any] = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller stops us in another way
                break
        return self

    def __exit__(self, *exception):
        self._restore()

    def heed(self) -> None:
        """Raise `Stopped` if there was a request."""
        if self.requested:
            raise Stopped

    def _handle(self, number, frame):
        self.requested = True
        self._restore()

    def _restore(self):
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}
