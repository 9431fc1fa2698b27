"""Where a step's time goes: every layer once, in order, and what the command prints."""

import json

import numpy as np
import pytest
from synthetic import noise, write_records

import igcnet
from igcnet import native
from igcnet.cli.profile import main
from igcnet.profiling import format_times, time_step
from igcnet.train.optimizer import Nesterov

SMALL = dict(depth=8, primary_partition=2, secondary_partition=2)
OPTIONS = ['plain_igc', '--depth', '5', '--primary-partition', '2', '--secondary-partition', '2',
           '--time', '--batch-size', '2', '--rounds', '1', '--threads', '1']


def timed(lowering):
    net = igcnet.get_model('resnet_igc', **SMALL)
    net.initialize()
    net.set_lowering(lowering)
    return time_step(net, Nesterov(learning_rate=0.01), 2, 32, rounds=1)


def test_parts_and_layers():
    times = timed('stock')
    assert list(times.parts) == ['forward', 'backward', 'optimiser']
    names = [layer.name for layer in times.layers]
    assert names[:3] == ['features.g0.conv', 'features.g0.bn', 'features.g0.relu']
    assert names[-1] == 'output' and len(set(names)) == len(names)
    assert 'features.g2.b1.shortcut.conv' in names and 'features.g2.b1.add' in names
    for values in (times.parts.values(), *((t.forward, t.backward) for t in times.layers)):
        assert all(np.isfinite(value) and value > 0 for value in values)
    text = format_times(times)
    assert 'features.g3.b1.unit2.conv2' in text and 'all layers' in text


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_units_that_compute_themselves_are_layers():
    names = [layer.name for layer in timed('native').layers]
    assert 'features.g1.b1.unit1' in names and 'features.g1.b1.unit1.conv1' not in names


def test_command(capsys, tmp_path):
    write_records(tmp_path / 'train', noise(8), [0.0] * 8, classes=['a'])
    assert main([*OPTIONS, '--json', '--lowering', 'blocked', '--data',
                 str(tmp_path / 'train.rec')]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['lowering'] == 'blocked' and found['batch_size'] == 2
    assert list(found['parts']) == ['reading', 'forward', 'backward', 'optimiser']
    assert main(OPTIONS) == 0
    assert 'lowering stock, batch 2 of 32x32, 1 threads' in capsys.readouterr().out


@pytest.mark.parametrize('argv, message', [
    (['plain_igc', '--lowering', 'native'], '--lowering goes with --time only'),
    (['plain_igc', '--rounds', '2'], '--rounds goes with --time only'),
    (['plain_igc', '--time', '--csv'], '--time goes with neither')])
def test_options_that_do_not_fit(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err
