"""The Nesterov rule of the IGC original, against plain NumPy."""

import mxnet as mx
import numpy as np
import pytest

from igcnet import native
from igcnet.train.optimizer import Nesterov
from igcnet.train.schedules import MultiFactor


def reference_steps(weight, gradients, rates, momentum, wd, rescale):
    moment = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates):
        step = gradient * rescale + wd * weight
        moment = momentum * moment + step
        weight = weight - rate * (step + momentum * moment)
    return weight, moment


def run_steps(optimizer, weight, gradients):
    array = mx.nd.array(weight, dtype='float64')
    state = optimizer.create_state(0, array)
    for gradient in gradients:
        optimizer.update(0, array, mx.nd.array(gradient, dtype='float64'), state)
    return array.asnumpy(), state.asnumpy()


@pytest.fixture
def problem():
    draw = np.random.RandomState(3)
    return draw.normal(size=(4, 5)), [draw.normal(size=(4, 5)) for _ in range(6)]


def test_equals_the_formula_across_a_drop_of_the_rate(problem):
    weight, gradients = problem
    optimizer = Nesterov(momentum=0.9, learning_rate=0.1, wd=1e-2, rescale_grad=0.125,
                         lr_scheduler=MultiFactor(0.1, 0.1, [2, 4]))
    expected = reference_steps(weight, gradients, [.1, .1, .01, .01, .001, .001], 0.9, 1e-2, 0.125)
    for found, wanted in zip(run_steps(optimizer, weight, gradients), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_is_not_the_builtin_rule_after_a_drop(problem):
    weight, gradients = problem
    settings = dict(momentum=0.9, learning_rate=0.1, wd=1e-2)
    ours = run_steps(Nesterov(lr_scheduler=MultiFactor(0.1, 0.1, [2]), **settings), weight,
                     gradients)[0]
    builtin = mx.optimizer.NAG(lr_scheduler=MultiFactor(0.1, 0.1, [2]), **settings)
    array = mx.nd.array(weight, dtype='float64')
    state = builtin.create_state(0, array)
    for gradient in gradients:
        builtin.update(0, array, mx.nd.array(gradient, dtype='float64'), state)
    assert np.abs(ours - array.asnumpy()).max() > 1e-3


def test_decay_multiplier_and_clipping(problem):
    weight, gradients = problem
    undecayed = Nesterov(momentum=0.9, learning_rate=0.1, wd=1e-2, clip_gradient=0.5,
                         param_idx2name={0: 'bn_gamma'})
    undecayed.set_wd_mult({'bn_gamma': 0.0})
    clipped = [np.clip(gradient, -0.5, 0.5) for gradient in gradients]
    expected = reference_steps(weight, clipped, [0.1] * 6, 0.9, 0.0, 1.0)
    for found, wanted in zip(run_steps(undecayed, weight, gradients), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_begin_num_update_continues_the_schedule(problem):
    weight, gradients = problem
    optimizer = Nesterov(momentum=0.0, learning_rate=1.0, begin_num_update=4,
                         lr_scheduler=MultiFactor(1.0, 0.1, [5]))
    found, _ = run_steps(optimizer, weight, gradients[:2])
    np.testing.assert_allclose(found, weight - gradients[0] - 0.1 * gradients[1], rtol=1e-6)


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
@pytest.mark.parametrize('clip', [None, 0.5])
def test_one_update_of_all_parameters_has_the_same_bits(clip):
    """What a Trainer does with the operator of the native library, and without."""
    shapes = [(3,), (40, 50, 9), (1,), (7, 5), (8, 8)]
    found = []
    for together in (True, False):
        draw = np.random.RandomState(5)
        weights = [mx.nd.array(draw.normal(size=shape)) for shape in shapes]
        rule = Nesterov(momentum=0.9, learning_rate=0.3, wd=1e-2, rescale_grad=1 / 96,
                        clip_gradient=clip, lr_scheduler=MultiFactor(0.3, 0.1, [2]),
                        param_idx2name=dict(enumerate('abcde')))
        rule.set_wd_mult({'b': 0.0})
        if not together:
            rule.aggregate_num = 0
        updater = mx.optimizer.get_updater(rule)
        for _ in range(4):
            updater(list(range(len(shapes))),
                    [mx.nd.array(draw.normal(0, 60, size=shape)) for shape in shapes], weights)
        found.append(weights + [updater.states[i] for i in range(len(shapes))])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())


def test_lists_of_other_types_are_updated_one_by_one(problem):
    weight, gradients = problem
    rule = Nesterov(momentum=0.9, learning_rate=0.1)
    array, state = mx.nd.array(weight, dtype='float64'), mx.nd.zeros((4, 5), dtype='float64')
    rule.update([0], [array], [mx.nd.array(gradients[0], dtype='float64')], [state])
    expected, _ = reference_steps(weight, gradients[:1], [0.1], 0.9, 0, 1)
    np.testing.assert_allclose(array.asnumpy(), expected, rtol=1e-9)
