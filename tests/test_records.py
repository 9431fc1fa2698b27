"""Reading and framing records: equal to mx.recordio, and no damaged file passes or crashes."""

import shutil
import struct

import numpy as np
import pytest

from igcnet.data.lists import Item
from igcnet.data.records import (
    MAGIC,
    RecordFile,
    RecordPaths,
    frame,
    frame_all,
    pack_record,
    read_index,
    unpack_record,
)
from igcnet.data.writing import record_writer
from igcnet.errors import DataError

MAGIC_BYTES = struct.pack('<I', MAGIC)
# Lengths of every remainder, the magic aligned and not, at the ends, twice, and alone.
PAYLOADS = [b'', b'a', b'ab', b'abc', b'abcd', bytes(range(256)) * 5,
            MAGIC_BYTES, MAGIC_BYTES * 3, b'xxxx' + MAGIC_BYTES + b'yy', b'x' + MAGIC_BYTES,
            b'1234' + MAGIC_BYTES + b'567' + MAGIC_BYTES + MAGIC_BYTES]


def write_records(prefix, images, labels=None):
    """A data set of the given payload bodies; returns its paths."""
    with record_writer(prefix) as writer:
        for key, image in enumerate(images):
            label = float(key % 3) if labels is None else labels[key]
            writer.add(Item(key, label, 'image %d' % key), image)
    return RecordPaths.of(prefix)


@pytest.fixture
def dataset(tmp_path):
    """Paths of 20 records of different sizes."""
    random = np.random.RandomState(0)
    return write_records(tmp_path / 'good', [random.bytes(50 + 7 * n) for n in range(20)])


def test_reads_what_was_written(tmp_path):
    paths = write_records(tmp_path / 'a', PAYLOADS)
    records = RecordFile(paths.rec)
    assert len(records) == len(PAYLOADS)
    assert records.keys.tolist() == list(range(len(PAYLOADS)))
    for position, payload in enumerate(PAYLOADS):
        record = records.read(position)
        assert (record.image, record.label, record.id) == (payload, position % 3, position)
    assert records.labels().tolist() == [n % 3 for n in range(len(PAYLOADS))]


def test_several_labels(tmp_path):
    labels = [(1.0, 2.5), (3.0, 4.0, 5.0), (7.0,)]
    paths = write_records(tmp_path / 'a', [b'x', b'yy', b'zzz'], labels)
    records = RecordFile(paths.rec)
    for position, label in enumerate(labels):
        assert records.read(position).label.tolist() == list(label)
    assert records.labels().tolist() == [1.0, 3.0, 7.0]


def test_same_bytes_as_mxnet_writes(tmp_path):
    import mxnet as mx
    labels = [float(n) if n % 2 else (1.0, float(n)) for n in range(len(PAYLOADS))]
    ours = write_records(tmp_path / 'ours', PAYLOADS, labels)
    theirs = RecordPaths.of(tmp_path / 'theirs')
    file = mx.recordio.MXIndexedRecordIO(str(theirs.idx), str(theirs.rec), 'w')
    for key, (label, image) in enumerate(zip(labels, PAYLOADS)):
        header = mx.recordio.IRHeader(0, label, key, 0)
        file.write_idx(key, mx.recordio.pack(header, image))
    file.close()
    assert ours.rec.read_bytes() == theirs.rec.read_bytes()
    assert ours.idx.read_bytes() == theirs.idx.read_bytes()


def test_mxnet_reads_ours_and_we_read_its(tmp_path):
    import mxnet as mx
    paths = write_records(tmp_path / 'a', PAYLOADS)
    file = mx.recordio.MXIndexedRecordIO(str(paths.idx), str(paths.rec), 'r')
    records = RecordFile(paths.rec)
    for key in reversed(range(len(PAYLOADS))):
        payload = file.read_idx(key)
        header, image = mx.recordio.unpack(payload)
        assert (image, header.label, header.id) == (PAYLOADS[key], key % 3, key)
        assert unpack_record(payload, 'x') == records.read(key)


def test_without_index_the_records_are_found(dataset):
    before = [RecordFile(dataset.rec).read(n) for n in range(20)]
    dataset.idx.unlink()
    records = RecordFile(dataset.rec)
    assert not records.has_index
    assert [records.read(n) for n in range(20)] == before


def test_manifest_gives_classes(tmp_path):
    with record_writer(tmp_path / 'a', classes=['cat', 'dog']) as writer:
        writer.add(Item(0, 1.0, 'x'), b'x')
    assert RecordFile(tmp_path / 'a').classes == ['cat', 'dog']
    (tmp_path / 'a-manifest.json').write_text('[1, 2]')
    with pytest.raises(DataError, match='a-manifest.json: not a manifest'):
        RecordFile(tmp_path / 'a')


@pytest.mark.parametrize('size', [0, 1, 7, 8, 30, 100])
def test_truncated_file(dataset, size):
    whole = dataset.rec.read_bytes()
    dataset.rec.write_bytes(whole[:-size] if size else b'')
    message = 'good.rec.*(truncated|offset)' if size else 'good.rec: the record file is empty'
    with pytest.raises(DataError, match=message):
        RecordFile(dataset.rec)
    dataset.idx.unlink()
    with pytest.raises(DataError, match='good.rec'):
        RecordFile(dataset.rec)


def test_damage_in_the_middle_is_found_when_read(dataset):
    offset = int(read_index(dataset.idx)[1][7])
    data = bytearray(dataset.rec.read_bytes())
    data[offset] ^= 1
    dataset.rec.write_bytes(bytes(data))
    records = RecordFile(dataset.rec)
    assert records.read(6).id == 6
    with pytest.raises(DataError, match=r'good.rec, record 7 \(key 7\): no record starts'):
        records.read(7)
    with pytest.raises(DataError, match='record 7'):
        records.labels()
    dataset.idx.unlink()
    with pytest.raises(DataError, match='record 7: no record starts'):
        RecordFile(dataset.rec)


def test_announced_length_beyond_the_end(dataset):
    offset = int(read_index(dataset.idx)[1][3])
    data = bytearray(dataset.rec.read_bytes())
    data[offset + 4:offset + 8] = struct.pack('<I', 1 << 28)
    dataset.rec.write_bytes(bytes(data))
    with pytest.raises(DataError, match='record 3.*268435456 bytes are announced'):
        RecordFile(dataset.rec).read(3)


def test_parts_out_of_order(dataset):
    data = bytearray(dataset.rec.read_bytes())
    data[7] |= 3 << 5  # the first record now claims to be the last part of one
    dataset.rec.write_bytes(bytes(data))
    with pytest.raises(DataError, match='parts of the record at offset 0 are out of order'):
        RecordFile(dataset.rec)


def test_index_of_another_file(tmp_path, dataset):
    other = write_records(tmp_path / 'other', [b'x' * 40] * 20)
    shutil.copy(str(other.idx), str(dataset.idx))
    with pytest.raises(DataError, match='index is of another file'):
        RecordFile(dataset.rec)
    lines = other.idx.read_text().splitlines(True)
    other.idx.write_text(''.join(lines[:-1]))
    with pytest.raises(DataError, match='the index ends at byte'):
        RecordFile(other.rec)


@pytest.mark.parametrize('text, message', [
    ('', 'the index is empty'),
    ('1 0\n', 'not an index'),
    ('0\t0\n1\n', 'not an index'),
    ('0\t0\t0\n', 'not an index'),
    ('a\t0\n', 'not an index'),
    ('0\t-8\n', 'not an index'),
    ('0\t%d\n' % (1 << 70), 'not an index'),
    ('0\t%d\n' % (1 << 40), 'outside the file'),
    ('0\t3\n', 'no record starts at offset 3'),
    ('caf\u00e9\t0\n', 'not an index'),
])
def test_broken_index(dataset, text, message):
    dataset.idx.write_text(text, encoding='utf-8')
    with pytest.raises(DataError, match=message):
        RecordFile(dataset.rec)


def test_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match='none.rec: cannot read.*im2rec_pack.py'):
        RecordFile(tmp_path / 'none')
    (tmp_path / 'folder.rec').mkdir()
    with pytest.raises(DataError, match='folder.rec: cannot read'):
        RecordFile(tmp_path / 'folder.rec')


def test_random_bytes(tmp_path):
    random = np.random.RandomState(1)
    for size in (1, 8, 100, 5000):
        (tmp_path / 'noise.rec').write_bytes(random.bytes(size))
        with pytest.raises(DataError, match='noise.rec'):
            RecordFile(tmp_path / 'noise.rec')


def test_record_header():
    payload = pack_record(2.0, 9, b'image')
    with pytest.raises(DataError, match='r: 10 bytes are too few'):
        unpack_record(payload[:10], 'r')
    with pytest.raises(DataError, match='r: the header announces 4294967295 labels'):
        unpack_record(b'\xff' * 4 + payload[4:], 'r')


def test_record_too_large():
    class Huge(bytes):
        def __len__(self):
            return 1 << 29
    with pytest.raises(DataError, match='536870912 bytes: the format holds at most 536870911'):
        frame(Huge())


def test_mutations_are_errors_or_records(dataset, tmp_path):
    """A thousand damaged files: each read gives a record or a DataError, never anything else."""
    random = np.random.RandomState(2)
    whole, index = dataset.rec.read_bytes(), dataset.idx.read_bytes()
    paths = RecordPaths.of(tmp_path / 'mutant')
    refused = 0
    for trial in range(1000):
        rec, idx = bytearray(whole), bytearray(index)
        target = rec if trial % 3 else idx
        for _ in range(random.randint(1, 4)):
            if random.rand() < 0.2:
                del target[random.randint(len(target)):]
            if target:
                target[random.randint(len(target))] = random.randint(256)
        paths.rec.write_bytes(bytes(rec))
        paths.idx.write_bytes(bytes(idx))
        if trial % 2:
            paths.idx.unlink()
        try:
            records = RecordFile(paths.rec)
        except DataError as problem:
            assert 'mutant' in str(problem) and '\n' not in str(problem)
            refused += 1
            continue
        for position in range(len(records)):
            try:
                assert isinstance(records.read(position).image, bytes)
            except DataError as problem:
                assert 'mutant.rec, record %d' % position in str(problem)
                refused += 1
                break
    assert refused > 300


def test_read_image_gives_the_first_label_and_the_image_of_read(tmp_path):
    images = [b'', b'abc', MAGIC_BYTES * 3, b'12' + MAGIC_BYTES, bytes(range(256)) * 9]
    labels = [1.5, (2.0, 7.0), 3.0, -4.0, (5.0,)]
    content = b''.join(frame(pack_record(label, 9, image)) for label, image in zip(labels, images))
    (tmp_path / 'a.rec').write_bytes(content)
    records = RecordFile(tmp_path / 'a')
    for position, (label, image) in enumerate(zip(labels, images)):
        assert records.read(position).image == image
        assert records.read_image(position) == (np.ravel(label)[0], image)


@pytest.mark.parametrize('offset', [-4, 5, 10 ** 9])
def test_read_image_names_the_record_of_a_wrong_offset(tmp_path, offset):
    (tmp_path / 'a.rec').write_bytes(frame(pack_record(1.0, 1, b'x' * 50)) * 2)
    records = RecordFile(tmp_path / 'a')
    records.offsets[1] = offset
    assert records.read_image(0) == (1.0, b'x' * 50)
    with pytest.raises(DataError, match=r'a\.rec, record 1 \(key 1\): '):
        records.read_image(1)


def test_many_records_are_framed_as_each_alone():
    magic = struct.pack('<I', MAGIC)
    images = [b'', b'a', b'abcde' * 100, b'x' + magic, magic, b'abcd' + magic + magic + b'e']
    keys, labels = [3, 1, MAGIC, 5, 6, 7], [0.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    for count in (0, 2, len(images)):  # two have no magic and take the quick way
        framed, lengths = frame_all(labels[:count], keys[:count], images[:count])
        expected = [frame(pack_record(*record))
                    for record in zip(labels[:count], keys[:count], images[:count])]
        assert framed == b''.join(expected) and lengths == [len(record) for record in expected]
