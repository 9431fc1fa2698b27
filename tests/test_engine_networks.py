"""Networks by the inference engine: optimised, exported, and as the originals compute them."""

import json

import mxnet as mx
import numpy as np
import pytest
from networks import trained_looking

import igcnet
from igcnet.cli import bench, evaluate, export, predict, torch_to_mxnet
from igcnet.convert import load_network
from igcnet.convert.torch_convert import family_of, load_torch
from igcnet.deploy import choosing, optimize, optimized_files, runners
from igcnet.deploy.choosing import Choice, choose
from igcnet.deploy.model import Model
from igcnet.deploy.optimizing import require_same
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.rewrites.training_parts import remove_training_parts
from igcnet.deploy.runners import native_runner
from igcnet.errors import UsageError
from igcnet.native.library import engine_missing

needs_engine = pytest.mark.skipif(engine_missing() is not None, reason=str(engine_missing()))
SETTINGS = dict(depth=8, primary_partition=2, secondary_partition=2, classes=3)
NETWORK = [word for name, value in SETTINGS.items()
           for word in ('--' + name.replace('_', '-'), str(value))]


@pytest.fixture(scope='module')
def net():
    return trained_looking(igcnet.get_model('resnet_igc', **SETTINGS))


def images(net, count, size):
    return np.random.RandomState(count).standard_normal((count, 3, size, size)).astype(np.float32)


@needs_engine
@pytest.mark.parametrize('size', [32, 45, 38])
def test_any_batch_of_images_of_any_size(net, size):
    run = optimize(net, 'native', size, strategy='leave').runner()
    x = images(net, 33, size)
    expected = net(mx.nd.array(x)).asnumpy()
    for count in (1, 2, 5, 33):
        require_same(expected[:count], run(x[:count]), '%d images' % count)
    with pytest.raises(UsageError, match=str(size)):
        run(x[:, :, 1:])


@needs_engine
@pytest.mark.parametrize('name, settings', [
    ('igcv3', dict(width=0.25, deep=False)), ('menet108_8x1_g3', dict(block_layers=(1, 1, 1))),
    ('dydensenet', dict(stages='2-2-2', growth='8-8-8', selection='static'))])
@pytest.mark.parametrize('strategy', ['leave', 'cheapest+merge+pad'])
def test_families(name, settings, strategy):
    net = trained_looking(igcnet.get_model(name, **settings))
    x = images(net, 2, net.input_size)
    require_same(net(mx.nd.array(x)).asnumpy(),
                 optimize(net, 'native', strategy=strategy).runner()(x), name)


@needs_engine
def test_the_explanation_says_what_was_compiled(net):
    text = optimize(net, 'native', strategy='leave').explain()
    assert 'run by native' in text and '15 Convolution' in text and '12 of 32x32' in text


@needs_engine
def test_a_program_of_other_logits_is_refused(net, monkeypatch):
    wrong = {**runners.RUNNERS, 'native': lambda model: lambda x: 1 + native_runner(model)(x)}
    monkeypatch.setattr('igcnet.deploy.optimizing.RUNNERS', wrong)
    with pytest.raises(igcnet.errors.CheckpointError, match='the engine'):
        optimize(net, 'native', strategy='leave')


def pretend(monkeypatch, seconds, built=True):
    """Let `seconds` by runner be the time that it takes."""
    monkeypatch.setattr(runners, 'engine_missing', lambda: None if built else 'not built')
    monkeypatch.setattr(choosing, 'RUNNERS', {
        name: lambda model, name=name: name for name in runners.RUNNERS})
    monkeypatch.setattr(choosing, 'compare', lambda one, other, images, rounds=0:
                        seconds[one] / seconds[other])


SECONDS = {'mxnet': 3.0, 'mxnet-fused': 2.0, 'native': 1.0}


def chosen(net, target='mxnet', report=lambda line: None):
    stock = Model.of(net)
    return choose(stock, fold_batch_norms(stock), target, 1, report=report)


def test_the_engine_is_chosen_where_it_is_faster(net, monkeypatch):
    pretend(monkeypatch, SECONDS)
    choice = chosen(net)
    assert (choice.runner, choice.speedup) == ('native', 3.0)
    assert {strategy.text() for strategy in choice.plan.values()} == {'leave'}
    assert chosen(net, 'mxnet-alone').runner == 'mxnet-fused'
    pretend(monkeypatch, {**SECONDS, 'native': 2.5})
    assert chosen(net).runner == 'mxnet-fused'
    # Who asks for the engine gets it, and the truth.
    pretend(monkeypatch, {**SECONDS, 'native': 4.0})
    assert chosen(net, 'native')[1:] == ('native', 0.75)
    assert chosen(net) == Choice(chosen(net).plan, 'mxnet-fused', 1.5)


def test_an_engine_that_is_not_built_is_not_tried(net, monkeypatch):
    pretend(monkeypatch, SECONDS, built=False)
    assert chosen(net).runner == 'mxnet-fused'


def test_what_has_no_native_form_is_left_to_mxnet(monkeypatch):
    pretend(monkeypatch, SECONDS)
    monkeypatch.setitem(choosing.RUNNERS, 'native', native_runner)
    net = trained_looking(igcnet.get_model('dydensenet', stages='1-1-1', growth='8-8-8'))
    lines = []
    assert chosen(net, report=lines.append).runner == 'mxnet-fused'
    assert sum('no native form' in line for line in lines) == 1
    with pytest.raises(UsageError, match='no native form'):
        chosen(net, 'native')


def test_few_strategies_are_tried_for_the_engine(net, monkeypatch):
    tried = []
    pretend(monkeypatch, SECONDS)
    monkeypatch.setattr(choosing, 'apply_plan', lambda model, plan: tried.append(
        {strategy.text() for strategy in plan.values()}) or model)
    chosen(net, 'native')
    assert len(tried) == 3 * (1 + 3)  # for the whole network and for each of its stages
    assert all(text == 'leave' or 'join' in text for texts in tried for text in texts)


def test_targets_that_do_not_exist(net):
    with pytest.raises(UsageError, match='native'):
        optimize(net, 'tvm')
    with pytest.raises(UsageError, match='eight bits'):
        optimize(net, 'native', calibration=[images(net, 1, 32)])


@pytest.fixture
def exported(net, tmp_path):
    """An exported network that the engine is to run, images, and their logits."""
    net.save_parameters(str(tmp_path / 'net.params'))
    x = images(net, 5, 32)
    np.savez(tmp_path / 'x.npz', x=x)
    assert export.main(['--network', 'resnet_igc', *NETWORK, '--params',
                        str(tmp_path / 'net.params'), '--output', str(tmp_path / 'net'),
                        '--engine', 'always', '--strategy', 'leave']) == 0
    assert json.loads((tmp_path / 'net-manifest.json').read_text())['runner'] == 'native'
    return ['--symbol', str(tmp_path / 'net-symbol.json'), '--params',
            str(tmp_path / 'net-0000.params')], tmp_path, net(mx.nd.array(x)).asnumpy()


def predicted(options, folder):
    assert predict.main([*options, str(folder / 'x.npz'), '--output', str(folder / 'y.npz'),
                         '--batch-size', '2']) == 0
    return np.load(folder / 'y.npz')['logits']


@needs_engine
def test_an_exported_network_is_run_by_the_engine(exported, monkeypatch, capsys):
    options, folder, expected = exported
    calls = []

    def counted(model):
        run = native_runner(model)
        return lambda x: calls.append(len(x)) or run(x)
    monkeypatch.setattr(optimized_files, 'native_runner', counted)
    require_same(expected, predicted(options, folder), 'the engine')
    assert calls == [2, 2, 1]
    assert capsys.readouterr().err == ''


@needs_engine
def test_mxnet_takes_its_place_where_it_is_not_built(exported, monkeypatch, capsys):
    options, folder, expected = exported

    def missing(*arguments):
        raise igcnet.errors.IgcnetError('the inference engine is not built: do this')
    monkeypatch.setattr(runners, 'Engine', missing)
    require_same(expected, predicted(options, folder), 'MXNet')
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'MXNet in place of' in error and 'do this' in error


@needs_engine
def test_images_of_another_size_are_one_line(exported, capsys):
    options, folder, _ = exported
    np.savez(folder / 'x.npz', x=np.zeros((1, 3, 40, 40), np.float32))
    assert predict.main([*options, str(folder / 'x.npz')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and '32' in error


def test_the_engine_runs_no_onnx_file(tmp_path, capsys):
    assert export.main(['--network', 'resnet_igc', *NETWORK, '--params', 'x', '--output', 'x',
                        '--engine', 'always', '--format', 'onnx']) == 2
    assert '--engine' in capsys.readouterr().err


@needs_engine
def test_bench_knows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert bench.main(['resnet_igc', *NETWORK, '--forms', 'stock,native', '--batch-sizes', '1',
                       '--rounds', '1']) == 0
    assert 'igcnet engine' in capsys.readouterr().out


@needs_engine
def test_the_originals_igc_networks(shared_fixtures):
    folder, count = shared_fixtures('igc'), 0
    for path in sorted(folder.glob('*.npz')):
        case = json.loads(path.with_suffix('.json').read_text())
        if 'symbol' not in case or 'logits' not in np.load(path).files:
            continue
        stored = np.load(path)
        net = load_network(symbol=folder / case['symbol'], params=folder / case['checkpoint'])
        run = native_runner(fold_batch_norms(Model.of(net, stored['x'].shape[-1])))
        require_same(stored['logits'], run(stored['x']), case['case'])
        count += 1
    assert count >= 7


@needs_engine
def test_the_originals_igcv3(shared_fixtures):
    folder = shared_fixtures('igcv3')
    facts = json.loads((folder / 'igcv3_cifar10_w0.5.json').read_text())
    config, stored = facts['config'], np.load(folder / 'igcv3_cifar10_w0.5.npz')
    net = igcnet.get_model('igcv3', width=config['width_multiplier'],
                           downsampling=config['downsampling'], classes=config['num_classes'])
    load_torch(net, family_of(igcnet.get_spec('igcv3')), folder / facts['checkpoint'])
    run = native_runner(fold_batch_norms(remove_training_parts(Model.of(net))))
    require_same(stored['logits'], run(stored['x']), 'igcv3')


@needs_engine
def test_the_released_menet_on_photographs(shared_fixtures, tmp_path):
    """Every arg-max of the original on its 100 photographs, by the engine."""
    folder = shared_fixtures('menet')
    facts = json.loads((folder / 'menet128_g4_images.json').read_text())
    prefix, data = str(tmp_path / 'menet'), str(folder / 'images')
    assert torch_to_mxnet.main(['--network', 'menet128_8x1_g4', '--input',
                                str(folder / facts['checkpoint']), '--output', prefix]) == 0
    given = ['--symbol', prefix + '-symbol.json', '--params', prefix + '-0000.params']
    assert export.main([*given, '--output', prefix, '--engine', 'always',
                        '--strategy', 'leave']) == 0
    assert evaluate.main([*given, '--data', data, '--labels', data + '/labels.tsv', '--json',
                          str(tmp_path / 'figures.json'), '--batch-size', '25']) == 0
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['images'] == 100
    assert round(figures['top1'] * 100) == facts['top1_correct']
    assert round(figures['top5'] * 100) == facts['top5_correct']
