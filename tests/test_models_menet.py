"""MENet, ShuffleNet and MobileNet against the facts of the original repository."""

import json
import math
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from conftest import REPO, needs_checkout
from mxnet import autograd
from networks import trained_looking

import igcnet
from igcnet.errors import UsageError
from igcnet.layers.init import FanInit
from igcnet.models import menet, mobilenet, shufflenet

HERE = Path(__file__).parent
FAMILIES = ('menet', 'shufflenet', 'mobilenet')
ROWS = [dict(row, family=family) for family in FAMILIES
        for row in json.loads((HERE / 'expected' / (family + '.json')).read_text())]
# One of each kind, quick to compute.
SMALL = {
    'menet': dict(block_channels=(48, 96, 192), block_layers=(1, 2, 0), init_c=12,
                  side_channels=(4, 6, 8), classes=10),
    'shufflenet': dict(init_mul=0.25, width_mul=0.25, block_layers=(0, 1, 1), classes=10),
    'mobilenet': dict(width_mul=0.25, classes=10),
    'shallow_mobilenet': dict(width_mul=0.125, classes=10),
}


def graph_of(net):
    """Operator nodes of the traced graph by name: operator, inputs by name, attributes."""
    nodes = json.loads(net(mx.sym.var('data')).tojson())['nodes']
    return {node['name']: {'op': node['op'], 'inputs': [nodes[i]['name'] for i, *_ in
                                                        node['inputs']],
                           **node.get('attrs', {})}
            for node in nodes if node['op'] != 'null'}


def multiply_adds(net, size):
    """Of convolutions and classifier, from the shapes that the graph infers."""
    symbol = net(mx.sym.var('data')).get_internals()
    _, shapes, _ = symbol.infer_shape(data=(1, 3, size, size))
    shapes = dict(zip(symbol.list_outputs(), shapes))
    return sum(int(np.prod(shapes[name + '_output']) * np.prod(shapes[name + '_weight'][1:]))
               for name, node in graph_of(net).items()
               if node['op'] in ('Convolution', 'FullyConnected'))


def images(count=2, size=224):
    return mx.nd.array(np.random.RandomState(0).randn(count, 3, size, size))


def computing(name):
    return trained_looking(igcnet.get_model(name, **SMALL[name]))


# Named configurations


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row['name'])
def test_counts(row):
    """Parameters and multiply-adds of every named configuration, exactly."""
    net = igcnet.get_model(row['name'])
    sizes = {True: 0, False: 0}
    for parameter in net.collect_params().values():
        sizes[parameter.grad_req != 'null'] += int(np.prod(parameter.shape))
    assert sizes[True] == row['parameters']
    assert sizes[False] == row.get('aux', sizes[False])
    assert multiply_adds(net, row['input_size']) == row['macs']
    spec = igcnet.get_spec(row['name'])
    assert spec.family == row['family'] and spec.preprocessing.input_size == row['input_size']


def test_every_named_configuration_has_a_row():
    specs = menet.SPECS + shufflenet.SPECS + mobilenet.SPECS
    assert sorted(row['name'] for row in ROWS) == sorted(spec.name for spec in specs)


@pytest.mark.parametrize('name', ['shufflenet_1x_g3', 'menet228_12x1_g3'])
def test_counts_of_the_form_for_small_images(name):
    """Its counts follow from those of the form for large ones: maps of 4/7 of the size, the
    stem's convolution on the whole image, ten classes."""
    rows = {row['name']: row for row in ROWS}
    large, small = rows[name], rows[name + '_cifar10']
    features, stem = igcnet.get_model(name).output.weight.shape[1], 3 * 24 * 3 * 3
    assert large['parameters'] - small['parameters'] == (features + 1) * 990
    stages = large['macs'] - stem * 112 ** 2 - features * 1000
    assert small['macs'] * 49 == stages * 16 + (stem * 32 ** 2 + features * 10) * 49


@pytest.mark.parametrize('name', ['shufflenet', 'menet'])
def test_form_for_small_images(name):
    net = trained_looking(igcnet.get_model(name, **{**SMALL[name], 'form': 'cifar'}))
    assert net.fixed_input_size and net.input_size == 32
    assert [stage.stride for stage in net.stages] == [2, 4, 8]
    assert net(images(2, 32)).shape == (2, 10)
    with pytest.raises(UsageError, match="form='svhn': must be 'imagenet' or 'cifar'"):
        igcnet.get_model(name, form='svhn')


@needs_checkout
@pytest.mark.parametrize('family', FAMILIES)
def test_documented_counts(family):
    """The pages show the counts of every configuration but the family's defaults."""
    page = (REPO / 'docs' / 'networks' / (family + '.md')).read_text()
    shown = {cells[1].strip(' `'): (cells[-3].strip(), cells[-2].strip())
             for cells in (line.split('|') for line in page.splitlines())
             if len(cells) > 3 and cells[1].startswith(' `')}
    assert shown == {row['name']: tuple('{:,}'.format(row[key]) for key in ('parameters', 'macs'))
                     for row in ROWS if row['family'] == family and row['name'] != family}


def test_published_multiply_adds_are_cut_to_millions():
    """The README's six figures follow from the counts, by truncation."""
    published = {row['name']: igcnet.get_spec(row['name']).published for row in ROWS}
    printed = {row['name']: (published[row['name']].macs, row['macs'] // 10 ** 6)
               for row in ROWS if published[row['name']]}
    assert len(printed) == 6 and all(a == b for a, b in printed.values())
    assert published['menet456_24x1_g3'].top1_error == 28.4
    assert published['menet108_8x1_g3'].top5_error == 20.76


def test_preprocessing():
    """The original divides by 255 and then uses means and deviations in 0..1."""
    for row in ROWS:
        if row['name'].endswith('_cifar10'):
            continue
        preprocessing = igcnet.get_spec(row['name']).preprocessing
        np.testing.assert_allclose(preprocessing.mean, np.multiply(255, [0.485, 0.456, 0.406]))
        np.testing.assert_allclose(preprocessing.std, np.multiply(255, [0.229, 0.224, 0.225]))
        assert preprocessing.resize_shorter == 256
        assert preprocessing.interpolation == 'pil-bilinear'


@pytest.mark.parametrize('name', ['menet348_12x1_g3', 'shufflenet_1.5x_g3', 'mobilenet_0.5x',
                                  'shallow_mobilenet'])
def test_stages(name):
    """Each listed stage is a child of the features and has the listed channels and stride."""
    net = igcnet.get_model(name)
    symbol = net(mx.sym.var('data')).get_internals()
    for stage in net.stages:
        node = getattr(net.features, stage.name)
        node = getattr(node, 'relu', node).name + '_output'
        _, (shape,), _ = symbol[node].infer_shape(data=(1, 3, 224, 224))
        assert shape == (1, stage.channels, 224 // stage.stride, 224 // stage.stride)
    assert [stage.stride for stage in net.stages][-3:] == [8, 16, 32]
    assert net.stages[-1].channels == net.output.weight.shape[1]


def test_widths():
    def stem_and_stages(name, **settings):
        net = igcnet.get_model(name, **settings)
        stem = net.features.conv_1.weight
        return [stem.shape[0], *(stage.channels for stage in net.stages)]

    assert stem_and_stages('shufflenet_0.5x_g3') == [12, 120, 240, 480]
    assert stem_and_stages('shufflenet_1.5x_g3') == [24, 360, 720, 1440]
    # 24 * 0.7 is cut to 16 and rounded up to 18; 240 * 0.7 is 168.
    assert stem_and_stages('shufflenet', init_mul=0.7, width_mul=0.7) == [18, 168, 336, 672]
    assert [stage.channels for stage in igcnet.get_model('mobilenet', width_mul=0.3).stages] == [
        19, 38, 76, 153, 307]


@pytest.mark.parametrize('groups', shufflenet.BASE_CHANNELS)
@pytest.mark.parametrize('multiplier', [0.25, 0.5, 0.75, 1, 1.5, 2])
def test_shufflenet_multipliers_that_can_be_built(groups, multiplier):
    """2 and 4 groups exist at the widths 1 and 2 only, as in the original."""
    settings = dict(groups=groups, init_mul=multiplier, width_mul=multiplier)
    if groups in (2, 4) and multiplier not in (1, 2):
        with pytest.raises(UsageError, match='a quarter of it, .* divide by groups=%d' % groups):
            igcnet.get_model('shufflenet', **settings)
    else:
        net = igcnet.get_model('shufflenet', **settings)
        assert net.stages[0].channels == shufflenet.BASE_CHANNELS[groups][0] * multiplier


@pytest.mark.parametrize('name, settings, message', [
    ('menet', dict(block_channels=(228, 456)), 'block_channels=.*3 whole numbers'),
    ('menet', dict(block_layers=(3, -1, 3)), 'block_layers=.*at least 0'),
    ('menet', dict(side_channels=(12, 12, 0)), 'side_channels=.*at least 1'),
    ('menet', dict(side_channels=12), 'side_channels=12: .*3 whole numbers'),
    ('menet', dict(groups=0), 'groups=0'),
    ('menet', dict(init_c=25), 'a stem of 25 channels .*groups=3'),
    ('menet', dict(init_c=228), 'wider than the one before'),
    ('menet', dict(block_channels=(228, 460, 912)), 'a stage of 460 channels: .*groups=3'),
    ('menet', dict(block_channels=(228, 450, 912)), 'a quarter of it, 112'),
    ('menet', dict(init_mode='xavier'), "init_mode='xavier'"),
    ('menet', dict(classes=0), 'classes=0'),
    ('shufflenet', dict(groups=5), 'groups=5: must be one of 1, 2, 3, 4, 8'),
    ('shufflenet', dict(init_mul=0), 'init_mul=0'),
    ('shufflenet', dict(width_mul=float('nan')), 'width_mul=nan'),
    ('shufflenet', dict(init_mul=0.01), 'init_mul=0.01: leaves no channel of 24'),
    ('mobilenet', dict(width_mul=0.03), 'width_mul=0.03: leaves no channel of 32'),
    ('mobilenet', dict(width_mul=float('inf')), 'width_mul=inf'),
])
def test_settings_that_cannot_work(name, settings, message):
    with pytest.raises(UsageError, match=message):
        igcnet.get_model(name, **settings)


# Graphs


def test_graph_of_a_merge_evolve_unit():
    """Who reads whom, and with how many groups, where the output could not tell by itself."""
    nodes = graph_of(igcnet.get_model('menet108_8x1_g3'))
    first, second = 'stage_1_1_', 'stage_1_2_'
    assert nodes[first + 'compress']['num_group'] == '1'  # of the network's first unit only
    assert nodes[second + 'compress']['num_group'] == '3'
    assert nodes['stage_2_1_compress']['num_group'] == '3'
    assert nodes[first + 's_merge']['inputs'][0] == first + 'shuffle'
    assert nodes[first + 'depthwise']['inputs'][0] == first + 'shuffle'
    assert nodes[first + 'product']['inputs'] == [first + 'bn_depthwise', first + 's_gate']
    assert nodes[first + 's_gate']['act_type'] == 'sigmoid'
    assert nodes[first + 'concat']['inputs'] == [first + 'bn_expand', first + 'pool']
    assert nodes[second + 'add']['inputs'] == [second + 'bn_expand', first + 'relu']
    strides = [nodes[first + layer]['stride'] for layer in ('s_merge', 's_conv', 'depthwise')]
    assert strides == ['(1, 1)', '(2, 2)', '(2, 2)']
    assert not any(name.startswith('stage_1_5') for name in nodes)


@pytest.mark.parametrize('downsample', [False, True])
@pytest.mark.parametrize('side_channels', [None, 5])
def test_unit_computes_what_torch_computes(downsample, side_channels):
    """Both units on an odd map, against torch's own operators."""
    torch = pytest.importorskip('torch')
    from igcnet.layers import MergeEvolveUnit, ShuffleUnit
    functional = torch.nn.functional
    kin, kout, groups = (12, 36, 3) if downsample else (24, 24, 3)
    unit = (MergeEvolveUnit('u', kin, kout, side_channels, groups, downsample) if side_channels
            else ShuffleUnit('u', kin, kout, groups, downsample))
    mx.random.seed(4)
    unit.initialize(mx.init.Normal(0.5))
    for key, parameter in unit.collect_params().items():
        if not key.endswith('_weight'):
            parameter.set_data(mx.nd.random.uniform(0.2, 1.5, shape=parameter.shape))
    values = {key: torch.from_numpy(p.data().asnumpy())
              for key, p in unit._collect_params_with_prefix().items()}
    strides = 2 if downsample else 1

    def layer(x, conv, norm, **options):
        weight = values[conv + '.weight']
        x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2, **options)
        return functional.batch_norm(x, *(values[norm + '.' + name] for name in (
            'running_mean', 'running_var', 'gamma', 'beta')))

    data = np.random.RandomState(5).randn(2, kin, 9, 7).astype(np.float32)
    x = torch.from_numpy(data)
    y = layer(x, 'compress', 'bn_compress', groups=groups).relu()
    y = functional.channel_shuffle(y, groups)
    middle = layer(y, 'depthwise', 'bn_depthwise', groups=kout // 4, stride=strides)
    if side_channels:
        gate = layer(y, 's_merge', 's_bn_merge').relu()
        gate = layer(gate, 's_conv', 's_bn_conv', stride=strides).relu()
        middle = middle * layer(gate, 's_evolve', 's_bn_evolve').sigmoid()
    y = layer(middle, 'expand', 'bn_expand', groups=groups)
    y = torch.cat([y, functional.avg_pool2d(x, 3, 2, 1)], 1) if downsample else x + y
    expected = y.relu().numpy()

    imperative = unit(mx.nd.array(data)).asnumpy()
    unit.hybridize(static_alloc=True, static_shape=True)
    hybridised = unit(mx.nd.array(data)).asnumpy()
    assert 0.1 < np.mean(expected > 0) < 0.9
    np.testing.assert_allclose(imperative, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hybridised, expected, rtol=1e-4, atol=1e-4)


# Computing


@pytest.mark.parametrize('mode', ['fan_in', 'fan_out'])
@pytest.mark.parametrize('name', ['menet', 'mobilenet'])
def test_initial_weights(name, mode):
    """Convolutions N(0, 2/fan), classifier U(-a, a) with a = sqrt(6/fan), the rest constant.

    The fan of the outputs counts the channels of all groups, that of the inputs those of one.
    """
    mx.random.seed(11)
    net = igcnet.get_model(name, init_mode=mode)
    net.initialize()
    for key, parameter in net.collect_params().items():
        value = parameter.data().asnumpy()
        if not key.endswith('_weight'):
            assert np.all(value == (1 if key.endswith(('_gamma', '_moving_var')) else 0)), key
            continue
        outputs, inputs, *kernel = value.shape
        fan = (inputs if mode == 'fan_in' else outputs) * math.prod(kernel)
        if key == 'classifier_weight':
            bound = math.sqrt(6 / fan)
            assert 0.99 * bound < np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        else:
            scaled = value / math.sqrt(2 / fan)
            spread = 4.5 / math.sqrt(2 * value.size)  # in standard errors of a deviation
            assert scaled.std() == pytest.approx(1, abs=spread), key
            assert value.size < 2000 or np.mean(scaled ** 4) > 2.4  # uniform: 1.8


def test_initial_mode_of_each_family():
    modes = {name: igcnet.get_model(name).original_initializer for name in SMALL}
    assert all(isinstance(init, FanInit) for init in modes.values())
    assert {name: init.mode for name, init in modes.items()} == {
        'menet': 'fan_out', 'shufflenet': 'fan_out', 'mobilenet': 'fan_in',
        'shallow_mobilenet': 'fan_in'}


@pytest.mark.parametrize('name', SMALL)
def test_hybridised_training_equals_imperative(name):
    """The gradient of every parameter, which is never zero, and the running statistics."""
    results = []
    for hybridise in (False, True):
        net = computing(name)
        if hybridise:
            net.hybridize(static_alloc=True, static_shape=True)
        loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        with autograd.record():
            loss = loss_function(net(images()), mx.nd.array([1, 7]))
        loss.backward()
        results.append({key: (p.data() if p.grad_req == 'null' else p.grad()).asnumpy()
                        for key, p in net.collect_params().items()})
    for key, imperative in results[0].items():
        largest = np.abs(imperative).max()
        assert np.isfinite(largest) and largest > 0, key
        np.testing.assert_allclose(results[1][key], imperative, rtol=1e-3, atol=1e-4 * largest,
                                   err_msg=key)


@pytest.mark.parametrize('name', SMALL)
def test_final_pool_is_7x7(name):
    """On a larger image it sees the upper left 7x7 positions of the map only, as the original;
    on a smaller one it cannot work."""
    net = computing(name)
    assert net.fixed_input_size and net.input_size == 224
    maps = []
    getattr(net.features, net.stages[-1].name).register_forward_hook(
        lambda block, inputs, output: maps.append(output.asnumpy()))
    pooled = net.features(images(1, 256)).asnumpy()
    assert maps[0].shape[2:] == (8, 8)
    np.testing.assert_allclose(pooled, maps[0][:, :, :7, :7].mean((2, 3)), rtol=1e-5, atol=1e-5)
    with pytest.raises(mx.MXNetError):
        net(images(1, 192)).asnumpy()
