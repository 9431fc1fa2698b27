"""``tools/train.py``: overrides of the recipe, fine-tuning, distillation."""

import re

import numpy as np
import pytest
import yaml
from synthetic import write_train_and_test
from test_cli_train import NETWORK, arguments, run_of, same, weights

from igcnet.cli import train as cli
from igcnet.convert import load_network, read_ndarrays
from igcnet.train.runlog import read_metrics

pytestmark = pytest.mark.usefixtures('without_curves')
DENSE = ['--network', 'resnet', '--depth', '8', '--primary-partition', '2']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """24 training and 5 test images of three classes."""
    return write_train_and_test(tmp_path_factory.mktemp('data'), 24, 5)


@pytest.fixture(scope='module')
def pretrained(data, tmp_path_factory):
    """A network for seven classes, as a file."""
    folder = tmp_path_factory.mktemp('pretrained')
    assert cli.main(arguments(data, folder, '--num-epochs', '1', '--classes', '7')) == 0
    return run_of(folder) / 'checkpoints' / '0001' / 'net.params'


def start(run):
    """The configuration of a run."""
    return yaml.safe_load((run / 'config.yaml').read_text())['run']


def test_overrides_are_printed_written_and_have_an_effect(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path)) == 0
    plain = weights(run_of(tmp_path), '0002')
    options = ['--recipe', 'menet-rmsprop', '--set', 'lr_per=16', 'decay=weights',
               'optimizer_settings.epsilon=0.5', '--set', 'wd_mult.fc_*=0.5',
               '--augmentation', 'igc-1']
    assert cli.main(arguments(data, tmp_path, '--set', 'init=menet-fan-out')) == 0
    assert not same(plain, weights(run_of(tmp_path, 2), '0002'))
    capsys.readouterr()
    assert cli.main(arguments(data, tmp_path, *options)) == 0
    out = capsys.readouterr().out
    assert 'learning rate: 0.05 for 16 images, so 0.025 for a total batch of 8' in out
    assert "optimizer_settings={'alpha': 0.9, 'epsilon': 0.5, 'centered': False}" in out
    assert 'training strategy: lr=0.025000, step=[]' in out
    recipe = start(run_of(tmp_path, 3))['recipe']
    assert recipe['wd_mult'] == {'fc_*': 0.5} and recipe['decay'] == 'weights'
    assert not same(plain, weights(run_of(tmp_path, 3), '0002'))
    assert cli.main(['--resume', str(run_of(tmp_path, 3)), '--num-epochs', '3',
                     '--set', 'optimizer_settings.alpha=0.8']) == 0


def test_averaged_weights_are_what_is_exported(data, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--set', 'ema_decay=0.5')) == 0
    run = run_of(tmp_path)
    stem = str(run / 'resnet_igc_d8L2M2')
    exported = read_ndarrays(stem + '-0000.params')['arg:fc_weight']
    last = weights(run, '0002')['output.weight']
    assert np.abs(exported - last).max() > 1e-5
    numbers = read_metrics(run)[-1]
    assert numbers['val_ema_loss'] != numbers['val_loss']
    assert 'the averaged weights' in capsys.readouterr().out
    manifest = yaml.safe_load((run / 'resnet_igc_d8L2M2-manifest.json').read_text())
    assert '%.6f' % numbers['val_ema_loss'] in '%s' % {
        key: '%.6f' % value for key, value in manifest['figures'].items()
        if key.startswith('val_')}


def test_fine_tuning_takes_all_but_the_classifier(data, pretrained, tmp_path, capsys):
    options = ['--pretrained', str(pretrained), '--freeze', 'g?_*', '--lr', '0.5']
    assert cli.main(arguments(data, tmp_path, *options)) == 0
    run = run_of(tmp_path)
    first, last = read_ndarrays(pretrained), weights(run, '0002')
    for name, value in first.items():
        if name.startswith('features'):
            np.testing.assert_array_equal(last[name], value, err_msg=name)
    assert first['output.weight'].shape[0] == 7 and last['output.weight'].shape[0] == 3
    assert re.search(r'frozen: \d+ of \d+ parameter arrays', capsys.readouterr().out)
    assert start(run)['freeze'] == ['g?_*'] and start(run)['pretrained'] == str(pretrained)
    stem = str(run / 'resnet_igc_d8L2M2')
    load_network(symbol=stem + '-symbol.json', params=stem + '-0000.params')
    # The file is not needed to go on, and what is frozen stays so.
    assert cli.main(['--resume', str(run), '--num-epochs', '3']) == 0
    np.testing.assert_array_equal(weights(run, '0003')['features.g0.conv.weight'],
                                  first['features.g0.conv.weight'])
    assert not same(weights(run, '0003'), last)


def test_without_freezing_everything_learns_from_the_pretrained_weights(data, pretrained,
                                                                        tmp_path):
    assert cli.main(arguments(data, tmp_path, '--pretrained', str(pretrained), '--lr',
                              '1e-12')) == 0
    first, last = read_ndarrays(pretrained), weights(run_of(tmp_path), '0002')
    np.testing.assert_allclose(last['features.g0.conv.weight'],
                               first['features.g0.conv.weight'], atol=1e-6)
    assert (last['features.g0.bn.running_mean'] != first['features.g0.bn.running_mean']).any()


def test_distillation(data, pretrained, tmp_path):
    teacher = ['--teacher', 'resnet_igc', '--teacher-params', str(pretrained), '--set']
    small = 'method_settings.teacher_settings={depth: 8, primary_partition: 2, ' \
            'secondary_partition: 2}'
    more = ['method_settings.temperature=2', 'method_settings.hard_weight=0.1']
    assert cli.main(arguments(data, tmp_path, '--classes', '7', *teacher, small, *more)) == 0
    recipe = start(run_of(tmp_path))['recipe']
    assert recipe['method'] == 'distillation'
    assert recipe['method_settings']['teacher_params'] == str(pretrained)
    assert recipe['method_settings']['hard_weight'] == 0.1


BAD = [
    (['--set', 'lr=0.1'], 2, '--set lr: --lr says it already'),
    (['--set', 'learning=1'], 2, "no key 'learning'"),
    (['--set', 'optimizer=lamb'], 2, 'must be one of nesterov'),
    (['--set', 'optimizer_settings.alpha=1'], 2, "has no setting 'alpha'"),
    (['--set', 'init=he'], 2, 'init=he: must be one of igc'),
    (['--set', 'accumulate=9'], 2, 'too small for 1 devices and 9 parts'),
    (['--set', 'lr_epoch_step=2', '--lr-steps', '1'], 2, 'exclude'),
    (['--set', 'wd_mult.conv9*=0'], 2, r'wd_mult conv9\*: no parameter'),
    (['--freeze', 'conv9*'], 2, r'--freeze conv9\*: no parameter'),
    (['--freeze', '*'], 2, 'no parameter is left'),
    (['--pretrained', '/nonexistent'], 1, '/nonexistent'),
    (['--pretrained', 'a', '--load-model', 'b'], 2, 'exclude'),
    (['--teacher', 'resnet'], 2, '--teacher-params FILE is missing'),
    (['--teacher-params', 'x'], 2, '--teacher NETWORK is missing'),
]


@pytest.mark.parametrize('options, code, message', BAD, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line(data, tmp_path, capsys, options, code, message):
    assert cli.main(arguments(data, tmp_path, *options)) == code
    errors = capsys.readouterr().err.strip()
    assert errors.startswith('error: ') and '\n' not in errors
    assert re.search(message, errors), errors


def test_weights_of_another_network_are_refused(data, pretrained, tmp_path, capsys):
    assert cli.main(arguments(data, tmp_path, '--pretrained', str(pretrained),
                              network=DENSE)) == 1
    assert 'does not fit the network' in capsys.readouterr().err
    assert cli.main(arguments(data, tmp_path, '--load-model', str(pretrained),
                              network=NETWORK)) == 1
    assert 'of another shape (fc_weight: (7, ' in capsys.readouterr().err
