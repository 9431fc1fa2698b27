"""IGCV3 and MobileNetV2: widths, strides, forms, initialisation, training, export."""

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.convert.families import igcv3 as igcv3_map
from igcnet.convert.families import mobilenetv2 as mobilenetv2_map
from igcnet.errors import UsageError
from igcnet.layers.inverted_residual import InvertedResidual
from igcnet.models.igcv3 import DEEPER_STAGES
from igcnet.models.mobilenetv2 import CHANNEL_RULES, plan_network


def difference(left, right):
    left, right = (a.asnumpy() if isinstance(a, mx.nd.NDArray) else a for a in (left, right))
    assert left.shape == right.shape
    return np.abs(left - right).max()


def randomised(net):
    """The network with parameters that are all far from their defaults."""
    mx.random.seed(7)
    net.initialize(mx.init.Xavier('gaussian', 'in', 2))
    for parameter in net.collect_params().values():
        if parameter.name.endswith(('gamma', 'moving_var')):
            parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
        elif parameter.name.endswith(('beta', 'moving_mean', 'bias')):
            parameter.set_data(mx.nd.random.normal(0, 0.3, parameter.shape))
    return net


def copy_of(source, name, **settings):
    """The network `name` with the parameters of `source`."""
    net, given = igcnet.get_model(name, **settings), source.collect_params()
    net.initialize()
    for key, parameter in net.collect_params().items():
        parameter.set_data(given[key].data())
    return net


@pytest.mark.parametrize('settings', [
    dict(expand_act=False), dict(output_shuffle=False),
    dict(expand_act=False, output_shuffle=False)])
def test_the_two_originals_are_different_functions(settings):
    paper = randomised(igcnet.get_model('igcv3', width=0.25))
    other = copy_of(paper, 'igcv3', width=0.25, **settings)
    x = mx.nd.random.normal(shape=(1, 3, 32, 32))
    assert difference(paper(x), other(x)) > 0.1
    with pytest.raises(UsageError, match='another function'):
        igcv3_map.torch_names(other)


def test_mxnet_form_is_the_other_settings():
    settings = dict(width=0.5, classes=7, downsampling=32, channel_rule='mxnet-even')
    general = randomised(igcnet.get_model('igcv3', expand_act=False, output_shuffle=False,
                                          dropout=0, **settings))
    script = copy_of(general, 'igcv3_mxnet', width=0.5, classes=7)
    x = mx.nd.random.normal(shape=(1, 3, 64, 64))
    assert difference(general(x), script(x)) == 0


@pytest.mark.parametrize('name', ['igcv3_mxnet', 'igcv3_wide', 'igcv3_g2g4'])
def test_mxnet_forms_have_no_torch_map(name):
    with pytest.raises(UsageError, match='another function'):
        igcv3_map.torch_names(igcnet.get_model(name))


def test_paper_form_of_mobilenetv2_has_no_torch_map():
    with pytest.raises(UsageError, match='first expansion'):
        mobilenetv2_map.torch_names(igcnet.get_model('mobilenetv2_paper'))


@pytest.mark.parametrize('width, rule, channels', [
    (0.64, 'nearest-even', (20, 10, 16, 20, 42, 62, 102, 206, 1280)),
    (0.80, 'nearest-even', (26, 14, 20, 26, 52, 78, 128, 256, 1280)),
    (0.7, 'truncate', (22, 11, 16, 22, 44, 67, 112, 224, 1280)),
    (0.7, 'truncate-even', (22, 12, 16, 22, 44, 68, 112, 224, 1280)),
    (0.7, 'nearest', (22, 11, 17, 22, 45, 67, 112, 224, 1280)),
    (0.7, 'mxnet-fours', (24, 12, 20, 24, 48, 68, 112, 224, 1280)),
    (1.4, 'truncate', (44, 22, 33, 44, 89, 134, 224, 448, 1792)),
    (1.4, 'mxnet-even', (46, 22, 34, 46, 90, 134, 224, 448, 1793)),
])
def test_channels(width, rule, channels):
    plan = plan_network(width, rule)
    assert (plan.stem, *(blocks[-1].channels for blocks in plan.stages), plan.last) == channels


def test_width_enters_twice_in_the_mxnet_script():
    stages = plan_network(0.5, 'mxnet-even', stages=DEEPER_STAGES).stages
    assert stages[1][0][:3] == (8, 24, 12)  # 6 times 4, not 6 times 8
    assert stages[1][1][:3] == (12, 72, 12)
    stages = plan_network(0.35, 'mxnet-even', stages=DEEPER_STAGES).stages
    # 32 becomes 12, scaled again 4; 24 becomes 8, scaled again 3, which is odd: 8 + 1.
    assert stages[3][0][:2] == (12, 24) and stages[2][0][:2] == (8, 54)


def test_halves_round_up():
    assert CHANNEL_RULES['nearest'].scale(24, 0.4375) == 11  # 10.5
    assert CHANNEL_RULES['nearest-even'].scale(24, 0.4375) == 12


def test_shortcut_rules():
    # At this width the stages of 16 and 24 both have one channel.
    first, second = plan_network(0.07, 'truncate', 8).stages[:2]
    assert [block.shortcut for block in first] == [False]
    assert [block.shortcut for block in second] == [True, True]
    forms = [[block.shortcut for block in stage]
             for stage in plan_network(1, 'mxnet-even', stages=DEEPER_STAGES).stages]
    assert [len(stage) for stage in forms] == [1, 4, 6, 8, 6, 6, 1]
    assert all(stage == [False] + [True] * (len(stage) - 1) for stage in forms)


@pytest.mark.parametrize('downsampling, maps', [
    (8, (32, 32, 32, 16, 8, 8, 4, 4)), (16, (16, 16, 16, 8, 4, 4, 2, 2)),
    (32, (16, 16, 8, 4, 2, 2, 1, 1))])
def test_strides(downsampling, maps):
    net = igcnet.get_model('igcv3', width=0.25, downsampling=downsampling)
    net.initialize()
    y = net.features.stem(mx.nd.ones((1, 3, 32, 32)))
    found = [y.shape[2]]
    for stage in net.stages:
        y = getattr(net.features, stage.name)(y)
        found.append(y.shape[2])
        assert (stage.channels, 32 // stage.stride) == y.shape[1:3]
    assert tuple(found) == maps
    assert net.features.last(y).shape[1] == 1280
    assert net.input_size == (224 if downsampling == 32 else 32)


@pytest.mark.parametrize('name, settings', [
    ('igcv3', dict(width=0.7)), ('igcv3', dict(width=0)), ('igcv3', dict(width='1')),
    ('igcv3', dict(width=1e9)), ('igcv3', dict(width=0.01)), ('igcv3_mxnet', dict(width=0.05)),
    ('igcv3', dict(downsampling=4)), ('igcv3', dict(dropout=1)), ('igcv3', dict(classes=0)),
    ('igcv3', dict(channel_rule='round')), ('igcv3_mxnet', dict(script='mobilenetv2')),
    ('igcv3_wide', dict(classes=0)), ('mobilenetv2', dict(width=0.03))])
def test_settings_that_cannot_work(name, settings):
    with pytest.raises(UsageError) as caught:
        igcnet.get_model(name, **settings)
    (key, value), = settings.items()
    assert str(caught.value).startswith('%s=%r' % (key, value))
    assert '\n' not in str(caught.value)


def test_odd_channels_are_named():
    with pytest.raises(UsageError, match='width=0.7: 16 channels become 11, which do not divide '
                                         'by 2 groups'):
        igcnet.get_model('igcv3', width=0.7)
    igcnet.get_model('igcv3', width=0.7, channel_rule='nearest-even')


def test_half_of_the_features_are_dropped_in_training_only():
    features = igcnet.get_model('igcv3', width=0.25).features
    assert 'dropout' not in igcnet.get_model('igcv3_mxnet').features._children
    ones = mx.nd.ones((20, 1280))
    assert difference(features.dropout(ones), ones) == 0
    with mx.autograd.train_mode():
        dropped = features.dropout(ones).asnumpy()
    assert set(np.unique(dropped)) == {0, 2}
    assert abs(dropped.mean() - 1) < 0.05


def test_initialisation():
    mx.random.seed(3)
    paper, script = igcnet.get_model('igcv3'), igcnet.get_model('igcv3_mxnet')
    for net, deviations in (
            (paper, dict(exp=2 / 960, depthwise=2 / 9 / 960, linear=2 / 320, fc=0.01 ** 2)),
            (script, dict(exp=2 / 80, depthwise=2 / 9, linear=2 / 480, fc=2 / 1280))):
        net.initialize()
        block = net.features.seq6.block0
        weights = dict(exp=block.exp.conv.weight, depthwise=block.depthwise.conv.weight,
                       linear=block.linear.conv.weight, fc=net.output.weight)
        for part, variance in deviations.items():
            found = weights[part].data().asnumpy()
            assert found.var() == pytest.approx(variance, rel=0.06), part
            assert abs(found.mean()) < 0.05 * variance ** 0.5
        assert block.linear.bn.running_var.data().asnumpy().min() == 1
        assert not net.output.bias.data().asnumpy().any()


def gradients(net, x, hybrid):
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    with mx.autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    found = {name: p.grad().asnumpy() for name, p in net.collect_params().items()
             if p.grad_req != 'null'}
    mx.nd.waitall()
    return found, net.features.stem.bn.running_mean.data().asnumpy()


@pytest.mark.parametrize('name, settings', [
    ('igcv3', dict(width=0.25, dropout=0)), ('igcv3_mxnet', dict(width=0.25, classes=5)),
    ('mobilenetv2', dict(width=0.25, dropout=0))])
def test_training_is_the_same_hybridised(name, settings):
    x = mx.nd.random.normal(shape=(4, 3, 32, 32))
    plain, plain_mean = gradients(randomised(igcnet.get_model(name, **settings)), x, False)
    hybrid, hybrid_mean = gradients(randomised(igcnet.get_model(name, **settings)), x, True)
    for parameter, gradient in plain.items():
        scale = np.abs(gradient).max()
        assert 0 < scale < np.inf, parameter
        assert difference(gradient, hybrid[parameter]) < 2e-3 * scale, parameter
    assert difference(plain_mean, hybrid_mean) < 1e-6
    untrained = randomised(igcnet.get_model(name, **settings))
    assert difference(untrained.features.stem.bn.running_mean.data(), plain_mean) > 1e-3


@pytest.mark.parametrize('name', ['igcv3', 'mobilenetv2'])
def test_export_and_import(tmp_path, name):
    net = randomised(igcnet.get_model(name, width=0.25))
    x = mx.nd.random.normal(shape=(1, 3, 32, 32))
    expected = net(x)
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'net'))
    loaded = mx.gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'],
                                          str(tmp_path / 'net-0000.params'))
    assert difference(loaded(x), expected) < 1e-5


def test_classifier_can_be_replaced():
    net = randomised(igcnet.get_model('igcv3', width=0.25))
    net.reset_classifier(3)
    net.output.initialize()
    assert net(mx.nd.ones((2, 3, 32, 32))).shape == (2, 3)
    assert isinstance(net.features.seq1.block3, InvertedResidual)
