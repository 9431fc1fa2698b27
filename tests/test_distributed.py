"""Several workers on 127.0.0.1, with MXNet's own servers: they train as one process would."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_worker
import mxnet as mx
import numpy as np
import pytest
from conftest import IGCNET, PACKAGE
from loops import parameters, small_net
from synthetic import noise, write_records

from igcnet.convert import read_ndarrays
from igcnet.errors import UsageError
from igcnet.train.distributed import connect
from igcnet.train.metrics import Scores
from igcnet.train.recipes import Recipe, load_recipe
from igcnet.train.run import check_batch, share_settings
from igcnet.train.runlog import read_metrics
from igcnet.train.settings import RunSettings
from igcnet.train.workers import ALONE

NETWORK = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2']


def job(command, **settings):
    """Start two workers and a server; the process of the launcher."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore',
                   'PYTHONPATH': os.pathsep.join([str(PACKAGE.parent),
                                                  str(Path(__file__).parent)])}
    return subprocess.Popen(
        [*IGCNET, 'launch', '-n', '2', sys.executable, *command], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def run_job(command):
    """The job's output, when all workers have ended well."""
    process = job(command)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What each of two workers has found, see distributed_worker.py."""
    folder = tmp_path_factory.mktemp('workers')
    run_job([distributed_worker.__file__, str(folder)])
    return [dict(np.load(folder / ('%d.npz' % rank))) for rank in range(2)]


def test_what_workers_tell_each_other_arrives_exactly(found):
    numbers = np.random.RandomState(0).normal(size=(2, 150)) * 10.0 ** np.arange(150)
    for rank, each in enumerate(found):
        np.testing.assert_array_equal(each['gather'], numbers)
        np.testing.assert_array_equal(each['compressed gather'], numbers)
        for how in ('broadcast', 'compressed broadcast'):
            assert each[how].tobytes() == bytes(range(256)) * 2000
        assert str(each['shared']) == 'written by 0'
        np.testing.assert_array_equal(each['total'], [Scores(6, 0.2, 4, 6), Scores(1, 1.0, 1, 1)])
        whole = [1, .5, 1, 1] if rank == 0 else [0, 0, 0, 0]  # one worker has saved this
        own = [1, .5, 1, 1] if rank == 0 else [2, .25, 2, 2]
        np.testing.assert_array_equal(each['own scores'], [own, whole])


def test_an_agreement_is_that_of_the_step_before(found):
    expected = [(False, False), (False, False), (True, False), (False, False), (False, False)]
    for each in found:
        np.testing.assert_array_equal(each['agree'], expected)


def weights(each, name):
    return {key[len(name) + 1:]: array for key, array in each.items()
            if key.startswith(name + ':')}


def test_two_workers_train_as_one_with_the_whole_batch(found, tmp_path):
    first, second = (weights(each, 'plain') for each in found)
    net = distributed_worker.train(distributed_worker.NETS['plain'](1), folder=tmp_path)
    for key, arrays in parameters(net).items():
        np.testing.assert_array_equal(first[key], second[key])
        assert np.abs(arrays[0] - first[key]).max() < 2e-6, key
    start = parameters(distributed_worker.NETS['plain'](1))
    assert max(np.abs(start[key][0] - first[key]).max() for key in first) > 1e-2


def test_normalisation_is_that_of_each_workers_part(found, tmp_path):
    # As with two devices of one process: there the weights are the same, whole batches on one
    # device normalise by other statistics. In float64, because training amplifies rounding; the
    # servers may still round the sums to float32.
    two = [mx.cpu(0), mx.cpu(1)]
    parts = distributed_worker.train(small_net(two, 1, 'float64'), folder=tmp_path / 'parts',
                                     contexts=two)
    whole = distributed_worker.train(small_net([mx.cpu()], 1, 'float64'), folder=tmp_path / 'whole')
    start = parameters(small_net([mx.cpu()], 1, 'float64'))
    first, second = (weights(each, 'normalised') for each in found)
    moved = apart = 0.0
    for key, arrays in parameters(parts).items():
        np.testing.assert_array_equal(first[key], second[key])
        # Statistics are averaged where the epoch ended.
        assert np.abs(np.mean(arrays, axis=0) - first[key]).max() < 1e-6, key
        if not key.endswith(('mean', 'var')):
            moved += np.square(start[key][0] - first[key]).sum()
            apart += np.square(parameters(whole)[key][0] - first[key]).sum()
    assert 1e-6 < apart < moved


def test_workers_of_mutual_learning_run_the_same_sub_networks(found, tmp_path):
    """So two of them end as two devices of one process do; what they calibrate is averaged."""
    two = [mx.cpu(0), mx.cpu(1)]
    net = distributed_worker.train(distributed_worker.slimmable(1, two), folder=tmp_path,
                                   contexts=two, **distributed_worker.HOW['mutual'])
    start = distributed_worker.slimmable(1)
    first, second = (weights(each, 'mutual') for each in found)
    moved, statistics = 0.0, 0
    for key, arrays in parameters(net).items():
        np.testing.assert_array_equal(first[key], second[key])
        before = parameters(start)[key][0]
        if key.endswith(('mean', 'var')):
            statistics += not np.array_equal(first[key], before)
        else:
            assert np.abs(arrays[0] - first[key]).max() < 1e-4, key
            moved = max(moved, np.abs(before - first[key]).max())
    assert moved > 1e-2 and statistics == 2 * 2 * 7  # two widths, seven BN layers


def test_short_runs_all_end_alike(found):
    np.testing.assert_array_equal(found[0]['checksums'], found[1]['checksums'])
    assert len(set(found[0]['checksums'])) == 1


def test_compression_keeps_what_it_has_not_sent(found):
    # Each element: the threshold, 0.5, per worker as soon as that much has come together.
    for each in found:
        np.testing.assert_array_equal(each['compressed 0'], [0, 1, -1, 0])
        np.testing.assert_array_equal(each['compressed 1'], [0, 1, -1, 0])
        np.testing.assert_array_equal(each['compressed 2'], [1, 1, -1, 1])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """40 training and 13 test images of three classes."""
    folder = tmp_path_factory.mktemp('data')
    for name, count in (('train', 40), ('test', 13)):
        write_records(folder / name, noise(count, seed=count), np.arange(count) % 3.0,
                      classes=['a', 'b', 'c'])
    return folder


def train(data, log_dir, *more):
    return ['-m', 'igcnet', 'train', *NETWORK, '--dataset', 'records', '--data-dir', str(data),
            '--log-dir', str(log_dir), '--num-epochs', '3', '--batch-size', '8', '--lr', '0.05',
            '--log-iters', '2', '--rand-seed', '3', *more]


def run_of(log_dir):
    return Path(log_dir) / 'records' / 'resnet_igc' / 'resnet_igc_d8L2M2_exp1'


@pytest.fixture(scope='module')
def straight(data, tmp_path_factory):
    """A run of two workers that nobody disturbs, and what it said."""
    log_dir = tmp_path_factory.mktemp('straight')
    out = run_job(train(data, log_dir, '--checkpoint-epochs', '1'))
    return run_of(log_dir), out


def test_worker_0_logs_and_saves_for_all(straight):
    run, out = straight
    assert '2 workers with cpu(0); kv-store dist_sync; total batch 8, 4 a device' in out
    assert 'worker 1: ' not in out
    assert re.search(r'Images/s: worker 0 cpu\(0\) [\d.]+, worker 1 cpu\(0\) [\d.]+', out)
    assert sorted(p.name for p in run.parent.iterdir()) == ['resnet_igc_d8L2M2_exp1']
    epochs = [m for m in read_metrics(run) if m['event'] == 'epoch']
    assert [m['val_count'] for m in epochs] == [13, 13, 13]  # every image once
    assert (run / 'resnet_igc_d8L2M2-symbol.json').is_file()


def processes_of(text):
    """Numbers of the processes whose command line has `text`, but not the launcher's."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().decode().split('\0')
        except OSError:
            continue
        if text in words and 'launch' not in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_job_resumes_to_the_same_bits(data, straight, tmp_path, how):
    process = job(train(data, tmp_path, '--checkpoint-epochs', '1'))
    for line in process.stdout:
        if 'Epoch[1] Batch [2]' in line:
            break
    workers = processes_of(str(tmp_path))
    assert len(workers) == 2
    if how == signal.SIGKILL:
        os.kill(workers[-1], how)
    else:
        process.send_signal(how)
    begun = time.monotonic()
    out, _ = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60 and processes_of(str(tmp_path)) == []
    if how == signal.SIGKILL:
        assert process.returncode == 137
        assert re.search(r'launch: worker [01] was ended by signal 9 \(SIGKILL\)', out)
    else:
        assert process.returncode == 130 and 'interrupted; wrote' in out
    run = run_of(tmp_path)
    run_job(['-m', 'igcnet', 'train', '--resume', str(run)])
    for name in ('net.params', 'state.params', 'metrics.jsonl'):
        mine, theirs = ((each / 'checkpoints' / '0003' / name).read_bytes()
                        for each in (run, straight[0]))
        assert mine == theirs, name


def test_asynchronous_workers_learn_and_keep_the_momentum(data, tmp_path):
    run_job(train(data, tmp_path, '--kv-store', 'dist_async', '--checkpoint-epochs', '1',
                  '--num-epochs', '2'))
    run = run_of(tmp_path)
    momentum = read_ndarrays(run / 'checkpoints' / '0002' / 'state.params')
    assert any(np.abs(array).max() > 0 for key, array in momentum.items()
               if key.startswith('optimizer:'))
    out = run_job(['-m', 'igcnet', 'train', '--resume', str(run), '--kv-store', 'dist_async',
                   '--num-epochs', '3'])
    assert 'Epoch[2] Time cost' in out
    epochs = [m for m in read_metrics(run) if m['event'] == 'epoch']
    # The servers count the updates of all workers, and the drops of the rate come by epochs.
    assert [m['epoch'] for m in epochs] == [1, 2, 3] and epochs[0]['lr'] == 0.05
    assert np.isfinite([m['train_loss'] for m in epochs]).all()


def test_compressed_gradients_train_too(found):
    exact, first, second = (weights(each, name) for each, name in (
        (found[0], 'plain'), (found[0], 'compressed'), (found[1], 'compressed')))
    start = parameters(distributed_worker.NETS['plain'](1))
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key])
    assert any(np.abs(array - start[key][0]).max() > 1e-3 for key, array in first.items())
    assert any(np.abs(array - exact[key]).max() > 1e-4 for key, array in first.items())


def test_settings_decide_about_compression_and_what_asynchronous_servers_cannot():
    class Two(type(ALONE)):
        size, compressed_to = 2, None

        def compress_to(self, threshold):
            self.compressed_to = threshold
    settings = RunSettings('resnet_igc', load_recipe('igc-cifar'), rand_seed=1)
    two = Two()
    assert share_settings(two, settings).rand_seed == 1 and two.compressed_to is None
    share_settings(two, settings.changed(gc_type='2bit', gc_threshold=0.1))
    assert two.compressed_to == 0.1
    two.asynchronous = True
    for change, message in (({'on_nan': 'rollback'}, '--on-nan rollback'),
                            ({'clip_norm': 1.0}, 'clip_norm=1'),
                            ({'sync_bn': True}, '--sync-bn: .* 2 workers cannot')):
        with pytest.raises(UsageError, match=message):
            share_settings(two, settings.changed(**change))


def test_one_process_needs_nobody(monkeypatch):
    monkeypatch.delenv('DMLC_ROLE', raising=False)
    assert connect(None) is connect('local') is ALONE
    assert ALONE.store_name('dist_sync') == 'device' and ALONE.store_name('local') == 'local'
    assert ALONE.own_scores(ALONE.all_scores(Scores(3, .5, 1, 2))) == Scores(3, .5, 1, 2)
    assert ALONE.own_scores([1, .5, 1, 1, 2, .25, 2, 2]) == Scores(3, .75, 3, 3)
    with pytest.raises(UsageError, match='not part of a distributed job'):
        connect('dist_sync')
    with pytest.raises(UsageError, match='--gc-type 2bit'):
        ALONE.compress_to(0.5)
    monkeypatch.setenv('DMLC_ROLE', 'worker')
    with pytest.raises(UsageError, match='the workers of a distributed job need one of'):
        connect('device')


def test_every_device_of_every_worker_gets_a_part_of_the_batch():
    def workers(size, devices):
        """Workers with these numbers of devices."""
        class Some(type(ALONE)):
            def gather(self, numbers):
                return np.array(devices, float)[:, None]
        some = Some()
        some.size = size
        return some
    recipe = Recipe('test', num_epochs=1, batch_size=8, lr=0.1)
    check_batch(recipe, 2, workers(2, [2, 2]))
    for batch, devices, message in ((9, [2, 2], 'does not divide by 2 workers'),
                                    (2, [2, 2], 'too small for 4 devices'),
                                    (8, [2, 1], 'the same number of devices')):
        with pytest.raises(UsageError, match=message):
            check_batch(recipe.override(batch_size=batch), 2, workers(2, devices))
