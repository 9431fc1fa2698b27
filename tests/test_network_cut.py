"""A job on two machines, one of which is cut off: two network namespaces of this one.

Needs root and the program `ip` (Debian: iproute2). ``ssh`` is a small stand-in that, as ssh does,
reaches the other machine over its network, so that it is cut as well.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import IGCNET
from test_distributed import data, processes_of, run_of, straight, train  # noqa: F401

ADDRESSES = ('10.213.77.1', '10.213.77.2')
pytestmark = pytest.mark.slow

# Runs what it is sent over a connection, with the connection as stdin and stdout.
DAEMON = '''
import socket, subprocess, sys
listener = socket.create_server((sys.argv[1], 2222))
print('ready', flush=True)
while True:
    connection, _ = listener.accept()
    command = b''
    while not command.endswith(b'\\0'):
        command += connection.recv(1)
    subprocess.Popen(['sh', '-c', command[:-1].decode()], stdin=connection, stdout=connection,
                     stderr=subprocess.DEVNULL, start_new_session=True)
    connection.close()
'''
SSH = '''#!%s
import os, socket, sys, threading
*options, host, command = sys.argv[1:]
connection = socket.create_connection((host, 2222))
connection.sendall(command.encode() + b'\\0')
def send():
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
for data in iter(lambda: connection.recv(65536), b''):
    os.write(1, data)
'''


def ip(*words):
    subprocess.run(['ip', *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines(tmp_path):
    """Names of two namespaces that are joined by a cable, each with a daemon for ``ssh``."""
    if shutil.which('ip') is None or os.geteuid() != 0:
        pytest.skip('needs root and the program ip (iproute2)')
    names = ['igcnet-%d-%d' % (os.getpid(), number) for number in range(2)]
    links = ['igc%d-%d' % (os.getpid() % 10000, number) for number in range(2)]
    daemons = []
    try:
        try:
            for name in names:
                ip('netns', 'add', name)
            ip('link', 'add', links[0], 'type', 'veth', 'peer', 'name', links[1])
            for name, link, address in zip(names, links, ADDRESSES):
                ip('link', 'set', link, 'netns', name)
                ip('-n', name, 'link', 'set', link, 'name', 'cable')
                ip('-n', name, 'address', 'add', address + '/24', 'dev', 'cable')
                for device in ('cable', 'lo'):
                    ip('-n', name, 'link', 'set', device, 'up')
        except subprocess.CalledProcessError as problem:
            pytest.skip('namespaces are not allowed here: %s' % problem.stderr.strip())
        for name, address in zip(names, ADDRESSES):
            daemons.append(subprocess.Popen(
                ['ip', 'netns', 'exec', name, sys.executable, '-c', DAEMON, address],
                stdout=subprocess.PIPE, text=True, start_new_session=True))
            assert daemons[-1].stdout.readline() == 'ready\n'
        yield names
    finally:
        for daemon in daemons:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
        for name in names:
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)


def job(machines, tmp_path, command):
    """Start one worker on each machine, the launcher and a server on the first."""
    ssh = tmp_path / 'bin' / 'ssh'
    ssh.parent.mkdir(exist_ok=True)
    ssh.write_text(SSH % sys.executable)
    ssh.chmod(0o755)
    hosts = tmp_path / 'hosts'
    hosts.write_text('%s\n%s\n' % ADDRESSES)
    environment = {**os.environ, 'PATH': '%s:%s' % (ssh.parent, os.environ['PATH']),
                   'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    return subprocess.Popen(
        ['ip', 'netns', 'exec', machines[0], *IGCNET, 'launch', '-n', '2',
         '-H', str(hosts), '--silence', '8', sys.executable, *command],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_machine_that_is_cut_off(machines, data, straight, tmp_path):  # noqa: F811
    process = job(machines, tmp_path, train(data, tmp_path, '--checkpoint-epochs', '1'))
    said = []
    for line in process.stdout:
        said.append(line)
        if 'Epoch[1] Batch [2]' in line:
            break
    assert process.poll() is None, ''.join(said)
    assert len(processes_of(str(tmp_path))) == 2
    ip('-n', machines[1], 'link', 'set', 'cable', 'down')
    begun = time.monotonic()
    out, _ = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60 and process.returncode == 1
    assert re.search(r'launch: worker 1 on %s has been silent for 8 seconds' % ADDRESSES[1], out)
    while processes_of(str(tmp_path)) and time.monotonic() - begun < 60:
        time.sleep(0.2)
    assert processes_of(str(tmp_path)) == []  # on the machine that was cut off, too

    ip('-n', machines[1], 'link', 'set', 'cable', 'up')
    run = run_of(tmp_path)
    resumed = job(machines, tmp_path, ['-m', 'igcnet', 'train', '--resume', str(run)])
    out, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out
    for name in ('net.params', 'state.params', 'metrics.jsonl'):
        mine, theirs = ((each / 'checkpoints' / '0003' / name).read_bytes()
                        for each in (run, straight[0]))
        assert mine == theirs, name
