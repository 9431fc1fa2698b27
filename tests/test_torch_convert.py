"""PyTorch checkpoints and our networks: names, wrappers, reports, the way back, the twin."""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from small_networks import random_network

import igcnet
from igcnet.convert.torch_convert import (
    MismatchError,
    family_of,
    load_torch,
    match_torch,
    save_torch,
    with_extras,
)
from igcnet.convert.torch_file import read_torch
from igcnet.convert.torch_origin import Origin, origin_path, read_origin, write_origin
from igcnet.convert.torch_state import find_state, replace_state
from igcnet.convert.torch_twin import reshaped, run_twin
from igcnet.convert.torch_writer import write_torch
from igcnet.deploy.originals import differences, our_settings
from igcnet.errors import CheckpointError, UsageError

# One small network for each family that has an original in PyTorch.
SMALL = {
    'menet': dict(block_channels=(24, 48, 96), block_layers=(1, 1, 1), init_c=6,
                  side_channels=(2, 2, 2), groups=3, classes=5),
    'shufflenet': dict(groups=3, init_mul=0.5, width_mul=0.25, block_layers=(1, 1, 1), classes=5),
    'mobilenet': dict(width_mul=0.125, classes=5),
    'igcv3': dict(width=0.25, classes=5), 'mobilenetv2': dict(width=0.25, classes=5),
    'mobilenet_v1_us': dict(width_mult_range=(0.25, 0.5), width_mult_list=(0.25, 0.5), classes=5),
    'mobilenet_v2_us': dict(width_mult_range=(0.25, 0.5), width_mult_list=(0.5,), classes=5),
    'resnet50_us': dict(width_mult_range=(0.05, 0.1), width_mult_list=(0.05, 0.1), classes=5),
    'wideresnet28_10_us': dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                               width_mult_list=(0.5, 1.0), classes=5),
    'dydensenet': dict(stages='2-1', growth='8-8', classes=5), 'dyresnet18': dict(classes=5),
    'densenet': dict(stages='2-1', growth='8-8', classes=5), 'resnet18': dict(classes=5),
}
SYSTEMS = ('dgc', 'igcv3', 'menet', 'mutualnet')


def small(name='mobilenet', seed=0):
    """A small network with random values and the key map of its family."""
    return random_network(name, seed, **SMALL[name]), family_of(igcnet.get_spec(name))


def trained_like(name, settings):
    """A network whose values stay in range: the original's initialisation, other statistics."""
    net = igcnet.get_model(name, **settings)
    mx.random.seed(0)
    net.initialize()
    rng = np.random.RandomState(0)
    for path, parameter in net._collect_params_with_prefix().items():
        if path.endswith(('running_mean', 'beta')):
            parameter.set_data(mx.nd.array(0.2 * rng.randn(*parameter.shape)))
        elif path.endswith(('running_var', 'gamma')):
            parameter.set_data(mx.nd.array(0.8 + 0.4 * rng.rand(*parameter.shape)))
        elif path.endswith('inactive_channels'):
            parameter.set_data(mx.nd.array([4]))
        elif 'headconv' in path and 'weight' in path:  # saliencies multiply from layer to layer
            parameter.set_data(0.3 * parameter.data())
    return net


def values_by_path(net):
    return {path: parameter.data().asnumpy()
            for path, parameter in net._collect_params_with_prefix().items()}


def assert_same(net, other, paths=None):
    mine, theirs = values_by_path(net), values_by_path(other)
    for path in paths or mine:
        assert mine[path].tobytes() == theirs[path].tobytes(), path


def fresh(name, **changes):
    return igcnet.get_model(name, **{**SMALL[name], **changes})


@pytest.fixture
def saved(tmp_path):
    """A small MobileNet, its key map, and a file of it as the original writes it."""
    net, family = small()
    path = tmp_path / 'net.pth.tar'
    save_torch(net, family, path, network='label')
    return net, family, path


def edited(path, change):
    """Change the value of a file."""
    value = read_torch(path).value
    write_torch(path, change(value) or value)
    return path


# There and back


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('container', ['legacy', 'zip', None])
def test_there_and_back(tmp_path, name, container):
    net, family = small(name)
    keys = save_torch(net, family, tmp_path / 'a.pt', network='label', container=container)
    file = read_torch(tmp_path / 'a.pt')
    assert file.container == container or container is None
    assert set(file.value) == {family.WRAPPER['state_dict'], *family.WRAPPER['written']}
    state = file.value[family.WRAPPER['state_dict']]
    assert list(state) == keys
    other = fresh(name)
    values, report, origin = load_torch(other, family, tmp_path / 'a.pt')
    assert_same(net, other)
    assert report.complete and len(report.converted) == len(values) == len(values_by_path(net))
    assert sorted(report.kept) == sorted(
        report.prefix + key for key in family.torch_extras(net))
    save_torch(other, family, tmp_path / 'b.pt', origin)
    assert list(differences(file, read_torch(tmp_path / 'b.pt'))) == []


def original_checkpoints(shared_fixtures):
    """(facts, checkpoint) of every case of a PyTorch original."""
    for system in SYSTEMS:
        for path in sorted(shared_fixtures(system).glob('*.json')):
            facts = json.loads(path.read_text())
            yield facts, path.parent / facts['checkpoint']


def test_original_checkpoints(shared_fixtures, tmp_path):
    """Keys, order, shapes and types of a file for a new network are those of the original's."""
    seen = set()
    for facts, path in original_checkpoints(shared_fixtures):
        ours = our_settings(facts, path.parent)
        if ours is None or path in seen:
            continue
        seen.add(path)
        name, settings = ours
        net, family = igcnet.get_model(name, **settings), family_of(igcnet.get_spec(name))
        load_torch(net, family, path)
        save_torch(net, family, tmp_path / 'new.pt', network='label')
        found, expected = read_torch(tmp_path / 'new.pt').value, read_torch(path).value
        entry = family.WRAPPER['state_dict']
        prefix = family.WRAPPER['prefixes'][0]
        if 'model_name' in expected:  # the training form; new files have that for evaluation
            prefix = 'module.'
            found[entry] = OrderedDict((prefix + key, value) for key, value in found[entry].items())
        else:
            for key, value in found.items():
                assert type(value) is type(expected[key]), (path.name, key)
            if name not in ('mobilenet', 'dydensenet'):  # the trainer's file has more
                assert set(found) == set(expected), path.name
        assert list(found[entry]) == list(expected[entry]), path.name
        for key, value in expected[entry].items():
            assert found[entry][key].shape == value.shape, (path.name, key)
            assert found[entry][key].dtype == value.dtype, (path.name, key)
            if not key.endswith('num_batches_tracked'):
                assert found[entry][key].tobytes() == value.tobytes(), (path.name, key)
    assert len(seen) >= 15


def test_single_layers(shared_fixtures, tmp_path):
    """The checkpoints of one dynamic group convolution."""
    from igcnet.convert.families import dgc
    from igcnet.layers import DynamicGroupConv
    for case in ('dgc_layer_1x1', 'dgc_layer_3x3s2', 'dgc_layer_ties'):
        path = shared_fixtures('dgc') / (case + '.tar')
        config = json.loads(path.with_suffix('.json').read_text())['config']
        layer = DynamicGroupConv('layer', config['in_channels'], config['out_channels'],
                                 config['kernel_size'], config['stride'], config['padding'],
                                 config['dilation'], config['heads'], config['squeeze_rate'],
                                 config['gate_factor'])
        origin = load_torch(layer, dgc, path).origin
        save_torch(layer, dgc, tmp_path / 'a.pt', origin)
        assert list(differences(read_torch(path), read_torch(tmp_path / 'a.pt'))) == []


def test_half_precision_comes_back(saved, tmp_path):
    """Element types are those of the file; every half is a float32."""
    _, family, path = saved

    def halve(value):
        state = value['state_dict']
        for key in state:
            state[key] = state[key].astype(np.float16 if state[key].dtype.kind == 'f' else 'i4')
    edited(path, halve)
    net = fresh('mobilenet')
    origin = load_torch(net, family, path).origin
    save_torch(net, family, tmp_path / 'b.pt', origin)
    assert list(differences(read_torch(path), read_torch(tmp_path / 'b.pt'))) == []


# Where the parameters are


@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: {'net': state, 'epoch': 3},
    lambda state: {'model': {'weights': state}, 'args': {'lr': 0.1}},
    lambda state: OrderedDict(('module.' + key, value) for key, value in state.items()),
    lambda state: {'x': {'module.model.' + key: value for key, value in state.items()}},
    lambda state: {'state_dict': state, 'ema': dict(state), 'optimizer': {'state': {
        0: {'momentum_buffer': np.ones(3, 'f4')}}}},
    lambda state: {'ema': {'features.conv_0.weight': np.ones(3, 'f4')}, 'best': state},
    lambda state: OrderedDict((key, value) for key, value in state.items()
                              if not key.endswith('num_batches_tracked')),
    lambda state: dict(state, **{'features.norm_0.num_batches_tracked': np.array(5)}),
    lambda state: OrderedDict(reversed(list(state.items())))])
def test_wrappers(saved, tmp_path, wrap):
    net, family, path = saved
    edited(path, lambda value: wrap(value['state_dict']))
    other = fresh('mobilenet')
    report, origin = load_torch(other, family, path)[1:]
    assert_same(net, other)
    assert report.complete
    save_torch(other, family, tmp_path / 'b.pt', origin)
    assert list(differences(read_torch(path), read_torch(tmp_path / 'b.pt'))) == []


def test_two_equally_good_entries(saved):
    _, family, path = saved
    edited(path, lambda value: {'a': value['state_dict'], 'b': dict(value['state_dict'])})
    with pytest.raises(CheckpointError, match="equally well: 'a', 'b'"):
        load_torch(fresh('mobilenet'), family, path)


@pytest.mark.parametrize('value, contents', [
    ({'epoch': 1, 'state_dict': {'a': np.ones(2)}}, "the entries 'epoch', 'state_dict'"),
    ([1, 2], 'a list'), (None, 'a NoneType'), ({}, 'the entries ')])
def test_no_parameter_of_the_network(saved, value, contents):
    _, family, path = saved
    write_torch(path, value)
    with pytest.raises(CheckpointError, match='no parameter of this network') as caught:
        load_torch(fresh('mobilenet'), family, path)
    assert str(caught.value).endswith('it has ' + contents)


def test_find_state_prefers_the_most_keys():
    arrays = {name: np.zeros(1) for name in ('a.weight', 'b.weight', 'c.weight')}
    value = {'state_dict': {'a.weight': np.zeros(1)}, 'other': arrays}
    state = find_state(value, list(arrays), 'state_dict', 'file')
    assert state.place == ('other',) and state.prefix == ''
    assert state.parameters() == arrays


def test_replace_state_leaves_the_original_alone():
    value = {'a': OrderedDict(b={'c': 1}), 'd': 2}
    copy = replace_state(value, ('a', 'b'), 5)
    assert copy == {'a': OrderedDict(b=5), 'd': 2} and type(copy['a']) is OrderedDict
    assert value['a']['b'] == {'c': 1}


# What does not fit


CHANGES = {
    'missing': (lambda state: state.pop('features.norm_0.weight'),
                '1 missing (features.norm_0.weight)'),
    'unused': (lambda state: state.update({'features.extra.weight': np.ones(3, 'f4')}),
               '1 unused (features.extra.weight)'),
    'a text among them': (lambda state: state.update(note='x'), '1 unused (note)'),
    'another shape': (lambda state: state.update({'classifier.bias': np.ones(7, 'f4')}),
                      '1 of another shape (classifier.bias: (7,) in the file, (5,) in the '
                      'network)'),
    'a scalar': (lambda state: state.update({'classifier.bias': np.array(1, 'f4')}),
                 'classifier.bias: () in the file'),
    'a renamed entry': (lambda state: state.update({'classifier.Bias': state.pop(
        'classifier.bias')}), '1 unused (classifier.Bias); 1 missing (classifier.bias)'),
    'control characters': (lambda state: state.update({'a\n\x1b[31m': np.ones(1, 'f4')}),
                           "1 unused ('a\\n\\x1b[31m')"),
    'many': (lambda state: [state.pop(key) for key in list(state)[:20]],
             '17 missing (features.conv_0.weight, features.norm_0.weight, features.norm_0.bias, '),
}


@pytest.mark.parametrize('change', CHANGES)
def test_unexplained_entries(saved, change):
    _, family, path = saved
    apply, message = CHANGES[change]
    value = read_torch(path).value
    apply(value['state_dict'])
    write_torch(path, value)
    net = random_network('mobilenet', 7, **SMALL['mobilenet'])
    before = values_by_path(net)
    with pytest.raises(MismatchError) as caught:
        load_torch(net, family, path)
    assert message in str(caught.value) and '\n' not in str(caught.value)
    assert not caught.value.report.complete
    assert all(np.array_equal(before[name], value)
               for name, value in values_by_path(net).items()), 'changed by a file that is refused'


def test_allow_missing(saved, tmp_path):
    """What fits is taken, the rest keeps its values, and the file can still be restored."""
    net, family, path = saved
    edited(path, lambda value: value['state_dict'].update({
        'classifier.weight': np.ones((9, 128), 'f4'), 'extra': np.ones(2, 'f4')}))
    edited(path, lambda value: value['state_dict'].pop('features.norm_0.weight') is None)
    other = random_network('mobilenet', 7, **SMALL['mobilenet'])
    before = values_by_path(other)
    report, origin = load_torch(other, family, path, allow_missing=True)[1:]
    assert report.missing == ['features.norm_0.weight'] and report.unused == ['extra']
    assert [entry.key for entry in report.misshapen] == ['classifier.weight']
    left = {'output.weight', 'features.norm_0.gamma'}
    after = values_by_path(other)
    assert_same(net, other, set(after) - left)
    assert all(np.array_equal(before[name], after[name]) for name in left)
    save_torch(other, family, tmp_path / 'b.pt', origin)
    state = read_torch(tmp_path / 'b.pt').value['state_dict']
    assert np.array_equal(state['extra'], np.ones(2))
    assert state['classifier.weight'].shape == (5, 128)
    assert list(state)[-1] == 'features.norm_0.weight'


def test_allow_missing_initialises(saved):
    """A network without values gets the original's initialisation where the file has nothing."""
    _, family, path = saved
    edited(path, lambda value: value['state_dict'].pop('classifier.weight') is None)
    net = fresh('mobilenet')
    load_torch(net, family, path, allow_missing=True)
    weight = net.output.weight.data().asnumpy()
    assert weight.std() > 0.01 and np.isfinite(weight).all()


def test_report_as_text(saved):
    _, family, path = saved
    edited(path, lambda value: value['state_dict'].update({
        'classifier.bias': np.ones(7, 'f4'), 'extra': np.ones(2, 'f4')}))
    report = match_torch(fresh('mobilenet'), family, path, allow_missing=True).report
    lines = report.table().splitlines()
    assert lines[0] == "%s: legacy container, parameters in 'state_dict'" % path
    count = len(report.converted)
    assert lines[1].split()[:2] == ['converted', str(count)] and count == 136
    assert lines[2].split() == ['kept', 'aside', '27', 'num_batches_tracked']
    assert lines[3:] == [
        'unused                1', '    extra', 'missing               0',
        'of another shape      1', '    classifier.bias: (7,) in the file, (5,) in the network',
        'beside them           1  name']
    every = report.table(True).splitlines()
    assert len(every) == len(lines) + count
    assert any(line.split()[:2] == ['features.norm_0.weight', 'features.norm_0.gamma']
               for line in every)


# Families


def test_families_without_an_original_in_torch():
    with pytest.raises(UsageError, match="^resnet_igc: no PyTorch original of the family 'igc'"):
        family_of(igcnet.get_spec('resnet_igc'))


def test_forms_that_the_original_does_not_have(saved):
    family = family_of(igcnet.get_spec('igcv3_mxnet'))
    with pytest.raises(UsageError, match='another function of its parameters'):
        load_torch(igcnet.get_model('igcv3_mxnet'), family, saved[2])


def test_network_without_values(saved):
    with pytest.raises(UsageError, match='no values yet'):
        save_torch(fresh('mobilenet'), saved[1], saved[2])


def test_extras_follow_their_module():
    values = {key: np.zeros(1) for key in ('a.weight', 'a.running_var', 'b.weight', 'a.b.weight')}
    extras = {key: np.ones(1) for key in ('a.count', 'z', 'b.count', 'a.b.count')}
    assert list(with_extras(values, extras)) == [
        'z', 'a.weight', 'a.running_var', 'a.count', 'b.weight', 'b.count', 'a.b.weight',
        'a.b.count']


@pytest.mark.parametrize('name', SMALL)
def test_torch_loads_it(tmp_path, name):
    """A module with the original's names takes the file with strict=True."""
    torch = pytest.importorskip('torch')
    net, family = small(name)
    save_torch(net, family, tmp_path / 'a.pt', network='label')
    value = torch.load(str(tmp_path / 'a.pt'), weights_only=True)
    state = value[family.WRAPPER['state_dict']]

    root = torch.nn.Module()
    extras = {family.WRAPPER['prefixes'][0] + key for key in family.torch_extras(net)}
    for key, tensor in state.items():
        *modules, leaf = key.split('.')
        module = root
        for part in modules:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if key in extras or leaf.startswith('running_') or leaf == '_inactive_channels':
            module.register_buffer(leaf, torch.zeros_like(tensor))
        else:
            module.register_parameter(leaf, torch.nn.Parameter(torch.zeros_like(tensor)))
    root.load_state_dict(state, strict=True)
    names = family.torch_names(net)
    loaded = {key: value.numpy() for key, value in root.state_dict().items()}
    for path, array in values_by_path(net).items():
        key = family.WRAPPER['prefixes'][0] + names[path]
        assert loaded[key].tobytes() == array.tobytes(), key


# Origins


def some_origin(**changes):
    origin = Origin('zip', ('state_dict',), 'module.', ['module.a', 'module.n'],
                    {'module.a': 'float16'}, {'module.n': np.array(3)},
                    {'epoch': 3, 'state_dict': None}, OrderedDict([('', {'version': 1})]), True)
    for field, value in changes.items():
        setattr(origin, field, value)
    return origin


def test_origin_file(tmp_path):
    write_origin(tmp_path / 'a-origin.pt', some_origin(), 'abc', 1000)
    origin, checksum = read_origin(tmp_path / 'a-origin.pt')
    assert checksum == 'abc' and list(differences(origin.__dict__, some_origin().__dict__)) == []
    value, keys = origin.restore({'a': np.ones(2, 'f4')})
    assert keys == ['module.a', 'module.n'] and value['epoch'] == 3
    assert value['state_dict']['module.a'].dtype == np.float16
    assert value['state_dict']._metadata == OrderedDict([('', {'version': 1})])


@pytest.mark.parametrize('change', [
    dict(container='tar'), dict(place=('model',)), dict(place=('epoch',)), dict(prefix=None),
    dict(keys=[1]), dict(keys=None), dict(element_types={'module.a': 'O'}), dict(kept=[]),
    dict(metadata='x'), dict(element_types={'module.a': 'nothing'})])
def test_damaged_origin(tmp_path, change):
    write_origin(tmp_path / 'a.pt', some_origin(**change), 'abc', 1000)
    with pytest.raises(CheckpointError, match='damaged: its entries'):
        read_origin(tmp_path / 'a.pt')


def test_not_an_origin(tmp_path):
    write_torch(tmp_path / 'a.pt', {'format': 'something'})
    with pytest.raises(CheckpointError, match='not the origin of converted parameters'):
        read_origin(tmp_path / 'a.pt')


def test_origin_of_another_network(saved, tmp_path):
    net, family, path = saved
    origin = load_torch(net, family, path).origin
    other, other_family = small('shufflenet')
    with pytest.raises(CheckpointError, match='the origin is of another network'):
        save_torch(other, other_family, tmp_path / 'b.pt', origin)
    assert not (tmp_path / 'b.pt').exists()


def test_origin_does_not_grow_without_bound(tmp_path):
    """Views of one storage take no room in the file that they come from."""
    many = np.broadcast_to(np.zeros(1 << 20, 'f4'), (100, 1 << 20))
    with pytest.raises(CheckpointError, match='would take 419430'):
        write_origin(tmp_path / 'a.pt', some_origin(around={'x': list(many), 'state_dict': None}),
                     'abc', 1 << 20)


def test_origin_path():
    assert origin_path('a/net-0000.params') == Path('a/net-origin.pt')
    assert origin_path('a/net-0012.params') == Path('a/net-origin.pt')
    assert origin_path('net.params') == Path('net.params-origin.pt')


# The twin


@pytest.mark.parametrize('name, settings', [
    *SMALL.items(), ('resnet_igc', dict(depth=8, primary_partition=4, secondary_partition=2)),
    ('igcv3_mxnet', dict(width=0.25, classes=5)),
    ('igcv2star_c416_cifar10', dict(depth=8, channels=64))])
def test_twin(name, settings):
    """The graph of every family, computed by PyTorch."""
    pytest.importorskip('torch')
    from igcnet.deploy.verify import against_twin
    net = trained_like(name, settings)
    found = list(against_twin(net, net.input_size if net.fixed_input_size else 32, {}))
    assert len(found) == len(getattr(net, 'listed_widths', [None]))
    for comparison in found:
        assert comparison.difference < 5e-4, comparison
        assert comparison.agreeing == comparison.images == 2


def test_twin_sees_other_parameters():
    pytest.importorskip('torch')
    from igcnet.deploy.verify import against_twin
    net = trained_like('mobilenetv2', SMALL['mobilenetv2'])
    name = net.output.bias.name
    changed = net.output.bias.data().asnumpy() + np.float32([0, 0, 1, 0, 0])
    comparison, = against_twin(net, 32, {name: changed})
    assert comparison.difference == pytest.approx(1, abs=1e-4)


X = np.random.RandomState(0).randn(2, 6, 7, 5).astype(np.float32)
OPERATIONS = {
    'activation': lambda x: mx.sym.Activation(x, act_type='softsign'),
    'leaky': lambda x: mx.sym.LeakyReLU(x, act_type='leaky', slope=0.2),
    'max pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    'max pooling, full': lambda x: mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2),
                                                  pooling_convention='full'),
    'average pooling': lambda x: mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                                                pool_type='avg'),
    'average pooling without padding': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), pad=(1, 1), pool_type='avg', count_include_pad=False),
    'global pooling': lambda x: mx.sym.Pooling(x, kernel=(1, 1), global_pool=True),
    'shuffle': lambda x: mx.sym.reshape(mx.sym.swapaxes(mx.sym.reshape(
        x, shape=(0, -4, 3, -1, -2)), dim1=1, dim2=2), shape=(0, -3, -2)),
    'transpose': lambda x: mx.sym.transpose(x, axes=(0, 2, 3, 1)),
    'transpose of all': lambda x: mx.sym.transpose(x),
    'clip': lambda x: mx.sym.clip(x, a_min=-0.5, a_max=1),
    'softmax': lambda x: mx.sym.softmax(x, axis=1),
    'concat': lambda x: mx.sym.concat(x, x, dim=1),
    'split': lambda x: mx.sym.split(x, num_outputs=3, axis=1)[1],
    'split, squeezed': lambda x: mx.sym.split(x, num_outputs=6, axis=1, squeeze_axis=True)[4],
    'slice': lambda x: mx.sym.slice_axis(x, axis=-2, begin=1, end=-1),
    'stack': lambda x: mx.sym.stack(x, x, axis=2),
    'mean': lambda x: mx.sym.mean(x, axis=(2, 3)),
    'mean of the others': lambda x: mx.sym.mean(x, axis=1, exclude=True, keepdims=True),
    'sum of all': lambda x: mx.sym.sum(x),
    'sort': lambda x: mx.sym.sort(x, axis=1, is_ascend=False),
    'take': lambda x: mx.sym.take(x, mx.sym.clip(mx.sym.slice_axis(
        mx.sym.mean(x, axis=(1, 2, 3)), axis=0, begin=0, end=1), a_min=1, a_max=1), axis=-1),
    'dot': lambda x: mx.sym.dot(mx.sym.Flatten(x), mx.sym.Flatten(x), transpose_b=True),
    'arithmetic': lambda x: 3 - (x * 2 + 1) / 4 - x * x,
    'comparison': lambda x: mx.sym.broadcast_greater(x, mx.sym.mean(x, axis=1, keepdims=True)),
    'likes': lambda x: mx.sym.reshape_like(mx.sym.ones_like(x) + mx.sym.zeros_like(x),
                                           mx.sym.transpose(x)),
    'sum of several': lambda x: mx.sym.add_n(x, x, mx.sym.BlockGrad(x)),
    'dimensions': lambda x: mx.sym.expand_dims(x, axis=1),
}


@pytest.mark.parametrize('operation', OPERATIONS)
def test_twin_operators(operation):
    """Each operator of the twin against MXNet's."""
    pytest.importorskip('torch')
    from igcnet.convert.symbol_json import from_mxnet
    symbol = OPERATIONS[operation](mx.sym.var('data'))
    expected = symbol.bind(mx.cpu(), {'data': mx.nd.array(X)}).forward()[0].asnumpy()
    found = run_twin(from_mxnet(symbol), {'data': X})
    assert found.shape == expected.shape or found.size == expected.size == 1
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)


def test_twin_without_an_operator():
    pytest.importorskip('torch')
    from igcnet.convert.symbol_json import from_mxnet
    with pytest.raises(UsageError, match='L2Normalization is not translated'):
        run_twin(from_mxnet(mx.sym.L2Normalization(mx.sym.var('data'))), {'data': X})


@pytest.mark.parametrize('codes', [
    (0, -1), (-1,), (0, -4, 2, 3, -2), (0, -4, -1, 3, -2), (-3, -2), (0, -3, 0), (-2,),
    (0, 0, -3), (0, 3, 2, -2), (0, -4, 3, -1, -3)])
def test_reshape_codes(codes):
    symbol = mx.sym.reshape(mx.sym.var('data'), shape=codes)
    assert reshaped(X.shape, codes) == symbol.infer_shape(data=X.shape)[1][0]


# Sweep over cases


def test_sweep_reports_what_is_wrong(shared_fixtures, tmp_path):
    """A wrong logit and a missing file are found, and the others are not disturbed."""
    from igcnet.deploy.originals import compare_all, format_rows
    folder = shared_fixtures('mutualnet')
    for name in ('wideresnet10_1_c10', 'trainstep_wideresnet10_1_c10'):
        for suffix in ('.json', '.npz', '.pt'):
            if (name, suffix) != ('trainstep_wideresnet10_1_c10', '.pt'):
                shutil.copy(str(folder / (name + suffix)), str(tmp_path))
    rows = list(compare_all(tmp_path, tmp_path / 'out', 1e-4))
    assert [row.sound for row in rows] == [False, True]
    assert 'cannot read' in rows[0].cells[3] and rows[1].cells[5:] == ('24/24', 'same bits')
    assert len(format_rows(rows).splitlines()) == 3

    arrays = dict(np.load(str(tmp_path / 'wideresnet10_1_c10.npz')))
    arrays['logits_w1_r32'] = arrays['logits_w1_r32'][::-1]
    (tmp_path / 'wideresnet10_1_c10.npz').chmod(0o644)
    np.savez(str(tmp_path / 'wideresnet10_1_c10.npz'), **arrays)
    assert not list(compare_all(tmp_path, tmp_path / 'out', 1e-4))[1].sound


@pytest.mark.parametrize('system, network, config, expected', [
    ('menet', 'shufflenet_group_8', dict(name='shufflenet_group_8', init_mul=1, width_mul=1.5),
     ('shufflenet', dict(groups=8, init_mul=1, width_mul=1.5, classes=7))),
    ('igcv3', 'igcv3', dict(width_multiplier=0.5, downsampling=16, dropout_prob=0.2),
     ('igcv3', dict(width=0.5, downsampling=16, classes=7))),
    ('mutualnet', 'mobilenet_v2', dict(dataset='cifar10', width_mult_list=[0.5], lr=0.1),
     ('mobilenet_v2_us', dict(cifar10_rows=True, width_mult_list=[0.5], classes=7))),
    ('mutualnet', 'wideresnet', dict(dataset='cifar100', depth=16),
     ('wideresnet28_10_us', dict(depth=16, classes=7))),
    ('dgc', 'dydensenet', dict(data='imagenet', stages=[1, 1], heads=4),
     ('dydensenet', dict(form='imagenet', stages=[1, 1], heads=4, classes=7))),
    ('dgc', 'dyresnet18', dict(data='cifar10', heads=2),
     ('dyresnet18', dict(heads=2, classes=7)))])
def test_settings_of_the_originals(system, network, config, expected):
    facts = dict(system=system, network=network, config=config, num_classes=7, checkpoint='a.pt')
    assert our_settings(facts, Path('.')) == expected


def test_no_cases(tmp_path):
    from igcnet.deploy.originals import find_cases
    with pytest.raises(CheckpointError, match='no case of an original'):
        find_cases(tmp_path)
