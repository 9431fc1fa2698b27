"""Flat folders with a label file, as ImageNet's validation images come."""

import json

import pytest
from pictures import file_bytes, picture

from igcnet.cli.im2rec_pack import main
from igcnet.data.labelling import class_names, label_flat, read_labels
from igcnet.data.lists import read_list
from igcnet.data.records import RecordFile
from igcnet.errors import DataError

FOLDERS = {'': ['c.jpg', 'a.jpg', 'b.jpg', 'notes.txt']}


@pytest.mark.parametrize('text, names, expected, classes', [
    ('file\tpath\tclass\nb.jpg\tx\t7\na.jpg\tx\t2\nc.jpg\tx\t0\n', None, [2, 7, 0], None),
    ('a.jpg\tn02\nb.jpg\tn01\nc.jpg\tn02\n', None, [1, 0, 1], ['n01', 'n02']),
    ('n02\nn01\nn02\n', ['n03', 'n02', 'n01'], [1, 2, 1], ['n03', 'n02', 'n01']),
    ('2\n0\n1\n', None, [2, 0, 1], None),
    ('2\n0\n1\n', ['x', 'y', 'z'], [2, 0, 1], ['x', 'y', 'z']),
])
def test_forms(tmp_path, text, names, expected, classes):
    (tmp_path / 'l.txt').write_text(text)
    items, found, unlabelled = label_flat(FOLDERS, 'root', tmp_path / 'l.txt', names)
    assert [(item.key, item.label, item.name) for item in items] == [
        (key, float(label), name)
        for key, (label, name) in enumerate(zip(expected, ['a.jpg', 'b.jpg', 'c.jpg']))]
    assert (found, unlabelled) == (classes, [])


@pytest.mark.parametrize('text, names, message', [
    ('', None, 'l.txt: no labels in this file'),
    ('a.jpg\t1\nb.jpg\n', None, 'line 2: must be a file name, a tab and a class number'),
    ('1\n2\n', None, '2 labels for the 3 images in root'),
    ('a.jpg\t1\nd.jpg\t1\n', None, 'line 2: there is no image d.jpg in root'),
    ('a.jpg\t1\na.jpg\t1\n', None, 'line 2: a.jpg has a label already'),
    ('cat\ndog\ncow\n', ['cat', 'dog'], "line 3: 'cow' is none of the 2 class names"),
    ('1\n1000\n5\n', None, 'the ILSVRC2012_IDs of ImageNet'),
    ('0\n1\n2\n', ['a', 'b'], 'the numbers go up to 2, but there are 2 class names'),
])
def test_faults(tmp_path, text, names, message):
    (tmp_path / 'l.txt').write_text(text)
    with pytest.raises(DataError, match=message):
        label_flat(FOLDERS, 'root', tmp_path / 'l.txt', names)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match='cannot read this label file'):
        read_labels(tmp_path / 'none.txt')
    (tmp_path / 'n.txt').write_text('a\na\n')
    with pytest.raises(DataError, match='no class names, one a line and all different'):
        class_names(tmp_path / 'n.txt')


def test_command(tmp_path, capsys):
    """Class names come from the training records; an image without label is reported."""
    for place, name in enumerate(('train/n02/1.jpg', 'train/n01/1.jpg', 'val/v1.jpg', 'val/v2.jpg',
                                  'val/v3.jpg')):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(picture(seed=place)))
    labels = tmp_path / 'val.txt'
    labels.write_text('v1.jpg\tn02\nv3.jpg\tn01\n')
    assert main([str(tmp_path / 't'), str(tmp_path / 'train'), '--num-thread', '1']) == 0
    command = [str(tmp_path / 'v'), str(tmp_path / 'val'), '--labels', str(labels),
               '--class-names', str(tmp_path / 't'), '--pass-through', '--num-thread', '1']
    assert main(command) == 1
    assert (tmp_path / 'v-skipped.txt').read_text() == 'v2.jpg\tno line in the label file\n'
    assert main(command + ['--max-bad', '1', '--no-shuffle']) == 0
    assert RecordFile(tmp_path / 'v').classes == ['n01', 'n02']
    assert [(item.label, item.name) for item in read_list(tmp_path / 'v.lst')] == [
        (1.0, 'v1.jpg'), (0.0, 'v3.jpg')]
    manifest = json.loads((tmp_path / 'v-manifest.json').read_text())
    assert manifest['source'] == {'kind': 'labelled-folder'} and manifest['skipped'] == 1
    capsys.readouterr()
    assert main([*command, '--chunks', '2']) == 2
    assert '--chunks: --labels says which images there are' in capsys.readouterr().err
    assert main([str(tmp_path / 'v'), str(tmp_path / 'train'), '--class-names', 'x']) == 2
    assert '--class-names goes with --labels' in capsys.readouterr().err
    assert main([str(tmp_path / 'w'), str(tmp_path / 'val'), '--labels', str(labels),
                 '--list']) == 2
    assert '--labels: --list only writes lists' in capsys.readouterr().err
    (tmp_path / 'w.lst').write_text('0\t0\tv1.jpg\n')
    assert main([str(tmp_path / 'w'), str(tmp_path / 'val'), '--labels', str(labels)]) == 2
    assert '--labels: the lists that are there are packed' in capsys.readouterr().err
    assert (tmp_path / 'w.lst').read_text() == '0\t0\tv1.jpg\n'
