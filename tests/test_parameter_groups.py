"""Decay rules, multipliers and frozen parameters."""

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.errors import UsageError
from igcnet.layers.init import INITIALIZERS, find_initializer
from igcnet.train.parameter_groups import freeze, learned, set_multipliers
from igcnet.train.recipes import Recipe

RECIPE = Recipe('test', num_epochs=1, batch_size=4, lr=0.1)


def network(name='igcv3', **settings):
    net = igcnet.get_model(name, **settings)
    net.initialize()
    return net


def decayed(net, **values):
    set_multipliers(net, RECIPE.override(**values))
    return {name for name, p in net.collect_params().items() if p.wd_mult == 1}


def test_decay_rules():
    net = network(deep=False, width=0.25)
    parameters = net.collect_params()
    names = {p.name for p in learned(net)}
    assert names <= decayed(net, decay='all')
    weights = {name for name in names if name.endswith('_weight')}
    assert decayed(net, decay='weights') == weights
    module = decayed(net, decay='weights-and-gamma')
    assert module == {name for name in names if name.endswith(('_weight', '_gamma'))}
    selective = decayed(net, decay='weights-not-depthwise')
    depthwise = {name for name in weights if parameters[name].shape[1:] == (1, 3, 3)}
    assert len(depthwise) == 17 and selective == weights - depthwise
    assert 'fc_weight' in selective and 'fc_bias' not in module


def test_selective_decay_of_the_mutualnet_original():
    net = network('mobilenet_v1_us', classes=10)
    # wd for 4-D weights whose second dimension is not 1 and for 2-D weights, 0 for all others.
    expected = {name for name, p in net.collect_params().items()
                if len(p.shape) == 4 and p.shape[1] != 1 or len(p.shape) == 2}
    assert decayed(net, decay='weights-not-depthwise') == expected and len(expected) == 15


def test_multipliers_of_patterns_come_after_the_rule():
    net = network('resnet_igc', depth=8, primary_partition=2, secondary_partition=2)
    set_multipliers(net, RECIPE.override(
        decay='weights', wd_mult={'*_gamma': 0.5, 'g0_*': 0.0, 'g0_bn_gamma': 2.0},
        lr_mult={'fc_*': 10.0}))
    found = {name: (p.wd_mult, p.lr_mult) for name, p in net.collect_params().items()}
    assert found['g0_conv_weight'] == (0, 1) and found['g0_bn_gamma'] == (2, 1)
    assert found['g1_b1_p2_two1_bn_gamma'] == (0.5, 1) and found['fc_weight'] == (1, 10)
    assert found['fc_bias'] == (0, 10)
    with pytest.raises(UsageError, match=r'wd_mult conv\*: no parameter .* g0_conv_weight'):
        set_multipliers(net, RECIPE.override(wd_mult={'conv*': 1.0}))


def test_frozen_parameters_and_statistics_stay(tmp_path):
    net = network('resnet_igc', depth=8, primary_partition=2, secondary_partition=2)
    frozen = freeze(net, ['g0_*', 'g1_*conv?_weight'])
    assert 'g0_bn_moving_mean' in frozen and 'g1_b1_p2_two1_conv1_weight' in frozen
    assert not {p.name for p in learned(net)} & set(frozen)
    net.hybridize()
    before = {name: p.data().asnumpy() for name, p in net.collect_params().items()}
    trainer = mx.gluon.Trainer(learned(net), 'sgd', {'learning_rate': 0.1, 'wd': 0.1})
    x = mx.nd.random.normal(shape=(4, 3, 32, 32))
    with mx.autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    trainer.step(4)
    changed = {name for name, p in net.collect_params().items()
               if (p.data().asnumpy() != before[name]).any()}
    assert not changed & set(frozen)
    # The BN layers of the stage whose convolutions alone are frozen learn on.
    assert {'g1_b1_p2_two1_bn_gamma', 'g1_b1_p2_two1_bn_moving_mean', 'fc_weight'} <= changed


def test_frozen_bn_normalises_by_its_running_statistics():
    net = network('resnet_igc', depth=8, primary_partition=2, secondary_partition=2)
    for parameter in net.collect_params('.*moving_var').values():
        parameter.set_data(mx.nd.ones(parameter.shape))
    freeze(net, ['*gamma', '*beta'])
    net.hybridize()
    x = mx.nd.random.normal(shape=(4, 3, 32, 32))
    with mx.autograd.record():
        trained = net(x)
    np.testing.assert_allclose(trained.asnumpy(), net(x).asnumpy(), rtol=1e-4, atol=1e-5)


def test_frozen_bn_is_not_left_to_the_native_operators(capsys):
    net = network('resnet_igc', depth=8, primary_partition=2, secondary_partition=2)
    freeze(net, ['g1_b1_p2_two1_bn_*'])
    assert net.set_lowering('native') == 'blocked'
    assert 'no batch normalisation that keeps its statistics' in capsys.readouterr().err


@pytest.mark.parametrize('patterns, message', [
    (['g9_*'], r'--freeze g9_\*: no parameter'), (['*'], 'no parameter is left to learn')])
def test_wrong_patterns(patterns, message):
    with pytest.raises(UsageError, match=message):
        freeze(network('resnet_igc', depth=8), patterns)


def test_bn_of_slimmable_networks_cannot_be_frozen():
    net = igcnet.get_model('mobilenet_v1_us', classes=10)
    assert freeze(net, ['*_weight'])
    with pytest.raises(UsageError, match='statistics of its own for each width'):
        freeze(net, ['*gamma', '*beta'])


@pytest.mark.parametrize('name', INITIALIZERS)
def test_every_initialisation_suits_any_network(name):
    mx.random.seed(1)
    net = igcnet.get_model('mobilenet', width_mul=0.25, classes=10)
    net.initialize(find_initializer(name))
    weight = net.collect_params()['dw_conv_5_weight']
    points = net.collect_params()['pw_conv_5_weight']
    fans = {'in': (9, points.shape[1]), 'out': (9 * weight.shape[0], points.shape[0])}
    fan = fans['in' if name in ('igc', 'igcv3-mxnet', 'menet-fan-in') else 'out']
    for parameter, count in zip((weight, points), fan):
        values = parameter.data().asnumpy()
        assert values.std() == pytest.approx(np.sqrt(2 / count), rel=0.15)


def test_unknown_initialisation_lists_all():
    with pytest.raises(UsageError, match='init=msra: must be one of igc, igcv3'):
        find_initializer('msra')
