"""Half precision on the CPU, and the scale of the loss that float16 needs."""

import os
import subprocess

import mxnet as mx
import numpy as np
import pytest
from conftest import IGCNET
from loops import RECIPE, assert_same_bits, make_loop, parameters, random_batches, silent
from synthetic import write_train_and_test
from test_cli_train import arguments, run_of, weights

from igcnet.cli import train as cli
from igcnet.errors import TrainingError, UsageError
from igcnet.train import checkpoint, precision
from igcnet.train.precision import LossScale
from igcnet.train.runlog import read_metrics


def scale_of(factor):
    scale = LossScale()
    scale.factor = factor
    return scale


def flags(*values):
    return [mx.nd.array([value]) for value in values]


def test_factor_follows_the_gradients(monkeypatch):
    monkeypatch.setattr(LossScale, 'INTERVAL', 3)
    scale = LossScale()
    assert scale.take(flags(1, 1)) and not scale.take(flags(1, 0))
    assert scale.factor == 2.0 ** 15
    assert all(scale.take(flags(1)) for _ in range(2)) and scale.factor == 2.0 ** 15
    other = LossScale()
    other.set_arrays(scale.arrays())
    assert other.take(flags(1)) and other.factor == 2.0 ** 16
    for _ in range(40):
        other.take(flags(1))
    assert other.factor == 2.0 ** 24


@pytest.mark.parametrize('more', [{}, dict(clip_norm=0.5), dict(clip_value=1e-2, accumulate=2)])
def test_a_power_of_two_changes_nothing(tmp_path, more):
    batches, recipe = random_batches(2), RECIPE.override(num_epochs=1, **more)
    plain = make_loop(tmp_path / 'plain', batches, recipe)
    scaled = make_loop(tmp_path / 'scaled', batches, recipe, loss_scale=scale_of(2.0 ** 10))
    for loop in (plain, scaled):
        loop.run(silent)
    assert_same_bits(parameters(plain.net), parameters(scaled.net))


def test_an_overflow_leaves_the_update_out_but_not_its_place_in_the_schedule(tmp_path):
    recipe = RECIPE.override(num_epochs=1, lr_steps=(0.5,), lr_factor=0.0, momentum=0.0)
    batches = random_batches(4)
    loop = make_loop(tmp_path / 'a', batches, recipe, loss_scale=scale_of(2.0 ** 140),
                     checkpoint_epochs=9)
    before = parameters(loop.net)
    loop.run(silent)
    # The first updates were left out; after the second one the rate is 0.
    assert loop.loss_scale.factor < 2.0 ** 139
    assert loop.trainer._optimizer.num_update == 4
    np.testing.assert_array_equal(before['fc_weight'][0], parameters(loop.net)['fc_weight'][0])
    resumed = make_loop(tmp_path / 'a', batches, recipe, loss_scale=LossScale(),
                        resume=checkpoint.checkpoints(tmp_path / 'a' / 'checkpoints')[-1])
    assert resumed.loss_scale.factor == loop.loss_scale.factor
    assert np.isfinite(read_metrics(tmp_path / 'a')[-1]['train_loss'])


def test_gradients_that_overflow_at_any_scale_end_the_run(tmp_path):
    batches = random_batches(2)
    batches[0][0][:] = 1e38
    with pytest.raises(TrainingError):
        make_loop(tmp_path, batches, loss_scale=scale_of(1.0)).run(silent)


@pytest.mark.parametrize('kind, context, message', [
    ('float16', mx.cpu(), 'on the GPU only'), ('bfloat16', mx.gpu(), 'on the CPU only'),
    ('int8', mx.cpu(), 'must be one of float32, float16, bfloat16')])
def test_devices_that_cannot(kind, context, message):
    with pytest.raises(UsageError, match=message):
        precision.start(kind, [context])


def test_a_process_computes_in_one_precision(monkeypatch):
    monkeypatch.setattr(precision, '_started', 'bfloat16')
    with pytest.raises(UsageError, match='computes in bfloat16 already'):
        precision.start('float32', [mx.cpu()])


def run_command(*options):
    """The command in a process of its own, because AMP is for the whole process."""
    return subprocess.run(
        [*IGCNET, 'train', *options], capture_output=True, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_train_and_test(tmp_path_factory.mktemp('data'), 24, 5)


def test_bfloat16_trains_and_leaves_a_network_of_float32(data, tmp_path):
    options = arguments(data, tmp_path, '--precision', 'bfloat16', '--lr', '0.01')
    done = run_command(*options)
    assert done.returncode == 0, done.stderr
    assert cli.main([*options, '--precision', 'float32']) == 0
    half, full = (weights(run_of(tmp_path, n), '0002') for n in (1, 2))
    different = [name for name in full if (half[name] != full[name]).any()]
    assert len(different) > len(full) / 2
    for name, value in full.items():
        assert half[name].dtype == np.float32
        np.testing.assert_allclose(half[name], value, atol=0.1, err_msg=name)
    graphs = [(run_of(tmp_path, n) / 'resnet_igc_d8L2M2-symbol.json').read_text() for n in (1, 2)]
    assert graphs[0] == graphs[1] and 'amp_cast' not in graphs[0]
    losses = [read_metrics(run_of(tmp_path, n))[-1]['val_loss'] for n in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]


def test_a_network_that_mxnet_cannot_train_in_it_is_refused(data, tmp_path):
    done = run_command(*arguments(data, tmp_path, '--precision', 'bfloat16', network=[
        '--network', 'dydensenet', '--stages', '1-1-1', '--growth', '4-4-4']))
    assert done.returncode == 2
    assert done.stderr.startswith('error: --precision bfloat16: MXNet cannot train this network')
    assert done.stderr.count('\n') == 1


def test_float16_needs_a_gpu(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--precision', 'float16')) == 2
    assert '--precision float16: MXNet computes in it on the GPU only' in capsys.readouterr().err
