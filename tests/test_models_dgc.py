"""The networks of dynamic group convolutions and their plain baselines, by the original's rules."""

import json
import math
from ast import literal_eval
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

import igcnet
from igcnet.errors import UsageError
from igcnet.layers import BatchNorm
from igcnet.layers.dynamic import inactive_count
from igcnet.models.densenet import SPECS as DENSENET_SPECS
from igcnet.models.dgc import SPECS as DGC_SPECS
from igcnet.models.resnet import SPECS as RESNET_SPECS
from igcnet.profiling import count_parameters, profile

SPECS = DENSENET_SPECS + RESNET_SPECS + DGC_SPECS
EXPECTED = json.loads((Path(__file__).parent / 'expected' / 'dgc.json').read_text())
# Small settings of each network, for tests that compute.
SMALL_STAGES = dict(stages='1-2-1', growth=(4, 8, 8), classes=7)
SMALL = {
    'dydensenet': dict(SMALL_STAGES, heads=2, squeeze_rate=4),
    'densenet': dict(SMALL_STAGES, group_1x1=2),
    'dyresnet18': dict(classes=7),
    'resnet18': dict(classes=7),
}


def active_macs(net, counted, inactive):
    """Multiply-adds of the active channels, with the number of inactive ones of each layer."""
    macs = {layer.name: layer.macs for layer in counted.layers}
    dropped = (sum(macs[head.conv.name] for head in layer.heads) * count // layer.in_channels
               for layer, count in zip(getattr(net, 'dynamic_layers', []), inactive))
    return counted.macs - sum(dropped)


def original_counter(net, counted, gate_factor):
    """What the original's counter says, whose rules are other ones."""
    nodes = json.loads(net(mx.sym.var('data')).tojson())['nodes']
    layers, total = {layer.name: layer for layer in counted.layers}, 0
    for node in nodes:
        if node['name'] not in layers:
            continue
        layer = layers[node['name']]
        size = math.prod(layer.output_shape)
        if layer.operator == 'Convolution':
            total += layer.macs * (gate_factor if '_headconv_' in layer.name else 1)
        elif layer.operator == 'FullyConnected':
            total += layer.parameters
        elif layer.operator == 'Activation' or layer.name.endswith('_gated'):
            total += size
        elif layer.operator == 'Pooling' and 'global_pool' in node['attrs']:
            total += math.prod(layers[nodes[node['inputs'][0][0]]['name']].output_shape)
        elif layer.operator == 'Pooling':
            total += size * math.prod(literal_eval(node['attrs']['kernel']))
    return total


def original_settings(facts):
    """Our settings of a network of the original, from the facts stored with it."""
    settings = dict(facts['config'])
    settings['classes'] = settings.pop('num_classes')
    data = settings.pop('data')
    if facts['network'] == 'dydensenet':
        settings['form'] = 'imagenet' if data == 'imagenet' else 'cifar'
    return settings


def kind(parameter):
    """The column of the tables that a parameter belongs to."""
    if '_headconv_' in parameter.name and '_fc' in parameter.name:
        return 'selector_biases' if parameter.name.endswith('_bias') else 'selector_weights'
    if parameter.name.endswith(('_gamma', '_beta')):
        return 'bn'
    return 'conv' if len(parameter.shape) == 4 else 'classifier'


def images(count=2):
    return mx.nd.array(np.random.RandomState(0).randn(count, 3, 32, 32))


def computing(name):
    """A small network as after some training: every statistic fits, half the channels are off.

    Statistics that do not fit make a deep stack of dynamic convolutions overflow: each is about
    quadratic in the scale of its input.
    """
    mx.random.seed(3)
    net = igcnet.get_model(name, **SMALL[name])
    net.initialize()
    for layer in getattr(net, 'dynamic_layers', []):
        layer.set_inactive(layer.in_channels // 2)
    norms = [block for block in blocks(net) if isinstance(block, BatchNorm)]
    for norm in norms:
        norm.momentum = 0
    with autograd.record():
        loss = net(images(8)).sum()
    loss.backward()
    for norm in norms:
        norm.momentum = 0.9
    return net


def blocks(block):
    yield block
    for child in block._children.values():
        yield from blocks(child)


# Counts


@pytest.mark.parametrize('row', EXPECTED, ids=lambda row: row['name'])
def test_counts(row):
    """Every row of the reference's tables, exactly."""
    net = igcnet.get_model(row['name'])
    assert len(getattr(net, 'dynamic_layers', [])) == row['dynamic_layers']
    trained = [p for p in net.collect_params().values() if p.grad_req != 'null']
    sizes = dict.fromkeys(('conv', 'selector_weights', 'selector_biases', 'bn', 'classifier'), 0)
    for parameter in trained:
        sizes[kind(parameter)] += math.prod(parameter.shape)
    assert sizes == {key: row[key] for key in sizes}
    assert count_parameters(net) == row['parameters']
    counted = profile(net, (1, 3, row['input_size'], row['input_size']))
    assert (counted.parameters, counted.macs) == (row['parameters'], row['macs'])
    inactive = [inactive_count(1, layer.in_channels, layer.gate_factor)
                for layer in getattr(net, 'dynamic_layers', [])]
    assert active_macs(net, counted, inactive) == row['active_macs']


@pytest.mark.parametrize('row', EXPECTED, ids=lambda row: row['name'])
def test_published_figures(row):
    """The printed figures follow from the graph by the rules of the original's counter."""
    spec = igcnet.get_spec(row['name'])
    assert spec.family == 'dgc' and spec.preprocessing.input_size == row['input_size']
    net = igcnet.get_model(row['name'])
    counter = original_counter(net, profile(net, (1, 3, net.input_size, net.input_size)),
                               spec.settings().get('gate_factor'))
    if 'counter' in row:
        assert counter == pytest.approx(row['counter'], abs=0.05)
    if spec.published is not None:
        assert spec.published.params == round(row['parameters'] / 1e6, 2)
        assert spec.published.macs == round(counter / 1e6, 2)


def test_every_name_is_counted():
    assert sorted(spec.name for spec in SPECS) == sorted(row['name'] for row in EXPECTED)


@pytest.mark.parametrize('case', (
    'dydensenet_c10_s4-4-4_h4_gf25', 'dydensenet_c100_s2-2-2_h4_gf50_mid',
    'dydensenet_in_s1-2-1-2-1_h4_gf25', 'dyresnet18_c10_h4_gf50'))
def test_counts_of_original_networks(case, shared_fixtures):
    """Other settings: parameters and multiply-adds as the original's files state them."""
    facts = json.loads((shared_fixtures('dgc') / (case + '.json')).read_text())
    net = igcnet.get_model(facts['network'], **original_settings(facts))
    counted = profile(net, (1, *facts['input_shape'][1:]))
    assert (counted.parameters, counted.macs) == (facts['params'], facts['macs_conv_fc'])
    assert active_macs(net, counted, facts['inactive_channels_in_checkpoint']) == facts[
        'macs_conv_fc_gated']
    assert original_counter(net, counted, facts['config']['gate_factor']) == facts['macs']


# Structure


@pytest.mark.parametrize('name, channels, strides', (
    ('dydensenet86_cifar10', (128, 352, 800), (1, 2, 4)),
    ('dydensenet_imagenet', (48, 144, 400, 1040, 2064), (2, 4, 8, 16, 32)),
    ('densenet_imagenet', (48, 144, 400, 1040, 2064), (2, 4, 8, 16, 32)),
    ('dyresnet18', (64, 128, 256, 512), (4, 8, 16, 32)),
    ('resnet18', (64, 128, 256, 512), (4, 8, 16, 32))))
def test_stages(name, channels, strides):
    """The listed stages are what comes out of the features' children."""
    net = igcnet.get_model(name)
    assert tuple(stage.channels for stage in net.stages) == channels
    assert tuple(stage.stride for stage in net.stages) == strides
    size = igcnet.get_spec(name).preprocessing.input_size
    assert net.input_size == size
    x = mx.sym.var('data')
    found = {}
    for child, block in net.features._children.items():
        x = block(x)
        found[child] = x.infer_shape(data=(1, 3, size, size))[1][0]
    for stage in net.stages:
        assert found[stage.name] == (1, stage.channels) + (size // stage.stride,) * 2


def test_published_inactive_counts():
    """First and last layer of each stage, and the order of the original's list."""
    net = igcnet.get_model('dydensenet_imagenet')
    net.initialize()
    net.set_progress(1)
    layers = {layer.name: layer for layer in net.dynamic_layers}
    expected = {1: (4, 12, 30), 2: (6, 36, 96), 3: (8, 108, 276), 4: (10, 300, 732),
                5: (8, 780, 1452)}
    for stage, (last, *counts) in expected.items():
        assert [layers['denseblock_%d_denselayer_%d_conv_1' % (stage, layer)].inactive
                for layer in (1, last)] == counts
    net = igcnet.get_model('dyresnet18')
    net.initialize()
    net.set_progress(0.75)
    assert [layer.inactive for layer in net.dynamic_layers] == (
        [35] * 4 + [35, 70, 35, 70, 70] + [70, 141, 70, 141, 141] + [141, 282, 141, 282, 282])
    assert [layer.name for layer in net.dynamic_layers][4:7] == [
        'layer2_0_conv1', 'layer2_0_conv2', 'layer2_0_downsample_0']


def test_names_do_not_depend_on_the_process():
    graphs = {igcnet.get_model(name, **SMALL[name])(mx.sym.var('data')).tojson()
              for name in sorted(SMALL) * 2}
    assert len(graphs) == len(SMALL)


@pytest.mark.parametrize('name', sorted(SMALL))
def test_hybridised_exported_and_trained(name, tmp_path):
    """The same numbers in all forms, and a gradient for every parameter."""
    net, x = computing(name), images()
    expected = net(x).asnumpy()
    assert expected.shape == (2, 7) and np.abs(expected[0] - expected[1]).max() > 1e-3
    net.hybridize(static_alloc=True, static_shape=True)
    for _ in range(2):
        assert np.abs(net(x).asnumpy() - expected).max() < 1e-5 * np.abs(expected).max()
    net.export(str(tmp_path / 'net'))
    imported = mx.gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'],
                                            str(tmp_path / 'net-0000.params'))
    assert np.abs(imported(x).asnumpy() - expected).max() < 1e-5 * np.abs(expected).max()
    with autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    for parameter in net.collect_params().values():
        if parameter.grad_req != 'null':
            assert np.abs(parameter.grad().asnumpy()).max() > 0, parameter.name


@pytest.mark.parametrize('name', ('dydensenet', 'dyresnet18'))
def test_with_lasso(name):
    """Logits as the network's own, lasso terms of each sample, one set of parameters."""
    net, x = computing(name), images(3)
    training = net.with_lasso()
    training.hybridize(static_alloc=True, static_shape=True)
    logits, lasso = training(x)
    assert np.abs((logits - net(x)).asnumpy()).max() < 1e-4
    assert lasso.shape == (3, len(net.dynamic_layers))
    # The terms of a sample do not depend on the others.
    assert np.abs((lasso[1:2] - training(x[1:2])[1]).asnumpy()).max() < 1e-4
    assert dict(training.collect_params().items()) == dict(net.collect_params().items())
    for layer in net.dynamic_layers:
        layer.set_inactive(0)
    changed, unchanged = training(x)
    assert np.abs((changed - logits).asnumpy()).max() > 1e-3
    assert np.abs((unchanged - lasso)[:, 0].asnumpy()).max() == 0


def test_lowering_auto_is_chosen_by_the_kernel():
    """And a graph asked for from outside is the stock one."""
    for name, expected in (('dydensenet', {'blocked'}), ('dyresnet18', {'blocked', 'stock'})):
        net = computing(name)
        net.set_lowering('auto')
        assert {layer.lowering for layer in net.dynamic_layers} == expected
        assert '"Custom"' not in net(mx.sym.var('data')).tojson()
        assert '"Custom"' in net.with_lasso()(mx.sym.var('data'))[0].tojson()


def test_lasso_of_a_new_network_is_about_the_number_of_heads():
    mx.random.seed(1)
    net = igcnet.get_model('dydensenet', stages='3-3-3')
    net.initialize()
    with autograd.train_mode():
        _, lasso = net.with_lasso()(mx.nd.random.normal(shape=(4, 3, 32, 32)))
    assert lasso.mean().asscalar() == pytest.approx(4, rel=0.2)


# Initialisation


def test_initialisation():
    mx.random.seed(7)
    net = igcnet.get_model('dyresnet18')
    net.initialize()
    layer = net.features.layer4[0].conv2
    head = layer.heads[1]
    for weight, deviation in ((head.conv.weight, math.sqrt(2 / (9 * 128))),
                              (head.fc1.weight, math.sqrt(2 / 512)),
                              (head.fc2.weight, math.sqrt(2 / 32)),
                              (net.features.conv1.weight, math.sqrt(2 / (49 * 64)))):
        values = weight.data().asnumpy()
        assert values.std() == pytest.approx(deviation, rel=0.03), weight.name
        assert np.abs(values).max() > 2.5 * deviation
    assert (head.fc2.bias.data().asnumpy() == 1).all()
    assert layer.inactive == 0
    bound = 1 / math.sqrt(512)
    for parameter in (net.output.weight, net.output.bias):
        values = parameter.data().asnumpy()
        assert 0.95 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    net = igcnet.get_model('dydensenet')
    net.initialize()
    assert (net.output.bias.data().asnumpy() == 0).all()
    weight = net.features.denseblock_3.denselayer_1.conv_2.conv.weight.data().asnumpy()
    assert weight.std() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)


# Settings


def test_stages_as_text_or_numbers():
    text = igcnet.get_model('densenet', stages='1-2-1', growth='4-8-8')
    numbers = igcnet.get_model('densenet', stages=[1, 2, 1], growth=(4, 8, 8))
    assert (text(mx.sym.var('data')).tojson() == numbers(mx.sym.var('data')).tojson())


@pytest.mark.parametrize('name, settings, message', (
    ('dydensenet', dict(stages='1-2-1', growth='4-8'),
     '3 stages and 2 growth rates: one rate is needed for each stage'),
    ('dydensenet', dict(stages='1-x'),
     "stages='1-x': must be whole numbers of at least 1, such as '4-6-8'"),
    ('dydensenet', dict(growth=(8, 0, 8)),
     "growth=(8, 0, 8): must be whole numbers of at least 1, such as '4-6-8'"),
    ('dydensenet', dict(stages=(1, 2.5)),
     "stages=(1, 2.5): must be whole numbers of at least 1, such as '4-6-8'"),
    ('dydensenet', dict(stages=3),
     "stages=3: must be whole numbers of at least 1, such as '4-6-8'"),
    ('dydensenet', dict(form='cifar10'), "form='cifar10': must be 'cifar' or 'imagenet'"),
    ('dydensenet', dict(heads=3), 'denseblock_1_denselayer_1_conv_1: 16 input and 32 output '
                                  'channels do not divide by 3 heads'),
    ('dydensenet', dict(gate_factor=0.0), 'denseblock_1_denselayer_1_conv_1: gate_factor=0.0 '
                                          'must be above 0 and at most 1'),
    ('dyresnet18', dict(gate_factor=1.01),
     'layer1_0_conv1: gate_factor=1.01 must be above 0 and at most 1'),
    ('dyresnet18', dict(heads=5),
     'layer1_0_conv1: 64 input and 64 output channels do not divide by 5 heads'),
    ('dydensenet', dict(group_3x3=3), 'denseblock_1_denselayer_1_conv_2_conv: 32 input and 8 '
                                      'output channels do not divide by 3 groups'),
    ('densenet', dict(group_1x1=0), 'denseblock_1_denselayer_1_conv_1_conv: 16 input and 32 '
                                     'output channels do not divide by 0 groups'),
    ('densenet', dict(group_3x3=0), 'denseblock_1_denselayer_1_conv_2_conv: 32 input and 8 '
                                     'output channels do not divide by 0 groups'),
    ('densenet', dict(bottleneck=0), 'bottleneck=0: must be a whole number of at least 1'),
    ('densenet', dict(classes=0), 'classes=0: must be a whole number of at least 1'),
    ('resnet18', dict(classes=0), 'classes=0: must be a whole number of at least 1')))
def test_refuses(name, settings, message):
    with pytest.raises(UsageError) as problem:
        igcnet.get_model(name, **settings)
    assert str(problem.value) == message
