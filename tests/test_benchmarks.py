"""The benchmarks still start: their rivals and timings are not for tests, their imports are."""

import subprocess
import sys

import pytest
from conftest import REPO, needs_checkout

BENCHMARKS = sorted((REPO / 'benchmarks').glob('*.py'))


@needs_checkout
def test_there_are_benchmarks():
    assert {'pack.py', 'reader.py'} <= {path.name for path in BENCHMARKS}


@pytest.mark.parametrize('path', BENCHMARKS, ids=lambda path: path.name)
def test_it_starts(path, tmp_path):
    done = subprocess.run([sys.executable, '-W', 'ignore', str(path), '--help'], text=True,
                          cwd=str(tmp_path), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '--' in done.stdout
