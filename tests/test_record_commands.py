"""verify, info, merge and split: every fault is named, and nothing is lost."""

import json
import struct

import numpy as np
import pytest
from pictures import file_bytes, make_tree, picture
from synthetic import write_records

from igcnet.cli.im2rec_pack import main
from igcnet.data.images import decode_image
from igcnet.data.lists import read_list
from igcnet.data.records import RecordFile, RecordPaths
from igcnet.data.verifying import verify


@pytest.fixture
def prefix(tmp_path):
    """A data set of 24 images in two classes."""
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 12)
    assert main([str(tmp_path / 'x'), str(root), '--num-thread', '1']) == 0
    return str(tmp_path / 'x')


def damage(prefix, position, change):
    """Apply `change(image)` to the bytes of one image, in the file."""
    records = RecordFile(prefix)
    image = bytearray(records.read(position).image)
    start = records._bytes.find(bytes(image), int(records.offsets[position]))
    change(image)
    content = bytearray(RecordPaths.of(prefix).rec.read_bytes())
    content[start:start + len(image)] = image
    RecordPaths.of(prefix).rec.write_bytes(bytes(content))


def edit(path, change):
    """Rewrite the manifest by `change(manifest)`."""
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_good_records(prefix, capsys):
    capsys.readouterr()
    assert main(['verify', prefix, '--num-thread', '1']) == 0
    assert capsys.readouterr().out == '%s: 24 records, all good\n' % prefix


def test_damaged_image_and_record_are_named(prefix, capsys):
    paths = RecordPaths.of(prefix)
    names = RecordFile(prefix).source_names()
    keys = RecordFile(prefix).keys.tolist()

    def cut(image):
        image[200:] = bytes(len(image) - 200)
    damage(prefix, 3, cut)
    content = bytearray(paths.rec.read_bytes())
    content[RecordFile(prefix).offsets[7]] ^= 0xff
    paths.rec.write_bytes(bytes(content))
    capsys.readouterr()
    assert main(['verify', prefix, '--num-thread', '1']) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith('%s, record 3 (key %d): %s: truncated JPEG'
                               % (paths.rec, keys[3], names[keys[3]]))
    assert lines[1].startswith('%s, record 7 (key %d): %s: no record starts at offset'
                               % (paths.rec, keys[7], names[keys[7]]))
    assert lines[2].startswith('%s: its checksum is not that of the manifest' % paths.rec)
    assert len(lines) == 3
    assert captured.err.splitlines()[-1] == (
        'error: %s: 3 problems in 24 records; they are listed above' % prefix)


def test_index_list_and_manifest_are_compared(prefix):
    paths = RecordPaths.of(prefix)
    lines = paths.idx.read_text().splitlines()
    paths.idx.write_text('\n'.join(lines[:4] + lines[5:]) + '\n')
    items = paths.lst.read_text().splitlines()
    key, label, name = items[0].split('\t')
    items[0] = '%s\t%d\t%s' % (key, 1 - float(label), name)
    del items[1]
    paths.lst.write_text('\n'.join(items) + '\n')
    edit(paths.manifest, lambda manifest: manifest.update(records_per_class=[20, 4]))
    problems = '\n'.join(verify(prefix, 1).problems)
    start, stop = (int(lines[place].split('\t')[1]) for place in (4, 5))
    for expected in ('x.idx: bytes %d to %d of the record file are not in' % (start, stop),
                     'its label is', 'not in the list x.lst',
                     'x.idx: its checksum', 'x.lst: its checksum',
                     '24 records according to the manifest, 23 in the index',
                     '20 records of class 0 according to the manifest'):
        assert expected in problems
    assert 'x.rec: its checksum' not in problems


def test_labels_without_class_and_double_keys(prefix):
    paths = RecordPaths.of(prefix)
    edit(paths.manifest, lambda manifest: manifest.update(classes=['cat']))
    lines = paths.idx.read_text().splitlines()
    lines[1] = '%s\t%s' % (lines[0].split('\t')[0], lines[1].split('\t')[1])
    paths.idx.write_text('\n'.join(lines) + '\n')
    problems = '\n'.join(verify(prefix, 1).problems)
    assert 'its label is 1, but the manifest names the classes 0 to 0' in problems
    assert 'key %s stands 2 times' % lines[0].split('\t')[0] in problems


def test_records_of_others(tmp_path, capsys):
    """No list and no manifest, as im2rec leaves them; and no index."""
    images = [file_bytes(picture(seed=seed)) for seed in range(3)]
    path = write_records(tmp_path / 'x', images + [file_bytes(picture(), 'WEBP')], [0.0] * 4)
    found = verify(path, 1)
    assert len(found.problems) == 1 and 'record 3 (key 3): a WebP image' in found.problems[0]
    assert [note.split(' is missing')[0][-13:] for note in found.notes] == [
        str(tmp_path / 'x.lst')[-13:], str(tmp_path / 'x-manifest.json')[-13:]]
    path = write_records(tmp_path / 'y', images, [0.0] * 3, index=False)
    assert verify(path, 1).problems == ['%s: the index is missing' % (tmp_path / 'y.idx')]
    assert main(['verify', str(tmp_path / 'none')]) == 1
    assert 'cannot read this record file' in capsys.readouterr().err


def test_a_thousand_mutated_records(tmp_path):
    """Each record with a damaged frame, header or image is named, or is whole all the same."""
    images = [file_bytes(picture(20, 24, seed)) for seed in range(1000)]
    path = write_records(tmp_path / 'x', images, np.arange(1000) % 7, classes=list('abcdefg'))
    offsets = RecordFile(path).offsets.tolist() + [path.stat().st_size]
    content, draw = bytearray(path.read_bytes()), np.random.RandomState(0)
    for start, stop in zip(offsets, offsets[1:]):
        # A third each in the frame (8 bytes), in the header (24 bytes) and in the image.
        low, high = [(0, 8), (8, 32), (32, stop - start)][draw.randint(3)]
        content[start + draw.randint(low, high)] ^= 1 << draw.randint(8)
    path.write_bytes(bytes(content))
    problems = verify(path, 2).problems
    named = {int(line.split('record ')[1].split()[0]) for line in problems if ', record ' in line}
    damaged = RecordFile(path, check_ends=False)
    assert 400 < len(named) < 1000
    for position in set(range(1000)) - named:
        # What verify lets pass has a label in range and an image that decodes.
        record = damaged.read(position)
        assert record.label in range(7)
        assert decode_image(record.image, 'x').size


def test_info(prefix, capsys):
    capsys.readouterr()
    assert main(['info', prefix]) == 0
    text = capsys.readouterr().out
    size = RecordPaths.of(prefix).rec.stat().st_size
    for line in ('records      24 in %.1f MB' % (size / 1e6), 'first image  JPEG, 30 x ',
                 'source       kind class-folders', 'quality 95', 'order        shuffle yes, seed',
                 '    0  cat        12', '    1  dog        12'):
        assert line in text


def test_merge(prefix, tmp_path, capsys):
    root = make_tree(tmp_path / 'more', ['cat', 'dog'], 2)
    assert main([str(tmp_path / 'y'), str(root), '--num-thread', '1']) == 0
    assert main(['merge', str(tmp_path / 'm'), prefix, str(tmp_path / 'y')]) == 0
    assert 'wrote %s.rec: 28 records' % (tmp_path / 'm') in capsys.readouterr().out
    one, two, merged = (RecordFile(path) for path in (prefix, tmp_path / 'y', tmp_path / 'm'))
    assert merged.keys.tolist() == list(range(28)) and merged.classes == ['cat', 'dog']
    for position in range(28):
        source = one.read(position) if position < 24 else two.read(position - 24)
        record = merged.read(position)
        assert (record.label, record.image, record.id) == (source.label, source.image, position)
    names = [item.name for item in read_list(tmp_path / 'm.lst')]
    assert names[:24] == [item.name for item in read_list(prefix + '.lst')]
    assert merged.manifest['records_per_class'] == [14, 14]
    assert merged.manifest['options']['quality'] == 95
    assert not verify(tmp_path / 'm', 1).problems


@pytest.mark.parametrize('classes, reason', [
    (['dog', 'cat'], 'the same classes have other numbers'),
    (['cat', 'cow'], 'only one of them has cow, dog'),
    (None, 'only one of them has class names'),
])
def test_merge_needs_the_same_classes(prefix, tmp_path, capsys, classes, reason):
    write_records(tmp_path / 'y', [file_bytes(picture())], [0.0], classes=classes)
    assert main(['merge', str(tmp_path / 'm'), prefix, str(tmp_path / 'y')]) == 1
    assert reason in capsys.readouterr().err and not (tmp_path / 'm.rec').exists()
    assert main(['merge', prefix, prefix]) == 2
    assert 'is both input and output' in capsys.readouterr().err


def test_split(prefix, tmp_path, capsys):
    assert main(['split', prefix, '--ratio', '0.75', '--stratified']) == 0
    assert main(['split', prefix, '--parts', '5', '--seed', '1']) == 0
    whole = RecordFile(prefix)
    expected = {int(key): whole.read(place) for place, key in enumerate(whole.keys)}
    for names, sizes in ((['train', 'val'], [18, 6]), (range(5), [5, 5, 5, 5, 4])):
        parts = [RecordFile('%s_%s' % (prefix, name)) for name in names]
        assert [len(part) for part in parts] == sizes
        found = {int(key): part.read(place) for part in parts
                 for place, key in enumerate(part.keys)}
        assert {key: (record.label, record.image) for key, record in found.items()} == {
            key: (record.label, record.image) for key, record in expected.items()}
    train = RecordFile(prefix + '_train')
    assert train.manifest['records_per_class'] == [9, 9]
    assert train.manifest['source']['of'] == 'x'
    places = [whole.keys.tolist().index(key) for key in train.keys.tolist()]
    assert places == sorted(places)  # the order stays
    assert not verify(prefix + '_train', 1).problems


@pytest.mark.parametrize('arguments, message', [
    (['--parts', '1'], '--parts 1: must be at least 2'), (['--ratio', '1'], '--ratio 1: must lie'),
    (['--parts', '30'], '--parts 30: there are only 24 records'),
    (['--parts', '2', '--stratified'], '--stratified goes with --ratio'),
    ([], 'one of the arguments --parts --ratio is required'),
])
def test_split_mistakes(prefix, capsys, arguments, message):
    assert main(['split', prefix, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_several_labels_survive(tmp_path):
    images = [file_bytes(picture(seed=seed)) for seed in range(4)]
    write_records(tmp_path / 'x', images, [[1.5, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert main(['split', str(tmp_path / 'x'), '--parts', '2']) == 0
    assert main(['merge', str(tmp_path / 'm'), str(tmp_path / 'x_0'), str(tmp_path / 'x_1')]) == 0
    labels = [RecordFile(tmp_path / 'm').read(place).label.tolist() for place in range(4)]
    assert labels == [[1.5, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]
    assert struct.unpack('<I', (tmp_path / 'm.rec').read_bytes()[8:12]) == (2,)


def test_a_prefix_named_as_a_command(tmp_path, monkeypatch):
    make_tree(tmp_path / 'images', ['cat', 'dog'])
    monkeypatch.chdir(tmp_path)
    assert main(['./verify', 'images', '--num-thread', '1']) == 0
    assert len(RecordFile('verify')) == 8
    assert main(['verify', 'verify']) == 0
