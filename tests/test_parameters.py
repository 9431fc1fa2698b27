"""Loading parameter files into networks: accepted names, contexts, and what does not fit."""

import re

import mxnet as mx
import numpy as np
import pytest
from small_networks import SMALL, assert_same_values, load_small, random_network, refused, values

import igcnet
from igcnet.convert import (
    load_network,
    load_parameters,
    read_ndarrays,
    save_original,
    write_ndarrays,
)


@pytest.fixture(scope='module')
def net():
    return random_network(**SMALL)


@pytest.fixture
def checkpoint(net, tmp_path):
    """Symbol and parameter file of `net`, with Reorder nodes."""
    return save_original(net, tmp_path / 'a', 3)


def test_checkpoint_names(net, checkpoint):
    assert_same_values(net, load_small(checkpoint[1]))


def test_plain_names_and_the_label(net, tmp_path):
    write_ndarrays(tmp_path / 'a.params', {**values(net), 'softmax_label': np.ones(2, np.float32)})
    assert_same_values(net, load_small(tmp_path / 'a.params'))


def test_gluon_names(net, tmp_path):
    net.save_parameters(str(tmp_path / 'a.params'))
    assert 'features.g0.conv.weight' in read_ndarrays(tmp_path / 'a.params')
    assert_same_values(net, load_small(tmp_path / 'a.params'))


@pytest.mark.parametrize('unit_name, other', [('igc', 'conv'), ('conv', 'igc')])
def test_unit_names_of_the_published_files(tmp_path, unit_name, other):
    settings = dict(primary_partition=2, secondary_partition=1)
    net = random_network('resnet_igc_imgnet_d18', unit_name=unit_name, **settings)
    _, params = save_original(net, tmp_path / 'a', 95)
    assert 'arg:g1_b1_%s1_conv1_weight' % unit_name in read_ndarrays(params)
    again = load_network(network='resnet_igc_imgnet_d18', params=params, unit_name=other,
                         **settings)
    mine, theirs = values(net), values(again)
    for name, array in theirs.items():
        name = re.sub('_%s([12]_)' % other, r'_%s\1' % unit_name, name, count=1)
        np.testing.assert_array_equal(array, mine[name], err_msg=name)


def test_other_element_types(net, tmp_path):
    write_ndarrays(tmp_path / 'a.params', {name: array.astype(np.float64)
                                           for name, array in values(net).items()})
    found = load_small(tmp_path / 'a.params')
    assert found.output.weight.data().dtype == np.float32
    assert_same_values(net, found)


# Reading: contexts and networks that have values

def test_contexts(net, checkpoint):
    contexts = [mx.cpu(0), mx.cpu(1)]
    found = load_small(checkpoint[1], ctx=contexts)
    assert found.output.weight.list_ctx() == contexts
    load_parameters(found, checkpoint[1])
    assert found.output.weight.list_ctx() == contexts
    before = found.output.weight.list_data()
    load_parameters(found, checkpoint[1], ctx=contexts)
    assert all(a is b for a, b in zip(before, found.output.weight.list_data()))
    load_parameters(found, checkpoint[1], ctx=mx.cpu(1))
    assert found.output.weight.list_ctx() == [mx.cpu(1)]
    np.testing.assert_array_equal(found.output.weight.data(mx.cpu(1)).asnumpy(),
                                  net.output.weight.data().asnumpy())


def test_loads_into_networks_of_gluon(tmp_path):
    """Also where shapes are not known before."""
    mx.random.seed(0)
    first = mx.gluon.nn.Dense(3, in_units=4)
    first.initialize()
    first.save_parameters(str(tmp_path / 'a.params'))
    for initialise in (False, True):
        other = mx.gluon.nn.Dense(3)
        if initialise:
            other.initialize()
        load_parameters(other, tmp_path / 'a.params')
        np.testing.assert_array_equal(other.weight.data().asnumpy(),
                                      first.weight.data().asnumpy())


# Reading: what does not fit

def test_other_network(net, checkpoint, tmp_path):
    other = igcnet.get_model('resnet_igc', depth=14, primary_partition=2, secondary_partition=2)
    message = refused(lambda: load_parameters(other, checkpoint[1]), 'a-0003.params',
                      'does not fit the network: 36 missing (g1_b2_p2_two1_conv1_weight, ')
    assert 'unexpected' not in message and 'shape' not in message
    _, params = save_original(random_network('resnet_igc', depth=14, primary_partition=2,
                                             secondary_partition=2), tmp_path / 'b', 1)
    refused(lambda: load_small(params), '36 unexpected (arg:g1_b2_p2_two1_conv1_weight, ', ', ...)')


def test_other_width_and_classes(net, checkpoint):
    for settings, words in (
            (dict(SMALL, classes=7), '2 of another shape (fc_weight: (10, 16) in the file, '
                                     '(7, 16) in the network, fc_bias: (10,) in the file'),
            (dict(SMALL, primary_partition=4), 'of another shape (g0_conv_weight: (4, 3, 3, 3)')):
        refused(lambda settings=settings: load_network(
            network='resnet_igc', params=checkpoint[1], **settings), words)


def test_a_refused_file_changes_nothing(net, checkpoint):
    arrays = read_ndarrays(checkpoint[1])
    arrays['arg:fc_weight'] = arrays['arg:fc_weight'][:, :3]
    arrays = {name: array * 2 for name, array in arrays.items()}
    write_ndarrays(checkpoint[1], arrays)
    target = random_network(seed=5, **SMALL)
    before = values(target)
    refused(lambda: load_parameters(target, checkpoint[1]), '1 of another shape')
    after = values(target)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_missing_and_extra_may_be_allowed(net, checkpoint):
    arrays = read_ndarrays(checkpoint[1])
    del arrays['arg:fc_bias'], arrays['aux:g0_bn_moving_mean']
    arrays['arg:other'] = np.ones(1, np.float32)
    write_ndarrays(checkpoint[1], arrays)
    refused(lambda: load_small(checkpoint[1]), '2 missing (g0_bn_moving_mean, fc_bias)',
            '1 unexpected (arg:other)')
    refused(lambda: load_small(checkpoint[1], allow_missing=True), '1 unexpected')
    refused(lambda: load_small(checkpoint[1], ignore_extra=True), '2 missing')
    found = values(load_small(checkpoint[1], allow_missing=True, ignore_extra=True))
    assert not found['fc_bias'].any() and not found['g0_bn_moving_mean'].any()
    np.testing.assert_array_equal(found['fc_weight'], values(net)['fc_weight'])
    target = random_network(seed=5, **SMALL)
    bias = target.output.bias.data().asnumpy()
    load_parameters(target, checkpoint[1], allow_missing=True, ignore_extra=True)
    np.testing.assert_array_equal(target.output.bias.data().asnumpy(), bias)


def test_the_same_parameter_twice(checkpoint):
    arrays = read_ndarrays(checkpoint[1])
    arrays['fc_bias'] = arrays['arg:fc_bias'].copy()
    write_ndarrays(checkpoint[1], arrays)
    load_small(checkpoint[1])
    arrays['fc_bias'] = arrays['arg:fc_bias'] + 1
    write_ndarrays(checkpoint[1], arrays)
    refused(lambda: load_small(checkpoint[1]), 'it has fc_bias twice')
