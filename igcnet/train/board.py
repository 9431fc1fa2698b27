"""TensorBoard events of a run.

tensorboardX's ``SummaryWriter`` writes in a thread of its own. When the disk is full that thread
dies, and a few values later the run waits for it without end. Here events are written at once, and
a full disk is an ``OSError`` like any other.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FLUSH_SECONDS = 30.0


class Board:
    """Scalars in a new event file in `folder`.

    Parameters
    ----------
    folder : Path
    first_update : int
        What earlier files say of this update and later ones is not shown any more.

    Raises
    ------
    ImportError
        tensorboardX is not installed.
    """

    def __init__(self, folder: Path, first_update: int):
        # tensorboardX would import torch for nothing, which takes longer than all of MXNet.
        hidden = sys.modules.setdefault('torch', None) is None
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2
            from tensorboardX.summary import scalar
        finally:
            if hidden:
                del sys.modules['torch']
        self._event, self._scalar = event_pb2.Event, scalar
        self._writer = EventsWriter(str(folder / 'events'), '.%d' % os.getpid())
        self._flushed = time.monotonic()
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=first_update,
                                             session_log=start))

    def add(self, name: str, value: float, update: int) -> None:
        """One value at one update."""
        self._writer.write_event(self._event(wall_time=time.time(), step=update,
                                             summary=self._scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()
