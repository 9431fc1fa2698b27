"""Networks computed image by image: the masked form's numbers, from fewer multiply-adds."""

import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from test_convert_dgc import CASES, Original
from test_layers_dynamic import CASES as LAYER_CASES
from test_layers_dynamic import Original as OriginalLayer
from test_models_dgc import SMALL, computing, images

import igcnet
from igcnet.deploy.image_layers import DynamicConv, Memory, ShiftedConv
from igcnet.deploy.image_network import ImageNetwork
from igcnet.errors import UsageError
from igcnet.layers import BatchNorm, DynamicGroupConv

EXPECTED = {row['name']: row for row in json.loads(
    (Path(__file__).parent / 'expected' / 'dgc.json').read_text())}


def identity_norm(channels):
    norm = BatchNorm('identity', channels)
    norm.initialize()
    norm.running_var.set_data(mx.nd.ones(channels) - norm.epsilon)
    return norm


def in_form(network, form):
    for layer in network.layers:
        layer.form = form if layer.can_gather else 'scaled'
    return network


def run_layer(layer, x, form):
    """The output of a square layer for each image, with its channels in order."""
    made = DynamicConv(layer, x.shape[2], Memory(), identity_norm(
        len(layer.heads) * layer.heads[0].conv.weight.shape[0]))
    made.form = form
    outputs = [made(image.reshape(len(image), -1)).copy() for image in x]
    side = made.window.output[0]
    return np.stack([y.transpose(1, 0, 2).reshape(-1, side, side) for y in outputs]), made


@pytest.mark.parametrize('form', ('gathered', 'scaled'))
@pytest.mark.parametrize('case', CASES)
def test_logits_of_the_originals(case, form, shared_fixtures):
    original = Original(shared_fixtures('dgc'), case)
    x = original.arrays['x']
    network = in_form(ImageNetwork(original.net(), x.shape[2], measure=False), form)
    assert np.abs(network(x) - original.arrays['logits']).max() < 1e-4
    assert network.macs == original.facts[
        'macs_conv_fc_gated' if form == 'gathered' else 'macs_conv_fc']


@pytest.mark.parametrize('form', ('gathered', 'scaled'))
@pytest.mark.parametrize('case', LAYER_CASES)
def test_layers_of_the_originals(case, form, shared_fixtures):
    """Ties, a dead head and surplus zeros among them."""
    original = OriginalLayer(shared_fixtures('dgc'), case)
    layer = original.layer()
    for count in original.config['inactive_counts'][0 if form == 'scaled' else 1:]:
        layer.set_inactive(count)
        made, _ = run_layer(layer, original.arrays['x'], form)
        assert np.abs(made - original.arrays['k%d.out' % count]).max() < 1e-5


@pytest.mark.parametrize('name', sorted(SMALL))
def test_small_networks(name, monkeypatch):
    if name == 'densenet':
        monkeypatch.setitem(SMALL, name, {**SMALL[name], 'group_1x1': 1})
    net, x = computing(name), images(3)
    expected = net(x).asnumpy()
    network = ImageNetwork(net, 32)
    scale = np.abs(expected).max()
    assert np.abs(network(x.asnumpy()) - expected).max() < 1e-4 * scale
    # No image knows of the others, and no call of the one before.
    assert (network(x.asnumpy()[1:2]) == network(x.asnumpy())[1:2]).all()


@pytest.mark.parametrize('form', ('gathered', 'scaled'))
def test_bn_scales_of_any_sign(form):
    layer = DynamicGroupConv('dgc', 8, 8, 1, heads=2, squeeze_rate=4)
    layer.initialize(mx.init.Normal(0.3))
    layer.norm.gamma.set_data(mx.nd.array([1, -1, 0.5, -2, 0, 1e-9, -1e-30, 3]))
    layer.norm.beta.set_data(mx.nd.array([0.1, 0.2, -0.3, 0.4, 0.5, 0.6, -0.7, 0]))
    layer.set_inactive(3)
    x = np.random.RandomState(0).randn(2, 8, 5, 5).astype(np.float32)
    made, _ = run_layer(layer, x, form)
    assert np.abs(made - layer(mx.nd.array(x)).asnumpy()).max() < 1e-5


@pytest.mark.parametrize('form', ('gathered', 'scaled'))
@pytest.mark.parametrize('options', (dict(padding=1), dict(padding=1, strides=2), dict(),
                                     dict(padding=2, dilation=2)))
def test_kernels(options, form):
    """Shifted maps where the size stays, windows elsewhere."""
    layer = DynamicGroupConv('dgc', 16, 8, 3, **options)
    layer.initialize(mx.init.Normal(0.3))
    layer.set_inactive(9)
    x = np.random.RandomState(0).randn(2, 16, 7, 7).astype(np.float32)
    made, _ = run_layer(layer, x, form)
    assert np.abs(made - layer(mx.nd.array(x)).asnumpy()).max() < 1e-5


@pytest.mark.parametrize('count', (0, 16))
def test_all_or_no_channels(count):
    layer = DynamicGroupConv('dgc', 16, 8, 3, padding=1)
    layer.initialize(mx.init.Normal(0.3))
    layer.set_inactive(count)
    x = np.random.RandomState(0).randn(1, 16, 5, 5).astype(np.float32)
    made, conv = run_layer(layer, x, 'scaled')
    assert not conv.can_gather
    assert np.abs(made - layer(mx.nd.array(x)).asnumpy()).max() < 1e-5


@pytest.mark.parametrize('channels, outputs, groups, side', ((8, 4, 1, 4), (12, 6, 3, 5),
                                                             (4, 4, 4, 2)))
def test_shifted_convolution(channels, outputs, groups, side):
    draw = np.random.RandomState(1)
    weight = draw.randn(outputs, channels // groups, 3, 3).astype(np.float32)
    conv = ShiftedConv(weight, groups, side, Memory())
    for _ in range(2):  # the second map finds what the first one left
        x = draw.randn(1, channels, side, side).astype(np.float32)
        conv.inside[...] = x.reshape(channels, -1)
        out = np.empty((outputs, side * side), np.float32)
        conv(out)
        expected = mx.nd.Convolution(mx.nd.array(x), mx.nd.array(weight), kernel=(3, 3),
                                     pad=(1, 1), num_filter=outputs, num_group=groups,
                                     no_bias=True).asnumpy()
        assert np.abs(out.reshape(expected.shape[1:]) - expected[0]).max() < 1e-4


@pytest.mark.parametrize('name', ('dydensenet86_cifar10', 'dyresnet18'))
def test_multiply_adds_of_published_networks(name):
    """Gathered: those of the active channels; scaled: all of them."""
    net, row = igcnet.get_model(name), EXPECTED[name]
    net.initialize()
    net.set_progress(1)
    network = ImageNetwork(net, measure=False)
    assert network.macs == row['active_macs']
    assert in_form(network, 'scaled').macs == row['macs']


def test_measured_forms():
    net = computing('dydensenet')
    network = ImageNetwork(net, measure=True)
    before = [layer.form for layer in network.layers]
    times = network.measure(rounds=2)
    assert list(times) == [layer.name for layer in network.layers]
    assert all(set(row) == {'gathered', 'scaled'} and min(row.values()) > 0
               for row in times.values())
    assert [layer.form for layer in network.layers] == before
    plain = ImageNetwork(igcnet_network('densenet', stages='1-1-1')).measure(rounds=1)
    assert len(plain) == 3 and all(set(row) == {'plain'} for row in plain.values())


def igcnet_network(name, **settings):
    net = igcnet.get_model(name, **settings)
    net.initialize()
    return net


@pytest.mark.parametrize('name, settings, side, message', (
    ('dydensenet', SMALL['dydensenet'], 48, '48x48 images: the network takes 32x32'),
    ('densenet', SMALL['densenet'], None,
     'denseblock_1_denselayer_1_conv_1_conv: a 1x1 convolution in groups cannot'),
    ('dyresnet18', dict(SMALL['dyresnet18'], selection='static'), 32,
     'layer1_0_conv1: a StaticGroupConv cannot be computed image by image'),
    ('resnet_igc', {}, None, 'Network: only dydensenet, dyresnet18, densenet and resnet18')))
def test_refuses(name, settings, side, message):
    with pytest.raises(UsageError, match=message):
        ImageNetwork(igcnet_network(name, **settings), side)


def test_refuses_images_of_another_size():
    network = ImageNetwork(computing('dydensenet'), measure=False)
    with pytest.raises(UsageError, match=r'\(1, 3, 16, 16\): must be \(N, 3, 32, 32\)'):
        network(np.zeros((1, 3, 16, 16)))
