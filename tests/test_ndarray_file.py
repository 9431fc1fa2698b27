"""The reader and writer of ``.params`` files against MXNet's own, and against damaged files."""

import os
import random
import struct
import time
import tracemalloc

import mxnet as mx
import numpy as np
import pytest
from old_layouts import list_bytes, ndarray_bytes, write_params

from igcnet.convert import read_ndarrays, write_ndarrays
from igcnet.errors import CheckpointError, IgcnetError

TYPES = ['float32', 'float64', 'float16', 'uint8', 'int32', 'int8', 'int64', 'bool']


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    return {'arg:conv_weight': rng.randn(4, 3, 2, 2).astype(np.float32),
            'arg:fc_bias': rng.randn(5).astype(np.float32),
            'aux:bn_moving_var': rng.rand(7).astype(np.float32)}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


def fails(path, content, *words):
    """Reading `content` raises one line that names the file and has all `words`."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_ndarrays(path)
    message = str(caught.value)
    assert '\n' not in message and len(message) < 400
    for word in (path.name,) + words:
        assert word in message
    return message


@pytest.mark.parametrize('layout', ['oldest', 'v1', 'v2', 'v3'])
def test_layouts(tmp_path, arrays, layout):
    write_params(tmp_path / 'a.params', arrays, layout)
    assert_same(read_ndarrays(tmp_path / 'a.params'), arrays)
    if layout != 'v3':  # which MXNet reads with NumPy shapes switched on only
        theirs = mx.nd.load(str(tmp_path / 'a.params'))
        assert_same({name: array.asnumpy() for name, array in theirs.items()}, arrays)


def test_written_as_mxnet_writes(tmp_path):
    rng = np.random.RandomState(0)
    arrays = {kind: (rng.rand(3, 2) * 9).astype(kind) for kind in TYPES}
    write_ndarrays(tmp_path / 'ours.params', arrays)
    mx.nd.save(str(tmp_path / 'theirs.params'),
               {kind: mx.nd.array(array, dtype=kind) for kind, array in arrays.items()})
    assert (tmp_path / 'ours.params').read_bytes() == (tmp_path / 'theirs.params').read_bytes()
    assert_same(read_ndarrays(tmp_path / 'theirs.params'), arrays)


def test_other_memory_orders(tmp_path):
    array = np.arange(6, dtype='>f4').reshape(2, 3).T
    write_ndarrays(tmp_path / 'a.params', {'a': array})
    assert_same(read_ndarrays(tmp_path / 'a.params'), {'a': array.astype('<f4')})


def test_numpy_shapes(tmp_path):
    with mx.util.np_shape(True):
        mx.nd.save(str(tmp_path / 'a.params'), {'s': mx.nd.ones(()), 'm': mx.nd.ones((2, 3))})
    found = read_ndarrays(tmp_path / 'a.params')
    assert found['s'].shape == () and found['s'] == 1 and found['m'].shape == (2, 3)


def test_bfloat16_becomes_float32(tmp_path):
    bits = np.array([0x3F80, 0xC020, 0x0001], np.uint16)  # 1, -2.5, the smallest subnormal
    (tmp_path / 'a.params').write_bytes(list_bytes([ndarray_bytes(bits, 'v2', code=12)], ['a']))
    found = read_ndarrays(tmp_path / 'a.params')['a']
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([1, -2.5, 2.0 ** -133]))


def test_odd_booleans_and_empty_file(tmp_path):
    raw = np.array([0, 1, 2, 255], np.uint8)
    (tmp_path / 'a.params').write_bytes(list_bytes([ndarray_bytes(raw, 'v2', code=7)], ['a']))
    assert_same(read_ndarrays(tmp_path / 'a.params'), {'a': np.array([False, True, True, True])})
    write_ndarrays(tmp_path / 'none.params', {})
    assert read_ndarrays(tmp_path / 'none.params') == {}


def test_every_truncation(tmp_path, arrays):
    for layout in ('oldest', 'v2'):
        write_params(tmp_path / 'whole.params', arrays, layout)
        content = (tmp_path / 'whole.params').read_bytes()
        for length in range(len(content)):
            fails(tmp_path / 'cut.params', content[:length])
        fails(tmp_path / 'cut.params', content[:100], 'array 1 of 3')


def test_mutations_read_or_raise(tmp_path, arrays):
    """No crash, hang or large allocation whatever bytes change."""
    rng, outcomes = random.Random(0), {'read': 0, 'refused': 0}
    path = tmp_path / 'a.params'
    tracemalloc.start()
    begin = time.process_time()
    for layout in ('oldest', 'v1', 'v2', 'v3'):
        write_params(path, arrays, layout)
        content = path.read_bytes()
        for _ in range(1000):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 1, 2, 8])):
                place = rng.randrange(len(damaged)) if rng.random() < 0.5 else rng.randrange(90)
                damaged[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            if rng.random() < 0.2:
                del damaged[rng.randrange(len(damaged)):]
            path.write_bytes(bytes(damaged))
            try:
                assert len(read_ndarrays(path)) == 3
                outcomes['read'] += 1
            except CheckpointError as problem:
                assert '\n' not in str(problem)
                outcomes['refused'] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcomes['read'] > 400 and outcomes['refused'] > 1000
    assert peak < 4 << 20 and time.process_time() - begin < 30


def header(*dims, ndim=None, storage=0, device=1, code=0):
    """The start of a version-2 array with the given declared shape."""
    count = len(dims) if ndim is None else ndim
    return struct.pack('<Iii%dqiii' % len(dims), 0xF993FAC9, storage, count, *dims, device, 0,
                       code)


@pytest.mark.parametrize('array, words', [
    (header(ndim=-1), '-1 dimensions'),
    (header(ndim=33), '33 dimensions'),
    (header(ndim=0), 'no shape'),
    (header(1 << 40), 'needs 4398046511104 bytes'),
    (header(1 << 62, 1 << 62), 'needs'),
    (header(-4, -4), 'shape (-4, -4)'),
    (header(3, 0, 1 << 62), 'no elements'),
    (header(2, storage=1), 'sparse'),
    (header(2, device=9), 'device type 9'),
    (header(2, code=42), 'element type 42'),
    (struct.pack('<II', 0x7FFFFFFF, 1), 'dimensions'),
])
def test_damaged_headers(tmp_path, array, words):
    good = ndarray_bytes(np.ones(2, np.float32), 'v2')
    content = list_bytes([good, array + bytes(16)], ['a', 'b'])
    tracemalloc.start()
    fails(tmp_path / 'a.params', content, 'array 2 of 2', words)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize('names, words', [
    (['a', 'a'], "two arrays are called 'a'"),
    (['a', b'\xff\xfe'], 'name 2 of 2: damaged: not UTF-8'),
    (['a', 'b\nc'], 'not printable'),
    (['a', 'b' * 2000], '2000 bytes long'),
    (['a'], '1 names for 2 arrays'),
    ([], 'without names'),
])
def test_damaged_names(tmp_path, names, words):
    array = ndarray_bytes(np.ones(2, np.float32), 'v2')
    fails(tmp_path / 'a.params', list_bytes([array, array], names), words)


def test_other_damage(tmp_path):
    good = list_bytes([ndarray_bytes(np.ones(2, np.float32), 'v2')], ['a'])
    fails(tmp_path / 'a.params', good + b'x', '1 bytes left over')
    fails(tmp_path / 'a.params', b'', 'the header needs 16 bytes')
    fails(tmp_path / 'a.params', b'PK\x03\x04' + bytes(100), 'not an MXNet parameter file')
    fails(tmp_path / 'a.params', struct.pack('<QQQ', 0x112, 0, 1 << 60), 'truncated')


@pytest.mark.parametrize('name', ['missing.params', 'folder', 'pipe', 'nul\0'])
def test_not_a_file(tmp_path, name):
    (tmp_path / 'folder').mkdir()
    os.mkfifo(str(tmp_path / 'pipe'))
    with pytest.raises(CheckpointError, match='parameter file'):
        read_ndarrays(str(tmp_path / name))


@pytest.mark.parametrize('array', [np.float32(3), np.zeros((0, 2), np.float32),
                                   np.ones(2, np.uint64), np.array(['x'])])
def test_refuses_to_write(tmp_path, array):
    path = tmp_path / 'a.params'
    write_ndarrays(path, {'a': np.ones(2, np.float32)})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="'bad'"):
        write_ndarrays(path, {'a': np.ones(3, np.float32), 'bad': array})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.params']


def test_unwritable_folder(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(IgcnetError, match='cannot write'):
        write_ndarrays(tmp_path / 'file' / 'a.params', {'a': np.ones(2, np.float32)})


def test_original_checkpoints(shared_fixtures, tmp_path):
    paths = sorted(shared_fixtures('igc').glob('*.params'))
    assert paths
    for path in paths:
        found = read_ndarrays(path)
        assert_same(found, {name: array.asnumpy()
                            for name, array in mx.nd.load(str(path)).items()})
        if path.read_bytes()[24:28] == struct.pack('<I', 0xF993FAC9):
            write_ndarrays(tmp_path / 'again.params', found)
            assert (tmp_path / 'again.params').read_bytes() == path.read_bytes()
