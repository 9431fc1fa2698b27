"""The comparison of graphs, and which of our networks a graph is."""

import dataclasses
import json

import pytest
from old_layouts import symbol_08, symbol_09

import igcnet
from igcnet.convert import (
    Graph,
    differences,
    expand,
    fold,
    parse_graph,
    read_graph,
    recognise,
    to_graph,
)
from igcnet.convert.symbol_json import to_json


def build(name, head=True, **settings):
    return fold(to_graph(igcnet.get_model(name, **settings), head))


@pytest.fixture(scope='module')
def graph():
    return build('resnet_igc', depth=8, primary_partition=2, secondary_partition=3)


def changed(graph, target, **fields):
    """`graph` with other fields in the node called `target`."""
    nodes = list(graph.nodes)
    index = next(i for i, node in enumerate(nodes) if node.name == target)
    nodes[index] = dataclasses.replace(nodes[index], **fields)
    return Graph(nodes, graph.heads)


def from_text(graph, name, **attributes):
    """`graph` written, its attribute texts changed, and read again."""
    value = json.loads(to_json(graph))
    node = next(node for node in value['nodes'] if node['name'] == name)
    node.setdefault('attrs', {}).update(attributes)
    return parse_graph(value, 'text')


def test_a_graph_equals_itself(graph):
    assert differences(graph, graph) == []
    again = build('resnet_igc', depth=8, primary_partition=2, secondary_partition=3)
    assert differences(graph, again) == []


@pytest.mark.parametrize('name, attributes', [
    ('g0_bn', dict(eps='2e-005')), ('g0_bn', dict(eps='0.00002')),
    ('g0_bn', dict(cudnn_off='True', use_global_stats='False', axis='1')),
    ('g0_conv', dict(kernel='(3,3)', dilate='(1,1)', workspace='7', cudnn_tune='off')),
    ('g0_conv', dict(layout='NCHW', num_group='1', dilate='()')),
    ('g2_b1_p0_line_conv', dict(pad='()')),
    ('g1_b1_p2_two1_reorder1', dict(workspace='1')),
    ('pool', dict(kernel='(4, 4)', stride='(9, 9)', pooling_convention='full')),
    ('fc', dict(no_bias='0', flatten='True')),
    ('softmax', dict(grad_scale='1.0', normalization='null')),
    ('g0_conv_weight', dict(__init__='["one", {}]', anything='goes')),
])
def test_texts_without_a_difference(graph, name, attributes):
    assert differences(graph, from_text(graph, name, **attributes)) == []


@pytest.mark.parametrize('name, attributes, words', [
    ('g0_bn', dict(eps='1e-5'), ['g0_bn: eps is 2e-05 in the first, 1e-05']),
    ('g0_bn', dict(momentum='0.99'), ['g0_bn: momentum is 0.9', '0.99']),
    ('g0_bn', dict(fix_gamma='True'), ['g0_bn: fix_gamma is False in the first, True']),
    ('g0_conv', dict(stride='(2, 2)'), ['stride is (1, 1) in the first, (2, 2) in the second']),
    ('g0_conv', dict(dilate='(2, 2)'), ['g0_conv: dilate is (1, 1)']),
    ('g2_b1_p2_two1_conv2', dict(num_group='6'), ['num_group is 3 in the first, 6']),
    ('g2_b1_p2_two1_reorder2', dict(branch_factor='6'), ['branch_factor is 3', '6']),
    ('pool', dict(pool_type='max'), ['pool: pool_type is avg in the first, max']),
    ('softmax', dict(use_ignore='True'), ['softmax: use_ignore is False']),
])
def test_other_attributes(graph, name, attributes, words):
    found = differences(graph, from_text(graph, name, **attributes))
    assert len(found) == 1
    for word in words:
        assert word in found[0]


def test_pooling_window_counts_unless_global():
    graph = build('plain', depth=5, primary_partition=2, secondary_partition=1)
    found = differences(graph, from_text(graph, 'global_pool', kernel='(7, 7)'))
    assert found == ['global_pool: kernel is (8, 8) in the first, (7, 7) in the second']
    assert differences(graph, from_text(graph, 'global_pool', count_include_pad='True')) == []
    assert differences(graph, from_text(graph, 'global_pool', count_include_pad='False')) != []


def test_other_structure(graph):
    other = changed(graph, 'g0_relu', op='Flatten', attributes={})
    assert differences(graph, other) == ['g0_relu: Activation in the first, Flatten in the second']
    index = {node.name: i for i, node in enumerate(graph.nodes)}
    plus = graph.nodes[index['_plus0']]
    other = changed(graph, '_plus0', inputs=plus.inputs[::-1])
    assert differences(graph, other) == [
        '_plus0: inputs are g0_relu, g1_b1_p2_two2_bn in the first, g1_b1_p2_two2_bn, g0_relu in '
        'the second']
    other = changed(graph, 'g0_relu', name='g0_activation')
    found = differences(graph, other)
    assert found[:2] == ['g0_relu (Activation): only in the first',
                         'g0_activation (Activation): only in the second']
    assert 'g1_b1_p2_two1_conv1: inputs are g0_relu, g1_b1_p2_two1_conv1_weight in the first' \
        in found[2]
    other = Graph(graph.nodes, [(index['fc'], 0)])
    assert differences(graph, other) == ['heads: softmax in the first, fc in the second']


def test_other_order(graph):
    """With the label before the classifier's parameters it is another argument order."""
    order = list(range(len(graph.nodes)))
    order.insert(-4, order.pop(-2))
    place = {old: new for new, old in enumerate(order)}
    nodes = [dataclasses.replace(graph.nodes[old], inputs=tuple(
        (place[source], output) for source, output in graph.nodes[old].inputs)) for old in order]
    found = differences(graph, Graph(nodes, graph.heads))
    assert len(found) == 1 and found[0].startswith('order: ')
    assert found[0].endswith('has softmax_label')


def test_reorder_and_stock_differ(graph):
    found = differences(graph, expand(graph))
    assert 'g1_b1_p2_two1_reorder1: Reorder in the first, Reshape in the second' in found
    assert differences(graph, fold(expand(graph))) == []


def test_repeated_names():
    value = json.loads(to_json(build('plain', depth=5, primary_partition=2,
                                     secondary_partition=1)))
    for node in value['nodes']:
        if node['op'] == 'Activation':
            node['name'] = 'relu'
    graph = parse_graph(value, 'x')
    assert differences(graph, graph) == []
    relus = [i for i, node in enumerate(value['nodes']) if node['op'] == 'Activation']
    value['nodes'][relus[1]]['name'] = 'relu #2'
    assert differences(parse_graph(value, 'x'), parse_graph(value, 'x')) == []
    value['nodes'][relus[1]]['attrs']['act_type'] = 'tanh'
    assert differences(graph, parse_graph(value, 'x')) != []


SMALL = [
    ('plain', dict(depth=5, primary_partition=4, secondary_partition=1)),
    ('plain', dict(depth=8, primary_partition=3, secondary_partition=1)),
    ('plain_igc', dict(depth=5, primary_partition=1, secondary_partition=4)),
    ('plain_igc', dict(depth=11, primary_partition=3, secondary_partition=2)),
    ('resnet', dict(depth=4, primary_partition=4, secondary_partition=1)),
    ('resnet', dict(depth=22, primary_partition=2, secondary_partition=1)),
    ('resnet_igc', dict(depth=4, primary_partition=2, secondary_partition=2)),
    ('resnet_igc', dict(depth=24, primary_partition=2, secondary_partition=1)),
    ('resnet_igc', dict(depth=62, primary_partition=2, secondary_partition=3)),
    ('resnet_imgnet_d18', dict(depth=18, primary_partition=5, secondary_partition=1)),
    ('resnet_igc_imgnet_d18', dict(depth=18, primary_partition=3, secondary_partition=2)),
    ('resnet_igc_imgnet_d18', dict(depth=18, primary_partition=3, secondary_partition=2,
                                   unit_name='conv')),
    ('resnet_igc_imgnet_d18', dict(depth=18, primary_partition=4, secondary_partition=2,
                                   doubling='secondary', unit_name='conv')),
    ('resnet_igc_imgnet_d18', dict(depth=18, primary_partition=4, secondary_partition=1,
                                   doubling='secondary')),
]


@pytest.mark.parametrize('name, settings', SMALL)
def test_recognises(name, settings):
    settings = dict(settings, classes=7)
    graph = build(name, **settings)
    assert recognise(graph) == (name, settings)
    assert recognise(expand(graph)) == (name, settings)
    assert recognise(build(name, head=False, **settings)) == (name, settings)
    assert recognise(parse_graph(symbol_08(graph), '0.8')) == (name, settings)
    assert recognise(parse_graph(symbol_09(graph), '0.9')) == (name, settings)


def test_only_the_product_counts_without_groups():
    found = recognise(build('plain', depth=5, primary_partition=2, secondary_partition=3))
    assert found == ('plain', dict(depth=5, primary_partition=6, secondary_partition=1,
                                   classes=10))


@pytest.mark.parametrize('name, attributes', [
    ('g0_bn', dict(eps='1e-5')), ('g2_b1_p2_two1_conv2', dict(num_group='6')),
    ('g1_b1_p2_two1_conv1', dict(num_group='1')), ('g0_conv', dict(num_filter='7')),
    ('fc', dict(no_bias='False', flatten='False'))])
def test_does_not_recognise_what_differs(graph, name, attributes):
    assert recognise(graph) is not None
    assert recognise(from_text(graph, name, **attributes)) is None


def test_does_not_recognise_others(graph):
    assert recognise(Graph(graph.nodes[:1], [(0, 0)])) is None
    assert recognise(changed(graph, 'fc', name='output')) is None
    assert recognise(changed(graph, 'g0_relu', name='g1_b99999999_relu')) is None


def test_original_graphs(shared_fixtures):
    """Every graph of the original is the one that we build."""
    folder = shared_fixtures('igc')
    paths = sorted(folder.glob('*-symbol.json')) + sorted(folder.glob('symbols/*-symbol.json'))
    assert len(paths) > 10
    for path in paths:
        graph = read_graph(path)
        found = recognise(graph)
        assert found is not None, path.name
        name, settings = found
        assert differences(graph, build(name, **settings)) == [], path.name


PUBLISHED = {
    'resnet_d18': 'resnet_c64_imagenet',
    'resnet_d18_w69': 'resnet_c69_imagenet',
    'resnet_gcwf_noshare_imagenet_d18b4': 'igc_l4m32_imagenet',
    'resnet_gcwf_noshare_imagenet_d18b16': 'igc_l16m16_imagenet',
    'resnet_gcwf_noshare_imagenet_d18b100': 'igc_l100m2_imagenet',
}


def test_published_graphs(shared_fixtures):
    found = 0
    for prefix, name in PUBLISHED.items():
        path = shared_fixtures('igc') / 'symbols' / (prefix + '-symbol.json')
        if path.is_file():
            assert differences(read_graph(path), build(name)) == []
            found += 1
    assert found >= 3
