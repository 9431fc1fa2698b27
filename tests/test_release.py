"""Weights released from a run, and everything that starts from them."""

import json
import shlex
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from small_networks import assert_same_values, refused
from synthetic import noise, smooth, write_records

import igcnet
from igcnet.cli import evaluate, export, predict, train
from igcnet.cli import list as list_command
from igcnet.cli import release as release_command
from igcnet.cli.train_command import LEFT_OUT, train_command
from igcnet.convert import load_parameters, read_ndarrays
from igcnet.deploy import released
from igcnet.deploy.released import find_release, read_release, releases
from igcnet.deploy.verify import random_images
from igcnet.errors import UsageError
from igcnet.train.run_data import with_augmentation
from igcnet.train.runlog import read_metrics
from igcnet.train.settings import read_settings

SETTINGS = dict(depth=8, primary_partition=2, secondary_partition=2)
NETWORK = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2']
CLASSES = ['class %d' % number for number in range(10)]
NAME = 'resnet_igc_d8L2M2-cifar10'


def trained(data, log_dir, *more):
    """Folder of a run of two epochs."""
    assert train.main([*NETWORK, '--data-dir', str(data), '--log-dir', str(log_dir),
                       '--num-epochs', '2', '--batch-size', '10', '--rand-seed', '3', *more]) == 0
    run, = (log_dir / 'cifar10' / 'resnet_igc').iterdir()
    return run


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Records as of CIFAR-10, a run on them, and the folder of its release."""
    folder = tmp_path_factory.mktemp('world')
    for name, count in (('train', 40), ('test', 20)):
        write_records(folder / name, noise(count, seed=count), np.arange(count) % 10.0,
                      classes=CLASSES)
    run = trained(folder, folder / 'runs', '--checkpoint-epochs', '1')
    assert release_command.main([str(run), '--output', str(folder / 'weights')]) == 0
    return folder, run


@pytest.fixture
def package(world, monkeypatch):
    """The release as if it were one of the package."""
    monkeypatch.setattr(released, 'FOLDER', world[0] / 'weights')
    return world


@pytest.fixture
def copied(world, tmp_path):
    """Parameter file of a copy that may be damaged."""
    shutil.copytree(str(world[0] / 'weights'), str(tmp_path / 'weights'))
    return tmp_path / 'weights' / (NAME + '.params')


def manifest_of(params):
    return json.loads(released.manifest_path(params).read_text())


def test_what_a_release_says(world):
    folder, run = world
    params = folder / 'weights' / (NAME + '.params')
    assert sorted(path.name for path in params.parent.iterdir()) == [
        NAME + '-manifest.json', NAME + '.params']
    found = read_release(params)
    last = read_metrics(run)[-1]
    assert found.figures == {key: last[key] for key in (
        'epoch', 'update', 'val_loss', 'val_top1', 'val_top5', 'val_count')}
    assert (found.network, found.settings) == ('resnet_igc', {**SETTINGS, 'classes': 10})
    assert found.classes == CLASSES and found.name == NAME
    assert (found.preprocessing.resize_shorter, found.preprocessing.input_size) == (32, 32)
    assert found.summary() == ('depth=8, primary_partition=2, secondary_partition=2: '
                               'top-1 %.2f %% on cifar10' % (100 * last['val_top1']))
    training = found.training
    assert (training['seed'], training['recipe']['num_epochs']) == (3, 2)
    assert str(folder) not in json.dumps(manifest_of(params))


def test_the_weights_are_those_of_the_checkpoint_and_gluon_reads_them(world):
    folder, run = world
    params = folder / 'weights' / (NAME + '.params')
    net = igcnet.get_model('resnet_igc', **SETTINGS)
    net.load_parameters(str(params))
    kept = igcnet.get_model('resnet_igc', **SETTINGS)
    load_parameters(kept, run / 'checkpoints' / '0002' / 'net.params')
    assert_same_values(net, kept)
    logits = net(mx.nd.array(random_images(4, 32, 0))).asnumpy()
    np.testing.assert_allclose(logits, read_release(params).check_logits, atol=1e-4)


def test_averaged_weights_and_an_earlier_epoch(world, tmp_path, capsys):
    folder, _ = world
    run = trained(folder, tmp_path, '--set', 'ema_decay=0.5', '--checkpoint-epochs', '1')
    for epoch in (['--epoch', '1'], []):
        output = tmp_path / ''.join(['weights', *epoch])
        assert release_command.main([str(run), '--output', str(output), *epoch]) == 0
    last = igcnet.get_model('resnet_igc', pretrained=True, root=tmp_path / 'weights')
    exported = igcnet.get_model('resnet_igc', str(run / 'resnet_igc_d8L2M2-0000.params'),
                                **SETTINGS)
    assert_same_values(last, exported)
    raw = read_ndarrays(run / 'checkpoints' / '0002' / 'net.params')
    assert not np.array_equal(raw['output.weight'], last.output.weight.data().asnumpy())
    rows = [row for row in read_metrics(run) if row['event'] == 'epoch']
    for row, output in zip(rows, ('weights--epoch1', 'weights')):
        figures = read_release(tmp_path / output / (NAME + '.params')).figures
        assert figures['val_loss'] == row['val_ema_loss'] != row['val_loss']
        assert figures['epoch'] == row['epoch']


def test_runs_that_cannot_be_released(world, tmp_path, capsys):
    folder, run = world
    unfinished = tmp_path / 'unfinished'
    shutil.copytree(str(run), str(unfinished))
    shutil.rmtree(str(unfinished / 'checkpoints' / '0002'))
    damaged = tmp_path / 'damaged'
    shutil.copytree(str(run), str(damaged))
    with open(str(damaged / 'checkpoints' / '0002' / 'net.params'), 'r+b') as file:
        file.seek(-300, 2)
        file.write(b'x')
    there = folder / 'weights'
    before = {path: path.read_bytes() for path in there.iterdir()}
    for argv, code, words in (
            ([unfinished, '--output', tmp_path], 1, 'not finished its 2 epochs'),
            ([run, '--output', tmp_path, '--epoch', 7], 1, 'no checkpoint after epoch 7'),
            ([damaged, '--output', tmp_path], 1, 'net.params: damaged'),
            ([tmp_path, '--output', tmp_path], 1, 'config.yaml'),
            ([run, '--output', there], 2, 'exists already')):
        assert release_command.main(list(map(str, argv))) == code
        error = capsys.readouterr().err
        assert words in error and error.count('\n') == 1
    assert before == {path: path.read_bytes() for path in there.iterdir()}
    assert not list(tmp_path.glob('*.params'))


# The command that trains a run again


@pytest.mark.parametrize('more', [
    [], ['--recipe', 'modern', '--set', 'mixup_alpha=0', 'wd=1e-5', '--lr-steps', '3,5.5'],
    ['--lr-epoch-step', '2', '--aug-type', '0', '--cpus', '2', '--lowering', 'auto'],
    ['--set', 'optimizer=rmsprop', 'optimizer_settings.alpha=0.95', 'wd_mult.*_gamma=0',
     '--mean-rgb', '1,2,3', '--pretrained', '--freeze', 'g0_*,g1_*', '--classes', '7'],
    ['--teacher', 'plain', '--teacher-params', 'plain.params', '--augmentation', 'dgc-cifar'],
    ['--dataset', 'records', '--data-shape', '48', '--classes', '3', '--loss-limit', '9']])
def test_command_says_what_the_run_was(more):
    def settings_of(argv):
        given = vars(train.build_parser().parse_args(argv))
        given.pop('threads', None)
        return with_augmentation(train._settings(given))
    settings = settings_of([*NETWORK, '--rand-seed', '5', '--log-dir', '/runs', '--data-dir', '/d',
                            *more])
    command = train_command(settings)
    assert '/' not in command
    words = shlex.split(command)
    assert words[:2] == ['igcnet', 'train']
    again = settings_of(words[2:])
    for key in set(vars(settings)) - set(LEFT_OUT):
        assert getattr(again, key) == getattr(settings, key), key


def test_command_of_a_recipe_of_one_s_own(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('base: modern\nnum_epochs: 3\nlabel_smoothing: 0.3\n')
    settings = train._settings(vars(train.build_parser().parse_args(
        ['--network', 'plain', '--recipe', str(path)])))
    words = shlex.split(train_command(settings))[2:]
    again = train._settings(vars(train.build_parser().parse_args(words))).recipe
    assert {**again.as_dict(), 'name': 'mine'} == settings.recipe.as_dict()


def test_command_in_the_manifest(world):
    folder, run = world
    command = read_release(folder / 'weights' / (NAME + '.params')).training['command']
    assert command == train_command(read_settings(run))
    assert '--num-epochs 2 --batch-size 10 --rand-seed 3' in command


# get_model


def test_get_model(world):
    folder, run = world
    root = folder / 'weights'
    net = igcnet.get_model('resnet_igc', pretrained=True, root=root)
    assert net.classes == 10
    kept = igcnet.get_model('resnet_igc', str(root / (NAME + '.params')), **SETTINGS)
    assert_same_values(net, kept)
    again = igcnet.get_model('resnet_igc', True, mx.cpu(1), str(root), depth=8, classes=10)
    assert again.output.weight.list_ctx() == [mx.cpu(1)]
    with pytest.raises(RuntimeError, match='not been initialized'):
        igcnet.get_model('resnet_igc', pretrained=False, **SETTINGS).output.weight.data()


def test_weights_that_there_are_not(world, tmp_path):
    root = world[0] / 'weights'
    for call, words in (
            (lambda: igcnet.get_model('plain', True, root=root),
             'plain: there are no released weights for it; there are for resnet_igc'),
            (lambda: igcnet.get_model('plain', True, root=tmp_path), 'for no network'),
            (lambda: igcnet.get_model('resnet_igc', True, root=root, classes=100),
             'resnet_igc with classes=100: there are no released weights for these settings; '
             'there are: %s (depth=8, ' % NAME),
            (lambda: igcnet.get_model('resnet_igc', True, root=tmp_path / 'x'), 'not a folder'),
            (lambda: igcnet.get_model('resnet_igc', root=root), 'pretrained=True only')):
        with pytest.raises(UsageError) as caught:
            call()
        assert words in str(caught.value) and '\n' not in str(caught.value)
    with pytest.raises(TypeError, match='has no setting'):
        igcnet.get_model('resnet_igc', True, root=root, widht=1)


def test_several_weights_of_one_network(copied):
    other = copied.with_name('other.params')
    shutil.copy(str(copied), str(other))
    manifest = manifest_of(copied)
    manifest['sha256'] = {'other.params': manifest['sha256'][copied.name]}
    manifest['settings']['depth'] = 14
    released.manifest_path(other).write_text(json.dumps(manifest))
    root = copied.parent
    with pytest.raises(UsageError, match='several released weights fit.*other .depth=14'):
        find_release('resnet_igc', {}, root)
    assert find_release('resnet_igc', {'depth': 14}, root).params == other
    assert find_release('resnet_igc', {'depth': 8}, root).params == copied
    assert [release.name for release in releases(root)] == ['other', NAME]


def test_damaged_releases(copied):
    root, where = copied.parent, released.manifest_path(copied)
    whole = manifest_of(copied)

    def load():
        return igcnet.get_model('resnet_igc', True, root=root)
    for change in (dict(settings=[]), dict(classes=None), dict(classes=[1]), dict(training={}),
                   dict(figures={'val_top1': 'good'}), dict(figures={}), dict(format='x'),
                   dict(check_logits=[1]), dict(sha256={}), dict(network=3)):
        where.write_text(json.dumps({**whole, **change}))
        refused(load, str(where), 'not the manifest of released weights')
    where.write_text(json.dumps({**whole, 'preprocessing': {}}))
    refused(load, str(where), 'preprocessing')
    for settings in ({'depth': 'x'}, {'dpeth': 8}, {'classes': 0}, {'depth': [8]}):
        where.write_text(json.dumps({**whole, 'settings': {**whole['settings'], **settings}}))
        refused(load, str(where), 'its settings make no resnet_igc')
    where.write_text('{')
    refused(load, str(where), 'JSON')
    where.write_text(json.dumps(whole))
    load()
    with open(str(copied), 'r+b') as file:
        file.seek(-300, 2)
        file.write(b'x')
    refused(load, str(copied), 'checksum')
    copied.unlink()
    refused(load, str(copied), 'cannot read')


# The commands


def test_predict_a_photograph_out_of_the_box(package, tmp_path, capsys):
    photograph = smooth(240, 320, seed=4)
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), photograph[:, :, ::-1])
    assert predict.main([str(path), '--network', 'resnet_igc', '--pretrained', '--top', '3']) == 0
    out = capsys.readouterr().out
    net = igcnet.get_model('resnet_igc', pretrained=True)
    small = cv2.resize(photograph, (42, 32), interpolation=cv2.INTER_AREA)[:, 5:37]
    found = releases()[0]
    image = (small - np.array(found.preprocessing.mean)) / np.array(found.preprocessing.std)
    logits = net(mx.nd.array(image.transpose(2, 0, 1)[None])).asnumpy()[0]
    best = np.argsort(-logits)[:3]
    share = np.exp(logits) / np.exp(logits).sum()
    assert out.split('  ', 1)[1].strip() == ', '.join(
        '%s %5.1f %%' % (CLASSES[k], 100 * share[k]) for k in best)


def test_evaluate_gives_the_recorded_figures(package, tmp_path):
    folder, run = package
    params = str(folder / 'weights' / (NAME + '.params'))
    last = read_metrics(run)[-1]
    for source in (['--network', 'resnet_igc', '--pretrained'], ['--params', params]):
        assert evaluate.main([*source, '--data', str(folder / 'test.rec'), '--json',
                              str(tmp_path / 'figures.json')]) == 0
        figures = json.loads((tmp_path / 'figures.json').read_text())
        assert figures['top1'] == last['val_top1']
        assert figures['loss'] == pytest.approx(last['val_loss'], abs=1e-5)


def test_export_of_released_weights(package, tmp_path):
    prefix = str(tmp_path / 'net')
    assert export.main(['--network', 'resnet_igc', '--pretrained', '--strategy', 'stock',
                        '--output', prefix]) == 0
    manifest = json.loads((tmp_path / 'net-manifest.json').read_text())
    assert manifest['classes'] == CLASSES and manifest['settings']['depth'] == 8


def test_mistakes_are_one_line(package, copied, tmp_path, capsys):
    copied.write_bytes(copied.read_bytes()[:-1])
    for argv, code, words in (
            (['--pretrained'], 2, 'give it with --network NAME'),
            (['--network', 'resnet_igc', '--pretrained', '--symbol', 'x'], 2, 'without --symbol'),
            (['--network', 'resnet_igc', '--pretrained', '--params', 'x'], 2, 'not allowed with'),
            (['--network', 'resnet_igc'], 2, '--params --pretrained is required'),
            (['--network', 'resnet_igc', '--pretrained', '--depth', '20'], 2, 'with depth=20'),
            (['--network', 'igcv3', '--pretrained'], 2, 'there are for resnet_igc'),
            (['--params', str(copied)], 1, 'checksum'),
            (['--params', str(copied), '--depth', '8'], 2, '--depth: give --network')):
        assert predict.main([str(tmp_path / 'photo.png'), *argv]) == code
        error = capsys.readouterr().err
        assert words in error and error.count('\n') == 1, error


def test_list_shows_which_networks_have_weights(package, capsys):
    assert list_command.main(['resnet_igc*']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('released weights')
    assert lines[1].endswith(releases()[0].summary()) and lines[2].endswith('  -')
    assert list_command.main(['resnet_igc', '--json']) == 0
    assert json.loads(capsys.readouterr().out)[0]['weights'] == releases()[0].summary()
    assert list_command.main(['resnet_igc', '--markdown']) == 0
    assert 'released weights: depth=8' in capsys.readouterr().out


def test_training_starts_from_released_weights(package, tmp_path, monkeypatch, capsys):
    folder, _ = package
    write_records(tmp_path / 'train', noise(20), np.arange(20) % 3.0, classes=list('abc'))
    write_records(tmp_path / 'test', noise(6), np.arange(6) % 3.0, classes=list('abc'))
    argv = ['--network', 'resnet_igc', '--dataset', 'records', '--data-dir', str(tmp_path),
            '--log-dir', str(tmp_path / 'runs'), '--num-epochs', '1', '--batch-size', '10',
            '--rand-seed', '4', '--pretrained']
    assert train.main(argv) == 0
    run, = (tmp_path / 'runs' / 'records' / 'resnet_igc').iterdir()
    assert run.name == 'resnet_igc_d8L2M2_exp1'
    settings = read_settings(run)
    assert settings.pretrained is True
    assert settings.network_settings == {**SETTINGS, 'classes': 3}
    start = read_ndarrays(run / 'checkpoints' / '0000' / 'net.params')
    source = igcnet.get_model('resnet_igc', pretrained=True)
    for path, parameter in source._collect_params_with_prefix().items():
        if path.startswith('output.'):
            assert start[path].shape[0] == 3
        else:
            np.testing.assert_array_equal(start[path], parameter.data().asnumpy())
    capsys.readouterr()
    assert train.main([*argv, '--resume']) == 0
    assert 'the run has finished' in capsys.readouterr().out
    monkeypatch.setattr(released, 'FOLDER', tmp_path / 'nothing')
    assert train.main(['--resume', str(run), '--num-epochs', '2']) == 0
    assert train.main(argv) == 2
    assert 'there are no released weights' in capsys.readouterr().err
