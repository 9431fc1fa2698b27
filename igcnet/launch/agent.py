"""Runs one process of a job beside it, on its machine, for the launcher.

The launcher starts ``python -m igcnet.launch.agent``, through ssh or directly, and talks with it
over stdin and stdout only, so that a remote process needs no port and no password of its own.
The first line the agent reads is the `Order`, a JSON object. Afterwards the lines are

- to the agent: ``signal N``, to be passed on, and ``beat``;
- from the agent: ``o TEXT`` and ``e TEXT``, a line of the process's stdout and stderr;
  ``beat``; and last ``exit CODE``, negative for a signal.

Both sides beat every second. When the launcher falls silent (its end of the pipe closes, or
nothing comes for the time of the order: the network is cut) the agent kills the process with all
its children and leaves, so that no machine is left with an orphan.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import BinaryIO, Dict, List

from igcnet._backend import physical_cores

BEAT_SECONDS = 1.0
GOODBYE_SECONDS = 5.0
EXIT_NOT_STARTED = 127
_POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass
class Order:
    """What the agent is to run.

    Parameters
    ----------
    argv : list of str
        Program and arguments.
    environment : dict
        Variables to set besides those that the agent was started with.
    directory : str
        Where to run.
    silence : float
        Seconds without a word from the launcher after which everything is ended.
    sharers : int
        Processes that compute on this machine, this one included: the cores are divided among
        them, unless ``OMP_NUM_THREADS`` is set.
    """

    argv: List[str]
    environment: Dict[str, str]
    directory: str
    silence: float
    sharers: int = 1

    def to_line(self) -> bytes:
        """The order as a line of JSON, for `Order.from_line`."""
        return json.dumps(asdict(self)).encode() + b'\n'


def node_address(root: str) -> str:
    """The address of this machine on the way to `root`: the one that the other nodes can reach.

    ps-lite would take that of the first network interface.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((root, 9))  # sends nothing
        return probe.getsockname()[0]


def complete_environment(order: Order) -> Dict[str, str]:
    """The variables of the process: the agent's, the order's, and what only its machine knows."""
    environment = {**os.environ, **order.environment}
    if 'DMLC_PS_ROOT_URI' in environment:
        environment.setdefault('DMLC_NODE_HOST', node_address(environment['DMLC_PS_ROOT_URI']))
    environment.setdefault('OMP_NUM_THREADS', str(max(1, physical_cores() // order.sharers)))
    return environment


class Reports:
    """Sends lines to the launcher from a thread, so that a stuck pipe stops nobody else."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._lines: queue.Queue = queue.Queue(maxsize=1000)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Send a line; waits while the launcher is slow to read."""
        self._lines.put(line)

    def beat(self) -> None:
        """Say that the agent is alive; needless while other lines are waiting."""
        if self._lines.empty():
            self._lines.put(b'beat')

    def finish(self, line: bytes, seconds: float) -> None:
        """Send the last line; gives up after some time."""
        try:
            self._lines.put(line, timeout=seconds)
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _send(self) -> None:
        for line in iter(self._lines.get, None):
            try:
                self._stream.write(line + b'\n')
                self._stream.flush()
            except OSError:  # the launcher is gone; the end of its other pipe says so as well
                pass


class Agent:
    """The process of an order, and the conversation about it.

    Parameters
    ----------
    order : Order
    commands : int
        File descriptor on which the launcher speaks.
    reports : Reports
    """

    def __init__(self, order: Order, commands: int, reports: Reports):
        self._order, self._commands, self._reports = order, commands, reports

    def run(self) -> None:
        """Until the process ends or the launcher is gone."""
        order, reports = self._order, self._reports
        try:
            self._process = subprocess.Popen(
                order.argv, env=complete_environment(order), cwd=order.directory,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, preexec_fn=_die_with_parent)
        except OSError as problem:
            reports.add(('e error: %s: cannot be started (%s)' % (
                problem.filename or order.argv[0], problem.strerror)).encode())
            reports.finish(b'exit %d' % EXIT_NOT_STARTED, GOODBYE_SECONDS)
            return
        copies = [threading.Thread(target=self._copy, args=pair, daemon=True) for pair in (
            (b'o ', self._process.stdout), (b'e ', self._process.stderr))]
        for thread in copies:
            thread.start()
        self._converse()
        # Also what the process may have left running in its session.
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for thread in copies:
            thread.join(GOODBYE_SECONDS)
        reports.finish(b'exit %d' % code, GOODBYE_SECONDS)

    def _converse(self) -> None:
        """Pass signals on until the process ends or the launcher is silent."""
        heard = beaten = time.monotonic()
        unread = b''
        while not self._has_ended():
            ready, _, _ = select.select([self._commands], [], [], _POLL_SECONDS)
            now = time.monotonic()
            if ready:
                data = os.read(self._commands, 4096)
                if not data:
                    return
                heard = now
                *lines, unread = (unread + data).split(b'\n')
                for line in lines:
                    if line.startswith(b'signal '):
                        os.kill(self._process.pid, int(line.split()[1]))
            if now - heard > self._order.silence:
                return
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                self._reports.beat()

    def _has_ended(self) -> bool:
        """Whether the process has; it stays a zombie, so that its number is not another's yet."""
        return os.waitid(os.P_PID, self._process.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _copy(self, kind: bytes, stream: BinaryIO) -> None:
        for line in stream:
            self._reports.add(kind + line.rstrip(b'\n'))


def _die_with_parent() -> None:
    """In the child: be killed when the agent is (Linux only; elsewhere the agent does it)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read_line(descriptor: int) -> bytes:
    """One line, and not a byte more: what follows is left for `select` to see."""
    line = b''
    while not line.endswith(b'\n'):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line


def main() -> int:
    """Read the order and carry it out."""
    # The launcher decides about signals; a terminal's must not end the agent before the process.
    # Not SIG_IGN, which the process would inherit.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    line = _read_line(sys.stdin.fileno())
    if not line.endswith(b'\n'):
        return 1
    Agent(Order(**json.loads(line)), sys.stdin.fileno(), Reports(sys.stdout.buffer)).run()
    return 0


if __name__ == '__main__':
    os._exit(main())  # a thread that is stuck in a dead pipe must not keep the agent
