"""The detector's backbone against its released graph, of which the facts are written out here."""

import json

import mxnet as mx
import numpy as np
import pytest

import igcnet

# Blocks of the released graph: groups of the first 1x1, filters of the first and of the last
# 1x1, stride of the last 1x1, number of the first BN.
BLOCKS = [
    (4, 32, 32, 1, 0), (2, 192, 48, 2, 3), (2, 288, 48, 1, 6), (2, 288, 64, 2, 9),
    (4, 384, 64, 1, 12), (4, 384, 64, 1, 15), (4, 384, 128, 2, 18), (4, 768, 128, 1, 21),
    (4, 768, 128, 1, 24), (4, 768, 128, 1, 27), (4, 768, 192, 1, 30), (4, 1152, 192, 1, 35),
    (4, 1152, 192, 1, 38), (4, 1152, 320, 2, 41), (4, 1920, 320, 1, 44), (4, 1920, 320, 1, 47),
    (4, 1920, 640, 1, 50)]
PROJECTIONS = {10: 33, 16: 53}  # number of the first BN
FINAL_BN = 55


def written_out():
    """The released graph, node by node in plain symbols."""
    sym = mx.sym

    def convolution(x, name, filters, kernel=1, stride=1, groups=1):
        return sym.Convolution(x, name=name, num_filter=filters, kernel=(kernel, kernel),
                               stride=(stride, stride), pad=(kernel // 2, kernel // 2),
                               num_group=groups, no_bias=True)

    def norm(x, name, act=True):
        x = sym.BatchNorm(x, name=name if isinstance(name, str) else 'batchnorm%d' % name,
                          fix_gamma=False, momentum=0.9)  # no eps: 1e-3
        return sym.clip(x, 0, 6) if act else x

    def permute(x, groups):
        x = sym.reshape(x, shape=(0, -4, groups, -1, -2))
        return sym.reshape(sym.swapaxes(x, dim1=1, dim2=2), shape=(0, -3, -2))

    def pair(x, name, bn, inner, filters):
        x = norm(convolution(x, name + '_ln_1', inner, groups=4), bn, act=False)
        x = norm(convolution(permute(x, 4), name + '_nl_1', filters, groups=4), bn + 1)
        return permute(x, filters // 4)

    x = norm(convolution(sym.var('data'), 'conv0', 32, 3, 2), 'bn0')
    sums, before = 0, 32
    for number, (groups, expanded, filters, stride, bn) in enumerate(BLOCKS):
        name = 'blk%d' % number
        y = norm(convolution(x, name + 'nl_1', expanded, groups=groups), bn)
        y = norm(convolution(y, name + '_dw', expanded, 3, groups=expanded), bn + 1)
        y = convolution(permute(y, 4), name + '_ln_1', filters, stride=stride, groups=4)
        y = permute(norm(y, bn + 2, act=False), filters // 4)
        if stride == 1:
            shortcut = x
            if number in PROJECTIONS:
                shortcut = pair(x, name + '_igc', PROJECTIONS[number], before, filters)
            y = sym.elemwise_add(shortcut, y, name='_plus%d' % sums)
            sums += 1
        x, before = y, filters
    x = pair(x, 'final_conv', FINAL_BN, 640, 1280)
    x = sym.Pooling(x, kernel=(7, 7), pool_type='avg', global_pool=True, name='pooling0')
    return sym.FullyConnected(sym.flatten(x, name='flatten0'), num_hidden=1000,
                              name='fullyconnected0')


@pytest.fixture(scope='module')
def net():
    mx.random.seed(5)
    net = igcnet.get_model('igcv3_wide')
    net.initialize()
    for parameter in net.collect_params().values():
        if parameter.name.endswith(('gamma', 'moving_var')):
            parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
        elif parameter.name.endswith(('beta', 'moving_mean', 'bias')):
            parameter.set_data(mx.nd.random.normal(0, 0.3, parameter.shape))
    return net


def test_parameters(net):
    symbol = written_out()
    arguments, _, auxiliary = symbol.infer_shape(data=(1, 3, 224, 224))
    shapes = dict(zip(symbol.list_arguments(), arguments))
    shapes.update(zip(symbol.list_auxiliary_states(), auxiliary))
    shapes.pop('data')
    assert len(shapes) == 58 + 4 * 58 + 2
    assert shapes == {name: p.shape for name, p in net.collect_params().items()}


def test_nodes(net):
    def nodes(symbol):
        return [(node['op'], node['name'], node['inputs'])
                for node in json.loads(symbol.tojson())['nodes']]

    unnamed = ('clip', 'Reshape', 'SwapAxis')  # counted in the released graph
    for ours, released in zip(nodes(net(mx.sym.var('data'))), nodes(written_out())):
        assert (ours[0], ours[2]) == (released[0], released[2])
        assert ours[1] == released[1] or ours[0] in unnamed


def test_function(net):
    plain = mx.gluon.SymbolBlock(written_out(), mx.sym.var('data'))
    plain.initialize()
    given = net.collect_params()
    for name, parameter in plain.collect_params().items():
        parameter.set_data(given[name].data())
    x = mx.nd.random.normal(shape=(1, 3, 64, 96))
    expected = plain(x).asnumpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(net(x).asnumpy(), expected, atol=1e-4)
    hybrid = igcnet.get_model('igcv3_wide')
    hybrid.initialize()
    for name, parameter in hybrid.collect_params().items():
        parameter.set_data(given[name].data())
    hybrid.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(hybrid(x).asnumpy(), expected, atol=1e-4)


def test_stages(net):
    y = net.features.stem(mx.nd.ones((1, 3, 64, 64)))
    for stage in net.stages:
        y = getattr(net.features, stage.name)(y)
        assert y.shape == (1, stage.channels, 64 // stage.stride, 64 // stage.stride)
    assert [stage.stride for stage in net.stages] == [2, 4, 8, 16, 16, 32, 32]
