"""Data sets that come as arrays: scikit-learn's digits, and CIFAR in its published files."""

from __future__ import annotations

import posixpath
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np

from igcnet.data.lists import Item
from igcnet.data.plain_pickle import Built, read_pickle
from igcnet.data.trees import Tree
from igcnet.errors import DataError, UsageError

DIGITS_TEST_PART = 0.2
# The held-apart digits are part of the data set's definition, so --seed does not move them.
DIGITS_SPLIT_SEED = 0
_CIFAR_ROW = 3 * 32 * 32


class ArrayPart(NamedTuple):
    """One part of a data set in memory.

    Attributes
    ----------
    images : numpy.ndarray or sequence of them
        uint8 (N, H, W, 3), RGB.
    labels : sequence of int
    names : sequence of str
        Source of each image, for the list.
    """

    images: Sequence[np.ndarray]
    labels: Sequence[int]
    names: Sequence[str]

    def items(self) -> List[Item]:
        """The images as items; an item's key is its row."""
        return [Item(row, float(label), name)
                for row, (label, name) in enumerate(zip(self.labels, self.names))]

    def fetch(self, item: Item) -> np.ndarray:
        """The array of one item."""
        return self.images[item.key]


class ArrayDataset(NamedTuple):
    """Parts by name, class names by number, and the form of the source."""

    parts: Dict[str, ArrayPart]
    classes: List[str]
    form: str


def load_digits() -> ArrayDataset:
    """scikit-learn's 1,797 handwritten digits as 32x32 RGB images.

    The 8x8 images (Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI machine
    learning repository) are enlarged bilinearly. A fixed fifth of each class is the part 'test'.

    Raises
    ------
    UsageError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise UsageError('--dataset digits needs scikit-learn, which is not installed: pip '
                         "install -c constraints.txt '.[dev]'") from None
    small, labels = load(return_X_y=True)
    grey = np.rint(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)
                       for image in grey])
    images = np.repeat(images[..., None], 3, axis=3)
    random = np.random.RandomState(DIGITS_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for number in range(10):
        rows = random.permutation(np.flatnonzero(labels == number))
        is_test[rows[:int(round(DIGITS_TEST_PART * len(rows)))]] = True
    parts = {}
    for part, chosen in (('train', ~is_test), ('test', is_test)):
        rows = np.flatnonzero(chosen)
        parts[part] = ArrayPart(images[rows], labels[rows].tolist(),
                                ['digits/%04d' % row for row in rows])
    return ArrayDataset(parts, [str(number) for number in range(10)], 'bundled')


class _CifarFiles(NamedTuple):
    """Names of one published form, and where its labels are."""

    parts: Dict[str, Tuple[str, ...]]
    names_file: str
    label_key: bytes     # python form
    names_key: bytes
    label_bytes: int     # binary form: bytes before the pixels, of which the last is the label


_PYTHON, _BINARY = 'python', 'binary'
_CIFAR10_BATCHES = tuple('data_batch_%d' % number for number in range(1, 6))
_CIFAR = {
    ('cifar10', _PYTHON): _CifarFiles({'train': _CIFAR10_BATCHES, 'test': ('test_batch',)},
                                      'batches.meta', b'labels', b'label_names', 1),
    ('cifar10', _BINARY): _CifarFiles({'train': tuple(name + '.bin' for name in _CIFAR10_BATCHES),
                                       'test': ('test_batch.bin',)},
                                      'batches.meta.txt', b'', b'', 1),
    ('cifar100', _PYTHON): _CifarFiles({'train': ('train',), 'test': ('test',)},
                                       'meta', b'fine_labels', b'fine_label_names', 2),
    ('cifar100', _BINARY): _CifarFiles({'train': ('train.bin',), 'test': ('test.bin',)},
                                       'fine_label_names.txt', b'', b'', 2),
}


def load_cifar(dataset: str, tree: Tree, where: str) -> ArrayDataset:
    """CIFAR-10 or CIFAR-100 (fine labels) from its published files, python or binary form.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html. The python form is a pickle; it is read
    without building any object, so that a file from a stranger can execute nothing.

    Parameters
    ----------
    dataset : {'cifar10', 'cifar100'}
    tree : Tree
        Folder or archive; the files may lie in a sub-folder.
    where : str
        Its name, for messages.

    Raises
    ------
    DataError
        A file is missing, damaged, or not what it should be.
    """
    folders = tree.folders()
    for form in (_PYTHON, _BINARY):
        files = _CIFAR[dataset, form]
        for folder in sorted(folders, key=len):
            if set(folders[folder]) >= set(files.parts['train'] + files.parts['test']):
                return _load_form(dataset, form, files, tree, folder, where)
    wanted = [' '.join(_CIFAR[dataset, form].parts['train'] + _CIFAR[dataset, form].parts['test'])
              for form in (_PYTHON, _BINARY)]
    raise DataError('%s: not the files of %s (%s, or %s in one folder)'
                    % (where, dataset, wanted[0], wanted[1]))


def _load_form(dataset: str, form: str, files: _CifarFiles, tree: Tree, folder: str,
               where: str) -> ArrayDataset:
    count = 10 if dataset == 'cifar10' else 100

    def read(name):
        path = posixpath.join(folder, name)
        return tree.read(path), posixpath.join(where, path)

    if files.names_file not in tree.folders()[folder]:
        raise DataError('%s: %s with the class names is missing'
                        % (posixpath.join(where, folder), files.names_file))
    content, path = read(files.names_file)
    classes = _class_names(content, path, files, form)
    if len(set(classes)) != count:
        raise DataError('%s: %d different class names where there should be %d'
                        % (path, len(set(classes)), count))
    parts = {}
    for part, names in files.parts.items():
        images, labels, rows = [], [], []
        for name in names:
            content, path = read(name)
            if form == _PYTHON:
                pixels, numbers = _python_batch(content, path, files.label_key)
            else:
                pixels, numbers = _binary_batch(content, path, files.label_bytes)
            if max(numbers) >= count or min(numbers) < 0:
                raise DataError('%s: labels from %d to %d where there are %d classes'
                                % (path, min(numbers), max(numbers), count))
            images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += numbers
            rows += ['%s/%05d' % (name, row) for row in range(len(numbers))]
        parts[part] = ArrayPart(np.concatenate(images), labels, rows)
    return ArrayDataset(parts, classes, form)


def _class_names(content: bytes, path: str, files: _CifarFiles, form: str) -> List[str]:
    if form == _BINARY:
        return content.decode('latin-1').split()
    names = _dictionary(content, path).get(files.names_key)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise DataError('%s: no list %s in it' % (path, files.names_key.decode()))
    return [name.decode('latin-1') if isinstance(name, bytes) else name for name in names]


def _binary_batch(content: bytes, path: str, label_bytes: int) -> Tuple[np.ndarray, List[int]]:
    row = label_bytes + _CIFAR_ROW
    if not content or len(content) % row:
        raise DataError('%s: %d bytes are not rows of %d; the file is truncated or another form'
                        % (path, len(content), row))
    table = np.frombuffer(content, np.uint8).reshape(-1, row)
    return table[:, label_bytes:], table[:, label_bytes - 1].tolist()


def _python_batch(content: bytes, path: str, label_key: bytes) -> Tuple[np.ndarray, List[int]]:
    batch = _dictionary(content, path)
    labels, array = batch.get(label_key), batch.get(b'data')
    pixels = array.uint8_rows(_CIFAR_ROW) if isinstance(array, Built) else None
    if pixels is None or not isinstance(labels, list) or len(labels) != len(pixels) \
            or not labels or not all(type(label) is int for label in labels):
        raise DataError('%s: not a batch of CIFAR images: it must hold "data", uint8 rows of %d, '
                        'and as many "%s"' % (path, _CIFAR_ROW, label_key.decode()))
    return pixels, labels


def _dictionary(content: bytes, path: str) -> Dict[Any, Any]:
    """The dictionary in a pickle."""
    try:
        value = read_pickle(content)
    except ValueError as problem:
        raise DataError('%s: not a readable CIFAR file (%s)' % (path, problem)) from None
    if not isinstance(value, dict):
        raise DataError('%s: not a CIFAR file: it holds no dictionary' % path)
    return value
