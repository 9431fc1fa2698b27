"""The six IGC networks against the facts of the original repository."""

import json
from ast import literal_eval
from pathlib import Path

import mxnet as mx
import pytest

import igcnet
from igcnet.errors import UsageError
from igcnet.models.igc import SPECS, plain_stage_length, stage_blocks
from igcnet.profiling import count_parameters, profile

EXPECTED = json.loads((Path(__file__).parent / 'expected' / 'igc.json').read_text())
NETWORKS = ('plain', 'plain_igc', 'resnet', 'resnet_igc', 'resnet_imgnet_d18',
            'resnet_igc_imgnet_d18')


def nodes_of(net):
    """Operator nodes of the traced graph by name, with their attributes."""
    nodes = json.loads(net(mx.sym.var('data')).tojson())['nodes']
    return {node['name']: {'op': node['op'], **node.get('attrs', {})}
            for node in nodes if node['op'] != 'null'}


def groups(nodes, name):
    return int(nodes[name]['num_group'])


# Counts


@pytest.mark.parametrize('row', EXPECTED, ids=lambda row: '%s-%s' % (
    row['network'], '-'.join('%s' % v for v in row['settings'].values())))
def test_counts(row):
    """Every row of the tables of counts, exactly."""
    net = igcnet.get_model(row['network'], classes=row['classes'], **row['settings'])
    counted = profile(net, (1, 3, row['input_size'], row['input_size']))
    assert (counted.parameters, counted.macs) == (row['parameters'], row['macs'])
    assert count_parameters(net) == row['parameters']
    if 'conv' in row:
        assert counted.split() == {'conv': row['conv'], 'bn': row['bn'], 'fc': row['fc'],
                                   'other': 0, 'aux': row['aux']}


@pytest.mark.parametrize('row', [row for row in EXPECTED if row['name']],
                         ids=lambda row: row['name'])
def test_named_configurations(row):
    """The named configuration is the row's network, with its classes and input size."""
    spec = igcnet.get_spec(row['name'])
    assert spec.family == 'igc' and spec.preprocessing.input_size == row['input_size']
    assert spec.settings()['classes'] == row['classes']
    assert {key: spec.settings()[key] for key in row['settings']} == row['settings']
    assert count_parameters(igcnet.get_model(row['name'])) == row['parameters']


def test_every_named_configuration_has_a_row():
    rows = {row['name'] for row in EXPECTED if row['name']}
    assert {spec.name for spec in SPECS} - rows == set(NETWORKS)


def test_hundred_classes():
    """100 classes add 90*(4C+1) parameters."""
    ten, hundred = (count_parameters(igcnet.get_model('plain_igc', classes=n)) for n in (10, 100))
    assert hundred - ten == 90 * (4 * 48 + 1)


@pytest.mark.parametrize('name, params, macs, top1, top5', [
    ('resnet_c64_imagenet', 11.151, 1800, 31.06, 11.38),
    ('resnet_c69_imagenet', 11.333, 2100, 30.58, 10.77),
    ('igc_l4m32_imagenet', 11.205, 1900, 30.77, 10.99),
    ('igc_l16m16_imagenet', 11.329, 2200, 29.40, 10.32),
    ('igc_l100m2_imagenet', 8.61, 1300, 26.95, 8.92)])
def test_published_figures(name, params, macs, top1, top5):
    published = igcnet.get_spec(name).published
    assert (published.params, published.macs) == (params, macs)
    assert (published.top1_error, published.top5_error) == (top1, top5)
    assert published.data_set == 'ImageNet'
    exact = profile(igcnet.get_model(name), (1, 3, 224, 224)).macs
    assert abs(exact / 1e6 - macs) < 75  # printed to 0.1 G, L16M16 rounded down


# Structure


@pytest.mark.parametrize('depth, blocks', [
    (8, (1, 1, 1)), (14, (2, 2, 2)), (20, (3, 3, 3)), (22, (3, 3, 4)), (23, (3, 3, 4)),
    (24, (3, 4, 4)), (26, (4, 4, 4)), (32, (5, 5, 5)), (38, (6, 6, 6)), (56, (9, 9, 9)),
    (62, (10, 10, 10)), (110, (18, 18, 18)), (4, (0, 0, 1))])
def test_residual_depth(depth, blocks):
    assert stage_blocks(depth) == blocks
    names = nodes_of(igcnet.get_model('resnet', depth=depth))
    for stage, count in enumerate(blocks, 1):
        assert sum(name.startswith('g%d_' % stage) and name.endswith('two1_conv')
                   for name in names) == count


def test_residual_depth_4_skips_stages():
    """The only block is of stage 3 and takes the stem's channels."""
    net = igcnet.get_model('resnet_igc', depth=4, primary_partition=3, secondary_partition=2)
    assert [tuple(stage) for stage in net.stages] == [('g3', 24, 2)]
    nodes = nodes_of(net)
    assert nodes['g3_b1_p2_two1_conv1']['stride'] == '(2, 2)'
    assert groups(nodes, 'g3_b1_p2_two1_conv2') == 2  # kin // L
    assert groups(nodes, 'g3_b1_p2_two2_conv2') == 8


@pytest.mark.parametrize('depth, length', [(5, 1), (8, 2), (20, 6), (38, 12), (62, 20)])
def test_plain_depth(depth, length):
    assert plain_stage_length(depth) == length
    names = nodes_of(igcnet.get_model('plain', depth=depth))
    assert sum(name.endswith('_conv') for name in names) == 1 + 3 * length


@pytest.mark.parametrize('name', ['plain', 'plain_igc', 'resnet', 'resnet_igc'])
def test_small_image_shapes(name):
    """Channels C, 2C, 4C on maps of 32, 16, 8; the first block of a stage carries the stride."""
    net = igcnet.get_model(name, depth=20, primary_partition=6, secondary_partition=2)
    assert [tuple(s) for s in net.stages] == [('g1', 12, 1), ('g2', 24, 2), ('g3', 48, 4)]
    layers = {layer.name: layer for layer in profile(net, (2, 3, 32, 32)).layers}
    assert layers['g0_relu'].output_shape == (2, 12, 32, 32)
    for stage, (channels, extent) in enumerate([(12, 32), (24, 16), (48, 8)], 1):
        for block in (1, 2, 3):
            shape = layers['g%d_b%d_relu' % (stage, block)].output_shape
            assert shape == (2, channels, extent, extent)
    nodes = nodes_of(net)
    strided = {node for node in nodes if nodes[node].get('stride') == '(2, 2)'}
    first = {'plain': ['conv'], 'plain_igc': ['conv1'],
             'resnet': ['p0_line_conv', 'p2_two1_conv'],
             'resnet_igc': ['p0_line_conv', 'p2_two1_conv1']}[name]
    assert strided == {'%s_b1_%s' % (stage, conv) for stage in ('g2', 'g3') for conv in first}


@pytest.mark.parametrize('name, settings, channels', [
    ('resnet_imgnet_d18', dict(primary_partition=6), [6, 12, 24, 48]),
    ('resnet_igc_imgnet_d18', dict(primary_partition=3, secondary_partition=2),
     [12, 24, 48, 96]),
    ('resnet_igc_imgnet_d18', dict(primary_partition=3, secondary_partition=2,
                                   doubling='secondary'), [6, 12, 24, 48])])
def test_imagenet_shapes(name, settings, channels):
    """Maps of 112, 56, then 56, 28, 14, 7; the present IGC script doubles the width at once."""
    net = igcnet.get_model(name, **settings)
    assert [tuple(stage) for stage in net.stages] == [
        ('g%d' % (i + 1), channels[i], 4 << i) for i in range(4)]
    layers = {layer.name: layer for layer in profile(net, (1, 3, 224, 224)).layers}
    assert layers['g0_relu'].output_shape == (1, 6, 112, 112)
    assert layers['g0_pool'].output_shape == (1, 6, 56, 56)
    for i in range(4):
        for block in (1, 2):
            shape = layers['g%d_b%d_relu' % (i + 1, block)].output_shape
            assert shape == (1, channels[i], 56 >> i, 56 >> i)
    nodes = nodes_of(net)
    assert nodes['g0_pool']['pool_type'] == 'max' and nodes['g0_pool']['pad'] == '(1, 1)'
    # A projection stands where the channels change: not in g1_b1, unless the width doubles there.
    projections = {node for node in nodes if '_proj' in node and not node.endswith('_bn')}
    first = 1 if channels[0] == 12 else 2
    suffix = '_proj' if name == 'resnet_imgnet_d18' else '_proj_conv'
    assert projections == {'g%d_b1%s' % (i, suffix) for i in range(first, 5)}


def test_groups_of_plain_igc():
    """L primary groups everywhere, kout/L secondary ones, so L channels in each."""
    nodes = nodes_of(igcnet.get_model('plain_igc', depth=8, primary_partition=6,
                                      secondary_partition=2))
    for stage, secondary in ((1, 2), (2, 4), (3, 8)):
        for block in (1, 2):
            unit = 'g%d_b%d' % (stage, block)
            assert groups(nodes, unit + '_conv1') == 6
            assert groups(nodes, unit + '_conv2') == secondary


def shuffle_groups(net, unit):
    """Groups of the two shuffles of a unit, from the graph."""
    internals = json.loads(net(mx.sym.var('data')).tojson())['nodes']
    found = []
    for number in (1, 2):
        last = next(n for n in internals if n['name'] == '%s_reorder%d' % (unit, number))
        swap = internals[last['inputs'][0][0]]
        split = internals[swap['inputs'][0][0]]
        found.append(literal_eval(split['attrs']['shape'])[2])
    return found


def test_groups_of_resnet_igc():
    """The first unit of a down-sampling block has kin/L secondary groups, and so has its second
    shuffle, which then does not undo the first."""
    net = igcnet.get_model('resnet_igc', depth=14, primary_partition=6, secondary_partition=2)
    nodes = nodes_of(net)
    expected = {'g1_b1': (2, 2), 'g1_b2': (2, 2), 'g2_b1': (2, 4), 'g2_b2': (4, 4),
                'g3_b1': (4, 8), 'g3_b2': (8, 8)}
    for block, secondary in expected.items():
        for unit, count in zip(('two1', 'two2'), secondary):
            name = '%s_p2_%s' % (block, unit)
            assert groups(nodes, name + '_conv1') == 6
            assert groups(nodes, name + '_conv2') == count
            assert shuffle_groups(net, name) == [6, count]
    assert groups(nodes, 'g2_b1_p0_line_conv') == groups(nodes, 'g3_b1_p0_line_conv') == 6


@pytest.mark.parametrize('doubling, primary, secondary', [
    ('primary', (5, 10, 20, 40), (6, 6, 6, 6)), ('secondary', (5, 5, 5, 5), (3, 6, 12, 24))])
def test_groups_of_imagenet_igc(doubling, primary, secondary):
    net = igcnet.get_model('resnet_igc_imgnet_d18', primary_partition=5, secondary_partition=3,
                           doubling=doubling)
    nodes = nodes_of(net)
    for stage in range(4):
        for block in (1, 2):
            for unit in ('igc1', 'igc2'):
                name = 'g%d_b%d_%s' % (stage + 1, block, unit)
                assert groups(nodes, name + '_conv1') == primary[stage]
                assert groups(nodes, name + '_conv2') == secondary[stage]
                assert shuffle_groups(net, name) == [primary[stage], secondary[stage]]
        if stage:
            assert groups(nodes, 'g%d_b1_proj_conv' % (stage + 1)) == primary[stage]


@pytest.mark.parametrize('name', NETWORKS)
def test_normalisation_constants(name):
    norms = [node for node in nodes_of(igcnet.get_model(name)).values()
             if node['op'] == 'BatchNorm']
    momentum = 0.99 if name.startswith('plain') else 0.9
    assert {(float(n['eps']), float(n['momentum']), n['fix_gamma']) for n in norms} == {
        (2e-5, momentum, 'False')}


def test_convolutions_without_bias_classifier_with():
    for name in NETWORKS:
        for node in nodes_of(igcnet.get_model(name)).values():
            if node['op'] == 'Convolution':
                assert node['no_bias'] == 'True'
            assert node['op'] != 'FullyConnected' or node.get('no_bias', 'False') == 'False'


def test_pooling():
    """The plain and ImageNet networks end in a fixed window, the 32x32 residual ones do not."""
    for name, kernel in (('plain', 8), ('plain_igc', 8), ('resnet_imgnet_d18', 7),
                         ('resnet_igc_imgnet_d18', 7)):
        net = igcnet.get_model(name)
        pool = nodes_of(net)['global_pool']
        assert net.fixed_input_size and 'global_pool' not in pool
        assert (pool['pool_type'], pool['kernel'], pool['stride']) == (
            'avg', '(%d, %d)' % (kernel, kernel), '(1, 1)')
        with pytest.raises(UsageError, match='made for images of %dx' % net.input_size):
            profile(net, (1, 3, net.input_size + 32, net.input_size + 32))
    for name in ('resnet', 'resnet_igc'):
        net = igcnet.get_model(name)
        assert not net.fixed_input_size and nodes_of(net)['pool']['global_pool'] == 'True'
        assert profile(net, (1, 3, 64, 48)).layers[-1].output_shape == (1, 10)


# Names


IGC_UNIT = ['conv1', 'reorder1', 'conv2', 'reorder2', 'bn', 'relu']
CONV_UNIT = ['conv', 'bn', 'relu']


def named(prefix, suffixes):
    return ['%s_%s' % (prefix, suffix) for suffix in suffixes]


@pytest.mark.parametrize('name, block', [
    ('plain', named('g2_b1', CONV_UNIT)),
    ('plain_igc', named('g2_b1', IGC_UNIT)),
    ('resnet', ['g2_b1_p0_line_conv', 'g2_b1_p0_line_bn', *named('g2_b1_p2_two1', CONV_UNIT),
                *named('g2_b1_p2_two2', CONV_UNIT[:2]), '_plus3', 'g2_b1_relu']),
    ('resnet_igc', ['g2_b1_p0_line_conv', 'g2_b1_p0_line_bn',
                    *named('g2_b1_p2_two1', IGC_UNIT), *named('g2_b1_p2_two2', IGC_UNIT[:5]),
                    '_plus3', 'g2_b1_relu']),
    ('resnet_imgnet_d18', ['g2_b1_proj', 'g2_b1_proj_bn', 'g2_b1_conv1', 'g2_b1_conv1_bn',
                           'g2_b1_conv1_relu', 'g2_b1_conv2', 'g2_b1_conv2_bn', '_plus2',
                           'g2_b1_relu']),
    ('resnet_igc_imgnet_d18', ['g2_b1_proj_conv', 'g2_b1_proj_bn',
                               *named('g2_b1_igc1', IGC_UNIT),
                               *named('g2_b1_igc2', IGC_UNIT[:5]), '_plus2', 'g2_b1_relu'])])
def test_node_names(name, block):
    """Nodes of a down-sampling block in the order of the graph, and the two ends."""
    net = igcnet.get_model(name)
    # The shuffle is three operators, of which the last carries the original's name.
    names = [node for node in nodes_of(net) if not node.endswith(('_split', '_swap'))]
    start = names.index(block[0])
    assert names[start:start + len(block)] == block
    stem = ['g0', 'g0_bn', 'g0_relu'] if name == 'resnet_imgnet_d18' else named('g0', CONV_UNIT)
    stem += ['g0_pool'] if 'imgnet' in name else []
    pool, classifier = ('pool', 'fc') if name in ('resnet', 'resnet_igc') else (
        'global_pool', 'fc_score')
    assert names[:len(stem)] == stem
    assert names[-3:] == [pool, 'flatten', classifier]


def test_published_unit_names():
    names = set(igcnet.get_model('igc_l100m2_imagenet').collect_params())
    assert 'g1_b1_conv1_conv2_weight' in names
    assert not any('igc' in name for name in names)


@pytest.mark.parametrize('name', NETWORKS)
def test_parameter_names_do_not_depend_on_the_process(name):
    first, second = (list(igcnet.get_model(name).collect_params()) for _ in range(2))
    assert first == second
    assert first[1:5] == ['g0_bn_gamma', 'g0_bn_beta', 'g0_bn_moving_mean', 'g0_bn_moving_var']


@pytest.mark.parametrize('name, settings, file', [
    ('plain', dict(depth=20), 'plain_d20L16M1_c10'),
    ('plain_igc', dict(depth=38), 'plain_igc_d38L24M2_c10'),
    ('resnet', dict(depth=20), 'resnet_d20L16M1_c10'),
    ('resnet_igc', dict(depth=20), 'resnet_igc_d20L24M2_c10'),
    ('resnet_imgnet_d18', {}, 'resnet_imgnet_d18_d18L64M1_c1000'),
    ('resnet_igc_imgnet_d18', {}, 'resnet_igc_imgnet_d18_d18L100M1_c1000'),
    ('resnet_c64_imagenet', {}, 'resnet_d18'),
    ('igc_l4m32_imagenet', {}, 'resnet_gcwf_noshare_imagenet_d18b4'),
    ('igc_l100m2_imagenet', {}, 'resnet_gcwf_noshare_imagenet_d18b100')])
def test_arguments_of_the_original_graphs(name, settings, file, shared_fixtures):
    """Trainable parameters: the names of the original's graph, in its order."""
    path = shared_fixtures('igc') / 'symbols' / ('%s-symbol.json' % file)
    original = [node['name'] for node in json.loads(path.read_text())['nodes']
                if node['op'] == 'null']
    original = [name for name in original if not name.endswith(('_moving_mean', '_moving_var'))]
    traced = igcnet.get_model(name, **settings)(mx.sym.var('data')).list_arguments()
    assert [*traced, 'softmax_label'] == original


# Mistakes


@pytest.mark.parametrize('name, settings, message', [
    ('plain', dict(depth=21), 'depth=21: .*3n'),
    ('plain_igc', dict(depth=2), 'depth=2: .*3n'),
    ('resnet', dict(depth=3), 'depth=3: .*at least 4'),
    ('resnet_igc', dict(depth=-20), 'depth=-20: .*at least 4'),
    ('resnet_imgnet_d18', dict(depth=34), 'depth=34: .*18 only'),
    ('resnet_igc_imgnet_d18', dict(depth=20), 'depth=20: .*18 only'),
    ('resnet_igc', dict(primary_partition=0), 'primary_partition=0'),
    ('plain', dict(secondary_partition=-1), 'secondary_partition=-1'),
    ('plain', dict(classes=0), 'classes=0'),
    ('resnet_igc_imgnet_d18', dict(doubling='both'), "doubling='both': .*'secondary'"),
    ('resnet_igc_imgnet_d18', dict(unit_name='x'), "unit_name='x': .*'conv'")])
def test_impossible_settings(name, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        igcnet.get_model(name, **settings)
    assert '\n' not in str(caught.value)
