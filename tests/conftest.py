"""Shared helpers of the tests."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('IGCNET_SHARED', str(REPO.parent / 'shared')))


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
