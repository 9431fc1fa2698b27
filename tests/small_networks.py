"""A small network with random values, and comparisons of what networks hold."""

import mxnet as mx
import numpy as np
import pytest

import igcnet
from igcnet.convert import load_parameters
from igcnet.errors import CheckpointError

SMALL = dict(depth=8, primary_partition=2, secondary_partition=2)


def random_network(name='resnet_igc', seed=0, **settings):
    """A network with random values, running statistics included."""
    net = igcnet.get_model(name, **settings)
    net.initialize()
    rng = np.random.RandomState(seed)
    for parameter in net.collect_params().values():
        scale = 1.0 if parameter.name.endswith(('gamma', 'var')) else 0.0
        parameter.set_data(mx.nd.array(scale + 0.2 * rng.rand(*parameter.shape)))
    return net


def load_small(path, **arguments):
    """A network of the settings `SMALL` with the parameters of a file."""
    net = igcnet.get_model('resnet_igc', **SMALL)
    load_parameters(net, path, **arguments)
    return net


def values(net):
    """Arrays by parameter name."""
    return {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}


def assert_same_values(net, other):
    """The two have the same parameters with the same bits."""
    mine, theirs = values(net), values(other)
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def refused(function, *words):
    """Calling `function` raises a CheckpointError of one line that has all `words`; returns it."""
    with pytest.raises(CheckpointError) as caught:
        function()
    message = str(caught.value)
    assert '\n' not in message and len(message) < 600
    for word in words:
        assert word in message, message
    return message
