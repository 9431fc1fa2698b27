"""``tools/dgc.py``, and what evaluate does with checkpoints of the DGC original."""

import json
import re

import mxnet as mx
import numpy as np
import pytest
from synthetic import noise, write_records
from test_convert_dgc import Original
from test_models_dgc import SMALL, computing, images

import igcnet
from igcnet.cli import dgc, evaluate, mxnet_to_torch, profile
from igcnet.convert import write_ndarrays
from igcnet.convert.torch_writer import write_torch
from igcnet.deploy.freeze import freeze
from igcnet.deploy.selection import SelectionRecorder
from igcnet.errors import UsageError

NETWORK = ['--network', 'dydensenet', '--stages', '1-2-1', '--growth', '4-8-8', '--classes', '7',
           '--heads', '2', '--squeeze-rate', '4']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A small network's parameters, records of seven classes, and the same batch for it."""
    folder = tmp_path_factory.mktemp('world')
    net = computing('dydensenet')
    net.save_parameters(str(folder / 'net.params'))
    pictures, labels = noise(14, seed=5), np.arange(14) % 7
    write_records(folder / 'test', pictures, labels.astype(float),
                  classes=['class %d' % number for number in range(7)])
    return folder, [*NETWORK, '--params', str(folder / 'net.params'), '--batch-size', '4']


def gated(net, x):
    """The gated saliencies of every layer, imperatively."""
    found = []
    for layer in net.dynamic_layers:
        nodes = net(mx.sym.var('data')).get_internals()
        block = mx.gluon.SymbolBlock([nodes[layer.name + '_gated_output']],
                                     [mx.sym.var('data', dtype='float32')],
                                     params=net.collect_params())
        found.append(block(x).asnumpy())
    return found


def test_recorder_counts_what_is_on():
    net, x = computing('dydensenet'), images(6)
    labels = np.array([0, 1, 2, 0, 1, 6], np.float32)
    recorder = SelectionRecorder(net)
    for part in (slice(0, 4), slice(4, 6)):
        logits = recorder(x[part])
        recorder.add(labels[part])
        assert np.abs((logits - net(x[part])).asnumpy()).max() < 1e-5
    assert recorder.images.tolist() == [2, 2, 1, 0, 0, 0, 1]
    shares, saliencies = recorder.shares(), recorder.saliencies()
    for layer, values, row in zip(net.dynamic_layers, gated(net, x), recorder.table()):
        np.testing.assert_allclose(saliencies[layer.name], values.mean(axis=0), atol=1e-6)
        share = shares[layer.name]
        np.testing.assert_allclose(share[0], (values[[0, 3]] > 0).mean(axis=(0, 1)))
        assert np.isnan(share[3]).all()
        assert row['on'] == pytest.approx(row['all'] * (values > 0).mean())
        assert row['kept'] == row['all'] // 2 and row['counter'] == row['all'] * 0.25
        assert row['used'] == (values > 0).any(axis=(0, 1)).mean()


def test_frozen_network_is_the_average_one():
    """A constant selection and saliency are kept exactly; selectors are gone."""
    net, x = computing('dydensenet'), images(5)
    for layer in net.dynamic_layers:
        layer.set_inactive(round(layer.in_channels * 0.75))
        for head in layer.heads:  # saliencies of the bias alone, different for each channel
            head.fc2.weight.set_data(mx.nd.zeros(head.fc2.weight.shape))
            head.fc2.bias.set_data(mx.nd.array(
                0.5 + np.random.RandomState(0).permutation(layer.in_channels)))
    recorder = SelectionRecorder(net)
    expected = recorder(x).asnumpy()
    recorder.add(np.zeros(5))
    static = freeze(net, 'dydensenet', SMALL['dydensenet'], recorder.saliencies())
    scale = np.abs(expected).max()
    for _ in range(2):
        assert np.abs(static(x).asnumpy() - expected).max() < 1e-4 * scale
    assert not any('fc1' in name for name in static.collect_params())
    kept = sum(row['kept'] for row in recorder.table())
    everything = sum(row['all'] for row in recorder.table())
    counts = [igcnet.profiling.profile(each, (1, 3, 32, 32)) for each in (net, static)]
    selectors = sum(head.fc1.weight.data().size + head.fc2.weight.data().size
                    for layer in net.dynamic_layers for head in layer.heads)
    assert counts[0].macs - counts[1].macs == everything - kept + selectors


@pytest.mark.parametrize('name', ('dydensenet', 'dyresnet18'))
def test_frozen_network_trains_and_exports(name, tmp_path):
    net, x = computing(name), images(4)
    recorder = SelectionRecorder(net, 32)
    recorder(x)
    recorder.add(np.zeros(4))
    static = freeze(net, name, SMALL[name], recorder.saliencies())
    expected = static(x).asnumpy()
    static.export(str(tmp_path / 'static'))
    imported = mx.gluon.SymbolBlock.imports(str(tmp_path / 'static-symbol.json'), ['data'],
                                            str(tmp_path / 'static-0000.params'))
    assert np.abs(imported(x).asnumpy() - expected).max() < 1e-4 * np.abs(expected).max()
    operators = {node['op'] for node in json.loads(
        (tmp_path / 'static-symbol.json').read_text())['nodes']}
    assert operators <= {'null', 'Convolution', 'BatchNorm', 'Activation', 'Pooling', 'take',
                         'Reshape', 'SwapAxis', 'Concat', 'Flatten', 'FullyConnected',
                         'elemwise_add'}
    with mx.autograd.record():
        loss = (static(x) ** 2).sum()
    loss.backward()
    for parameter in static.collect_params().values():
        if parameter.grad_req != 'null':
            assert np.abs(parameter.grad().asnumpy()).max() > 0, parameter.name


def test_inspect(world, capsys, tmp_path):
    folder, options = world
    assert dgc.main(['inspect', *options, '--data', str(folder / 'test.rec'), '--json',
                     str(tmp_path / 'table.json'), '--picture', str(tmp_path / 'on.png')]) == 0
    printed = capsys.readouterr().out
    table = json.loads((tmp_path / 'table.json').read_text())
    assert [row['layer'] for row in table['layers']] == [
        'denseblock_1_denselayer_1_conv_1', 'denseblock_2_denselayer_1_conv_1',
        'denseblock_2_denselayer_2_conv_1', 'denseblock_3_denselayer_1_conv_1']
    assert [row['inactive'] for row in table['layers']] == [4, 6, 10, 14]
    assert table['network']['all'] == 1154012 and table['images'] == 14
    assert 'top-1 %.3f %%' % (100 * table['top1']) in printed
    assert '1,154,012' in printed and 'denseblock_2_denselayer_2_conv_1' in printed
    assert (tmp_path / 'on.png').read_bytes().startswith(b'\x89PNG')


def test_freeze_and_evaluate(world, capsys, tmp_path):
    """The exported form has the accuracy that freeze has printed, by graph and by name."""
    folder, options = world
    prefix, data = str(tmp_path / 'static'), str(folder / 'test.rec')
    assert dgc.main(['freeze', *options, '--data', data, '--output', prefix]) == 0
    printed = capsys.readouterr().out
    top1 = float(re.search(r'dynamic, ([\d.]+) % static', printed).group(1))
    files = ['--params', prefix + '-0000.params', '--data', data]
    for source in (['--symbol', prefix + '-symbol.json'], [*NETWORK, '--selection', 'static']):
        assert evaluate.main([*source, *files]) == 0
        assert 'top-1 %.3f %%' % top1 in capsys.readouterr().out
    manifest = json.loads((tmp_path / 'static-manifest.json').read_text())
    assert manifest['settings']['selection'] == 'static'
    assert manifest['figures']['val_top1'] == pytest.approx(top1 / 100, abs=1e-5)
    assert profile.main([*NETWORK[1:], '--selection', 'static']) == 0
    macs, = re.findall(r'-> ([\d,]+), parameters', printed)
    assert macs in capsys.readouterr().out
    assert dgc.main(['inspect', '--symbol', prefix + '-symbol.json', *files]) == 2
    assert 'the layers of a graph are not known' in capsys.readouterr().err


def test_freeze_reports_other_data_and_heeds_the_network(world, capsys, tmp_path):
    folder, options = world
    write_records(folder / 'other', noise(7, seed=9), np.arange(7).astype(float),
                  classes=['class %d' % number for number in range(7)])
    assert dgc.main(['freeze', *options, '--data', str(folder / 'test.rec'), '--test',
                     str(folder / 'other.rec'), '--output', str(tmp_path / 'static')]) == 0
    assert 'other.rec, 7 images' in capsys.readouterr().out
    igcnet_net = igcnet.get_model('densenet', stages='1-1-1', classes=7)
    igcnet_net.initialize()
    igcnet_net.save_parameters(str(folder / 'plain.params'))
    assert dgc.main(['inspect', '--network', 'densenet', '--stages', '1-1-1', '--classes', '7',
                     '--params', str(folder / 'plain.params'), '--data',
                     str(folder / 'test.rec')]) == 2
    assert 'no dynamic group convolutions' in capsys.readouterr().err


@pytest.mark.parametrize('case', ('dydensenet_c10_s4-4-4_h4_gf25',
                                  'dydensenet_c100_s2-2-2_h4_gf50_mid'))
def test_evaluate_takes_the_checkpoint_of_the_original(case, shared_fixtures, capsys, tmp_path):
    """Legacy and zip; the accuracy is that of the logits, and the last line the original's."""
    original = Original(shared_fixtures('dgc'), case)
    config = original.facts['config']
    labels = np.arange(6) % config['num_classes']
    write_records(tmp_path / 'test', noise(6, seed=1), labels.astype(float))
    options = ['--network', 'dydensenet', '--stages', '-'.join(map(str, config['stages'])),
               '--classes', str(config['num_classes'])]
    path = shared_fixtures('dgc') / original.facts['checkpoint']
    data = ['--data', str(tmp_path / 'test.rec')]
    assert evaluate.main([*options, '--params', str(path), *data]) == 0
    printed = capsys.readouterr().out
    top1, top5 = re.search(r' \* Prec@1 (\d+\.\d{3}) Prec@5 (\d+\.\d{3})\n', printed).groups()
    assert 'top-1 %s %%, top-5 %s %%' % (top1, top5) in printed
    net = original.net()
    net.save_parameters(str(tmp_path / 'ours.params'))
    assert evaluate.main([*options, '--params', str(tmp_path / 'ours.params'), *data]) == 0
    assert capsys.readouterr().out == printed


# Bad input


def test_checkpoint_without_its_counts(shared_fixtures, capsys, tmp_path):
    original = Original(shared_fixtures('dgc'), 'dydensenet_c10_s4-4-4_h4_gf25')
    options = ['--network', 'dydensenet', '--stages', '4-4-4', '--data', 'x']
    state = {key: value for key, value in original.file['state_dict'].items()
             if not key.endswith('_inactive_channels')}
    write_torch(tmp_path / 'bad.tar', {**original.file, 'state_dict': state}, 'legacy')
    assert evaluate.main([*options, '--params', str(tmp_path / 'bad.tar')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'bad.tar' in error and '_inactive_channels' in error
    net = original.net()
    write_ndarrays(tmp_path / 'bad.params', {
        name: parameter.data().asnumpy()
        for name, parameter in net._collect_params_with_prefix().items()
        if not name.endswith('inactive_channels')})
    assert evaluate.main([*options, '--params', str(tmp_path / 'bad.params')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'bad.params' in error and 'inactive_channels' in error


@pytest.mark.parametrize('setting, message', (
    (['--heads', '3'], '16 input and 32 output channels do not divide by 3 heads'),
    (['--gate-factor', '0'], 'gate_factor=0.0 must be above 0 and at most 1'),
    (['--gate-factor', '1.5'], 'gate_factor=1.5 must be above 0 and at most 1'),
    (['--heads', '3', '--selection', 'static'], '32 output channels do not divide by 3 heads'),
    (['--gate-factor', '0.01', '--selection', 'static'],
     'gate_factor=0.01 keeps none of 16 channels'),
    (['--gate-factor', '2', '--selection', 'static'], 'must be above 0 and at most 1'),
    (['--selection', 'fixed'], "selection='fixed': must be 'dynamic' or 'static'")))
def test_wrong_settings(setting, message, capsys):
    assert profile.main(['dydensenet', *setting]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error


def test_the_original_has_no_static_form(tmp_path, capsys):
    net = igcnet.get_model('dydensenet', stages='1-1-1', selection='static')
    net.initialize()
    net.save_parameters(str(tmp_path / 'net.params'))
    assert mxnet_to_torch.main(['--network', 'dydensenet', '--stages', '1-1-1', '--selection',
                                'static', '--input', str(tmp_path / 'net.params'), '--output',
                                str(tmp_path / 'net.tar')]) == 2
    assert 'the original has no such form' in capsys.readouterr().err
    with pytest.raises(UsageError, match='no dynamic group convolutions to freeze'):
        freeze(net, 'dydensenet', {}, {})
