"""``tools/train.py``: from records to curves and an exported network; every mistake one line."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import IGCNET
from synthetic import noise, write_records

from igcnet.cli import train as cli
from igcnet.convert import read_ndarrays
from igcnet.data.records import RecordFile
from igcnet.train.runlog import plot_curves, read_metrics

pytestmark = pytest.mark.usefixtures('without_curves')
CLASSES = ['circle', 'square', 'star']
NETWORK = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """40 training and 13 test images of three classes that differ in their colour."""
    folder = tmp_path_factory.mktemp('data')
    for name, count in (('train', 40), ('test', 13)):
        labels = np.arange(count) % 3
        images = noise(count, seed=count)
        for image, label in zip(images, labels):
            image[:, :, label] //= 4
        write_records(folder / name, images, labels.astype(float), classes=CLASSES)
    return folder


def arguments(data, log_dir, *more, network=NETWORK):
    return [*network, '--dataset', 'records', '--data-dir', str(data), '--log-dir', str(log_dir),
            '--num-epochs', '2', '--batch-size', '8', '--lr', '0.05', '--rand-seed', '3',
            '--log-iters', '2', *more]


def run_of(log_dir, number=1, name='resnet_igc_d8L2M2_exp'):
    return Path(log_dir) / 'records' / 'resnet_igc' / ('%s%d' % (name, number))


def weights(run, epoch):
    return read_ndarrays(run / 'checkpoints' / epoch / 'net.params')


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key]) for key in first)


def test_a_run_from_start_to_export(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('igcnet.train.run.plot_curves', plot_curves)
    assert cli.main(arguments(data, tmp_path, '--checkpoint-epochs', '1')) == 0
    run = run_of(tmp_path)
    names = {path.name for path in run.iterdir()}
    stem = 'resnet_igc_d8L2M2'
    assert {'config.yaml', 'log.txt', 'metrics.jsonl', 'timing.jsonl', 'curves.png', 'checkpoints',
            stem + '-symbol.json', stem + '-0000.params', stem + '-manifest.json'} <= names
    assert any(name.startswith('events.out.tfevents') for name in names)
    assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['0000', '0001', '0002']
    manifest = json.loads((run / (stem + '-manifest.json')).read_text())
    assert manifest['classes'] == CLASSES and manifest['preprocessing']['mean'] == [127, 127, 127]
    out = capsys.readouterr().out
    assert out.splitlines() == (run / 'log.txt').read_text().splitlines()
    assert 'total batch 8' in out and 'random seed: 3; 5 steps an epoch' in out
    assert re.search(r'network parameters: 0\.00\d\dM \(\d+\)', out)
    events = [m['event'] for m in read_metrics(run)]
    assert events == ['train', 'train', 'epoch'] * 2
    assert read_metrics(run)[-1]['val_count'] == 13
    config = yaml.safe_load((run / 'config.yaml').read_text())['run']
    assert config['rand_seed'] == 3 and config['recipe']['lr'] == 0.05
    assert config['network_settings']['classes'] == 3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data, tmp_path):
    for extra in ([], [], ['--rand-seed', '4']):
        assert cli.main(arguments(data, tmp_path, *extra)) == 0
    first, second, other = (weights(run_of(tmp_path, n), '0002') for n in (1, 2, 3))
    assert same(first, second) and not same(first, other)


def test_resume_equals_the_straight_run(data, tmp_path):
    straight = tmp_path / 'straight'
    assert cli.main(arguments(data, straight, '--num-epochs', '4', '--lr-steps', '2',
                              '--checkpoint-epochs', '1')) == 0
    run = run_of(tmp_path)
    shutil.copytree(run_of(straight), run)
    for epoch in ('0003', '0004'):
        shutil.rmtree(run / 'checkpoints' / epoch)
    assert cli.main(['--resume', str(run)]) == 0
    assert same(weights(run, '0004'), weights(run_of(straight), '0004'))
    events = [m for m in read_metrics(run) if m['event'] == 'epoch']
    assert [m['epoch'] for m in events] == [1, 2, 3, 4]
    assert [m['lr'] for m in events] == pytest.approx([0.05, 0.05, 0.005, 0.005])


def test_resume_finds_the_newest_run_and_load_epoch_an_older_checkpoint(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--checkpoint-epochs', '1')) == 0
    assert cli.main([*arguments(data, tmp_path), '--resume', '--num-epochs', '3']) == 0
    run = run_of(tmp_path)
    assert (run / 'checkpoints' / '0003').is_dir()
    before = weights(run, '0002')
    assert cli.main([*arguments(data, tmp_path), '--load-epoch', '1', '--num-epochs', '2']) == 0
    assert same(before, weights(run, '0002'))
    assert 'resuming %s' % (run / 'checkpoints' / '0001') in capsys.readouterr().out


def test_original_layout_checkpoints_and_going_on_from_them(data, tmp_path):
    prefix = str(tmp_path / 'old-')
    assert cli.main(arguments(data, tmp_path, '--model-prefix', prefix,
                              '--checkpoint-epochs', '1')) == 0
    folder = tmp_path / 'old-weights' / 'resnet_igc_d8L2M2'
    assert sorted(path.name for path in folder.iterdir()) == [
        'resnet_igc_d8L2M2-0001.params', 'resnet_igc_d8L2M2-0002.params',
        'resnet_igc_d8L2M2-symbol.json']
    saved = read_ndarrays(folder / 'resnet_igc_d8L2M2-0001.params')
    assert {'arg:fc_weight', 'aux:g0_bn_moving_mean'} <= set(saved)
    assert cli.main(arguments(data, tmp_path, '--model-prefix', prefix, '--load-epoch', '1',
                              '--exp-name', 'again')) == 0
    again = run_of(tmp_path, name='resnet_igc_d8L2M2_again')
    assert [m['epoch'] for m in read_metrics(again) if m['event'] == 'epoch'] == [2]


def test_load_model_starts_from_given_weights(data, tmp_path):
    assert cli.main(arguments(data, tmp_path, '--num-epochs', '1')) == 0
    file = run_of(tmp_path) / 'checkpoints' / '0001' / 'net.params'
    assert cli.main(arguments(data, tmp_path, '--num-epochs', '1', '--lr', '1e-12', '--load-model',
                              str(file), '--exp-name', 'fine')) == 0
    start, end = read_ndarrays(file), weights(
        run_of(tmp_path, name='resnet_igc_d8L2M2_fine'), '0001')
    np.testing.assert_allclose(end['output.weight'], start['output.weight'], atol=1e-6)


def test_two_cpu_contexts(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--cpus', '2', '--kv-store', 'local')) == 0
    assert 'devices: cpu(0) cpu(1); kv-store local; total batch 8, 4 a device' in \
        capsys.readouterr().out


def test_modern_recipe_and_augmentation_types(data, tmp_path):
    for number, extra in enumerate((['--recipe', 'modern'], ['--aug-type', '2']), 1):
        assert cli.main(arguments(data, tmp_path, *extra)) == 0
        assert run_of(tmp_path, number).is_dir()
    assert cli.main(arguments(data, tmp_path, '--aug-type', '0')) == 0
    assert (tmp_path / 'records_noaug' / 'resnet_igc').is_dir()


def test_unreadable_images_stop_the_run_or_are_skipped_and_counted(data, tmp_path, capsys):
    folder = tmp_path / 'data'
    shutil.copytree(data, folder)
    for name, bad in (('train', 5), ('test', 2)):
        records = RecordFile(folder / name)
        images = [record.image for record in map(records.read, range(len(records)))]
        labels = records.labels().tolist()
        images[bad] = images[bad][:30]
        write_records(folder / name, images, labels, classes=CLASSES)
    assert cli.main(arguments(folder, tmp_path / 'log')) == 1
    assert 'train.rec, record 5 (key 5)' in capsys.readouterr().err
    options = ('--on-bad', 'skip', '--decode-threads', '1')
    assert cli.main(arguments(folder, tmp_path / 'log', *options)) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r'skipped 1 of \d+ images of .*train\.rec as unreadable; the first: '
                          r'.*record 5 ', out)) == 2
    assert len(re.findall(r'skipped 1 of 13 images of .*test\.rec .*record 2 ', out)) == 2
    run = sorted((tmp_path / 'log').rglob('metrics.jsonl'))[-1].parent
    assert read_metrics(run)[-1]['val_count'] == 12
    config = yaml.safe_load((run / 'config.yaml').read_text())['run']
    assert config['on_bad'] == 'skip' and config['decode_threads'] == 1


def test_decoding_threads_do_not_change_the_run(data, tmp_path):
    for threads in ('1', '3'):
        assert cli.main(arguments(data, tmp_path, '--decode-threads', threads)) == 0
    assert same(*(weights(run_of(tmp_path, n), '0002') for n in (1, 2)))


def test_io_reads_without_a_network(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--test-io')) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'epoch 1: 40 images in [\d.]+ s, [\d,.]+ images/s', out[0])
    assert re.fullmatch(r'epoch 2, from memory: 40 images in .* images/s', out[1])
    assert not list(tmp_path.iterdir())


def test_any_augmentation_preset(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--augmentation', 'mutualnet-mobile')) == 0
    assert 'augmentation=mutualnet-mobile' in capsys.readouterr().out
    run = run_of(tmp_path)
    config = yaml.safe_load((run / 'config.yaml').read_text())['run']
    assert config['recipe']['augmentation'] == 'mutualnet-mobile'
    assert config['recipe']['aug_type'] is None
    assert cli.main(arguments(data, tmp_path)) == 0
    assert not same(weights(run, '0002'), weights(run_of(tmp_path, 2), '0002'))
    assert cli.main(['--resume', str(run), '--num-epochs', '3']) == 0


def test_interrupt_writes_a_checkpoint_and_prints_the_resume_command(data, tmp_path):
    command = [*IGCNET, 'train',
               *arguments(data, tmp_path, '--num-epochs', '500', '--checkpoint-epochs', '500')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        deadline = time.time() + 60
        while 'Batch [2]' not in process.stdout.readline():
            assert time.time() < deadline and process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert 'Traceback' not in errors
    assert errors.rstrip().endswith('python -m igcnet train --resume %s' % run_of(tmp_path))
    saved = sorted((run_of(tmp_path) / 'checkpoints').iterdir())
    assert re.fullmatch(r'\d{4}-\d{6}', saved[-1].name)
    assert cli.main(['--resume', str(run_of(tmp_path)), '--num-epochs', '1']) == 0


BAD = [
    (['--network', 'resnet_ig'], 2, 'did you mean resnet_igc'),
    (['--depth', '3'], 2, 'depth=3'),
    (['--depth', 'x'], 2, '--depth'),
    (['--primary-partition', '0'], 2, 'primary_partition=0'),
    (['--network', 'plain', '--depth', '9'], 2, r'3n\+2'),
    (['--doubling', 'primary'], 2, '--doubling'),
    (['--num-classes', '2'], 1, 'needs at least 3|names 3 classes'),
    (['--classes', '100'], 1, 'names 3 classes'),
    (['--data-dir', '/nonexistent/data'], 1, '/nonexistent/data/train.rec'),
    (['--val-dataset', 'missing.rec'], 1, 'missing.rec'),
    (['--dataset', 'cifar11'], 2, 'cifar10'),
    (['--kv-store', 'devise'], 2, 'device, local'),
    (['--kv-store', 'dist_sync'], 2, 'not part of a distributed job'),
    (['--gc-type', '2bit'], 2, 'the distributed values of --kv-store'),
    (['--gc-threshold', '0.1'], 2, 'goes with --gc-type 2bit'),
    (['--gpus', '0'], 2, 'CPU build'),
    (['--gpus', 'a'], 2, 'GPU numbers'),
    (['--recipe', 'fast'], 2, 'igc-cifar'),
    (['--lr', '0'], 2, 'lr=0'),
    (['--lr', 'nan'], 2, 'lr=nan'),
    (['--lr-steps', '1,x'], 2, 'list of numbers'),
    (['--lr-steps', '1', '--lr-epoch-step', '1'], 2, 'exclude'),
    (['--batch-size', '1', '--cpus', '2'], 2, 'too small for 2 devices'),
    (['--aug-type', '7'], 2, '--aug-type'),
    (['--augmentation', 'mutualnet'], 2, "unknown augmentation 'mutualnet'"),
    (['--augmentation', 'igc-1', '--aug-type', '1'], 2, 'exclude'),
    (['--on-bad', 'ignore'], 2, '--on-bad'),
    (['--decode-threads', '0'], 2, '--decode-threads'),
    (['--rand-seed', '-1'], 2, '--rand-seed'),
    (['--mean-rgb', '1,2'], 2, 'three numbers'),
    (['--fb-mean'], 2, '--dataset imagenet'),
    (['--log-dir', '/proc/nothing'], 1, '/proc/nothing'),
    (['--resume', '/nonexistent/run'], 1, '/nonexistent/run'),
    (['--resume'], 1, 'no run with a checkpoint'),
    (['--load-epoch', '9'], 1, 'no run with a checkpoint'),
    (['--load-model', '/nonexistent.params'], 1, '/nonexistent.params'),
    (['--batchsize', '3'], 2, '--batchsize'),
    (['--network', 'plain', '--depth', '8', '--data-shape', '24'], 2, '32x32'),
]


@pytest.mark.parametrize('options, code, message', BAD, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line_with_an_exit_code(data, tmp_path, capsys, options, code, message):
    assert cli.main(arguments(data, tmp_path / 'log', *options)) == code
    errors = capsys.readouterr().err.strip()
    assert errors.startswith('error: ') and '\n' not in errors
    assert re.search(message, errors), errors
    assert not list(tmp_path.rglob('*.params'))


def test_no_network(capsys):
    assert cli.main([]) == 2
    assert '--network' in capsys.readouterr().err


def test_damaged_records(data, tmp_path, capsys):
    folder = tmp_path / 'data'
    shutil.copytree(data, folder)
    whole = (folder / 'train.rec').read_bytes()
    (folder / 'train.rec').write_bytes(whole[:len(whole) // 2])
    assert cli.main(arguments(folder, tmp_path / 'log')) == 1
    assert re.search(r'train\.rec.*(truncated|another file)', capsys.readouterr().err)
    images = [b'no image'] * 8
    write_records(folder / 'train', images, [0.0, 1.0, 2.0, 0.0] * 2, classes=CLASSES)
    assert cli.main(arguments(folder, tmp_path / 'log')) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'train.rec, record' in error


def test_nan_loss_is_one_line(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--lr', '1e30')) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'not a number at epoch 0, step' in error or 'not finite' in error


def test_no_space_left_keeps_the_earlier_checkpoint(data, tmp_path, capsys, monkeypatch):
    from igcnet.train import checkpoint
    real = checkpoint.write_ndarrays
    calls = []

    def full(path, arrays):
        calls.append(path)
        if len(calls) == 5:  # each checkpoint has two such files
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, arrays)
    monkeypatch.setattr(checkpoint, 'write_ndarrays', full)
    assert cli.main(arguments(data, tmp_path, '--checkpoint-epochs', '1')) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'no space left' in error
    saved = (run_of(tmp_path) / 'checkpoints').iterdir()
    assert sorted(path.name for path in saved) == ['0000', '0001']


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--checkpoint-epochs', '1')) == 0
    run = run_of(tmp_path)
    first, second = weights(run, '0002'), (run / 'metrics.jsonl').read_bytes()
    whole = (run / 'checkpoints' / '0002' / 'net.params').read_bytes()
    for bad in (whole[:-40], whole[:-1] + bytes([whole[-1] ^ 1]), None):
        file = run / 'checkpoints' / '0002' / 'net.params'
        if bad is None:
            file.unlink()
        else:
            file.write_bytes(bad)
        capsys.readouterr()
        assert cli.main(['--resume', str(run)]) == 0
        out = capsys.readouterr().out
        assert re.search('warning: .*0002/net.params: .*; going back to the checkpoint before it',
                         out)
        assert 'resuming %s' % (run / 'checkpoints' / '0001') in out
        assert same(weights(run, '0002'), first)
        assert (run / 'metrics.jsonl').read_bytes() == second
    assert (run / 'checkpoints' / 'abandoned' / '0002').is_dir()


def test_no_checkpoint_is_whole(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--num-epochs', '1')) == 0
    run = run_of(tmp_path)
    state = run / 'checkpoints' / '0001' / 'state.json'
    good = state.read_text()
    (run / 'checkpoints' / '0000' / 'metrics.jsonl').write_bytes(b'{}')
    for bad in ('{', '{}', '[]', good.replace('"update": 5', '"update": "x"'),
                good.replace('"update": 5', '"update": 4')):
        state.write_text(bad)
        assert cli.main(['--resume', str(run)]) == 1
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and error.startswith('error: ')
        assert '0001/state.json' in error and 'checkpoints before it: 1' in error
    state.write_text(good)
    (run / 'checkpoints' / '0001' / 'state.params').write_bytes(b'')
    assert cli.main(['--resume', str(run), '--load-epoch', '1']) == 1
    error = capsys.readouterr().err
    assert 'state.params: damaged' in error and 'before it' not in error
    (run / 'config.yaml').write_text('run: [')
    assert cli.main(['--resume', str(run)]) == 1
    assert 'config.yaml' in capsys.readouterr().err
