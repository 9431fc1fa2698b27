"""Digits and CIFAR: right images and labels, and no file can execute anything."""

import os
import pickle
import struct
import time

import numpy as np
import pytest
from pictures import make_tar

from igcnet.data.arrays import load_cifar, load_digits
from igcnet.data.encoding import Encoding
from igcnet.data.images import decode_image
from igcnet.data.packing import pack
from igcnet.data.plain_pickle import read_pickle
from igcnet.data.planning import plan_arrays
from igcnet.data.records import RecordFile
from igcnet.data.trees import FolderTree, open_tree
from igcnet.errors import DataError


def test_digits(tmp_path):
    dataset = load_digits()
    train, test = dataset.parts['train'], dataset.parts['test']
    assert train.images.shape[1:] == (32, 32, 3) and train.images.dtype == np.uint8
    assert len(train.labels) + len(test.labels) == 1797
    assert not set(train.names) & set(test.names)
    for number in range(10):
        share = test.labels.count(number) / (train.labels.count(number) + test.labels.count(number))
        assert abs(share - 0.2) < 0.01
    assert dataset.classes == list('0123456789')
    plans = plan_arrays(str(tmp_path / 'digits'), dataset, {'kind': 'digits'}, 100)
    pack(plans, dataset.classes, Encoding(encoding='.png'), {}, 1)
    records = RecordFile(tmp_path / 'digits' / 'test.rec')
    assert len(records) == len(test.labels)
    for position in (0, 17):
        record, row = records.read(position), int(records.keys[position])
        assert np.array_equal(decode_image(record.image, 'x'), test.images[row])
        assert record.label == test.labels[row]


def cifar_batch(rows, classes, seed=0):
    draw = np.random.RandomState(seed)
    return draw.randint(0, 256, (rows, 3072), np.uint8), draw.randint(0, classes, rows).tolist()


def python_2_pickle(pixels, labels, label_key):
    """A batch as Python 2 wrote it, protocol 2: what the published files look like."""
    def text(value):
        return b'U' + struct.pack('<B', len(value)) + value

    def number(value):
        return b'K' + struct.pack('<B', value)

    shape = b'M' + struct.pack('<H', len(pixels)) + b'M' + struct.pack('<H', 3072) + b'\x86'
    array = (b'cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\x00\x85'
             + text(b'b') + b'\x87R' + b'(K\x01' + shape
             + b'cnumpy\ndtype\n' + text(b'u1') + b'K\x00K\x01\x87R(K\x03' + text(b'|')
             + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
             + b'T' + struct.pack('<i', pixels.size) + pixels.tobytes() + b'tb')
    return (b'\x80\x02}q\x00(' + text(b'data') + array
            + text(label_key) + b']q\x02(' + b''.join(map(number, labels)) + b'e'
            + text(b'batch_label') + text(b'a batch') + b'u.')


def write_cifar(folder, dataset, form):
    """The files of CIFAR with 6 images each; returns pixels and labels of the train part."""
    folder.mkdir(parents=True)
    classes = 10 if dataset == 'cifar10' else 100
    key = b'labels' if dataset == 'cifar10' else b'fine_labels'
    names = [b'class %d' % number if form == 'python' else b'class_%d' % number
             for number in range(classes)]
    train = ['data_batch_%d' % number for number in range(1, 6)] if classes == 10 else ['train']
    test = 'test_batch' if classes == 10 else 'test'
    batches = []
    for seed, name in enumerate(train + [test]):
        pixels, labels = cifar_batch(6, classes, seed)
        batches.append((pixels, labels))
        if form == 'python':
            (folder / name).write_bytes(python_2_pickle(pixels, labels, key))
        else:
            row = ((lambda label: bytes([label])) if classes == 10
                   else (lambda label: bytes([label // 5, label])))
            (folder / (name + '.bin')).write_bytes(
                b''.join(row(label) + image.tobytes() for image, label in zip(pixels, labels)))
    if form == 'python':
        meta, names_key = ('batches.meta', b'label_names') if classes == 10 else (
            'meta', b'fine_label_names')
        (folder / meta).write_bytes(pickle.dumps({names_key: names}, 3))
    else:
        meta = 'batches.meta.txt' if classes == 10 else 'fine_label_names.txt'
        (folder / meta).write_bytes(b'\n'.join(names) + b'\n\n')
    return (np.concatenate([pixels for pixels, _ in batches[:-1]]),
            sum((labels for _, labels in batches[:-1]), []))


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
@pytest.mark.parametrize('form', ['python', 'binary'])
@pytest.mark.parametrize('archived', [False, True])
def test_cifar(tmp_path, dataset, form, archived):
    pixels, labels = write_cifar(tmp_path / 'root' / 'cifar', dataset, form)
    root = make_tar(tmp_path / 'c.tar.gz', tmp_path / 'root') if archived else tmp_path / 'root'
    with open_tree(root, tmp_path) as tree:
        loaded = load_cifar(dataset, tree, 'root')
    train = loaded.parts['train']
    assert loaded.form == form and len(loaded.classes) == (10 if dataset == 'cifar10' else 100)
    assert loaded.classes[3] == ('class 3' if form == 'python' else 'class_3')
    assert list(train.labels) == labels
    assert np.array_equal(train.images.transpose(0, 3, 1, 2).reshape(-1, 3072), pixels)
    assert len(loaded.parts['test'].labels) == 6
    assert train.names[0].endswith('/00000') and len(set(train.names)) == len(labels)


def test_cifar_refuses(tmp_path):
    folder = tmp_path / 'cifar'
    write_cifar(folder, 'cifar10', 'python')

    def load():
        return load_cifar('cifar10', FolderTree(folder), 'cifar')

    def refused(name, data, message):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            load()
        (folder / name).write_bytes(kept)

    whole = (folder / 'test_batch').read_bytes()
    refused('test_batch', whole[:-30], 'test_batch: not a readable CIFAR file')
    refused('test_batch', b'', 'test_batch: not a readable CIFAR file')
    refused('test_batch', pickle.dumps([1]), 'test_batch: not a CIFAR file: it holds no dictionary')
    refused('test_batch', pickle.dumps({b'data': 1, b'labels': [1]}, 3), 'not a batch of CIFAR')
    refused('test_batch', whole.replace(b'u1K\0', b'f4K\0'), 'not a batch of CIFAR')
    pixels, labels = cifar_batch(6, 10)
    refused('test_batch', python_2_pickle(pixels, labels[:-1], b'labels'), 'not a batch of CIFAR')
    refused('test_batch', python_2_pickle(pixels, [10] * 6, b'labels'), 'labels from 10 to 10')
    refused('batches.meta', pickle.dumps({b'label_names': [b'a']}, 3), '1 different class names')
    refused('batches.meta', pickle.dumps({}, 3), 'no list label_names in it')
    load()
    (folder / 'batches.meta').unlink()
    with pytest.raises(DataError, match='batches.meta with the class names is missing'):
        load()
    (folder / 'data_batch_3').unlink()
    with pytest.raises(DataError, match='cifar: not the files of cifar10'):
        load()
    binary = tmp_path / 'binary'
    write_cifar(binary, 'cifar10', 'binary')
    data = (binary / 'test_batch.bin').read_bytes()
    (binary / 'test_batch.bin').write_bytes(data[:-1])
    with pytest.raises(DataError, match='are not rows of 3073'):
        load_cifar('cifar10', FolderTree(binary), 'binary')


class Attack:
    """Pickles to a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_pickle_executes_nothing(tmp_path, protocol):
    folder = tmp_path / 'cifar'
    write_cifar(folder, 'cifar10', 'python')
    for attack in (Attack(tmp_path / 'pwned'), {b'data': Attack(tmp_path / 'pwned')}):
        (folder / 'data_batch_1').write_bytes(pickle.dumps(attack, protocol))
        with pytest.raises(DataError, match='data_batch_1: not a'):
            load_cifar('cifar10', FolderTree(folder), 'cifar')
    assert not (tmp_path / 'pwned').exists()
    pickle.loads(pickle.dumps(Attack(tmp_path / 'pwned'), protocol))
    assert (tmp_path / 'pwned').exists()  # so the file is an attack indeed


def test_pickle_bombs_are_refused_quickly():
    start = time.monotonic()
    nested = b'\x80\x02}' + b')' + b'\x85' * 1000000 + b'K\x01s.'  # a million tuples deep, as key
    for data in (nested, b'\x80\x02}r\xff\xff\xff\xff.', b'\x80\x04\x8e' + b'\xff' * 8,
                 b'\x80\x02T\xff\xff\xff\x7f', b'(' * 100000 + b'e.', b''):
        try:
            assert read_pickle(data) == {}
        except ValueError as problem:
            assert '\n' not in str(problem)
    assert time.monotonic() - start < 20


def test_pickle_mutations():
    whole = python_2_pickle(*cifar_batch(2, 10), b'labels')
    draw = np.random.RandomState(5)
    head = whole.index(b'T') + 5
    for _ in range(2000):
        mutant = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            mutant[draw.randint(head) if draw.rand() < 0.7 else -draw.randint(1, 80)] = \
                draw.randint(256)
        try:
            read_pickle(bytes(mutant))
        except ValueError as problem:
            assert '\n' not in str(problem)


@pytest.mark.parametrize('protocol', [1, 2, 3, 4])
def test_pickle_plain_values(protocol):
    value = {'a': [1, -5, 2 ** 40, 1.5, None, True, False], 'b': {'c': (), 'd': (1, (2, 3), 4, 5)}}
    assert read_pickle(pickle.dumps(value, protocol)) == value
