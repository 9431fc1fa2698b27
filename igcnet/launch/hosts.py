"""The machines of a job: host files, addresses, ports, and the way to them."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path
from typing import List

from igcnet.errors import UsageError
from igcnet.files import PathLike

AGENT_MODULE = 'igcnet.launch.agent'


def read_hosts(path: PathLike) -> List[str]:
    """The machines of a host file: one on each line; ``#`` begins a comment.

    Raises
    ------
    UsageError
        The file is missing, empty, or has a line that is no host.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError('%s: cannot read the host file (%s)' % (
            path, getattr(problem, 'strerror', None) or 'not text')) from None
    hosts = []
    for number, line in enumerate(lines, 1):
        words = line.partition('#')[0].split()
        # A leading dash would be an option of ssh.
        if len(words) > 1 or words and words[0].startswith('-'):
            raise UsageError('%s: line %d: %r is not the name of one host'
                             % (path, number, line.strip()))
        hosts += words
    if not hosts:
        raise UsageError('%s: no host in it; write one on each line' % path)
    return hosts


def package_root() -> str:
    """The folder that holds the package, for the search path of other Pythons."""
    return str(Path(__file__).resolve().parents[2])


def ssh_command(host: str, directory: str) -> List[str]:
    """The command that starts an agent on `host`; the shell there sees quoted words only."""
    remote = 'cd %s && PYTHONPATH=%s exec %s -m %s' % (
        shlex.quote(directory), shlex.quote(package_root()), shlex.quote(sys.executable),
        AGENT_MODULE)
    return ['ssh', '-o', 'BatchMode=yes', '-o', 'ServerAliveInterval=10', host, remote]


def own_address(host: str) -> str:
    """The address of this machine at which `host` can reach it.

    Raises
    ------
    UsageError
        The host's name has no address here.
    """
    name = host.rpartition('@')[2]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((name, 9))  # sends nothing
            return probe.getsockname()[0]
    except OSError as problem:
        raise UsageError('%s: no way to this host (%s); say with --address at which address the '
                         'hosts find this machine' % (name, problem.strerror)) from None


def free_port(address: str) -> int:
    """A port that nobody uses at the moment.

    Raises
    ------
    UsageError
        The address is not one of this machine.
    """
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
            return probe.getsockname()[1]
    except OSError as problem:
        raise UsageError('%s: not an address of this machine (%s)'
                         % (address, problem.strerror)) from None
