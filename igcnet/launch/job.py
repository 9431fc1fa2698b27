"""A distributed job: one scheduler, some servers and workers, started, watched and ended together.

Each process runs under an agent (`igcnet.launch.agent`), here or through ssh. When a process
fails, or its machine has been silent too long, the whole job ends and says which one it was:
with MXNet's parameter server all others would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Dict, List, NamedTuple, Optional, TextIO

from igcnet.errors import UsageError
from igcnet.files import PathLike, explain_os_errors
from igcnet.launch.agent import BEAT_SECONDS, Order
from igcnet.launch.hosts import AGENT_MODULE, free_port, own_address, package_root, ssh_command
from igcnet.launch.worker import RANK_VARIABLE

LOOPBACK = '127.0.0.1'
# What the scheduler and the servers run.
SERVE = [sys.executable, '-m', 'igcnet.train.server']
# What a process on another machine is given of the launcher's own environment.
PASSED_ON = ('DMLC_', 'IGCNET_', 'MXNET_', 'OMP_', 'GOMP_', 'KMP_', 'PS_')
# Servers leave by themselves when the last worker has, a moment later.
SERVER_SECONDS = 10.0
# Between the polite signal and the other one.
GRACE_SECONDS = 3.0
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """What to start, and where.

    Parameters
    ----------
    command : list of str
        Program and arguments of every worker.
    workers, servers : int
    hosts : list of str, optional
        Machines to reach with ssh, as ssh takes them; worker and server number i run on host
        ``i % len(hosts)``. None: everything on this machine.
    address : str, optional
        This machine's address, at which the others find the scheduler; default: the one that the
        way to the first host begins at, or the loopback address without hosts.
    port : int
        Port of the scheduler; 0: a free one.
    silence : float
        Seconds without a word from a machine after which it counts as lost.
    stop_seconds : float
        How long workers may take to finish their step and write a checkpoint after an interrupt.
    log_folder : path, optional
        Also write each process's lines to ``<role>-<number>.log`` there.
    """

    command: List[str]
    workers: int
    servers: int = 1
    hosts: Optional[List[str]] = None
    address: Optional[str] = None
    port: int = 0
    silence: float = 30.0
    stop_seconds: float = 60.0
    log_folder: Optional[PathLike] = None


class Role(NamedTuple):
    """Which of the job's processes: 'scheduler', 'server' or 'worker', its number, its host."""

    name: str
    number: int
    host: Optional[str]

    def __str__(self):
        name = self.name if self.name == 'scheduler' else '%s %d' % (self.name, self.number)
        return name if self.host is None else '%s on %s' % (name, self.host)

    @property
    def label(self) -> str:
        """What its lines begin with."""
        return '%s %d' % (self.name, self.number)


class _Process:
    """One agent, and what it has said."""

    def __init__(self, role: Role, order: Order, events: queue.Queue, log: Optional[BinaryIO]):
        self.role, self.log = role, log
        self.code: Optional[int] = None
        self.heard = time.monotonic()
        if role.host is None:
            argv = [sys.executable, '-m', AGENT_MODULE]
        else:
            argv = ssh_command(role.host, order.directory)
        try:
            self.agent = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, 'PYTHONPATH': package_root()}, start_new_session=True)
        except OSError as problem:
            raise UsageError('%s: cannot be started (%s)' % (argv[0], problem.strerror)) from None
        for stream in (self.agent.stdout, self.agent.stderr):
            threading.Thread(target=self._read, args=(stream, events), daemon=True).start()
        self.say(order.to_line())

    @property
    def running(self) -> bool:
        return self.code is None

    def say(self, line: bytes) -> None:
        """Tell the agent something; never waits for one whose connection is stuck."""
        with contextlib.suppress(OSError):
            os.set_blocking(self.agent.stdin.fileno(), len(line) > 4096)
            self.agent.stdin.write(line)
            self.agent.stdin.flush()

    def hang_up(self) -> None:
        """Let the agent end its process and itself."""
        with contextlib.suppress(OSError):
            self.agent.stdin.close()

    def _read(self, stream: BinaryIO, events: queue.Queue) -> None:
        from_agent = stream is self.agent.stdout
        for line in stream:
            # What ssh or Python itself says comes on stderr, without the agent's marks.
            events.put((self, line if from_agent else b'e ' + line))
        if from_agent:
            events.put((self, b'gone'))


class Launcher:
    """Runs a `Job`.

    Parameters
    ----------
    job : Job
    out, err : file, optional
        Where the lines of the processes go, marked with role and number.
    """

    def __init__(self, job: Job, out: Optional[TextIO] = None, err: Optional[TextIO] = None):
        self._job = job
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._events: queue.Queue = queue.Queue()
        self._processes: List[_Process] = []
        self._interrupts: List[int] = []
        self._failure: Optional[int] = None

    def run(self) -> int:
        """Start everything and wait for its end.

        Returns
        -------
        int
            0 if all workers ended well; else the exit code of the process that failed first
            (128 + N for signal N), or 130 after an interrupt.

        Raises
        ------
        UsageError
            Address, ssh or log folder do not work.
        """
        job = self._job
        orders = self._orders()
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            self._catch_signals(stack)
            for role, order in orders.items():
                log = None
                if job.log_folder is not None:
                    path = Path(job.log_folder) / ('%s-%d.log' % (role.name, role.number))
                    with explain_os_errors(path):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        log = stack.enter_context(open(path, 'wb'))
                self._processes.append(_Process(role, order, self._events, log))
            self._watch()
        return self._exit_code()

    def _orders(self) -> Dict[Role, Order]:
        job = self._job
        hosts: List[Optional[str]] = list(job.hosts or [None])
        address = job.address or (own_address(hosts[0]) if hosts[0] else LOOPBACK)
        base = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        if 'PYTHONPATH' in os.environ:
            base['PYTHONPATH'] = os.environ['PYTHONPATH']
        base.update(DMLC_PS_ROOT_URI=address, DMLC_PS_ROOT_PORT=str(job.port or free_port(address)),
                    DMLC_NUM_WORKER=str(job.workers), DMLC_NUM_SERVER=str(job.servers),
                    PYTHONUNBUFFERED='1')
        helper = {**base, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': package_root()}
        directory = os.getcwd()
        orders = {Role('scheduler', 0, None): Order(
            SERVE, {**helper, 'DMLC_ROLE': 'scheduler', 'DMLC_NODE_HOST': address}, directory,
            job.silence)}
        for number in range(job.servers):
            orders[Role('server', number, hosts[number % len(hosts)])] = Order(
                SERVE, {**helper, 'DMLC_ROLE': 'server'}, directory, job.silence)
        places = [hosts[number % len(hosts)] for number in range(job.workers)]
        for number, host in enumerate(places):
            orders[Role('worker', number, host)] = Order(
                job.command, {**base, 'DMLC_ROLE': 'worker', RANK_VARIABLE: str(number)},
                directory, job.silence, sharers=places.count(host))
        return orders

    def _watch(self) -> None:
        """Until all workers have ended, one process has failed, or nobody wants to go on."""
        beaten = asked = time.monotonic()
        passed_on = 0
        workers = [p for p in self._processes if p.role.name == 'worker']
        while any(p.running for p in workers):
            self._take_event()
            now = time.monotonic()
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                for process in self._processes:
                    process.say(b'beat\n')
            if self._interrupts and not passed_on:
                passed_on, asked = self._interrupts[0], now
                self._say('passing %s on; waiting for the workers to stop'
                          % signal.Signals(passed_on).name)
                for process in workers:
                    process.say(b'signal %d\n' % passed_on)
            elif len(self._interrupts) > 1 or (
                    passed_on and now - asked > self._job.stop_seconds):
                return
            for process in self._processes:
                if process.running and now - process.heard > self._job.silence:
                    self._fail(process, 'has been silent for %.0f seconds' % self._job.silence)
                elif process.code and not passed_on:
                    self._fail(process, _ending(process.code))
            if self._failure is not None:
                return

    def _take_event(self, seconds: float = 0.1) -> None:
        try:
            process, line = self._events.get(timeout=seconds)
        except queue.Empty:
            return
        process.heard = time.monotonic()
        kind, text = line[:2], line[2:].rstrip(b'\r\n')
        if kind in (b'o ', b'e '):
            shown = '%s: %s' % (process.role.label, text.decode('utf-8', 'replace'))
            print(shown, file=self._out if kind == b'o ' else self._err, flush=True)
            if process.log is not None:
                process.log.write(text + b'\n')
                process.log.flush()
        elif line.startswith(b'exit '):
            process.code = int(line.split()[1])
        elif line == b'gone' and process.running:
            # ssh failed (255), or the agent was killed.
            process.code = process.agent.wait() or 1

    def _fail(self, process: _Process, how: str) -> None:
        if self._failure is None:
            self._failure = process.code or 1
            self._say('%s %s; ending the job' % (process.role, how))

    def _say(self, text: str) -> None:
        print('launch: %s' % text, file=self._err, flush=True)

    def _end(self) -> None:
        """End what still runs: politely, then not."""
        workers_well = all(p.code == 0 for p in self._processes if p.role.name == 'worker')
        self._wait(SERVER_SECONDS if workers_well and self._processes else 0)
        for process in self._processes:
            process.say(b'signal %d\n' % signal.SIGTERM)
        self._wait(GRACE_SECONDS)
        for process in self._processes:
            process.hang_up()
            with contextlib.suppress(OSError):  # one that was stopped has to be awake to hear it
                os.killpg(process.agent.pid, signal.SIGCONT)
        self._wait(GRACE_SECONDS)
        for process in self._processes:
            # An agent that hangs up itself leaves at once; this is for ssh with a dead line.
            with contextlib.suppress(OSError):
                os.killpg(process.agent.pid, signal.SIGKILL)
            process.agent.wait()

    def _wait(self, seconds: float) -> None:
        """Wait for all agents to leave, showing the last lines of their processes."""
        end = time.monotonic() + seconds
        while any(p.agent.poll() is None for p in self._processes) and time.monotonic() < end:
            self._take_event()

    def _catch_signals(self, stack: contextlib.ExitStack) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            old = signal.signal(number, lambda number, frame: self._interrupts.append(number))
            stack.callback(signal.signal, number, old)

    def _exit_code(self) -> int:
        if self._failure is not None:
            return self._failure if self._failure > 0 else 128 - self._failure
        return EXIT_INTERRUPTED if self._interrupts else 0


def _ending(code: int) -> str:
    if code < 0:
        return 'was ended by signal %d (%s)' % (-code, signal.Signals(-code).name)
    return 'failed with exit code %d' % code
