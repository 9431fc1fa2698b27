"""Widths and slimmable layers one by one."""

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from igcnet.errors import UsageError
from igcnet.layers.slimmable import PlainLayers, SlimmableLayers
from igcnet.layers.widths import Channels, Widths, round_channels

# Base channels -> counts at the widths of the original's table.
TABLE_WIDTHS = (0.25, 0.35, 0.5, 0.7, 0.75, 0.85, 0.9, 1.0)
TABLE = {16: (8, 8, 8, 16, 16, 16, 16, 16), 24: (8, 8, 16, 16, 24, 24, 24, 24),
         32: (8, 16, 16, 24, 24, 32, 32, 32), 64: (16, 24, 32, 48, 48, 56, 56, 64),
         96: (24, 32, 48, 64, 72, 80, 88, 96), 128: (32, 48, 64, 88, 96, 112, 112, 128),
         160: (40, 56, 80, 112, 120, 136, 144, 160),
         256: (64, 88, 128, 176, 192, 216, 232, 256),
         320: (80, 112, 160, 224, 240, 272, 288, 320),
         512: (128, 176, 256, 360, 384, 432, 464, 512),
         1024: (256, 360, 512, 720, 768, 872, 920, 1024)}
WIDE, NARROW = Channels(32), Channels(16)


def widths(low=0.25, high=1.0, listed=(0.25, 1.0), divisor=8):
    return Widths((low, high), listed, divisor)


# Rounding


@pytest.mark.parametrize('base', TABLE)
def test_rounding_table(base):
    assert tuple(Channels(base).at(width, 8) for width in TABLE_WIDTHS) == TABLE[base]


@pytest.mark.parametrize('value, expected', [
    (4, 8), (8.8, 8), (9.6, 16), (18, 24), (1, 1), (1.1, 1), (1.2, 9), (3.9, 9), (11.9, 16)])
def test_rounding_of_small_counts(value, expected):
    assert round_channels(value) == expected


def test_rounding_with_other_divisors():
    assert [round_channels(57.6, divisor) for divisor in (1, 2, 4, 16)] == [58, 58, 56, 64]


def test_channels_with_a_ratio():
    """Inner counts of ResNet are a quarter of the rounded outer ones; the expanded ones of
    MobileNet v2 a multiple of the rounded unexpanded ones."""
    inner = [Channels(base, 0.25).at(0.9, 8) for base in (64, 128, 256, 512)]
    assert inner == [58, 116, 230, 460]
    assert [Channels(base, 0.25).at(0.95, 8) for base in (64, 128, 256, 512)] == [60, 122, 244, 486]
    assert Channels(16 * 6, 6).at(0.7, 8) == 96 != Channels(96).at(0.7, 8)
    assert Channels(1280, slim=False).at(0.25, 8) == 1280


# Widths


@pytest.mark.parametrize('width', [0.2, 1.001, -1, math.nan, math.inf, '0.5', None, True, [0.5]])
def test_width_outside_the_range(width):
    with pytest.raises(UsageError, match='takes widths from 0.25 to 1$'):
        widths().resolve(width)


def test_rounding_noise_in_a_width():
    """0.1 + 0.2 is the listed 0.3; a width from an arithmetic series may end a hair outside."""
    some = widths(listed=(0.25, 0.3))
    assert some.position(some.resolve(0.1 + 0.2)) == 1
    assert some.resolve(np.arange(0.25, 1.05, 0.05)[-1]) == 1.0
    assert some.resolve(1.0 + 2e-16) == 1.0
    assert some.position(some.resolve(0.3001)) is None


@pytest.mark.parametrize('settings, message', [
    (dict(low=1.0, high=0.5), r'width_mult_range=\(1.0, 0.5\)'), (dict(low=0), 'width_mult_range'),
    (dict(high=math.inf), 'width_mult_range'), (dict(low='a'), 'width_mult_range'),
    (dict(listed=0.5), 'width_mult_list=0.5'), (dict(listed=('x',)), 'width_mult_list'),
    (dict(listed=(0.5, 1.2)), 'width 1.2: .* from 0.25 to 1'),
    (dict(listed=(0.5, 0.5)), 'width 0.5: is listed twice'),
    (dict(divisor=0), 'divisor=0'), (dict(divisor=4.0), 'divisor=4.0')])
def test_impossible_widths(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        widths(**settings)
    assert '\n' not in str(caught.value)


def test_rounding_beyond_the_stored_channels():
    """16 * 0.2 gives 9 channels, but the widest, 16 * 0.4, has 8."""
    with pytest.raises(UsageError, match='width 0.2: a would have 9 channels, but only 8'):
        SlimmableLayers(widths(0.2, 0.4, ())).conv('a', NARROW, NARROW, 1)


# Layers against the plain ones of the same width


def pair(method, *args):
    """A slimmable layer with random weights, its widths, and the plain layer at width 0.5 with
    the first channels."""
    some = widths(listed=(0.25, 0.5))
    slim = getattr(SlimmableLayers(some), method)('a', *args)
    plain = getattr(PlainLayers(0.5, 8), method)('a', *args)
    for layer in (slim, plain):
        layer.initialize(mx.init.Normal(1))
    parameters = slim._collect_params_with_prefix()
    for path, parameter in plain._collect_params_with_prefix().items():
        if path.startswith('running'):
            path = 'statistics.1.' + path
        parameters[path].set_data(mx.nd.random.uniform(0.5, 1.5, parameters[path].shape))
        first = tuple(slice(extent) for extent in parameter.shape)
        parameter.set_data(mx.nd.array(parameters[path].data().asnumpy()[first]))
    some.current = 0.5
    return slim, plain


@pytest.mark.parametrize('method, args, shape', [
    ('conv', (NARROW, WIDE, 3, 2), (2, 8, 9, 9)), ('conv', (WIDE, NARROW, 1), (2, 16, 5, 5)),
    ('conv', (Channels(3, slim=False), WIDE, 7, 2), (2, 3, 14, 14)),
    ('depthwise', (WIDE, 2), (2, 16, 9, 9)), ('batch_norm', (WIDE,), (2, 16, 4, 4)),
    ('dense', (WIDE, 5), (3, 16)), ('dense', (Channels(7, slim=False), 5), (3, 7))])
def test_layer_equals_the_plain_one(method, args, shape):
    slim, plain = pair(method, *args)
    x = mx.nd.random.normal(shape=shape)
    np.testing.assert_array_equal(slim(x).asnumpy(), plain(x).asnumpy())
    traced = slim(mx.sym.var('data'))
    _, shapes, _ = traced.infer_shape(data=shape)
    assert traced.list_outputs() == ['a_output'] and shapes == [plain(x).shape]


@pytest.mark.parametrize('method, args, shape', [
    ('conv', (NARROW, WIDE, 3), (2, 8, 5, 5)), ('depthwise', (WIDE,), (2, 16, 5, 5)),
    ('dense', (WIDE, 5), (3, 16))])
def test_gradient_of_unused_weights_is_0(method, args, shape):
    slim, plain = pair(method, *args)
    x = mx.nd.random.normal(shape=shape)
    for layer in (slim, plain):
        with autograd.record():
            y = (layer(x) ** 2).sum()
        y.backward()
    whole, part = slim.weight.grad().asnumpy(), plain.weight.grad().asnumpy()
    expected = np.zeros_like(whole)
    expected[tuple(slice(extent) for extent in part.shape)] = part
    assert expected.any() and whole.size > part.size
    np.testing.assert_allclose(whole, expected, rtol=1e-6, atol=1e-6)


def test_whole_weights_are_not_cut():
    """At the widest the graph is that of the plain layer."""
    layer = SlimmableLayers(widths()).conv('a', NARROW, WIDE, 3)
    assert 'slice_axis' not in layer(mx.sym.var('data')).tojson()
    layer.widths.current = 0.5
    assert layer(mx.sym.var('data')).tojson().count('"op": "slice_axis"') == 2


def idle(count, dtype):
    return mx.nd.zeros(count, dtype=dtype), mx.nd.ones(count, dtype=dtype)


def test_batch_norm_normalises_by_the_batch():
    """Output, mean and unbiased variance, and no change of any stored array."""
    some = widths()
    norm = SlimmableLayers(some).batch_norm('a', WIDE)
    norm.initialize()
    some.current = 0.6  # not listed: 24 channels
    x = mx.nd.random.normal(3, 2, shape=(3, 24, 2, 5))
    with some.training(idle) as run:
        with autograd.record():
            y = norm(x)
        y.backward()
    values = x.asnumpy().transpose(1, 0, 2, 3).reshape(24, 30)
    (layer, mean, variance), = run.statistics
    assert layer is norm
    np.testing.assert_allclose(mean.asnumpy(), values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(variance.asnumpy(), values.var(1, ddof=1), rtol=1e-5)
    expected = (values - values.mean(1)[:, None]) / np.sqrt(values.var(1) + 1e-5)[:, None]
    np.testing.assert_allclose(y.asnumpy().transpose(1, 0, 2, 3).reshape(24, 30), expected,
                               atol=1e-5)
    for statistics, count in ((norm.statistics_at(0), 8), (norm.statistics_at(1), 32)):
        np.testing.assert_array_equal(statistics.running_mean.data().asnumpy(), np.zeros(count))
        np.testing.assert_array_equal(statistics.running_var.data().asnumpy(), np.ones(count))


def test_one_value_has_no_unbiased_variance():
    """One image at 1x1: 0, not NaN, so that nothing is spoilt."""
    norm = SlimmableLayers(widths()).batch_norm('a', WIDE)
    norm.initialize()
    with norm.widths.training(idle) as run, autograd.train_mode():
        norm(mx.nd.ones((1, 32, 1, 1)))
    np.testing.assert_allclose(run.statistics[0][2].asnumpy(), np.zeros(32), atol=1e-9)


def test_update_of_running_statistics():
    norm = SlimmableLayers(widths()).batch_norm('a', WIDE)
    norm.initialize()
    running = norm.statistics_at(0)
    running.update(mx.nd.full(8, 2.0), mx.nd.full(8, 3.0))
    running.update(mx.nd.full(8, 4.0), mx.nd.full(8, 1.0))
    np.testing.assert_allclose(running.running_mean.data().asnumpy(), 0.9 * 0.2 + 0.4, rtol=1e-6)
    np.testing.assert_allclose(running.running_var.data().asnumpy(), 0.9 * 1.2 + 0.1, rtol=1e-6)


def test_batch_norm_without_statistics():
    norm = SlimmableLayers(widths()).batch_norm('a', WIDE)
    norm.initialize()
    norm.widths.current = 0.6
    with pytest.raises(UsageError, match=r'^width 0.6: has no BN statistics .*0.25, 1\)'):
        norm(mx.nd.zeros((1, 24, 2, 2)))
    assert norm(mx.sym.var('data')).list_auxiliary_states() == ['a_moving_mean', 'a_moving_var']


def test_layers_refuse_to_be_hybridised_alone():
    layer = SlimmableLayers(widths()).dense('a', WIDE, 5)
    with pytest.raises(UsageError, match='^a: .*hybridize the whole network'):
        layer.hybridize()
    layer.hybridize(False)
