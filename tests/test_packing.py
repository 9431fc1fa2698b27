"""Packing: the right records, whatever the workers, and every bad image reported."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pictures import file_bytes, make_tar, make_tree, picture

from igcnet.data.encoding import Encoding
from igcnet.data.images import decode_image
from igcnet.data.lists import Item, read_list
from igcnet.data.packing import Plan, pack
from igcnet.data.planning import ListOptions, input_lists, plan_tree, write_lists
from igcnet.data.records import RecordFile
from igcnet.data.trees import FolderTree, open_tree
from igcnet.data.workers import find_damage
from igcnet.data.writing import record_writer
from igcnet.errors import DataError, IgcnetError, UsageError

AS_IS = Encoding(pass_through=True)


def pack_tree(prefix, root, encoding=AS_IS, workers=1, max_bad=0, **options):
    """Pack a tree as the command does; returns what was packed and the warnings."""
    with open_tree(root, prefix.parent) as tree:
        list_options = ListOptions(**options)
        plans, classes, warnings = plan_tree(str(prefix), tree, str(root), list_options)
        packed = pack(plans, classes, encoding, list_options.check()._asdict(), workers, max_bad)
    return packed, warnings


def contents(folder):
    """Name and content of every file in `folder`."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz'])
def test_archive_gives_the_same_records(tmp_path, mode):
    root = make_tree(tmp_path / 'images', ['train/cat', 'train/dog', 'test/cat', 'test/dog'])
    archive = make_tar(tmp_path / 'images.tar', root, mode)
    pack_tree(tmp_path / 'from_folder', root)
    pack_tree(tmp_path / 'from_archive', archive)
    assert contents(tmp_path / 'from_archive') == contents(tmp_path / 'from_folder')
    assert len(contents(tmp_path / 'from_folder')) == 8


def test_pack_class_folders(tmp_path):
    root = make_tree(tmp_path / 'images', ['dog', 'cat'])
    packed, warnings = pack_tree(tmp_path / 'out' / 'pets', root)
    assert [(result.records, result.skipped) for result in packed] == [(8, 0)] and not warnings
    assert sorted(contents(tmp_path / 'out')) == ['pets-manifest.json', 'pets.idx', 'pets.lst',
                                                  'pets.rec']
    records = RecordFile(tmp_path / 'out' / 'pets')
    assert records.classes == ['cat', 'dog']
    items = read_list(tmp_path / 'out' / 'pets.lst')
    assert [item.key for item in items] == records.keys.tolist() != sorted(records.keys.tolist())
    for position, item in enumerate(items):
        record = records.read(position)
        assert record.image == (root / item.name).read_bytes()
        assert (record.label, record.id) == (item.label, item.key)
        assert item.name.startswith(['cat', 'dog'][int(item.label)])


def test_manifest(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 3)
    (root / 'dog' / '2.jpg').unlink()
    pack_tree(tmp_path / 'out' / 'x', root, Encoding(quality=80), seed=5)
    manifest = json.loads((tmp_path / 'out' / 'x-manifest.json').read_text())
    assert manifest['format'] == 'igcnet-records' and manifest['format_version'] == 1
    assert manifest['classes'] == ['cat', 'dog']
    assert (manifest['records'], manifest['records_per_class']) == (5, [3, 2])
    assert manifest['source'] == {'kind': 'class-folders'}
    assert manifest['options'] == {
        'exts': ['.jpeg', '.jpg', '.png'], 'recursive': False, 'shuffle': True, 'seed': 5,
        'chunks': 1, 'train_ratio': 1.0, 'test_ratio': 0.0, 'stratified': False,
        'split_by_folder': False, 'pass_through': False, 'resize': 0, 'center_crop': False,
        'quality': 80, 'color': 1, 'encoding': '.jpg', 'interp': 'bilinear'}
    for part in ('rec', 'idx', 'lst'):
        data = (tmp_path / 'out' / ('x.' + part)).read_bytes()
        assert manifest['sha256'][part] == hashlib.sha256(data).hexdigest()
    assert str(tmp_path) not in (tmp_path / 'out' / 'x-manifest.json').read_text()


def test_bytes_do_not_depend_on_workers_or_place(tmp_path):
    root = make_tree(tmp_path / 'images', ['a', 'b', 'c'], 30)
    encoding = Encoding(resize=16, center_crop=True)
    pack_tree(tmp_path / 'one' / 'x', root, encoding, workers=1, train_ratio=0.8)
    pack_tree(tmp_path / 'three' / 'x', root, encoding, workers=3, train_ratio=0.8)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'three')
    pack_tree(tmp_path / 'seed' / 'x', root, encoding, seed=1, train_ratio=0.8)
    assert (contents(tmp_path / 'seed')['x_train.idx'] != contents(tmp_path / 'one')['x_train.idx'])
    assert sorted(contents(tmp_path / 'one')) == [
        'x_%s%s' % (part, end) for part in ('train', 'val')
        for end in ('-manifest.json', '.idx', '.lst', '.rec')]


def test_encoding_options(tmp_path):
    root = make_tree(tmp_path / 'images', ['a', 'b'], 2)

    def first(**options):
        pack_tree(tmp_path / 'out' / 'x', root, Encoding(**options), shuffle=False)
        return RecordFile(tmp_path / 'out' / 'x').read(0).image

    original = decode_image((root / 'a' / '0.jpg').read_bytes(), 'x')
    assert np.array_equal(decode_image(first(encoding='.png'), 'x'), original)
    assert len(first(quality=20)) < len(first())
    assert decode_image(first(resize=10), 'x').shape == (10, 15, 3)
    assert decode_image(first(center_crop=True), 'x').shape == (20, 20, 3)
    assert decode_image(first(color=0), 'x', -1).shape == (20, 30)
    smaller = decode_image(first(resize=10, encoding='.png', interp='area'), 'x')
    assert np.array_equal(smaller, cv2.resize(original, (15, 10), interpolation=cv2.INTER_AREA))
    assert first(pass_through=True) == (root / 'a' / '0.jpg').read_bytes()


@pytest.mark.parametrize('options, message', [
    ({'quality': 0}, '--quality 0: must be 1 to 100 for .jpg'),
    ({'quality': 101}, '--quality 101'),
    ({'quality': 10, 'encoding': '.png'}, '--quality 10: must be 1 to 9 for .png'),
    ({'resize': -1}, '--resize -1'),
    ({'resize': 65501}, '--resize 65501: must be 1 to 65500'),
    ({'pass_through': True, 'resize': 8}, '--pass-through keeps the bytes'),
    ({'pass_through': True, 'quality': 90}, '--pass-through keeps the bytes'),
    ({'color': 2}, '--color 2'),
    ({'encoding': '.gif'}, '--encoding .gif'),
    ({'resize': 8, 'interp': 'magic'}, '--interp magic: must be one of area bilinear cubic'),
    ({'interp': 'area'}, '--interp area: nothing is resized; give --resize'),
    ({'pass_through': True, 'resize': 8, 'interp': 'area'}, '--pass-through keeps the bytes'),
])
def test_encoding_options_that_cannot_work(options, message):
    with pytest.raises(UsageError, match=message):
        Encoding(**options).check()


BAD_FILES = {
    'empty.jpg': (b'', 'the file is empty'),
    'text.jpg': (b'hello world, no image', 'not an image in a known format'),
    'cut.jpg': (file_bytes(picture())[:700], 'truncated JPEG file'),
    'ends_early.jpg': (file_bytes(picture(seed=1))[:1000] + b'\xff\xd9', 'premature end'),
    'cut.png': (file_bytes(picture(), 'PNG')[:500], 'truncated PNG file'),
}


@pytest.mark.parametrize('encoding', [AS_IS, Encoding()])
def test_bad_images_are_reported(tmp_path, encoding):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'])
    for name, (data, _) in BAD_FILES.items():
        (root / 'cat' / name).write_bytes(data)
    with pytest.raises(DataError, match=r'5 of 13 images cannot be packed \(reasons in .*x-skipped'
                                        r'.txt\) and --max-bad is 0; nothing was written'):
        pack_tree(tmp_path / 'out' / 'x', root, encoding)
    assert list(contents(tmp_path / 'out')) == ['x-skipped.txt']
    lines = (tmp_path / 'out' / 'x-skipped.txt').read_text().splitlines()
    reasons = dict(line.split('\t') for line in lines)
    assert len(lines) == len(BAD_FILES)
    for name, (_, reason) in BAD_FILES.items():
        assert reason in reasons['cat/' + name]

    packed, _ = pack_tree(tmp_path / 'out' / 'x', root, encoding, max_bad=5)
    assert (packed[0].records, packed[0].skipped) == (8, 5)
    assert len(RecordFile(tmp_path / 'out' / 'x')) == 8
    manifest = json.loads((tmp_path / 'out' / 'x-manifest.json').read_text())
    assert (manifest['skipped'], manifest['records_per_class']) == (5, [4, 4])

    for name in BAD_FILES:
        (root / 'cat' / name).unlink()
    pack_tree(tmp_path / 'out' / 'x', root, encoding)
    assert not (tmp_path / 'out' / 'x-skipped.txt').exists()


def test_nothing_but_bad_images(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 1)
    for path in root.glob('*/*.jpg'):
        path.write_bytes(b'')
    with pytest.raises(DataError, match='none of the 2 images .* can be packed'):
        pack_tree(tmp_path / 'out' / 'x', root, max_bad=100)


def test_unreadable_by_mxnet_is_not_passed_through(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 1)
    (root / 'cat' / 'x.webp').write_bytes(file_bytes(picture(), 'WEBP'))
    with pytest.raises(DataError, match='1 of 3 images'):
        pack_tree(tmp_path / 'out' / 'x', root, exts=('jpg', 'WEBP'))
    assert 'a WebP file, which MXNet cannot read' in (
        tmp_path / 'out' / 'x-skipped.txt').read_text()
    packed, _ = pack_tree(tmp_path / 'out' / 'x', root, Encoding(), exts=('jpg', 'WEBP'))
    assert packed[0].records == 3


def test_all_parts_or_none(tmp_path):
    root = make_tree(tmp_path / 'images', ['train/cat', 'train/dog', 'test/cat', 'test/dog'])
    pack_tree(tmp_path / 'out', root)
    before = contents(tmp_path / 'out')
    (root / 'train' / 'cat' / 'new.jpg').write_bytes(file_bytes(picture(seed=9)))
    (root / 'test' / 'cat' / 'bad.jpg').write_bytes(b'bad')
    with pytest.raises(DataError, match='test-skipped.txt'):
        pack_tree(tmp_path / 'out', root)
    after = contents(tmp_path / 'out')
    assert after.pop('test-skipped.txt')
    assert after == before


def test_file_that_vanished_and_pipe(tmp_path):
    os.mkfifo(str(tmp_path / 'pipe.jpg'))
    (tmp_path / 'good.jpg').write_bytes(file_bytes(picture()))
    items = [Item(0, 0.0, 'gone.jpg'), Item(1, 0.0, 'pipe.jpg'), Item(2, 0.0, 'good.jpg')]
    plan = Plan(str(tmp_path / 'x'), items, str(tmp_path), {'kind': 'list'})
    assert pack([plan], None, AS_IS, {}, 1, 2)[0].records == 1
    assert (tmp_path / 'x-skipped.txt').read_text() == (
        'gone.jpg\tcannot be read (No such file or directory)\n'
        'pipe.jpg\tthe file is empty (0 bytes)\n')


def test_large_file_and_enlargement(tmp_path):
    """Files beyond one read arrive whole; a resize that asks for gigabytes is refused."""
    noise = np.random.RandomState(0).randint(0, 256, (300, 200, 3), np.uint8)
    root = tmp_path / 'images'
    for name, image in (('a/1.png', noise), ('b/1.png', np.zeros((2, 20000, 3), np.uint8))):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(file_bytes(image, 'PNG'))
    pack_tree(tmp_path / 'x', root, shuffle=False)
    assert RecordFile(tmp_path / 'x').read(0).image == (root / 'a' / '1.png').read_bytes()
    with pytest.raises(DataError, match='1 of 2 images'):
        pack_tree(tmp_path / 'y', root, Encoding(resize=300))
    assert '--resize 300 makes more than' in (tmp_path / 'y-skipped.txt').read_text()


def test_what_decoders_say():
    assert find_damage(b'Corrupt JPEG data: premature end of data segment\n').startswith('Corrupt')
    assert find_damage(b'Corrupt JPEG data: 43 extraneous bytes before marker 0xd9\n')
    assert find_damage(b'x\nPremature end of JPEG file\n') == 'Premature end of JPEG file'
    assert find_damage(b'Corrupt JPEG data: 2 extraneous bytes before marker 0xd9\n') is None
    assert find_damage(b'libpng warning: iCCP: known incorrect sRGB profile\n') is None


class Deadly:
    """Ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_dead_worker_is_one_line(tmp_path):
    items = [Item(key, 0.0, '%d.jpg' % key) for key in range(500)]
    plan = Plan(str(tmp_path / 'x'), items, lambda item: Deadly(), {'kind': 'list'})
    with pytest.raises(DataError, match=r'a worker process died .* from 0.jpg to \d+.jpg'):
        pack([plan], None, AS_IS, {}, 1)
    assert not contents(tmp_path)


@pytest.mark.parametrize('problem, message', [
    (OSError(errno.ENOSPC, 'full'), 'x.rec: cannot write: no space left'),
    (OSError(errno.EROFS, 'read-only'), 'x.rec: cannot write: not writable'),
])
def test_disk_errors_leave_nothing(tmp_path, problem, message):
    with pytest.raises(IgcnetError, match=message), record_writer(tmp_path / 'x') as writer:
        writer.add(Item(0, 0.0, 'a'), b'image')
        raise problem
    assert not contents(tmp_path)


def test_interrupt_leaves_the_old_files(tmp_path):
    for image in (b'old', b'new'):
        try:
            with record_writer(tmp_path / 'x') as writer:
                writer.add(Item(0, 0.0, 'a'), image)
                if image == b'new':
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    assert RecordFile(tmp_path / 'x').read(0).image == b'old'
    assert len(contents(tmp_path)) == 4


def test_label_without_name(tmp_path):
    with pytest.raises(DataError, match='label 2 has no name: there are 2 class names'), \
            record_writer(tmp_path / 'x', ['a', 'b']) as writer:
        writer.add(Item(0, 2.0, 'a'), b'image')


def test_results_are_not_input_lists(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'])
    prefix = str(tmp_path / 'out' / 'x')
    pack_tree(tmp_path / 'out' / 'x', root)
    assert input_lists(prefix) == []
    with open(prefix + '.lst', 'a') as file:
        file.write('99\t0\tcat/0.jpg\n')
    assert [path.name for path in input_lists(prefix)] == ['x.lst']
    write_lists(prefix, FolderTree(root), 'images', ListOptions(seed=1))
    assert [path.name for path in input_lists(prefix)] == ['x.lst']


def test_stock_mxnet_reads_the_records(tmp_path):
    import mxnet as mx
    root = make_tree(tmp_path / 'images', ['a', 'b', 'c'], 6, 'PNG')
    pack_tree(tmp_path / 'x', root, Encoding(resize=32, encoding='.png'))
    ours = RecordFile(tmp_path / 'x')
    images = [decode_image(ours.read(n).image, 'x') for n in range(len(ours))]
    labels = ours.labels().tolist()

    dataset = mx.gluon.data.vision.ImageRecordDataset(str(tmp_path / 'x.rec'))
    for position, expected in enumerate(images):
        image, label = dataset[position]
        assert np.array_equal(image.asnumpy(), expected) and label == labels[position]

    reader = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / 'x.rec'), path_imgidx=str(tmp_path / 'x.idx'),
        data_shape=(3, 32, 32), batch_size=6, shuffle=False, preprocess_threads=1)
    batches = list(reader)
    read = np.concatenate([batch.data[0].asnumpy() for batch in batches]).transpose(0, 2, 3, 1)
    assert np.concatenate([batch.label[0].asnumpy() for batch in batches]).tolist() == labels
    for image, stored in zip(read, images):
        left = (stored.shape[1] - 32) // 2
        assert np.array_equal(image, stored[:32, left:left + 32])


def test_packing_needs_no_mxnet():
    """The packer starts fast because it never imports MXNet."""
    code = ('import sys, igcnet.data.planning, igcnet.data.packing, igcnet.cli.im2rec_pack\n'
            'assert "mxnet" not in sys.modules')
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
