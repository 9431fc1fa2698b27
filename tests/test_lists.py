"""Lists of images: form, order, splits, and what is refused."""

import os
import random

import pytest

from igcnet.data.lists import Item, find_lists, read_list, shuffled, split_items, write_list
from igcnet.data.planning import classes_of_folders
from igcnet.errors import DataError, UsageError


def test_list_round_trip(tmp_path):
    items = [Item(3, 1.0, 'a/b c.jpg'), Item(0, (1.5, -2.0), 'caf\u00e9.jpg'),
             Item(7, 0.0, os.fsdecode(b'\xff.jpg'))]
    write_list(tmp_path / 'x.lst', items)
    assert read_list(tmp_path / 'x.lst') == items
    assert (tmp_path / 'x.lst').read_bytes().startswith(b'3\t1.000000\ta/b c.jpg\n0\t1.500000\t-2')


@pytest.mark.parametrize('line, message', [
    ('0 1 a.jpg', 'line 2: .* is not key, label and path'),
    ('1\ta.jpg', 'line 2: .* is not key, label and path'),
    ('1\t2\t', 'line 2'),
    ('x\t2\ta.jpg', "line 2: invalid literal for int.* 'x'"),
    ('1\tcat\ta.jpg', "line 2: could not convert string to float: 'cat'"),
    ('1\tnan\ta.jpg', 'line 2: a label is not a finite number'),
    ('1\t1e39\ta.jpg', 'line 2: a label is not a finite number'),
    ('-1\t0\ta.jpg', 'line 2: key -1 must be 0 or more'),
    ('0\t0\tb.jpg', 'line 2: key 0 stands in line 1 already'),
])
def test_broken_list(tmp_path, line, message):
    (tmp_path / 'x.lst').write_text('0\t0\ta.jpg\n' + line + '\n')
    with pytest.raises(DataError, match='x.lst, ' + message):
        read_list(tmp_path / 'x.lst')


def test_empty_and_missing_list(tmp_path):
    (tmp_path / 'x.lst').write_text('\n')
    with pytest.raises(DataError, match='x.lst: the list is empty'):
        read_list(tmp_path / 'x.lst')
    with pytest.raises(DataError, match='y.lst: cannot read'):
        read_list(tmp_path / 'y.lst')


def test_order_is_that_of_the_standard_shuffle():
    items = [Item(key, 0.0, str(key)) for key in range(50)]
    random.seed(100)
    expected = list(items)
    random.shuffle(expected)
    assert shuffled(items, 100) == expected != items
    assert shuffled(items, 7) != expected


def test_split_names_and_sizes():
    items = [Item(key, 0.0, str(key)) for key in range(10)]

    def sizes(*arguments):
        return {name: len(part) for name, part in split_items(items, *arguments).items()}

    assert sizes(1) == {'': 10}
    assert sizes(1, 0.8) == {'train': 8, 'val': 2}
    assert sizes(1, 0.5, 0.2) == {'train': 5, 'val': 3, 'test': 2}
    assert sizes(1, 0.75, 0.25) == {'train': 8, 'test': 2}  # im2rec would lose one here
    assert sizes(3) == {'0': 4, '1': 4, '2': 2}
    assert sizes(2, 0.8) == {'0_train': 4, '0_val': 1, '1_train': 4, '1_val': 1}
    parts = split_items(items, 1, 0.5, 0.2)
    assert list(parts['test']) + list(parts['train']) + list(parts['val']) == items


@pytest.mark.parametrize('arguments, message', [
    ((1, 0.8, 0.3), 'are more than 1 together'),
    ((1, 1.2), '--train-ratio 1.2: must lie between 0 and 1'),
    ((1, 0.5, -0.1), '--test-ratio -0.1'),
    ((1, 0.0), '--train-ratio 0: nothing'),
    ((1, 0.05), "part 'train' would be empty"),
    ((11,), '--chunks 11: there are only 10 images'),
    ((6,), '10 images are too few'),
])
def test_splits_that_do_not_fit(arguments, message):
    items = [Item(key, 0.0, str(key)) for key in range(10)]
    if arguments == (6,):
        items = items[:9]
        message = "9 images are too few: part '5' would be empty"
    with pytest.raises(UsageError, match=message):
        split_items(items, *arguments)


def test_lists_of_a_prefix(tmp_path):
    for name in ('a.lst', 'a_train.lst', 'ab.lst', 'a.txt', 'b.lst'):
        (tmp_path / name).write_text('')
    assert [path.name for path in find_lists(tmp_path / 'a')] == ['a.lst', 'a_train.lst']
    assert [path.name for path in find_lists(tmp_path)] == ['a.lst', 'a_train.lst', 'ab.lst',
                                                            'b.lst']
    assert find_lists(tmp_path / 'none' / 'a') == []


def test_classes_of_folders():
    items = [Item(0, 1.0, 'dog/1.jpg'), Item(1, 0.0, 'cat/1.jpg'), Item(2, 1.0, 'dog/2.jpg')]
    assert classes_of_folders(items) == ['cat', 'dog']
    for other in (Item(3, 1.0, 'cat/2.jpg'), Item(3, 5.0, 'cow/1.jpg'), Item(3, 2.0, 'cat/3.jpg'),
                  Item(3, 2.0, '3.jpg'), Item(3, (2.0, 3.0), 'cow/3.jpg')):
        assert classes_of_folders(items + [other]) is None


def test_stratified_split():
    """Each class is divided as the whole, whatever the order; small ones reach every part."""
    counts = {0.0: 100, 1.0: 10, 2.0: 3, 3.0: 1}
    items = shuffled([Item(key, label, str(key)) for key, label in enumerate(
        label for label, count in counts.items() for _ in range(count))], 5)
    parts = split_items(items, train_ratio=0.7, test_ratio=0.2, stratified=True)
    assert list(parts) == ['val', 'test', 'train']
    sizes = {name: [sum(item.label == label for item in part) for label in counts]
             for name, part in parts.items()}
    assert sizes == {'train': [70, 7, 1, 1], 'test': [20, 2, 1, 0], 'val': [10, 1, 1, 0]}
    assert sorted(item for part in parts.values() for item in part) == sorted(items)
    for part in parts.values():
        assert part == [item for item in items if item in part]
    two = split_items(items, train_ratio=0.5, test_ratio=0.5, stratified=True)
    assert {name: len(part) for name, part in two.items()} == {'test': 57, 'train': 57}
