"""PyTorch files put together by hand, from the bytes of their pickles."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from igcnet.convert.torch_file import read_torch
from igcnet.errors import CheckpointError

MAGIC, VERSION = 0x1950a86a20f9469cfc6c, 1001
# Written by PyTorch 2.13 from one dictionary: shared storages, strides, every element type,
# a defaultdict, a namespace, NumPy values. torch_module.pt is a whole nn.Sequential.
DATA = Path(__file__).resolve().parent / 'data'
CONTAINERS = ('zip', 'legacy')
WEIGHTS = np.arange(4, dtype=np.float32)


def number(value):
    """Operations that push a whole number."""
    return pickle.dumps(value, 2)[2:-1]


def text(value):
    data = value.encode('utf-8')
    return b'X' + struct.pack('<I', len(data)) + data


def name(module, attribute):
    return b'c' + module.encode() + b'\n' + attribute.encode() + b'\n'


def storage(key='0', kind='FloatStorage', count=4, view=None, module='torch', location='cuda:0',
            legacy=True):
    """Operations that push a storage."""
    last = b'' if not legacy else b'N' if view is None else b'(' + text(view[0]) + number(
        view[1]) + number(view[2]) + b't'
    return (b'(' + text('storage') + name(module, kind) + text(key) + text(location) +
            number(count) + last + b'tQ')


def numbers(values):
    return b'(' + b''.join(map(number, values)) + b't'


def tensor(stored, shape=(4,), strides=(1,), offset=0):
    """Operations that push a tensor on a storage."""
    return (name('torch._utils', '_rebuild_tensor') + b'(' + stored + number(offset) +
            numbers(shape) + numbers(strides) + b'tR')


def entry(value, key='w'):
    """Operations that push a dictionary with one entry."""
    return b'}(' + text(key) + value + b'u'


def legacy_file(path, operations, storages=None, protocol=b'\x80\x02'):
    """Write a legacy file; `operations` push its value.

    `storages` are arrays by key; by default one with key 0 and the elements 0, 1, 2, 3.
    """
    storages = {'0': np.arange(4, dtype='<f4')} if storages is None else storages
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(VERSION, 2), pickle.dumps({}, 2),
             protocol + operations + b'.', pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts += [struct.pack('<q', storages[key].size), storages[key].tobytes()]
    path.write_bytes(b''.join(parts))
    return path


def zip_file(path, operations, storages=None, compression=zipfile.ZIP_STORED, **members):
    """Write a zip file; `members` are added to it."""
    storages = {'0': np.arange(4, dtype='<f4')} if storages is None else storages
    with zipfile.ZipFile(str(path), 'w', compression) as archive:
        archive.writestr('net/data.pkl', b'\x80\x02' + operations + b'.')
        for key, array in storages.items():
            archive.writestr('net/data/' + key, array.tobytes())
        for member, data in members.items():
            archive.writestr('net/' + member, data)
    return path


def tar_file(path, array, views=(), shape=None, storage_key=7, tensor_key=8, strides=None):
    """Write a tar file with one tensor called w; `views` are (key, root, offset, count)."""
    shape = array.shape if shape is None else shape
    strides = strides or [step // array.itemsize for step in array.strides]
    stored = (b'\x80\x02' + number(1) + b'.' + b'\x80\x02(' + number(7) + text('cpu') +
              name('torch', 'FloatStorage') + b't.' + struct.pack('<q', array.size) +
              array.tobytes() + pickle.dumps(list(views), 2))
    tensors = (b'\x80\x02' + number(1) + b'.' + b'\x80\x02(' + number(tensor_key) +
               number(storage_key) + name('torch', 'FloatTensor') + b't.' +
               struct.pack('<q', len(shape)) + struct.pack('<%dq' % len(shape), *shape) +
               struct.pack('<%dq' % len(shape), *strides) + struct.pack('<q', 0))
    value = (b'\x80\x02' + name('collections', 'OrderedDict') + b')R(' + text('w') +
             text('8') + b'Qu.')
    with tarfile.open(str(path), 'w', format=tarfile.PAX_FORMAT) as archive:
        for member, data in (('sys_info', pickle.dumps({}, 2)), ('pickle', value),
                             ('tensors', tensors), ('storages', stored)):
            info = tarfile.TarInfo(member)
            info.size, info.mtime = len(data), 1234567890.5
            archive.addfile(info, io.BytesIO(data))
    return path


def ordered(**entries):
    return OrderedDict(entries)


def refusal(path):
    """The message with which a file is refused; always one line that begins with its name."""
    with pytest.raises(CheckpointError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith('%s: ' % path) and '\n' not in message
    return message[len('%s: ' % path):]
