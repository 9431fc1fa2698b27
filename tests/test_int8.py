"""Eight-bit forms: near the float32 outputs, gates and wide groups kept apart."""

import mxnet as mx
import numpy as np
import pytest
from networks import trained_looking
from test_rewrites import SMALL, chain, conv

import igcnet
from igcnet.deploy import Model, optimize, to_onnx
from igcnet.deploy.calibration import map_ranges
from igcnet.deploy.int8 import gate_nodes, int8_block, mxnet_ranges, quantize_onnx, ungrouped
from igcnet.deploy.model import Editor
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.runners import mxnet_int8_runner, onnx_int8_runner
from igcnet.deploy.runtimes import block_runner, mxnet_runner, session_runner
from igcnet.deploy.strategies import Strategy, apply_plan, stages_of
from igcnet.deploy.verify import random_images
from igcnet.errors import CheckpointError

FEW = {name: SMALL[name] for name in ('plain_igc', 'resnet_igc', 'igcv3', 'menet108_8x1_g3')}


def near(expected, got, part=0.06):
    """Eight bits through a whole network: some percent of the largest logit."""
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    assert 0 < difference < part  # 0 would mean that nothing was rounded


def prepared(name, strategy='cheapest'):
    model = fold_batch_norms(Model.of(trained_looking(igcnet.get_model(name, **FEW[name]))))
    return apply_plan(model, dict.fromkeys(stages_of(model), Strategy.parse(strategy)))


@pytest.mark.parametrize('name', FEW)
def test_mxnet(name):
    model = prepared(name)
    x = random_images(4, model.image_shape[-1], 0)
    expected = mxnet_runner(model, fused=False)(x)
    model = ungrouped(model)
    block = int8_block(model, mxnet_ranges(model, [x[:2], x[2:]]))
    near(expected, block_runner(block, fused=False)(x))
    assert any('quantized' in output for output in block(
        mx.sym.var('data')).get_internals().list_outputs())


@pytest.mark.parametrize('groups', [2, 4, 8])
def test_groups_that_mxnet_would_get_wrong(groups):
    """MXNet's own quantised group convolution is 20 to 30 % off."""
    model = chain(conv(32, 16, 3), ('relu', {}, {}), conv(32, 32, 3, groups), channels=16)
    x = np.random.RandomState(0).standard_normal(model.batch_shape(4)).astype(np.float32)
    one = ungrouped(model)
    kept = [node.attributes.get('num_group', 1) for node in one.graph.nodes
            if node.op == 'Convolution']
    assert kept == [1, 8 if groups == 8 else 1]
    got = block_runner(int8_block(one, mxnet_ranges(one, [x])), fused=False)(x)
    near(mxnet_runner(model, fused=False)(x), got, part=0.02)


@pytest.mark.parametrize('activation', [False, True])
@pytest.mark.parametrize('projection', [False, True])
def test_sums_that_mxnet_would_get_wrong(activation, projection):
    """Inside a quantised convolution MXNet adds up maps of another sign wrongly, up to 100 %."""
    editor = Editor(chain(conv(32, 16, 3), ('relu', {}, {}), conv(32, 32, 3, pad=(1, 1)),
                          channels=16))
    first, second = editor.find('Convolution')
    left = editor.find('relu')[0]
    if projection:
        draw = np.random.RandomState(2).standard_normal((32, 32, 1, 1)) / 6
        left = editor.add('Convolution', 'projection', conv(32, 32)[1],
                          [left, editor.add_parameter('w', draw)])
    last = editor.add('elemwise_add', 'sum', {}, [left, second])
    added = last
    if activation:
        last = editor.add('relu', 'last', {}, [added])
    editor.replace(second, last, but=(added,))
    model = editor.finish()
    x = np.random.RandomState(0).standard_normal(model.batch_shape(4)).astype(np.float32)
    got = block_runner(int8_block(model, mxnet_ranges(model, [x])), fused=False)(x)
    near(mxnet_runner(model, fused=False)(x), got, part=0.02)


@pytest.mark.parametrize('name', FEW)
@pytest.mark.parametrize('strategy', ['leave', 'cheapest+merge'])
def test_onnx(name, strategy):
    pytest.importorskip('onnxruntime')
    model = prepared(name, strategy)
    x = random_images(4, model.image_shape[-1], 0)
    made = quantize_onnx(to_onnx(model), map_ranges(model, [x[:2], x[2:]]), gate_nodes(model))
    near(mxnet_runner(model, fused=False)(x), session_runner(made.SerializeToString())(x))
    weights = {constant.name: constant for constant in made.graph.initializer}
    convolutions = [node for node in made.graph.node if node.op_type == 'Conv']
    in_float = {node.output[0] for node in convolutions if node.input[1] in weights}
    assert in_float == {name for name in gate_nodes(model) if name.endswith('_evolve')}
    assert len(convolutions) > len(in_float)


def test_gates_are_found_by_name():
    gates = gate_nodes(prepared('menet108_8x1_g3'))
    assert {name.split('_', 3)[-1] for name in gates} >= {'s_gate', 's_evolve', 'product'}
    assert len(gates) == 3 * 6  # six units
    assert gate_nodes(prepared('plain_igc')) == set()


def test_ranges_of_another_graph_are_refused():
    model = chain(conv(4, 4))
    with pytest.raises(CheckpointError, match='another graph'):
        int8_block(model, {'data': (0.0, 1.0)})
    ranges = mxnet_ranges(model, [np.ones(model.batch_shape(), np.float32)])
    with pytest.raises(CheckpointError, match='another graph'):
        int8_block(model, ranges, ['other'])


@pytest.mark.parametrize('runner', [mxnet_int8_runner, onnx_int8_runner])
def test_layers_that_stay_in_float(runner):
    if runner is onnx_int8_runner:
        pytest.importorskip('onnxruntime')
    model = prepared('plain_igc')
    x = random_images(4, 32, 0)
    expected = mxnet_runner(model, fused=False)(x)
    names = [node.name for node in model.graph.nodes if node.op == 'Convolution']
    error = [np.abs(runner(model, in_float=kept)(x) - expected).max() / np.abs(expected).max()
             for kept in ([], names[:2], names)]
    assert error[0] > error[1] > 1e-4 and error[2] < 1e-5


@pytest.mark.parametrize('target', ['mxnet', 'mxnet-alone', 'onnxruntime'])
def test_optimize(target):
    if target == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    net = trained_looking(igcnet.get_model('plain_igc', **SMALL['plain_igc']))
    x = random_images(8, 32, 1)
    optimized = optimize(net, target, strategy='cheapest', calibration=[x])
    assert optimized.choice.runner == target.replace('-alone', '') + '-int8'
    near(mxnet_runner(Model.of(net), fused=False)(x), optimized.runner()(x))


def test_timing_needs_no_images():
    model = prepared('plain_igc')
    x = random_images(2, 32, 1)
    assert mxnet_int8_runner(model)(x).shape == (2, 10)
