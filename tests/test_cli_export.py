"""``tools/export.py``: both forms from every kind of source, and its mistakes."""

import json
import re

import cv2
import mxnet as mx
import numpy as np
import pytest
from networks import trained_looking
from synthetic import noise, write_records

import igcnet
from igcnet.cli import evaluate, export, predict
from igcnet.convert import read_graph, save_original
from igcnet.deploy.mixed_precision import INT8_TOLERANCE
from igcnet.deploy.optimizing import require_same

SETTINGS = dict(depth=8, primary_partition=2, secondary_partition=2, classes=3)
NETWORK = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2', '--classes', '3']
FAST = ['--strategy', 'cheapest+merge']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A trained-looking network in two layouts, prepared images and records."""
    folder = tmp_path_factory.mktemp('world')
    net = trained_looking(igcnet.get_model('resnet_igc', **SETTINGS))
    net.save_parameters(str(folder / 'net.params'))
    save_original(net, str(folder / 'old'), 7)
    x = np.random.RandomState(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    np.savez(folder / 'x.npz', x=x)
    write_records(folder / 'test', noise(6, seed=5), np.arange(6) % 3.0, classes=['a', 'b', 'c'])
    return folder, net(mx.nd.array(x)).asnumpy()


def onnx_needed(form):
    if form == 'onnx':
        pytest.importorskip('onnx')
        pytest.importorskip('onnxruntime')


def files(prefix, form):
    """The options that name exported files."""
    if form == 'onnx':
        return ['--params', '%s.onnx' % prefix]
    return ['--symbol', '%s-symbol.json' % prefix, '--params', '%s-0000.params' % prefix]


def logits_of(options, source, tmp_path):
    output = tmp_path / 'y.npz'
    assert predict.main([*options, str(source), '--output', str(output), '--batch-size', '2']) == 0
    return np.load(output)['logits']


@pytest.mark.parametrize('form', ['symbol', 'onnx'])
@pytest.mark.parametrize('source', ['gluon', 'original', 'exported'])
def test_the_files_compute_the_same(world, tmp_path, capsys, form, source):
    onnx_needed(form)
    folder, logits = world
    given = [*NETWORK, '--params', str(folder / 'net.params')]
    if source == 'original':
        given = ['--symbol', str(folder / 'old-symbol.json'), '--params',
                 str(folder / 'old-0007.params')]
    elif source == 'exported':
        first = tmp_path / 'first'
        assert export.main([*given, '--output', str(first), '--strategy', 'stock']) == 0
        given = files(first, 'symbol')
    prefix = tmp_path / 'net'
    assert export.main([*given, '--output', str(prefix), '--format', form, *FAST,
                        '--explain']) == 0
    text = capsys.readouterr().out
    assert 'batch normalisation folded' in text and 'cheapest+merge' in text
    require_same(logits, logits_of(files(prefix, form), folder / 'x.npz', tmp_path), form)
    manifest = json.loads((tmp_path / 'net-manifest.json').read_text())
    assert manifest['network'] == 'resnet_igc' and manifest['settings']['depth'] == 8
    assert manifest['plan'] == dict.fromkeys(['32x32', '16x16', '8x8'], 'cheapest+merge')


def test_the_symbol_form_is_of_stock_operators(world, tmp_path):
    folder, _ = world
    prefix = tmp_path / 'net'
    assert export.main([*NETWORK, '--params', str(folder / 'net.params'), '--output',
                        str(prefix), *FAST]) == 0
    operators = {node.op for node in read_graph('%s-symbol.json' % prefix).nodes}
    assert operators == {'null', 'Convolution', 'Activation', 'elemwise_add', 'Pooling',
                         'Flatten', 'FullyConnected'}


@pytest.mark.parametrize('form', ['symbol', 'onnx'])
def test_pixels_in_the_graph(world, tmp_path, form):
    """An image file goes through as it did before, the normalisation being in the network."""
    onnx_needed(form)
    folder, _ = world
    cv2.imwrite(str(tmp_path / 'image.png'), noise(1, seed=8)[0])
    given = [*NETWORK, '--params', str(folder / 'net.params')]
    prefix = tmp_path / 'net'
    assert export.main([*given, '--output', str(prefix), '--format', form, '--pixels',
                        *FAST]) == 0
    manifest = json.loads((tmp_path / 'net-manifest.json').read_text())
    assert manifest['preprocessing']['mean'] == [0, 0, 0]
    require_same(logits_of(given, tmp_path / 'image.png', tmp_path),
                 logits_of(files(prefix, form), tmp_path / 'image.png', tmp_path), form)


@pytest.mark.parametrize('form', ['symbol', 'onnx'])
def test_evaluate_reads_them(world, tmp_path, capsys, form):
    onnx_needed(form)
    folder, _ = world
    given = [*NETWORK, '--params', str(folder / 'net.params')]
    prefix = tmp_path / 'net'
    assert export.main([*given, '--output', str(prefix), '--format', form, *FAST]) == 0
    scores = []
    for options in (given, files(prefix, form)):
        path = tmp_path / 'scores.json'
        assert evaluate.main([*options, '--data', str(folder / 'test.rec'), '--json', str(path),
                              '--batch-size', '4']) == 0
        scores.append(json.loads(path.read_text()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize('form', ['symbol', 'onnx'])
@pytest.mark.parametrize('pixels', [[], ['--pixels']])
def test_eight_bits(world, tmp_path, capsys, form, pixels):
    onnx_needed(form)
    folder, _ = world
    given = [*NETWORK, '--params', str(folder / 'net.params')]
    prefix, records = tmp_path / 'net', str(folder / 'test.rec')
    assert export.main([*given, '--output', str(prefix), '--format', form, *FAST, *pixels,
                        '--int8', '--calibration', records, '--calibration-images', '4',
                        '--accuracy', records]) == 0
    text = capsys.readouterr().out
    assert '; 0 layers stay in float32' in text
    assert re.search(r'same class as before for \d+\.\d % of 4 calibration images', text)
    assert re.search(r'before: top-1 .* of 6 images\nafter: top-1 .* of 6 images', text)
    runner = json.loads((tmp_path / 'net-manifest.json').read_text())['runner']
    assert runner == {'symbol': 'mxnet-int8', 'onnx': 'onnxruntime-int8'}[form]
    exact, rounded = (logits_of(options, records, tmp_path)
                      for options in (given, files(prefix, form)))
    assert 0 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize('form', ['symbol', 'onnx'])
def test_a_tolerance_of_eight_bits(world, tmp_path, capsys, form):
    onnx_needed(form)
    folder, _ = world
    given = [*NETWORK, '--params', str(folder / 'net.params')]
    prefix, records = tmp_path / 'net', str(folder / 'test.rec')
    assert export.main([*given, '--output', str(prefix), '--format', form, *FAST, '--explain',
                        '--int8', '--calibration', records, '--int8-tolerance', '1e-5']) == 0
    text = capsys.readouterr().out
    in_float = json.loads((tmp_path / 'net-manifest.json').read_text())['in_float']
    assert len(in_float) > 3 and '; %d layers stay in float32' % len(in_float) in text
    assert all('%s stays in float32: alone' % name in text for name in in_float)
    exact, rounded = (logits_of(options, records, tmp_path)
                      for options in (given, files(prefix, form)))
    assert np.abs(exact - rounded).max() < 1e-4 * np.abs(exact).max()


def test_the_tolerance_that_the_help_names():
    assert '(default: %g)' % INT8_TOLERANCE in ' '.join(
        export.build_parser().format_help().split())


def test_damaged_ranges_are_one_line(world, tmp_path, capsys):
    folder, _ = world
    records = str(folder / 'test.rec')
    assert export.main([*NETWORK, '--params', str(folder / 'net.params'), '--output',
                        str(tmp_path / 'net'), *FAST, '--int8', '--calibration', records]) == 0
    path = tmp_path / 'net-manifest.json'
    manifest = json.loads(path.read_text())
    name = next(iter(manifest['ranges']))
    for damage in [{'ranges': ranges} for ranges in (
            None, 3, {}, {name: 3}, {name: ['a', 'b']}, {name: [0, float('inf')]})] + [
            {'in_float': names} for names in (None, 3, ['other'])]:
        path.write_text(json.dumps({**manifest, **damage}))
        capsys.readouterr()
        assert predict.main([*files(tmp_path / 'net', 'symbol'), str(folder / 'x.npz')]) == 1
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and 'ranges' in error


def test_the_choice_is_measured_and_remembered(world, tmp_path, monkeypatch, capsys):
    from igcnet.deploy import choosing
    folder, _ = world
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    calls = []

    def measured(*arguments):
        calls.append(arguments)
        return choosing.Choice({'32x32': choosing.Strategy('cheapest')}, 'mxnet', 1.5)
    monkeypatch.setattr(choosing, 'choose', measured)
    command = [*NETWORK, '--params', str(folder / 'net.params'), '--output',
               str(tmp_path / 'net')]
    for extra, times in (([], 1), ([], 1), (['--batch-size', '8'], 2), (['--tune'], 3)):
        assert export.main([*command, *extra]) == 0
        assert len(calls) == times
    assert '1.50 times as fast as the stock form' in capsys.readouterr().out
    assert json.loads((tmp_path / 'net-manifest.json').read_text())['plan'] \
        == {'32x32': 'cheapest'}


@pytest.fixture(scope='module')
def slimmable(tmp_path_factory):
    """A network of several widths and its parameter file."""
    folder = tmp_path_factory.mktemp('slimmable')
    net = igcnet.get_model('mobilenet_v1_us', classes=4, width_mult_list=(0.25, 0.5))
    net = trained_looking(net)
    net.save_parameters(str(folder / 'net.params'))
    return folder, net, ['--network', 'mobilenet_v1_us', '--classes', '4', '--width-mult-list',
                         '0.25,0.5', '--params', str(folder / 'net.params')]


def test_a_network_of_several_widths_at_one(slimmable, tmp_path, capsys):
    folder, net, given = slimmable
    x = np.random.RandomState(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    np.savez(tmp_path / 'x.npz', x=x)
    prefix = tmp_path / 'net'
    assert export.main([*given, '--width', '0.5', '--input-size', '64', '--output', str(prefix),
                        *FAST]) == 0
    assert 'width 0.5' in capsys.readouterr().out
    require_same(net(mx.nd.array(x), 0.5).asnumpy(),
                 logits_of(files(prefix, 'symbol'), tmp_path / 'x.npz', tmp_path), '0.5')


def test_dynamic_convolutions_keep_their_gates(tmp_path, capsys):
    net = trained_looking(igcnet.get_model('dydensenet', stages='1-1-1', growth='8-8-8'))
    net.save_parameters(str(tmp_path / 'net.params'))
    assert export.main(['--network', 'dydensenet', '--stages', '1-1-1', '--growth', '8-8-8',
                        '--params', str(tmp_path / 'net.params'), '--output',
                        str(tmp_path / 'net'), *FAST]) == 0
    assert 'gates' in capsys.readouterr().out
    assert any(node.op == 'sort' for node in read_graph(tmp_path / 'net-symbol.json').nodes)


@pytest.mark.parametrize('options, code, words', [
    ([], 2, ['--output']),
    (['--output', 'x', '--format', 'tflite'], 2, ['tflite']),
    (['--output', 'x', '--strategy', 'fastest'], 2, ['fastest', 'cheapest']),
    (['--output', 'x', '--strategy', 'cheapest', '--tune'], 2, ['--tune', 'cheapest']),
    (['--output', 'x', '--input-size', '0'], 2, ['--input-size']),
    (['--output', 'x', '--width', '0.5', '--strategy', 'leave'], 2, ['width']),
    (['--output', 'x', '--int8'], 2, ['--calibration']),
    (['--output', 'x', '--calibration', 'x.rec'], 2, ['--int8']),
    (['--output', 'x', '--int8-tolerance', '0.1'], 2, ['--int8']),
    (['--output', 'x', '--int8-tolerance', '0'], 2, ['--int8-tolerance']),
    (['--output', 'x', *FAST, '--int8', '--calibration', 'none.rec'], 1, ['none.rec']),
    (['--output', 'x', '--params', 'net.onnx'], 2, ['net.onnx']),
    (['--output', 'x', '--params', 'none.params'], 1, ['none.params'])])
def test_mistakes_are_one_line(world, tmp_path, monkeypatch, capsys, options, code, words):
    folder, _ = world
    monkeypatch.chdir(tmp_path)
    assert export.main([*NETWORK, '--params', str(folder / 'net.params'), *options]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ') and captured.err.count('\n') == 1, captured.err
    for word in words:
        assert word in captured.err
    assert not list(tmp_path.glob('x*'))


def test_an_onnx_file_takes_no_network(world, tmp_path, capsys):
    folder, _ = world
    assert predict.main([*NETWORK, '--params', 'net.onnx', str(folder / 'x.npz')]) == 2
    assert '--network' in capsys.readouterr().err

