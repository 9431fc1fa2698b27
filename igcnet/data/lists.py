"""``.lst`` files: one line ``key<TAB>label<TAB>path`` per image, as MXNet's im2rec has them."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

from igcnet.errors import DataError, UsageError
from igcnet.files import PathLike, atomic_path

MAX_KEY = (1 << 63) - 1
_TOO_LARGE = 3e38  # for a float32


class Item(NamedTuple):
    """One image: its key, its label (or labels), and its path relative to the root."""

    key: int
    label: Union[float, Tuple[float, ...]]
    name: str


def list_line(item: Item) -> bytes:
    """The line of one item, with labels in six decimals as im2rec writes them."""
    if isinstance(item.label, tuple):
        labels = '\t'.join('%f' % label for label in item.label)
    else:
        labels = '%f' % item.label
    text = '%d\t%s\t%s\n' % (item.key, labels, item.name)
    # File names need not be valid UTF-8; they come back as they were.
    return text.encode('utf-8', 'surrogateescape')


def write_list(path: PathLike, items: Sequence[Item]) -> None:
    """Write `items` to `path` atomically."""
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        file.writelines(list_line(item) for item in items)


def read_list(path: PathLike) -> List[Item]:
    """Read a ``.lst`` file; a line with several labels gives a tuple of them.

    Raises
    ------
    DataError
        Names the line that is not ``key<TAB>label(s)<TAB>path``, or that repeats a key.
    """
    try:
        text = Path(path).read_bytes().decode('utf-8', 'surrogateescape')
    except OSError as problem:
        raise DataError('%s: cannot read this list (%s)' % (path, problem.strerror)) from None
    items = _plain_items(text)
    if items:
        return items
    items, lines = [], {}
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        item = _parse_line(line, path, number)
        if item.key in lines:
            raise DataError('%s, line %d: key %d stands in line %d already; keys must differ'
                            % (path, number, item.key, lines[item.key]))
        lines[item.key] = number
        items.append(item)
    if not items:
        raise DataError('%s: the list is empty' % path)
    return items


def _plain_items(text: str) -> List[Item]:
    """The items of a list without faults and with one label in each line, quickly; else none."""
    rows = [line.split('\t') for line in text.split('\n') if line]
    if set(map(len, rows)) != {3}:
        return []
    words = list(zip(*rows))
    try:
        keys, labels = list(map(int, words[0])), list(map(float, words[1]))
    except ValueError:
        return []
    names = list(map(str.strip, words[2]))
    if len(set(keys)) < len(keys) or min(keys) < 0 or max(keys) > MAX_KEY or not all(names) \
            or not all(map(math.isfinite, labels)) or max(map(abs, labels)) >= _TOO_LARGE:
        return []
    return list(map(Item, keys, labels, names))


def _parse_line(line: str, path: PathLike, number: int) -> Item:
    words = line.split('\t')
    name = words[-1].strip()
    try:
        if len(words) < 3 or not name:
            raise ValueError('%r is not key, label and path separated by tabs' % line[:80])
        key = int(words[0])
        labels = tuple(map(float, words[1:-1]))
        if not 0 <= key <= MAX_KEY:
            raise ValueError('key %d must be 0 or more and fit 63 bits' % key)
        if not all(map(math.isfinite, labels)) or max(map(abs, labels)) >= _TOO_LARGE:
            raise ValueError('a label is not a finite number')
    except ValueError as problem:
        raise DataError('%s, line %d: %s' % (path, number, problem)) from None
    return Item(key, labels[0] if len(labels) == 1 else labels, name)


def shuffled(items: Sequence[Item], seed: int) -> List[Item]:
    """The items in the order that im2rec gives them for the same seed (it always takes 100)."""
    items = list(items)
    random.Random(seed).shuffle(items)
    return items


def split_items(items: Sequence[Item], chunks: int = 1, train_ratio: float = 1.0,
                test_ratio: float = 0.0, stratified: bool = False) -> Dict[str, Sequence[Item]]:
    """Cut a list into chunks, and each chunk into test, train and val parts.

    Parameters
    ----------
    chunks : int
        How many of equal size.
    train_ratio, test_ratio : float
        Parts of a chunk; what they leave is for validation.
    stratified : bool
        Take the ratios of each class instead of the whole chunk; every part keeps the order.

    Returns
    -------
    dict of str to items
        Under im2rec's names: '' (one chunk, all for training), 'train', 'val', 'test', and with
        several chunks '0', '1', ... or '0_train', ...; items that rounding leaves over go to
        the validation part, or to training when there is none.

    Raises
    ------
    UsageError
        Ratios that do not fit, or so few images that a part would be empty.
    """
    check_ratios(train_ratio, test_ratio)
    if chunks > len(items):
        raise UsageError('--chunks %d: there are only %d images' % (chunks, len(items)))
    size = -(-len(items) // chunks)
    parts: Dict[str, Sequence[Item]] = {}
    for number in range(chunks):
        chunk = items[number * size:(number + 1) * size]
        start = [str(number)] if chunks > 1 else []
        if train_ratio == 1.0:
            parts['_'.join(start)] = chunk
            continue
        if stratified:
            test, train, val = _cut_classes(chunk, train_ratio, test_ratio)
        else:
            test, train, val = _cut(chunk, int(size * test_ratio), int(size * train_ratio))
        if _has_validation(train_ratio, test_ratio):
            parts['_'.join(start + ['val'])] = val
        else:
            train = [*train, *val]
        if test_ratio:
            parts['_'.join(start + ['test'])] = test
        parts['_'.join(start + ['train'])] = train
    for name, part in parts.items():
        if not part:
            raise UsageError('%d images are too few: part %r would be empty; change --train-ratio, '
                             '--test-ratio or --chunks' % (len(items), name))
    return parts


def _cut(items: Sequence[Item], test: int, train: int) -> Tuple[Sequence[Item], ...]:
    """The first `test` items, the next `train`, and what is left."""
    return items[:test], items[test:test + train], items[test + train:]


def _cut_classes(items: Sequence[Item], train_ratio: float,
                 test_ratio: float) -> Tuple[List[Item], ...]:
    """Test, training and validation items with the ratios of each class.

    Rounding is to the nearest, so that small classes are not left out of the small parts; but
    the first image of a class is for training and the next ones for the other parts.
    """
    by_class: Dict[Any, List[int]] = {}
    for position, item in enumerate(items):
        by_class.setdefault(item.label, []).append(position)
    chosen: List[List[int]] = [[], [], []]
    has_validation = _has_validation(train_ratio, test_ratio)
    for positions in by_class.values():
        count = len(positions)
        test = max(1, round(count * test_ratio)) if test_ratio else 0
        val = max(1, round(count * (1 - train_ratio - test_ratio))) if has_validation else 0
        test = min(test, count - 1)
        val = min(val, count - 1 - test)
        for part, some in zip(chosen, _cut(positions, test, count - test - val)):
            part += some
    return tuple([items[position] for position in sorted(part)] for part in chosen)


def check_ratios(train_ratio: float, test_ratio: float) -> None:
    """Raise UsageError for ratios that cannot be parts of one whole."""
    for option, value in (('--train-ratio', train_ratio), ('--test-ratio', test_ratio)):
        if not 0 <= value <= 1:
            raise UsageError('%s %g: must lie between 0 and 1' % (option, value))
    if train_ratio == 0:
        raise UsageError('--train-ratio 0: nothing would be left for training')
    if train_ratio + test_ratio > 1 + 1e-9:
        raise UsageError('--train-ratio %g and --test-ratio %g are more than 1 together'
                         % (train_ratio, test_ratio))


def _has_validation(train_ratio: float, test_ratio: float) -> bool:
    return train_ratio + test_ratio < 1 - 1e-9


def find_lists(prefix: PathLike) -> List[Path]:
    """The lists of a prefix: ``<prefix>.lst`` and ``<prefix>_*.lst``, or all ``.lst`` in it
    when it is a folder."""
    text = os.fspath(prefix)
    if os.path.isdir(text):
        return sorted(path for path in Path(text).glob('*.lst') if path.is_file())
    folder, name = os.path.split(text)
    if not os.path.isdir(folder or '.'):
        return []
    return sorted(path for path in Path(folder or '.').iterdir()
                  if path.suffix == '.lst' and path.is_file()
                  and (path.stem == name or path.stem.startswith(name + '_')))
