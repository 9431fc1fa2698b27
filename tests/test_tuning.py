"""The measured choice of a lowering: the fastest, remembered by what it depends on."""

import json

import mxnet as mx
import pytest
from synthetic import noise, write_records

from igcnet.errors import UsageError
from igcnet.train import tuning

SMALL = dict(depth=8, primary_partition=2, secondary_partition=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, 'cache_folder', lambda: tmp_path)
    return tmp_path / 'tuned.json'


def choose(batch=2):
    return tuning.fastest_lowering('resnet_igc', SMALL, batch, 32, mx.cpu())


def test_the_fastest_is_taken_and_remembered(cache, monkeypatch):
    calls = []

    def measured(*arguments):
        calls.append(arguments)
        return {'stock': 2.0, 'blocked': 1.0 + len(calls), 'native': 3.0}
    monkeypatch.setattr(tuning, 'measure', measured)
    assert choose() == 'stock'
    assert choose() == 'stock' and len(calls) == 1
    assert choose(batch=4) == 'stock' and len(calls) == 2
    assert list(json.loads(cache.read_text()).values()) == ['stock', 'stock']


@pytest.mark.parametrize('content', ['', '[1]', '{"x": 3}', '{'])
def test_a_damaged_file_is_measured_again(cache, monkeypatch, content):
    cache.write_text(content)
    monkeypatch.setattr(tuning, 'measure', lambda *arguments: {'blocked': 1.0})
    assert choose() == 'blocked'


def test_a_real_measurement():
    seconds = tuning.measure('resnet_igc', SMALL, 2, 32, mx.cpu(), ('stock', 'blocked'))
    assert set(seconds) == {'stock', 'blocked'} and min(seconds.values()) > 0


def test_the_trainer_asks_for_it(monkeypatch, tmp_path):
    """``--tune`` sets the lowering of the run; ``--lowering`` beside it is refused."""
    from igcnet.cli import train as cli
    from igcnet.train import run
    from igcnet.train.recipes import default_recipe, load_recipe
    from igcnet.train.settings import RunSettings
    settings = RunSettings('resnet_igc', load_recipe(default_recipe('cifar10')))
    assert cli._changed(settings, {'tune': True}).tune
    assert not cli._changed(cli._changed(settings, {'tune': True}), {'lowering': 'stock'}).tune
    with pytest.raises(UsageError, match='leave --lowering out'):
        cli._changed(settings, {'tune': True, 'lowering': 'native'})

    def chosen(network, given, batch, size, context):
        assert (network, batch, size) == ('resnet_igc', 4, 32)
        raise InterruptedError('asked')
    monkeypatch.setattr(run, 'fastest_lowering', chosen)
    write_records(tmp_path / 'train', noise(8), [0.0, 1.0] * 4, classes=['a', 'b'])
    write_records(tmp_path / 'test', noise(8), [0.0, 1.0] * 4, classes=['a', 'b'])
    with pytest.raises(InterruptedError):
        run.train(settings.changed(tune=True, dataset='records', data_dir=str(tmp_path), cpus=2,
                                   batch_size=8, log_dir=str(tmp_path)))
