"""``train.py --resume`` and what goes with it, on real runs; every mistake one line."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from synthetic import write_train_and_test

from igcnet.cli import train as cli
from igcnet.train.checkpoint import read_state
from igcnet.train.run_folder import locked
from igcnet.train.runlog import plot_curves, read_metrics

pytestmark = pytest.mark.usefixtures('without_curves')


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """What a command sets for its process, it sets for ours."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    for name in ('MXNET_ENFORCE_DETERMINISM', 'MXNET_CUDNN_AUTOTUNE_DEFAULT'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp('data'), 32, 8)


def arguments(data, log_dir, *more):
    return ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
            '--secondary-partition', '2', '--dataset', 'records', '--data-dir', str(data),
            '--log-dir', str(log_dir), '--num-epochs', '2', '--batch-size', '8', '--lr', '0.05',
            '--rand-seed', '3', '--log-iters', '2', '--classes', '3', *more]


def run_of(log_dir):
    return Path(log_dir) / 'records' / 'resnet_igc' / 'resnet_igc_d8L2M2_exp1'


def content(run, *names):
    return {name: (run / name).read_bytes() for name in names or (
        'checkpoints/0002/net.params', 'checkpoints/0002/state.params',
        'checkpoints/0002/state.json', 'metrics.jsonl', 'resnet_igc_d8L2M2-0000.params',
        'resnet_igc_d8L2M2-manifest.json')}


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp('finished')
    assert cli.main(arguments(data, log_dir)) == 0
    return run_of(log_dir)


def tree(run):
    return {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes())
            for path in run.rglob('*') if path.name not in ('.lock', run.name)}


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    before = tree(finished)
    assert cli.main(['--resume', str(finished)]) == 0
    assert 'has finished; there is nothing left to do' in capsys.readouterr().out
    assert tree(finished) == before


def test_an_export_that_is_missing_is_made_again(data, tmp_path, finished):
    assert cli.main(arguments(data, tmp_path)) == 0
    run = run_of(tmp_path)
    expected = content(run)
    (run / 'resnet_igc_d8L2M2-manifest.json').unlink()
    assert cli.main(['--resume', str(run)]) == 0
    assert content(run) == expected == content(finished)
    # Going back that fails takes nothing away.
    assert cli.main(['--resume', str(run), '--load-epoch', '1', '--data-dir', '/nonexistent']) == 1
    assert content(run) == expected
    # As well when the files there belong to another state of the run.
    assert cli.main(['--resume', str(run), '--load-epoch', '1', '--lr', '0.01']) == 0
    assert content(run)['resnet_igc_d8L2M2-0000.params'] != \
        expected['resnet_igc_d8L2M2-0000.params']


def test_the_newest_run_is_found_without_its_folder(data, tmp_path, capsys):
    # The data set's own augmentation, none, is part of the folder's name.
    options = arguments(data, tmp_path, '--dataset', 'digits', '--num-epochs', '1')
    assert cli.main(options) == 0
    run, = (tmp_path / 'digits_noaug' / 'resnet_igc').iterdir()
    assert cli.main([*options, '--resume', '--num-epochs', '2']) == 0
    assert (run / 'checkpoints' / '0002').is_dir()
    assert 'resuming %s' % (run / 'checkpoints' / '0001') in capsys.readouterr().out


def test_a_run_that_is_being_trained_cannot_be_resumed(finished, capsys):
    with locked(finished):
        assert cli.main(['--resume', str(finished)]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'process %d is training this run' % os.getpid() in error


def test_other_conditions_are_a_warning_or_refused(data, tmp_path, capsys, monkeypatch):
    assert cli.main(arguments(data, tmp_path, '--num-epochs', '1')) == 0
    assert 'MXNET_ENFORCE_DETERMINISM' not in os.environ
    run = run_of(tmp_path)
    assert yaml.safe_load((run / 'config.yaml').read_text())['run']['threads'] == 1
    recorded = read_state(run / 'checkpoints' / '0001').environment
    assert recorded['threads'] == '1' and recorded['devices'] == 'cpu(0)'
    options = ['--resume', str(run), '--num-epochs', '2', '--threads', '2']
    capsys.readouterr()
    assert cli.main([*options, '--deterministic']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'threads 2 instead of 1' in error
    assert os.environ['MXNET_ENFORCE_DETERMINISM'] == '1'
    assert os.environ['MXNET_CUDNN_AUTOTUNE_DEFAULT'] == '0'
    assert cli.main(options) == 0
    assert re.search('warning: the last bits will differ.* threads 2 instead of 1\n',
                     capsys.readouterr().out)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    # Those of the run are the default, whatever the environment says.
    assert cli.main([options[0], options[1], '--num-epochs', '3', '--deterministic']) == 0
    assert 'warning' not in capsys.readouterr().out


def test_synchronised_batch_normalisation(data, tmp_path, capsys):
    options = ('--cpus', '2', '--checkpoint-steps', '3', '--keep', 'all')
    assert cli.main(arguments(data, tmp_path / 'each', *options)) == 0
    assert cli.main(arguments(data, tmp_path / 'all', *options, '--sync-bn')) == 0
    assert 'batch normalisation: over the parts of all devices;' in capsys.readouterr().out
    each, run = run_of(tmp_path / 'each'), run_of(tmp_path / 'all')
    expected = content(run)
    assert content(each, 'metrics.jsonl') != content(run, 'metrics.jsonl')
    recorded = read_state(run / 'checkpoints' / '0002').environment
    assert recorded['batch normalisation'] == 'over all devices'
    # In mid-epoch, and with the option of the run that is resumed.
    for name in ('0001', '0001-000003', '0002'):
        shutil.rmtree(run / 'checkpoints' / name)
    assert cli.main(['--resume', str(run), '--deterministic']) == 0
    assert 'resuming %s' % (run / 'checkpoints' / '0000-000003') in capsys.readouterr().out
    assert content(run) == expected
    for name in ('0001-000003', '0002'):
        shutil.rmtree(each / 'checkpoints' / name)
    assert cli.main(['--resume', str(each), '--sync-bn', '--deterministic']) == 2
    assert 'over all devices instead of on each device' in capsys.readouterr().err


def test_one_device_has_nothing_to_synchronise(data, tmp_path, capsys, finished):
    assert cli.main(arguments(data, tmp_path, '--sync-bn')) == 0
    assert 'so --sync-bn changes nothing\n' in capsys.readouterr().out
    assert content(run_of(tmp_path)) == content(finished)


def test_when_checkpoints_are_written_and_which_are_kept(data, tmp_path):
    def checkpoints(name, *options):
        assert cli.main(arguments(data, tmp_path / name, *options)) == 0
        return sorted(os.listdir(run_of(tmp_path / name) / 'checkpoints'))
    plain = checkpoints('plain')
    assert plain == ['0000', '0001', '0002']
    assert checkpoints('steps', '--checkpoint-steps', '3', '--keep', 'all') == [
        '0000', '0000-000003', '0001', '0001-000003', '0002']
    assert len(checkpoints('seconds', '--checkpoint-seconds', '1e-3', '--keep', 'all')) == 11
    best = read_state(run_of(tmp_path / 'plain') / 'checkpoints' / '0002').best_epoch
    assert checkpoints('few', '--keep', '1') == sorted({'%04d' % best, '0002'})
    assert content(run_of(tmp_path / 'plain')) == content(run_of(tmp_path / 'seconds'))


def test_divergence_stops_or_rolls_back(data, tmp_path, capsys):
    options = ('--lr', '1e4', '--loss-limit', '1000')
    assert cli.main(arguments(data, tmp_path / 'stop', *options)) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'rolled back' not in error
    assert re.search('at epoch 0, step [12] .*the last good checkpoint is .*0000', error)
    assert cli.main(arguments(data, tmp_path / 'back', *options, '--on-nan', 'rollback')) == 1
    assert 'rolled back 5 times already' in capsys.readouterr().err
    assert cli.main(arguments(data, tmp_path / 'cured', '--lr', '20', '--loss-limit', '15',
                              '--on-nan', 'rollback')) == 0
    events = [m['event'] for m in read_metrics(run_of(tmp_path / 'cured'))]
    assert 'rollback' in events and events[-1] == 'epoch'


@pytest.mark.parametrize('options, message', [
    (['--keep', '0'], '--keep'), (['--checkpoint-steps', '0'], '--checkpoint-steps'),
    (['--checkpoint-seconds', 'inf'], 'number greater than 0'),
    (['--cpus', '2', '--sync-bn', '--precision', 'bfloat16'], '--sync-bn: goes with --precision'),
    (['--cpus', '2', '--sync-bn', '--set', 'method=mutual'], 'with the method mutual'),
    (['--loss-limit', '-1'], 'number greater than 0'), (['--on-nan', 'ignore'], 'rollback')])
def test_mistakes(data, tmp_path, capsys, options, message):
    assert cli.main(arguments(data, tmp_path, *options)) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize('name', ['metrics.jsonl', 'state.json', 'state.params', 'curves.png'])
def test_a_full_disk_keeps_the_good_checkpoint_and_the_run_goes_on_later(
        data, tmp_path, capsys, monkeypatch, finished, name, kind):
    from igcnet import files
    from igcnet.train import checkpoint
    monkeypatch.setattr('igcnet.train.run.plot_curves', plot_curves)
    writes = []

    def full(real):
        def sync(path):
            # What does not fit shows at the latest when it is synced.
            if name in Path(path).name and '.0000.' not in str(path):
                writes.append(path)
                raise OSError(kind, os.strerror(kind))
            real(path)
        return sync
    with monkeypatch.context() as patch:
        for module in (files, checkpoint):
            patch.setattr(module, 'sync_file', full(module.sync_file))
        assert cli.main(arguments(data, tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'no space left' in error and writes
    run = run_of(tmp_path)
    assert os.listdir(run / 'checkpoints') == ['0000']
    assert not [path for path in run.rglob('.*') if path.name != '.lock']
    assert cli.main(['--resume', str(run)]) == 0
    assert content(run) == content(finished)
