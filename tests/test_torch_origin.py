"""What of a PyTorch checkpoint is no parameter, kept for the way back."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from torch_networks import small

from igcnet.convert.torch_convert import load_torch, save_torch
from igcnet.convert.torch_origin import Origin, origin_path, read_origin, write_origin
from igcnet.convert.torch_writer import write_torch
from igcnet.deploy.originals import differences
from igcnet.errors import CheckpointError


def some_origin(**changes):
    origin = Origin('zip', ('state_dict',), 'module.', ['module.a', 'module.n'],
                    {'module.a': 'float16'}, {'module.n': np.array(3)},
                    {'epoch': 3, 'state_dict': None}, OrderedDict([('', {'version': 1})]), True)
    for field, value in changes.items():
        setattr(origin, field, value)
    return origin


def test_origin_file(tmp_path):
    write_origin(tmp_path / 'a-origin.pt', some_origin(), 'abc', 1000)
    origin, checksum = read_origin(tmp_path / 'a-origin.pt')
    assert checksum == 'abc' and list(differences(origin.__dict__, some_origin().__dict__)) == []
    value, keys = origin.restore({'a': np.ones(2, 'f4')})
    assert keys == ['module.a', 'module.n'] and value['epoch'] == 3
    assert value['state_dict']['module.a'].dtype == np.float16
    assert value['state_dict']._metadata == OrderedDict([('', {'version': 1})])


@pytest.mark.parametrize('change', [
    dict(container='tar'), dict(place=('model',)), dict(place=('epoch',)), dict(prefix=None),
    dict(keys=[1]), dict(keys=None), dict(element_types={'module.a': 'O'}), dict(kept=[]),
    dict(metadata='x'), dict(element_types={'module.a': 'nothing'})])
def test_damaged_origin(tmp_path, change):
    write_origin(tmp_path / 'a.pt', some_origin(**change), 'abc', 1000)
    with pytest.raises(CheckpointError, match='damaged: its entries'):
        read_origin(tmp_path / 'a.pt')


def test_not_an_origin(tmp_path):
    write_torch(tmp_path / 'a.pt', {'format': 'something'})
    with pytest.raises(CheckpointError, match='not the origin of converted parameters'):
        read_origin(tmp_path / 'a.pt')


def test_origin_of_another_network(tmp_path):
    net, family = small()
    save_torch(net, family, tmp_path / 'a.pt')
    origin = load_torch(net, family, tmp_path / 'a.pt').origin
    other, other_family = small('shufflenet')
    with pytest.raises(CheckpointError, match='the origin is of another network'):
        save_torch(other, other_family, tmp_path / 'b.pt', origin)
    assert not (tmp_path / 'b.pt').exists()


def test_origin_does_not_grow_without_bound(tmp_path):
    """Views of one storage take no room in the file that they come from."""
    many = np.broadcast_to(np.zeros(1 << 20, 'f4'), (100, 1 << 20))
    with pytest.raises(CheckpointError, match='would take 419430'):
        write_origin(tmp_path / 'a.pt', some_origin(around={'x': list(many), 'state_dict': None}),
                     'abc', 1 << 20)


def test_origin_path():
    assert origin_path('a/net-0000.params') == Path('a/net-origin.pt')
    assert origin_path('a/net-0012.params') == Path('a/net-origin.pt')
    assert origin_path('net.params') == Path('net.params-origin.pt')
