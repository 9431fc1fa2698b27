"""IGCV3 and MobileNetV2 against the checkpoints, graph and arrays of their originals."""

import json

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.convert.families import igcv3 as igcv3_map
from igcnet.convert.families import mobilenetv2 as mobilenetv2_map
from igcnet.convert.torch_file import read_torch

TOLERANCE = 1e-4
MAPS = {'igcv3': igcv3_map, 'mobilenetv2': mobilenetv2_map}
TORCH_CASES = ['igcv3_cifar10_w0.5', 'mobilenetv2_cifar10_w0.25']


def assert_close(found, expected, tolerance=TOLERANCE, name=''):
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=0, atol=tolerance, err_msg=name)


class TorchCase:
    """One PyTorch checkpoint and the network it was loaded into by the key map."""

    def __init__(self, folder, name):
        info = json.loads((folder / (name + '.json')).read_text())
        config = info['config']
        self.arrays = np.load(str(folder / (name + '.npz')))
        self.checkpoint = read_torch(folder / info['checkpoint']).value
        self.map = MAPS[info['network']]
        self.state = self.checkpoint[self.map.WRAPPER['state_dict']]
        self.net = igcnet.get_model(
            info['network'], width=config['width_multiplier'],
            downsampling=config['downsampling'], classes=config['num_classes'])
        self.net.initialize()
        self.names = self.map.torch_names(self.net)
        self.parameters = self.net._collect_params_with_prefix()
        for path, parameter in self.parameters.items():
            parameter.set_data(mx.nd.array(self.state[self.names[path]]))


@pytest.fixture
def torch_case(shared_fixtures, request):
    return TorchCase(shared_fixtures('igcv3'), request.param)


@pytest.mark.parametrize('torch_case', TORCH_CASES, indirect=True)
def test_torch_key_map(torch_case):
    case = torch_case
    assert set(case.names) == set(case.parameters)
    assert len(set(case.names.values())) == len(case.names)
    extras = case.map.torch_extras(case.net)
    assert set(case.names.values()) | set(extras) == set(case.state)
    for path, parameter in case.parameters.items():
        assert parameter.shape == case.state[case.names[path]].shape
        np.testing.assert_array_equal(parameter.data().asnumpy(), case.state[case.names[path]])
    wrapper, others = case.map.WRAPPER, case.map.torch_others(case.net)
    assert {wrapper['state_dict'], *wrapper['others']} == set(case.checkpoint)
    assert tuple(others) == wrapper['written']
    for key, value in others.items():
        assert type(value) is type(case.checkpoint[key])
    (ours,), (theirs,) = (checkpoint['optimizer']['param_groups']
                          for checkpoint in (others, case.checkpoint))
    assert set(ours) == set(theirs)
    assert len(ours['params']) == len(theirs['params'])


@pytest.mark.parametrize('torch_case', TORCH_CASES, indirect=True)
def test_torch_logits(torch_case):
    case, x = torch_case, mx.nd.array(torch_case.arrays['x'])
    assert_close(case.net(x), case.arrays['logits'])
    case.net.hybridize(static_alloc=True, static_shape=True)
    assert_close(case.net(x), case.arrays['logits'])


@pytest.mark.parametrize('torch_case', TORCH_CASES, indirect=True)
def test_torch_intermediate_outputs(torch_case):
    features, arrays = torch_case.net.features, torch_case.arrays
    stem = features.stem(mx.nd.array(arrays['x']))
    block1, block2 = features.seq0.block0, features.seq1.block0
    found = {'stem': stem, 'block1_expand_relu6': block1.exp(stem)}
    out1 = found['block1_out'] = block1(stem)
    out2 = found['block2_out'] = block2(out1)
    found['block3_out'] = features.seq1.block1(out2)
    found['block2_expand_relu6'] = block2.exp(out1)
    if block1.shuffle is not None:
        found['block1_after_perm1'] = block1.shuffle(found['block1_expand_relu6'])
        found['block1_dw_relu6'] = block1.depthwise(found['block1_after_perm1'])
        found['block1_project_bn'] = block1.linear(found['block1_dw_relu6'])
        found['block1_after_perm2'] = block1.output_shuffle(found['block1_project_bn'])
        found['block2_after_perm1'] = block2.shuffle(found['block2_expand_relu6'])
    y = stem
    for name in ['seq%d' % s for s in range(7)] + ['last', 'pool']:
        y = getattr(features, name)(y)
    found['pooled'] = y
    stored = set(arrays.files) - {'x', 'logits'}
    assert stored
    for name in stored:
        assert_close(found[name], arrays[name], name=name)


def graph(symbol):
    """Nodes in order: operator, name (automatic ones left out), attributes as values, inputs."""
    nodes = []
    for node in json.loads(symbol.tojson())['nodes']:
        attributes = dict(node.get('attrs', {})) if node['op'] != 'null' else {}
        if node['op'] == 'clip':
            attributes = {key: float(value) for key, value in attributes.items()}
        elif node['op'] == 'BatchNorm':
            attributes = {'eps': float(attributes.get('eps', 1e-3)),
                          'momentum': float(attributes.get('momentum', 0.9)),
                          'fix_gamma': attributes.get('fix_gamma', 'True')}
        name = '' if node['op'] in ('Reshape', 'SwapAxis') else node['name']
        nodes.append((node['op'], name, attributes, node['inputs']))
    return nodes


def test_released_mxnet_graph(shared_fixtures):
    path = shared_fixtures('igcv3') / 'symbols' / 'igcv3-symbol.json'
    logits = igcnet.get_model('igcv3_mxnet')(mx.sym.var('data'))
    ours = graph(mx.sym.SoftmaxOutput(logits, name='softmax'))
    released = graph(mx.sym.load(str(path)))
    for our_node, released_node in zip(ours, released):
        assert our_node == released_node
    assert len(ours) == len(released) == 849


def test_released_mxnet_checkpoint(shared_fixtures):
    folder = shared_fixtures('igcv3') / 'symbols'
    arrays = np.load(str(folder / 'igcv3.npz'))
    stored = mx.nd.load(str(folder / 'igcv3-0000.params'))
    net = igcnet.get_model('igcv3_mxnet')
    net.initialize()
    parameters = net.collect_params()
    assert {'%s:%s' % ('aux' if p.grad_req == 'null' else 'arg', name)
            for name, p in parameters.items()} == set(stored)
    for key, value in stored.items():
        assert parameters[key[4:]].shape == value.shape
        parameters[key[4:]].set_data(value)

    x = mx.nd.array(arrays['x'])
    logits = net(x)
    assert_close(logits, arrays['logits'], 10 * TOLERANCE)
    assert_close(mx.nd.softmax(logits), arrays['prob'])
    assert_close(net.features(x), arrays['pooled'])
    stem = net.features.stem(x)
    block = net.features.seq0.block0
    taps = {'exp_bn': block.exp(stem)}
    taps['after_perm'] = block.shuffle(taps['exp_bn'])
    taps['dw_relu6'] = block.depthwise(taps['after_perm'])
    taps['linear_bn'] = block.linear(taps['dw_relu6'])
    for name, value in taps.items():
        tap = 'seq0_block0_%s_crop8' % name
        assert_close(value[:, :, :8, :8], arrays[tap], name=name)
    second = net.features.seq1
    shortcut = second.block1(second.block0(block(stem)))
    assert_close(shortcut[:, :, :8, :8], arrays['seq1_block1_shortcut_crop8'])

    net.hybridize(static_alloc=True, static_shape=True)
    assert_close(net(x), arrays['logits'], 10 * TOLERANCE)
