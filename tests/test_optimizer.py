"""The originals' optimisers, against plain NumPy and against PyTorch."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from igcnet import native
from igcnet.errors import UsageError
from igcnet.train.optimizer import RULES, Nesterov, find_rule, make_optimizer
from igcnet.train.recipes import Recipe
from igcnet.train.schedules import MultiFactor

RECIPE = Recipe('test', num_epochs=1, batch_size=8, lr=0.1, wd=1e-2)
RATES = [.1, .1, .01, .01, .001, .001]
# Name in RULES, settings, and PyTorch's class and arguments.
TORCH = [
    ('nesterov', {}, 'SGD', dict(momentum=0.9, nesterov=True)),
    ('sgd', {}, 'SGD', dict(momentum=0.9)),
    ('rmsprop', {}, 'RMSprop', dict(momentum=0.9)),
    ('rmsprop', dict(alpha=0.9, epsilon=1.0), 'RMSprop', dict(alpha=0.9, eps=1.0, momentum=0.9)),
    ('rmsprop', dict(centered=True), 'RMSprop', dict(momentum=0.9, centered=True)),
    # Today's Adam corrects the root before it adds epsilon, so only a tiny one compares.
    ('adam', dict(beta1=0.8, epsilon=1e-15), 'Adam', dict(betas=(0.8, 0.999), eps=1e-15)),
    ('adadelta', {}, 'Adadelta', dict(rho=0.9, eps=1e-6)),
    ('adadelta', dict(rho=0.5, epsilon=0.1), 'Adadelta', dict(rho=0.5, eps=0.1)),
]


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
    return array.asnumpy(), [each.asnumpy() for each in state] if isinstance(
        state, tuple) else state.asnumpy()


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


@pytest.mark.parametrize('name, settings, theirs, arguments', TORCH)
def test_equals_pytorch_across_drops_of_the_rate(problem, name, settings, theirs, arguments):
    torch = pytest.importorskip('torch')
    weight, gradients = problem
    recipe = RECIPE.override(optimizer=name, optimizer_settings=settings)
    ours, _ = run_steps(make_optimizer(recipe, MultiFactor(0.1, 0.1, [2, 4])), weight, gradients)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = getattr(torch.optim, theirs)([parameter], lr=0.1, weight_decay=1e-2, **arguments)
    for gradient, rate in zip(gradients, RATES):
        optimizer.param_groups[0]['lr'] = rate
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=1e-6, atol=1e-9)
    assert np.abs(ours - weight).max() > 1e-4


def test_mxnets_sgd_is_the_builtin_one(problem):
    weight, gradients = problem
    schedule = MultiFactor(0.1, 0.1, [2, 4])
    recipe = RECIPE.override(optimizer='sgd-mxnet')
    builtin = mx.optimizer.SGD(momentum=0.9, learning_rate=0.1, wd=1e-2, lr_scheduler=schedule)
    found, expected = (run_steps(rule, weight, gradients)[0]
                       for rule in (make_optimizer(recipe, schedule), builtin))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    other, _ = run_steps(make_optimizer(RECIPE.override(optimizer='sgd'), schedule), weight,
                         gradients)
    assert np.abs(found - other).max() > 1e-3  # the rate drops


def test_adam_adds_epsilon_before_the_correction(problem):
    weight, gradients = problem
    recipe = RECIPE.override(optimizer='adam', wd=0.0, optimizer_settings={'epsilon': 0.1})
    found, (mean, square) = run_steps(make_optimizer(recipe, None), weight, gradients[:1])
    first = gradients[0]
    np.testing.assert_allclose(mean, 0.1 * first, rtol=1e-6)
    np.testing.assert_allclose(square, 0.001 * first ** 2, rtol=1e-5)
    step = 0.1 * np.sqrt(0.001) / 0.1 * mean / (np.sqrt(square) + 0.1)
    np.testing.assert_allclose(found, weight - step, rtol=1e-6)


def test_settings_of_a_recipe_reach_the_rule():
    made = make_optimizer(RECIPE.override(momentum=0.5, clip_value=0.25), None)
    assert (made.momentum, made.clip_gradient, made.wd) == (0.5, 0.25, 1e-2)
    for name, rule in RULES.items():
        assert find_rule(RECIPE.override(optimizer=name)) == (rule, rule.SETTINGS)
        assert type(make_optimizer(RECIPE.override(optimizer=name), None)) is rule


@pytest.mark.parametrize('values, message', [
    (dict(optimizer='adamw'), 'optimizer=adamw: must be one of nesterov, sgd, sgd-mxnet'),
    (dict(optimizer_settings={'alpha': 1.0}), "optimizer nesterov has no setting 'alpha'"),
    (dict(optimizer='rmsprop', optimizer_settings={'alpha': 'x'}), "alpha='x': must be like 0.99"),
])
def test_wrong_optimizers(values, message):
    with pytest.raises(UsageError, match=message):
        find_rule(RECIPE.override(**values))


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


def test_one_operator_for_all_parameters_after_inference():
    """Inference leaves weights in the CPU library's own layout, gradients come in it: neither must
    get lost or be misread."""
    if native.missing():
        pytest.skip(native.missing())
    draw = np.random.RandomState(0)
    x = mx.nd.array(draw.normal(size=(8, 32, 8, 8)))
    layer = dict(kernel=(3, 3), pad=(1, 1), num_filter=32, no_bias=True)
    weights = [mx.nd.array(draw.normal(size=(32, 32, 3, 3))) for _ in range(6)]
    for weight in weights:
        weight.attach_grad()
        with autograd.record():
            loss = mx.nd.square(mx.nd.Convolution(x, weight, **layer)).sum()
        loss.backward()
        mx.nd.Convolution(x, weight, **layer)
    gradients = [weight.grad for weight in weights]
    settings = dict(momentum=0.9, learning_rate=0.1, wd=0.01, rescale_grad=1 / 64)
    momenta = [draw.normal(size=weight.shape) for weight in weights]
    expected, found = ([mx.nd.array(each) for each in momenta] for _ in range(2))
    alone = [weight.copy() for weight in weights]
    rule = Nesterov(**settings)
    for each in zip(range(6), alone, gradients, expected):
        rule.update(*each)
    Nesterov(**settings).update(list(range(6)), weights, gradients, found)
    for one, other in zip(alone + expected, weights + found):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
