"""How worker processes are started: by fork only where nothing can be inherited in halves."""

import subprocess
import sys

import pytest

from igcnet.data import processes

NEW = sys.platform.startswith('linux') and sys.version_info >= (3, 11)


@pytest.mark.parametrize('before, expected', [
    ('p.allow_fork()', 'fork' if NEW else 'forkserver'), ('', 'forkserver'),
    ('import cv2; p.allow_fork()', 'forkserver'),
    ('p.allow_fork(); import threading as t; t.Thread(target=input, daemon=True).start()',
     'forkserver'),
])
def test_start_method(before, expected):
    code = ('import igcnet.data.processes as p\n%s\n'
            'print(p.process_context().get_start_method())' % before)
    process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline().decode().strip() == expected
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)


def test_environment_and_mask_are_as_before(monkeypatch):
    import os
    import signal
    monkeypatch.setenv('PYTHONPATH', 'somewhere')
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    processes.process_context()
    assert os.environ['PYTHONPATH'] == 'somewhere'
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
