"""Parameters and multiply-adds of IGCV3, MobileNetV2 and IGCV2, to the last unit."""

import json

import pytest
from conftest import REPO

import igcnet
from igcnet.profiling import profile

FAMILIES = ('igcv2', 'igcv3', 'mobilenetv2')


def rows():
    found = []
    for family in FAMILIES:
        found += json.loads((REPO / 'tests/expected' / (family + '.json')).read_text())
    return found


def case_name(row):
    return '%s %s %d' % (row['name'] or row['network'], row['settings'], row['classes'])


@pytest.mark.parametrize('row', rows(), ids=case_name)
def test_counts(row):
    net = igcnet.get_model(row['network'], classes=row['classes'], **row['settings'])
    counted = profile(net, (1, 3, row['input_size'], row['input_size']))
    assert counted.parameters == row['parameters']
    assert counted.auxiliary == row.get('aux', counted.auxiliary)
    assert counted.macs == row.get('macs', counted.macs)


@pytest.mark.parametrize('row', [row for row in rows() if row['name']], ids=case_name)
def test_named_configurations_are_the_rows(row):
    spec = igcnet.get_spec(row['name'])
    network = igcnet.get_spec(row['network'])
    assert spec.constructor is network.constructor
    expected = {**network.settings(), **row['settings'], 'classes': row['classes']}
    assert json.loads(json.dumps(spec.settings())) == expected
    assert spec.preprocessing.input_size == row['input_size']


def test_every_named_configuration_has_a_row():
    named = {name for name in igcnet.list_models() if igcnet.get_spec(name).family in FAMILIES}
    assert named == {row['name'] for row in rows()} - {None}


@pytest.mark.parametrize('row', [row for row in rows() if row['name'] and
                                 igcnet.get_spec(row['name']).published], ids=case_name)
def test_published_parameters(row):
    # The printed CIFAR figures fit 100 classes with running statistics; see the notes. What the
    # rows of 10 classes lack is their smaller classifier, of 1280 features (4C in IGCV2).
    settings = igcnet.get_spec(row['name']).settings()
    features = 4 * settings['channels'] if 'channels' in settings else 1280
    classifier = (100 - row['classes']) * (features + 1) if row['classes'] == 10 else 0
    counted = (row['parameters'] + row.get('aux', 0) + classifier) / 1e6
    assert counted == pytest.approx(igcnet.get_spec(row['name']).published.params, rel=0.05)
