"""Shared helpers of the tests."""

import os
import signal
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('IGCNET_SHARED', str(REPO.parent / 'shared')))


def pytest_configure(config):
    # A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
