"""``evaluate``, ``predict``, ``query_table`` and ``cut`` on slimmable networks; a mutual run."""

import json
import re

import mxnet as mx
import numpy as np
import pytest
from slimmable_cases import SMALL, WRN, close, small
from synthetic import noise, write_records, write_train_and_test

from igcnet.cli import cut, evaluate, predict, query_table, train
from igcnet.cli.common import resolutions, widths
from igcnet.data.augment import find_augmentation
from igcnet.data.reader import EvalReader, TrainReader
from igcnet.deploy import AdaptiveModel
from igcnet.deploy.query_table import read_table
from igcnet.layers.resolution import at_resolution
from igcnet.registry import get_spec
from igcnet.train.calibrate import calibrate, first_batches
from igcnet.train.runlog import read_metrics

NETWORK = ['--network', WRN, '--classes', '4', '--depth', '10', '--widen-factor', '1',
           '--width-mult-range', '0.5,1.0', '--width-mult-list', '0.5,1.0']
PREPROCESSING = get_spec(WRN).preprocessing


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    net = small()
    net.save_parameters(str(folder / 'net.params'))
    write_train_and_test(folder, 30, 11, classes=4)
    return folder, net


def source(folder):
    return [*NETWORK, '--params', str(folder / 'net.params')]


CALIBRATE = ['--calibrate-batches', '2', '--calibrate-batch-size', '8', '--calibrate-seed', '3']


def logits_of(folder, net, width, resolution, calibrated=True, augmentation='mutualnet-cifar'):
    if calibrated:
        reader = TrainReader(folder / 'train.rec', 8, find_augmentation(augmentation, 32, (0,) * 3),
                             3, mean=PREPROCESSING.mean, std=PREPROCESSING.std)
        calibrate(net, first_batches(reader, 2), width, resolution)
    batch = next(iter(EvalReader(folder / 'test.rec', 11, PREPROCESSING)))
    return net(at_resolution(mx.nd.array(batch.images), resolution), width=width).asnumpy()


def loss_of(logits):
    scores = mx.nd.log_softmax(mx.nd.array(logits), axis=1).asnumpy()
    return -scores[np.arange(11), np.arange(11) % 4].mean()


@pytest.mark.parametrize('width, resolution', [(1.0, None), (0.5, None), (0.5, 20)])
def test_evaluate_at_a_width_and_resolution(world, tmp_path, width, resolution):
    folder = world[0]
    argv = [*source(folder), '--data', str(folder / 'test.rec'), '--json',
            str(tmp_path / 'x.json'), '--width', '%g' % width]
    assert evaluate.main(argv + (['--resolution', '%d' % resolution] if resolution else [])) == 0
    expected = loss_of(logits_of(folder, small(), width, resolution, calibrated=False))
    loss = json.loads((tmp_path / 'x.json').read_text())['loss']
    assert loss == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('width, resolution', [(0.8, 24), (0.5, None)])
def test_evaluate_calibrates(world, tmp_path, capsys, width, resolution):
    folder = world[0]
    argv = [*source(folder), '--data', str(folder / 'test.rec'), '--width', '%g' % width,
            *CALIBRATE, '--calibrate', str(folder / 'train.rec'), '--json', str(tmp_path / 'x'),
            *(['--resolution', '%d' % resolution] if resolution else [])]
    losses = {}
    for changes in ([], ['--calibrate-augmentation', 'igc-0'], ['--calibrate-seed', '4'],
                    ['--calibrate-batches', '1'], ['--calibrate-batch-size', '12']):
        assert evaluate.main([*argv, *changes]) == 0
        losses[' '.join(changes)] = json.loads((tmp_path / 'x').read_text())['loss']
    assert losses[''] == pytest.approx(
        loss_of(logits_of(folder, small(), width, resolution)), abs=1e-4)
    assert len(set(losses.values())) == 5  # every option changes something
    assert 'at width %g' % width in capsys.readouterr().out


def test_predict_at_a_width(world, tmp_path):
    folder = world[0]
    x = np.random.RandomState(0).randn(3, 3, 32, 32).astype(np.float32)
    np.savez(tmp_path / 'x.npz', x=x)
    assert predict.main([*source(folder), '--width', '0.5', str(tmp_path / 'x.npz'), '--output',
                         str(tmp_path / 'y.npz')]) == 0
    expected = small()(mx.nd.array(x), width=0.5).asnumpy()
    close(np.load(tmp_path / 'y.npz')['logits'], expected, 1e-5)


def table_arguments(folder, prefix, *more):
    return [*source(folder), '--data', str(folder / 'test.rec'), '--calibrate',
            str(folder / 'train.rec'), *CALIBRATE, '--output', str(prefix),
            '--latency-repeats', '1', *more]


def test_query_table_from_start_to_use(world, tmp_path, capsys):
    folder, net = world
    argv = table_arguments(folder, tmp_path / 'table', '--widths', '0.5:1:0.25', '--resolutions',
                           '32,20')
    assert query_table.main(argv) == 0
    out = capsys.readouterr()
    assert '6 pairs of width and resolution' in out.out and 'best pairs by macs' in out.out
    table = read_table(tmp_path / 'table.json')
    assert {(p.width, p.resolution) for p in table.pairs} == {
        (w, r) for w in (0.5, 0.75, 1.0) for r in (32, 20)}
    assert (tmp_path / 'table.png').exists() and (tmp_path / 'table.csv').exists()
    logits = logits_of(folder, small(), 0.75, 20)
    assert table.find(0.75, 20).loss == pytest.approx(loss_of(logits), abs=1e-4)
    model = AdaptiveModel(folder / 'net.params', tmp_path / 'table.json')
    model.use(0.75, 20)
    batch = next(iter(EvalReader(folder / 'test.rec', 11, PREPROCESSING)))
    close(model(batch.images).asnumpy(), logits, 1e-4)

    assert query_table.main([*argv, '--resolutions', '32,24,20']) == 0  # three are new
    again = capsys.readouterr()
    assert 'has 6 pairs already' in again.out and again.err.count('resolution 24') == 3
    assert 'resolution 20' not in again.err and '9 pairs' in again.out
    assert query_table.main([*argv, '--calibrate-seed', '9']) == 1
    assert 'begun with other calibration' in capsys.readouterr().err
    assert query_table.main([*argv, '--latency-repeats', '2']) == 1
    assert 'begun with other latency' in capsys.readouterr().err
    assert query_table.main([*argv, '--latency-batch-size', '2']) == 1


@pytest.mark.parametrize('more, width, resolution', [
    (['--width', '0.5'], 0.5, None), ([], 1.0, None),
    (['--width', '0.75', '--resolution', '20', '--table', 'table.json'], 0.75, 20),
    (['--width', '0.5', '--table', 'table.json'], 0.5, 32)])
def test_cut(world, tmp_path, capsys, monkeypatch, more, width, resolution):
    """An ordinary network of its own files, equal in outputs."""
    folder, _ = world
    monkeypatch.chdir(tmp_path)
    calibrated = '--table' in more
    if calibrated:
        assert query_table.main(table_arguments(folder, 'table', '--widths', '%g' % width,
                                                '--resolutions', '%d' % resolution)) == 0
    assert cut.main([*source(folder), *more, '--output', 'part/small']) == 0
    assert 'at width %g' % width in capsys.readouterr().out or width == 1.0
    expected = logits_of(folder, small(), width, resolution, calibrated)
    argv = ['--symbol', 'part/small-symbol.json', '--params', 'part/small-0000.params']
    batch = next(iter(EvalReader(folder / 'test.rec', 11, PREPROCESSING)))
    np.savez('x.npz', x=at_resolution(mx.nd.array(batch.images), resolution).asnumpy())
    assert predict.main([*argv, 'x.npz', '--output', 'y.npz']) == 0
    close(np.load('y.npz')['logits'], expected, 1e-4)
    assert evaluate.main([*argv, '--data', str(folder / 'test.rec'), '--json', 'figures.json',
                          '--resolution', '%d' % (resolution or 32)]) == 0
    assert json.loads((tmp_path / 'figures.json').read_text())['loss'] == pytest.approx(
        loss_of(expected), abs=1e-4)
    manifest = json.loads((tmp_path / 'part' / 'small-manifest.json').read_text())
    assert manifest['figures']['width'] == width
    if calibrated:
        assert manifest['figures']['val_loss'] == pytest.approx(loss_of(expected), abs=1e-4)
    if width < 1:
        assert (tmp_path / 'part' / 'small-0000.params').stat().st_size < 0.9 * (
            folder / 'net.params').stat().st_size


def test_a_mutual_run(world, tmp_path):
    """From records to a checkpoint that evaluate and query_table take without being told."""
    folder, _ = world
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text('num_epochs: 1\nbatch_size: 10\nlr: 0.02\nschedule: cosine-torch-1.0\n'
                      'augmentation: mutualnet-cifar\nmethod: mutual\n'
                      'method_settings:\n  resolutions: [32, 20]\n')
    network = [word for word in NETWORK if word not in ('--classes', '4')]
    assert train.main([*network, '--dataset', 'records', '--data-dir', str(folder), '--recipe',
                       str(recipe), '--log-dir', str(tmp_path / 'runs'), '--rand-seed', '1']) == 0
    run, = (tmp_path / 'runs' / 'records' / WRN).iterdir()
    assert run.name == WRN + '_depth10_widen_factor1_width_mult_list0.5-1.0_' \
                             'width_mult_range0.5-1.0_exp1'
    assert train.main(['--resume', str(run), '--num-epochs', '2']) == 0
    assert len(list(run.glob('*-symbol.json'))) == 1  # as the first time, though YAML has lists
    epoch = [m for m in read_metrics(run) if m['event'] == 'epoch'][-1]
    assert {'val_top1', 'val_width_0.5_top1'} <= set(epoch)
    argv = ['--params', str(run), '--data', str(folder / 'test.rec')]
    for more, key in (([], 'val_loss'), (['--width', '0.5'], 'val_width_0.5_loss')):
        assert evaluate.main([*argv, *more, '--json', str(tmp_path / 'x.json')]) == 0
        assert json.loads((tmp_path / 'x.json').read_text())['loss'] == pytest.approx(epoch[key])
    assert query_table.main([*argv, '--calibrate', str(folder / 'train.rec'), *CALIBRATE,
                             '--output', str(tmp_path / 'table'), '--latency-repeats', '1']) == 0
    assert {p.name for p in read_table(tmp_path / 'table.json').pairs} == {'0.5-32', '1.0-32'}


def test_mistakes_are_one_line(world, tmp_path, capsys):
    folder, _ = world
    net, data = source(folder), ['--data', str(folder / 'test.rec')]
    records = ['--calibrate', str(folder / 'train.rec')]
    igc = ['--network', 'resnet_igc', '--params', str(folder / 'net.params')]
    (tmp_path / 'bad.json').write_text('{}')
    cases = [
        (evaluate, [*net, *data, '--width', '0.8'], 2,
         '--width 0.8: .*for the widths 0.5, 1 only; --calibrate RECORDS'),
        (evaluate, [*net, *data, '--width', '0.3'], 2, 'width 0.3: .*from 0.5 to 1'),
        (evaluate, [*net, *data, '--width', 'wide'], 2, "--width: 'wide' is not a number"),
        (evaluate, [*net, *data, '--resolution', '3'], 2, 'resolution 3: .*empty; take at least 4'),
        (evaluate, [*net, *data, '--resolution', '0'], 2, "--resolution: '0' is not a whole"),
        (evaluate, [*net, *data, '--calibrate', str(tmp_path / 'none.rec')], 1, 'none.rec'),
        (evaluate, [*net, *data, *records, '--calibrate-augmentation', 'x'], 2, "augmentation 'x'"),
        (query_table, [*net, *data, *records, '--widths', '0.4,1'], 2, 'width 0.4: .*from 0.5'),
        (query_table, [*net, *data, *records, '--widths', '1:0.5:0.1'], 2, '--widths: .*step'),
        (query_table, [*net, *data, *records, '--resolutions', '32,0'], 2,
         '--resolutions: .*whole'),
        (query_table, [*net, *data, *records, '--resolutions', '2'], 2, 'resolution 2: .*empty'),
        (query_table, [*net, *data, *records, '--width', '1'], 2, 'with --widths'),
        (query_table, [*net, *data], 2, '--calibrate'),
        (cut, [*net, '--output', str(tmp_path / 'x'), '--width', '0.8'], 2, 'width 0.8: has no BN'),
        (cut, [*net, '--output', str(tmp_path / 'x'), '--resolution', '20'], 2, 'with --table'),
        (cut, [*net, '--output', str(tmp_path / 'x'), '--table', str(tmp_path / 'bad.json')], 1,
         'bad.json: not a query table'),
        (cut, [*igc, '--output', str(tmp_path / 'x')], 1, 'does not fit the network'),
    ]
    for command, argv, code, message in cases:
        prefix = ['--output', str(tmp_path / 't')] if command is query_table else []
        assert command.main([*argv, *prefix]) == code, argv
        error = capsys.readouterr().err.strip().split('\n')[-1]
        assert error.startswith('error: ') and re.search(message, error), error


def test_networks_of_one_width_are_refused(tmp_path, capsys):
    import igcnet
    settings = dict(depth=8, primary_partition=2, secondary_partition=2, classes=4)
    net = igcnet.get_model('resnet_igc', **settings)
    net.initialize()
    net.save_parameters(str(tmp_path / 'net.params'))
    write_records(tmp_path / 'test', noise(4), np.arange(4.0))
    igc = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2', '--classes', '4', '--params', str(tmp_path / 'net.params')]
    data = ['--data', str(tmp_path / 'test.rec')]
    records = ['--calibrate', str(tmp_path / 'test.rec')]
    for command, argv, message in (
            (evaluate, [*data, *records], '--calibrate: resnet_igc has one width'),
            (query_table, [*data, *records], 'resnet_igc has one width only'),
            (cut, ['--output', str(tmp_path / 'x')], 'resnet_igc: has one width only')):
        assert command.main([*igc, *argv]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_lists_of_widths_and_resolutions():
    import argparse
    assert widths('0.25:1.0:0.05') == tuple(round(0.25 + 0.05 * i, 2) for i in range(16))
    assert widths('0.7:0.9:0.15') == (0.7, 0.85) and widths('1:1:0.1') == (1.0,)
    assert widths('1,0.5,1') == (1.0, 0.5)
    assert resolutions('224,192,224') == (224, 192)
    for wrong in ('', 'a', '0', '-1', '1:2', '0.1:1:0', '0.1:1:-0.1', '0.1:1:1e-9', 'nan', 'inf',
                  '1:inf:1', '0:1:nan', '0:1:0.1:2'):
        with pytest.raises(argparse.ArgumentTypeError):
            widths(wrong)


def test_small_settings_are_those_of_the_tests():
    """`NETWORK` says what `small` builds."""
    assert SMALL[WRN][0] == dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                                 width_mult_list=(0.5, 1.0))
