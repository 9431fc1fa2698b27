"""Reading and writing PyTorch's files: every container, types, and files that mean harm."""

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch_files as build

from igcnet.convert.torch_file import read_torch
from igcnet.convert.torch_writer import write_torch
from igcnet.errors import CheckpointError, UsageError

DATA = Path(__file__).resolve().parent / 'data'
# Written by PyTorch 2.13 from one dictionary: shared storages, strides, every element type,
# a defaultdict, a namespace, NumPy values. torch_module.pt is a whole nn.Sequential.
CONTAINERS = ('zip', 'legacy')
WEIGHTS = np.arange(4, dtype=np.float32)


def refusal(path):
    """The message with which a file is refused; always one line that begins with its name."""
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith('%s: ' % path) and '\n' not in message
    return message[len('%s: ' % path):]


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


# Files that mean harm


class Attack:
    """Unpickled by Python, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def attack_files(folder):
    """Python's own pickling of the attack in every place that a file has for a pickle."""
    attack = pickle.dumps({'state_dict': Attack(folder / 'harm')}, 2)
    parts = [pickle.dumps(build.MAGIC, 2), pickle.dumps(build.VERSION, 2), pickle.dumps({}, 2),
             pickle.dumps({}, 2), pickle.dumps([], 2)]
    files = {'plain': attack}
    for place in range(len(parts)):
        files['legacy %d' % place] = b''.join([*parts[:place], attack, *parts[place + 1:]])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        archive.writestr('net/data.pkl', attack)
    files['zip'] = packed.getvalue()
    return files


@pytest.mark.parametrize('kind', ['plain', 'zip', *('legacy %d' % place for place in range(5))])
def test_code_is_not_run(tmp_path, kind):
    path = tmp_path / 'a.pt'
    path.write_bytes(attack_files(tmp_path)[kind])
    message = refusal(path)
    assert message == ('refused: it names %s.mkdir, which is no part of plain data; nothing was '
                       'run' % os.mkdir.__module__)
    assert not (tmp_path / 'harm').exists()


def test_whole_module(tmp_path):
    assert refusal(DATA / 'torch_module.pt').startswith(
        'refused: it names torch.nn.modules.container.Sequential,')


CALL = b'(' + build.text('1+1') + b'tR'
ATTACKS = {
    'a builtin': (build.name('builtins', 'eval') + CALL, 'names builtins.eval'),
    'a builtin of Python 2': (build.name('__builtin__', 'eval') + CALL, 'names __builtin__.eval'),
    'a name from the stack': (build.text('os') + build.text('system') + b'\x93' + CALL,
                              'names os.system'),
    'a part of torch': (build.name('torch', 'load') + CALL, 'names torch.load'),
    'a dotted name': (build.name('torch', 'Tensor.__class__') + CALL, 'Tensor.__class__'),
    'getattr': (build.name('builtins', 'getattr') + CALL, 'names builtins.getattr'),
    'a factory': (build.name('collections', 'defaultdict') + build.name('os', 'system') + b'\x85R',
                  'names os.system'),
    'a name with a line break': (build.text('o\ns') + build.text('x') + b'\x93', "'o\\ns.x'"),
    'a call of a class that is only named': (build.name('builtins', 'dict') + b')R',
                                             'not in the table'),
    'a call of a call': (build.name('torch._tensor', '_rebuild_from_type_v2') + b'q\0(h\0N)NtR',
                         'cannot have'),
    'a call of a text': (build.text('x') + b')R', 'not in the table'),
    'a call of an array class': (build.name('numpy', 'ndarray') + b'(' + build.numbers((9,)) +
                                 b'tR', 'not in the table'),
    'a new object of a class': (build.name('torch', 'FloatStorage') + b')\x81',
                                'not in the table'),
    'keywords': (build.name('argparse', 'Namespace') + b')}(' + build.text('a') + b'Nu\x92',
                 'NEWOBJ_EX'),
    'arguments that are no tuple': (build.name('collections', 'OrderedDict') + b']R',
                                    'not in the table'),
    'a state for a text': (build.text('x') + b'}b', 'BUILD'),
    'a state for a list': (b']}b', 'BUILD'),
    'a state for a function': (build.name('torch.nn.parameter', 'Parameter') + b'}(' +
                               build.text('__code__') + b'Nub', 'BUILD'),
    'attributes of an OrderedDict': (build.name('collections', 'OrderedDict') + b')RNb', 'BUILD'),
    'an extension': (b'\x82\x01', 'EXT1'), 'a longer extension': (b'\x84\x01\0\0\0', 'EXT4'),
    'an instance': (b'(ios\nsystem\n', 'INST'), 'an object': (b'(' + build.name(
        'torch', 'Size') + b'o', 'OBJ'),
    'a persistent text': (b'P123\n', 'PERSID'),
    'a buffer outside': (b'\x97', 'NEXT_BUFFER'),
    'a byte array': (b'\x96' + struct.pack('<Q', 1 << 50), 'BYTEARRAY8'),
    'a number as text': (b'L' + b'9' * 100000 + b'L\n', 'LONG'),
    'a persistent id of None': (b'NQ', 'is no storage'),
    'a persistent id of another kind': (b'(' + build.text('module') + b'NtQ', 'a whole module'),
    'a short persistent id': (b'(' + build.text('storage') + b'tQ', 'is no storage'),
    'a storage of no class': (build.storage().replace(build.name('torch', 'FloatStorage'), b'N'),
                              'is no storage'),
    'a storage with a long key': (build.storage('0' * 1000), 'is no storage'),
    'a storage of negative size': (build.storage(count=-4), 'is no storage'),
    'a storage as the value': (build.entry(build.storage()), 'stands where a value should be'),
    'a function as the value': (build.entry(build.name('torch', 'Size')), 'torch.Size stands'),
    'a class as the value': (build.name('builtins', 'int'), 'builtins.int stands'),
    'a NumPy type as the value': (build.name('numpy', 'dtype') + b'(' + build.text('f4') + b'tR',
                                  'something unfinished'),
    'an unfinished NumPy array': (build.name('numpy.core.multiarray', '_reconstruct') + b'(' +
                                  build.name('numpy', 'ndarray') + b'K\0\x85C\x01btR',
                                  'something unfinished'),
    'NumPy objects': (build.name('numpy', 'dtype') + b'(' + build.text('O8') + b'tR',
                      'no numbers'),
    'a set of texts from a text': (build.name('builtins', 'set') + build.text('abc') + b'\x85R',
                                   'cannot have'),
    'another encoding': (build.name('_codecs', 'encode') + b'(' + build.text('x') + build.text(
        'zlib') + b'tR', 'cannot have'),
    'an operation without operands': (b'R', 'REDUCE'),
    'two values': (b'K\1K\2', '2 values'), 'an open mark': (b'(K\1', 'ends at offset'),
    'a place that was never filled': (b'h\7', 'BINGET'),
    'an odd number of items': (b'}(K\1u', 'SETITEMS'),
    'an item for a number': (b'K\1(K\1K\2u', 'SETITEMS'),
    'a list as a key': (b'}]Ns', 'a key that is no text'),
    'a tuple as a key': (b'})Ns', 'a key that is no text'),
    'a huge number as a key': (b'}\x8a\x09' + b'\xff' * 8 + b'\x7fNs', 'a key that is no text'),
    'text that is none': (b'X\2\0\0\0\xff\xff', 'BINUNICODE'),
    'half of a character': (b'X\3\0\0\0\xed\xa0\x80', 'BINUNICODE'),
    'a protocol of the future': (b'\x80\x09N', 'pickle protocol 9'),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_attack(tmp_path, attack):
    operations, message = ATTACKS[attack]
    storages = None if b'FloatStorage' in operations else {}
    assert message in refusal(build.legacy_file(tmp_path / 'a.pt', operations, storages))
    if b'FloatStorage' not in operations:  # the other container has other storages
        assert message in refusal(build.zip_file(tmp_path / 'b.pt', operations))


@pytest.mark.parametrize('change, message', [
    (dict(shape=(5,)), 'reaches beyond its storage of 4 elements'),
    (dict(offset=1), 'reaches beyond'), (dict(offset=-1), 'cannot be'),
    (dict(strides=(-1,)), 'cannot be'), (dict(shape=(-4,)), 'cannot be'),
    (dict(strides=(2,)), 'reaches beyond'), (dict(strides=(1, 1)), 'cannot be'),
    (dict(shape=(1,), strides=(1,), offset=1 << 62), 'reaches beyond'),
    (dict(shape=(1 << 40,), strides=(0,)), 'reaches beyond'),
    (dict(shape=(1 << 20,) * 3, strides=(0,) * 3), 'a tensor of shape'),
    (dict(shape=(0, 1 << 60), strides=(1, 1)), 'a tensor of shape'),
    (dict(shape=(1,) * 40, strides=(1,) * 40), 'a shape that cannot be')])
def test_tensor_beyond_its_storage(tmp_path, change, message):
    operations = build.entry(build.tensor(build.storage(), **change))
    assert message in refusal(build.legacy_file(tmp_path / 'a.pt', operations))
    operations = build.entry(build.tensor(build.storage(legacy=False), **change))
    assert message in refusal(build.zip_file(tmp_path / 'b.pt', operations))


def test_storages_that_contradict(tmp_path):
    two_sizes = b']' + build.tensor(build.storage()) + b'a' + build.tensor(
        build.storage(count=3), (3,)) + b'a'
    assert "storage '0' with two sizes" in refusal(build.legacy_file(tmp_path / 'a.pt', two_sizes))
    one = build.entry(build.tensor(build.storage()))
    assert 'not those that its tensors need' in refusal(build.legacy_file(tmp_path / 'b.pt', one,
                                                                          {}))
    assert 'has 3 elements instead of 4' in refusal(
        build.legacy_file(tmp_path / 'c.pt', one, {'0': WEIGHTS[:3]}))
    one = build.entry(build.tensor(build.storage(legacy=False)))
    assert "lacks 'net/data/0'" in refusal(build.zip_file(tmp_path / 'd.pt', one, {}))
    assert 'has 12 bytes instead of 16' in refusal(
        build.zip_file(tmp_path / 'e.pt', one, {'0': WEIGHTS[:3]}))


# Operations that put the value on the stack twice into a tuple: written out, it doubles.
DOUBLE = b'q\0h\0\x86'


def measured(path):
    """Message, seconds and bytes at the peak."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        message = refusal(path)
        return message, time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS = {
    'a text': (b'\x8d' + struct.pack('<Q', 1 << 60), 'truncated'),
    'bytes': (b'\x8e' + struct.pack('<Q', 1 << 40), 'truncated'),
    'a number': (b'\x8b' + struct.pack('<i', 1 << 30), 'a number of'),
    'a storage': (build.entry(build.tensor(build.storage(count=1 << 40))),
                  'larger than the file'),
    'a place far away': (b'Nr\xff\xff\xff\xff0', 'POP'),
    'a list of lists of lists': (b']' + DOUBLE * 60, 'written out'),
    'depth': (b']' * 3001 + b'a' * 3000, 'levels deep'),
    'depth of tuples': (b')' + b'\x85' * 50000, 'levels deep'),
    'a list in itself': (b']q\0h\0a', 'contains itself'),
    'copies of a long list': (
        b'](' + b'](K\1K\2e' * 30000 + b'eq\0' + b'](' + (
            build.name('collections', 'OrderedDict') + b'h\0\x85R') * 2000 + b'e', 'steps'),
    'copies of a long text': (
        build.text('x' * 200000) + b'q\0' + build.text('latin1') + b'q\1' + b'](' + (
            build.name('_codecs', 'encode') + b'h\0h\1\x86R') * 2000 + b'e', 'steps'),
    'many empty lists': (b'(' + b']' * 1100000 + b't', 'steps'),
    'many marks': (b'(' * 1100000, 'steps'),
    'a shape of tuples': (
        build.name('torch._utils', '_rebuild_tensor') + b'(' + build.storage() + b'K\0)' +
        DOUBLE * 60 + b')tR', 'a shape that cannot be'),
    'many copies': (
        b'](' + build.name('torch._utils', '_rebuild_tensor') + b'q\0' + b'(' + build.storage(
            kind='BoolStorage', count=1 << 18) + b'K\0' + build.numbers((1 << 18,)) +
        build.numbers((1,)) + b'tq\1' + b'R' + b'h\0h\1R' * 3000 + b'e', 'many copies of a few'),
    'a shape of many': (
        build.entry(build.tensor(build.storage(), (1 << 60,) * 20000, (0,) * 20000)),
        'a shape that cannot be'),
}


@pytest.mark.parametrize('bomb', BOMBS)
def test_bomb(tmp_path, bomb):
    """Neither much memory nor much time, whatever the numbers in the file."""
    operations, expected = BOMBS[bomb]
    storages = {b'FloatStorage': None, b'BoolStorage': {'0': np.zeros(1 << 18, bool)}}
    path = build.legacy_file(tmp_path / 'a.pt', operations, next(
        (made for kind, made in storages.items() if kind in operations), {}))
    message, seconds, peak = measured(path)
    assert expected in message
    assert seconds < 20 and peak < (64 << 20) + 100 * path.stat().st_size


def test_zip_bomb(tmp_path):
    """Megabytes of zeros that were packed small."""
    path = build.zip_file(tmp_path / 'a.pt', build.entry(build.tensor(
        build.storage(count=1 << 24, legacy=False), (1 << 24,))),
        {'0': np.zeros(1 << 24, '<f4')}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    message, seconds, peak = measured(path)
    assert 'would unpack to more than 8 times' in message
    assert seconds < 5 and peak < 16 << 20


def test_zip_member_that_lies_about_its_size(tmp_path):
    """The directory says 16 bytes, the packed data holds a megabyte."""
    path = build.zip_file(tmp_path / 'a.pt', build.entry(build.tensor(
        build.storage(legacy=False))), {'0': np.zeros(1 << 18, '<f4')}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack('<I', 1 << 20), struct.pack('<I', 16)))
    message, _, peak = measured(path)
    assert 'broken' in message and peak < 8 << 20


def test_zip_with_two_members_of_one_name(tmp_path):
    path = build.zip_file(tmp_path / 'a.pt', b'N', {})
    with zipfile.ZipFile(str(path), 'a') as archive, pytest.warns(UserWarning):
        archive.writestr('net/data.pkl', b'N.')
    assert 'two members' in refusal(path)


def some_file(container, folder):
    path = folder / 'whole.pt'
    state = build.ordered(weight=np.arange(6, dtype='f4').reshape(2, 3), count=np.array(3))
    state._metadata = OrderedDict([('', {'version': 1})])
    write_torch(path, {'epoch': 3, 'state_dict': state, 'optimizer': {
        'state': {0: {'momentum_buffer': np.ones(3, 'f4')}},
        'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.99), 'params': [0, 1]}]}}, container)
    return path.read_bytes()


@pytest.mark.parametrize('container', CONTAINERS)
def test_truncated(tmp_path, container):
    whole, path = some_file(container, tmp_path), tmp_path / 'a.pt'
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refusal(path)


def test_flipped_bits_in_a_zip_file(tmp_path):
    """Every bit of the data has a checksum."""
    whole, path = some_file('zip', tmp_path), tmp_path / 'a.pt'
    expected = repr(read_torch(tmp_path / 'whole.pt').value)
    rng, unnoticed = random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert repr(read_torch(path).value) == expected  # names, dates, padding
            unnoticed += 1
        except CheckpointError:
            pass
    assert 0 < unnoticed < 400


def mutated(rng, whole):
    """Change some places of a file: bits, bytes, lengths, pieces, operations."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
        place, kind = rng.randrange(len(data)), rng.random()
        if kind < 0.4:
            data[place] ^= 1 << rng.randrange(8)
        elif kind < 0.6:
            data[place] = rng.randrange(256)
        elif kind < 0.65:
            del data[place + 1:]
        elif kind < 0.75:
            data[place:place + 8] = rng.choice([b'\xff' * 8, b'\0' * 8, b'\x7f' * 8])
        elif kind < 0.85:
            start = rng.randrange(len(data))
            data[place:place] = data[start:start + rng.randrange(40)]
        else:
            data.insert(place, rng.choice(b'(tRbQceuqrhj}])\x81\x85\x86\x8a\x93\x94.0'))
    return data


@pytest.mark.parametrize('container', CONTAINERS)
def test_mutations(tmp_path, container):
    """Thousands of damaged files: read or refused, in no time."""
    whole, path, rng = some_file(container, tmp_path), tmp_path / 'a.pt', random.Random(1)
    read = refused = 0
    for _ in range(2500):
        path.write_bytes(mutated(rng, whole))
        began = time.perf_counter()
        try:
            read_torch(path)
            read += 1
        except CheckpointError as problem:
            assert '\n' not in str(problem)
            refused += 1
        assert time.perf_counter() - began < 2
    assert read > 50 and refused > 500


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
