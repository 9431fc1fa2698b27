"""Running a slimmable network: widths, gradients, graphs."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from slimmable_cases import (
    HYBRID,
    SMALL,
    STATIC,
    WRN,
    backward,
    close,
    count_traces,
    gradients,
    images,
    small,
    values,
)

from igcnet.errors import UsageError

# Width


def test_width_is_the_widest_at_first():
    net = small()
    assert (net.width, net.width_range, net.listed_widths) == (1.0, (0.5, 1.0), (0.5, 1.0))
    x = images(size=32)
    widest = net(x).asnumpy()
    close(net(x, width=1.0).asnumpy(), widest, 0)
    net.set_width(0.5)
    assert net.width == 0.5
    narrow = net(x).asnumpy()
    assert np.abs(narrow - widest).max() > 0.01
    close(net(x, 1.0).asnumpy(), widest, 0)
    assert net.width == 0.5  # a width given with the input holds once
    close(net(x).asnumpy(), narrow, 0)


@pytest.mark.parametrize('width', [0.49, 1.01, '1', None])
def test_width_outside_the_range(width):
    net = small()
    with pytest.raises(UsageError, match='takes widths from 0.5 to 1$'):
        net.set_width(width)
    assert net.width == 1.0
    if width is not None:
        with pytest.raises(UsageError, match='takes widths from 0.5 to 1$'):
            net(images(size=32), width=width)


@pytest.mark.parametrize('hybrid', HYBRID)
def test_inference_needs_statistics(hybrid):
    net, x = small(), images(size=32)
    if hybrid is not None:
        net.hybridize(**hybrid)
    with pytest.raises(UsageError, match=r'^width 0.8: has no BN statistics .*0.5, 1\)'):
        net(x, width=0.8)
    assert net.width == 1.0  # put back after the error
    with autograd.record(train_mode=False), pytest.raises(UsageError, match='width 0.8'):
        net(x, width=0.8)
    with autograd.train_mode():
        assert net(x, width=0.8).shape == (4, 4)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('hybrid', STATIC)
def test_from_wide_to_narrow_and_back(name, hybrid):
    """oneDNN keeps weights in a layout of its own once they were used whole in inference."""
    net, x = small(name), images()
    expected = {width: net.cut(width)(x).asnumpy() for width in net.listed_widths}
    if hybrid is not None:
        net.hybridize(**hybrid)
    low, high = net.listed_widths
    for width in (high, low, high, low):
        close(net(x, width).asnumpy(), expected[width], 1e-5)
        close(net(x[:2], width).asnumpy(), expected[width][:2], 1e-5)
    backward(net, x, width=low)
    backward(net, x, width=high)
    assert all(np.isfinite(array).all() for array in gradients(net).values())


# Gradients


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('hybrid', STATIC)
def test_gradients_at_each_width(name, hybrid):
    """Those of the first channels are the gradients of the sub-network cut out, the rest is 0."""
    low, high, unlisted = SMALL[name][1]
    net, x = small(name), images()
    reference = small(name)
    reference.add_statistics(unlisted)
    if hybrid is not None:
        net.hybridize(**hybrid)
    for width in (high, unlisted, low):
        part = reference.cut(width)
        expected = backward(part, x)
        close(backward(net, x, width=width), expected)
        whole, wanted = gradients(net), gradients(part)
        assert set(whole) == set(wanted)
        for path, gradient in whole.items():
            padded = np.zeros_like(gradient)
            padded[tuple(slice(extent) for extent in wanted[path].shape)] = wanted[path]
            close(gradient, padded, 2e-3)


@pytest.mark.parametrize('hybrid', HYBRID)
def test_gradients_of_several_widths_add_up(hybrid):
    net, x = small(), images(size=32)
    if hybrid is not None:
        net.hybridize(**hybrid)
    expected = None
    for width in (1.0, 0.8, 0.5):
        backward(net, x, width=width)
        found = gradients(net)
        expected = found if expected is None else {k: expected[k] + v for k, v in found.items()}
    for parameter in net.collect_params().values():
        if parameter.grad_req != 'null':
            parameter.grad_req = 'add'
    for _ in range(2):  # the second time after zero_grad
        net.collect_params().zero_grad()
        for width in (1.0, 0.8, 0.5):
            backward(net, x, width=width)
        for path, gradient in gradients(net).items():
            close(gradient, expected[path])


def test_two_widths_in_one_recording():
    """Even when the graph of the first was dropped before its backward pass."""
    net, x = small(), images(size=32)
    expected = []
    for width in (1.0, 0.8):
        backward(net, x, width=width)
        expected.append(gradients(net))
    net.hybridize(static_alloc=True)
    net.graphs.limit = 1
    with autograd.record():
        outputs = [net(x, width=width) for width in (1.0, 0.8)]
        loss = sum((y * mx.nd.arange(4)).sum() + (y ** 2).sum() for y in outputs)
    assert len(net.graphs) == 1
    loss.backward()
    for path, gradient in gradients(net).items():
        close(gradient, expected[0][path] + expected[1][path])


# Graphs


def test_switching_back_and_forth_does_not_trace_again():
    net = small()
    traces = count_traces(net)
    net.hybridize(static_alloc=True, static_shape=True)
    for _ in range(3):
        for width in (1.0, 0.5):
            for size in (32, 20):  # resolutions share the graph
                net(images(size=size), width=width)
                net.set_width(width)
                net(images(1, size))
    assert traces == [1.0, 0.5] and net.graphs.made == len(net.graphs) == 2
    for _ in range(3):
        for width in (1.0, 0.8, 0.5, 0.81):  # 0.81 has the channels of 0.8
            backward(net, images(size=32), width=width)
            net(images(size=32), width=0.5)
    assert net.channel_counts(0.8) == net.channel_counts(0.81) != net.channel_counts(1.0)
    assert traces == [1.0, 0.5, 1.0, 0.8, 0.5] and net.graphs.made == 5


def test_number_of_graphs_is_bounded():
    """The least recently used is dropped first."""
    net, x = small(), images(size=32)
    net.add_statistics(0.8)
    assert net.graphs.limit == 32
    net.graphs.limit = 2
    traces = count_traces(net)
    net.hybridize()
    expected = {width: net.cut(width)(x).asnumpy() for width in (0.5, 0.8, 1.0)}
    for width in (0.5, 0.8, 0.5, 1.0, 0.5, 0.8):
        close(net(x, width).asnumpy(), expected[width], 1e-5)
        assert len(net.graphs) <= 2
    assert traces == [0.5, 0.8, 1.0, 0.8]


def test_what_makes_graphs_invalid():
    """A new classifier, another type, hybridize itself; nothing else."""
    net, x = small(), images(size=32)
    net.hybridize()
    net(x)
    assert len(net.graphs) == 1
    net.reset_classifier(6)
    assert len(net.graphs) == 0
    net.output.initialize()
    assert net(x).shape == net(x, width=0.5).shape == (4, 6) and net.classes == 6
    assert net.cut(0.5)(x).shape == (4, 6)
    net.cast('float64')
    assert net(x.astype('float64')).dtype == np.float64
    net.hybridize()
    assert len(net.graphs) == 0
    net(x.astype('float64'))
    net.hybridize(False)
    assert len(net.graphs) == 0
    traces = count_traces(net)
    net(x.astype('float64'))
    assert traces == []


def test_graphs_only_of_the_whole_network():
    net = small()
    with pytest.raises(UsageError, match='hybridize the whole network'):
        net.features.stage1.hybridize()
    with pytest.raises(UsageError, match='cut'):
        net.optimize_for(images(size=32), backend='MKLDNN')


@pytest.mark.parametrize('name', SMALL)
def test_features_alone(name):
    """The features run at the present width, whatever was hybridised."""
    net, x = small(name), images()
    net.hybridize()
    for width in net.listed_widths:
        net.set_width(width)
        net(x)
        close(net.features(x).asnumpy(), net.cut(width).features(x).asnumpy(), 1e-5)
        close(net.output(net.features(x)).asnumpy(), net(x).asnumpy(), 1e-5)


def test_symbol_at_each_width():
    net, x = small(), images(size=32)
    for width in (1.0, 0.5):
        net.set_width(width)
        graph = mx.gluon.SymbolBlock(net(mx.sym.var('data')), mx.sym.var('data'))
        own = net.collect_params()
        for name, parameter in graph.collect_params().items():
            parameter.initialize()
            parameter.set_data(own[name].data())
        close(graph(x).asnumpy(), net(x).asnumpy(), 1e-5)
    net.set_width(0.8)
    free = set(net(mx.sym.var('data')).list_auxiliary_states())
    assert 'bn_moving_mean' in free and not free & set(net.collect_params())


def test_training_is_the_same_in_every_form():
    """Logits, gradients and running statistics, imperative and both hybridised forms."""
    nets = []
    for hybrid in HYBRID:
        net = small('mobilenet_v1_us')
        if hybrid is not None:
            net.hybridize(**hybrid)
        logits = [backward(net, images(seed=step), width=width)
                  for step in range(2) for width in (0.25, 0.19, 0.125)]
        nets.append((logits, {**gradients(net), **values(net)}))
    for logits, arrays in nets[1:]:
        for left, right in zip(logits, nets[0][0]):
            close(left, right, 1e-5)
        for path, array in arrays.items():
            close(array, nets[0][1][path], 1e-4)


def test_dropout_in_training_only():
    net, x = small(WRN, dropoutrate=0.5), images(size=32)
    net.hybridize()
    close(net(x).asnumpy(), net(x).asnumpy(), 0)
    with autograd.train_mode():
        assert np.abs((net(x) - net(x)).asnumpy()).max() > 1e-3
