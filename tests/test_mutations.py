"""1,000 damaged record files through both readers: no crash, no hang, every fault reported."""

import numpy as np
import pytest
from synthetic import noise, smooth, write_records

from igcnet.data.augment import find_augmentation
from igcnet.data.images import decode_image, encode_image
from igcnet.data.reader import EvalReader, TrainReader
from igcnet.data.records import RecordFile
from igcnet.errors import DataError
from igcnet.registry import Preprocessing

COUNT, SIZE = 6, 12
PLAIN = Preprocessing(SIZE, (0, 0, 0), (1, 1, 1))
# Behind the magic and the length of a record: number of labels, label, id, second id.
HEADER = range(8 + 4, 8 + 24)


def mutated(content, offsets, number):
    """`content` with some bytes changed, and what was done. Labels and ids stay: they are
    numbers without a checksum, of which every value is a good one."""
    draw = np.random.RandomState(number)
    data = bytearray(content)
    kind = ('flip', 'set', 'zero', 'cut', 'insert', 'length')[number % 6]
    at = draw.randint(len(data))
    while any(at - offset in HEADER for offset in offsets):
        at = draw.randint(len(data))
    if kind == 'flip':
        data[at] ^= 1 << draw.randint(8)
    elif kind == 'set':
        data[at] = draw.randint(256)
    elif kind == 'zero':
        end = min([offset for offset in [*offsets, len(data)] if offset > at])
        length = min(end - at, draw.randint(1, 20))
        if not any(place - offset in HEADER for place in range(at, at + length)
                   for offset in offsets):
            data[at:at + length] = bytes(length)
    elif kind == 'cut':
        del data[at:]
    elif kind == 'insert':
        data[at:at] = bytes(draw.randint(0, 256, draw.randint(1, 9)).astype(np.uint8))
    else:
        start = offsets[draw.randint(len(offsets))] + 4
        data[start:start + 4] = int(draw.randint(1 << 31)).to_bytes(4, 'little')
    return bytes(data)


def read_all(path, memory_limit):
    """Positions, labels and pixels of what can be read, and the positions that are reported."""
    crop = find_augmentation('igc-0', SIZE, (0, 0, 0))
    train = TrainReader(path, 4, crop, 0, on_bad='skip', threads=1, memory_limit=memory_limit)
    evaluation = EvalReader(path, 4, PLAIN, on_bad='skip', threads=1)
    read = {}
    for batch in evaluation:
        for position, label, image in zip(batch.positions, batch.labels, batch.images):
            read[int(position)] = label, image
    trained = {}
    for images, labels in train.epoch(0):
        for label, image in zip(labels, images):
            trained[float(label)] = image
    assert set(evaluation.bad) == set(train.bad) == set(range(len(evaluation))) - set(read)
    for label, image in read.values():
        assert np.array_equal(trained[float(label)], image)
    return read, evaluation.bad


def read_mutations(path, numbers):
    """For each damaged file: what can be read of it, and whether anything is reported."""
    content, offsets = path.read_bytes(), RecordFile(path).offsets.tolist()
    for number in numbers:
        path.write_bytes(mutated(content, offsets, number))
        try:
            read, bad = read_all(path, (512 << 20) * (number % 2))
        except DataError as problem:
            assert str(path.parent) in str(problem) and '\n' not in str(problem)
            yield {}, True
            continue
        for reason in bad.values():
            assert 'a.rec, record ' in reason and '\n' not in reason
        yield read, bool(bad)


@pytest.mark.parametrize('start', range(0, 500, 100))
def test_every_fault_of_lossless_records_is_reported(tmp_path, start):
    images = noise(COUNT, SIZE, SIZE)
    path = write_records(tmp_path / 'a', images, range(COUNT))
    reports = 0
    for read, reported in read_mutations(path, range(start, start + 100)):
        reports += reported
        # What is not reported is what it was, such as bytes behind the end of an image.
        for position, (label, image) in read.items():
            assert label == position
            assert np.array_equal(image, images[position].transpose(2, 0, 1))
    assert reports > 80


@pytest.mark.parametrize('start', range(500, 1000, 100))
def test_damaged_jpegs_are_read_or_reported(tmp_path, start):
    encoded = [encode_image(smooth(SIZE, SIZE, seed), '.jpg', 90) for seed in range(COUNT)]
    path = write_records(tmp_path / 'a', encoded, range(COUNT))
    reports = 0
    for read, reported in read_mutations(path, range(start, start + 100)):
        reports += reported
        for label, image in read.values():
            assert label in range(COUNT) and 0 <= image.min() <= image.max() <= 255
    assert reports > 40


@pytest.mark.parametrize('encoding', ['.jpg', '.png'])
def test_every_truncation_of_an_image_is_reported(encoding):
    data = encode_image(smooth(SIZE, SIZE), encoding)
    for length in range(len(data) - 1):
        with pytest.raises(DataError, match='^here: '):
            decode_image(data[:length], 'here')
