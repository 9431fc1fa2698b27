"""Reading and writing PyTorch's files: every container, every type."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch_files as build
from torch_files import CONTAINERS, DATA, WEIGHTS, refusal

from igcnet.convert.torch_file import read_torch
from igcnet.convert.torch_writer import write_torch
from igcnet.errors import CheckpointError, UsageError

# What PyTorch writes


@pytest.fixture(params=CONTAINERS)
def stored(request):
    found = read_torch(DATA / ('torch_%s.pt' % request.param))
    assert found.container == request.param
    return found.value


def test_tensors(stored):
    state = stored['state_dict']
    assert type(state) is OrderedDict
    assert list(state) == ['conv.weight', 'conv.bias', 'fc.weight', 'bn.num_batches_tracked',
                           'half', 'bfloat16', 'bool', 'int8', 'double', 'empty', 'expanded',
                           'parameter']
    expected = {
        'conv.weight': np.arange(2, 14, dtype='f4').reshape(3, 2, 2, 1),
        'conv.bias': np.array([2, 3, 4], 'f4'),
        'fc.weight': np.arange(24, dtype='f4').reshape(4, 6).T[1:3],
        'bn.num_batches_tracked': np.array(7, 'i8'),
        'half': np.array([1.5, -2, 65504], 'f2'),
        'bfloat16': np.array([[1.5, -2, 3.140625]], 'f4'),
        'bool': np.array([True, False, True]), 'int8': np.array([-128, 127], 'i1'),
        'double': np.array(0.1, 'f8'), 'empty': np.zeros((0, 3), 'f4'),
        'expanded': np.array([5, 5, 5], 'f4'), 'parameter': np.array([1, 2], 'f4')}
    for key, array in expected.items():
        assert state[key].dtype == array.dtype and state[key].shape == array.shape, key
        assert np.array_equal(state[key], array), key
        assert not state[key].flags.writeable


def test_shared_storages_share_memory(stored):
    state = stored['state_dict']
    assert np.shares_memory(state['conv.weight'], state['conv.bias'])
    first, second = stored['storage_views']
    assert first.tolist() == [0, 1] and second.tolist() == [22, 23]


def test_metadata_of_the_state_dict(stored):
    assert stored['state_dict']._metadata == OrderedDict([('', {'version': 1}),
                                                          ('bn', {'version': 2})])


def test_plain_values(stored):
    expected = {'epoch': 12, 'best_prec1': 71.25, 'args': {'lr': 0.1, 'arch': 'net',
                                                           'gpus': [0, 1]},
                'size': (2, 3), 'device': 'cuda:1', 'dtype': 'torch.float32', 'set': {1, 2},
                'complex': 1 - 2j, 'bytes': b'\x00\xff', 'default': {'a': [1]},
                'counter': {30: 1, 60: 1}, 'none': None, 'big': 2 ** 70}
    for key, value in expected.items():
        assert stored[key] == value and type(stored[key]) is type(value), key
    assert stored['history'].tolist() == [[0, 1], [2, 3]]
    assert stored['history'].dtype == np.int16


def test_as_torch_reads_them(shared_fixtures):
    """All original checkpoints at hand, every value, against PyTorch itself."""
    torch = pytest.importorskip('torch')

    def same(ours, theirs, where):
        if isinstance(theirs, torch.Tensor):
            theirs = theirs.numpy()
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
            assert ours.tobytes() == theirs.tobytes(), where
        elif isinstance(theirs, dict):
            assert type(ours) is type(theirs) and list(ours) == list(theirs), where
            for key in theirs:
                same(ours[key], theirs[key], '%s/%s' % (where, key))
            assert getattr(ours, '_metadata', None) == getattr(theirs, '_metadata', None)
        elif isinstance(theirs, (list, tuple)):
            assert type(ours) is type(theirs) and len(ours) == len(theirs), where
            for left, right in zip(ours, theirs):
                same(left, right, where)
        else:
            assert type(ours) is type(theirs) and ours == theirs, where

    paths = [path for system in ('dgc', 'igcv3', 'menet', 'mutualnet')
             for path in sorted(shared_fixtures(system).iterdir())
             if path.suffix in ('.tar', '.pt')]
    assert len(paths) >= 15
    for path in paths:
        same(read_torch(path).value,
             torch.load(str(path), map_location='cpu', weights_only=True), path.name)


# Other forms of the containers


@pytest.mark.parametrize('kind, module', [('FloatStorage', 'torch'),
                                          ('FloatStorage', 'torch.cuda')])
def test_tensor_of_a_gpu(tmp_path, kind, module):
    path = build.legacy_file(tmp_path / 'a.pt', build.entry(
        build.tensor(build.storage(kind=kind, module=module, location='cuda:3'))))
    assert np.array_equal(read_torch(path).value['w'], WEIGHTS)


def test_view_of_a_storage(tmp_path):
    """The legacy container's views: a part of a storage under a key of its own."""
    operations = build.entry(build.tensor(build.storage(view=('v', 1, 3)), (2,), (1,), 1))
    path = build.legacy_file(tmp_path / 'a.pt', operations)
    assert read_torch(path).value['w'].tolist() == [2, 3]
    bad = build.entry(build.tensor(build.storage(view=('v', 2, 3)), (2,), (1,), 1))
    assert 'a view beyond storage' in refusal(build.legacy_file(tmp_path / 'b.pt', bad))


def test_python_2_ordered_dict(tmp_path):
    """Python 2 gave all pairs at once, and texts without an encoding."""
    pair = b'](U\x01w' + build.tensor(build.storage()) + b'e'
    path = build.legacy_file(tmp_path / 'a.pt', build.name('collections', 'OrderedDict') +
                             b'](' + pair + b'e\x85R')
    found = read_torch(path).value
    assert type(found) is OrderedDict and np.array_equal(found['w'], WEIGHTS)


def test_untyped_storage(tmp_path):
    """How PyTorch 2 stores the types that have no storage class of their own."""
    stored = build.storage(kind='UntypedStorage', module='torch.storage', count=8, legacy=False)
    operations = (build.name('torch._utils', '_rebuild_tensor_v3') + b'(' + stored +
                  build.number(1) + build.numbers((2,)) + build.numbers((1,)) + b'\x89' +
                  build.name('collections', 'OrderedDict') + b')R' +
                  build.name('torch', 'uint16') + b'tR')
    path = build.zip_file(tmp_path / 'a.pt', build.entry(operations),
                          {'0': np.arange(4, dtype='<u2')})
    assert read_torch(path).value['w'].tolist() == [1, 2]


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_newer_pickle_protocols(tmp_path, protocol):
    value = {'a': [1, 2.5, 'é', None, True, (), (1,)], 'b': {1, 2}, 'c': b'x', 'd': -2 ** 40}
    path = build.legacy_file(tmp_path / 'a.pt', pickle.dumps(value, protocol)[2:-1], {},
                             bytes([0x80, protocol]))
    assert read_torch(path).value == value


@pytest.mark.parametrize('protocol', [2, 4])
def test_numpy_values(tmp_path, protocol):
    value = {'a': np.float32(0.1), 'b': np.int64(-3), 'c': np.bool_(True),
             'd': np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3))}
    path = build.legacy_file(tmp_path / 'a.pt', pickle.dumps(value, protocol)[2:-1], {},
                             bytes([0x80, protocol]))
    found = read_torch(path).value
    assert found['a'] == float(np.float32(0.1)) and type(found['a']) is float
    assert (found['b'], found['c']) == (-3, True)
    assert found['d'].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_packed_again(tmp_path):
    """A zip container that someone unpacked and compressed."""
    path = build.zip_file(tmp_path / 'a.pt', build.entry(build.tensor(
        build.storage(legacy=False))), compression=zipfile.ZIP_DEFLATED, byteorder=b'little')
    assert np.array_equal(read_torch(path).value['w'], WEIGHTS)


def test_big_endian(tmp_path):
    path = build.zip_file(tmp_path / 'a.pt', build.entry(build.tensor(
        build.storage(legacy=False))), byteorder=b'big')
    assert 'big endian' in refusal(path)


def test_tar(tmp_path):
    array = np.arange(6, dtype='<f4').reshape(2, 3)
    path = build.tar_file(tmp_path / 'a.pth', array)
    assert np.array_equal(read_torch(path).value['w'], array)
    assert read_torch(path).container == 'tar'
    path = build.tar_file(tmp_path / 'b.pth', array, [(9, 7, 2, 4)], (2, 2), 9, strides=(1, 2))
    assert read_torch(path).value['w'].tolist() == [[2, 4], [3, 5]]


def test_tar_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip('torch')
    array = np.arange(6, dtype='<f4').reshape(2, 3)
    path = build.tar_file(tmp_path / 'a.pth', array)
    assert np.array_equal(torch.load(str(path), weights_only=False)['w'].numpy(), array)


@pytest.mark.parametrize('changes, message', [
    (dict(views=[(9, 7, 4, 4)]), 'a view beyond its storage'),
    (dict(views=[(9, 5, 0, 1)]), 'describes what it does not have'),
    (dict(shape=(3, 3), strides=(3, 1)), 'reaches beyond'),
    (dict(shape=(2, -3)), 'a shape that cannot be'),
    (dict(strides=(-3, 1)), 'offset or strides that cannot be'),
    (dict(storage_key=99), 'describes what it does not have'),
    (dict(tensor_key=6), 'kept outside its pickle')])
def test_damaged_tar(tmp_path, changes, message):
    array = np.arange(6, dtype='<f4').reshape(2, 3)
    assert message in refusal(build.tar_file(tmp_path / 'a.pth', array, **changes))


def test_truncated_tar(tmp_path):
    path = build.tar_file(tmp_path / 'a.pth', np.arange(6, dtype='<f4').reshape(2, 3))
    whole = path.read_bytes()
    for length in range(512, len(whole) - 2048, 512):
        path.write_bytes(whole[:length])
        assert refusal(path)


@pytest.mark.parametrize('content, message', [
    (b'', 'none of the containers'), (b'GIF89a', 'none of the containers'),
    (b'\x00' * 600, 'none of the containers'), (b'PK\x03\x04', 'zip container is broken'),
    (pickle.dumps({'a': 1}, 2), 'a pickle of something else')])
def test_something_else(tmp_path, content, message):
    (tmp_path / 'a.pt').write_bytes(content)
    assert message in refusal(tmp_path / 'a.pt')


def test_no_file(tmp_path):
    assert 'No such file' in refusal(tmp_path / 'a.pt')
    assert 'not a file' in refusal(tmp_path)
    os.mkfifo(str(tmp_path / 'pipe'))
    assert 'not a file' in refusal(tmp_path / 'pipe')


# Writing

VALUES = {
    'numbers': [0, 1, 255, 256, 65535, 65536, -1, 2 ** 31, -2 ** 63, 2 ** 200, 0.1, 1e300],
    'others': (None, True, False, 'ünï', b'\x00\xff', 1 - 2j, {1, 2}, (), [], {}),
    'arrays': [np.array(2.5, 'f2'), np.arange(12.).reshape(3, 4).T, np.zeros((0, 3), 'f4'),
               np.array([True, False]), np.arange(5, dtype='u1'), np.ones(2, 'c8'),
               np.arange(3, dtype='>f4'), np.array(7)],
    'nested': OrderedDict([('b', {1: {'a': [({},)]}}), ('a', OrderedDict())]),
}


def assert_equal(ours, expected):
    if isinstance(expected, np.ndarray):
        ours = np.asarray(ours)
        assert ours.shape == expected.shape and np.array_equal(ours, expected)
        assert ours.dtype == expected.dtype.newbyteorder('=')
    elif isinstance(expected, dict):
        assert type(ours) is type(expected) and list(ours) == list(expected)
        for key in expected:
            assert_equal(ours[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(ours) is type(expected) and len(ours) == len(expected)
        for left, right in zip(ours, expected):
            assert_equal(left, right)
    else:
        assert type(ours) is type(expected) and ours == expected


@pytest.mark.parametrize('container', CONTAINERS)
def test_write_and_read(tmp_path, container):
    write_torch(tmp_path / 'a.pt', VALUES, container)
    found = read_torch(tmp_path / 'a.pt')
    assert found.container == container
    assert_equal(found.value, VALUES)


@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('weights_only', [True, False])
def test_torch_reads_what_is_written(tmp_path, container, weights_only):
    torch = pytest.importorskip('torch')
    state = build.ordered(weight=np.arange(6, dtype='f4').reshape(2, 3), bias=np.ones(2, 'f4'))
    state._metadata = OrderedDict([('', {'version': 1})])
    write_torch(tmp_path / 'a.pt', {'values': VALUES, 'state': state}, container)
    found = torch.load(str(tmp_path / 'a.pt'), weights_only=weights_only)
    assert_equal(found['values'], VALUES)
    assert found['state']._metadata == state._metadata
    layer = torch.nn.Linear(3, 2)
    layer.load_state_dict(found['state'], strict=True)
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    if container == 'zip':
        mapped = torch.load(str(tmp_path / 'a.pt'), weights_only=True, mmap=True)
        assert mapped['state']['weight'].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_one_value_one_file(tmp_path):
    for container in CONTAINERS:
        for copy in 'ab':
            write_torch(tmp_path / copy, VALUES, container)
        assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


@pytest.mark.parametrize('value, message', [
    ({'a': object()}, 'it holds a object, which is no plain data'),
    ({'a': np.array(['x'])}, 'array of <U1'), ([[]] * 2 + [1 << 4000], 'a number of'),
    (os.path, 'it holds a module')])
def test_what_cannot_be_written(tmp_path, value, message):
    path = tmp_path / 'a.pt'
    path.write_text('before')
    with pytest.raises(CheckpointError, match='cannot be written: ') as caught:
        write_torch(path, value)
    assert message in str(caught.value)
    assert path.read_text() == 'before' and len(list(tmp_path.iterdir())) == 1


def test_too_deep_to_write(tmp_path):
    value = []
    value.append(value)
    with pytest.raises(CheckpointError, match='more than 100 levels'):
        write_torch(tmp_path / 'a.pt', value)


def test_unknown_container(tmp_path):
    with pytest.raises(UsageError, match="must be 'legacy' or 'zip'"):
        write_torch(tmp_path / 'a.pt', {}, 'tar')
