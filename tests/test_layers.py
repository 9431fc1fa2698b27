"""Layers: the channel shuffle by its index table, the others against Gluon's."""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from igcnet.errors import UsageError
from igcnet.layers import (
    Activation,
    Add,
    BatchNorm,
    ChannelShuffle,
    Conv2D,
    ConvUnit,
    Dense,
    Flatten,
    IGCUnit,
    Pool2D,
    ResidualBlock,
    named_sequential,
)
from igcnet.layers.igc import NormSettings

# Input channel of each output channel, for 6 channels.
SIX = {1: [0, 1, 2, 3, 4, 5], 2: [0, 3, 1, 4, 2, 5], 3: [0, 2, 4, 1, 3, 5],
       6: [0, 1, 2, 3, 4, 5]}


def permutation(channels, groups):
    """Output channel j*k + i is input channel i*(C/k) + j, by its definition."""
    table = np.empty(channels, int)
    for i in range(groups):
        for j in range(channels // groups):
            table[j * groups + i] = i * (channels // groups) + j
    return table


def random(*shape):
    return mx.nd.array(np.random.RandomState(sum(shape)).randn(*shape))


def as_pair(ours, theirs, data):
    """Outputs and input gradients of two layers after the weights of one went to the other."""
    ours.initialize()
    theirs.initialize()
    theirs(data)  # sizes that Gluon infers
    for mine, other in zip(ours.collect_params().values(), theirs.collect_params().values()):
        value = random(*mine.shape) if mine.grad_req != 'null' else mx.nd.ones(mine.shape) * 0.7
        mine.set_data(value)
        other.set_data(value)
    results = []
    for layer in (ours, theirs):
        source = data.copy()
        source.attach_grad()
        with autograd.record():
            out = layer(source)
            loss = (out * random(*out.shape)).sum()
        loss.backward()
        results.append((layer(source).asnumpy(), source.grad.asnumpy()))
    return results


def assert_equal_pair(ours, theirs, data):
    (out, gradient), (other_out, other_gradient) = as_pair(ours, theirs, data)
    assert out.shape == other_out.shape and out.std() > 1e-3
    np.testing.assert_allclose(out, other_out, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-5, atol=1e-5)


# Channel shuffle


@pytest.mark.parametrize('groups', sorted(SIX))
def test_shuffle_index_table(groups):
    data = random(2, 6, 3, 5)
    out = ChannelShuffle('shuffle', 6, groups)(data)
    assert permutation(6, groups).tolist() == SIX[groups]
    assert np.array_equal(out.asnumpy(), data.asnumpy()[:, SIX[groups]])


@pytest.mark.parametrize('channels, groups', [(12, 3), (16, 4), (20, 5), (24, 2), (48, 24)])
def test_shuffle_inverse(channels, groups):
    data = random(2, channels, 2, 3)
    there = ChannelShuffle('there', channels, groups)
    back = ChannelShuffle('back', channels, channels // groups)
    assert not np.array_equal(there(data).asnumpy(), data.asnumpy())
    assert np.array_equal(back(there(data)).asnumpy(), data.asnumpy())


def test_two_shuffles_of_a_down_sampling_unit():
    """`resnet_igc`, L=2, kin=6, kout=12: the second shuffle is not the inverse of the first."""
    data = mx.nd.arange(12).reshape((1, 12, 1, 1))
    once = ChannelShuffle('reorder1', 12, 2)(data)
    twice = ChannelShuffle('reorder2', 12, 3)(once)
    assert once.asnumpy().ravel().tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert twice.asnumpy().ravel().tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize('channels', [12, 16, 20, 24, 32, 40, 48, 64])
@pytest.mark.parametrize('groups', [2, 4])
def test_shuffle_between_convolutions(channels, groups):
    """Hybridised, with oneDNN's own array layouts around it: outputs and gradients by value."""
    net = named_sequential(before=Conv2D('before', 3, channels, 3, padding=1),
                           shuffle=ChannelShuffle('shuffle', channels, groups),
                           after=Conv2D('after', channels, 8, 3, padding=1, groups=2))
    net.initialize(mx.init.Normal(0.3))
    data = random(2, 3, 6, 6)
    # The same without a shuffle layer: the first weight's outputs come permuted already.
    reference = named_sequential(before=Conv2D('before', 3, channels, 3, padding=1),
                                 after=Conv2D('after', channels, 8, 3, padding=1, groups=2))
    reference.initialize()
    order = permutation(channels, groups)
    weight = net.before.weight.data().asnumpy()
    reference.before.weight.set_data(mx.nd.array(weight[order]))
    reference.after.weight.set_data(net.after.weight.data())
    for hybridised in (False, True):
        if hybridised:
            net.hybridize()
        with autograd.record():
            out, expected = net(data), reference(data)
            loss, other = (out * out).sum(), (expected * expected).sum()
        autograd.backward([loss, other])
        np.testing.assert_allclose(out.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(net(data).asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4)
        gradient = net.before.weight.grad().asnumpy()[order]
        np.testing.assert_allclose(gradient, reference.before.weight.grad().asnumpy(),
                                   rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(net.after.weight.grad().asnumpy(),
                                   reference.after.weight.grad().asnumpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('hybridised', [False, True])
def test_shuffle_gradient_is_the_inverse_permutation(hybridised):
    layer = ChannelShuffle('shuffle', 12, 3)
    if hybridised:
        layer.hybridize()
    data, head = random(2, 12, 2, 2), random(2, 12, 2, 2)
    data.attach_grad()
    with autograd.record():
        out = layer(data)
    out.backward(head)
    inverse = np.argsort(permutation(12, 3))
    assert np.array_equal(data.grad.asnumpy(), head.asnumpy()[:, inverse])


# Gluon's layers


@pytest.mark.parametrize('kernel, strides, padding, groups, use_bias', [
    (3, 1, 1, 1, False), (3, 2, 1, 4, False), (1, 1, 0, 2, True), (7, 2, 3, 1, False),
    ((3, 1), (2, 1), (1, 0), 8, False)])
def test_convolution(kernel, strides, padding, groups, use_bias):
    ours = Conv2D('conv', 8, 16, kernel, strides, padding, groups, use_bias)
    theirs = nn.Conv2D(16, kernel, strides, padding, groups=groups, use_bias=use_bias)
    assert_equal_pair(ours, theirs, random(2, 8, 9, 9))


def test_dense():
    assert_equal_pair(Dense('fc', 6, 4), nn.Dense(4), random(3, 6))


def test_batch_norm():
    ours = BatchNorm('bn', 5, momentum=0.8, epsilon=1e-3)
    theirs = nn.BatchNorm(momentum=0.8, epsilon=1e-3)
    assert_equal_pair(ours, theirs, random(4, 5, 3, 3))
    # as_pair trained one step: the statistics moved, and equally.
    moved = ours.running_mean.data().asnumpy()
    assert np.all(moved != np.float32(0.7))
    np.testing.assert_allclose(moved, theirs.running_mean.data().asnumpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.running_var.data().asnumpy(),
                               theirs.running_var.data().asnumpy(), rtol=1e-6)


def test_batch_norm_statistics():
    """The biased variance, kept in the proportion `momentum`."""
    layer = BatchNorm('bn', 2, momentum=0.75, running_variance_initializer='zeros')
    layer.initialize()
    assert layer.running_var.data().asnumpy().tolist() == [0, 0]
    data = random(3, 2, 2, 2)
    with autograd.record():
        out = layer(data)
    out.backward()
    mx.nd.waitall()
    values = data.asnumpy()
    np.testing.assert_allclose(layer.running_mean.data().asnumpy(),
                               0.25 * values.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.running_var.data().asnumpy(),
                               0.25 * values.var((0, 2, 3)), rtol=1e-5)


def test_batch_norm_stays_in_single_precision():
    layer = BatchNorm('bn', 2)
    layer.cast('float16')
    assert {p.dtype for p in layer.collect_params().values()} == {'float32'}


@pytest.mark.parametrize('settings, theirs', [
    (dict(pool_type='avg', kernel_size=3), nn.AvgPool2D(3, 1)),
    (dict(pool_type='avg', kernel_size=3, strides=2, padding=1), nn.AvgPool2D(3, 2, 1)),
    (dict(pool_type='max', kernel_size=3, strides=2, padding=1), nn.MaxPool2D(3, 2, 1)),
    (dict(pool_type='max', kernel_size=2, strides=2), nn.MaxPool2D(2, 2)),
    (dict(pool_type='avg', kernel_size=2, global_pool=True), nn.GlobalAvgPool2D())])
def test_pooling(settings, theirs):
    assert_equal_pair(Pool2D('pool', **settings), theirs, random(2, 3, 7, 8))


def test_small_layers():
    left, right = random(2, 3, 2, 2), random(3, 2, 2, 2).reshape((2, 3, 2, 2))
    assert np.array_equal(Add('sum')(left, right).asnumpy(), (left + right).asnumpy())
    assert np.array_equal(Activation('relu')(left).asnumpy(), np.maximum(left.asnumpy(), 0))
    np.testing.assert_allclose(Activation('gate', 'sigmoid')(left).asnumpy(),
                               1 / (1 + np.exp(-left.asnumpy())), rtol=1e-5)
    assert np.array_equal(Flatten('flatten')(left).asnumpy(), left.asnumpy().reshape(2, 12))


@pytest.mark.parametrize('layer, parameters', [
    (Conv2D('a_conv', 2, 4, 1, use_bias=True), ['a_conv_weight', 'a_conv_bias']),
    (Dense('a_conv', 2, 4), ['a_conv_weight', 'a_conv_bias']),
    (BatchNorm('a_conv', 2), ['a_conv_gamma', 'a_conv_beta', 'a_conv_moving_mean',
                              'a_conv_moving_var']),
    (Pool2D('a_conv', 'max', 2), []), (Activation('a_conv'), []), (Flatten('a_conv'), []),
    (ChannelShuffle('a_conv', 2, 2), [])])
def test_names(layer, parameters):
    """Node and parameters carry exactly the layer's name, also inside another block's scope."""
    outer = nn.HybridSequential(prefix='outer_')
    with outer.name_scope():
        outer.add(layer)
    assert list(outer.collect_params()) == parameters
    assert outer(mx.sym.var('data')).list_outputs() == ['a_conv_output']


def test_graph_has_given_attributes_only():
    """No defaults of MXNet's in the graph: they are not in the originals' files either."""
    nodes = json.loads(Conv2D('c', 2, 4, 1)(mx.sym.var('data')).tojson())['nodes']
    assert nodes[-1]['attrs'] == {'kernel': '(1, 1)', 'stride': '(1, 1)', 'pad': '(0, 0)',
                                  'num_filter': '4', 'num_group': '1', 'no_bias': 'True'}


# Units


def test_igc_unit_is_its_parts():
    """Grouped 3x3, shuffle, grouped 1x1, shuffle, BN, ReLU; the numbers by single operators."""
    unit = IGCUnit('unit', 6, 12, 2, 3, NormSettings(), strides=2)
    unit.initialize(mx.init.Normal(0.5))
    unit.bn.beta.set_data(random(12))
    data = random(2, 6, 8, 8)
    x = mx.nd.Convolution(data, unit.conv1.weight.data(), kernel=(3, 3), pad=(1, 1),
                          stride=(2, 2), num_filter=12, num_group=2, no_bias=True).asnumpy()
    x = mx.nd.Convolution(mx.nd.array(x[:, permutation(12, 2)]), unit.conv2.weight.data(),
                          kernel=(1, 1), num_filter=12, num_group=3, no_bias=True).asnumpy()
    x = x[:, permutation(12, 3)] / np.sqrt(1 + 1e-5)
    expected = np.maximum(x + unit.bn.beta.data().asnumpy()[:, None, None], 0)
    assert expected.shape == (2, 12, 4, 4)
    np.testing.assert_allclose(unit(data).asnumpy(), expected, rtol=1e-4, atol=1e-4)


def test_residual_block():
    """ReLU(shortcut + unit2(unit1(x)))."""
    parts = [ConvUnit('b_one', 4, 8, 3, NormSettings(), strides=2),
             ConvUnit('b_two', 8, 8, 3, NormSettings(), act=False),
             ConvUnit('b_line', 4, 8, 1, NormSettings(), strides=2, act=False)]
    block = ResidualBlock('b', *parts, add_name='_plus3')
    block.initialize(mx.init.Normal(0.3))
    data = random(2, 4, 6, 6)
    one, two, line = parts
    branch = two(one(data)).asnumpy()
    assert branch.min() < 0  # the second unit ends without a ReLU
    np.testing.assert_allclose(block(data).asnumpy(),
                               np.maximum(line(data).asnumpy() + branch, 0), rtol=1e-5, atol=1e-5)
    names = [name for name in block(mx.sym.var('data')).get_internals().list_outputs()
             if name.endswith('_output')]
    assert names[:2] == ['b_line_conv_output', 'b_line_bn_output']  # the shortcut comes first
    assert names[-2:] == ['_plus3_output', 'b_relu_output']


# Mistakes


@pytest.mark.parametrize('make, message', [
    (lambda: Conv2D('g1_conv', 6, 8, 3, groups=4), 'g1_conv: 6 input and 8 output .* 4 groups'),
    (lambda: Conv2D('g1_conv', 8, 6, 3, groups=4), 'g1_conv: 8 input and 6 output .* 4 groups'),
    (lambda: Conv2D('g1_conv', 4, 4, 1, groups=0), 'g1_conv: 4 input .* 0 groups'),
    (lambda: ChannelShuffle('mix', 10, 4), 'mix: 10 channels .* 4 shuffle groups'),
    (lambda: ChannelShuffle('mix', 10, 0), 'mix: 10 channels .* 0 shuffle groups')])
def test_channels_that_do_not_divide(make, message):
    with pytest.raises(UsageError, match=message):
        make()
