"""Checkpoints in the original's layout, written and loaded, and symbol files of strangers."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from old_layouts import symbol_08, symbol_09, write_params
from small_networks import SMALL, assert_same_values, load_small, random_network, refused, values

import igcnet
from igcnet.convert import (
    checkpoint_arrays,
    fold,
    load_network,
    network_symbol,
    read_graph,
    read_ndarrays,
    save_original,
    to_graph,
    to_symbol,
    write_graph,
    write_ndarrays,
)
from igcnet.errors import UsageError


@pytest.fixture(scope='module')
def net():
    return random_network(**SMALL)


@pytest.fixture(scope='module')
def images():
    return mx.nd.array(np.random.RandomState(1).randn(2, 3, 32, 32))


@pytest.fixture
def checkpoint(net, tmp_path):
    """Symbol and parameter file of `net`, with Reorder nodes."""
    return save_original(net, tmp_path / 'a', 3)


# Writing

@pytest.mark.parametrize('name, settings', [
    ('resnet_igc', SMALL),
    ('plain_igc', dict(depth=5, primary_partition=2, secondary_partition=2)),
    ('plain', dict(depth=5, primary_partition=3, secondary_partition=1)),
    ('resnet', dict(depth=8, primary_partition=3, secondary_partition=1)),
    ('resnet_imgnet_d18', dict(primary_partition=2)),
    ('resnet_igc_imgnet_d18', dict(primary_partition=2, secondary_partition=1)),
    ('resnet_igc_imgnet_d18', dict(primary_partition=2, secondary_partition=2, unit_name='conv',
                                   doubling='secondary')),
])
@pytest.mark.parametrize('reorder', ['custom', 'stock'])
def test_round_trip(tmp_path, name, settings, reorder):
    net = random_network(name, **settings)
    symbol, params = save_original(net, tmp_path / 'a', 12, reorder=reorder)
    assert (symbol.name, params.name) == ('a-symbol.json', 'a-0012.params')
    shuffles = [node.op for node in read_graph(symbol).nodes].count('Reorder')
    assert (shuffles > 0) == (reorder == 'custom' and 'igc' in name)
    assert_same_values(net, load_network(network=name, params=params, **settings))
    again = load_network(symbol=symbol, params=params)
    mine = values(net)
    assert {key: array.shape for key, array in values(again).items()} == {
        key: array.shape for key, array in mine.items()}
    for key, array in values(again).items():
        np.testing.assert_array_equal(array, mine[key])


def test_layout_of_a_checkpoint(net, checkpoint):
    """The original's: keys, order of the nodes, and attributes copied to variables."""
    value = json.loads(checkpoint[0].read_text())
    assert value['attrs'] == {'mxnet_version': ['int', 10901]}
    nodes = {node['name']: node for node in value['nodes']}
    assert nodes['g0_conv_weight'] == {
        'op': 'null', 'name': 'g0_conv_weight', 'inputs': [], 'attrs': {
            'kernel': '(3, 3)', 'no_bias': 'True', 'num_filter': '4', 'num_group': '1',
            'pad': '(1, 1)', 'stride': '(1, 1)'}}
    assert nodes['g0_bn']['inputs'] == [[2, 0, 0], [3, 0, 0], [4, 0, 0], [5, 0, 1], [6, 0, 1]]
    assert nodes['g0_bn_moving_var']['attrs']['__init__'] == '["one", {}]'
    assert nodes['g1_b1_p2_two1_reorder1']['attrs'] == {'branch_factor': '2'}
    assert [node['name'] for node in value['nodes'][-5:]] == [
        'fc_weight', 'fc_bias', 'fc', 'softmax_label', 'softmax']
    arrays = read_ndarrays(checkpoint[1])
    assert list(arrays)[:3] == ['arg:g0_conv_weight', 'arg:g0_bn_gamma', 'arg:g0_bn_beta']
    kinds = [name[:4] for name in arrays]
    assert kinds == ['arg:'] * kinds.count('arg:') + ['aux:'] * kinds.count('aux:')
    assert len(arrays) == len(list(net.collect_params()))


def test_module_loads_the_stock_form(net, images, tmp_path):
    save_original(net, tmp_path / 'a', 1, reorder='stock')
    symbol, arguments, statistics = mx.model.load_checkpoint(str(tmp_path / 'a'), 1)
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind(data_shapes=[('data', (2, 3, 32, 32))], for_training=False)
    module.set_params(arguments, statistics)
    module.forward(mx.io.DataBatch([images]), is_train=False)
    expected = mx.nd.softmax(net(images)).asnumpy()
    np.testing.assert_allclose(module.get_outputs()[0].asnumpy(), expected, atol=1e-6)


def test_module_refuses_the_custom_form(checkpoint):
    with pytest.raises(mx.MXNetError, match='Reorder'):
        mx.model.load_checkpoint(str(checkpoint[0])[:-len('-symbol.json')], 3)


def test_without_head(net, images, tmp_path):
    symbol, params = save_original(net, tmp_path / 'a', 0, reorder='stock', head=False)
    assert read_graph(symbol).nodes[-1].name == 'fc'
    expected = net(images).asnumpy()
    theirs = mx.gluon.SymbolBlock.imports(str(symbol), ['data'], str(params))
    np.testing.assert_allclose(theirs(images).asnumpy(), expected, atol=1e-6)
    ours = load_network(symbol=symbol, params=params)
    np.testing.assert_allclose(ours(images).asnumpy(), expected, atol=1e-6)


def test_symbol_and_head(net):
    assert to_symbol(net).list_outputs() == ['softmax_output']
    assert to_symbol(net).list_arguments()[-3:] == ['fc_weight', 'fc_bias', 'softmax_label']
    assert to_symbol(net, head=False).list_outputs() == ['fc_output']
    _, outputs, _ = to_symbol(net).infer_shape(data=(5, 3, 32, 32))
    assert outputs == [(5, 10)]


def test_saves_a_hybridised_network_and_averages_statistics(tmp_path):
    net = igcnet.get_model('plain', depth=5, primary_partition=2, secondary_partition=1)
    net.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    net.hybridize()
    for ctx in (mx.cpu(0), mx.cpu(1)):
        net(mx.nd.ones((1, 3, 32, 32), ctx=ctx))
    statistic, weight = net.features.g0.bn.running_mean, net.features.g0.conv.weight
    for number, copy in enumerate(statistic.list_data()):
        copy[:] = 1.0 + number
    for copy in weight.list_data():
        copy[:] = 0.1
    arrays = read_ndarrays(save_original(net, tmp_path / 'a', 1)[1])
    np.testing.assert_array_equal(arrays['aux:g0_bn_moving_mean'], np.float32([1.5, 1.5]))
    np.testing.assert_array_equal(arrays['arg:g0_conv_weight'], np.full((2, 3, 3, 3), 0.1, 'f4'))


def test_cannot_save(net, tmp_path):
    with pytest.raises(UsageError, match="must be 'custom' or 'stock'"):
        save_original(net, tmp_path / 'a', 0, reorder='both')
    with pytest.raises(UsageError, match='epoch=-1'):
        save_original(net, tmp_path / 'a', -1)
    with pytest.raises(UsageError, match='g0_conv_weight has no value yet'):
        save_original(igcnet.get_model('resnet_igc', **SMALL), tmp_path / 'a', 0)
    assert list(tmp_path.iterdir()) == []


# Reading

def test_gluon_export(images, tmp_path):
    net = random_network(**SMALL)
    net.hybridize()
    expected = net(images).asnumpy()
    net.export(str(tmp_path / 'a'))
    assert_same_values(net, load_small(tmp_path / 'a-0000.params'))
    found = load_network(symbol=tmp_path / 'a-symbol.json', params=tmp_path / 'a-0000.params')
    np.testing.assert_allclose(found(images).asnumpy(), expected, atol=1e-6)


@pytest.mark.parametrize('layout', ['oldest', 'v1', 'v2'])
@pytest.mark.parametrize('write_symbol', [symbol_08, symbol_09])
def test_old_layouts(net, images, tmp_path, layout, write_symbol):
    graph = fold(to_graph(net))
    (tmp_path / 'a-symbol.json').write_text(json.dumps(write_symbol(graph)))
    write_params(tmp_path / 'a-0001.params', checkpoint_arrays(net, graph), layout)
    assert_same_values(net, load_small(tmp_path / 'a-0001.params'))
    again = load_network(symbol=tmp_path / 'a-symbol.json', params=tmp_path / 'a-0001.params')
    expected = net(images).asnumpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(again(images).asnumpy(), expected, atol=1e-6)
    again.hybridize()
    np.testing.assert_allclose(again(images).asnumpy(), expected, atol=1e-6)


def test_damaged_files_name_themselves(checkpoint):
    symbol, params = checkpoint
    content = params.read_bytes()
    params.write_bytes(content[:len(content) // 2])
    refused(lambda: load_network(symbol=symbol, params=params), 'a-0003.params: ', 'truncated')
    refused(lambda: load_small(params), 'a-0003.params: ', 'truncated')
    params.write_bytes(content)
    symbol.write_text(symbol.read_text().replace('Activation', 'Axtivation'))
    refused(lambda: load_network(symbol=symbol, params=params), 'a-symbol.json: it needs operators')


# Symbol files

def test_usage(checkpoint):
    symbol, params = checkpoint
    for arguments in (dict(params=params), dict(symbol=symbol), dict(network='resnet_igc'),
                      dict(symbol=symbol, params=params, network='resnet_igc'),
                      dict(symbol=symbol, params=params, depth=8)):
        with pytest.raises(UsageError):
            load_network(**arguments)
    with pytest.raises(TypeError, match='no setting deep'):
        load_network(network='resnet_igc', params=params, deep=8)


def test_symbol_of_another_network(net, checkpoint, tmp_path):
    other = igcnet.get_model('resnet_igc', depth=8, primary_partition=4, secondary_partition=2,
                             classes=7)
    write_graph(tmp_path / 'b-symbol.json', fold(to_graph(other)))
    refused(lambda: load_network(symbol=tmp_path / 'b-symbol.json', params=checkpoint[1]),
            'a-0003.params does not fit the network', 'of another shape (g0_conv_weight: '
            '(4, 3, 3, 3) in the file, (8, 3, 3, 3) in the network')
    other = igcnet.get_model('plain', depth=5, primary_partition=4, secondary_partition=1)
    write_graph(tmp_path / 'b-symbol.json', to_graph(other))
    refused(lambda: load_network(symbol=tmp_path / 'b-symbol.json', params=checkpoint[1]),
            'missing', 'unexpected')


def test_quiet(checkpoint, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        load_network(symbol=checkpoint[0], params=checkpoint[1])
    assert capfd.readouterr() == ('', '')


def save(tmp_path, symbol, **arrays):
    (tmp_path / 's-symbol.json').write_text(symbol.tojson())
    write_ndarrays(tmp_path / 's.params', {name: np.asarray(array, np.float32)
                                           for name, array in arrays.items()})
    return dict(symbol=tmp_path / 's-symbol.json', params=tmp_path / 's.params')


def test_other_heads_and_input_names(tmp_path):
    weight = np.random.RandomState(0).rand(4, 12)
    x = np.random.RandomState(1).rand(2, 3, 2, 2)
    logits = mx.sym.FullyConnected(mx.sym.var('image'), num_hidden=4, no_bias=True, name='fc')
    for head in (mx.sym.softmax(logits), mx.sym.SoftmaxActivation(logits), logits,
                 mx.sym.log_softmax(mx.sym.identity(logits)),
                 mx.sym.SoftmaxOutput(logits, mx.sym.var('the_label'), name='loss')):
        net = load_network(**save(tmp_path, head, fc_weight=weight))
        np.testing.assert_allclose(net(mx.nd.array(x)).asnumpy(), x.reshape(2, 12) @ weight.T,
                                   rtol=1e-5)


def test_constants_in_the_graph(tmp_path):
    data = mx.sym.take(mx.sym.var('data'), mx.sym.var('order'), axis=1)
    symbol = mx.sym.sum(mx.sym.broadcast_mul(data, mx.sym.var('scale')), axis=(2, 3))
    files = save(tmp_path, symbol, order=[2, 0, 1], scale=np.reshape([1, 2, 3], (1, 3, 1, 1)))
    out = load_network(**files)(mx.nd.array(np.arange(12).reshape(1, 3, 2, 2)))
    np.testing.assert_allclose(out.asnumpy(), [[38, 12, 66]])
    save(tmp_path, symbol, order=[2, 0, 1])
    refused(lambda: load_network(**files), 's.params does not fit', 'scale is missing')


@pytest.mark.parametrize('make, words', [
    (lambda data: mx.sym.Group([data * 2, data * 3]), 'it has 2 outputs'),
    (lambda data: mx.sym.SoftmaxOutput(data, name='softmax'), 'it computes nothing'),
    (lambda data: mx.sym.Flatten(mx.sym.softmax(data, name='s')), 's: a softmax inside'),
    (lambda data: mx.sym.Convolution(data, kernel=(500, 500), num_filter=1, name='c'),
     'Error in operator c: '),
    (lambda data: mx.sym.Reshape(data, shape=(0, 4, -2, -1, -2), name='r'), 'r_output is empty'),
    (lambda data: mx.sym.broadcast_add(mx.sym.Reshape(data, shape=(1, 1, -1)),
                                       mx.sym.Reshape(data, shape=(1, -1, 1))),
     'feature maps of more than'),
    (lambda data: mx.sym.elemwise_add(data, mx.sym.Flatten(data), name='e'),
     'Error in operator e: '),
])
def test_graphs_that_cannot_work(tmp_path, make, words):
    files = save(tmp_path, make(mx.sym.var('data')), x=np.ones(1))
    message = refused(lambda: load_network(**files), 's-symbol.json: ', words)
    assert 'src/operator' not in message


@pytest.mark.parametrize('first', [0, 1000])
def test_hostile_symbols_never_end_the_process(tmp_path, first):
    """Graphs with changed attributes, links and operators either run or are refused."""
    data = mx.sym.var('data')
    x = mx.sym.Convolution(data, kernel=(3, 3), num_filter=8, pad=(1, 1), stride=(2, 2), name='c')
    x = mx.sym.Activation(mx.sym.BatchNorm(x, fix_gamma=False, name='b'), act_type='relu')
    left, right = mx.sym.SliceChannel(x, num_outputs=2)
    left = mx.sym.LeakyReLU(left, act_type='prelu', name='l')
    x = mx.sym.Concat(left, mx.sym.clip(right, a_min=0, a_max=6))
    x = mx.sym.broadcast_mul(x, mx.sym.sigmoid(mx.sym.mean(x, axis=(2, 3), keepdims=True)))
    x = mx.sym.Reshape(x, shape=(0, -4, 2, -1, -2))
    x = mx.sym.Reshape(mx.sym.SwapAxis(x, dim1=1, dim2=2), shape=(0, -3, -2))
    x = mx.sym.transpose(x, axes=(0, 1, 3, 2)) * 2 + 1
    x = mx.sym.add_n(mx.sym.slice_axis(x, axis=1, begin=0, end=4),
                     mx.sym.take(x, mx.sym.var('order'), axis=1))
    x = mx.sym.Dropout(mx.sym.softmax(mx.sym.L2Normalization(mx.sym.LRN(x, nsize=3)), axis=1))
    x = mx.sym.squeeze(mx.sym.expand_dims(x, axis=2), axis=2)
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type='max')
    x = mx.sym.Flatten(mx.sym.Pooling(x, kernel=(1, 1), global_pool=True, pool_type='avg'))
    symbol = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=5, name='fc'),
                                  name='softmax')
    shapes, _, more = symbol.infer_shape(data=(1, 3, 32, 32), order=(4,))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    arrays = {name: np.ones(shape) for name, shape in zip(names, shapes + more)
              if name not in ('data', 'softmax_label')}
    files = save(tmp_path, symbol, **{**arrays, 'order': [0, 2, 4, 6]})
    script = Path(__file__).with_name('hostile_symbols.py')
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', str(script), str(files['symbol']), str(files['params']),
         str(tmp_path / 'x-symbol.json'), str(first), '250'],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[-500:]


# Symbols as the original's scripts make them

def test_network_symbol():
    symbol = network_symbol('resnet_igc', 7, 8, 2, 3)
    net = igcnet.get_model('resnet_igc', depth=8, primary_partition=2, secondary_partition=3,
                           classes=7)
    assert symbol.tojson() == to_symbol(net).tojson()
    with pytest.raises(UsageError, match='depth=3'):
        network_symbol('resnet_igc', 7, 3, 2, 3)
