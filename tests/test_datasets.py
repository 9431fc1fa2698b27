"""Facts of the data sets, and the check of labels against a network."""

import numpy as np
import pytest
from synthetic import noise, write_records

from igcnet.data.arrays import load_digits
from igcnet.data.augment import PRESETS
from igcnet.data.datasets import DATA_SETS, check_labels, describe_records, find_dataset
from igcnet.data.records import RecordFile
from igcnet.errors import DataError, UsageError


@pytest.mark.parametrize('name, classes, count, size, fill, aug_type', [
    ('cifar10', 10, 50000, 32, (125, 123, 114), 1),
    ('cifar100', 100, 50000, 32, (129, 124, 112), 1),
    ('svhn', 10, 604388, 32, (112, 113, 121), 0),
    ('imagenet', 1000, 1281167, 224, (123, 113, 99), 1),
    ('imagenet_fb', 1000, 1281167, 224, (124, 116, 104), 1),
    ('digits', 10, 1438, 32, (78, 78, 78), 0)])
def test_facts(name, classes, count, size, fill, aug_type):
    facts = find_dataset(name)
    assert (facts.classes, facts.num_examples, facts.data_shape, facts.fill, facts.aug_type) == (
        classes, count, size, fill, aug_type)


@pytest.mark.parametrize('name, small, large', [
    ('cifar10', 400, 512), ('cifar100', 400, 400), ('svhn', 280, 512), ('imagenet', 200, 512)])
def test_test_batch_size(name, small, large):
    assert find_dataset(name).test_batch_size(64) == small
    assert find_dataset(name).test_batch_size(512) == large


def test_augmentation_by_type():
    assert find_dataset('cifar10').augmentation() == 'igc-1'
    assert find_dataset('svhn').augmentation() == 'igc-0'
    assert find_dataset('imagenet').augmentation() == 'igc-imagenet-1'
    assert find_dataset('imagenet').augmentation(2) == 'igc-2'
    with pytest.raises(UsageError, match='aug_type=3: cifar10 has the types 0, 1, 2'):
        find_dataset('cifar10').augmentation(3)
    for facts in DATA_SETS.values():
        assert set(facts.augmentations.values()) <= set(PRESETS)


def test_the_networks_use_the_same_mean_and_deviation():
    from igcnet.models.igc import CIFAR10, IMAGENET
    for name, preprocessing in [('cifar10', CIFAR10), ('imagenet', IMAGENET)]:
        facts = find_dataset(name)
        assert facts.preprocessing() == preprocessing


def test_mean_and_deviation_of_the_digits():
    pytest.importorskip('sklearn')
    parts = load_digits().parts
    facts = find_dataset('digits')
    assert facts.num_examples == len(parts['train'].images)
    assert np.abs(parts['train'].images.mean((0, 1, 2)) - facts.mean).max() < 0.001
    assert np.abs(parts['train'].images.std((0, 1, 2)) - facts.std).max() < 0.001


def test_unknown_data_set_names_the_known():
    with pytest.raises(UsageError, match="'mnist': known are cifar10, cifar100, .*svhn"):
        find_dataset('mnist')


def make(tmp_path, labels, **settings):
    images = noise(len(labels), 4, 4)
    return RecordFile(write_records(tmp_path / 'own', images, labels, **settings))


def test_facts_of_an_own_record(tmp_path):
    records = make(tmp_path, [0, 1, 2, 1, 0], classes=['ant', 'bee', 'cow'])
    facts = describe_records(records)
    assert (facts.name, facts.classes, facts.num_examples) == ('own', 3, 5)
    assert (facts.mean, facts.std, facts.data_shape) == ((127.0,) * 3, (60.0,) * 3, 32)
    facts = describe_records(records, (1, 2, 3), (4, 5, 6), 224)
    assert (facts.mean, facts.std, facts.data_shape) == ((1, 2, 3), (4, 5, 6), 224)
    assert facts.fill == (1, 2, 3)


def test_facts_without_a_manifest_come_from_the_labels(tmp_path):
    records = make(tmp_path, [0, 4, 2])
    assert describe_records(records).classes == 5
    assert describe_records(records, classes=7).classes == 7


def test_labels_that_fit(tmp_path):
    records = make(tmp_path, [0, 9, 3])
    check_labels(records, 10)
    check_labels(records, 12)


@pytest.mark.parametrize('labels, names, classes, message', [
    ([0, 9], None, 9, r'own\.rec: the labels go up to 9, so they need at least 10 classes, but '
                      'the network has 9; give --num-classes 10'),
    ([0, 1], ['a', 'b'], 10, 'the manifest names 2 classes, but the network has 10; '
                             'give --num-classes 2 or the record'),
    ([0, 2], ['a', 'b'], 2, 'the labels go up to 2, .* the network has 2'),
    ([0, 1.5], None, 10, r'record 1 \(key 1\): its label is 1.5; a class number is a whole'),
    ([0, -1], None, 10, r'record 1 \(key 1\): its label is -1;'),
    ([float('nan'), 0], None, 10, r'record 0 \(key 0\): its label is nan'),
    ([0, float('inf')], None, 10, 'its label is inf')])
def test_labels_that_do_not_fit(tmp_path, labels, names, classes, message):
    records = make(tmp_path, labels, classes=names)
    with pytest.raises(DataError, match=message) as caught:
        check_labels(records, classes)
    assert '\n' not in str(caught.value)


def test_the_option_is_named_as_the_caller_calls_it(tmp_path):
    with pytest.raises(DataError, match='give --classes 3'):
        check_labels(make(tmp_path, np.arange(3)), 2, option='--classes')
