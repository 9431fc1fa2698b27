"""Accumulation, clipping, averaged weights, cutmix; and that a run with all of them resumes."""

import os
import signal

import mxnet as mx
import numpy as np
import pytest
from loops import (
    RECIPE,
    assert_same_bits,
    make_loop,
    parameters,
    random_batches,
    silent,
)
from mxnet import gluon

from igcnet.data.reader import EvalBatch
from igcnet.layers import Network
from igcnet.layers.basic import Conv2D, Dense, Flatten, named_sequential
from igcnet.train import checkpoint, gradients
from igcnet.train.ema import WeightAverage
from igcnet.train.loop import make_trainer
from igcnet.train.methods import Place, find_method
from igcnet.train.runlog import read_metrics
from igcnet.train.stopping import Interrupted
from igcnet.train.targets import cutmix, mixup, soft_targets, soften

CONTEXTS = [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]]


def net_without_bn(contexts):
    """A network whose gradients do not depend on how a batch is divided."""
    features = named_sequential(conv=Conv2D('conv', 3, 4, 3, 2, padding=1),
                                flatten=Flatten('flatten'))
    net = Network(features, Dense('fc', 4 * 16 * 16, 10), [], mx.init.Xavier(), 32)
    mx.random.seed(1)
    net.cast('float64')
    net.initialize(ctx=contexts)
    net.hybridize()
    return net


def one_step(contexts, recipe, images, labels):
    """Gradients and weights of one step."""
    net = net_without_bn(contexts)
    trainer = make_trainer(net, recipe, None, 'device')
    method = find_method(recipe.method)(net, recipe, 0, 1)
    outcome = gradients.batch_gradients(method, Place(0, 0), images, labels, contexts,
                                        trainer._params, recipe.accumulate)
    found = {p.name: sum(g.asnumpy() for g in p.list_grad()) for p in trainer._params}
    gradients.update(trainer, len(labels), recipe.clip_norm)
    return net, outcome, found


@pytest.mark.parametrize('contexts', CONTEXTS, ids=len)
@pytest.mark.parametrize('parts', [2, 3])
def test_parts_of_a_batch_give_the_update_of_the_whole(contexts, parts):
    images, labels = random_batches(1)[0]
    images = images.astype(np.float64)
    whole, first, expected = one_step(contexts, RECIPE, images, labels)
    net, outcome, found = one_step(contexts, RECIPE.override(accumulate=parts), images, labels)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-9, atol=1e-12)
    for name, parameter in net.collect_params().items():
        np.testing.assert_allclose(parameter.data(contexts[0]).asnumpy(),
                                   whole.collect_params()[name].data(contexts[0]).asnumpy(),
                                   rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(outcome.labels, labels)
    assert len(outcome.outputs) == parts * len(contexts)
    np.testing.assert_allclose(np.concatenate([y.asnumpy() for y in outcome.outputs]),
                               np.concatenate([y.asnumpy() for y in first.outputs]), rtol=1e-12)


@pytest.mark.parametrize('contexts', CONTEXTS, ids=len)
def test_clipping_limits_the_norm_of_all_gradients_together(contexts):
    images, labels = random_batches(1)[0]
    images = images.astype(np.float64)
    recipe = RECIPE.override(momentum=0.0, wd=0.0, optimizer='sgd')
    _, _, found = one_step(contexts, recipe, images, labels)
    mean = {name: gradient / len(labels) for name, gradient in found.items()}
    norm = np.sqrt(sum((g ** 2).sum() for g in mean.values()))
    start = net_without_bn(contexts).collect_params()
    for limit, scale in ((norm / 4, 0.25), (4 * norm, 1.0)):
        net, _, _ = one_step(contexts, recipe.override(clip_norm=limit), images, labels)
        for name, parameter in net.collect_params().items():
            for array in parameter.list_data():
                change = array.asnumpy() - start[name].data(contexts[0]).asnumpy()
                np.testing.assert_allclose(change, -recipe.lr * scale * mean[name], rtol=1e-6,
                                           atol=1e-12)


def test_clipping_by_value():
    images, labels = random_batches(1)[0]
    images = images.astype(np.float64)
    recipe = RECIPE.override(momentum=0.0, wd=0.0, optimizer='sgd', clip_value=1e-3)
    net, _, found = one_step([mx.cpu()], recipe, images, labels)
    start = net_without_bn([mx.cpu()]).collect_params()
    for name, parameter in net.collect_params().items():
        clipped = np.clip(found[name] / len(labels), -1e-3, 1e-3)
        assert (np.abs(clipped) < np.abs(found[name] / len(labels))).any()
        change = parameter.data().asnumpy() - start[name].data().asnumpy()
        np.testing.assert_allclose(change, -recipe.lr * clipped, rtol=1e-6, atol=1e-12)


def test_average_by_its_formula():
    net = net_without_bn(CONTEXTS[1])
    weight = net.output.weight
    average = WeightAverage(net, 0.75)
    expected = weight.data(mx.cpu(0)).asnumpy()
    for step in range(3):
        weight.set_data(weight.data(mx.cpu(0)) + step + 1)
        average.update()
        expected = 0.75 * expected + 0.25 * weight.data(mx.cpu(0)).asnumpy()
    now = weight.data(mx.cpu(0)).asnumpy()
    with average.applied():
        for array in weight.list_data():
            np.testing.assert_allclose(array.asnumpy(), expected, rtol=1e-6)
    for array in weight.list_data():
        np.testing.assert_array_equal(array.asnumpy(), now)
    other = WeightAverage(net, 0.75)
    other.set_arrays(average.arrays())
    for name, array in other.arrays().items():
        np.testing.assert_array_equal(array, average.arrays()[name])


def test_average_is_evaluated_and_takes_in_running_statistics(tmp_path):
    images, labels = random_batches(1, size=10)[0]
    validation = [EvalBatch(images, labels, np.arange(10))]
    loop = make_loop(tmp_path, random_batches(2), RECIPE.override(ema_decay=0.5),
                     validation=validation)
    numbers = loop.run(silent)
    assert {'g0_bn_moving_mean', 'g0_bn_gamma', 'fc_bias'} <= set(loop.average.arrays())
    with loop.average.applied():
        logits = loop.net(mx.nd.array(images)).asnumpy()
        average = parameters(loop.net)
    assert numbers['val_ema_top1'] == pytest.approx((logits.argmax(1) == labels).mean())
    assert numbers['val_ema_loss'] != numbers['val_loss'] and numbers['val_ema_count'] == 10
    own = parameters(loop.net)
    assert all(np.abs(average[name][0] - own[name][0]).max() > 0 for name in own)
    assert 'Epoch[2] Validation-ema_accuracy=' in (tmp_path / 'log.txt').read_text()


class InterruptedValidation:
    """Ten images; while they are read for the n-th time, the run is asked to stop."""

    def __init__(self, at):
        self.at, self.passes = at, 0

    def __iter__(self):
        self.passes += 1
        images, labels = random_batches(1, size=10)[0]
        if self.passes == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        yield EvalBatch(images, labels, np.arange(10))


def test_a_stop_while_the_average_is_evaluated_saves_the_weights(tmp_path):
    recipe, batches = RECIPE.override(ema_decay=0.5, num_epochs=2), random_batches(2)
    straight = make_loop(tmp_path / 'a', batches, recipe, validation=InterruptedValidation(0))
    straight.run(silent)
    stopped = make_loop(tmp_path / 'b', batches, recipe, validation=InterruptedValidation(2))
    with pytest.raises(Interrupted):
        stopped.run(silent)
    stopped.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'b' / 'checkpoints')[-1]
    resumed = make_loop(tmp_path / 'b', batches, recipe, resume=saved,
                        validation=InterruptedValidation(0))
    resumed.run(silent)
    assert_same_bits(parameters(straight.net), parameters(resumed.net))
    assert [m for m in read_metrics(tmp_path / 'a') if m['event'] == 'epoch'] == \
        [m for m in read_metrics(tmp_path / 'b') if m['event'] == 'epoch']


def test_the_average_does_not_change_the_training(tmp_path):
    batches = random_batches(3)
    loops = [make_loop(tmp_path / str(decay), batches, RECIPE.override(ema_decay=decay))
             for decay in (0.0, 0.9)]
    for loop in loops:
        loop.run(silent)
    assert_same_bits(*(parameters(loop.net) for loop in loops))


@pytest.mark.parametrize('contexts', CONTEXTS, ids=len)
def test_resuming_in_mid_epoch_with_everything_on_gives_the_same_bits(tmp_path, contexts):
    recipe = RECIPE.override(ema_decay=0.9, accumulate=2, cutmix_alpha=1.0, mixup_alpha=0.2,
                             clip_norm=1.0, label_smoothing=0.1, wd_mult={'*_gamma': 0.0},
                             schedule='cosine-torch', warmup_epochs=1)
    batches = random_batches(5)
    straight = make_loop(tmp_path / 'straight', batches, recipe, contexts)
    straight.run(silent)

    def interrupt(epoch, step):
        if (epoch, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
    stopped = make_loop(tmp_path / 'stopped', batches, recipe, contexts, before_step=interrupt)
    with pytest.raises(Interrupted):
        stopped.run(silent)
    stopped.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'stopped' / 'checkpoints')[-1]
    assert saved.name == '0001-000003'
    resumed = make_loop(tmp_path / 'stopped', batches, recipe, contexts, resume=saved)
    resumed.run(silent)
    assert_same_bits(parameters(straight.net), parameters(resumed.net))
    ours, theirs = (loop.average.arrays() for loop in (straight, resumed))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rates = [m['lr'] for m in read_metrics(tmp_path / 'stopped') if m['event'] == 'epoch']
    assert len(rates) == 3


def test_cutmix_pastes_one_box_and_says_what_is_left():
    images = random_batches(1, size=6, seed=4)[0][0]
    shares = []
    for seed in range(60):
        before = images.copy()
        pasted, share = cutmix(images, 1.0, np.random.default_rng(seed))
        np.testing.assert_array_equal(images, before)
        changed = (pasted != images).any(axis=(0, 1))
        rows, columns = changed.any(axis=1), changed.any(axis=0)
        np.testing.assert_array_equal(changed, rows[:, None] & columns[None, :])
        assert share == pytest.approx(1 - changed.mean(), abs=1e-6)
        np.testing.assert_array_equal(pasted[:, :, changed], images[::-1][:, :, changed])
        shares.append(share)
    assert min(shares) < 0.3 and max(shares) > 0.95 and 0.4 < np.mean(shares) < 0.9


def test_targets_of_cutmix_are_the_areas():
    images, labels = random_batches(1, size=6, seed=9)[0]
    recipe = RECIPE.override(cutmix_alpha=1.0)
    assert soft_targets(recipe) and not soft_targets(RECIPE)
    pasted, targets = soften(images, labels, 10, recipe, (5, 0, 1))
    again, share = cutmix(images, 1.0, np.random.default_rng((5, 0, 1)))
    np.testing.assert_array_equal(pasted, again)
    hard = np.eye(10, dtype=np.float32)[labels.astype(int)]
    np.testing.assert_allclose(targets, share * hard + (1 - share) * hard[::-1], atol=1e-7)


def test_with_both_each_batch_has_one_of_mixup_and_cutmix():
    images, labels = random_batches(1, size=6, seed=9)[0]
    recipe = RECIPE.override(cutmix_alpha=1.0, mixup_alpha=1.0)
    kinds = []
    for seed in range(40):
        mixed, _ = soften(images, labels, 10, recipe, (seed,))
        draw = np.random.default_rng((seed,))
        cut = draw.random() < 0.5
        expected, _ = (cutmix if cut else mixup)(images, 1.0, draw)
        np.testing.assert_array_equal(mixed, expected)
        kinds.append(cut)
    assert 10 < sum(kinds) < 30


# Each changes the weights of a run that is otherwise the same.
CHANGES = [
    dict(optimizer='sgd'), dict(optimizer='sgd-mxnet'), dict(optimizer='rmsprop', lr=1e-3),
    dict(optimizer='rmsprop', lr=1e-3, optimizer_settings={'centered': True}),
    dict(optimizer='adam', lr=1e-3), dict(optimizer='adam', lr=1e-3,
                                          optimizer_settings={'beta1': 0.5}),
    dict(optimizer='adadelta'), dict(momentum=0.5), dict(wd=0.1), dict(wd=0.1, decay='weights'),
    dict(wd=0.1, decay='weights-and-gamma'), dict(wd=0.1, wd_mult={'fc_weight': 0.0}),
    dict(lr_mult={'fc_weight': 2.0}), dict(lr_per=16), dict(schedule='cosine'),
    dict(schedule='cosine-torch'), dict(schedule='cosine-torch-1.0'), dict(schedule='poly'),
    dict(schedule='poly', lr_power=2.0), dict(warmup_epochs=1.0), dict(lr_steps=(1.0,)),
    dict(schedule='steps-torch', lr_epoch_step=1, lr_factor=0.5), dict(label_smoothing=0.1),
    dict(mixup_alpha=1.0), dict(cutmix_alpha=1.0), dict(mixup_alpha=1.0, cutmix_alpha=0.1),
    dict(clip_norm=0.1), dict(clip_value=1e-3), dict(accumulate=2)]


def test_every_key_of_the_recipe_changes_the_weights(tmp_path):
    batches, found = random_batches(2, size=4), {}
    short = RECIPE.override(num_epochs=2, batch_size=4)
    for number, changes in enumerate([{}, *CHANGES]):
        loop = make_loop(tmp_path / str(number), batches, short.override(**changes),
                         checkpoint_epochs=9)
        loop.run(silent)
        values = loop.net.collect_params()['g1_b1_p2_two1_conv1_weight'].data().asnumpy().tobytes()
        values += loop.net.output.weight.data().asnumpy().tobytes()
        assert values not in found, (changes, found[values])
        found[values] = changes


@pytest.mark.parametrize('name', ['adam', 'rmsprop'])
def test_optimisers_with_several_arrays_resume_to_the_same_bits(tmp_path, name):
    recipe = RECIPE.override(optimizer=name, lr=1e-3, num_epochs=2)
    batches = random_batches(2, size=4)
    straight = make_loop(tmp_path / 'straight', batches, recipe)
    straight.run(silent)
    first = make_loop(tmp_path / 'parts', batches, recipe.override(num_epochs=1))
    first.run(silent)
    first.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'parts' / 'checkpoints')[-1]
    second = make_loop(tmp_path / 'parts', batches, recipe, resume=saved)
    second.run(silent)
    assert_same_bits(parameters(straight.net), parameters(second.net))


@pytest.mark.parametrize('count', [1, 200, 201, 450])
def test_gradients_of_any_number_of_parameters_are_checked(count):
    """MXNet's own operator takes 200 arrays and dies on more; IGCV3 has 296, dydensenet86 887."""
    parameters = [gluon.Parameter('p%d' % number, shape=(3,)) for number in range(count)]
    for parameter in parameters:
        parameter.initialize(ctx=mx.cpu())
        parameter.grad()[:] = 1
    flag, = gradients.all_finite(parameters, [mx.cpu()])
    assert flag.asscalar() == 1
    for number in {0, count // 2, count - 1}:
        parameters[number].grad()[1] = np.nan
        flag, = gradients.all_finite(parameters, [mx.cpu()])
        assert flag.asscalar() == 0
        parameters[number].grad()[1] = 1
