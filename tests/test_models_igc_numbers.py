"""The six IGC networks computing: initial values, outputs, gradients, a new classifier."""

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from networks import trained_looking

import igcnet
from igcnet.errors import UsageError

SMALL = {
    'plain': dict(depth=5, primary_partition=8, secondary_partition=1),
    'plain_igc': dict(depth=8, primary_partition=4, secondary_partition=2),
    'resnet': dict(depth=8, primary_partition=8, secondary_partition=1),
    'resnet_igc': dict(depth=8, primary_partition=4, secondary_partition=2),
    'resnet_imgnet_d18': dict(primary_partition=4, classes=10),
    'resnet_igc_imgnet_d18': dict(primary_partition=4, secondary_partition=1, classes=10),
}
NETWORKS = sorted(SMALL)


def images(net, count=2):
    size = net.input_size
    return mx.nd.array(np.random.RandomState(0).randn(count, 3, size, size))


def computing(name):
    return trained_looking(igcnet.get_model(name, **SMALL[name]))


# Initial values


def initial(name, **settings):
    mx.random.seed(11)
    net = igcnet.get_model(name, **settings)
    net.initialize()
    return {key: p.data().asnumpy() for key, p in net.collect_params().items()}


@pytest.mark.parametrize('name, settings', [
    ('plain', {}), ('resnet_igc', {}), ('resnet_igc_imgnet_d18', dict(primary_partition=24))])
def test_initial_weights(name, settings):
    """Convolutions N(0, 2/fan_in) with the fan-in of one group; classifier U(-a, a) with
    a = sqrt(1/fan_in); everything else 0, but the BN scales 1 (the running variance is 0 too)."""
    for key, value in initial(name, **settings).items():
        if 'fc' in key and key.endswith('_weight'):
            bound = math.sqrt(1 / value.shape[1])
            assert np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        elif key.endswith('_weight'):
            scaled = value / math.sqrt(2 / np.prod(value.shape[1:]))
            spread = 4 / math.sqrt(2 * value.size)  # four standard errors of a deviation
            assert scaled.std() == pytest.approx(1, abs=spread)
            assert abs(scaled.mean()) < 4 / math.sqrt(value.size)
            # Normal, not uniform (whose fourth moment is 1.8): the tails are there.
            assert value.size < 2000 or np.mean(scaled ** 4) > 2.4
        else:
            assert np.all(value == (1 if key.endswith('_gamma') else 0)), key


def test_initial_values_follow_the_seed():
    first, second = initial('plain'), initial('plain')
    assert all(np.array_equal(first[key], second[key]) for key in first)


# Computing


@pytest.mark.parametrize('name', NETWORKS)
def test_hybridised_equals_imperative(name):
    net = computing(name)
    data = images(net)
    imperative = net(data).asnumpy()
    net.hybridize()
    hybridised = net(data).asnumpy()
    assert imperative.shape == (2, 10) and imperative.std() > 1e-3
    np.testing.assert_allclose(hybridised, imperative, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    net = computing(name)
    net.hybridize()
    loss_function = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    with autograd.record():
        loss = loss_function(net(images(net)), mx.nd.array([1, 7]))
    loss.backward()
    for key, parameter in net.collect_params().items():
        if parameter.grad_req != 'null':
            gradient = parameter.grad().asnumpy()
            assert np.isfinite(gradient).all() and np.any(gradient != 0), key


def test_reset_classifier():
    """The new classifier is used by a hybridised network too, under the same name."""
    net = computing('resnet_igc')
    net.hybridize()
    data = images(net)
    features = net.features(data).asnumpy()
    assert net(data).shape == (2, 10)
    net.reset_classifier(7)
    net.output.initialize()
    assert net.classes == 7
    expected = features @ net.output.weight.data().asnumpy().T
    np.testing.assert_allclose(net(data).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert [key for key in net.collect_params() if key.startswith('fc')] == [
        'fc_weight', 'fc_bias']
    with pytest.raises(UsageError, match='classes=0'):
        net.reset_classifier(0)
