"""SVHN's cropped digits from their published MATLAB files."""

from __future__ import annotations

import io
import os
import posixpath
from typing import List, Tuple

import numpy as np

from igcnet.data.arrays import ArrayDataset, ArrayPart
from igcnet.data.trees import FolderTree, Tree
from igcnet.errors import DataError

FILES = {part: part + '_32x32.mat' for part in ('train', 'extra', 'test')}


def load_svhn(tree: Tree, where: str) -> Tuple[ArrayDataset, List[str]]:
    """SVHN, format 2 (cropped digits), as IGC trains on it: train and extra are one part.

    Source: http://ufldl.stanford.edu/housenumbers. The files call the digit 0 class 10; here it is
    class 0. scipy reads them; it builds numbers and arrays only, and their size is looked at
    before.

    Parameters
    ----------
    tree : Tree
        Folder with ``train_32x32.mat``, ``test_32x32.mat`` and, if there, ``extra_32x32.mat``.
    where : str
        Its name, for messages.

    Returns
    -------
    dataset : ArrayDataset
    warnings : list of str

    Raises
    ------
    DataError
        A file is missing, damaged, or not what it should be.
    """
    folders = tree.folders()
    needed = {FILES['train'], FILES['test']}
    found = [folder for folder in sorted(folders, key=len) if needed <= set(folders[folder])]
    if not found:
        raise DataError('%s: not the files of svhn (%s, %s, and %s if you have it, in one folder)'
                        % (where, FILES['train'], FILES['test'], FILES['extra']))
    folder, warnings, read = found[0], [], {}
    for part, name in FILES.items():
        if name in folders[folder]:
            read[part] = _read_part(tree, posixpath.join(folder, name), where)
    if 'extra' not in read:
        warnings.append('%s is not in %s: the training part is train alone; IGC trains on both'
                        % (FILES['extra'], where))
    train = read['train']
    if 'extra' in read:
        train = ArrayPart(*([*one, *two] for one, two in zip(train, read['extra'])))
    return ArrayDataset({'train': train, 'test': read['test']},
                        [str(number) for number in range(10)],
                        'mat' if 'extra' in read else 'mat without extra'), warnings


def _read_part(tree: Tree, path: str, where: str) -> ArrayPart:
    from scipy.io import loadmat, whosmat

    shown = posixpath.join(where, path)
    # The file of extra is larger than a record may be, and so than `tree.read` gives.
    source = os.path.join(tree.root, path) if isinstance(tree, FolderTree) else io.BytesIO(
        tree.read(path))
    try:
        kinds = {name: (shape, kind) for name, shape, kind in whosmat(source)}
        pixels_shape, pixels_kind = kinds.get('X', ((), ''))
        labels_shape, _ = kinds.get('y', ((), ''))
        if pixels_kind != 'uint8' or len(pixels_shape) != 4 or pixels_shape[:3] != (32, 32, 3) \
                or int(np.prod(labels_shape)) != pixels_shape[3] or not pixels_shape[3]:
            raise DataError('%s: not cropped digits of SVHN: it must hold X, uint8 of 32 x 32 x 3 '
                            'x N, and N labels y' % shown)
        if not isinstance(source, str):
            source.seek(0)
        content = loadmat(source, variable_names=['X', 'y'])
        pixels, labels = content['X'], np.ravel(content['y'])
    except DataError:
        raise
    # scipy's reader raises many types for a damaged file.
    except Exception as problem:
        raise DataError('%s: not a readable MATLAB file (%s)'
                        % (shown, str(problem) or type(problem).__name__)) from None
    if not np.isin(labels, np.arange(1, 11)).all():
        raise DataError('%s: labels from %s to %s; they must be 1 to 10'
                        % (shown, labels.min(), labels.max()))
    name = posixpath.basename(path)
    # A list of views: the images of two files are joined without a copy of their gigabytes.
    return ArrayPart(list(pixels.transpose(3, 0, 1, 2)), (labels % 10).astype(int).tolist(),
                     ['%s/%06d' % (name, row) for row in range(len(labels))])
