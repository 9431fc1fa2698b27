"""``igcnet bench``: its table and files; speeds themselves are not for tests."""

import json

import numpy as np
import pytest
from networks import trained_looking

import igcnet
from igcnet.cli import bench as command
from igcnet.deploy import bench as benching
from igcnet.deploy.bench import FORMS, NAIVE, STOCK, Bench, Timing, bench, format_bench
from igcnet.deploy.model import Model
from igcnet.deploy.optimizing import require_same
from igcnet.errors import UsageError

NETWORK = ['resnet_igc', '--depth', '8', '--primary-partition', '2', '--secondary-partition', '2']


def test_the_words_of_the_option_name_all_forms():
    assert list(command.FORMS.values()) == list(FORMS)


@pytest.mark.parametrize('form', ['PyTorch eager', 'PyTorch channels_last', STOCK, NAIVE])
def test_forms_compute_the_same(form):
    pytest.importorskip('torch' if 'PyTorch' in form else 'onnxruntime')
    net = trained_looking(igcnet.get_model('igcv3', width=0.25, deep=False))
    x = np.random.RandomState(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    expected = benching.mxnet_stock(net, 32, 2)(x)
    require_same(expected, FORMS[form](net, 32, 2)(x), form)


def test_table_json_and_plot(tmp_path, capsys, monkeypatch):
    """With a stand-in for the one form whose making is measured."""
    monkeypatch.setitem(FORMS, 'MXNet optimised', FORMS[STOCK])
    plot, values = tmp_path / 'bars.png', tmp_path / 'values.json'
    assert command.main([*NETWORK, '--forms', 'stock,mxnet', '--batch-sizes', '1,3', '--rounds',
                         '1', '--json', str(values), '--plot', str(plot)]) == 0
    text = capsys.readouterr().out
    for word in ('MXNet stock', 'MXNet optimised', 'batch 3', 'threads', 'x stock'):
        assert word in text
    found = json.loads(values.read_text())
    assert [(t['form'], t['batch_size']) for t in found['timings']] == [
        (form, size) for size in (1, 3) for form in (STOCK, 'MXNet optimised')]
    assert found['macs'] == Model.of(trained_looking(igcnet.get_model(
        'resnet_igc', depth=8, primary_partition=2, secondary_partition=2))).macs()
    assert plot.stat().st_size > 5000


def test_a_rival_that_fails_is_left_out_with_a_line(monkeypatch):
    def missing(*arguments):
        raise UsageError('PyTorch is not installed')

    def broken(*arguments):
        raise RuntimeError('its compiler\nis broken')
    monkeypatch.setitem(FORMS, 'PyTorch eager', missing)
    monkeypatch.setitem(FORMS, 'PyTorch compiled', broken)
    net = trained_looking(igcnet.get_model('resnet_igc', depth=8, primary_partition=2,
                                           secondary_partition=2))
    result = bench(net, 'x', batch_sizes=(1,), rounds=1, seconds=0,
                   forms=(STOCK, 'PyTorch eager', 'PyTorch compiled'))
    assert [timing.form for timing in result.timings] == [STOCK]
    text = format_bench(result)
    assert 'left out: PyTorch eager (PyTorch is not installed)' in text
    assert 'RuntimeError: its compiler)' in text
    monkeypatch.setitem(FORMS, STOCK, broken)
    with pytest.raises(RuntimeError):  # ours must work
        bench(net, 'x', batch_sizes=(1,), rounds=1, seconds=0, forms=(STOCK,))


def test_ratios():
    result = Bench('x', (3, 4, 4), 100, [Timing('a', 1, 0.5, 0), Timing('b', 1, 2.0, 0)], {}, 1e3,
                   {'threads': 1})
    assert result.ratio('a', 'b', 1) == 4
    assert result.ratio('a', 'b', 8) is None and result.ratio('a', 'c', 1) is None
    assert '20 %' in format_bench(result)  # 100 multiply-adds in half a second, of 1000 a second


@pytest.mark.parametrize('options, word', [
    (['--forms', 'stock,tvm'], 'tvm'), (['--batch-sizes', '0'], 'batch-sizes'),
    (['--plot', 'x.txt'], '.png'), (['--input-size', 'x'], 'input-size')])
def test_mistakes_are_one_line(capsys, options, word):
    assert command.main([*NETWORK, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and word in error
