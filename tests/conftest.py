"""Shared helpers of the tests."""

import os
import signal
import sys
from pathlib import Path

import pytest

import igcnet

REPO = Path(__file__).resolve().parent.parent
PACKAGE = Path(igcnet.__file__).resolve().parent
# A command in a process of its own.
IGCNET = [sys.executable, '-W', 'ignore', '-m', 'igcnet']
# `make check-dist` runs a copy of this folder against the installed package.
needs_checkout = pytest.mark.skipif(
    not (REPO / 'setup.py').is_file(),
    reason='reads the pages or starts the scripts of the repository, which is not installed')
SHARED = Path(os.environ.get('IGCNET_SHARED', str(REPO.parent / 'shared')))


def pytest_configure(config):
    # Processes that the tests start import the package that the tests import.
    os.environ['PYTHONPATH'] = os.pathsep.join(
        [str(PACKAGE.parent), *filter(None, [os.environ.get('PYTHONPATH')])])
    # A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def without_curves(monkeypatch):
    """Runs draw no curves, which takes longer than all the rest of a small run."""
    monkeypatch.setattr('igcnet.train.run.plot_curves', lambda *arguments: None)


@pytest.fixture
def shared_fixtures():
    """Function that gives the folder of one system's original checkpoints, or skips the test."""
    def folder(system: str) -> Path:
        path = SHARED / 'fixtures' / system
        if not path.is_dir():
            pytest.skip('the original checkpoints of %s are not on this machine (looked in %s; '
                        'IGCNET_SHARED names another place)' % (system, path))
        return path
    return folder
