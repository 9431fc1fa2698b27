"""The training method of dynamic group convolution: the original's steps, schedule and resuming."""

import os
import signal

import mxnet as mx
import numpy as np
import pytest
from comparing import maximum_difference, relative_difference
from loops import RECIPE, assert_same_bits, make_loop, parameters, random_batches, silent
from test_convert_dgc import (
    RUNS,
    TRAINING_TOLERANCES,
    Original,
)

import igcnet
from igcnet.convert.families.dgc import torch_names
from igcnet.errors import UsageError
from igcnet.layers.dynamic import inactive_count
from igcnet.train import checkpoint
from igcnet.train.dgc import DynamicGroups
from igcnet.train.methods import Place
from igcnet.train.recipes import Recipe
from igcnet.train.stopping import Interrupted

SMALL = dict(stages='1-1-1', growth='4-8-8', heads=2, squeeze_rate=4)
DYNAMIC = RECIPE.override(method='dgc', num_epochs=4)


def dynamic_net(contexts, dtype='float32', lowering='blocked', name='dydensenet', **settings):
    mx.random.seed(1)
    net = igcnet.get_model(name, **(settings or SMALL))
    net.cast(dtype)
    net.initialize(ctx=contexts)
    net.set_lowering(lowering)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def plain_net(contexts, dtype='float32'):
    return dynamic_net(contexts, dtype, name='densenet', stages='1-1-1', growth='4-8-8')


@pytest.mark.parametrize('case, name', RUNS, ids=lambda value: value)
def test_a_step_of_the_original(shared_fixtures, case, name):
    """Progress, counts, loss and gradients of one update, from its place in the run alone."""
    original = Original(shared_fixtures('dgc'), case)
    facts, = (run for run in original.facts['train_runs'] if run['name'] == name)
    stored = {key[len(name) + 1:]: value for key, value in original.arrays.items()
              if key.startswith(name + '.')}
    net = original.net()
    net.set_lowering('blocked')
    recipe = Recipe('original', facts['epochs'], 4, 0.1, method='dgc', method_settings={
        'group_lasso_lambda': facts['group_lasso_lambda']})
    method = DynamicGroups(net, recipe, 0, facts['n_batches'])
    images, labels = (original.arrays[key] for key in ('train_x', 'train_labels'))
    outcome = method.gradients(Place(facts['epoch'], facts['iteration']), images,
                               labels.astype(np.float32), [mx.cpu()])
    assert [layer.inactive for layer in net.dynamic_layers] == facts['inactive_channels']
    logits_tolerance, tolerance = TRAINING_TOLERANCES[original.facts['network'], 'float32']
    assert maximum_difference(outcome.outputs[0], stored['logits']) < logits_tolerance
    assert outcome.losses[0].asnumpy().mean() == pytest.approx(stored['total_loss'], abs=1e-4)
    names = torch_names(net)
    gradients = {names[path]: p.grad() for path, p in net._collect_params_with_prefix().items()
                 if p.grad_req != 'null'}
    watched = [key[len('grad.'):] for key in stored if key.startswith('grad.')]
    assert len(watched) == 4
    for key in watched:  # ours are summed over the batch
        assert relative_difference(gradients[key] / len(labels),
                                   stored['grad.' + key]) < tolerance, key


def test_counts_follow_the_steps_without_a_new_graph(tmp_path):
    batches, seen, graphs = random_batches(6), [], set()

    def look(epoch, step):
        seen.append([layer.inactive for layer in loop.net.dynamic_layers])
        graphs.add(id(loop.method.block._cached_op))
    loop = make_loop(tmp_path, batches, DYNAMIC, before_step=look,
                     net=dynamic_net([mx.cpu()]))
    loop.run(silent)
    layers = loop.net.dynamic_layers
    # What a step finds was set by the one before it.
    for number, counts in enumerate(seen[1:]):
        expected = [inactive_count(number / 24, layer.in_channels, layer.gate_factor) or 0
                    for layer in layers]
        assert counts == expected
    assert seen[-1] == [6, 9, 15]
    assert len(graphs - {id(None)}) == 1


@pytest.mark.parametrize('contexts', [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]])
def test_resuming_in_mid_epoch_gives_the_same_bits(tmp_path, contexts):
    batches = random_batches(5)
    straight = make_loop(tmp_path / 'straight', batches, DYNAMIC, contexts,
                         net=dynamic_net(contexts))
    straight.run(silent)

    def interrupt(epoch, step):
        if (epoch, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
    stopped = make_loop(tmp_path / 'stopped', batches, DYNAMIC, contexts, before_step=interrupt,
                        net=dynamic_net(contexts))
    with pytest.raises(Interrupted):
        stopped.run(silent)
    stopped.log.close()
    saved = checkpoint.checkpoints(tmp_path / 'stopped' / 'checkpoints')[-1]
    assert saved.name == '0001-000003'
    resumed = make_loop(tmp_path / 'stopped', batches, DYNAMIC, contexts, resume=saved,
                        net=dynamic_net(contexts))
    # Held from the checkpoint: at the next step the schedule alone decides again.
    assert [layer.inactive for layer in resumed.net.dynamic_layers] == [
        inactive_count(7 / 20, layer.in_channels, 0.25) for layer in resumed.net.dynamic_layers]
    resumed.run(silent)
    assert_same_bits(parameters(straight.net), parameters(resumed.net))
    assert resumed.net.dynamic_layers[0].inactive == 6


def test_a_plain_network_trains_as_by_the_plain_method(tmp_path):
    found = []
    for method in ('plain', 'dgc'):
        loop = make_loop(tmp_path / method, random_batches(3), DYNAMIC.override(
            method=method, num_epochs=1), net=plain_net([mx.cpu()]))
        loop.run(silent)
        found.append(parameters(loop.net))
    assert_same_bits(*found)


def test_the_factor_of_the_lasso_term_changes_the_loss_and_the_selectors():
    images, labels = random_batches(1)[0]
    found = []
    for factor in (0.0, 0.5):
        net = dynamic_net([mx.cpu()])
        method = DynamicGroups(net, DYNAMIC.override(
            method_settings={'group_lasso_lambda': factor}), 0, 4)
        with mx.autograd.train_mode():
            lasso = method.block(mx.nd.array(images))[1].asnumpy()
        outcome = method.gradients(Place(0, 0), images, labels, [mx.cpu()])
        bias = net.dynamic_layers[-1].heads[0].fc2.bias  # in no other layer's term
        found.append((outcome.losses[0].asnumpy(), bias.grad().asnumpy()))
    (without, gradient), (with_lasso, other) = found
    np.testing.assert_allclose(with_lasso - without, 0.5 * lasso.sum(axis=1), rtol=1e-3)
    # The mean over the channels, of every saliency that is not 0, for each of eight images.
    assert (other - gradient).max() == pytest.approx(0.5 * 8 / len(other), rel=1e-3)


def test_smoothing_and_mixing_reach_the_method():
    images, labels = random_batches(1)[0]
    losses = []
    for smoothing in (0.0, 0.2):
        recipe = DYNAMIC.override(label_smoothing=smoothing)
        method = DynamicGroups(dynamic_net([mx.cpu()]), recipe, 0, 4)
        outcome = method.gradients(Place(0, 0), images, labels, [mx.cpu()])
        losses.append(outcome.losses[0].asnumpy())
    assert np.abs(losses[0] - losses[1]).max() > 1e-3


def test_refuses():
    net = dynamic_net([mx.cpu()])
    with pytest.raises(UsageError, match='group_lasso_lambda=-1: must be at least 0'):
        DynamicGroups(net, DYNAMIC.override(method_settings={'group_lasso_lambda': -1.0}), 0, 4)
    net.output.weight._ctx_list = [mx.gpu(1)]
    with pytest.raises(UsageError, match="on a GPU have 'stock' alone"):
        DynamicGroups(net, DYNAMIC, 0, 4)
