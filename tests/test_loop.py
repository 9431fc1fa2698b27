"""The training loop: the original's steps, several devices, resuming, stopping."""

import json
import os
import signal

import mxnet as mx
import numpy as np
import pytest
from loops import (
    RECIPE,
    FakeReader,
    assert_same_bits,
    make_loop,
    parameters,
    random_batches,
    silent,
    small_net,
)

import igcnet
from igcnet.convert import load_parameters, read_ndarrays
from igcnet.data.reader import EvalBatch
from igcnet.errors import TrainingError, UsageError
from igcnet.train import checkpoint
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.methods import METHODS, Method, Place, method_settings
from igcnet.train.recipes import Recipe
from igcnet.train.runlog import RunLog, plot_curves, read_metrics
from igcnet.train.stopping import Interrupted
from igcnet.train.targets import soften


def test_two_steps_of_the_original(shared_fixtures, tmp_path):
    folder = shared_fixtures('igc')
    case = json.loads((folder / 'train2_resnet_igc_d20L24M2.json').read_text())
    arrays = np.load(folder / 'train2_resnet_igc_d20L24M2.npz')
    tolerance = case['tolerance']
    net = igcnet.get_model('resnet_igc', depth=20, primary_partition=24, secondary_partition=2)
    load_parameters(net, folder / case['checkpoints']['initial'])
    net.hybridize(static_alloc=True, static_shape=True)
    recipe = Recipe('igc', num_epochs=400, batch_size=8, lr=0.1, lr_steps=(200,))
    trainer = make_trainer(net, recipe, recipe.make_schedule(50000, 6250), 'device')
    state = checkpoint.State(checkpoint.Position(), 0, 'resnet_igc', {}, None, {})
    loop = Loop(net, [mx.cpu()], trainer, recipe, FakeReader([]), None, state, RunLog(tmp_path))

    for step, checked in ((0, 'after_step_1'), (1, 'after_step_2')):
        outcome = loop._step(Place(0, step), arrays['x'],
                             arrays['label'].astype(np.float32)).outcome
        loss = outcome.losses[0].asnumpy().mean()
        assert loss == pytest.approx(arrays['loss'][step], abs=tolerance[
            'prob_0_and_loss_0' if step == 0 else 'loss_before_step_2'])
        mx.nd.waitall()
        expected = read_ndarrays(folder / case['checkpoints'][checked])
        found = net.collect_params()
        for key, array in expected.items():
            kind, name = key.split(':')
            limit = tolerance[('aux_' if kind == 'aux' else 'params_') + checked]
            np.testing.assert_allclose(found[name].data().asnumpy(), array, rtol=0, atol=limit,
                                       err_msg=key)
        if step == 0:
            for key in arrays.files:
                if key.startswith('grad_0_'):
                    gradient = found[key[len('grad_0_'):]].grad().asnumpy()
                    scale = max(1, np.abs(arrays[key]).max())
                    assert np.abs(gradient - arrays[key]).max() < 1e-4 * scale, key


def test_two_contexts_give_the_weights_of_one(tmp_path):
    # BN takes the statistics of each device's part, as in the original. With both halves of a
    # batch equal, the parts have the statistics of the whole, so that only the arithmetic of the
    # devices, the store and the optimiser is compared, over 20 steps. In float64, because
    # training amplifies rounding: in float32 the first ReLU that flips costs three digits.
    halves = random_batches(20, size=4)
    batches = [(np.concatenate([x, x]).astype(np.float64), np.concatenate([y, y]))
               for x, y in halves]
    recipe = RECIPE.override(num_epochs=1)
    one = make_loop(tmp_path / 'one', batches, recipe)
    two = make_loop(tmp_path / 'two', batches, recipe, [mx.cpu(0), mx.cpu(1)])
    initial = parameters(one.net)
    one.run(silent)
    two.run(silent)
    first, second = parameters(one.net), parameters(two.net)
    for name in first:
        assert np.abs(first[name][0] - second[name][0]).max() < 1e-9, name
        np.testing.assert_array_equal(second[name][0], second[name][1], err_msg=name)
    assert max(np.abs(first[n][0] - initial[n][0]).max() for n in first) > 1e-2


def test_two_contexts_equal_two_accumulated_halves(tmp_path):
    # The same without equal halves: one context that runs the halves one after the other, each
    # with its own BN statistics, and makes one step of the sum of their gradients.
    batches = [(x.astype(np.float64), y) for x, y in random_batches(20)]
    recipe = RECIPE.override(num_epochs=1)
    two = make_loop(tmp_path / 'two', batches, recipe, [mx.cpu(0), mx.cpu(1)])
    two.run(silent)
    net = small_net([mx.cpu()], dtype='float64')
    for parameter in net.collect_params().values():
        if parameter.grad_req != 'null':
            parameter.grad_req = 'add'
    trainer = make_trainer(net, recipe, recipe.make_schedule(160, 20), 'device')
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    for images, labels in batches:
        net.collect_params().zero_grad()
        for part in (slice(0, 4), slice(4, 8)):
            with mx.autograd.record():
                error = loss(net(mx.nd.array(images[part], dtype='float64')),
                             mx.nd.array(labels[part], dtype='float64'))
            error.backward()
        trainer.step(8)
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != 'null':
            found = two.net.collect_params()[name].data(mx.cpu(0)).asnumpy()
            assert np.abs(parameter.data().asnumpy() - found).max() < 1e-9, name


@pytest.mark.parametrize('contexts', [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]])
def test_resuming_gives_the_same_bits(tmp_path, contexts):
    batches = random_batches(5)
    straight = make_loop(tmp_path / 'straight', batches, contexts=contexts, checkpoint_epochs=1)
    straight.run(silent)
    first = make_loop(tmp_path / 'parts', batches, RECIPE.override(num_epochs=1), contexts)
    first.run(silent)
    first.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'parts' / 'checkpoints')[-1]
    second = make_loop(tmp_path / 'parts', batches, contexts=contexts, resume=saved)
    second.run(silent)
    assert_same_bits(parameters(straight.net), parameters(second.net))
    assert second.state.position == straight.state.position == checkpoint.Position(3, 0, 15)
    states = [{i: s.asnumpy() for i, s in loop.trainer._updaters[-1].states.items()}
              for loop in (straight, second)]
    for index, state in states[0].items():
        np.testing.assert_array_equal(state, states[1][index])


def test_interrupt_writes_a_checkpoint_in_mid_epoch_and_resumes_to_the_same_bits(tmp_path):
    batches = random_batches(6)
    straight = make_loop(tmp_path / 'straight', batches)
    straight.run(silent)

    def interrupt(epoch, step):
        if (epoch, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGINT)
    stopped = make_loop(tmp_path / 'stopped', batches, before_step=interrupt)
    with pytest.raises(Interrupted) as caught:
        stopped.run(silent)
    stopped.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'stopped' / 'checkpoints')[-1]
    assert saved.name == '0001-000004' and str(caught.value) == str(saved)
    resumed = make_loop(tmp_path / 'stopped', batches, resume=saved)
    resumed.run(silent)
    assert_same_bits(parameters(straight.net), parameters(resumed.net))
    scores = [[m['train_loss'] for m in read_metrics(tmp_path / run) if m['event'] == 'epoch']
              for run in ('straight', 'stopped')]
    assert len(scores[0]) == 3 and scores[0] == scores[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nan_stops_with_the_step_and_keeps_the_last_checkpoint(tmp_path):
    batches = random_batches(4)
    batches[2][0][0, 0, 0, 0] = np.nan
    loop = make_loop(tmp_path, batches)
    with pytest.raises(TrainingError) as caught:
        loop.run(silent)
    assert 'epoch 0, step 2' in str(caught.value) and 'no checkpoint' in str(caught.value)
    assert checkpoint.checkpoints(tmp_path / 'checkpoints') == []


def test_nan_after_a_checkpoint_names_it(tmp_path):
    batches = random_batches(4)

    def spoil(epoch, step):
        if epoch == 1:
            batches[step][0][:] = np.nan
    loop = make_loop(tmp_path, batches, before_step=spoil)
    with pytest.raises(TrainingError, match='checkpoints.0001'):
        loop.run(silent)
    kept = checkpoint.checkpoints(tmp_path / 'checkpoints')
    assert [path.name for path in kept] == ['0001']
    net = small_net([mx.cpu()])
    load_parameters(net, kept[0] / checkpoint.WEIGHTS)
    assert all(np.isfinite(array).all() for arrays in parameters(net).values() for array in arrays)


def test_mixup_and_label_smoothing_targets():
    recipe = RECIPE.override(label_smoothing=0.1, mixup_alpha=0.4)
    images, labels = random_batches(1, seed=9)[0]
    mixed, targets = soften(images, labels, 10, recipe, (5, 0, 0))
    again, _ = soften(images, labels, 10, recipe, (5, 0, 0))
    other, _ = soften(images, labels, 10, recipe, (5, 0, 1))
    np.testing.assert_array_equal(mixed, again)
    assert np.abs(mixed - other).max() > 1e-3
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    share = (mixed[0] - images[-1]).mean() / (images[0] - images[-1]).mean()
    assert 0.5 <= share <= 1
    plain = np.full((8, 10), 0.01, np.float32)
    plain[np.arange(8), labels.astype(int)] += 0.9
    np.testing.assert_allclose(targets, share * plain + (1 - share) * plain[::-1], atol=1e-5)


class Halved(Method):
    """The gradients of `Plain`, scaled."""

    SETTINGS = {'scale': 0.5, 'word': 'a', 'sizes': [1.0]}

    def gradients(self, place, images, labels, contexts):
        outcome = METHODS['plain'](self.net, self.recipe, self.seed, 1).gradients(
            place, images, labels, contexts)
        for parameter in self.net.collect_params().values():
            if parameter.grad_req != 'null':
                for gradient in parameter.list_grad():
                    gradient *= self.settings['scale']
        return outcome


def test_the_recipe_names_the_method_and_its_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, 'halved', Halved)
    changes = {}
    for scale in (1.0, 0.25):
        recipe = RECIPE.override(method='halved', method_settings={'scale': scale}, momentum=0.0,
                                 wd=0.0, num_epochs=1)
        loop = make_loop(tmp_path / str(scale), random_batches(1), recipe)
        before = parameters(loop.net)['fc_weight'][0]
        loop.run(silent)
        changes[scale] = parameters(loop.net)['fc_weight'][0] - before
    assert np.abs(changes[1.0]).max() > 1e-4
    np.testing.assert_allclose(changes[0.25], changes[1.0] / 4, rtol=1e-2, atol=1e-7)
    assert method_settings(RECIPE.override(method='halved')) == Halved.SETTINGS


@pytest.mark.parametrize('method,settings,message', [
    ('none', {}, 'method=none: must be one of .*halved'),
    ('halved', {'scales': 1.0}, "has no setting 'scales'; it has scale, word, sizes"),
    ('plain', {'scale': 1.0}, "method plain has no setting 'scale'; it has none"),
    ('halved', {'scale': 'x'}, "scale='x': must be like 0.5"),
    ('halved', {'sizes': ['x']}, r"sizes=\['x'\]: must be like \[1.0\]"),
    ('halved', {'word': 1}, "word=1: must be like 'a'"),
])
def test_wrong_methods(monkeypatch, method, settings, message):
    monkeypatch.setitem(METHODS, 'halved', Halved)
    with pytest.raises(UsageError, match=message):
        method_settings(RECIPE.override(method=method, method_settings=settings))


def test_decay_rule_of_the_modern_recipe_spares_bn_and_biases(tmp_path):
    net = small_net([mx.cpu()])
    make_trainer(net, RECIPE.override(decay='weights'), None, 'device')
    decayed = {name for name, p in net.collect_params().items() if p.wd_mult == 1}
    assert 'fc_weight' in decayed and 'g1_b1_p2_two1_conv1_weight' in decayed
    assert not {name for name in decayed if not name.endswith('_weight')}
    everything = small_net([mx.cpu()])
    make_trainer(everything, RECIPE, None, 'device')
    assert {p.wd_mult for p in everything.collect_params().values()} == {1.0}


def test_validation_numbers_and_curves(tmp_path):
    images, labels = random_batches(1, size=10)[0]
    validation = [EvalBatch(images[:7], labels[:7], np.arange(7)),
                  EvalBatch(images[7:], labels[7:], np.arange(7, 10))]
    loop = make_loop(tmp_path, random_batches(2), validation=validation)
    numbers = loop.run(silent)
    logits = loop.net(mx.nd.array(images)).asnumpy()
    assert numbers['val_count'] == 10
    assert numbers['val_top1'] == pytest.approx((logits.argmax(1) == labels).mean())
    log = (tmp_path / 'log.txt').read_text()
    assert 'Epoch[2] Validation-accuracy=%f' % numbers['val_top1'] in log
    assert 'Epoch[0] Batch [2]\tSpeed: ' in log
    picture = plot_curves(tmp_path, 'test')
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_learning_rate_drops_where_the_schedule_says(tmp_path):
    loop = make_loop(tmp_path, random_batches(4))
    loop.run(silent)
    rates = [m['lr'] for m in read_metrics(tmp_path) if m['event'] == 'epoch']
    assert rates == pytest.approx([0.05, 0.05, 0.005])
