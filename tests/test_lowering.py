"""The blocked lowering: the same function and gradients, invisible from outside."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

import igcnet
from igcnet.convert import differences, to_graph
from igcnet.errors import UsageError
from igcnet.layers import Conv2D, IGCUnit
from igcnet.layers.igc import NormSettings
from igcnet.layers.lowering import merge_factor, set_lowering, stock_form


def outputs_and_gradients(block, x, hybrid):
    """Output, gradient of the input and of every parameter for a fixed random head."""
    if hybrid:
        block.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(x, dtype='float64')
    x.attach_grad()
    with autograd.record():
        y = block(x)
        head = mx.nd.array(np.random.RandomState(7).normal(size=y.shape), dtype='float64')
        loss = (y * head).sum()
    loss.backward()
    return {'output': y.asnumpy(), 'input': x.grad.asnumpy(),
            **{name: p.grad().asnumpy() for name, p in block.collect_params().items()
               if p.grad_req != 'null'}}


def assert_equal_forms(make, shape, hybrid):
    found = []
    for lowering in ('stock', 'blocked'):
        mx.random.seed(3)
        block = make()
        block.cast('float64')
        block.initialize(mx.init.Normal(0.5))
        set_lowering(block, lowering)
        x = np.random.RandomState(1).normal(size=shape)
        found.append(outputs_and_gradients(block, x, hybrid))
    stock, blocked = found
    assert stock.keys() == blocked.keys()
    for name in stock:
        np.testing.assert_allclose(blocked[name], stock[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize('inputs, outputs, groups, factor', [
    (48, 48, 24, 8), (48, 96, 24, 8), (96, 96, 24, 4), (192, 192, 24, 2), (32, 32, 2, 1),
    (48, 48, 1, 1), (16, 16, 16, 1), (15, 15, 3, 3), (16, 16, 8, 8), (96, 48, 3, 1),
    (16, 32, 16, 16)])
def test_merge_factor_fills_blocks_with_the_fewest_groups(inputs, outputs, groups, factor):
    assert merge_factor(groups, inputs, outputs) == factor


@pytest.mark.parametrize('inputs, outputs, groups, lowering', [
    (32, 8, 4, 'blocked'), (64, 16, 4, 'blocked'), (128, 32, 4, 'stock'), (48, 48, 24, 'blocked'),
    (96, 96, 24, 'blocked'), (96, 24, 6, 'blocked'), (512, 32, 16, 'stock'),
    (192, 192, 24, 'stock'), (32, 32, 4, 'stock'), (64, 64, 1, 'stock')])
def test_narrow_groups_are_merged_by_auto(inputs, outputs, groups, lowering):
    assert Conv2D('conv', inputs, outputs, 3, groups=groups).fastest(False) == lowering


@pytest.mark.parametrize('hybrid', [False, True])
@pytest.mark.parametrize('inputs, outputs, groups, kernel, stride', [
    (48, 48, 24, 3, 1), (48, 96, 24, 3, 2), (15, 30, 3, 3, 1), (24, 12, 6, 1, 2), (8, 8, 8, 3, 1)])
def test_grouped_convolution(inputs, outputs, groups, kernel, stride, hybrid):
    assert_equal_forms(lambda: Conv2D('conv', inputs, outputs, kernel, stride, kernel // 2, groups),
                       (3, inputs, 7, 5), hybrid)


@pytest.mark.parametrize('hybrid', [False, True])
@pytest.mark.parametrize('inputs, outputs, primary, secondary, stride', [
    (6, 6, 2, 3, 1), (48, 48, 24, 2, 1), (12, 24, 4, 6, 2),
    (6, 12, 2, 3, 2),      # the original's down-sampling unit: the shuffles are no inverses
    (12, 12, 1, 12, 1), (12, 12, 12, 1, 1)])
def test_igc_unit(inputs, outputs, primary, secondary, stride, hybrid):
    assert_equal_forms(lambda: IGCUnit('u', inputs, outputs, primary, secondary, NormSettings(),
                                       stride, act=stride == 1), (2, inputs, 6, 6), hybrid)


@pytest.mark.parametrize('name', ['resnet_igc', 'plain_igc', 'resnet_igc_imgnet_d18'])
def test_networks(name):
    settings = dict(primary_partition=4, secondary_partition=2)
    if name != 'resnet_igc_imgnet_d18':
        settings['depth'] = 8
    mx.random.seed(1)
    net = igcnet.get_model(name, **settings)
    net.initialize()
    net.hybridize()
    x = mx.nd.random.normal(shape=(2, 3, net.input_size, net.input_size))
    with autograd.train_mode():
        stock = net(x).asnumpy()
        net.set_lowering('blocked')
        blocked = net(x).asnumpy()
        net.set_lowering('stock')
        again = net(x).asnumpy()
    assert np.abs(blocked - stock).max() < 1e-4 * np.abs(stock).max()
    assert (blocked != stock).any(), 'the lowering changed nothing'
    np.testing.assert_array_equal(again, stock)


def test_graph_parameters_and_names_do_not_show_it():
    stock = igcnet.get_model('resnet_igc', depth=8)
    blocked = igcnet.get_model('resnet_igc', depth=8)
    blocked.set_lowering('blocked')
    assert differences(to_graph(stock), to_graph(blocked)) == []
    assert list(stock.collect_params()) == list(blocked.collect_params())
    assert blocked.features.g1.b1.unit1.lowering == 'blocked'


def test_several_devices():
    net = igcnet.get_model('resnet_igc', depth=8, primary_partition=4)
    contexts = [mx.cpu(0), mx.cpu(1)]
    net.initialize(ctx=contexts)
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    for hybrid in (False, True):
        net.hybridize(hybrid)
        net.set_lowering('blocked')
        first, second = (net(x.as_in_context(context)) for context in contexts)
        np.testing.assert_array_equal(first.asnumpy(), second.asnumpy())


def test_stock_form_restores_what_it_found():
    net = igcnet.get_model('resnet_igc', depth=8)
    net.set_lowering('blocked')
    with pytest.raises(RuntimeError), stock_form(net):
        assert net.features.g1.b1.unit1.conv1.lowering == 'stock'
        raise RuntimeError
    assert net.features.g1.b1.unit1.conv1.lowering == 'blocked'


def test_unknown_lowering():
    with pytest.raises(UsageError, match="'fast': must be one of stock, blocked, native, auto"):
        igcnet.get_model('resnet_igc', depth=8).set_lowering('fast')
