"""Arrays in oneDNN's own layouts: what stock convolutions make, and weights after inference.

MXNet gives operators in Python and in libraries copies of such inputs, and some of its own
operators fail on them.
"""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

import igcnet
from igcnet import native
from igcnet.layers import Conv2D, DynamicGroupConv, IGCUnit, MergeEvolveUnit, ShuffleUnit
from igcnet.layers.basic import named_sequential
from igcnet.layers.igc import NormSettings
from igcnet.layers.igcv2 import IGCV2Unit
from igcnet.layers.inverted_residual import BlockForm, BlockPlan, InvertedResidual
from igcnet.layers.lowering import set_lowering

LOWERINGS = ('blocked',) if native.missing() else ('blocked', 'native', 'auto')
needs_library = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


def conv(inputs, outputs, groups, kernel=3):
    return lambda: Conv2D('conv', inputs, outputs, kernel, 1, kernel // 2, groups), inputs


BLOCKS = {
    'conv-64-16': conv(64, 16, 4), 'conv-96-96': conv(96, 96, 24), 'conv-48-48': conv(48, 48, 24),
    'conv-1x1': conv(128, 64, 8, 1), 'conv-dense': conv(32, 32, 1),
    'igc': (lambda: IGCUnit('u', 48, 48, 24, 2, NormSettings()), 48),
    'igc-wide': (lambda: IGCUnit('u', 128, 128, 32, 4, NormSettings()), 128),
    'igcv2': (lambda: IGCV2Unit('u', 64, 64, (8, 8)), 64),
    'igcv3': (lambda: InvertedResidual(
        'b', BlockPlan(32, 96, 32, 1, True),
        BlockForm(2, 2, expand_act=True, shuffle=True, output_shuffle=True)), 32),
    'shuffle': (lambda: ShuffleUnit('u', 64, 64, 4), 64),
    'menet': (lambda: MergeEvolveUnit('u', 96, 96, 16, 3), 96),
    'dgc-1x1': (lambda: DynamicGroupConv('d', 64, 64, 1), 64),
    'dgc-3x3': (lambda: DynamicGroupConv('d', 64, 64, 3, padding=1), 64),
    'dgc-narrow': (lambda: DynamicGroupConv('d', 24, 8, 1, heads=2), 24),
}


def filled(make):
    mx.random.seed(3)
    block = make()
    block.initialize(mx.init.Normal(0.3))
    if isinstance(block, DynamicGroupConv):
        block.set_inactive(block.in_channels // 2)
    return block


def step(block, x):
    """Output in training, gradient of the input, and those of the parameters."""
    x.attach_grad()
    with autograd.record():
        y = block(x)
    y.backward(mx.nd.array(np.random.RandomState(7).normal(size=y.shape)))
    return [y.asnumpy(), x.grad.asnumpy()] + [
        parameter.grad().asnumpy() for parameter in block.collect_params().values()
        if parameter.grad_req != 'null']


def statistics_of(block):
    return {name: parameter.data().asnumpy()
            for name, parameter in block.collect_params('.*moving.*').items()}


def restore(block, statistics):
    for name, value in statistics.items():
        block.collect_params()[name].set_data(mx.nd.array(value))


def assert_close(found, expected, tolerance=1e-4):
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, atol=tolerance * max(1, np.abs(other).max()))


@pytest.mark.parametrize('hybrid', (False, True))
@pytest.mark.parametrize('name', sorted(BLOCKS))
def test_every_lowering_after_inference_in_the_stock_form(name, hybrid):
    make, channels = BLOCKS[name]
    block = filled(make)
    if hybrid:
        block.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(np.random.RandomState(1).normal(size=(3, channels, 8, 8)))
    expected = step(filled(make), x)
    statistics = statistics_of(block)

    def infer(lowering):
        restore(block, statistics)
        set_lowering(block, lowering)
        return block(x).asnumpy()
    evaluated = infer('stock')
    for lowering in LOWERINGS * 2:
        infer('stock')
        assert_close([infer(lowering)], [evaluated])
        infer('stock')
        set_lowering(block, lowering)
        assert_close(step(block, x), expected)
        assert_close([infer(lowering)], [evaluated])


def test_lowerings_of_a_network_after_inference():
    mx.random.seed(1)
    net = igcnet.get_model('dydensenet', stages='1-1-1')
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    expected = net(x).asnumpy()
    for lowering in LOWERINGS * 2:
        net.set_lowering(lowering)
        assert_close([net(x).asnumpy()], [expected])
        net.set_lowering('stock')
        assert_close([net(x).asnumpy()], [expected])


@pytest.mark.parametrize('kernel', (1, 3))
@pytest.mark.parametrize('flags', (
    None, {}, dict(static_alloc=True), dict(static_alloc=True, static_shape=True)),
    ids=('eager', 'graph', 'static_alloc', 'static_shape'))
def test_operators_in_python_between_stock_convolutions(flags, kernel):
    """What MXNet copies for them is not freed before they run, and nothing that they write is
    lost; large enough arrays for freed memory to be used again at once."""
    net = filled(lambda: named_sequential(
        before=Conv2D('before', 16, 64, 3, padding=1),
        layer=DynamicGroupConv('layer', 64, 64, kernel, padding=kernel // 2),
        behind=Conv2D('behind', 64, 64, 3, padding=1)))
    net.layer.set_inactive(16)
    if flags is not None:
        net.hybridize(**flags)
    x = mx.nd.array(np.random.RandomState(1).normal(size=(8, 16, 20, 20)))
    statistics = statistics_of(net)

    def everything(lowering):
        restore(net, statistics)
        set_lowering(net, 'stock')
        net.layer.lowering = lowering
        found = [net(x).asnumpy()] + step(net, x)
        return found + list(statistics_of(net).values()) + [net(x).asnumpy()]
    expected = everything('stock')
    for _ in range(4):
        assert_close(everything('blocked'), expected)


def test_static_graphs_need_no_copies():
    def copies():
        return layer(mx.sym.var('data')).tojson().count('"op": "slice_axis"')
    layer = filled(lambda: DynamicGroupConv('layer', 64, 64, 1))
    layer.lowering = 'blocked'
    assert copies() == 3
    layer.hybridize(static_alloc=True)
    assert copies() == 3
    layer.hybridize(static_alloc=True, static_shape=True)
    assert copies() == 0
    layer.hybridize(False)
    assert copies() == 3


# The operators of the library, without the copies that the layers put before them


def relaid(array, groups=1):
    """A weight as inference leaves it."""
    weight = mx.nd.array(array)
    x = mx.nd.ones((2, weight.shape[1] * groups, 8, 8))
    stock_convolution(x, weight, groups).wait_to_read()
    return weight


def stock_convolution(x, weight, groups=1):
    kernel = weight.shape[2:]
    return mx.nd.Convolution(x, weight, kernel=kernel, pad=[size // 2 for size in kernel],
                             num_filter=len(weight), num_group=groups, no_bias=True)


def between_convolutions(operator, channels, others, plain):
    """Outputs and gradients of ``operator(x, *others)`` between two stock convolutions.

    With `plain` it gets its input, and the gradient of its output, by way of NumPy.
    """
    before, behind = (mx.nd.array(normal(channels, channels, 3, 3, seed=seed)) / 8
                      for seed in (1, 2))
    x = stock_convolution(mx.nd.array(normal(3, channels, 8, 8)), before)
    if plain:
        x = mx.nd.array(x.asnumpy())
    for array in [x] + others:
        array.attach_grad()
    with autograd.record():
        y = operator(x, *others)
    given = y if not plain else mx.nd.array(y.asnumpy())
    if plain:
        given.attach_grad()
        with autograd.record():
            z = stock_convolution(given, behind)
        z.backward()
        y.backward(mx.nd.array(given.grad.asnumpy()))
    else:
        with autograd.record():
            z = stock_convolution(y, behind)
        z.backward()
    return [array.asnumpy() for array in [y, z] + [array.grad for array in [x] + others]]


def normal(*shape, seed=5):
    return np.random.RandomState(seed).normal(size=shape)


@needs_library
@pytest.mark.parametrize('groups, kernel', ((1, 3), (4, 3), (2, 1)))
def test_convolution_of_the_library(groups, kernel):
    def operator(x, weight):
        lanes, images = mx.nd.igcnet_to_lanes(x)
        lanes = mx.nd.igcnet_convolution(lanes, weight, images, groups=groups)
        return mx.nd.igcnet_from_lanes(lanes, images)
    weight = normal(64, 64 // groups, kernel, kernel)
    expected = between_convolutions(operator, 64, [mx.nd.array(weight)], plain=True)
    for _ in range(2):
        found = between_convolutions(operator, 64, [relaid(weight, groups)], plain=False)
        assert_close(found, expected, 1e-5)


@needs_library
def test_normalisation_and_gate_of_the_library():
    def operator(x, gamma, beta):
        lanes, images = mx.nd.igcnet_to_lanes(x)
        statistics = [mx.nd.zeros((1, 32, 2)), mx.nd.array(normal(32, seed=8)),
                      mx.nd.array(np.abs(normal(32, seed=9)))]
        lanes = mx.nd.igcnet_norm(mx.nd.identity(lanes), images, *statistics, gamma, beta,
                                  mx.nd.identity(lanes), act=1, residual=1)
        gated = mx.nd.igcnet_gate(mx.nd.identity(lanes), mx.nd.identity(lanes))
        return mx.nd.igcnet_from_lanes(gated, images)

    def others():
        return [mx.nd.array(np.abs(normal(32))), mx.nd.array(normal(32, seed=6))]
    assert_close(between_convolutions(operator, 32, others(), plain=False),
                 between_convolutions(operator, 32, others(), plain=True), 1e-5)
