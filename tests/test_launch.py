"""``igcnet launch``: processes of a job are started, shown, watched and ended together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igcnet.cli import launch as cli
from igcnet.errors import UsageError
from igcnet.launch import job as job_module
from igcnet.launch.agent import Order, node_address
from igcnet.launch.hosts import free_port, own_address, read_hosts, ssh_command
from igcnet.launch.job import Job, Launcher
from igcnet.launch.worker import as_worker

# Writes its number and process number into a folder, then does what it is told.
WORKER = '''
import json, os, signal, subprocess, sys, time
folder, what = sys.argv[1:3]
rank = int(os.environ['IGCNET_RANK'])
child = subprocess.Popen(['sleep', '60'])
def stop(number, frame):
    print('told to stop', flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
about = {k: v for k, v in os.environ.items() if k.startswith(('DMLC_', 'OMP_NUM', 'MXNET_'))}
with open('%s/%d.tmp' % (folder, rank), 'w') as file:
    json.dump({'pids': [os.getpid(), child.pid], 'environment': about, 'cwd': os.getcwd()}, file)
os.rename('%s/%d.tmp' % (folder, rank), '%s/%d.json' % (folder, rank))
print('hello from', rank)
print('a warning', file=sys.stderr, flush=True)
if what == 'end':
    sys.exit(0)
while rank == 1 and not os.path.exists(folder + '/0.json'):
    time.sleep(0.01)
if rank == 1 and what.startswith('exit'):
    sys.exit(int(what[4:]))
if rank == 1 and what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
'''
# In place of the servers, which import MXNet: these wait to be ended.
IDLE = [sys.executable, '-c', 'import time; time.sleep(60)']


@pytest.fixture(autouse=True)
def no_servers(monkeypatch):
    monkeypatch.setattr(job_module, 'SERVE', IDLE)
    monkeypatch.setattr(job_module, 'SERVER_SECONDS', 0)


@pytest.fixture
def script(tmp_path):
    (tmp_path / 'out').mkdir()
    path = tmp_path / 'worker.py'
    path.write_text(WORKER)
    return lambda what: [sys.executable, str(path), str(tmp_path / 'out'), what]


def reports(tmp_path, count=2, seconds=30):
    """What the workers have written about themselves."""
    paths = [tmp_path / 'out' / ('%d.json' % rank) for rank in range(count)]
    end = time.monotonic() + seconds
    while not all(path.is_file() for path in paths):
        assert time.monotonic() < end, 'the workers have not started'
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in paths]


def alive(pids):
    found = []
    for pid in pids:
        try:
            state = Path('/proc/%d/stat' % pid).read_text().rpartition(')')[2].split()[0]
        except OSError:
            continue
        if state != 'Z':
            found.append(pid)
    return found


def assert_gone(pids, seconds=10):
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(pids) == []


def test_workers_are_shown_by_rank_and_know_their_place(tmp_path, script, capsys, monkeypatch):
    monkeypatch.setenv('MXNET_SOMETHING', '1')
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert Launcher(Job(script('end'), 2, 2, log_folder=tmp_path / 'logs')).run() == 0
    shown = capsys.readouterr()
    assert sorted(shown.out.splitlines()) == ['worker 0: hello from 0', 'worker 1: hello from 1']
    assert sorted(shown.err.splitlines()) == ['worker 0: a warning', 'worker 1: a warning']
    assert sorted((tmp_path / 'logs' / 'worker-1.log').read_text().splitlines()) == [
        'a warning', 'hello from 1']
    first, second = reports(tmp_path)
    assert first['environment'] == second['environment']
    values = first['environment']
    assert values['DMLC_ROLE'] == 'worker' and values['MXNET_SOMETHING'] == '1'
    assert (values['DMLC_NUM_WORKER'], values['DMLC_NUM_SERVER']) == ('2', '2')
    assert values['DMLC_PS_ROOT_URI'] == values['DMLC_NODE_HOST'] == '127.0.0.1'
    assert int(values['OMP_NUM_THREADS']) >= 1 and int(values['DMLC_PS_ROOT_PORT']) > 0
    assert_gone(first['pids'] + second['pids'])  # the sleeping child as well


@pytest.mark.parametrize('what, code, line', [
    ('die', 137, 'launch: worker 1 was ended by signal 9 (SIGKILL); ending the job'),
    ('exit3', 3, 'launch: worker 1 failed with exit code 3; ending the job')])
def test_all_end_when_one_fails(tmp_path, script, capsys, what, code, line):
    started = time.monotonic()
    assert Launcher(Job(script(what), 2)).run() == code
    assert line in capsys.readouterr().err.splitlines()
    assert time.monotonic() - started < 30
    assert_gone([pid for report in reports(tmp_path) for pid in report['pids']])


def test_a_program_that_is_not_there(capsys):
    assert Launcher(Job(['/no/such/program'], 1)).run() == 127
    assert 'worker 0: error: /no/such/program: cannot be started' in capsys.readouterr().err


def test_a_machine_that_falls_silent_is_named(tmp_path, script, capsys):
    launcher = Launcher(Job(script('wait'), 2, silence=3))
    take, frozen = launcher._take_event, []

    def freeze(*seconds):
        if not frozen and (tmp_path / 'out' / '1.json').is_file():
            frozen.append(True)
            agent = next(p for p in launcher._processes if p.role.label == 'worker 1').agent
            os.kill(agent.pid, signal.SIGSTOP)
        take(*seconds)
    launcher._take_event = freeze
    assert launcher.run() == 1
    assert 'launch: worker 1 has been silent for 3 seconds; ending the job' in \
        capsys.readouterr().err
    assert_gone([pid for report in reports(tmp_path) for pid in report['pids']])


def launch(command, *options):
    """The launcher in a process of its own, for signals."""
    source = ('import sys\nfrom igcnet.launch import job\njob.SERVE = %r\njob.SERVER_SECONDS = 0\n'
              'from igcnet.cli.launch import main\nsys.exit(main(sys.argv[1:]))' % IDLE)
    return subprocess.Popen([sys.executable, '-c', source, '-n', '2', *options, *command],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_interrupt_reaches_the_workers(tmp_path, script):
    process = launch(script('wait'))
    pids = [pid for report in reports(tmp_path) for pid in report['pids']]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.count('told to stop') == 2
    assert 'passing SIGINT on' in err and 'ending the job' not in err
    assert_gone(pids)


@pytest.mark.parametrize('victim', ['launcher', 'agent'])
def test_nothing_is_left_when_a_part_is_killed(tmp_path, script, victim):
    process = launch(script('wait'))
    pids = [pid for report in reports(tmp_path) for pid in report['pids']]
    if victim == 'launcher':
        process.kill()
    else:
        worker = reports(tmp_path)[0]['pids'][0]
        os.kill(int(Path('/proc/%d/stat' % worker).read_text().rpartition(')')[2].split()[1]),
                signal.SIGKILL)
    _, err = process.communicate(timeout=40)
    if victim == 'agent':
        assert process.returncode > 0 and 'launch: worker 0 ' in err
        # Of the killed agent's, only the worker itself is looked after by the system.
        pids = [pid for pid in pids if pid != reports(tmp_path)[0]['pids'][1]]
        os.kill(reports(tmp_path)[0]['pids'][1], signal.SIGKILL)
    assert_gone(pids)


FAKE_SSH = '''#!%s
import os, sys
*options, host, command = sys.argv[1:]
assert options == ['-o', 'BatchMode=yes', '-o', 'ServerAliveInterval=10'], options
with open(os.environ['FAKE_SSH_LOG'], 'a') as file:
    file.write(host + '\\n')
if host == 'closed':
    sys.exit('ssh: connect to host closed port 22: Connection refused')
os.execv('/bin/sh', ['sh', '-c', command])
'''


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch):
    """A program ``ssh`` that runs the command here; returns the file with the hosts it was
    asked for."""
    path = tmp_path / 'bin' / 'ssh'
    path.parent.mkdir()
    path.write_text(FAKE_SSH % sys.executable)
    path.chmod(0o755)
    monkeypatch.setenv('PATH', '%s:%s' % (path.parent, os.environ['PATH']))
    monkeypatch.setenv('FAKE_SSH_LOG', str(tmp_path / 'hosts.log'))
    return tmp_path / 'hosts.log'


def test_ssh_goes_round_the_hosts_and_quotes(tmp_path, script, fake_ssh, monkeypatch, capsys):
    folder = tmp_path / "a $HOME folder's name"
    folder.mkdir()
    monkeypatch.chdir(folder)
    hosts = tmp_path / 'hosts'
    hosts.write_text('# the cluster\nuser@127.0.0.1\n127.0.0.2  # the second\n')
    options = ['-n', '3', '-s', '2', '-H', str(hosts), '--address', '127.0.0.1']
    assert cli.main([*options, *script('end')]) == 0
    assert sorted(fake_ssh.read_text().split()) == sorted(
        3 * ['user@127.0.0.1'] + 2 * ['127.0.0.2'])
    found = reports(tmp_path, 3)
    assert [report['cwd'] for report in found] == 3 * [str(folder)]
    assert 'worker 2: hello from 2' in capsys.readouterr().out


def test_ssh_that_fails_is_named(tmp_path, script, fake_ssh, capsys):
    assert Launcher(Job(script('wait'), 2, hosts=['127.0.0.1', 'closed'],
                        address='127.0.0.1')).run() == 1
    err = capsys.readouterr().err
    assert 'worker 1: ssh: connect to host closed port 22: Connection refused' in err
    assert 'launch: worker 1 on closed failed with exit code 1; ending the job' in err


def test_the_remote_command_is_one_line_of_quoted_words():
    *_, host, command = ssh_command('user@host', "/data/it's here; rm -rf x")
    assert host == 'user@host'
    assert command.startswith("cd '/data/it'\"'\"'s here; rm -rf x' && PYTHONPATH=")


@pytest.mark.parametrize('content, message', [
    ('', 'no host in it'), ('# only a comment\n', 'no host in it'),
    ('one two\n', 'line 1'), ('ok\n-oProxyCommand=x\n', 'line 2')])
def test_host_files_that_cannot_be_right(tmp_path, content, message):
    path = tmp_path / 'hosts'
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_hosts(path)
    with pytest.raises(UsageError, match='cannot read'):
        read_hosts(tmp_path / 'none')


@pytest.mark.parametrize('arguments, message', [
    (['-n', '2'], 'COMMAND is missing'),
    (['-n', '0', 'true'], 'at least 1'),
    (['-n', '2', '--launcher', 'ssh', 'true'], 'goes with --hostfile'),
    (['-n', '2', '--launcher', 'local', '-H', 'hosts', 'true'], 'goes without --hostfile'),
    (['-n', '2', '--port', '70000', 'true'], 'from 0 to 65535'),
    (['-n', '2', '--silence', 'nan', 'true'], 'at least 3 seconds'),
    (['-n', '2', '--address', '192.0.2.1', 'true'], 'not an address of this machine')])
def test_wrong_usage_is_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def test_addresses():
    assert node_address('127.0.0.1') == own_address('me@127.0.0.1') == '127.0.0.1'
    assert 1024 <= free_port('127.0.0.1') < 65536
    with pytest.raises(UsageError, match='no way to this host'):
        own_address('host.invalid')


def test_an_order_goes_through_its_line():
    order = Order(['a b', 'ü'], {'X': 'y\nz'}, '/tmp', 3.5, 2)
    line = order.to_line()
    assert line.count(b'\n') == 1 and Order(**json.loads(line)) == order


def test_only_the_worker_of_a_job_leaves_at_once(monkeypatch):
    left = []
    monkeypatch.setattr(os, '_exit', left.append)
    monkeypatch.delenv('DMLC_ROLE', raising=False)
    assert as_worker(lambda: 2) == 2 and left == []
    with pytest.raises(ZeroDivisionError):
        as_worker(lambda: 1 // 0)
    monkeypatch.setenv('DMLC_ROLE', 'worker')
    assert as_worker(lambda: 0) == 0 and left == []
    as_worker(lambda: 2)
    as_worker(lambda: 1 // 0)
    assert left == [2, 1]
