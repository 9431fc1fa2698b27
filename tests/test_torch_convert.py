"""PyTorch checkpoints and our networks: names, wrappers, reports, the way back."""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from small_networks import random_network
from torch_networks import SMALL, assert_same, fresh, small, values_by_path

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
from igcnet.convert.torch_state import find_state, replace_state
from igcnet.convert.torch_writer import write_torch
from igcnet.deploy.originals import differences, our_settings
from igcnet.errors import CheckpointError, UsageError

SYSTEMS = ('dgc', 'igcv3', 'menet', 'mutualnet')


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
