"""`igcnet torch_to_mxnet`, `igcnet mxnet_to_torch` and `igcnet compare_originals`."""

import sys

import mxnet as mx
import numpy as np
import pytest
import torch_files as build
from small_networks import SMALL as IGC
from small_networks import assert_same_values, random_network

import igcnet
from igcnet.cli import main as console
from igcnet.convert import load_network, load_parameters, save_original
from igcnet.convert.torch_convert import family_of, save_torch
from igcnet.convert.torch_file import read_torch
from igcnet.convert.torch_writer import write_torch
from igcnet.deploy.export import read_manifest
from igcnet.deploy.originals import differences

SETTINGS = dict(width=0.25, classes=5)
OPTIONS = ['--network', 'mobilenetv2', '--width', '0.25', '--classes', '5']


def run(capsys, *argv):
    """(exit code, lines of stdout, stderr) of ``igcnet argv``."""
    code = console.main(list(map(str, argv)))
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


@pytest.fixture
def original(tmp_path):
    """A network and a training checkpoint of it in the original's form."""
    net = random_network('mobilenetv2', **SETTINGS)
    path = tmp_path / 'original.pth.tar'
    save_torch(net, family_of(igcnet.get_spec('mobilenetv2')), path)
    value = read_torch(path).value
    value.update(epoch=17, best_top1=0.5)
    write_torch(path, value)
    return net, path


@pytest.fixture
def converted(original, tmp_path, capsys):
    """The prefix of the converted files."""
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', original[1],
                       '--output', tmp_path / 'ours')
    assert (code, err) == (0, '')
    return tmp_path / 'ours'


def images(size=32):
    return np.random.RandomState(0).randn(2, 3, size, size).astype(np.float32)


def outputs(net, path, **arrays):
    """Write a file of inputs and logits; returns its path."""
    x = images()
    np.savez(str(path), **{'x': x, 'logits': net(mx.nd.array(x)).asnumpy(), **arrays})
    return path


# torch_to_mxnet


def test_to_mxnet(original, tmp_path, capsys):
    net, path = original
    prefix = str(tmp_path / 'out' / 'ours')
    code, out, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', path, '--output', prefix)
    assert (code, err) == (0, '')
    assert out[0] == "%s: legacy container, parameters in 'state_dict'" % path
    assert out[1].split()[:2] == ['converted', '267']
    assert out[-3:] == ['wrote %s%s' % (prefix, end)
                        for end in ('-symbol.json', '-0000.params', '-origin.pt')]
    exported = load_network(symbol=prefix + '-symbol.json', params=prefix + '-0000.params')
    named = load_network(network='mobilenetv2', params=prefix + '-0000.params', **SETTINGS)
    assert_same_values(net, named)
    x = mx.nd.array(images())
    expected = net(x).asnumpy()
    for made in (exported, named):
        made.hybridize(static_alloc=True, static_shape=True)
        assert np.array_equal(made(x).asnumpy(), expected)
    manifest = read_manifest(prefix + '-symbol.json', prefix + '-0000.params')
    assert (manifest['network'], manifest['settings']) == ('mobilenetv2', SETTINGS)


def test_to_mxnet_names_every_entry(original, tmp_path, capsys):
    code, out, _ = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', original[1], '--output',
                       tmp_path / 'ours', '--list')
    assert code == 0
    rows = [line.split() for line in out if line.startswith('    ')]
    assert len(rows) == 267
    assert ['features.1.conv.1.weight', 'features.seq0.block0.exp.bn.gamma'] in [
        row[:2] for row in rows]


def test_to_mxnet_of_another_network(original, tmp_path, capsys):
    code, out, err = run(capsys, 'torch_to_mxnet', *OPTIONS[:-1], 7, '--input', original[1],
                         '--output', tmp_path / 'ours')
    assert code == 1 and err.startswith('error: %s does not fit the network: 2 of another shape ('
                                        % original[1])
    assert 'of another shape      2' in out  # the whole report is there
    assert not list(tmp_path.glob('ours*'))


def test_to_mxnet_allow_missing(original, tmp_path, capsys):
    code, out, _ = run(capsys, 'torch_to_mxnet', *OPTIONS[:-1], 7, '--input', original[1],
                       '--output', tmp_path / 'ours', '--allow-missing')
    assert code == 0 and 'of another shape      2' in out
    net = load_network(network='mobilenetv2', params=tmp_path / 'ours-0000.params', width=0.25,
                       classes=7)
    assert np.array_equal(net.features.stem.conv.weight.data().asnumpy(),
                          original[0].features.stem.conv.weight.data().asnumpy())


def test_to_mxnet_of_a_hostile_file(tmp_path, capsys):
    path = build.legacy_file(tmp_path / 'a.pt', build.name('os', 'system') + b'(' +
                             build.text('true') + b'tR', {})
    code, out, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', path, '--output',
                         tmp_path / 'ours')
    assert (code, out) == (1, [])
    assert err == ('error: %s: refused: it names os.system, which is no part of plain data; '
                   'nothing was run\n' % path)
    assert not list(tmp_path.glob('ours*'))


@pytest.mark.parametrize('options, code, message', [
    (['--network', 'mobilnet'], 2, "unknown network 'mobilnet': did you mean mobilenet"),
    (['--network', 'resnet_igc'], 2, 'resnet_igc: no PyTorch original of the family'),
    (['--network', 'mobilenetv2', '--groups', '2'], 2, '--groups: mobilenetv2 has no such'),
    ([*OPTIONS, '--tolerance', '-1'], 2, "argument --tolerance: '-1' is not a number"),
    (['--network', 'mobilenetv2_paper'], 2, 'without its first expansion has no PyTorch')])
def test_usage(original, tmp_path, capsys, options, code, message):
    found, _, err = run(capsys, 'torch_to_mxnet', *options, '--input', original[1], '--output',
                        tmp_path / 'ours')
    assert found == code and message in err and err.count('\n') == 1


def test_no_input(tmp_path, capsys):
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', tmp_path / 'a.pt',
                       '--output', tmp_path / 'ours')
    assert code == 1 and 'a.pt: cannot read this checkpoint (No such file' in err


def test_unwritable_output(original, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', original[1], '--output',
                       tmp_path / 'file' / 'ours')
    assert code == 1 and 'cannot write' in err and err.count('\n') == 1


def test_mxnet_original(tmp_path, capsys):
    """A checkpoint of the IGC original, with its graph's Reorder nodes."""
    net = random_network(**IGC)
    _, params = save_original(net, tmp_path / 'igc', 3)
    options = [word for key, value in IGC.items()
               for word in ('--' + key.replace('_', '-'), value)]
    code, out, _ = run(capsys, 'torch_to_mxnet', '--network', 'resnet_igc', *options, '--input',
                       params, '--output', tmp_path / 'ours')
    assert code == 0
    assert out == ['wrote %s%s' % (tmp_path / 'ours', end)
                   for end in ('-symbol.json', '-0000.params')]
    other = igcnet.get_model('resnet_igc', **IGC)
    load_parameters(other, tmp_path / 'ours-0000.params')
    assert_same_values(net, other)


def test_network_with_several_widths(tmp_path, capsys):
    """All running statistics are in the file, which goes with the network's name."""
    settings = dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                    width_mult_list=(0.5, 0.7, 1.0))
    net = random_network('wideresnet28_10_us', **settings)
    save_torch(net, family_of(igcnet.get_spec('wideresnet28_10_us')), tmp_path / 'a.pt')
    options = ['--network', 'wideresnet28_10_us', '--depth', 10, '--widen-factor', 1,
               '--width-mult-range', '0.5,1', '--width-mult-list', '0.5,0.7,1']
    code, out, _ = run(capsys, 'torch_to_mxnet', *options, '--input', tmp_path / 'a.pt',
                       '--output', tmp_path / 'ours')
    params = tmp_path / 'ours-0000.params'
    assert code == 0 and out[-1] == ('no symbol file: the network has several widths; give '
                                     '--network wideresnet28_10_us --params %s' % params)
    assert not (tmp_path / 'ours-symbol.json').exists()
    other = load_network(network='wideresnet28_10_us', params=params, **settings)
    assert_same_values(net, other)


def test_dynamic_network(tmp_path, capsys):
    """The graph of dynamic group convolutions is read back like any other."""
    settings = dict(stages='1-1-1', growth='8-8-8', classes=5)
    net = random_network('dydensenet', **settings)
    save_torch(net, family_of(igcnet.get_spec('dydensenet')), tmp_path / 'a.pt')
    code, _, err = run(capsys, 'torch_to_mxnet', '--network', 'dydensenet', '--stages', '1-1-1',
                       '--growth', '8-8-8', '--classes', 5, '--input', tmp_path / 'a.pt',
                       '--output', tmp_path / 'ours')
    assert (code, err) == (0, '')
    other = load_network(symbol=tmp_path / 'ours-symbol.json', params=tmp_path / 'ours-0000.params')
    x = mx.nd.array(images())
    assert np.array_equal(other(x).asnumpy(), net(x).asnumpy())


# mxnet_to_torch


def test_way_back(original, converted, tmp_path, capsys):
    """Epoch, accuracy, optimiser, keys, order: the same file."""
    path = tmp_path / 'back.pth.tar'
    code, out, err = run(capsys, 'mxnet_to_torch', *OPTIONS, '--input', '%s-0000.params'
                         % converted, '--output', path)
    assert (code, err) == (0, '')
    assert out == ['wrote %s: 267 entries, the rest as in %s-origin.pt' % (path, converted)]
    assert list(differences(read_torch(original[1]), read_torch(path))) == []


def test_way_back_as_a_new_network(original, converted, tmp_path, capsys):
    code, out, _ = run(capsys, 'mxnet_to_torch', *OPTIONS, '--input', '%s-0000.params' % converted,
                       '--output', tmp_path / 'a.pt', '--origin', 'none', '--container', 'zip')
    assert code == 0 and out == ['wrote %s: 267 entries' % (tmp_path / 'a.pt')]
    found = read_torch(tmp_path / 'a.pt')
    assert found.container == 'zip' and found.value['epoch'] == 0
    expected = read_torch(original[1]).value['state_dict']
    assert list(differences(found.value['state_dict'], expected)) == []


def test_origin_of_other_parameters(original, converted, tmp_path, capsys):
    """After some training the epoch of the former file is wrong; it is used only if asked for."""
    trained = random_network('mobilenetv2', 5, **SETTINGS)
    trained.save_parameters('%s-0000.params' % converted)
    argv = ['mxnet_to_torch', *OPTIONS, '--input', '%s-0000.params' % converted, '--output',
            tmp_path / 'a.pt']
    code, out, _ = run(capsys, *argv)
    assert code == 0 and out[0] == ('%s-origin.pt belongs to other parameters and is not used'
                                    % converted)
    assert read_torch(tmp_path / 'a.pt').value['epoch'] == 0
    code, out, _ = run(capsys, *argv, '--origin', '%s-origin.pt' % converted)
    assert code == 0 and len(out) == 1
    found = read_torch(tmp_path / 'a.pt').value
    assert found['epoch'] == 17
    assert np.array_equal(found['state_dict']['classifier.1.weight'],
                          trained.output.weight.data().asnumpy())


@pytest.mark.parametrize('content', [b'', b'something', None])
def test_damaged_origin(converted, tmp_path, capsys, content):
    origin = tmp_path / 'ours-origin.pt'
    origin.write_bytes(origin.read_bytes()[:-9] if content is None else content)
    code, _, err = run(capsys, 'mxnet_to_torch', *OPTIONS, '--input', '%s-0000.params' % converted,
                       '--output', tmp_path / 'a.pt')
    assert code == 1 and str(origin) in err and err.count('\n') == 1
    assert not (tmp_path / 'a.pt').exists()


def test_to_torch_of_another_network(converted, tmp_path, capsys):
    argv = ['mxnet_to_torch', *OPTIONS[:-1], 7, '--input', '%s-0000.params' % converted,
            '--output', tmp_path / 'a.pt']
    code, _, err = run(capsys, *argv)
    assert code == 1 and 'does not fit the network: 2 of another shape' in err


# --verify


def test_verify_with_outputs(original, tmp_path, capsys):
    net, path = original
    argv = ['torch_to_mxnet', *OPTIONS, '--input', path, '--output', tmp_path / 'ours', '--verify']
    code, out, _ = run(capsys, *argv, outputs(net, tmp_path / 'a.npz'))
    assert code == 0 and out[-1] == ('compared with logits: max abs difference 0, arg-max agrees '
                                     'for 2 of 2')
    x = mx.nd.array(images())
    other = outputs(net, tmp_path / 'b.npz', logits=net(x).asnumpy() + np.float32(0.25))
    code, out, err = run(capsys, *argv, other)
    assert code == 1 and 'max abs difference 0.25' in out[-1]
    assert err == 'error: logits: the difference 0.25 is above the tolerance 0.001\n'
    assert run(capsys, *argv, other, '--tolerance', '0.5')[0] == 0


@pytest.mark.parametrize('arrays, message', [
    (dict(logits=np.zeros((2, 4))), 'logits has the shape (2, 4), the network gives (2, 5)'),
    (dict(logits=np.full((2, 5), np.nan)), 'values that are not finite'),
    (dict(x=np.zeros((2, 4, 32, 32))), 'the network cannot run on x for logits'),
    (dict(x=np.zeros(3)), 'the network cannot run on x for logits'),
    (dict(x=np.array(['text'])), 'the network cannot run on x for logits'),
    (dict(x=np.array([object()])), 'cannot read inputs and outputs')])
def test_verify_with_outputs_that_do_not_fit(original, tmp_path, capsys, arrays, message):
    net, path = original
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', path, '--output',
                       tmp_path / 'ours', '--verify', outputs(net, tmp_path / 'a.npz', **arrays))
    assert code == 1 and message in err and err.count('\n') == 1


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', 'npy', 'other'])
def test_verify_with_a_file_of_something_else(original, tmp_path, capsys, content):
    path = tmp_path / 'a.npz'
    if content == 'npy':
        with open(str(path), 'wb') as file:
            np.save(file, np.zeros(3))
    elif content == 'other':
        np.savez(str(path), y=np.zeros(3))
    else:
        path.write_bytes(content)
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', original[1], '--output',
                       tmp_path / 'ours', '--verify', path)
    assert code == 1 and '%s: cannot read inputs and outputs' % path in err


def test_verify_with_torch(original, converted, tmp_path, capsys):
    pytest.importorskip('torch')
    for argv in (['torch_to_mxnet', *OPTIONS, '--input', original[1], '--output',
                  tmp_path / 'a'],
                 ['mxnet_to_torch', *OPTIONS, '--input', '%s-0000.params' % converted, '--output',
                  tmp_path / 'a.pt']):
        code, out, _ = run(capsys, *argv, '--verify', '--tolerance', '1e9')
        assert code == 0 and out[-1].startswith('compared with PyTorch: max abs difference ')
        assert out[-1].endswith(', arg-max agrees for 2 of 2')


def test_verify_without_torch(original, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    code, _, err = run(capsys, 'torch_to_mxnet', *OPTIONS, '--input', original[1], '--output',
                       tmp_path / 'ours', '--verify')
    assert code == 2 and 'pip install torch, or give a file' in err


# compare_originals


def test_all_originals(shared_fixtures, capsys):
    """Every original checkpoint: logits within 1e-4, the same largest one, every bit back."""
    folder = shared_fixtures('menet').parent
    code, out, err = run(capsys, 'compare_originals', folder)
    assert code == 0, (out, err)
    assert out[0].split() == ['case', 'network', 'checkpoint', 'converted', 'logits', 'arg-max',
                              'way', 'back']
    rows = out[1:]
    networks = [row for row in rows if row.endswith('same bits')]
    assert len(networks) >= 29 and len(rows) - len(networks) == 3  # single layers
    assert sum('/' in row.split()[-3] for row in networks) >= 23  # with logits


def test_wrong_originals(shared_fixtures, tmp_path, capsys):
    """A case without its checkpoint fails the command, after the table."""
    (tmp_path / 'a.json').write_text(
        (shared_fixtures('menet') / 'menet48_small_g3.json').read_text())
    code, out, err = run(capsys, 'compare_originals', tmp_path)
    assert code == 1 and 'cannot read this checkpoint' in out[1]
    assert err.splitlines()[-1] == 'error: 1 of 1 checkpoints are not as they should be'


def test_no_originals(tmp_path, capsys):
    code, _, err = run(capsys, 'compare_originals', tmp_path)
    assert (code, err) == (1, 'error: %s: no case of an original is below this folder\n' % tmp_path)
