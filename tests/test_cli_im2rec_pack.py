"""The packing command: as MXNet's im2rec where it should be, one line for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import IGCNET
from pictures import file_bytes, make_tar, make_tree, picture

from igcnet.cli.im2rec_pack import INTERPOLATIONS, main
from igcnet.data import transforms
from igcnet.data.images import decode_image
from igcnet.data.records import RecordFile


@pytest.fixture
def images(tmp_path):
    """A folder of three class folders with four pictures each."""
    return make_tree(tmp_path / 'images', ['dog', 'cat', 'bird'])


def error_line(capsys, arguments, code):
    """The only line that `main` prints to the error output, besides warnings."""
    assert main([str(argument) for argument in arguments]) == code
    lines = [line for line in capsys.readouterr().err.splitlines()
             if not line.startswith(('warning: ', 'packing '))]
    assert len(lines) == 1 and lines[0].startswith('error: ')
    return lines[0]


def run_im2rec(*arguments):
    """MXNet's own im2rec, without importing MXNet here."""
    from importlib.util import find_spec
    tool = Path(find_spec('mxnet').origin).parent / 'tools' / 'im2rec.py'
    subprocess.run([sys.executable, '-W', 'ignore', str(tool)] + [str(a) for a in arguments],
                   check=True, stdout=subprocess.DEVNULL)


SPLIT = ['--list', '--recursive', '--train-ratio', '0.6', '--test-ratio', '0.2']


@pytest.fixture(scope='module')
def im2rec_lists(tmp_path_factory):
    """Images, and the folder with the lists that MXNet's im2rec makes of them."""
    folder = tmp_path_factory.mktemp('im2rec')
    root = make_tree(folder / 'images', ['dog', 'dog/nested', 'cat', 'bird'])
    (folder / 'lists').mkdir()
    run_im2rec(folder / 'lists' / 'x', root, *SPLIT)
    return root, folder / 'lists'


@pytest.mark.parametrize('options', [
    ['--pass-through'],
    ['--resize', '24', '--quality', '80', '--center-crop'],
    ['--encoding', '.png', '--color', '0'],
])
def test_same_lists_and_records_as_im2rec(tmp_path, im2rec_lists, options):
    root, lists = im2rec_lists
    theirs, ours = tmp_path / 'theirs', tmp_path / 'ours'
    shutil.copytree(str(lists), str(theirs))
    run_im2rec(theirs / 'x', root, *options)
    assert main([str(ours / 'x'), str(root)] + SPLIT) == 0
    assert main([str(ours / 'x'), str(root)] + options) == 0
    written = sorted(path.name for path in theirs.iterdir())
    assert written == sorted('x_%s.%s' % (part, kind) for part in ('train', 'val', 'test')
                             for kind in ('lst', 'rec', 'idx'))
    for name in written:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert RecordFile(ours / 'x_val').classes == ['bird', 'cat', 'dog', 'dog/nested']


def test_other_lists_and_labels_are_as_im2recs(tmp_path, images):
    """The options that the test above leaves out."""
    (images / 'cat' / 'other.png').write_bytes(file_bytes(picture(seed=20), 'PNG'))
    options = ['--list', '--recursive', '--no-shuffle', '--chunks', '2', '--exts', '.png', '.bmp']
    (images / 'dog' / 'one.BMP').write_bytes(file_bytes(picture(seed=21), 'BMP'))
    several = '5\t1.5\t2.5\tcat/other.png\n7\t0.25\t-3\tdog/0.jpg\n'
    for folder, command in (('theirs', run_im2rec), ('ours', lambda *words: main(list(
            map(str, words))))):
        (tmp_path / folder).mkdir()
        command(tmp_path / folder / 'x', images, *options)
        (tmp_path / folder / 'y.lst').write_text(several)
        command(tmp_path / folder / 'y', images, '--pack-label', '--color', '-1',
                '--num-thread', '1')
    for name in ('x_0.lst', 'x_1.lst', 'y.rec', 'y.idx', 'y.lst'):
        assert (tmp_path / 'ours' / name).read_bytes() == (
            tmp_path / 'theirs' / name).read_bytes(), name
    assert (tmp_path / 'ours' / 'x_1.lst').read_text().endswith('dog/one.BMP\n')


def test_one_step(tmp_path, images, capsys):
    prefix = tmp_path / 'data' / 'pets'
    assert main([str(prefix), str(images)]) == 0
    captured = capsys.readouterr()
    assert captured.out == 'wrote %s.rec: 12 images of 3 classes\n' % prefix
    assert captured.err.startswith('packing pets: 12 images in ')
    assert RecordFile(prefix).classes == ['bird', 'cat', 'dog']
    first = prefix.with_suffix('.rec').read_bytes()
    # Again: what the first run wrote is no input, and is replaced.
    (images / 'cat' / 'new.jpg').write_bytes(file_bytes(picture(seed=50)))
    assert main([str(prefix), str(images), '--num-thread', '2']) == 0
    assert len(RecordFile(prefix)) == 13
    (images / 'cat' / 'new.jpg').unlink()
    assert main([str(prefix), str(images), '--num-thread', '1']) == 0
    assert prefix.with_suffix('.rec').read_bytes() == first


def test_ratios_and_chunks(tmp_path, images):
    assert main([str(tmp_path / 'a' / 'x'), str(images), '--train-ratio', '0.5']) == 0
    assert main([str(tmp_path / 'b' / 'x'), str(images), '--chunks', '2', '--seed', '3']) == 0
    sizes = {path.name: len(RecordFile(path)) for path in tmp_path.glob('[ab]/*.rec')}
    assert sizes == {'x_train.rec': 6, 'x_val.rec': 6, 'x_0.rec': 6, 'x_1.rec': 6}
    keys = [RecordFile(tmp_path / 'b' / name).keys.tolist() for name in ('x_0', 'x_1')]
    assert sorted(keys[0] + keys[1]) == list(range(12))


def test_stratified(tmp_path, images):
    main([str(tmp_path / 'x'), str(images), '--train-ratio', '0.75', '--stratified'])
    manifest = json.loads((tmp_path / 'x_train-manifest.json').read_text())
    assert manifest['records_per_class'] == [3, 3, 3] and manifest['options']['stratified'] is True
    assert RecordFile(tmp_path / 'x_val').labels().tolist() != [0, 0, 0]


def test_split_by_folder_is_forced(tmp_path, images, capsys):
    assert 'the folder bird is no part; --split-by-folder needs train' in error_line(
        capsys, [tmp_path / 'x', images, '--split-by-folder'], 1)
    root = make_tree(tmp_path / 'one', ['train/cat', 'train/dog'])
    assert main([str(tmp_path / 'x'), str(root), '--split-by-folder']) == 0
    manifest = json.loads((tmp_path / 'x' / 'train-manifest.json').read_text())
    assert manifest['source'] == {'kind': 'split-class-folders'} and manifest['records'] == 8
    assert manifest['options']['split_by_folder'] is True


def test_names_of_interpolations_are_those_of_the_library():
    assert set(INTERPOLATIONS) == set(transforms.INTERPOLATIONS)


def test_folder_as_prefix(tmp_path, images, capsys):
    (tmp_path / 'out').mkdir()
    assert main([str(tmp_path / 'out'), str(images), '--train-ratio', '0.5']) == 0
    assert (tmp_path / 'out' / 'train.rec').is_file() and (tmp_path / 'out' / 'val.rec').is_file()
    assert 'is a folder: name the records in it' in error_line(
        capsys, [str(tmp_path / 'other') + '/', images], 2)


def test_split_tree_and_archive(tmp_path, capsys):
    root = make_tree(tmp_path / 'images', ['train/cat', 'train/dog', 'test/cat', 'test/dog'])
    archive = make_tar(tmp_path / 'images.tar.gz', root, top='wrapped')
    assert main([str(tmp_path / 'a'), str(root), '--pass-through']) == 0
    assert main([str(tmp_path / 'b'), str(archive), '--pass-through']) == 0
    for part, count in (('train', 8), ('test', 8)):
        from_folder, from_archive = (RecordFile(tmp_path / name / part) for name in 'ab')
        assert len(from_folder) == count and from_folder.classes == ['cat', 'dog']
        assert (tmp_path / 'a' / (part + '.rec')).read_bytes() == (
            tmp_path / 'b' / (part + '.rec')).read_bytes()
    capsys.readouterr()
    assert 'is split into folders train, test already' in error_line(
        capsys, [tmp_path / 'c', root, '--train-ratio', '0.5'], 2)


def test_two_steps_with_split_tree(tmp_path):
    root = make_tree(tmp_path / 'images', ['train/cat', 'train/dog', 'val/cat', 'val/dog'])
    assert main([str(tmp_path / 'out'), str(root), '--list']) == 0
    assert (tmp_path / 'out' / 'classes.txt').read_text() == 'cat\ndog\n'
    assert main([str(tmp_path / 'out'), str(root)]) == 0
    assert RecordFile(tmp_path / 'out' / 'val').classes == ['cat', 'dog']


def test_edited_list(tmp_path, images, capsys):
    """Several labels, no class folders: im2rec's way to pack what has no classes."""
    flat = tmp_path / 'flat'
    flat.mkdir()
    for seed in range(3):
        (flat / ('%d.jpg' % seed)).write_bytes(file_bytes(picture(seed=seed)))
    prefix = tmp_path / 'x'
    assert main([str(prefix), str(flat), '--list', '--no-shuffle']) == 0
    assert 'every image gets label 0' in capsys.readouterr().err
    assert prefix.with_suffix('.lst').read_text().splitlines()[1] == '1\t0.000000\t1.jpg'
    text = '5\t1.5\t2.5\t2.jpg\n7\t0.25\t-3\t0.jpg\n'
    prefix.with_suffix('.lst').write_text(text)
    assert main([str(prefix), str(flat), '--pack-label']) == 0
    records = RecordFile(prefix)
    assert [records.read(n).label.tolist() for n in range(2)] == [[1.5, 2.5], [0.25, -3.0]]
    assert records.keys.tolist() == [5, 7] and records.classes is None
    manifest = json.loads((tmp_path / 'x-manifest.json').read_text())
    assert manifest['source'] == {'kind': 'list'} and manifest['records_per_class'] is None
    # The list is the user's: it stays, and the next run packs it again.
    assert prefix.with_suffix('.lst').read_text() == text
    assert main([str(prefix), str(flat)]) == 0
    assert 'only the first is packed' in capsys.readouterr().err
    assert RecordFile(prefix).read(0).label == 1.5


def test_bad_images(tmp_path, images, capsys):
    (images / 'dog' / 'bad.jpg').write_bytes(b'')
    prefix = tmp_path / 'out' / 'x'
    line = error_line(capsys, [prefix, images], 1)
    assert '1 of 13 images cannot be packed' in line and '--max-bad 1' in line
    assert [path.name for path in prefix.parent.iterdir()] == ['x-skipped.txt']
    assert main([str(prefix), str(images), '--max-bad', '1']) == 0
    assert '12 images of 3 classes, 1 skipped (reasons in' in capsys.readouterr().out


def test_mutated_images_never_crash(tmp_path, capsys):
    """A thousand damaged files: each is packed or in the report, and what is packed decodes."""
    draw = np.random.RandomState(0)
    root = make_tree(tmp_path / 'images', ['a', 'b'], 2)
    for number in range(1000):
        data = bytearray(file_bytes(picture(seed=number), ['JPEG', 'PNG'][number % 2]))
        for _ in range(draw.randint(1, 5)):
            data[draw.randint(len(data))] = draw.randint(256)
        if number % 5 == 0:
            del data[draw.randint(len(data)):]
        (root / 'a' / ('m%d.jpg' % number)).write_bytes(bytes(data))
    assert main([str(tmp_path / 'x'), str(root), '--max-bad', '1000', '--pass-through']) == 0
    report = (tmp_path / 'x-skipped.txt').read_text().splitlines()
    assert len(RecordFile(tmp_path / 'x')) == 1004 - len(report)
    assert len(report) > 500
    records = RecordFile(tmp_path / 'x')
    for position in range(len(records)):
        assert decode_image(records.read(position).image, 'x').size
    assert capsys.readouterr().err.count('\n') == 1  # the decoders' own messages are not shown


@pytest.mark.parametrize('arguments, code, message', [
    (['x'], 2, 'ROOT is missing'),
    (['x', 'none'], 1, 'none: cannot read this folder or archive (No such file'),
    (['x', 'empty'], 1, 'empty: no images in it'),
    (['x', 'flat'], 1, 'flat: 1 images lie beside the class folders'),
    (['x', 'flat/1.jpg'], 1, 'flat/1.jpg: not a readable tar archive'),
    (['x', 'images', '--quality', '0'], 2, '--quality 0: must be 1 to 100'),
    (['x', 'images', '--quality', 'high'], 2, 'argument --quality'),
    (['x', 'images', '--resize', '-5'], 2, '--resize -5'),
    (['x', 'images', '--pass-through', '--resize', '8'], 2, '--pass-through keeps the bytes'),
    (['x', 'images', '--train-ratio', '0.8', '--test-ratio', '0.3'], 2, 'more than 1 together'),
    (['x', 'images', '--stratified'], 2, '--stratified says how --train-ratio divides'),
    (['x', 'images', '--train-ratio', '2'], 2, '--train-ratio 2'),
    (['x', 'images', '--chunks', '0'], 2, 'argument --chunks'),
    (['x', 'images', '--chunks', '100'], 2, '--chunks 100: there are only 12 images'),
    (['x', 'images', '--num-thread', '0'], 2, 'argument --num-thread'),
    (['x', 'images', '--max-bad', '-1'], 2, '--max-bad -1'),
    (['x', 'images', '--pack-label'], 2, '--pack-label: there is no list x.lst'),
    (['x', 'images', '--list', '--resize', '8', '--pass-through'], 2,
     '--pass-through: --list only writes lists; leave out --pass-through --resize'),
    (['x', 'images', '--nonsense'], 2, 'unrecognized arguments: --nonsense'),
    (['listed', 'images', '--recursive', '--no-shuffle'], 2,
     'packed as they are (listed.lst); remove them to pack the class folders of ROOT; leave out '
     '--recursive --no-shuffle'),
    (['broken', 'images'], 1, 'broken.lst, line 1'),
    (['missing', 'images'], 1, 'none of the 1 images for missing.rec can be packed'),
    (['x', '--dataset', 'mnist'], 2, 'argument --dataset'),
    (['x', '--dataset', 'cifar10'], 2, '--dataset cifar10 needs ROOT'),
    (['x', 'images', '--dataset', 'cifar10'], 1, 'images: not the files of cifar10'),
    (['x', 'images', '--dataset', 'digits'], 2, 'leave out ROOT (images)'),
    (['x', '--dataset', 'digits', '--pass-through', '--train-ratio', '0.5'], 2,
     '--pass-through: --dataset digits is packed as it is published'),
    (['flat/1.jpg/x', 'images'], 1, 'flat/1.jpg/x.rec: cannot write'),
])
def test_mistakes(tmp_path, images, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'flat').mkdir()
    (tmp_path / 'flat' / '1.jpg').write_bytes(file_bytes(picture()))
    (tmp_path / 'listed.lst').write_text('0\t0\tcat/0.jpg\n')
    (tmp_path / 'broken.lst').write_text('0 0 cat/0.jpg\n')
    (tmp_path / 'missing.lst').write_text('0\t0\tcat/gone.jpg\n')
    before = sorted(os.listdir(str(tmp_path)))
    assert message in error_line(capsys, arguments, code)
    after = sorted(name for name in os.listdir(str(tmp_path)) if name != 'missing-skipped.txt')
    assert after == before


def test_warnings(tmp_path, capsys):
    root = make_tree(tmp_path / 'images', ['only'])
    (root / 'empty').mkdir()
    (root / 'only' / 'notes.txt').write_text('x')
    assert main([str(tmp_path / 'x'), str(root)]) == 0
    error = capsys.readouterr().err
    assert 'warning: 1 files with other extensions were left out; found 1 .txt\n' in error
    assert '1 class folders have no images and get no number (empty)' in error
    assert 'only one class (only)' in error


def test_digits(tmp_path):
    assert main([str(tmp_path / 'digits'), '--dataset', 'digits']) == 0
    train, test = (RecordFile(tmp_path / 'digits' / part) for part in ('train.rec', 'test.rec'))
    assert len(train) + len(test) == 1797 and 350 <= len(test) <= 370
    assert train.classes == list('0123456789')
    assert train.manifest['source'] == {'kind': 'digits', 'form': 'bundled'}
    assert train.manifest['options']['encoding'] == '.png'
    assert len(set(train.labels()[:30])) > 5  # shuffled


def test_help():
    done = subprocess.run([*IGCNET, 'im2rec_pack', '--help'], stdout=subprocess.PIPE)
    text = done.stdout.decode()
    assert done.returncode == 0
    for option in ('--list --exts --chunks --train-ratio --test-ratio --recursive --no-shuffle '
                   '--stratified --split-by-folder --interp --pass-through --resize '
                   '--center-crop --quality --num-thread --color --encoding '
                   '--pack-label --seed --max-bad --dataset --download --preset --labels').split():
        assert option in text


def test_interrupt_leaves_nothing(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 300)
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [*IGCNET, 'im2rec_pack', str(out / 'x'), str(root), '--resize', '2000',
         '--num-thread', '1'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out.is_dir() and len(list(out.iterdir())) == 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(path.name.split('.')[1] for path in out.iterdir()) == [
        'x', 'x', 'x', 'x-manifest']
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (output, error.decode().splitlines()[-1]) == (b'', 'interrupted')
    assert list(out.iterdir()) == []


def test_sigterm_leaves_nothing_behind(tmp_path):
    script = ('import os, signal, time\nfrom igcnet.cli.common import run\n'
              'from igcnet.files import atomic_path\n'
              'def work(argv):\n'
              '    with atomic_path(%r) as path:\n'
              '        path.write_text("half")\n'
              '        os.kill(os.getpid(), signal.SIGTERM)\n'
              '        time.sleep(30)\n'
              'raise SystemExit(run(work))' % str(tmp_path / 'whole.rec'))
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')
    assert list(tmp_path.iterdir()) == []
