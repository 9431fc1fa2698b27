"""The same graph computed by PyTorch."""

import mxnet as mx
import numpy as np
import pytest
from torch_networks import SMALL, trained_like

from igcnet.convert.torch_twin import reshaped, run_twin
from igcnet.errors import UsageError


@pytest.mark.parametrize('name, settings', [
    *SMALL.items(), ('resnet_igc', dict(depth=8, primary_partition=4, secondary_partition=2)),
    ('igcv3_mxnet', dict(width=0.25, classes=5)),
    ('igcv2star_c416_cifar10', dict(depth=8, channels=64))])
def test_twin(name, settings):
    """The graph of every family, computed by PyTorch."""
    pytest.importorskip('torch')
    from igcnet.deploy.verify import against_twin
    net = trained_like(name, settings)
    found = list(against_twin(net, net.input_size if net.fixed_input_size else 32, {}))
    assert len(found) == len(getattr(net, 'listed_widths', [None]))
    for comparison in found:
        assert comparison.difference < 5e-4, comparison
        assert comparison.agreeing == comparison.images == 2


def test_twin_sees_other_parameters():
    pytest.importorskip('torch')
    from igcnet.deploy.verify import against_twin
    net = trained_like('mobilenetv2', SMALL['mobilenetv2'])
    name = net.output.bias.name
    changed = net.output.bias.data().asnumpy() + np.float32([0, 0, 1, 0, 0])
    comparison, = against_twin(net, 32, {name: changed})
    assert comparison.difference == pytest.approx(1, abs=1e-4)


X = np.random.RandomState(0).randn(2, 6, 7, 5).astype(np.float32)
OPERATIONS = {
    'activation': lambda x: mx.sym.Activation(x, act_type='softsign'),
    'leaky': lambda x: mx.sym.LeakyReLU(x, act_type='leaky', slope=0.2),
    'max pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    'max pooling, full': lambda x: mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2),
                                                  pooling_convention='full'),
    'average pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                                                pool_type='avg'),
    'average pooling without padding': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), pad=(1, 1), pool_type='avg', count_include_pad=False),
    'global pooling': lambda x: mx.sym.Pooling(x, kernel=(1, 1), global_pool=True),
    'shuffle': lambda x: mx.sym.reshape(mx.sym.swapaxes(mx.sym.reshape(
        x, shape=(0, -4, 3, -1, -2)), dim1=1, dim2=2), shape=(0, -3, -2)),
    'transpose': lambda x: mx.sym.transpose(x, axes=(0, 2, 3, 1)),
    'transpose of all': lambda x: mx.sym.transpose(x),
    'clip': lambda x: mx.sym.clip(x, a_min=-0.5, a_max=1),
    'softmax': lambda x: mx.sym.softmax(x, axis=1),
    'concat': lambda x: mx.sym.concat(x, x, dim=1),
    'split': lambda x: mx.sym.split(x, num_outputs=3, axis=1)[1],
    'split, squeezed': lambda x: mx.sym.split(x, num_outputs=6, axis=1, squeeze_axis=True)[4],
    'slice': lambda x: mx.sym.slice_axis(x, axis=-2, begin=1, end=-1),
    'stack': lambda x: mx.sym.stack(x, x, axis=2),
    'mean': lambda x: mx.sym.mean(x, axis=(2, 3)),
    'mean of the others': lambda x: mx.sym.mean(x, axis=1, exclude=True, keepdims=True),
    'sum of all': lambda x: mx.sym.sum(x),
    'sort': lambda x: mx.sym.sort(x, axis=1, is_ascend=False),
    'take': lambda x: mx.sym.take(x, mx.sym.clip(mx.sym.slice_axis(
        mx.sym.mean(x, axis=(1, 2, 3)), axis=0, begin=0, end=1), a_min=1, a_max=1), axis=-1),
    'dot': lambda x: mx.sym.dot(mx.sym.Flatten(x), mx.sym.Flatten(x), transpose_b=True),
    'arithmetic': lambda x: 3 - (x * 2 + 1) / 4 - x * x,
    'comparison': lambda x: mx.sym.broadcast_greater(x, mx.sym.mean(x, axis=1, keepdims=True)),
    'likes': lambda x: mx.sym.reshape_like(mx.sym.ones_like(x) + mx.sym.zeros_like(x),
                                           mx.sym.transpose(x)),
    'sum of several': lambda x: mx.sym.add_n(x, x, mx.sym.BlockGrad(x)),
    'dimensions': lambda x: mx.sym.expand_dims(x, axis=1),
}


@pytest.mark.parametrize('operation', OPERATIONS)
def test_twin_operators(operation):
    """Each operator of the twin against MXNet's."""
    pytest.importorskip('torch')
    from igcnet.convert.symbol_json import from_mxnet
    symbol = OPERATIONS[operation](mx.sym.var('data'))
    expected = symbol.bind(mx.cpu(), {'data': mx.nd.array(X)}).forward()[0].asnumpy()
    found = run_twin(from_mxnet(symbol), {'data': X})
    assert found.shape == expected.shape or found.size == expected.size == 1
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)


def test_twin_without_an_operator():
    pytest.importorskip('torch')
    from igcnet.convert.symbol_json import from_mxnet
    with pytest.raises(UsageError, match='L2Normalization is not translated'):
        run_twin(from_mxnet(mx.sym.L2Normalization(mx.sym.var('data'))), {'data': X})


@pytest.mark.parametrize('codes', [
    (0, -1), (-1,), (0, -4, 2, 3, -2), (0, -4, -1, 3, -2), (-3, -2), (0, -3, 0), (-2,),
    (0, 0, -3), (0, 3, 2, -2), (0, -4, 3, -1, -3)])
def test_reshape_codes(codes):
    symbol = mx.sym.reshape(mx.sym.var('data'), shape=codes)
    assert reshaped(X.shape, codes) == symbol.infer_shape(data=X.shape)[1][0]
