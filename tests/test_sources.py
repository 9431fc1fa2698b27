"""Sources of images: class numbers, names, and what is refused."""

import subprocess

import numpy as np
import pytest
from conftest import IGCNET
from synthetic import noise, write_records

from igcnet.data.images import decode_image, encode_image
from igcnet.data.reader import EvalReader
from igcnet.data.records import RecordFile
from igcnet.data.sources import open_source
from igcnet.errors import DataError, UsageError
from igcnet.registry import Preprocessing

IMAGES = noise(6, 8, 8)


def write_folder(root, names):
    """One image for each name, the first of `IMAGES` first."""
    for name, image in zip(names, IMAGES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image, '.png'))
    return root


def content(source):
    """Name, label and number in `IMAGES` of everything in a source."""
    rows = []
    for position in range(len(source)):
        label, data = source.read(position)
        image = decode_image(data, source.where(position))
        number, = [n for n, one in enumerate(IMAGES) if np.array_equal(one, image)]
        rows.append((source.name(position), label, number))
    return rows


def test_class_folders_are_numbered_in_sorted_order(tmp_path):
    write_folder(tmp_path, ['dog/b.png', 'cat/x.PNG', '10/1.png', 'dog/a.png', '9/1.png'])
    (tmp_path / 'dog' / 'notes.txt').write_text('no image')
    (tmp_path / '.cache').mkdir()
    source = open_source(tmp_path)
    assert source.classes == ['10', '9', 'cat', 'dog'] and source.labelled
    assert content(source) == [('10/1.png', 0.0, 2), ('9/1.png', 1.0, 4), ('cat/x.PNG', 2.0, 1),
                               ('dog/a.png', 3.0, 3), ('dog/b.png', 3.0, 0)]


def test_the_packer_numbers_classes_alike(tmp_path):
    root = write_folder(tmp_path / 'root',
                        ['b/1.png', 'a/1.png', 'c/x/1.png', 'B/1.png', 'a/2.png'])
    (root / 'aa').mkdir()
    subprocess.run([*IGCNET, 'im2rec_pack', str(tmp_path / 'packed'), str(root),
                    '--pass-through'], check=True, capture_output=True, timeout=60)
    packed, folder = open_source(tmp_path / 'packed'), open_source(root)
    assert packed.classes == folder.classes == ['B', 'a', 'b']
    assert sorted(content(packed)) == sorted(content(folder))
    # Deeper folders and folders without images are left out by both; the source says so.
    assert len(folder.warnings) == 2 and 'aa' in folder.warnings[0]


def test_a_folder_of_parts_is_refused(tmp_path):
    write_folder(tmp_path, ['train/a/1.png', 'val/a/2.png'])
    with pytest.raises(DataError, match=r'a data set in parts \(train, val\); name the folder'):
        open_source(tmp_path)


def test_given_classes_number_the_folders(tmp_path):
    write_folder(tmp_path, ['dog/a.png', 'cat/b.png'])
    source = open_source(str(tmp_path), classes=['wolf', 'dog', 'cat'])
    assert source.classes == ['wolf', 'dog', 'cat']
    assert sorted(content(source)) == [('cat/b.png', 2.0, 1), ('dog/a.png', 1.0, 0)]
    with pytest.raises(DataError, match='cat.*none of the 2 classes of the network .wolf, dog'):
        open_source(tmp_path, classes=['wolf', 'dog'])


def test_a_folder_of_images_has_no_labels(tmp_path):
    write_folder(tmp_path, ['b.png', 'a.jpeg', 'c.JPG'])
    source = open_source(tmp_path, classes=['x', 'y'])
    assert source.classes == ['x', 'y'] and not source.labelled
    assert content(source) == [('a.jpeg', None, 1), ('b.png', None, 0), ('c.JPG', None, 2)]


def test_image_files_keep_their_names_and_order(tmp_path):
    write_folder(tmp_path, ['b.png', 'sub/a.png'])
    files = [str(tmp_path / 'sub' / 'a.png'), tmp_path / 'b.png']
    assert content(open_source(files)) == [(str(files[0]), None, 1), (str(files[1]), None, 0)]
    assert content(open_source(files[1])) == [(str(files[1]), None, 0)]
    # One image of any suffix, and a missing one, are not taken for records.
    (tmp_path / 'b.bmp').write_bytes(files[1].read_bytes())
    assert content(open_source(tmp_path / 'b.bmp'))[0][2] == 0
    with pytest.raises(DataError, match=r'no\.png: no such image file'):
        open_source(tmp_path / 'no.png').read(0)


def test_records_are_named_by_their_list_or_their_key(tmp_path):
    path = write_records(tmp_path / 'a', IMAGES[:2], [3, 4], classes=['x'] * 5,
                         names=['x/1.png', 'y/2.png'])
    assert content(open_source(path)) == [('x/1.png', 3.0, 0), ('y/2.png', 4.0, 1)]
    (tmp_path / 'a.lst').unlink()
    source = open_source(RecordFile(tmp_path / 'a'))
    assert content(source) == [('record 0', 3.0, 0), ('record 1', 4.0, 1)]
    assert source.classes == ['x'] * 5
    assert open_source(source) is source


def test_a_damaged_list_is_one_line(tmp_path):
    path = write_records(tmp_path / 'a', IMAGES[:2], [3, 4])
    (tmp_path / 'a.lst').write_text('0\t3.0\tx.png\nnonsense\n')
    with pytest.raises(DataError, match=r'a\.lst, line 2'):
        open_source(path).name(0)


def test_evaluation_reads_folders_with_and_without_labels(tmp_path):
    settings = Preprocessing(8, (0, 0, 0), (1, 1, 1))
    write_folder(tmp_path / 'classes', ['b/1.png', 'a/1.png', 'a/2.png'])
    first, second = EvalReader(tmp_path / 'classes', 2, settings)
    assert first.labels.tolist() == [0, 0] and second.labels.tolist() == [1]
    assert np.array_equal(second.images[0], IMAGES[0].transpose(2, 0, 1))
    write_folder(tmp_path / 'flat', ['b.png', 'a.png'])
    reader = EvalReader(tmp_path / 'flat', 4, settings)
    batch, = reader
    assert batch.labels is None
    assert [reader.source.name(position) for position in batch.positions] == ['a.png', 'b.png']


@pytest.mark.parametrize('names, message', [
    ([], 'no images'), (['notes.txt'], 'no images'), (['a/notes.txt'], 'no images'),
    (['a/1.png', 'loose.png'], r'beside (the )?class folders')])
def test_folders_that_are_refused(tmp_path, names, message):
    write_folder(tmp_path, names)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_missing_things(tmp_path):
    with pytest.raises(DataError, match='nothing'):
        open_source(tmp_path / 'nothing')
    missing = open_source([tmp_path / 'gone.png'])
    with pytest.raises(DataError, match=r'gone\.png: no such image file'):
        missing.read(0)
    with pytest.raises(UsageError, match='list of images is empty'):
        open_source([])


def test_a_bad_file_is_named(tmp_path):
    write_folder(tmp_path, ['a/1.png', 'a/2.png'])
    (tmp_path / 'a' / '2.png').write_bytes(b'')
    settings = Preprocessing(8, (0, 0, 0), (1, 1, 1))
    with pytest.raises(DataError, match=r'a/2\.png: the file is empty'):
        list(EvalReader(tmp_path, 2, settings))
    reader = EvalReader(tmp_path, 2, settings, on_bad='skip')
    assert [len(batch.images) for batch in reader] == [1]
    assert list(reader.bad) == [1]
