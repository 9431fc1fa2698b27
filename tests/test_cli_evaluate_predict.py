"""``tools/evaluate.py`` and ``tools/predict.py`` on checkpoints of every kind."""

import csv
import json
import re

import cv2
import mxnet as mx
import numpy as np
import pytest
from synthetic import noise, write_records

import igcnet
from igcnet.cli import evaluate, predict, torch_to_mxnet
from igcnet.convert import save_original, write_ndarrays
from igcnet.data.reader import EvalReader
from igcnet.deploy import export
from igcnet.registry import get_spec

SETTINGS = dict(depth=8, primary_partition=2, secondary_partition=2, classes=3)
NETWORK = ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
           '--secondary-partition', '2', '--classes', '3']
CLASSES = ['circle', 'square', 'star']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A network in three layouts, records and a class folder of the same 11 images."""
    folder = tmp_path_factory.mktemp('world')
    mx.random.seed(2)
    net = igcnet.get_model('resnet_igc', **SETTINGS)
    net.initialize()
    for name, parameter in net.collect_params().items():
        if name.endswith('moving_var'):
            parameter.set_data(mx.nd.ones(parameter.shape))
    images, labels = noise(11, seed=5), np.sort(np.arange(11) % 3)
    write_records(folder / 'test', images, labels.astype(float), classes=CLASSES,
                  names=['%d.png' % i for i in range(11)])
    for number, (image, label) in enumerate(zip(images, labels)):
        target = folder / 'tree' / CLASSES[label] / ('%02d.png' % number)
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), image[:, :, ::-1])
    preprocessing = get_spec('resnet_igc').preprocessing
    net.save_parameters(str(folder / 'gluon.params'))
    save_original(net, str(folder / 'old'), 7)
    export(net, folder / 'new', preprocessing, 'resnet_igc', SETTINGS, CLASSES)
    batch = next(iter(EvalReader(folder / 'test.rec', 11, preprocessing)))
    np.savez(folder / 'x.npz', x=batch.images)
    return folder, net(mx.nd.array(batch.images)).asnumpy(), labels


def sources(folder):
    return {
        'gluon': [*NETWORK, '--params', str(folder / 'gluon.params')],
        'original by name': [*NETWORK, '--params', str(folder / 'old-0007.params')],
        'original by symbol': ['--symbol', str(folder / 'old-symbol.json'), '--params',
                               str(folder / 'old-0007.params')],
        'exported': ['--symbol', str(folder / 'new-symbol.json'), '--params',
                     str(folder / 'new-0000.params')],
    }


@pytest.mark.parametrize('kind', ['gluon', 'original by name', 'original by symbol', 'exported'])
def test_predict_array_gives_logits_from_every_layout(world, tmp_path, kind):
    folder, logits, _ = world
    output = tmp_path / 'y.npz'
    assert predict.main([*sources(folder)[kind], str(folder / 'x.npz'), '--output', str(output),
                         '--batch-size', '4']) == 0
    np.testing.assert_allclose(np.load(output)['logits'], logits, atol=1e-5)


@pytest.mark.parametrize('kind', ['gluon', 'original by symbol', 'exported'])
@pytest.mark.parametrize('data', ['test.rec', 'tree'])
@pytest.mark.parametrize('batch', ['4', '11', '64'])
def test_evaluate_counts_every_image_once(world, tmp_path, capsys, kind, data, batch):
    folder, logits, labels = world
    figures = tmp_path / 'figures.json'
    assert evaluate.main([*sources(folder)[kind], '--data', str(folder / data), '--batch-size',
                          batch, '--json', str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found['images'] == 11
    assert found['top1'] == pytest.approx((logits.argmax(1) == labels).mean())
    assert '11 images: top-1 %.3f %%' % (100 * found['top1']) in capsys.readouterr().out


def test_flat_folder_with_a_label_file(world, tmp_path):
    folder, logits, labels = world
    flat = tmp_path / 'flat'
    flat.mkdir()
    lines = ['file\tname\tclass_index']
    for path in sorted((folder / 'tree').rglob('*.png'), reverse=True):
        (flat / path.name).write_bytes(path.read_bytes())
        lines.append('%s\tx\t%d' % (path.name, CLASSES.index(path.parent.name)))
    (flat / 'labels.tsv').write_text('\n'.join(lines) + '\n')
    figures = tmp_path / 'figures.json'
    command = [*sources(folder)['exported'], '--data', str(flat), '--json', str(figures)]
    assert evaluate.main([*command, '--labels', str(flat / 'labels.tsv')]) == 0
    assert json.loads(figures.read_text())['top1'] == pytest.approx(
        (logits.argmax(1) == labels).mean())
    for bad in ('a.png 0\n', 'name\tclass\na.png\tcat\n', ''):
        (tmp_path / 'bad.tsv').write_text(bad)
        assert evaluate.main([*command, '--labels', str(tmp_path / 'bad.tsv')]) == 1


def test_confusion_matrix_and_predictions(world, tmp_path):
    folder, logits, labels = world
    assert evaluate.main([*sources(folder)['exported'], '--data', str(folder / 'test.rec'),
                          '--confusion', str(tmp_path / 'confusion'), '--predictions',
                          str(tmp_path / 'predictions.csv')]) == 0
    assert (tmp_path / 'confusion.png').read_bytes().startswith(b'\x89PNG')
    rows = list(csv.reader((tmp_path / 'confusion.csv').open()))
    assert rows[0][1:] == CLASSES
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, logits.argmax(1)), 1)
    np.testing.assert_array_equal(counts, expected)
    table = list(csv.DictReader((tmp_path / 'predictions.csv').open()))
    assert [row['image'] for row in table] == ['%d.png' % i for i in range(11)]
    assert [int(row['prediction']) for row in table] == logits.argmax(1).tolist()


def test_predict_images_and_folders_as_a_table(world, capsys):
    folder, logits, _ = world
    assert predict.main([*sources(folder)['exported'], '--top', '2',
                         str(folder / 'tree' / 'star'), str(folder / 'tree' / 'circle' / '00.png')
                         ]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    name, best = lines[-1].split()[:2]
    assert name.endswith('00.png') and best == CLASSES[logits[0].argmax()]
    assert len(re.findall(r'\d+\.\d %', lines[0])) == 2


def test_several_contexts_give_the_same(world, tmp_path):
    folder, logits, _ = world
    output = tmp_path / 'y.npz'
    assert predict.main([*sources(folder)['gluon'], '--cpus', '3', str(folder / 'x.npz'),
                         '--output', str(output), '--batch-size', '5']) == 0
    np.testing.assert_allclose(np.load(output)['logits'], logits, atol=1e-5)


def test_mistakes_are_one_line(world, tmp_path, capsys):
    folder, _, _ = world
    np.savez(tmp_path / 'noarray.npz', y=np.zeros(3))
    np.savez(tmp_path / 'flat.npz', x=np.zeros((3, 32, 32)))
    np.savez(tmp_path / 'object.npz', x=np.array([{}], dtype=object))
    np.savez(tmp_path / 'tiny.npz', x=np.zeros((1, 3, 0, 0)))
    (tmp_path / 'broken.npz').write_bytes(b'PK\x03\x04')
    write_records(tmp_path / 'many', noise(4), [0.0, 9.0, 1.0, 2.0])
    wrong = {'output.weight': np.zeros((3, 5), np.float32)}
    write_ndarrays(tmp_path / 'wrong.params', wrong)
    (tmp_path / 'text.params').write_text('no parameters')
    (tmp_path / 'empty').mkdir()
    gluon, exported = sources(folder)['gluon'], sources(folder)['exported']
    x = str(folder / 'x.npz')
    cases = [
        (predict, [*gluon, str(tmp_path / 'noarray.npz')], 1, 'no array named x'),
        (predict, [*gluon, str(tmp_path / 'flat.npz')], 1, r'\(N, 3, H, W\)'),
        (predict, [*gluon, str(tmp_path / 'tiny.npz')], 1, r'\(N, 3, H, W\)'),
        (predict, [*gluon, str(tmp_path / 'object.npz')], 1, 'plain arrays'),
        (predict, [*gluon, str(tmp_path / 'broken.npz')], 1, 'broken.npz'),
        (predict, [*gluon, str(tmp_path / 'missing.npz')], 1, 'missing.npz'),
        (predict, [*gluon, x, str(folder / 'tree')], 2, 'only input'),
        (predict, [*gluon, str(tmp_path / 'empty')], 1, 'empty'),
        (predict, ['--params', str(folder / 'gluon.params'), x], 2, '--network'),
        (predict, ['--params', str(tmp_path / 'empty'), x], 2, 'neither a checkpoint nor a run'),
        (predict, [*NETWORK, '--params', str(tmp_path / 'wrong.params'), x], 1,
         'wrong.params.*missing'),
        (predict, [*NETWORK, '--params', str(tmp_path / 'text.params'), x], 1, 'text.params'),
        (predict, [*gluon, '--symbol', str(folder / 'new-symbol.json'), x], 2, 'one of them'),
        (predict, [*gluon, '--dataset', 'nothing', str(folder / 'tree' / 'star')], 2, 'cifar10'),
        (evaluate, [*gluon, '--data', str(tmp_path / 'none.rec')], 1, 'none.rec'),
        (evaluate, [*gluon, '--data', str(tmp_path / 'many.rec')], 1, 'label 9'),
        (evaluate, [*gluon, '--data', str(folder / 'tree' / 'star')], 1, 'no labels'),
        (evaluate, [*exported, '--data', str(folder / 'test.rec'), '--gpus', '0'], 2, 'CPU build'),
        (evaluate, [*exported, '--data', str(folder / 'test.rec'), '--json', '/proc/x/y'], 1,
         '/proc/x/y'),
        (evaluate, exported, 2, '--data'),
    ]
    for command, argv, code, message in cases:
        assert command.main(argv) == code, argv
        error = capsys.readouterr().err.strip().split('\n')[-1]
        assert error.startswith('error: ') and re.search(message, error), error


def test_changed_export_is_noticed(world, tmp_path, capsys):
    folder, _, _ = world
    for suffix in ('-symbol.json', '-0000.params', '-manifest.json'):
        (tmp_path / ('new' + suffix)).write_bytes((folder / ('new' + suffix)).read_bytes())
    data = bytearray((tmp_path / 'new-0000.params').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / 'new-0000.params').write_bytes(bytes(data))
    assert predict.main(['--symbol', str(tmp_path / 'new-symbol.json'), '--params',
                         str(tmp_path / 'new-0000.params'), str(folder / 'x.npz')]) == 1
    assert 'checksum' in capsys.readouterr().err


def test_pretrained_menet_on_photographs(shared_fixtures, tmp_path, capsys):
    """The released 128-MENet, converted: every arg-max of the original on its 100 photographs."""
    folder = shared_fixtures('menet')
    facts = json.loads((folder / 'menet128_g4_images.json').read_text())
    prefix = tmp_path / 'menet'
    assert torch_to_mxnet.main(['--network', 'menet128_8x1_g4', '--input',
                                str(folder / facts['checkpoint']), '--output', str(prefix)]) == 0
    assert evaluate.main(['--symbol', '%s-symbol.json' % prefix, '--params',
                          '%s-0000.params' % prefix, '--data', str(folder / 'images'), '--labels',
                          str(folder / 'images' / 'labels.tsv'), '--predictions',
                          str(tmp_path / 'predictions.csv'), '--json',
                          str(tmp_path / 'figures.json'), '--batch-size', '25']) == 0
    rows = list(csv.DictReader((tmp_path / 'predictions.csv').open()))
    logits = np.load(folder / 'menet128_g4_images.npz')['logits']
    assert [int(row['prediction']) for row in rows] == logits.argmax(axis=1).tolist()
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['images'] == 100
    assert round(figures['top1'] * 100) == facts['top1_correct']
    assert round(figures['top5'] * 100) == facts['top5_correct']
    assert figures['loss'] == pytest.approx(facts['mean_cross_entropy'], abs=1e-4)
