"""The readers: exactness, order, resuming, parts, threads, bad images; agreement with MXNet."""

import threading
from collections import Counter

import numpy as np
import pytest
from synthetic import noise, smooth, write_records

from igcnet.data.augment import find_augmentation
from igcnet.data.background import THREAD_NAME
from igcnet.data.images import encode_image
from igcnet.data.randomness import permutation, uniforms
from igcnet.data.reader import EvalReader, TrainReader
from igcnet.data.records import RecordFile
from igcnet.data.transforms import ResizeCrop, resize_aligned
from igcnet.errors import DataError, UsageError
from igcnet.registry import Preprocessing

MEAN, STD = (125.307, 122.950, 113.865), (62.993, 62.089, 66.705)
NO_CHANGE = Preprocessing(32, (0, 0, 0), (1, 1, 1))
COUNT = 53
IMAGES = noise(COUNT)


@pytest.fixture(scope='module')
def record(tmp_path_factory):
    """53 lossless 32x32 images; the label of each is its number."""
    return write_records(tmp_path_factory.mktemp('records') / 'train', IMAGES, range(COUNT))


def reader(record, batch_size=8, preset='igc-1', seed=1, size=32, **settings):
    return TrainReader(record, batch_size, find_augmentation(preset, size, MEAN), seed,
                       mean=MEAN, std=STD, **settings)


def together(batches):
    """Images and labels of all batches."""
    images, labels = zip(*batches)
    return np.concatenate(images), np.concatenate(labels)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(together(one), together(other)))


# Training: order ---------------------------------------------------------------------------------

def test_an_epoch_holds_every_record_in_the_order_of_the_permutation(record):
    train = reader(record)
    assert train.steps_per_epoch == 7
    for epoch in (0, 1, 5):
        batches = list(train.epoch(epoch))
        assert [images.shape for images, _ in batches] == [(8, 3, 32, 32)] * 7
        assert {array.dtype for batch in batches for array in batch} == {np.dtype(np.float32)}
        order = permutation(1, epoch, COUNT)
        # 56 places for 53 records: the last three are the first three again.
        assert together(batches)[1].tolist() == order.tolist() + order[:3].tolist()


def test_discard_leaves_the_last_incomplete_step_out(record):
    train = reader(record, last_batch='discard')
    assert train.steps_per_epoch == 6
    labels = together(train.epoch(2))[1]
    assert labels.tolist() == permutation(1, 2, COUNT)[:48].tolist()


def test_nothing_wraps_when_the_batches_fit(tmp_path):
    path = write_records(tmp_path / 'a', IMAGES[:12], range(12))
    train = reader(path, 4)
    assert train.steps_per_epoch == 3
    assert sorted(together(train.epoch(0))[1]) == list(range(12))


def test_a_batch_larger_than_the_record_wraps_more_than_once(tmp_path):
    path = write_records(tmp_path / 'a', IMAGES[:3], range(3))
    labels = together(reader(path, 8).epoch(0))[1]
    assert Counter(labels.tolist()) == {label: 3 if place < 2 else 2 for place, label
                                        in enumerate(permutation(1, 0, 3).tolist())}


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_batches_do_not_depend_on_threads_or_on_memory(record, memory_limit):
    expected = list(reader(record, threads=1).epoch(3))
    assert same(expected, reader(record, threads=4, memory_limit=memory_limit).epoch(3))
    assert same(expected, reader(RecordFile(record), threads=0).epoch(3))


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
@pytest.mark.parametrize('step', [0, 1, 4, 7])
def test_an_epoch_can_be_begun_at_any_step(record, step, memory_limit):
    train = reader(record, 7, memory_limit=memory_limit)
    whole = list(train.epoch(2))
    rest = list(reader(record, 7, memory_limit=memory_limit).epoch(2, start_step=step))
    assert len(whole) == 8 and len(rest) == 8 - step
    assert not rest or same(whole[step:], rest)


def test_seed_and_epoch_change_order_and_pixels(record):
    base = together(reader(record).epoch(0))
    for other in (reader(record).epoch(1), reader(record, seed=2).epoch(0)):
        images, labels = together(other)
        assert (labels != base[1]).sum() > 40
        # The same record, other pixels: with 81 offsets and two directions only a few agree.
        mine = {label: image for image, label in zip(*base)}
        changed = sum(not np.array_equal(mine[label], image)
                      for image, label in zip(images, labels))
        assert changed > 45


def test_augmentation_follows_the_record_not_its_place(record):
    batches = {size: dict(zip(*reversed(together(reader(record, size).epoch(4)))))
               for size in (1, 8, 20)}
    for label in range(COUNT):
        assert np.array_equal(batches[1][label], batches[8][label])
        assert np.array_equal(batches[1][label], batches[20][label])


@pytest.mark.parametrize('parts', [2, 3])
def test_parts_share_the_steps_of_one_reader_with_the_whole_batch(record, parts):
    whole = list(reader(record, 4 * parts).epoch(1))
    readers = [reader(record, 4, part_index=part, num_parts=parts) for part in range(parts)]
    assert {one.steps_per_epoch for one in readers} == {len(whole)}
    shares = [list(one.epoch(1)) for one in readers]
    for step, (images, labels) in enumerate(whole):
        joined = together([share[step] for share in shares])
        assert np.array_equal(joined[0], images) and np.array_equal(joined[1], labels)
    seen = [Counter(together(share)[1].tolist()) for share in shares]
    # Disjoint but for the few that fill the last step; together they are complete.
    total = sum(seen, Counter())
    assert set(total) == set(range(COUNT))
    assert sum(total.values()) - COUNT == len(whole) * 4 * parts - COUNT < 4 * parts
    discarded = [together(reader(record, 4, part_index=part, num_parts=parts,
                                 last_batch='discard').epoch(1))[1] for part in range(parts)]
    assert len({len(labels) for labels in discarded}) == 1
    labels = np.concatenate(discarded)
    assert len(set(labels)) == len(labels)


# Training: pixels --------------------------------------------------------------------------------

@pytest.mark.parametrize('preset, draws', [('igc-0', 0), ('igc-1', 3), ('igc-2', 3)])
@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_pixels_are_augmented_by_record_and_normalised(record, preset, draws, memory_limit):
    images, labels = together(reader(record, preset=preset, memory_limit=memory_limit).epoch(6))
    augmentation = find_augmentation(preset, 32, MEAN)
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (MEAN, STD))
    for image, label in zip(images, labels.astype(int)):
        u = uniforms(1, 6, [label], draws)
        pixels = augmentation(IMAGES[label:label + 1], u)[0]
        assert np.abs(image - (pixels - mean) / std).max() < 1e-6


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_several_resolutions_of_the_same_pictures(record, memory_limit):
    plain = list(reader(record).epoch(2))
    batches = list(reader(record, resolutions=(32, 28, 20), memory_limit=memory_limit).epoch(2))
    for (images, labels), (sizes, same_labels) in zip(plain, batches):
        assert np.array_equal(labels, same_labels) and np.array_equal(sizes[0], images)
        assert [array.shape for array in sizes] == [(8, 3, size, size) for size in (32, 28, 20)]
        for smaller in sizes[1:]:
            expected = np.empty_like(smaller)
            resize_aligned(images, smaller.shape[2], expected)
            assert np.array_equal(smaller, expected)
    assert len(batches) == len(plain)


def test_images_of_different_sizes(tmp_path):
    images = [smooth(40 + number, 60 - number, number) for number in range(10)]
    path = write_records(tmp_path / 'a', images, range(10))
    augmentation = find_augmentation('igc-imagenet-1', 24, MEAN, canvas=28)
    train = TrainReader(path, 4, augmentation, 5, mean=MEAN, std=STD)
    pixels, labels = together(train.epoch(0))
    assert same(train.epoch(0), TrainReader(path, 4, augmentation, 5, mean=MEAN, std=STD,
                                            memory_limit=0, threads=1).epoch(0))
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (MEAN, STD))
    for one, label in zip(pixels, labels.astype(int)):
        exact = augmentation(images[label][None], uniforms(5, 0, [label], 8))[0]
        assert np.abs(one - (exact - mean) / std).max() < 1e-5


def test_several_labels_give_the_first(tmp_path):
    path = write_records(tmp_path / 'a', IMAGES[:4], [(n, 9.0, 8.0) for n in range(4)])
    assert sorted(together(reader(path, 2).epoch(0))[1]) == [0, 1, 2, 3]
    assert [batch.labels.tolist() for batch in EvalReader(path, 3, NO_CHANGE)] == [[0, 1, 2], [3]]


def test_agreement_with_image_record_iter(record):
    import mxnet as mx
    theirs = mx.io.ImageRecordIter(
        path_imgrec=str(record), data_shape=(3, 32, 32), batch_size=COUNT, mean_r=MEAN[0],
        mean_g=MEAN[1], mean_b=MEAN[2], std_r=STD[0], std_g=STD[1], std_b=STD[2]).next()
    pixels, labels = theirs.data[0].asnumpy(), theirs.label[0].asnumpy()
    images, order = together(reader(record, COUNT, 'igc-0').epoch(0))
    assert np.abs(images - pixels[order.astype(int)]).max() < 1e-5
    assert np.array_equal(labels[order.astype(int)], order)
    batches = list(EvalReader(record, 10, Preprocessing(32, MEAN, STD)))
    assert np.abs(np.concatenate([batch.images for batch in batches]) - pixels).max() < 1e-5


# Evaluation --------------------------------------------------------------------------------------

@pytest.mark.parametrize('batch_size', [1, 8, 20, 53, 100])
def test_evaluation_sees_each_image_once_in_order_twice(record, batch_size):
    evaluation = EvalReader(record, batch_size, NO_CHANGE)
    assert len(evaluation) == COUNT
    for _ in range(2):
        batches = list(evaluation)
        assert [len(batch.images) for batch in batches] == (
            [batch_size] * (COUNT // batch_size)
            + [COUNT % batch_size] * (COUNT % batch_size > 0))
        for batch in batches:
            assert np.array_equal(batch.labels, batch.positions)
            assert np.array_equal(batch.images, IMAGES[batch.positions].transpose(0, 3, 1, 2))
        assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(COUNT))


@pytest.mark.parametrize('parts', [2, 3, 9])
def test_evaluation_in_parts_sees_each_image_once(record, parts):
    seen = [label for part in range(parts)
            for batch in EvalReader(record, 8, NO_CHANGE, part_index=part, num_parts=parts)
            for label in batch.labels]
    assert sorted(seen) == list(range(COUNT))
    with pytest.raises(UsageError, match='part_index'):
        EvalReader(record, 8, NO_CHANGE, part_index=parts, num_parts=parts)


def test_evaluation_resizes_by_the_preprocessing_or_by_a_transform(tmp_path):
    images = [smooth(60, 80, 1), smooth(70, 50, 2)]
    path = write_records(tmp_path / 'a', images, [0, 1])
    settings = Preprocessing(32, (0, 0, 0), (1, 1, 1), 40, 'pil-bilinear')
    batch, = EvalReader(path, 2, settings)
    for image, pixels in zip(images, batch.images):
        assert np.array_equal(pixels, ResizeCrop(32, 40, 'pil-bilinear')(image[None])[0])
    validation = find_augmentation('igc-imagenet-validation', 32, MEAN, canvas=36)
    batch, = EvalReader(path, 2, settings, transform=validation)
    for image, pixels in zip(images, batch.images):
        assert np.array_equal(pixels, validation(image[None], np.empty((1, 0)))[0])
    with pytest.raises(UsageError, match='random, so it cannot serve evaluation'):
        EvalReader(path, 2, settings, transform=find_augmentation('igc-1', 32, MEAN))


# Bad images --------------------------------------------------------------------------------------

BAD = (4, 17)


@pytest.fixture(scope='module')
def damaged(tmp_path_factory):
    """The record with two images that don't decode."""
    images = [encode_image(image, '.png', 1) for image in IMAGES]
    images[4] = b'not an image'
    images[17] = images[17][:len(images[17]) // 2]
    return write_records(tmp_path_factory.mktemp('damaged') / 'train', images, range(COUNT))


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_a_bad_image_names_record_file_and_key(damaged, memory_limit):
    with pytest.raises(DataError, match=r'train\.rec, record (4 \(key 4\)|17 \(key 17\)): '):
        list(reader(damaged, memory_limit=memory_limit).epoch(0))
    with pytest.raises(DataError, match=r'train\.rec, record 4 \(key 4\): not an image'):
        list(EvalReader(damaged, 10, NO_CHANGE))
    assert not [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_the_next_good_image_stands_in_for_a_bad_one(damaged, memory_limit):
    train = reader(damaged, on_bad='skip', memory_limit=memory_limit)
    batches = list(train.epoch(1))
    order = permutation(1, 1, COUNT).tolist()
    expected = [next(label for label in order[place:] + order[:place] if label not in BAD)
                for place in list(range(COUNT)) + [0, 1, 2]]
    assert together(batches)[1].tolist() == expected
    assert sorted(train.bad) == list(BAD)
    assert 'record 17 (key 17): ' in train.bad[17]
    # The stand-in does not depend on where the epoch was begun.
    again = reader(damaged, on_bad='skip', memory_limit=memory_limit).epoch(1, start_step=3)
    assert same(batches[3:], again)
    assert np.isfinite(together(batches)[0]).all()


def test_evaluation_leaves_bad_images_out_and_counts_them(damaged):
    evaluation = EvalReader(damaged, 8, NO_CHANGE, on_bad='skip')
    batches = list(evaluation)
    assert [len(batch.images) for batch in batches] == [7, 8, 7, 8, 8, 8, 5]
    positions = np.concatenate([batch.positions for batch in batches])
    assert positions.tolist() == [n for n in range(COUNT) if n not in BAD]
    for batch in batches:
        assert np.array_equal(batch.labels, batch.positions)
        assert np.array_equal(batch.images, IMAGES[batch.positions].transpose(0, 3, 1, 2))
    assert sorted(evaluation.bad) == list(BAD)


def test_a_batch_of_bad_images_only_is_left_out(damaged):
    sizes = [len(batch.images) for batch in EvalReader(damaged, 1, NO_CHANGE, on_bad='skip')]
    assert sizes == [1] * (COUNT - 2)


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_nothing_but_bad_images_is_an_error_even_when_skipping(tmp_path, memory_limit):
    path = write_records(tmp_path / 'a', [b'x', b'y'], [0, 1])
    with pytest.raises(DataError, match=r'2 of 2 images are unreadable, the first: .*record 0'):
        list(reader(path, 2, on_bad='skip', memory_limit=memory_limit).epoch(0))


@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_an_image_too_small_for_the_crop_is_named(tmp_path, memory_limit):
    path = write_records(tmp_path / 'a', [IMAGES[0], IMAGES[1][:20]], [0, 1])
    with pytest.raises(DataError, match=r'record 1 \(key 1\): the image has 32x20 pixels'):
        list(reader(path, 2, memory_limit=memory_limit).epoch(0))


# Ending early, and wrong values ------------------------------------------------------------------

@pytest.mark.parametrize('memory_limit', [512 << 20, 0])
def test_closing_an_epoch_early_leaves_no_thread(record, memory_limit):
    batches = reader(record, threads=3, memory_limit=memory_limit).epoch(0)
    next(batches)
    assert [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]
    for batch in EvalReader(record, 4, NO_CHANGE, threads=3):
        assert len(batch.images) == 4
        break
    else:
        pytest.fail('no batch')
    assert not [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize('preset, memory_limit, threads', [
    ('igc-1', 512 << 20, 1), ('igc-1', 0, 3), ('mutualnet-cifar', 512 << 20, 1),
    ('dgc-imagenet', 512 << 20, 3)])
def test_one_thread_makes_quick_batches(record, preset, memory_limit, threads):
    batches = reader(record, preset=preset, threads=3, memory_limit=memory_limit).epoch(0)
    next(batches)
    found = [t for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]
    batches.close()
    assert len(found) == threads


@pytest.mark.parametrize('settings, message', [
    (dict(batch_size=0), 'batch_size=0'), (dict(batch_size=2.5), 'batch_size=2.5'),
    (dict(num_parts=0), 'num_parts=0'), (dict(part_index=-1), 'part_index=-1'),
    (dict(part_index=2, num_parts=2), 'part_index=2: must be below num_parts=2'),
    (dict(resolutions=(32, 0)), 'resolutions=0'),
    (dict(threads=-1), 'threads=-1'), (dict(memory_limit=None), 'memory_limit=None'),
    (dict(last_batch='pad'), "last_batch='pad': must be 'wrap' or 'discard'"),
    (dict(on_bad='ignore'), "on_bad='ignore': must be 'error' or 'skip'"),
    (dict(seed=-1), 'seed=-1'),
    (dict(batch_size=54, last_batch='discard'), 'batch_size=54 in 1 parts: .* only 53 images')])
def test_values_are_checked(record, settings, message):
    with pytest.raises(UsageError, match=message):
        reader(record, **settings)


@pytest.mark.parametrize('arguments, message', [
    ((-1,), 'epoch=-1'), ((0, -1), 'start_step=-1'), ((0, 8), 'start_step=8: .* 7 steps')])
def test_epoch_and_step_are_checked_at_once(record, arguments, message):
    with pytest.raises(UsageError, match=message):
        reader(record).epoch(*arguments)


def test_unknown_options_are_type_errors(record):
    with pytest.raises(TypeError, match='rand_mirrror'):
        reader(record, rand_mirrror=True)
    with pytest.raises(TypeError, match='scale_r'):
        EvalReader(record, 8, NO_CHANGE, scale_r=1.0)


@pytest.mark.parametrize('settings, message', [
    (dict(batch_size=0), 'batch_size=0'), (dict(threads=None), 'threads=None'),
    (dict(on_bad=True), 'on_bad=True')])
def test_evaluation_values_are_checked(record, settings, message):
    with pytest.raises(UsageError, match=message):
        EvalReader(record, **{'batch_size': 8, 'preprocessing': NO_CHANGE, **settings})
