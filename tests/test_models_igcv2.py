"""IGCV2: the conditions on its branch sizes, and the paths that they promise."""

import itertools
import math
import random

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.errors import UsageError
from igcnet.layers.igcv2 import IGCV2Unit, balanced_branch_sizes, check_branch_sizes


def paths(channels, branch_sizes):
    """Number of paths [output, input] through the 1x1 layers of a unit, by running them."""
    unit = IGCV2Unit('unit', channels, channels, branch_sizes)
    x = mx.nd.array(np.eye(channels, dtype='float32').reshape(channels, channels, 1, 1))
    for number in range(2, len(branch_sizes) + 2):
        mix = getattr(unit, 'mix%d' % number)
        mix.initialize(mx.init.One())
        x = getattr(unit, 'shuffle%d' % number)(mix(x))
    return x.asnumpy()[:, :, 0, 0].T


def divisor_products(smallest, largest, layers):
    """(C, K_2..K_L) with each K a divisor of C."""
    for channels in range(smallest, largest + 1):
        divisors = [d for d in range(2, channels + 1) if channels % d == 0]
        for sizes in itertools.product(divisors, repeat=layers - 1):
            yield channels, sizes


def sample(cases, count, seed):
    return random.Random(seed).sample(list(cases), count)


STRICT = [case for layers in (2, 3, 4, 5) for case in sample(
    (case for case in divisor_products(4, 64, layers) if math.prod(case[1]) == case[0]), 12,
    layers)]
LOOSE = [case for layers in (2, 3, 4) for case in sample(
    (case for case in divisor_products(4, 64, layers) if math.prod(case[1]) < case[0]), 12,
    layers)]
PLANS = [(560, (20, 28)), (416, (16, 26)), (576, (24, 24))]


@pytest.mark.parametrize('channels, branch_sizes', STRICT + PLANS)
def test_strict_condition_gives_exactly_one_path(channels, branch_sizes):
    assert (paths(channels, branch_sizes) == 1).all()


@pytest.mark.parametrize('channels, branch_sizes', LOOSE + [(416, (8, 8)), (832, (8, 8))])
def test_loose_condition_gives_at_most_one_path(channels, branch_sizes):
    found = paths(channels, branch_sizes)
    assert set(np.unique(found)) == {0, 1}
    assert (found.sum(axis=0) == math.prod(branch_sizes)).all()
    assert (found.sum(axis=1) == math.prod(branch_sizes)).all()


@pytest.mark.parametrize('channels, branch_sizes', sample(
    (case for case in divisor_products(4, 40, 3) if math.prod(case[1]) > case[0]), 20, 0))
def test_larger_products_give_several_paths(channels, branch_sizes):
    assert paths(channels, branch_sizes).max() > 1
    for complementary in ('strict', 'loose'):
        with pytest.raises(UsageError, match='complementary condition'):
            check_branch_sizes('here', channels, branch_sizes, complementary)


def test_strict_condition_restores_the_order_of_channels():
    unit = IGCV2Unit('unit', 24, 24, (2, 3, 4))
    x = mx.nd.arange(24).reshape((1, 24, 1, 1))
    for number in (2, 3, 4):
        x = getattr(unit, 'shuffle%d' % number)(x)
    np.testing.assert_array_equal(x.asnumpy().ravel(), np.arange(24))


@pytest.mark.parametrize('count', [1, 2, 3, 4])
@pytest.mark.parametrize('product', [2, 7, 16, 36, 60, 97, 210, 560, 1120, 2240])
def test_balanced_sizes_are_the_best_factors(product, count):
    divisors = [d for d in range(2, product + 1) if product % d == 0]
    every = [sizes for sizes in itertools.combinations_with_replacement(divisors, count)
             if math.prod(sizes) == product]
    found = balanced_branch_sizes(product, count)
    if not every:
        assert found is None
    else:
        assert found in every
        assert sum(found) == min(map(sum, every))


def test_balanced_sizes_have_the_fewest_parameters():
    """In a unit of 64 channels, over all strict branch sizes: 8 x 8, the square root."""
    def parameters(sizes):
        unit = IGCV2Unit('unit', 64, 64, sizes)
        return sum(int(np.prod(p.shape)) for name, p in unit.collect_params().items()
                   if name.endswith('weight'))

    every = [sizes for _, sizes in divisor_products(64, 64, 3) if math.prod(sizes) == 64]
    assert min(every, key=parameters) == (8, 8) == balanced_branch_sizes(64, 2)
    assert parameters((8, 8)) == 64 * 9 + 64 * (8 + 8)


@pytest.mark.parametrize('settings, message', [
    (dict(channels=416, branch_sizes=(8, 8)),
     'stage g1: the complementary condition needs branch sizes whose product is 416 channels, '
     'not 8 x 8 = 64; 16 x 26 would do'),
    (dict(channels=416, branch_sizes=(16, 26, 26, 32, 26, 32)),
     'stage g3: the complementary condition needs branch sizes whose product is 1664 channels, '
     'not 26 x 32 = 832; 32 x 52 would do'),
    (dict(branch_sizes=(16, 35, 32, 35, 40, 56)),
     'stage g1: branch sizes 16 x 35 = 560 are not balanced: their sum is 51, that of 20 x 28 '
     'is 48'),
    (dict(channels=416, branch_sizes=(4, 16), complementary='loose'),
     'stage g1: branch sizes 4 x 16 = 64 are not balanced: their sum is 20, that of 8 x 8 is 16'),
    (dict(channels=48, branch_sizes=(8, 8), complementary='loose'),
     'stage g1: the complementary condition needs branch sizes whose product is at most 48 '
     'channels, not 8 x 8 = 64; 6 x 8 would do'),
    (dict(channels=24, branch_sizes=(5, 4), complementary='loose'),
     'stage g1: 24 channels do not divide into branches of 5'),
    (dict(branch_sizes=(1, 560)), 'stage g1: branch size 1: must be a whole number of at least 2'),
    (dict(channels=7), 'channels=7: the 7 channels of a stage are not a product of 2 whole '
                       'numbers above 1'),
    (dict(branch_sizes=(4, 5, 28)), 'branch_sizes=(4, 5, 28): with layers=3 there must be 2 '
                                    'numbers for all stages or 6 for each in turn'),
    (dict(branch_sizes=20), 'branch_sizes=20: with layers=3 there must be 2 numbers for all '
                            'stages or 6 for each in turn'),
    (dict(complementary='loose'), "branch_sizes: must be given with complementary='loose'"),
    (dict(complementary='no'), "complementary='no': must be 'strict' or 'loose'"),
    (dict(layers=1), 'layers=1: must be a whole number of at least 2'),
    (dict(classes=0), 'classes=0: must be a whole number of at least 1'),
])
def test_conditions_are_checked_at_construction(settings, message):
    with pytest.raises(UsageError) as caught:
        igcnet.get_model('igcv2', **settings)
    assert str(caught.value) == message


def test_plan_of_the_published_row():
    net = igcnet.get_model('igcv2_c560_cifar100')
    groups = {}
    for stage in net.stages:
        units = list(getattr(net.features, stage.name))
        assert len(units) == 6
        groups[stage.channels] = [
            (unit.mix2._kwargs['num_group'], unit.mix3._kwargs['num_group']) for unit in units]
        assert [unit.spatial._kwargs['stride'] for unit in units] == (
            [(min(stage.stride, 2),) * 2] + 5 * [(1, 1)])
    assert groups == {560: 6 * [(28, 20)], 1120: 6 * [(35, 32)], 2240: 6 * [(56, 40)]}


def test_more_layers():
    net = igcnet.get_model('igcv2', channels=24, layers=4, depth=5)
    unit = net.features.g3.b1
    assert [layer.weight.shape for layer in (unit.mix2, unit.mix3, unit.mix4)] == [
        (96, 4, 1, 1), (96, 4, 1, 1), (96, 6, 1, 1)]
    assert unit.spatial.weight.shape == (96, 1, 3, 3)
    given = igcnet.get_model('igcv2', channels=24, depth=5, branch_sizes=(4, 6, 6, 8, 8, 12))
    assert [stage.b1.mix2._kwargs['num_group'] for stage in (
        given.features.g1, given.features.g2, given.features.g3)] == [6, 8, 12]
    xception = igcnet.get_model('igcv2', channels=8, layers=2, depth=5)
    assert xception.features.g2.b1.mix2.weight.shape == (16, 16, 1, 1)


@pytest.mark.parametrize('settings', [
    dict(channels=24, depth=5, classes=10),
    dict(channels=26, depth=8, branch_sizes=(2, 2), complementary='loose', classes=10)])
def test_imperative_and_hybridised_training(settings):
    x = mx.nd.random.normal(shape=(3, 3, 32, 32))
    found = []
    for hybrid in (False, True):
        mx.random.seed(11)
        net = igcnet.get_model('igcv2', **settings)
        net.initialize()
        if hybrid:
            net.hybridize(static_alloc=True, static_shape=True)
        evaluated = net(x).asnumpy()
        with mx.autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        found.append((evaluated, {name: p.grad().asnumpy() for name, p in
                                  net.collect_params().items() if p.grad_req != 'null'}))
    (plain, plain_gradients), (hybrid, hybrid_gradients) = found
    assert plain.shape == (3, 10)
    np.testing.assert_allclose(plain, hybrid, atol=1e-5)
    for name, gradient in plain_gradients.items():
        scale = np.abs(gradient).max()
        assert scale > 0, name
        assert np.abs(gradient - hybrid_gradients[name]).max() < 1e-3 * scale, name


def test_down_sampling_unit_makes_two_channels_of_each():
    mx.random.seed(2)
    unit = IGCV2Unit('unit', 4, 8, (2, 4), strides=2)
    unit.initialize()
    x = mx.nd.zeros((1, 4, 6, 6))
    x[:, 1] = 1
    changed = unit.spatial(x).asnumpy()
    assert changed.shape == (1, 8, 3, 3)
    assert [bool(np.abs(channel).max()) for channel in changed[0]] == [
        False, False, True, True, False, False, False, False]
