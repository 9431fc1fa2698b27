"""Which images a tree holds, in a folder or an archive, and what is refused."""

import io
import tarfile

import numpy as np
import pytest
from pictures import file_bytes, make_tar, make_tree, picture

from igcnet.data import trees
from igcnet.data.scanning import scan_tree
from igcnet.data.trees import FolderTree, TarTree, open_tree
from igcnet.errors import DataError


def names_of(scan):
    return {part: [(item.key, item.label, item.name) for item in items]
            for part, items in scan.parts.items()}


def test_class_folders():
    folders = {'': ['readme.txt'], 'b': ['2.JPG', '10.jpg', 'x.gif'], 'a': ['1.png'], 'empty': []}
    scan = scan_tree(folders, 'root')
    assert scan.classes == ['a', 'b']
    assert names_of(scan) == {'': [(0, 0.0, 'a/1.png'), (1, 1.0, 'b/10.jpg'),
                                   (2, 1.0, 'b/2.JPG')]}
    assert scan.warnings == [
        '2 files with other extensions were left out; found 1 .txt, 1 .gif',
        'root: 1 class folders have no images and get no number (empty)']


def test_nested_folders():
    folders = {'': [], 'a': ['1.jpg'], 'a/b': ['2.jpg'], 'a-c': ['3.jpg']}
    scan = scan_tree(folders, 'root')
    assert scan.classes == ['a', 'a-c']
    assert 'root: 1 images in deeper folders were left out (such as a/b/2.jpg)' in scan.warnings[0]
    scan = scan_tree(folders, 'root', recursive=True)
    assert scan.classes == ['a', 'a/b', 'a-c']  # the order of a walk, not of the text
    assert [item.label for item in scan.parts['']] == [0.0, 1.0, 2.0]


def test_split_tree():
    folders = {'': [], 'train': [], 'test': [], 'train/cat': ['1.jpg'], 'train/dog': ['1.jpg'],
               'test/dog': ['1.jpg']}
    scan = scan_tree(folders, 'root')
    assert scan.classes == ['cat', 'dog']
    assert names_of(scan) == {
        'train': [(0, 0.0, 'train/cat/1.jpg'), (1, 1.0, 'train/dog/1.jpg')],
        'test': [(0, 1.0, 'test/dog/1.jpg')]}
    assert scan.warnings == ['test has no images of 1 classes (cat)']
    folders['test/cow'] = ['1.jpg']
    with pytest.raises(DataError, match='root/test: class folder cow is not in train'):
        scan_tree(folders, 'root')


def test_train_and_test_can_be_classes():
    folders = {'': [], 'train': ['1.jpg'], 'test': ['1.jpg']}
    assert scan_tree(folders, 'root').classes == ['test', 'train']


def test_wrapping_folder_of_an_archive():
    folders = {'': [], 'cifar': [], 'cifar/train': [], 'cifar/test': [],
               'cifar/train/a': ['1.jpg'], 'cifar/test/a': ['1.jpg']}
    scan = scan_tree(folders, 'x.tar', is_archive=True)
    assert (scan.classes, sorted(scan.parts)) == (['a'], ['test', 'train'])
    assert scan.parts['test'][0].name == 'cifar/test/a/1.jpg'
    only = scan_tree({'': [], 'cat': ['1.jpg']}, 'x.tar', is_archive=True)
    assert only.classes == ['cat']


@pytest.mark.parametrize('folders, message', [
    ({'': []}, 'root: no images in it'),
    ({'': ['a.gif', 'b.gif'], 'c': []}, r'no images in it .*; found 2 .gif'),
    ({'': ['1.jpg'], 'a': ['1.jpg']}, r'1 images lie beside the class folders \(such as 1.jpg\)'),
    ({'': ['1.jpg', '2.jpg']}, 'root: 2 images lie beside the class folders'),
    ({'': [], 'a': [], 'a/b': ['1.jpg']}, r'deeper \(such as a/b/1.jpg\); --recursive makes'),
    ({'': [], 'a': ['x\ty.jpg']}, "'a': its name or that of a file in it has a tab"),
    ({'': [], '\udcff': ['x.jpg']}, 'must have a name in UTF-8'),
])
def test_trees_that_are_refused(folders, message):
    with pytest.raises(DataError, match=message):
        scan_tree(folders, 'root')


def test_folder_tree_follows_links_but_not_up(tmp_path):
    make_tree(tmp_path / 'real', ['a'], 1)
    (tmp_path / 'real' / '.hidden').mkdir()
    (tmp_path / 'real' / 'a' / '._0.jpg').write_bytes(b'x')
    (tmp_path / 'real' / 'b').symlink_to(tmp_path / 'real' / 'a')
    (tmp_path / 'real' / 'a' / 'up').symlink_to(tmp_path / 'real')
    assert FolderTree(tmp_path / 'real').folders() == {'': [], 'a': ['0.jpg'], 'b': ['0.jpg']}


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match='none: cannot read this folder or archive'), \
            open_tree(tmp_path / 'none', tmp_path):
        pass


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_damaged_archives(tmp_path, mode):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'])
    data = make_tar(tmp_path / 'whole.tar', root, mode).read_bytes()
    damaged = tmp_path / 'damaged.tar'
    for size in (0, 100, 600, len(data) // 2):
        damaged.write_bytes(data[:size])
        with pytest.raises(DataError, match='damaged.tar: '), open_tree(damaged, tmp_path):
            pass
    damaged.write_bytes(np.random.RandomState(0).bytes(2000))
    with pytest.raises(DataError, match='damaged.tar: not a readable tar'), \
            open_tree(damaged, tmp_path):
        pass


def test_archive_members_outside_are_only_names(tmp_path):
    data = file_bytes(picture())
    with tarfile.open(str(tmp_path / 'x.tar'), 'w') as archive:
        for name in ('../evil/1.jpg', '/abs/1.jpg', './cat/1.jpg'):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo('cat/link.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    with open(str(tmp_path / 'x.tar'), 'rb') as file:
        tree = TarTree(file, 'x.tar')
        assert tree.folders() == {'': [], 'abs': ['1.jpg'], 'cat': ['1.jpg']}
        assert tree.read('cat/1.jpg') == data
        with pytest.raises(DataError, match='no file cat/link.jpg in this archive'):
            tree.read('cat/link.jpg')


def test_split_by_folder_can_be_forced():
    folders = {'': [], 'train': [], 'train/a': ['1.jpg'], 'docs': ['x.txt'], '__MACOSX': []}
    with pytest.raises(DataError, match='no images right in its class folders'):
        scan_tree(folders, 'root')
    scan = scan_tree(folders, 'root', split_by_folder=True)
    assert scan.classes == ['a'] and names_of(scan) == {'train': [(0, 0.0, 'train/a/1.jpg')]}


@pytest.mark.parametrize('folders, message', [
    ({'cat': ['1.jpg'], 'dog': ['2.jpg']}, 'root: the folder cat is no part'),
    ({'val': [], 'val/a': ['1.jpg']}, 'root: there is no folder train'),
    ({'': ['1.jpg'], 'train': [], 'train/a': ['1.jpg']}, 'root: 1 images lie beside the folders'),
    ({'train': [], 'train/a': ['1.jpg'], 'val': [], 'val/a': ['1.jpg'], 'valid': [],
      'valid/a': ['1.jpg']}, 'folders val and valid are both the part val'),
])
def test_split_by_folder_that_cannot_be(folders, message):
    with pytest.raises(DataError, match=message):
        scan_tree({'': [], **folders}, 'root', split_by_folder=True)


@pytest.mark.parametrize('form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize('name', ['a/1.jpg', 'a/' + 'b' * 90 + '/' + 'c' * 60 + '.jpg',
                                  'a/caf\u00e9.jpg', 'a/link.jpg'])
def test_quick_reading_of_archives_agrees_with_tarfile(tmp_path, monkeypatch, form, name):
    """Long names, other alphabets and links in each form of archive."""
    path = tmp_path / 'x.tar'
    with tarfile.open(str(path), 'w', format=form) as archive:
        for number, member in enumerate(['./b/0.jpg', name, 'b/last.jpg']):
            info = tarfile.TarInfo(member)
            info.size = 700 * number
            if 'link' in member:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, '0.jpg', 0
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    with open_tree(path, tmp_path) as tree:
        quick = tree._members
        content = {member: tree.read(member) for member in quick}
    monkeypatch.setattr(trees, '_plain_members', lambda file, size: None)
    with open_tree(path, tmp_path) as tree:
        assert quick == tree._members
        assert content['b/last.jpg'] == b'\2' * 1400
    assert len(quick) == (2 if 'link' in name else 3)


def test_plain_archives_are_read_quickly(tmp_path, monkeypatch):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'])
    path = make_tar(tmp_path / 'x.tar', root, 'w')
    monkeypatch.setattr(tarfile, 'open', None)
    with open_tree(path, tmp_path) as tree:
        assert sorted(tree.folders()['cat']) == ['0.jpg', '1.jpg', '2.jpg', '3.jpg']
        assert tree.read('dog/1.jpg') == (root / 'dog' / '1.jpg').read_bytes()
