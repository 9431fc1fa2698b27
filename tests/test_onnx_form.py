"""The ONNX form: the same outputs under ONNX Runtime, any batch size."""

import sys

import mxnet as mx
import numpy as np
import pytest
from networks import trained_looking
from test_rewrites import SMALL

import igcnet
from igcnet.convert.symbol_json import Graph, Node
from igcnet.deploy import optimize, to_onnx
from igcnet.deploy.model import Model
from igcnet.deploy.optimized_files import load_onnx, write_onnx_form
from igcnet.deploy.optimizing import require_same
from igcnet.deploy.runtimes import mxnet_runner, session_runner
from igcnet.errors import CheckpointError, UsageError

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

NETWORKS = {**SMALL,
            'mobilenet_0.25x': dict(classes=10),
            'densenet': dict(stages='2-2-2', growth='8-8-8'),
            'dydensenet': dict(stages='2-2-2', growth='8-8-8'),
            'dydensenet86_cifar10': dict(stages='2-2-2', growth='8-8-8', selection='static'),
            'resnet_igc_imgnet_d18': dict(primary_partition=4, classes=7)}


@pytest.mark.parametrize('name', NETWORKS)
def test_the_same_outputs(name):
    net = trained_looking(igcnet.get_model(name, **NETWORKS[name]))
    for layer in getattr(net, 'dynamic_layers', ()):
        layer.set_inactive(3)
    for parameter in net.collect_params('.*chosen').values():  # of the static form
        parameter.set_data(mx.nd.array(np.random.RandomState(1).randint(0, 8, parameter.shape)))
    model = Model.of(net)
    run = session_runner(to_onnx(model).SerializeToString())
    for count in (1, 3):
        x = np.random.RandomState(count).standard_normal(
            model.batch_shape(count)).astype(np.float32)
        require_same(net(mx.nd.array(x)).asnumpy(), run(x), name)


def test_what_the_model_declares():
    made = to_onnx(Model.of(trained_looking(igcnet.get_model('plain_igc', **SMALL['plain_igc']))))
    assert made.ir_version == 8
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [('', 13)]
    image, = made.graph.input  # weights are not listed
    assert image.name == 'data'
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] \
        == ['N', 3, 32, 32]
    assert [output.name for output in made.graph.output] == ['logits']
    operators = [node.op_type for node in made.graph.node]
    # Two Reshapes to a shuffle, and one before the classifier.
    assert operators.count('Transpose') == 6 and operators.count('Reshape') == 13


def test_a_reshape_to_the_same_shape_is_none():
    """DenseNet has them for the sake of MXNet's layouts."""
    model = Model.of(trained_looking(igcnet.get_model('densenet', stages='1-1-1',
                                                      growth='8-8-8')))
    assert model.operators()['Reshape'] == 3
    operators = [node.op_type for node in to_onnx(model).graph.node]
    assert operators.count('Reshape') == 1  # before the classifier


def single(op, attributes, shape=(4, 6, 6)):
    nodes = [Node('null', 'data'), Node(op, 'y', attributes, ((0, 0),)),
             Node('Flatten', 'logits', {}, ((1, 0),))]
    return Model(Graph(nodes, [(2, 0)]), {}, shape)


@pytest.mark.parametrize('op, attributes', [
    ('Pooling', dict(kernel=(3, 3), stride=(2, 2), pool_type='max')),
    ('Pooling', dict(kernel=(3, 3), stride=(2, 2), pool_type='max', pooling_convention='full')),
    ('Pooling', dict(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='avg')),
    ('Pooling', dict(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='avg',
                     count_include_pad=False)),
    ('Pooling', dict(kernel=(1, 1), pool_type='max', global_pool=True)),
    ('Activation', dict(act_type='sigmoid')), ('Activation', dict(act_type='softrelu')),
    ('LeakyReLU', dict(act_type='leaky', slope=0.1)), ('LeakyReLU', dict(act_type='elu')),
    ('clip', dict(a_min=-0.5, a_max=0.25)), ('relu', {}), ('tanh', {}),
    ('transpose', dict(axes=(0, 2, 1, 3))), ('SwapAxis', dict(dim1=1, dim2=3)),
    ('Reshape', dict(shape=(0, -3, 0))), ('Reshape', dict(shape=(0, -4, 2, -1, -2))),
    ('slice_axis', dict(axis=1, begin=1, end=None)), ('slice_axis', dict(axis=2, begin=0, end=-2)),
    ('mean', dict(axis=(2, 3), keepdims=True)), ('mean', dict(axis=1, exclude=False)),
    ('sum', dict(axis=1)), ('sort', dict(axis=1, is_ascend=False)), ('sort', dict(axis=-1)),
    ('softmax', dict(axis=1)), ('expand_dims', dict(axis=1)), ('_rminus_scalar', dict(scalar=2.0)),
    ('_mul_scalar', dict(scalar=2.0)), ('ones_like', {}), ('zeros_like', {}), ('_copy', {}),
    ('Reorder', dict(branch_factor=2)), ('Dropout', dict(p=0.5))])
def test_single_operators(op, attributes):
    model = single(op, attributes)
    x = np.random.RandomState(0).standard_normal(model.batch_shape(2)).astype(np.float32)
    np.testing.assert_allclose(session_runner(to_onnx(model).SerializeToString())(x),
                               mxnet_runner(model, fused=False)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('op, attributes, word', [
    ('LRN', dict(nsize=3), 'LRN'),
    ('Pooling', dict(kernel=(2, 2), pool_type='sum'), 'sum')])
def test_what_has_no_onnx_form_is_refused(op, attributes, word):
    with pytest.raises(UsageError, match=word) as caught:
        to_onnx(single(op, attributes))
    assert '\n' not in str(caught.value)


def test_an_optimised_network_as_a_file(tmp_path):
    net = trained_looking(igcnet.get_model('igcv3', **SMALL['igcv3']))
    optimized = optimize(net, 'onnxruntime', strategy='duplicate+merge')
    facts = {'format': 'igcnet exported network', 'classes': ['a', 'b']}
    path, manifest = write_onnx_form(to_onnx(optimized.model), tmp_path / 'net', facts)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [manifest.name, path.name]
    loaded = load_onnx(path)
    assert loaded.manifest == facts
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    require_same(net(x).asnumpy(), loaded(x).asnumpy(), 'file')
    with pytest.raises(mx.MXNetError, match='ONNX Runtime'):
        loaded(mx.nd.zeros((1, 3, 16, 16)))


@pytest.mark.parametrize('content', [b'', b'\x08\x07', b'no model at all'])
def test_files_that_are_no_models(tmp_path, content):
    path = tmp_path / 'net.onnx'
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('package, word', [('onnx', 'onnx:'), ('onnxruntime', 'onnxruntime is')])
def test_a_missing_package_is_named(monkeypatch, package, word, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    net = trained_looking(igcnet.get_model('plain_igc', **SMALL['plain_igc']))
    with pytest.raises(UsageError, match=word) as caught:
        optimize(net, 'onnxruntime').runner()
    assert "'.[onnx]'" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match='none.onnx'):
        load_onnx(tmp_path / 'none.onnx')
