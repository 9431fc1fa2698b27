"""``benchmarks/cifar10_results.py`` and its picture, on two tiny runs."""

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import REPO
from synthetic import noise, write_records

import igcnet
from igcnet.cli import train
from igcnet.deploy import bench
from igcnet.errors import UsageError
from igcnet.profiling import profile
from igcnet.train.runlog import read_epochs, read_speeds

sys.path[:0] = [str(REPO / 'benchmarks'), str(REPO / 'docs' / 'figures')]

cifar10_results, cifar10_runs = map(importlib.import_module, ('cifar10_results', 'cifar10_runs'))

IGC = ['resnet_igc', '--depth', '8', '--primary-partition', '2', '--secondary-partition', '2']
OTHER = ['densenet', '--stages', '1-1-1', '--growth', '4-4-4', '--recipe', 'modern', '--set',
         'ema_decay=0.5']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Folders of a run of the IGC family and of one of the others."""
    folder = tmp_path_factory.mktemp('runs')
    for name, count in (('train', 20), ('test', 10)):
        write_records(folder / name, noise(count, seed=count), np.arange(count) % 10.0)
    for network, epochs in ((IGC, '3'), (OTHER, '1')):
        assert train.main(['--network', *network, '--data-dir', str(folder), '--log-dir',
                           str(folder / 'logs'), '--num-epochs', epochs, '--batch-size', '10',
                           '--rand-seed', '3', '--log-iters', '1', '--threads', '1']) == 0
    return cifar10_results.run_folders(folder / 'logs')


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_run_folders(runs, tmp_path):
    assert [run.parent.name for run in runs] == ['densenet', 'resnet_igc']
    assert cifar10_results.run_folders(runs[0]) == [runs[0]]
    with pytest.raises(UsageError, match='neither a run nor'):
        cifar10_results.run_folders(tmp_path)


def test_table_and_commands(runs):
    other, igc = found = [cifar10_results.read_run(folder) for folder in runs]
    latencies = [cifar10_results.Latency(6.0, 1.5, 'MXNet optimised'),
                 cifar10_results.Latency(3.0, 2.0, 'ONNX Runtime optimised')]
    lines = cifar10_results.report(found, latencies, threads=2).splitlines()
    assert {len(cells(line)) for line in lines[:4]} == {len(cifar10_results.COLUMNS)}
    rows = [dict(zip(cifar10_results.COLUMNS, cells(line))) for line in lines[2:4]]
    epochs = read_epochs(igc.folder)
    counted = profile(igcnet.get_model('resnet_igc', depth=8, primary_partition=2,
                                       secondary_partition=2), (1, 3, 32, 32))
    best = max(epochs, key=lambda row: row['val_top1'])
    assert rows[1] == {
        'network': '`resnet_igc_d8L2M2`', 'parameters': '{:,}'.format(counted.parameters),
        'multiply-adds': '{:,}'.format(counted.macs),
        'epochs': '3', 'recipe': '`igc-cifar`, batch_size=10', 'seed': '3',
        'top-1, last': '%.2f %%' % (100 * epochs[-1]['val_top1']),
        'top-1, best (epoch)': '%.2f %% (%d)' % (100 * best['val_top1'], best['epoch']),
        'training images/s': '%.0f (1 thread, stock)' % np.median(read_speeds(igc.folder)),
        'stock ms': '3.00', 'optimised ms': '2.00 (ONNX Runtime)', 'ratio': '1.5'}
    assert rows[0]['top-1, last'] == '%.2f %%' % (
        100 * read_epochs(other.folder)[-1]['val_ema_top1'])
    assert rows[0]['ratio'] == '4.0' and 'ema_decay=0.5' in rows[0]['recipe']
    text = '\n'.join(lines)
    assert 'on 10 validation images' in text and '2 threads' in text
    assert 'igcnet train --network resnet_igc --depth 8' in text
    assert str(igc.folder.parent.parent.parent) not in text
    without = cifar10_results.report(found, None, 1)
    assert cells(without.splitlines()[2])[-3:] == ['-'] * 3 and 'Latency' not in without


def test_a_run_that_goes_on(runs, tmp_path):
    """Fewer epochs than the run is to have, a half-written line of the timing, no epoch yet."""
    folder = tmp_path / 'run'
    shutil.copytree(str(runs[1]), str(folder))
    metrics = (folder / 'metrics.jsonl').read_text().splitlines()
    ends = [n for n, line in enumerate(metrics, 1) if json.loads(line)['event'] == 'epoch']
    (folder / 'metrics.jsonl').write_text('\n'.join(metrics[:ends[1]]) + '\n')
    with open(str(folder / 'timing.jsonl'), 'a') as file:
        file.write('{"event": "tr\n')
    found = cifar10_results.read_run(folder)
    assert cifar10_results.row(found, None)[3] == '2 of 3'
    assert found.speeds == read_speeds(runs[1]) and len(found.speeds) == 6
    (folder / 'metrics.jsonl').write_text(metrics[0] + '\n')
    with pytest.raises(UsageError, match='no epoch has ended'):
        cifar10_results.read_run(folder)


def test_latency_of_both_forms(runs, monkeypatch, capsys):
    """The optimised form counts that is there; choosing how to compute it takes too long here."""
    def missing(net, size, batch_size):
        raise UsageError('not installed')
    monkeypatch.setitem(bench.FORMS, 'MXNet optimised', bench.mxnet_stock)
    monkeypatch.setitem(bench.FORMS, 'igcnet engine', missing)
    monkeypatch.setitem(bench.FORMS, 'ONNX Runtime optimised', missing)
    found = [cifar10_results.read_run(folder) for folder in runs]
    latencies = cifar10_results.measure(found, rounds=1, seconds=0)
    assert len(latencies) == 2 and 'left out: not installed' in capsys.readouterr().err
    for latency in latencies:
        assert latency.stock > 0 and latency.optimised > 0 and latency.form == 'MXNet optimised'


def test_the_picture(runs, tmp_path):
    igc, other = cifar10_runs.make_figure(runs).axes
    assert (igc.get_title(), other.get_title()) == cifar10_runs.PANELS
    line, = igc.get_lines()
    rows = read_epochs(runs[1])
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(line.get_ydata(), [100 * row['val_top1'] for row in rows])
    assert line.get_label() == 'resnet_igc_d8L2M2, seed 3'
    np.testing.assert_allclose(other.get_lines()[0].get_ydata(),
                               100 * read_epochs(runs[0])[0]['val_ema_top1'])
    assert len(cifar10_runs.make_figure(runs[:1]).axes) == 1
    path = cifar10_runs.draw(runs, tmp_path / 'picture.png')
    assert path.read_bytes().startswith(b'\x89PNG')


def test_the_command(runs, tmp_path, capsys):
    assert cifar10_results.main([str(runs[1]), '--no-latency', '--figure', str(tmp_path / 'p.png'),
                                 '--output', str(tmp_path / 'table.md')]) == 0
    assert (tmp_path / 'p.png').is_file() and not capsys.readouterr().out
    assert (tmp_path / 'table.md').read_text().startswith('| network |')
