"""PyTorch files that mean harm: code, contradictions, bombs, damage."""

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch_files as build
from torch_files import CONTAINERS, DATA, WEIGHTS, refusal

from igcnet.convert.torch_file import read_torch
from igcnet.convert.torch_writer import write_torch
from igcnet.errors import CheckpointError


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


def test_zip_member_with_a_name_that_is_no_text(tmp_path):
    path = build.zip_file(tmp_path / 'a.pt', b'N', {}, **{'\u00fc': b''})
    path.write_bytes(path.read_bytes().replace('\u00fc'.encode(), b'\xff\xff'))
    assert 'zip container is broken' in refusal(path)


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
