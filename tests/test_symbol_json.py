"""Reading symbol files of all layouts, damaged ones included, and the Reorder operator in them."""

import copy
import json
import random

import mxnet as mx
import numpy as np
import pytest
from old_layouts import symbol_08, symbol_09

import igcnet
from igcnet.convert import (
    Graph,
    Node,
    differences,
    expand,
    fold,
    parse_graph,
    read_graph,
    to_graph,
    write_graph,
)
from igcnet.convert.reorder import prune
from igcnet.convert.symbol_json import from_mxnet, to_json, to_mxnet
from igcnet.errors import CheckpointError
from igcnet.layers import ChannelShuffle


@pytest.fixture(scope='module')
def graph():
    """A small network of all the operators that the IGC family has, shuffles as Reorder."""
    return fold(to_graph(igcnet.get_model('resnet_igc', depth=8, primary_partition=2,
                                          secondary_partition=3)))


@pytest.fixture
def value(graph):
    """Its JSON value, to be damaged."""
    return json.loads(to_json(graph))


def by_name(value, name):
    return next(node for node in value['nodes'] if node['name'] == name)


def chain(*nodes, heads=((-1, 0),)):
    """A graph in which each node takes the one before."""
    built = [Node('null', 'data')]
    for op, name, attributes in nodes:
        built.append(Node(op, name, attributes, ((len(built) - 1, 0),)))
    return Graph(built, [(index % len(built), output) for index, output in heads])


def test_present_layout(graph, tmp_path):
    write_graph(tmp_path / 'a-symbol.json', graph)
    assert read_graph(tmp_path / 'a-symbol.json') == graph


def test_layout_0_8(graph):
    old = symbol_08(graph)
    assert {'_Plus', 'Reorder'} < {node['op'] for node in old['nodes']}
    assert len(by_name(old, 'g0_bn')['inputs']) == 3
    assert by_name(old, 'g0_bn')['param']['eps'] == '2e-005'
    assert by_name(old, 'g0_conv')['param']['kernel'] == '(3,3)'
    again = parse_graph(old, 'old')
    assert differences(again, graph) == []
    assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]


def test_layout_0_9(graph):
    assert parse_graph(symbol_09(graph), 'old') == graph


def test_python_2_numbers(value, graph):
    by_name(value, 'g0_conv')['attrs'].update(kernel='(3L, 3L)', stride='[1,1]', no_bias='1')
    assert differences(parse_graph(value, 'old'), graph) == []


def test_mxnet_reads_the_stock_form(graph):
    stock = expand(graph)
    theirs = json.loads(to_mxnet(stock).tojson())
    ours = json.loads(to_json(stock))
    assert ours['node_row_ptr'] == theirs['node_row_ptr']
    assert ours['heads'] == theirs['heads'] and ours['arg_nodes'] == theirs['arg_nodes']
    assert parse_graph(theirs, 'again') == stock


def test_row_pointers_of_operators_with_hidden_outputs():
    data = mx.sym.var('data')
    symbol = mx.sym.Pooling(data, kernel=(2, 2), pool_type='max', name='p')
    symbol = mx.sym.LRN(mx.sym.Dropout(symbol, name='d'), nsize=3, name='l')
    symbol = mx.sym.L2Normalization(mx.sym.LeakyReLU(symbol, act_type='rrelu', name='r')[0])
    symbol = mx.sym.add_n(*mx.sym.SliceChannel(symbol, num_outputs=3, name='s'), name='a')
    symbol = mx.sym.BatchNorm(symbol, output_mean_var=True, name='b')[1]
    symbol = mx.sym.Pooling(symbol, kernel=(2, 2), pool_type='avg', name='v')
    theirs = json.loads(symbol.tojson())
    ours = json.loads(to_json(from_mxnet(symbol)))
    assert ours['node_row_ptr'] == theirs['node_row_ptr'] and ours['heads'] == theirs['heads']


def test_gluon_export(tmp_path):
    net = igcnet.get_model('plain_igc', depth=5, primary_partition=2, secondary_partition=2)
    net.initialize()
    net.hybridize()
    net(mx.nd.ones((1, 3, 32, 32)))
    net.export(str(tmp_path / 'a'))
    assert read_graph(tmp_path / 'a-symbol.json') == to_graph(net, head=False)


def test_expanding_gives_what_the_layer_traces():
    traced = from_mxnet(ChannelShuffle('g1_reorder1', 12, 3)(mx.sym.var('data')))
    reorder = chain(('Reorder', 'g1_reorder1', {'branch_factor': 3}))
    assert expand(reorder) == traced and fold(traced) == reorder
    assert [node.name for node in traced.nodes] == [
        'data', 'g1_reorder1_split', 'g1_reorder1_swap', 'g1_reorder1']


def test_expand_and_fold_are_inverse(graph):
    stock = expand(graph)
    count = sum(node.op == 'Reorder' for node in graph.nodes)
    assert count == 12 and len(stock.nodes) == len(graph.nodes) + 2 * count
    assert not any(node.op == 'Reorder' for node in stock.nodes)
    assert fold(stock) == graph and expand(fold(stock)) == stock
    assert fold(graph) == graph and expand(stock) == stock
    for number, node in enumerate(stock.nodes):
        assert all(source < number for source, _ in node.inputs)


def test_shuffles_as_heads_and_twice_used():
    reorder = ('Reorder', 'r', {'branch_factor': 2})
    both = chain(reorder, ('Flatten', 'f', {}), heads=[(1, 0), (2, 0), (1, 0)])
    stock = expand(both)
    assert stock.heads == [(3, 0), (4, 0), (3, 0)] and fold(stock) == both
    # Somebody else uses the swapped axes: these nodes must stay.
    shared = Graph(stock.nodes, stock.heads + [(2, 0)])
    assert fold(shared) == shared


@pytest.mark.parametrize('changed', [
    ('Reshape', 's', {'shape': (0, -4, -1, 2, -2)}), ('Reshape', 's', {'shape': (0, 3, -1, -2)}),
    ('Reshape', 's', {'shape': (0, -4, 2, -1, -2), 'reverse': True})])
def test_other_reshapes_stay(changed):
    other = chain(changed, ('SwapAxis', 'w', {'dim1': 1, 'dim2': 2}),
                  ('Reshape', 'm', {'shape': (0, -3, -2)}))
    assert fold(other) == other


def test_shuffle_in_swapped_axes_and_other_names():
    found = fold(chain(('Reshape', 'reshape0', {'shape': (0, -4, 2, -1, -2)}),
                       ('SwapAxis', 'swapaxis0', {'dim1': 2, 'dim2': 1}),
                       ('Reshape', 'reshape1', {'shape': (0, -3, -2)})))
    assert found == chain(('Reorder', 'reshape1', {'branch_factor': 2}))


def test_stock_form_shuffles_channels():
    x = np.arange(2 * 6 * 4, dtype=np.float32).reshape(2, 6, 2, 2)
    symbol = to_mxnet(expand(chain(('Reorder', 'r', {'branch_factor': 2}))))
    out = symbol.eval(data=mx.nd.array(x))[0].asnumpy()
    np.testing.assert_array_equal(out, x[:, [0, 3, 1, 4, 2, 5]])


def test_prune(graph):
    index = next(i for i, node in enumerate(graph.nodes) if node.name == 'g1_b1_relu')
    part = prune(graph, [(index, 0)])
    assert part.nodes == graph.nodes[:index + 1] and part.heads == [(index, 0)]
    logits = prune(graph, [(len(graph.nodes) - 3, 0)])
    assert logits.nodes[-1].op == 'FullyConnected'
    assert 'softmax_label' not in [node.name for node in logits.nodes]


def test_old_operator_names():
    value = json.loads(to_json(chain(('_mul_scalar', 'm', {'scalar': 2.0}),
                                     ('Flatten', 'f', {}), ('_copy', 'c', {}))))
    for node, old in zip(value['nodes'][1:], ('_MulScalar', 'flatten', 'identity')):
        node['op'] = old
    assert [node.op for node in parse_graph(value, 'old').nodes[1:]] == [
        '_mul_scalar', 'Flatten', '_copy']


def refused(value, *words):
    with pytest.raises(CheckpointError) as caught:
        parse_graph(value, 'x-symbol.json')
    message = str(caught.value)
    assert message.startswith('x-symbol.json: ') and '\n' not in message and len(message) < 400
    for word in words:
        assert word in message, message


@pytest.mark.parametrize('other', [None, [], 'text', 3, {}, {'nodes': {}}, {'nodes': []},
                                   {'nodes': [None]}, {'nodes': [[]]}, {'nodes': [{}]}])
def test_not_a_symbol_file(other):
    refused(other)


def damage(target, **changes):
    def apply(value):
        by_name(value, target).update(changes)
    return apply


def damage_attribute(name, **changes):
    def apply(value):
        attributes = by_name(value, name).setdefault('attrs', {})
        attributes.update(changes)
        for key in [key for key, text in changes.items() if text is None]:
            del attributes[key]
    return apply


def damage_top(key, content):
    def apply(value):
        value[key] = content
    return apply


@pytest.mark.parametrize('apply, words', [
    (damage('g0_conv', name=None), 'no usable name'),
    (damage('g0_conv', name='two\nlines'), 'no usable name'),
    (damage('g0_conv', name=''), 'no usable name'),
    (damage('g0_conv', name='x' * 2000), 'no usable name'),
    (damage('g0_conv', op=3), 'has no operator'),
    (damage('g0_conv', inputs=None), 'not a list of links'),
    (damage('g0_conv', inputs=[0, 1]), 'a link is not'),
    (damage('g0_conv', inputs=[[0], [1]]), 'a link is not'),
    (damage('g0_conv', inputs=[[0, 0.0], [1, 0]]), 'a link is not'),
    (damage('g0_conv', inputs=[[0, True], [1, 0]]), 'a link is not'),
    (damage('g0_conv', inputs=[[0, 0]]), 'Convolution takes 2 inputs, not 1'),
    (damage('g0_conv', inputs=[[0, 0], [2, 0]]), 'a link to node 2, which is not before it'),
    (damage('g0_conv', inputs=[[0, 0], [-1, 0]]), 'a link to node -1'),
    (damage('g0_conv', inputs=[[0, 0], [10 ** 30, 0]]), 'which is not before it'),
    (damage('g0_relu', inputs=[[7, 1]]), 'a link to output 1 of g0_bn'),
    (damage('g0_relu', inputs=[[7, -1]]), 'a link to output -1 of g0_bn'),
    (damage('g0_conv', attrs=[]), 'its attributes are not texts'),
    (damage('g0_conv', attrs={'kernel': 3}), 'its attributes are not texts'),
    (damage('g0_conv', subgraphs=[{}]), 'subgraphs'),
    (damage('g0_bn_gamma', name='g0_conv_weight'), 'two variables are called g0_conv_weight'),
    (damage('g0_conv_weight', inputs=[[0, 0]]), 'a variable with inputs'),
    (damage('g0_bn', inputs=[[2, 0]] * 5), 'running statistics'),
    (damage('g0_bn', inputs=[[2, 0], [3, 0], [3, 0], [3, 0], [6, 0]]), 'running statistics'),
    (damage_attribute('g0_conv', num_group='0'), 'num_group=0 cannot work'),
    (damage_attribute('g0_conv', num_group='5'), 'num_group=5 cannot work'),
    (damage_attribute('g0_conv', num_filter='-6'), 'num_filter=-6 cannot work'),
    (damage_attribute('g0_conv', num_filter='99999999999'), 'cannot work'),
    (damage_attribute('g0_conv', stride='(0, 0)'), 'stride=(0, 0) cannot work'),
    (damage_attribute('g0_conv', stride='(1, 1, 1)'), 'stride=(1, 1, 1) cannot work'),
    (damage_attribute('g0_conv', kernel='(3, 2000)'), 'kernel=(3, 2000) cannot work'),
    (damage_attribute('g0_conv', kernel='(3, x)'), 'kernel=(3, x) cannot work'),
    (damage_attribute('g0_conv', kernel=None), 'its attribute kernel is missing'),
    (damage_attribute('g0_conv', pad='(9000, 1)'), 'pad=(9000, 1) cannot work'),
    (damage_attribute('g0_conv', no_bias='maybe'), 'no_bias=maybe cannot work'),
    (damage_attribute('g0_conv', colour='red'), 'Convolution: it has no attribute colour'),
    (damage_attribute('g0_relu', act_type='relo'), 'act_type=relo cannot work'),
    (damage_attribute('g0_bn', eps='nan'), 'eps=nan cannot work'),
    (damage_attribute('g0_bn', axis='99'), 'axis=99 cannot work'),
    (damage_attribute('g1_b1_p2_two1_reorder1', branch_factor='0'), 'branch_factor=0 cannot work'),
    (damage_attribute('g1_b1_p2_two1_reorder1', branch_factor=None), 'branch_factor is missing'),
    (damage_top('heads', []), 'no heads'),
    (damage_top('heads', [[10 ** 6, 0, 0]]), 'heads'),
    (damage_top('heads', [[0, 5, 0]]), 'output 5 of data'),
    (damage_top('heads', None), 'heads'),
    (damage_top('arg_nodes', None), 'arg_nodes'),
    (damage_top('arg_nodes', [2]), 'arg_nodes'),
    (damage_top('arg_nodes', [-1]), 'arg_nodes'),
])
def test_damaged(value, apply, words):
    apply(value)
    refused(value, words)


@pytest.mark.parametrize('shape', ['(0, -4, 0, -1, -2)', '(0, -4, -1, -1, -2)', '(0, -4, 2)',
                                   '(0, -5)', '(0, -4, -2, 3)'])
def test_reshapes_that_end_the_process(shape):
    value = json.loads(to_json(chain(('Reshape', 'r', {'shape': (0, -1)}))))
    by_name(value, 'r')['attrs']['shape'] = shape
    refused(value, 'shape=')


def test_axes_that_end_the_process():
    value = json.loads(to_json(chain(('transpose', 't', {'axes': (0, 1, 3, 2)}))))
    by_name(value, 't')['attrs']['axes'] = '(0, 1, 2, 2)'
    refused(value, 'axes=(0, 1, 2, 2) cannot work')


def test_unknown_operators_are_listed(value):
    by_name(value, 'g0_relu')['op'] = '_Native'
    by_name(value, 'g1_b1_relu')['op'] = 'Custom'
    refused(value, 'it needs operators that igcnet does not read: _Native, Custom')


def test_damaged_text_never_gets_through(graph):
    """Any text is either a valid graph or one line."""
    rng, text, outcomes = random.Random(1), to_json(graph), {'read': 0, 'refused': 0}
    alphabet = '0123456789-.,:"{}[]()eE nulltrue\\\n'
    for _ in range(400):
        damaged = list(text)
        for _ in range(rng.choice([1, 1, 2, 4])):
            damaged[rng.randrange(len(damaged))] = rng.choice(alphabet)
        try:
            found = parse_graph(json.loads(''.join(damaged)), 'x')
            assert found.heads and found.nodes
            outcomes['read'] += 1
        except CheckpointError as problem:
            assert '\n' not in str(problem)
            outcomes['refused'] += 1
        except ValueError:  # no JSON any more
            pass
    assert min(outcomes.values()) > 20


def test_damaged_values_never_get_through(value):
    """The same with whole JSON values exchanged."""
    rng, outcomes = random.Random(2), {'read': 0, 'refused': 0}
    odd = [None, True, -1, 10 ** 20, 1.5, '', 'x', [], {}, [[]], [[0, 0]], {'kernel': []}]
    for _ in range(300):
        damaged = copy.deepcopy(value)
        holder = damaged
        while True:
            key = rng.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
            child = holder[key]
            if not isinstance(child, (dict, list)) or not child or rng.random() < 0.2:
                break
            holder = child
        holder[key] = rng.choice(odd)
        try:
            parse_graph(damaged, 'x')
            outcomes['read'] += 1
        except CheckpointError as problem:
            assert '\n' not in str(problem)
            outcomes['refused'] += 1
    assert min(outcomes.values()) > 20


def test_files_that_are_none(tmp_path):
    path = tmp_path / 'a-symbol.json'
    for content in (b'', b'{', b'\xff\xfe', b'[' * 100000, b'1' * 10000, b'NaN'):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match='a-symbol.json'):
            read_graph(path)
    with pytest.raises(CheckpointError, match='cannot read'):
        read_graph(tmp_path / 'missing-symbol.json')
    with pytest.raises(CheckpointError, match='not a file'):
        read_graph(tmp_path)
    with open(str(path), 'wb') as stream:
        stream.truncate(1 << 30)  # sparse: no disk space
    with pytest.raises(CheckpointError, match='not a symbol file: 1073741824 bytes'):
        read_graph(path)
