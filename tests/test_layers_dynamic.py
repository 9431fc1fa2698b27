"""The dynamic group convolution against the original's stored arrays and the rules."""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import SymbolBlock

from igcnet.convert.torch_file import read_torch
from igcnet.errors import UsageError
from igcnet.layers import DynamicGroupConv, head_products
from igcnet.layers.dynamic import hidden_units, inactive_count

LOWERINGS = ('stock', 'blocked')
CASES = ('dgc_layer_1x1', 'dgc_layer_3x3s2', 'dgc_layer_ties')
NODES = ('saliency', 'mask', 'gated')

# The reference's table: progress, and the number of inactive channels for (gate factor, C).
PROGRESS = (0.05, 1 / 12, 0.1, 0.2, 0.3, 0.45, 0.6, 0.74, 0.75, 1.0)
COUNTS = {
    (0.25, 16): (None, None, 0, 2, 4, 7, 9, 12, 12, 12),
    (0.25, 24): (None, None, 0, 3, 6, 10, 14, 18, 18, 18),
    (0.25, 40): (None, None, 1, 5, 10, 16, 23, 30, 30, 30),
    (0.25, 88): (None, None, 2, 12, 21, 36, 51, 65, 66, 66),
    (0.25, 352): (None, None, 7, 46, 86, 145, 205, 260, 264, 264),
    (0.25, 768): (None, None, 14, 101, 187, 317, 446, 567, 576, 576),
    (0.25, 1936): (None, None, 36, 254, 472, 799, 1125, 1430, 1452, 1452),
    (0.45, 64): (None, None, 1, 6, 11, 19, 27, 35, 35, 35),
    (0.45, 128): (None, None, 2, 12, 23, 39, 55, 69, 70, 70),
    (0.45, 256): (None, None, 4, 25, 46, 77, 109, 139, 141, 141),
    (0.45, 512): (None, None, 7, 49, 92, 155, 218, 277, 282, 282),
}


class Original:
    """One layer of the original: settings, checkpoint and stored arrays."""

    def __init__(self, folder, case):
        facts = json.loads((folder / (case + '.json')).read_text())
        self.config = facts['config']
        self.arrays = dict(np.load(folder / (case + '.npz')))
        self.state = read_torch(folder / facts['checkpoint']).value['state_dict']

    def layer(self, dtype='float32'):
        given = self.config
        layer = DynamicGroupConv('dgc', given['in_channels'], given['out_channels'],
                                 given['kernel_size'], given['stride'], given['padding'],
                                 given['dilation'], given['heads'], given['squeeze_rate'],
                                 given['gate_factor'])
        layer.initialize()
        for path, parameter in layer._collect_params_with_prefix().items():
            parameter.set_data(mx.nd.array(self.state[torch_key(path)]))
        layer.cast(dtype)
        return layer


def torch_key(path):
    for own, other in (('gamma', 'weight'), ('beta', 'bias'),
                       ('inactive_channels', '_inactive_channels')):
        path = path.replace(own, other)
    return path


def with_nodes(layer, dtype='float32', names=NODES):
    """The layer's output and then its inner nodes, on the same parameters."""
    data = mx.sym.var('data', dtype=dtype)
    output = layer(data)
    nodes = output.get_internals()
    return SymbolBlock([output] + [nodes['%s_%s_output' % (layer.name, n)] for n in names],
                       [data], params=layer.collect_params())


def relative(made, expected):
    made = made.asnumpy()
    assert made.shape == expected.shape
    return np.linalg.norm(made - expected) / max(np.linalg.norm(expected), 1e-12)


def random_layer(in_channels=16, channels=8, kernel_size=3, seed=3, **options):
    mx.random.seed(seed)
    layer = DynamicGroupConv('dgc', in_channels, channels, kernel_size, **options)
    layer.initialize(mx.init.Normal(0.3))
    layer.norm.running_mean.set_data(mx.nd.random.normal(0, 0.2, shape=in_channels))
    layer.norm.running_var.set_data(mx.nd.random.uniform(0.5, 2, shape=in_channels))
    return layer


@pytest.fixture(autouse=True)
def small_layers_gather(monkeypatch):
    """With few channels on, channels are gathered however small the layer is."""
    monkeypatch.setattr(head_products, 'GATHER_FROM', 0)


@pytest.fixture(params=CASES)
def original(request, shared_fixtures):
    return Original(shared_fixtures('dgc'), request.param)


# Against the original


@pytest.mark.parametrize('lowering', LOWERINGS)
@pytest.mark.parametrize('hybrid', (False, True))
def test_evaluation(original, hybrid, lowering):
    """Output, saliencies and selection for every stored count, without tracing again."""
    arrays, layer = original.arrays, original.layer()
    assert layer.inactive == original.config['inactive_counts'][1]
    if hybrid:
        layer.hybridize(static_alloc=True, static_shape=True)
    inner, x = with_nodes(layer), mx.nd.array(arrays['x'])
    layer.lowering = lowering
    for count in original.config['inactive_counts']:
        layer.set_inactive(count)
        expected = arrays['k%d.gated_saliency' % count]
        _, saliency, mask, gated = inner(x)
        assert np.abs(layer(x).asnumpy() - arrays['k%d.out' % count]).max() < 1e-5
        assert np.abs(saliency.asnumpy() - arrays['saliency']).max() < 1e-6
        assert np.abs(gated.asnumpy() - expected).max() < 1e-6
        assert ((gated.asnumpy() > 0) == (expected > 0)).all()
        assert ((gated.asnumpy() > 0).sum(axis=2) == arrays['k%d.n_active' % count]).all()
        assert (mask.asnumpy()[expected > 0] == 1).all()
        if count == 0:
            assert (mask.asnumpy() == 1).all()
        lasso = saliency.asnumpy().mean(axis=(0, 2)).sum()
        assert abs(lasso - arrays['lasso']) < 1e-5


@pytest.mark.parametrize('lowering', LOWERINGS)
@pytest.mark.parametrize('dtype, tolerance', (('float32', 2e-5), ('float64', 1e-5)))
def test_training(original, dtype, tolerance, lowering):
    """Train-mode output, lasso term, every gradient, and the running statistics."""
    arrays, layer = original.arrays, original.layer(dtype)
    layer.set_inactive(int(arrays['train.k']))
    layer.lowering = lowering
    inner = with_nodes(layer, dtype, ['saliency'])
    x = mx.nd.array(arrays['x'], dtype=dtype)
    x.attach_grad()
    with autograd.record():
        output, saliency = inner(x)
        lasso = saliency.mean(axis=(0, 2)).sum()
        loss = (output * mx.nd.array(arrays['loss_weights'], dtype=dtype)).sum() + 0.5 * lasso
    loss.backward()
    for name, made in (('out', output), ('saliency', saliency), ('grad.x', x.grad)):
        assert relative(made, arrays['train.' + name]) < tolerance, name
    assert abs(lasso.asscalar() - arrays['train.lasso']) < 1e-5
    assert abs(loss.asscalar() - arrays['train.loss']) < 1e-4
    parameters = layer._collect_params_with_prefix()
    gradients = {path: p for path, p in parameters.items() if p.grad_req != 'null'}
    assert len(gradients) == 2 + 4 * original.config['heads']
    for path, parameter in gradients.items():
        assert relative(parameter.grad(),
                        arrays['train.grad.' + torch_key(path)]) < tolerance, path
    # torch keeps the unbiased variance of the batch, MXNet the biased one.
    count = arrays['x'].size // arrays['x'].shape[1]
    assert relative(layer.norm.running_mean.data(), arrays['train.running_mean']) < 1e-5
    unbiased = ((layer.norm.running_var.data().asnumpy() - 0.9 * original.state[
        'norm.running_var']) * count / (count - 1) + 0.9 * original.state['norm.running_var'])
    assert np.abs(unbiased - arrays['train.running_var']).max() < 1e-5
    assert layer.inactive == int(arrays['train.k'])


# Against the rules


@pytest.mark.parametrize('lowering', LOWERINGS)
@pytest.mark.parametrize('options', (
    dict(kernel_size=1), dict(padding=1), dict(padding=2, dilation=2), dict(heads=2, strides=2),
    dict(heads=1, padding=1), dict(in_channels=18, channels=12, heads=6, padding=1, strides=2)),
    ids=lambda options: '-'.join('%s%s' % item for item in options.items()))
def test_output_is_the_definition(options, lowering):
    """Each head convolves the scaled map on its own; output channel j*H + h is its filter j."""
    layer = random_layer(**options)
    layer.lowering = lowering
    heads, x = len(layer.heads), mx.nd.random.normal(shape=(3, layer.in_channels, 9, 8))
    layer.set_inactive(7)
    activated = mx.nd.relu(layer.norm(x))
    saliencies = [head(activated.mean(axis=(2, 3))).asnumpy() for head in layer.heads]
    layer.hybridize(static_alloc=True, static_shape=True)
    output = layer(x).asnumpy()
    for h, (head, saliency) in enumerate(zip(layer.heads, saliencies)):
        kept = np.where(saliency > np.sort(saliency, axis=1)[:, 6:7], saliency, 0)
        scaled = activated * mx.nd.array(kept).expand_dims(2).expand_dims(3)
        settings = {key: options.get(name, default) for key, name, default in (
            ('stride', 'strides', 1), ('pad', 'padding', 0), ('dilate', 'dilation', 1))}
        weight = head.conv.weight.data()
        expected = mx.nd.Convolution(
            scaled, weight, kernel=weight.shape[2:], num_filter=weight.shape[0], no_bias=True,
            **{key: (value, value) for key, value in settings.items()})
        assert np.abs(output[:, h::heads] - expected.asnumpy()).max() < 1e-5


@pytest.mark.parametrize('inactive', (0, 5, 12, 16))
@pytest.mark.parametrize('options', (
    dict(kernel_size=1), dict(padding=1), dict(padding=2, dilation=2, strides=2),
    dict(kernel_size=1, strides=2, heads=2)),
    ids=lambda options: '-'.join('%s%s' % item for item in options.items()))
def test_the_lowerings_have_the_same_gradients(options, inactive):
    """Each way in which an image can be computed, with a shared input, as a sum of two uses."""
    found = []
    for lowering in LOWERINGS:
        layer = random_layer(**options)
        layer.set_inactive(inactive)
        layer.lowering = lowering
        layer.hybridize(static_alloc=True, static_shape=True)
        x = mx.nd.array(np.random.RandomState(5).randn(3, layer.in_channels, 9, 8))
        x.attach_grad(grad_req='add')
        for _ in range(2):
            with autograd.record():
                loss = (layer(x) ** 2).sum()
            loss.backward()
        found.append([x.grad] + [p.grad() for p in layer.collect_params().values()
                                 if p.grad_req != 'null'])
    for stock, blocked in zip(*found):
        assert relative(blocked, stock.asnumpy()) < 1e-5


def test_channels_are_gathered_where_that_pays(monkeypatch):
    """Few of them kept, and enough saved."""
    monkeypatch.undo()

    def gathers(inactive, side, kernel=1):
        window = head_products.Window(kernel, 1, kernel // 2, 1, side, side)
        return head_products.HeadProducts(
            np.zeros((1, 64, side, side)), np.zeros((1, 4, 64)),
            np.zeros((64, 64, kernel, kernel)), inactive, window).gathers
    assert gathers(48, 32) and not gathers(48, 8) and not gathers(32, 32)
    assert gathers(32, 32, kernel=3) and not gathers(31, 32, kernel=3) and not gathers(0, 32)


@pytest.mark.parametrize('lowering', LOWERINGS)
def test_statistics_and_modes(lowering):
    """As MXNet's BN: changed by the backward pass in training alone, and fixed on demand."""
    x = mx.nd.array(np.random.RandomState(0).randn(4, 16, 5, 5) + 3)
    layer = random_layer()
    layer.lowering = lowering
    before = layer.norm.running_mean.data().asnumpy()

    def step(**mode):
        with autograd.record(**mode):
            loss = (layer(x) ** 2).sum()
        untouched = layer.norm.running_mean.data().asnumpy()
        loss.backward()
        layer.norm.gamma.grad().wait_to_read()
        return untouched, layer.norm.running_mean.data().asnumpy(), loss.asscalar()
    assert [np.array_equal(found, before) for found in step(train_mode=False)[:2]] == [True, True]
    fixed = layer.norm.gamma.grad().asnumpy()
    layer.norm.use_running_statistics = True
    assert np.array_equal(step()[1], before)
    np.testing.assert_allclose(layer.norm.gamma.grad().asnumpy(), fixed, rtol=1e-4)
    layer.norm.use_running_statistics = False
    untouched, after, _ = step()
    assert np.array_equal(untouched, before)
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * x.mean(axis=(0, 2, 3)).asnumpy(),
                               rtol=1e-4)
    assert np.abs(layer.norm.gamma.grad().asnumpy() - fixed).max() > 1e-2


@pytest.mark.parametrize('lowering', LOWERINGS)
def test_changed_count_needs_no_new_graph(lowering):
    layer = random_layer(padding=1)
    layer.lowering = lowering
    layer.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.random.normal(shape=(2, 16, 6, 6))
    outputs = [layer(x).asnumpy()]
    graph = layer._cached_op
    for count in (5, 16, 0):
        layer.set_inactive(count)
        outputs.append(layer(x).asnumpy())
    assert layer._cached_op is graph
    assert np.abs(outputs[1] - outputs[0]).max() > 1e-3
    assert (outputs[2] == 0).all()
    assert (outputs[3] == outputs[0]).all()


def test_count_is_saved_with_the_weights(tmp_path):
    layer, copy = random_layer(), random_layer(seed=4)
    layer.set_inactive(9)
    layer.save_parameters(str(tmp_path / 'layer.params'))
    copy.load_parameters(str(tmp_path / 'layer.params'))
    assert copy.inactive == 9


def test_count_on_several_devices():
    layer = DynamicGroupConv('dgc', 16, 8, 1)
    layer.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    layer.set_progress(0.3)
    assert [array.asscalar() for array in layer.inactive_channels.list_data()] == [4, 4]


def test_count_is_not_trained():
    layer = random_layer(padding=1)
    layer.set_inactive(5)
    trainer = mx.gluon.Trainer(layer.collect_params(), 'sgd', {'learning_rate': 0.1, 'wd': 0.1})
    with autograd.record():
        loss = layer(mx.nd.random.normal(shape=(2, 16, 6, 6))).sum()
    loss.backward()
    before = layer.heads[0].conv.weight.data().asnumpy()
    trainer.step(2)
    assert layer.inactive_channels.data().asscalar() == 5
    assert np.abs(layer.heads[0].conv.weight.data().asnumpy() - before).max() > 1e-4


@pytest.mark.parametrize('gate_factor, channels', sorted(COUNTS))
def test_schedule(gate_factor, channels):
    assert tuple(inactive_count(progress, channels, gate_factor)
                 for progress in PROGRESS) == COUNTS[gate_factor, channels]


def test_schedule_rounds_halves_to_even():
    assert [inactive_count(1, channels, 0.25) for channels in (6, 10, 14)] == [4, 8, 10]
    assert inactive_count(1, 16, 1.0) == inactive_count(0.5, 16, 1) == 0


def test_schedule_leaves_the_count_at_first():
    """Up to 1/12, which the first iteration of epoch 25 of 300 hits exactly."""
    layer = random_layer()
    layer.set_inactive(3)
    for progress in (0, 0.05, 25 * 782 / (300 * 782)):
        layer.set_progress(progress)
        assert layer.inactive == 3
    layer.set_progress(0.2)
    assert layer.inactive == 2


@pytest.mark.parametrize('channels, expected', (
    (8, 1), (16, 2), (24, 3), (64, 8), (72, 9), (80, 5), (88, 5), (128, 8), (512, 32),
    (1936, 121)))
def test_hidden_units(channels, expected):
    assert hidden_units('dgc', channels, 16) == expected
    layer = DynamicGroupConv('dgc', channels, 8, 1)
    assert layer.heads[0].fc1.weight.shape == (expected, channels)


@pytest.mark.parametrize('options, message', (
    (dict(in_channels=18), 'd1: 18 input and 8 output channels do not divide by 4 heads'),
    (dict(channels=6), 'd1: 16 input and 6 output channels do not divide by 4 heads'),
    (dict(heads=0), 'd1: 16 input and 8 output channels do not divide by 0 heads'),
    (dict(gate_factor=0), 'd1: gate_factor=0 must be above 0 and at most 1'),
    (dict(gate_factor=1.5), 'd1: gate_factor=1.5 must be above 0 and at most 1'),
    (dict(gate_factor=float('nan')), 'd1: gate_factor=nan must be above 0 and at most 1'),
    (dict(squeeze_rate=34), 'd1: squeeze_rate=34 must be from 2 to 33 for 16 input channels'),
    (dict(squeeze_rate=1), 'd1: squeeze_rate=1 must be from 2 to 33 for 16 input channels'),
    (dict(in_channels=80, squeeze_rate=81),
     'd1: squeeze_rate=81 must be from 1 to 80 for 80 input channels')))
def test_refuses(options, message):
    settings = {'in_channels': 16, 'channels': 8, 'kernel_size': 1, **options}
    with pytest.raises(UsageError) as problem:
        DynamicGroupConv('d1', **settings)
    assert str(problem.value) == message


@pytest.mark.parametrize('call, message', (
    (lambda layer: layer.set_inactive(17), 'dgc: 17 inactive channels; must be from 0 to 16'),
    (lambda layer: layer.set_inactive(-1), 'dgc: -1 inactive channels; must be from 0 to 16'),
    (lambda layer: layer.set_progress(1.5), 'progress=1.5: must be from 0 to 1'),
    (lambda layer: layer.set_progress(-0.1), 'progress=-0.1: must be from 0 to 1')))
def test_refuses_counts_and_progress(call, message):
    with pytest.raises(UsageError) as problem:
        call(random_layer())
    assert str(problem.value) == message
