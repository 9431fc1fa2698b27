"""The operators in C++: the same function, gradients and statistics as the plain graph."""

import json
import subprocess
import sys
import types
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

import igcnet
from igcnet import native
from igcnet.convert import differences, to_graph
from igcnet.errors import IgcnetError
from igcnet.layers import ConvUnit, IGCUnit, MergeEvolveUnit, ResidualBlock, ShuffleUnit
from igcnet.layers.igc import NormSettings
from igcnet.layers.igcv2 import IGCV2Unit
from igcnet.layers.inverted_residual import BlockForm, BlockPlan, InvertedResidual
from igcnet.layers.lowering import set_lowering
from igcnet.native import library

needs_library = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
IGCV3_FORM = BlockForm(2, 2, expand_act=True, shuffle=True, output_shuffle=True)
NORM = NormSettings()


def filled(make, dtype='float32', ctx=None):
    """A block with values as after some training."""
    mx.random.seed(3)
    block = make()
    block.initialize(mx.init.Normal(0.5))
    for name, parameter in block.collect_params().items():
        if name.endswith(('gamma', 'var')):
            parameter.set_data(mx.nd.random.uniform(0.5, 2, shape=parameter.shape))
        elif name.endswith(('beta', 'mean')):
            parameter.set_data(mx.nd.random.normal(shape=parameter.shape))
    block.cast(dtype)
    if ctx is not None:
        block.collect_params().reset_ctx(ctx)
    return block


def everything(block, lowering, shape, hybrid=True, training=True, dtype='float32', steps=2,
               grad_req='write'):
    """Output, all gradients and running statistics after `steps` forward and backward passes."""
    set_lowering(block, lowering)
    if hybrid:
        block.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(np.random.RandomState(1).normal(size=shape), dtype=dtype)
    x.attach_grad(grad_req)
    for parameter in block.collect_params().values():
        if parameter.grad_req != 'null':
            parameter.grad_req = grad_req
    for _ in range(steps):
        with autograd.record(train_mode=training):
            y = block(x)
        y.backward(mx.nd.array(np.random.RandomState(7).normal(size=y.shape), dtype=dtype))
    found = {'output': y.asnumpy(), 'input': x.grad.asnumpy()}
    for name, parameter in block.collect_params().items():
        array = parameter.data() if parameter.grad_req == 'null' else parameter.grad()
        found[name] = array.asnumpy()
    return found


def assert_close(found, truth, tolerance=2e-5):
    assert found.keys() == truth.keys()
    for name in truth:
        # A shift that the next normalisation takes out has no gradient but rounding.
        scale = max(np.abs(truth[name]).max(), 1)
        error = np.abs(found[name] - truth[name]).max() / scale
        assert error < tolerance, '%s: %g' % (name, error)


def assert_same_function(make, shape, **settings):
    """As the plain graph in float64."""
    truth = everything(filled(make, 'float64'), 'stock', shape, dtype='float64', **settings)
    assert_close(everything(filled(make), 'native', shape, **settings), truth)


def conv_unit(inputs=6, outputs=8, kernel=3, strides=1, groups=2, act=True):
    return lambda: ConvUnit('u', inputs, outputs, kernel, NORM, strides, groups, act)


def inverted(form, plan, expand=True):
    return lambda: InvertedResidual('b', plan, form, expand)


@needs_library
@pytest.mark.parametrize('batch', [1, 3, 16, 17, 33])
def test_batches_that_do_not_fill_the_lanes(batch):
    assert_same_function(conv_unit(), (batch, 6, 5, 4))


@needs_library
@pytest.mark.parametrize('inputs, outputs, kernel, strides, groups, size', [
    (6, 12, 3, 2, 3, (7, 5)), (6, 12, 3, 2, 3, (6, 8)), (8, 8, 3, 1, 8, (5, 9)),
    (8, 16, 3, 2, 8, (4, 4)), (12, 8, 1, 2, 4, (5, 6)), (6, 15, 1, 1, 3, (1, 7)),
    (3, 20, 3, 1, 1, (9, 2)), (4, 4, 3, 1, 2, (1, 1)), (4, 6, 3, 3, 2, (7, 8)),
    (70, 67, 3, 1, 1, (3, 3)), (24, 24, 1, 1, 1, (13, 11)), (14, 22, 1, 1, 2, (20, 16))])
def test_convolution_units(inputs, outputs, kernel, strides, groups, size):
    assert_same_function(conv_unit(inputs, outputs, kernel, strides, groups), (5, inputs) + size)


UNITS = {
    'igc': (lambda: IGCUnit('u', 12, 12, 3, 4, NORM), 12),
    'igc-down': (lambda: IGCUnit('u', 12, 24, 3, 4, NORM, 2, act=False), 12),
    'residual': (lambda: ResidualBlock('r', IGCUnit('a', 6, 12, 2, 3, NORM, 2),
                                       IGCUnit('b', 12, 12, 2, 6, NORM, act=False),
                                       ConvUnit('c', 6, 12, 1, NORM, 2, 2, act=False), 'add'), 6),
    'identity': (lambda: ResidualBlock('r', IGCUnit('a', 6, 6, 2, 3, NORM),
                                       IGCUnit('b', 6, 6, 2, 3, NORM, act=False), None, 'add'), 6),
    'igcv2': (lambda: IGCV2Unit('u', 12, 24, (4, 6), 2), 12),
    'igcv3': (inverted(IGCV3_FORM, BlockPlan(8, 24, 8, 1, True)), 8),
    'igcv3-down': (inverted(IGCV3_FORM, BlockPlan(8, 24, 12, 2, False)), 8),
    'igcv3-mxnet': (inverted(BlockForm(2, 4, False, True), BlockPlan(8, 24, 8, 1, True)), 8),
    'mobilenetv2': (inverted(BlockForm(), BlockPlan(8, 24, 8, 1, True)), 8),
    'no-expansion': (inverted(BlockForm(), BlockPlan(8, 8, 12, 1, False), False), 8),
    'shuffle': (lambda: ShuffleUnit('u', 24, 24, 3), 24),
    'shuffle-down': (lambda: ShuffleUnit('u', 24, 48, 3, True, True), 24),
    'menet': (lambda: MergeEvolveUnit('u', 24, 24, 4, 3), 24),
    'menet-down': (lambda: MergeEvolveUnit('u', 24, 48, 4, 3, True, True), 24),
}


@needs_library
@pytest.mark.parametrize('hybrid', [False, True])
@pytest.mark.parametrize('unit', sorted(UNITS))
def test_units(unit, hybrid):
    make, channels = UNITS[unit]
    assert_same_function(make, (5, channels, 6, 5), hybrid=hybrid)


@needs_library
@pytest.mark.parametrize('unit', ['igc', 'igcv3', 'menet'])
def test_without_training_the_running_statistics_are_used(unit):
    make, channels = UNITS[unit]
    assert_same_function(make, (5, channels, 6, 5), training=False)


@needs_library
@pytest.mark.parametrize('unit', ['identity', 'igcv3', 'menet'])
def test_gradients_are_added_where_they_shall_be(unit):
    make, channels = UNITS[unit]
    once = everything(filled(make), 'native', (5, channels, 6, 5), steps=1)
    added = everything(filled(make), 'native', (5, channels, 6, 5), steps=3, grad_req='add')
    for name, value in once.items():
        if 'moving' not in name and name != 'output':
            np.testing.assert_allclose(added[name], 3 * value, rtol=1e-5,
                                       atol=1e-5 * np.abs(value).max())


@needs_library
def test_an_array_that_is_used_twice_gets_both_gradients():
    block = filled(conv_unit(act=False))
    set_lowering(block, 'native')
    x = mx.nd.random.normal(shape=(4, 6, 5, 5))
    gradients = []
    for repeat in (1, 2):
        x.attach_grad()
        with autograd.record():
            loss = sum(block(x).square().sum() for _ in range(repeat))
        loss.backward()
        gradients.append(x.grad.asnumpy())
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-4, atol=1e-4)


@needs_library
@pytest.mark.parametrize('frozen', ['conv1', 'bn', '(conv2|gamma)', ''])
def test_parameters_without_gradients(frozen):
    """Whatever is frozen, the other gradients are what they are."""
    make = UNITS['identity'][0]
    whole = everything(filled(make), 'native', (5, 6, 6, 5), steps=1)
    block = filled(make)
    names = list(block.collect_params(frozen and '.*%s.*' % frozen))
    for name in names:
        block.collect_params()[name].grad_req = 'null'
    found = everything(block, 'native', (5, 6, 6, 5), steps=1)
    for name in whole:
        if name not in names and 'moving' not in name:
            np.testing.assert_array_equal(found[name], whole[name])


@needs_library
def test_half_precision_gets_blocked(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mxnet.contrib.amp.amp',
                        types.SimpleNamespace(_amp_initialized=True))
    assert set_lowering(UNITS['igc'][0](), 'native') == 'blocked'
    assert 'float32 only' in capsys.readouterr().err


@needs_library
def test_several_devices():
    contexts = [mx.cpu(0), mx.cpu(1)]
    block = filled(UNITS['residual'][0], ctx=contexts)
    set_lowering(block, 'native')
    block.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.random.normal(shape=(6, 6, 7, 5))
    for _ in range(2):
        with autograd.record():
            outputs = [block(x.as_in_context(context)) for context in contexts]
        autograd.backward(outputs)
    np.testing.assert_array_equal(*(y.asnumpy() for y in outputs))
    for parameter in block.collect_params().values():
        arrays = (parameter.list_data() if parameter.grad_req == 'null'
                  else parameter.list_grad())
        np.testing.assert_array_equal(*(array.asnumpy() for array in arrays))


@needs_library
@pytest.mark.parametrize('kernel', [5, 7])
def test_other_kernels_are_computed_by_stock_operators(kernel):
    """As in the stem for large images."""
    assert_same_function(conv_unit(3, 8, kernel, 2, 1), (3, 3, 9, 9))


@needs_library
def test_a_network_for_large_images():
    net = filled(lambda: igcnet.get_model('resnet_igc_imgnet_d18', primary_partition=4,
                                          secondary_partition=2, classes=5))
    net.hybridize()
    x = mx.nd.random.normal(shape=(2, 3, 224, 224))
    stock = net(x).asnumpy()
    for lowering in ('native', 'auto'):
        net.set_lowering(lowering)
        found = net(x).asnumpy()
        assert np.abs(found - stock).max() < 1e-4 * np.abs(stock).max()
        assert (found != stock).any()


NETWORKS = [('plain_igc', dict(depth=8, primary_partition=6, secondary_partition=2)),
            ('resnet_igc', dict(depth=8, primary_partition=4, secondary_partition=3)),
            ('igcv2', dict(depth=5, channels=16, classes=10))]


@needs_library
@pytest.mark.parametrize('name, settings', NETWORKS, ids=lambda v: v if isinstance(v, str) else '')
def test_training_a_network(name, settings):
    found = []
    for lowering in ('stock', 'native'):
        mx.random.seed(1)
        net = igcnet.get_model(name, **settings)
        net.initialize()
        assert net.set_lowering(lowering) == lowering
        net.hybridize(static_alloc=True, static_shape=True)
        trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.02})
        loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        draw = np.random.RandomState(0)
        for _ in range(3):
            x, y = draw.normal(size=(20, 3, 32, 32)), draw.randint(0, 10, 20)
            with autograd.record():
                value = loss(net(mx.nd.array(x)), mx.nd.array(y))
            value.backward()
            trainer.step(20)
        after = {p: v.data().asnumpy() for p, v in net.collect_params().items()}
        found.append({'output': net(mx.nd.array(x)).asnumpy(), **after})
    assert_close(found[1], found[0], 1e-3)
    assert any((found[1][name] != found[0][name]).any() for name in found[0])


@needs_library
def test_nothing_is_converted_between_units():
    """One way into the lanes and one out, and a normalisation of its own only in sums."""
    net = igcnet.get_model('resnet_igc', depth=8)
    net.set_lowering('native')
    nodes = json.loads(net.features(mx.sym.var('data')).tojson())['nodes']
    operators = [node['op'] for node in nodes]
    assert operators.count('igcnet_to_lanes') == operators.count('igcnet_from_lanes') == 1
    # Three sums, each with a left side that a convolution has made.
    assert operators.count('igcnet_norm') == 6
    assert 'SwapAxis' not in operators and 'Convolution' not in operators


def test_graph_parameters_and_names_do_not_show_it():
    stock, other = (igcnet.get_model('igcv3', width=0.25) for _ in range(2))
    other.set_lowering('native')
    assert differences(to_graph(stock), to_graph(other)) == []
    assert list(stock.collect_params()) == list(other.collect_params())


@needs_library
def test_other_types_are_computed_by_stock_operators():
    make, channels = UNITS['residual']
    truth = everything(filled(make, 'float64'), 'stock', (5, 6, 6, 5), dtype='float64')
    found = everything(filled(make, 'float64'), 'native', (5, 6, 6, 5), dtype='float64')
    assert_close(found, truth, 1e-9)


def of_two_units():
    found = {}
    for unit in ('residual', 'menet'):
        make, channels = UNITS[unit]
        for name, value in everything(filled(make), 'native', (37, channels, 9, 9)).items():
            found['%s %s' % (unit, name)] = value
    return found


SCRIPT = '''
import hashlib, sys
sys.path[:0] = %r
import numpy as np
from test_native import of_two_units
np.savez(sys.argv[1], **of_two_units())
'''


@needs_library
def test_bits_do_not_depend_on_threads_and_widths_agree(tmp_path):
    """The rule that shares the work out sees shapes only."""
    here = Path(__file__).resolve().parent
    script = SCRIPT % [str(here), str(here.parent)]
    expected = of_two_units()
    for threads, width in (('1', ''), ('3', ''), ('1', 'avx2'), ('1', 'baseline')):
        path = tmp_path / ('%s%s.npz' % (threads, width))
        subprocess.run([sys.executable, '-W', 'ignore', '-c', script, str(path)], check=True,
                       env={'OMP_NUM_THREADS': threads, 'IGCNET_NATIVE': width,
                            'XDG_CACHE_HOME': str(library.cache_folder().parent)})
        found = dict(np.load(str(path)))
        if width:
            assert_close(found, expected)
        else:
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name])


def test_without_the_library_blocked_is_used(monkeypatch, capsys):
    monkeypatch.setattr(library.Library, 'candidates', lambda self: [])
    library.load.cache_clear()
    try:
        net = igcnet.get_model('resnet_igc', depth=8)
        assert net.set_lowering('native') == 'blocked'
        assert net.features.g1.b1.unit1.lowering == 'blocked'
        message = capsys.readouterr().err
        assert message.count('\n') == 1
        assert 'is not built: python -m igcnet.native.build' in message
        assert net.set_lowering('auto') == 'auto'
        assert net.features.g1.b1.unit1.lowering == 'blocked'
    finally:
        library.load.cache_clear()


def test_a_library_of_other_sources_is_not_used(tmp_path, monkeypatch):
    (tmp_path / '_operators.so').write_bytes(b'no library')
    monkeypatch.setattr(library, 'PACKAGE', tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    library.load.cache_clear()
    try:
        with pytest.raises(IgcnetError, match='was built from other sources'):
            library.load()
    finally:
        library.load.cache_clear()


@needs_library
def test_auto_chooses_by_shape():
    net = igcnet.get_model('resnet_igc', depth=8)
    net.set_lowering('auto')
    assert net.features.g1.b1.unit1.lowering == 'native'
    assert net.features.g1.b1.lowering == 'native'
    wide = igcnet.get_model('resnet', depth=8, primary_partition=64)
    wide.set_lowering('auto')
    assert wide.features.g0.lowering == 'native'
    assert wide.features.g1.b1.unit1.lowering == wide.features.g1.b1.lowering == 'stock'


@pytest.mark.parametrize('primary, secondary, expected', [
    (24, 2, 'blocked'), (4, 48, 'stock'), (100, 2, 'stock')])
def test_auto_without_the_library(monkeypatch, primary, secondary, expected):
    monkeypatch.setattr(native, 'missing', lambda: 'not here')
    unit = IGCUnit('u', primary * secondary, primary * secondary, primary, secondary, NORM)
    set_lowering(unit, 'auto')
    assert unit.conv1.lowering == expected
