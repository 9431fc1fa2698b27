"""The folder of a run: its lock, and which checkpoints count."""

import os
import subprocess
import sys

import pytest
from small_networks import refused

from igcnet.errors import TrainingError
from igcnet.train import run_folder
from igcnet.train.checkpoint import STATE, checkpoints
from igcnet.train.recipes import load_recipe
from igcnet.train.run_folder import (
    abandon_after,
    clear_temporary,
    find_checkpoint,
    locked,
    new_run_folder,
    prune,
)
from igcnet.train.settings import RunSettings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with four checkpoints; those whose state is empty count as whole."""
    for name in ('0000', '0001', '0001-000005', '0002'):
        (tmp_path / 'checkpoints' / name).mkdir(parents=True)
        (tmp_path / 'checkpoints' / name / STATE).write_text('')

    def verify(path):
        if (path / STATE).read_text():
            refused_line = '%s: damaged' % path
            raise run_folder.CheckpointError(refused_line)
    monkeypatch.setattr(run_folder, 'verify', verify)
    return tmp_path


def names(folder):
    return [path.name for path in checkpoints(folder / 'checkpoints')]


def spoil(folder, *spoilt):
    for name in spoilt:
        (folder / 'checkpoints' / name / STATE).write_text('x')


def test_the_newest_whole_checkpoint_is_found(folder):
    warnings = []
    assert find_checkpoint(folder, warn=warnings.append).name == '0002' and not warnings
    spoil(folder, '0002', '0001-000005')
    assert find_checkpoint(folder, warn=warnings.append).name == '0001'
    assert [text[:9] for text in warnings] == ['warning: '] * 2 and '0002: dam' in warnings[0]
    assert find_checkpoint(folder, 0).name == '0000'
    refused(lambda: find_checkpoint(folder, 2), '0002: damaged')
    refused(lambda: find_checkpoint(folder, 7), 'no checkpoint of epoch 7')
    spoil(folder, '0001', '0000')
    message = refused(lambda: find_checkpoint(folder, warn=warnings.append),
                      '0002: damaged', 'checkpoints before it: 3')
    assert '0001' not in message and len(warnings) == 2


@pytest.mark.parametrize('keep, protected, left', [
    (0, set(), ['0000', '0001', '0001-000005', '0002']), (1, set(), ['0002']),
    (1, {'0001', '0009'}, ['0001', '0002']), (3, {'0002'}, ['0001', '0001-000005', '0002']),
    (9, set(), ['0000', '0001', '0001-000005', '0002'])])
def test_pruning(folder, keep, protected, left):
    prune(folder / 'checkpoints', keep, protected)
    assert names(folder) == left == sorted(os.listdir(folder / 'checkpoints'))


def test_newer_checkpoints_than_the_one_gone_back_to_are_set_aside(folder):
    assert abandon_after(folder / 'checkpoints' / '0002') == 0
    assert abandon_after(folder / 'checkpoints' / '0001') == 2
    assert names(folder) == ['0000', '0001']
    aside = folder / 'checkpoints' / 'abandoned'
    assert sorted(os.listdir(aside)) == ['0001-000005', '0002']
    # Another one of the same name takes its place.
    (folder / 'checkpoints' / '0002').mkdir()
    (folder / 'checkpoints' / '0002' / STATE).write_text('new')
    abandon_after(folder / 'checkpoints' / '0001')
    assert (aside / '0002' / STATE).read_text() == 'new'


def test_only_what_a_killed_run_left_is_cleared(folder):
    mine = ['.config.yaml.abcd_123', '.curves.png.abcdefgh', '.net-0000.params.abcdefgh',
            'checkpoints/.0003.4711/net.params', 'checkpoints/.0002-000007.removed/net.params']
    others = ['.lock', '.notes.txt', '.git/config', 'checkpoints/.keep', 'notes.12345678']
    for name in mine + others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('x')
    clear_temporary(folder)
    left = {os.path.relpath(os.path.join(place, name), folder)
            for place, _, files in os.walk(folder) for name in files if name != STATE}
    assert left == set(others)
    assert sorted(os.listdir(folder / 'checkpoints')) == ['.keep', '0000', '0001', '0001-000005',
                                                          '0002']


def test_one_process_at_a_time(folder):
    script = ('import sys\nfrom pathlib import Path\n'
              'from igcnet.train.run_folder import locked\n'
              'with locked(Path(sys.argv[1])):\n    print("held", flush=True)\n    input()\n')
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', script, str(folder)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'held\n'
        expected = 'process %d is training this run' % process.pid
        with pytest.raises(TrainingError, match=expected), locked(folder):
            pass
    finally:
        process.kill()
        process.wait()
    with locked(folder):  # the end of the process, by whatever means, is the end of its lock
        pass


def test_new_runs_never_share_a_folder(tmp_path):
    settings = RunSettings('resnet_igc', load_recipe('igc-cifar'), log_dir=str(tmp_path))
    with new_run_folder(settings) as first, new_run_folder(settings) as second:
        assert first != second and first.name.endswith('exp1') and second.name.endswith('exp2')
