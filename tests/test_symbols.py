"""The modules in ``symbols/``, called as the original calls its own."""

import importlib
import os
import subprocess
import sys

import pytest
from conftest import REPO, needs_checkout

from igcnet.convert import differences, fold, read_graph
from igcnet.convert.symbol_json import from_mxnet
from igcnet.errors import UsageError

pytestmark = needs_checkout
NETWORKS = ['plain', 'plain_igc', 'resnet', 'resnet_igc', 'resnet_imgnet_d18',
            'resnet_igc_imgnet_d18']


@pytest.fixture
def get_symbol(monkeypatch):
    """Function that imports one of the modules from the repository and gives its function."""
    monkeypatch.syspath_prepend(str(REPO))
    return lambda name: importlib.import_module('symbols.' + name).get_symbol


@pytest.mark.parametrize('name, depth, parameters', [
    ('plain', 20, 269722), ('plain_igc', 20, 155962), ('resnet', 20, 272474),
    ('resnet_igc', 20, 164410), ('resnet_imgnet_d18', 18, 11689512),
    ('resnet_igc_imgnet_d18', 18, 8637900)])
def test_counts_of_the_original(get_symbol, name, depth, parameters):
    """What the original logs: everything but the input, so with the label of batch 1."""
    partitions = {'resnet_imgnet_d18': (64, 1), 'resnet_igc_imgnet_d18': (100, 1)}.get(
        name, (24, 2) if name.endswith('igc') else (16, 1))
    size, classes = (224, 1000) if 'imgnet' in name else (32, 10)
    symbol = get_symbol(name)(classes, depth, *partitions)
    shapes, outputs, _ = symbol.infer_shape(data=(1, 3, size, size))
    count = 0
    for argument, shape in zip(symbol.list_arguments(), shapes):
        if argument != 'data':
            extent = 1
            for number in shape:
                extent *= number
            count += extent
    assert count == parameters + 1 and outputs == [(1, classes)]
    assert symbol.list_outputs() == ['softmax_output']
    assert symbol.list_arguments()[-1] == 'softmax_label'


def test_impossible_depth(get_symbol):
    for name, depth in (('plain', 19), ('plain_igc', 2), ('resnet', 3), ('resnet_igc', -1),
                        ('resnet_imgnet_d18', 34), ('resnet_igc_imgnet_d18', 20)):
        with pytest.raises(UsageError, match='depth=%d' % depth):
            get_symbol(name)(10, depth, 4, 2)


@pytest.mark.parametrize('folder', ['', 'symbols'])
def test_from_any_folder(tmp_path, folder):
    """With the repository or the folder itself on the path, wherever one stands."""
    prefix = '' if folder else 'symbols.'
    script = 'import importlib\nfor name in %r:\n    make = importlib.import_module(%r + name)' \
             '.get_symbol\n    print(name, len(make(7, 18 if "imgnet" in name else 8, 2, 2)' \
             '.list_arguments()))\n' % (NETWORKS, prefix)
    environment = {key: text for key, text in os.environ.items() if key != 'PYTHONPATH'}
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=str(tmp_path),
                         env={**environment, 'PYTHONPATH': str(REPO / folder)},
                         capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[-500:]
    lines = run.stdout.decode().split('\n')
    assert [line.split()[0] for line in lines if line] == NETWORKS
    assert lines[0] == 'plain 25'


def test_original_graphs(get_symbol, shared_fixtures):
    """Files named <network>_d<depth>L<L>M<M>_c<classes>."""
    paths = sorted((shared_fixtures('igc') / 'symbols').glob('*_c*-symbol.json'))
    assert paths
    for path in paths:
        stem, _, classes = path.name[:-len('-symbol.json')].rpartition('_c')
        name, _, rest = stem.rpartition('_d')
        depth, rest = rest.split('L')
        primary, secondary = rest.split('M')
        symbol = get_symbol(name)(int(classes), int(depth), int(primary), int(secondary))
        assert differences(fold(from_mxnet(symbol)), read_graph(path)) == [], path.name
