"""The slimmable networks: exact counts, structure, and running at any width."""

import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.errors import UsageError
from igcnet.layers import Network
from igcnet.models import slimmable_mobilenet, slimmable_resnet

EXPECTED = json.loads((Path(__file__).parent / 'expected' / 'slimmable.json').read_text())
SPECS = slimmable_mobilenet.SPECS + slimmable_resnet.SPECS


def nodes_of(net):
    """Operator nodes of the traced graph by name, with their attributes."""
    nodes = json.loads(net(mx.sym.var('data')).tojson())['nodes']
    return {node['name']: {'op': node['op'], **node.get('attrs', {})}
            for node in nodes if node['op'] != 'null'}


def count_macs(net, size):
    """Multiply-adds of convolutions and classifier of the present width, from its graph."""
    symbol = net(mx.sym.var('data'))
    internals, nodes = symbol.get_internals(), json.loads(symbol.tojson())['nodes']
    _, shapes, _ = internals.infer_shape_partial(data=(1, 3, size, size))
    shapes = dict(zip(internals.list_outputs(), shapes))
    total = 0
    for node in nodes:
        if node['op'] in ('Convolution', 'FullyConnected'):
            weight = nodes[node['inputs'][1][0]]  # a parameter, or what slice_axis leaves of it
            shape = shapes[weight['name'] + ('' if weight['op'] == 'null' else '_output')]
            total += int(np.prod(shapes[node['name'] + '_output']) * np.prod(shape[1:]))
    return total


def count_parameters(net):
    return sum(int(np.prod(parameter.shape)) for parameter in net.collect_params().values()
               if parameter.grad_req != 'null')


# Counts


@pytest.mark.parametrize('row', EXPECTED['sub_networks'],
                         ids=lambda row: '%s-%g' % (row['name'], row['width']))
def test_counts_of_sub_networks(row):
    """Parameters of the sub-network alone; multiply-adds of it, and of the graph with slices."""
    net = igcnet.get_model(row['name'])
    part = net.cut(row['width'])
    assert type(part) is Network
    if row['parameters'] is not None:
        assert count_parameters(part) == row['parameters']
    if row['width'] == net.width_range[1]:
        assert count_parameters(net) == count_parameters(part)
    net.set_width(row['width'])
    for size, macs in row['macs'].items():
        assert count_macs(part, int(size)) == count_macs(net, int(size)) == macs


def test_every_named_configuration_has_a_row():
    rows = {(row['name'], row['width']) for row in EXPECTED['sub_networks']}
    for spec in SPECS:
        assert (spec.name, spec.settings()['width_mult_range'][1]) in rows
        assert spec.family == 'slimmable'
        assert igcnet.get_model(spec.name).input_size == spec.preprocessing.input_size


@pytest.mark.parametrize('name', EXPECTED['published_mflops'])
def test_published_tables(name):
    """Every row of the original's query tables is within 1 M of the exact count."""
    net, macs = igcnet.get_model(name), {}
    for published, width, size in EXPECTED['published_mflops'][name]:
        net.set_width(width)
        macs[width, size] = count_macs(net, size)
        assert abs(macs[width, size] / 1e6 - published) < 1
    first = EXPECTED['published_mflops'][name][0]
    assert first[0] == igcnet.get_spec(name).published.macs


@pytest.mark.parametrize('name, settings, width, mflops', [
    ('mobilenet_v1_us', dict(width_mult_range=(0.15, 1), width_mult_list=()), 0.15, 21.47),
    ('mobilenet_v2_us', dict(width_mult_range=(0.35, 1)), 0.55, 106.67),
    ('mobilenet_v2_us', dict(width_mult_range=(0.35, 1)), 0.5, 97.13),
    ('mobilenet_v2_us', dict(width_mult_range=(0.35, 1)), 0.35, 59.29)])
def test_widths_of_the_comparison_with_us_net(name, settings, width, mflops):
    net = igcnet.get_model(name, **settings)
    assert abs(count_macs(net.cut(width), 224) / 1e6 - mflops) < 0.005


@pytest.mark.parametrize('name, case', [
    ('mobilenet_v1_us', 'mobilenet_v1_c10'), ('mobilenet_v2_us', 'mobilenet_v2_c10'),
    ('resnet50_us', 'resnet50_narrow_c10'), ('wideresnet28_10_us', 'wideresnet10_1_c10')])
def test_counts_of_the_original(name, case, shared_fixtures):
    """Of other configurations, as the original counts them."""
    facts = json.loads((shared_fixtures('mutualnet') / (case + '.json')).read_text())
    config = {**facts['config'], 'classes': facts['config']['num_classes']}
    net = igcnet.get_model(name, **{key: config[key] for key in igcnet.get_spec(name).settings()
                                    if key in config})
    assert count_parameters(net) == facts['params']
    for key, macs in facts['macs_conv_fc'].items():
        width, size = key.split('-')
        net.set_width(float(width))
        assert count_macs(net, int(size)) == macs


@pytest.mark.parametrize('depth, parameters', [(101, 44549160), (152, 60192808)])
def test_depth_of_resnet(depth, parameters):
    """At width 1 these are the ordinary networks, whose counts are well known."""
    net = igcnet.get_model('resnet50_us', depth=depth)
    assert count_parameters(net) == parameters


@pytest.mark.parametrize('name, count', [
    ('mobilenet_v1_us', 187), ('mobilenet_v2_us', 24), ('resnet50_us', 49),
    ('wideresnet28_10_us', 15)])
def test_number_of_different_sub_networks(name, count):
    net = igcnet.get_model(name)
    low, high = net.width_range
    shapes = {net.channel_counts(width) for width in np.linspace(low, high, 20001)}
    assert len(shapes) == count


def test_published_figures():
    figures = {spec.name: (spec.published.macs, spec.published.top1_error,
                           spec.published.data_set) for spec in SPECS}
    assert figures == {
        'mobilenet_v1_us': (569, 27.6, 'ImageNet'),
        'mobilenet_v1_us_1.6x': (2300, 22.9, 'ImageNet'),
        'mobilenet_v2_us': (300, 27.1, 'ImageNet'),
        'resnet50_us': (None, 21.4, 'ImageNet'),
        'wideresnet28_10_us': (None, 16.2, 'CIFAR-100'),
        'wideresnet28_10_us_cifar10': (None, 2.7, 'CIFAR-10')}


# Structure


@pytest.mark.parametrize('name, settings, width, stages', [
    ('mobilenet_v1_us', {}, 0.5, [('block1', 32, 2), ('block3', 64, 4), ('block5', 128, 8),
                                  ('block11', 256, 16), ('block13', 512, 32)]),
    ('mobilenet_v2_us', {}, 0.7, [('block1', 16, 2), ('block3', 16, 4), ('block6', 24, 8),
                                  ('block13', 64, 16), ('tail', 1280, 32)]),
    ('mobilenet_v2_us', dict(cifar10_rows=True), 1.0, [
        ('block1', 16, 2), ('block5', 24, 4), ('block12', 96, 8), ('tail', 1280, 16)]),
    ('resnet50_us', {}, 0.9, [('block3', 232, 4), ('block7', 464, 8), ('block13', 920, 16),
                              ('block16', 1840, 32)]),
    ('wideresnet28_10_us', {}, 1.0, [('stage1', 160, 1), ('stage2', 320, 2),
                                     ('stage3', 640, 4)])])
def test_stages(name, settings, width, stages):
    """They follow the width, and are where the graph has such shapes."""
    net = igcnet.get_model(name, **settings)
    net.set_width(width)
    assert [tuple(stage) for stage in net.stages] == stages
    assert [tuple(stage) for stage in net.cut().stages] == stages
    size = 64
    for stage in net.cut(width).stages:
        features = net.features(mx.sym.var('data')).get_internals()
        last = [output for output in features.list_outputs()
                if output.startswith(stage.name + '_') and output.endswith('_output')][-1]
        _, shape, _ = features[last].infer_shape_partial(data=(1, 3, size, size))
        assert shape == [(1, stage.channels, size // stage.stride, size // stage.stride)]


def test_layers_of_mobilenet_v1():
    nodes = nodes_of(igcnet.get_model('mobilenet_v1_us'))
    names = list(nodes)
    assert names[:9] == ['stem_conv', 'stem_bn', 'stem_relu', *(
        'block1_' + layer for layer in ('depthwise', 'depthwise_bn', 'depthwise_relu',
                                        'pointwise', 'pointwise_bn', 'pointwise_relu'))]
    assert names[-3:] == ['pool', 'flatten', 'fc'] and len(names) == 3 + 13 * 6 + 3
    strided = [name for name in names if nodes[name].get('stride') == '(2, 2)']
    assert strided == ['stem_conv', *('block%d_depthwise' % i for i in (2, 4, 6, 12))]
    assert nodes['stem_relu']['op'] == 'clip' and nodes['stem_relu']['a_max'] == '6'


def test_layers_of_mobilenet_v2():
    nodes = nodes_of(igcnet.get_model('mobilenet_v2_us'))
    assert 'block1_expand' not in nodes and nodes['block2_expand']['num_filter'] == '96'
    assert {name for name in nodes if name.endswith('_add')} == {
        'block%d_add' % i for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)}
    assert not any('project_relu' in name for name in nodes)
    strided = [name for name in nodes if nodes[name].get('stride') == '(2, 2)']
    assert strided == ['stem_conv', *('block%d_depthwise' % i for i in (2, 4, 7, 14))]
    quirk = nodes_of(igcnet.get_model('mobilenet_v2_us', cifar10_rows=True))
    assert 'block16_project' in quirk and 'block17_project' not in quirk
    assert quirk['block4_project']['num_filter'] == '24' and 'block4_add' in quirk


@pytest.mark.parametrize('name', ['mobilenet_v2_us', 'resnet50_us'])
def test_rounding_of_inner_channels(name):
    net = igcnet.get_model(name)
    net.set_width(net.width_range[0])
    nodes = nodes_of(net)
    if name == 'mobilenet_v2_us':  # 6 times the rounded 16 * 0.7
        assert nodes['block2_expand']['num_filter'] == '96'
        assert nodes['block2_depthwise']['num_group'] == '96'
    else:
        assert [nodes[layer]['num_filter'] for layer in (
            'stem_conv', 'block1_conv2', 'block4_conv1', 'block16_conv3')] == [
                '58', '58', '116', '1840']


def test_layers_of_resnet():
    """The stride is in the 3x3 convolution and the shortcut; ReLU after the sum."""
    nodes = nodes_of(igcnet.get_model('resnet50_us'))
    strided = {name for name in nodes if nodes[name].get('stride') == '(2, 2)'}
    assert strided == {'stem_conv', 'stem_pool', *(
        'block%d_%s' % (block, layer) for block in (4, 8, 14) for layer in ('conv2',
                                                                           'shortcut_conv'))}
    assert {name for name in nodes if name.endswith('shortcut_conv')} == {
        'block%d_shortcut_conv' % block for block in (1, 4, 8, 14)}
    assert nodes['stem_relu']['op'] == nodes['block1_relu']['op'] == 'Activation'


def test_layers_of_wideresnet():
    """The shortcut convolution takes the activated input; equal channels have none."""
    graph = json.loads(igcnet.get_model('wideresnet28_10_us')(mx.sym.var('data')).tojson())
    nodes = {node['name']: node for node in graph['nodes']}
    shortcut = nodes['stage2_block1_shortcut']
    assert graph['nodes'][shortcut['inputs'][0][0]]['name'] == 'stage2_block1_relu1'
    assert shortcut['attrs']['stride'] == '(2, 2)'
    assert nodes['stage2_block1_conv1']['attrs']['stride'] == '(2, 2)'
    assert {name for name in nodes if name.endswith('_shortcut')} == {
        'stage%d_block1_shortcut' % stage for stage in (1, 2, 3)}
    assert 'stage1_block4_conv2' in nodes and 'stage1_block5_conv2' not in nodes
    thin = nodes_of(igcnet.get_model('wideresnet28_10_us', depth=16, widen_factor=1))
    assert 'stage1_block1_shortcut' not in thin and 'stage2_block1_shortcut' in thin
    assert 'stage1_block2_conv2' in thin and 'stage1_block3_conv2' not in thin
    assert not any('dropout' in name for name in thin)


def test_dropout_of_wideresnet():
    net = igcnet.get_model('wideresnet28_10_us', depth=10, widen_factor=1, dropoutrate=0.3)
    nodes = nodes_of(net)
    assert nodes['stage3_block1_dropout']['p'] == '0.3'
    assert [name for name in nodes if name.startswith('stage1_block1')][:7] == [
        'stage1_block1_' + layer for layer in ('bn1', 'relu1', 'conv1', 'bn2', 'relu2', 'dropout',
                                               'conv2')]


def test_fixed_sides_when_wider_than_1():
    """1280 channels before the classifier of v2 at every width, also beyond 1."""
    net = igcnet.get_model('mobilenet_v2_us', width_mult_range=(0.5, 1.5), width_mult_list=(1.5,))
    assert net.output.weight.shape == (1000, 1280)
    assert net.features.tail.conv.weight.shape == (1280, 480, 1, 1)
    assert net.features.stem.conv.weight.shape == (48, 3, 3, 3)
    assert igcnet.get_model('mobilenet_v1_us_1.6x').output.weight.shape == (1000, 1640)


def test_divisor():
    net = igcnet.get_model('mobilenet_v1_us', divisor=1)
    assert net.divisor == 1 and net.channel_counts(0.3)[1:4] == (10, 19, 38)
    assert igcnet.get_model('mobilenet_v1_us').channel_counts(0.3)[1:4] == (16, 24, 40)


def test_normalisation_constants():
    for spec in SPECS:
        norms = [node for node in nodes_of(igcnet.get_model(spec.name)).values()
                 if node['op'] == 'BatchNorm']
        assert {(float(n['eps']), float(n['momentum']), n['fix_gamma']) for n in norms} == {
            (1e-5, 0.9, 'False')}


def test_initialisation():
    mx.random.seed(1)
    net = igcnet.get_model('mobilenet_v1_us')
    net.initialize()
    weights = {path: p.data().asnumpy() for path, p in net._collect_params_with_prefix().items()}
    for path, deviation in (('features.block13.pointwise', np.sqrt(2 / 1024)),
                            ('features.block13.depthwise', np.sqrt(2 / 9216)),
                            ('features.stem.conv', np.sqrt(2 / 288)), ('output', 0.01)):
        assert abs(weights[path + '.weight'].std() / deviation - 1) < 0.05, path
    assert not weights['output.bias'].any() and not weights['features.stem.bn.beta'].any()
    assert (weights['features.stem.bn.gamma'] == 1).all()
    wide = igcnet.get_model('wideresnet28_10_us', depth=10)
    wide.initialize()
    classifier = wide.output.weight.data().asnumpy()
    assert abs(np.abs(classifier).max() * np.sqrt(640) - 1) < 0.01
    assert abs(classifier.std() * np.sqrt(640 * 3) - 1) < 0.05
    assert abs(wide.features.conv.weight.data().asnumpy().std() / np.sqrt(2 / 144) - 1) < 0.15


def test_names_do_not_depend_on_the_process():
    first, second = (list(igcnet.get_model('resnet50_us').collect_params()) for _ in range(2))
    assert first == second
    assert first[:6] == ['stem_conv_weight', 'stem_bn_gamma', 'stem_bn_beta',
                         'stem_bn_width0_moving_mean', 'stem_bn_width0_moving_var',
                         'stem_bn_width1_moving_mean']


# Mistakes


@pytest.mark.parametrize('name, settings, message', [
    ('mobilenet_v1_us', dict(image_size=200), 'image_size=200: must be a multiple of 32'),
    ('mobilenet_v2_us', dict(image_size=0), 'image_size=0'),
    ('mobilenet_v1_us', dict(classes=0), 'classes=0'),
    ('mobilenet_v1_us', dict(width_mult_range=(1,)), 'width_mult_range'),
    ('mobilenet_v2_us', dict(width_mult_range=(0.2, 0.4), width_mult_list=()),
     'width 0.2: block1_project would have 9 channels, but only 8'),
    ('mobilenet_v2_us', dict(width_mult_list=(0.5,)), 'width 0.5: .*from 0.7 to 1'),
    ('resnet50_us', dict(depth=34), 'depth=34: must be one of 50, 101, 152'),
    ('wideresnet28_10_us', dict(depth=26), 'depth=26: .*6n.4'),
    ('wideresnet28_10_us', dict(depth=4), 'depth=4'),
    ('wideresnet28_10_us', dict(widen_factor=0), 'widen_factor=0'),
    ('wideresnet28_10_us', dict(widen_factor=1.5), 'widen_factor=1.5'),
    ('wideresnet28_10_us', dict(dropoutrate=1), 'dropoutrate=1'),
    ('wideresnet28_10_us', dict(image_size=3), 'image_size=3')])
def test_impossible_settings(name, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        igcnet.get_model(name, **settings)
    assert '\n' not in str(caught.value)
