"""A few kills of a real run; `benchmarks/kill_resume.py` makes fifty."""

import re
import subprocess
import sys

import pytest
from conftest import REPO, needs_checkout

BENCHMARK = REPO / 'benchmarks' / 'kill_resume.py'


@needs_checkout
def test_a_run_that_is_killed_three_times_ends_in_the_same_bytes(tmp_path):
    pytest.importorskip('sklearn')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(BENCHMARK), '--kills', '3', '--kills-per-round', '3',
         '--epochs', '2', '--seed', '2', '--work', str(tmp_path)],
        text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search('3 kills in .*: 0 differences, 0 lost epochs', done.stdout)
    # It can tell: one changed byte is a difference.
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        from kill_resume import _different, _run_in
    finally:
        sys.path.remove(str(BENCHMARK.parent))
    plain, killed = (_run_in(tmp_path / name) for name in ('undisturbed', 'round1'))
    assert _different(plain, killed) == []
    file = killed / 'checkpoints' / '0002' / 'state.params'
    file.write_bytes(file.read_bytes()[:-1] + b'?')
    assert _different(plain, killed) == ['checkpoints/0002/state.params']
