"""Ranges of maps and sizes of their channels on calibration images."""

import numpy as np
import pytest
from test_rewrites import chain, conv

from igcnet.deploy.calibration import (
    best_range,
    channel_sizes,
    map_ranges,
    map_scale,
    rounded_to,
)
from igcnet.errors import CheckpointError


def test_ranges_are_those_of_the_images():
    model = chain(conv(4, 4))
    x = np.random.RandomState(0).standard_normal(model.batch_shape(6)).astype(np.float32)
    assert set(map_ranges(model, [x])) == {'data', 'n0', 'logits'}
    assert map_ranges(model, [x])['data'] == pytest.approx((x.min(), x.max()), rel=0.3)
    assert map_ranges(model, [x, 3 * x])['data'] == pytest.approx(
        (2 * x.min(), 2 * x.max()), rel=0.3)


def test_a_stray_value_does_not_make_a_range():
    model = chain(conv(4, 4), size=64)
    x = np.random.RandomState(0).standard_normal(model.batch_shape(4)).astype(np.float32)
    x[0, 0, 0, 0] = 1000
    low, high = map_ranges(model, [x])['data']
    assert -6 < low < -3 and 3 < high < 6


def test_no_images_and_images_that_are_no_numbers():
    model = chain(conv(4, 4))
    with pytest.raises(CheckpointError, match='no images'):
        map_ranges(model, [])
    with pytest.raises(CheckpointError, match='not finite'):
        map_ranges(model, [np.full(model.batch_shape(), np.inf, np.float32)])


@pytest.mark.parametrize('low, high, scale, zero', [
    (0.0, 2.55, 0.01, 0), (-1.0, 1.55, 0.01, 100), (-2.55, 0.0, 0.01, 255),
    (1.0, 2.55, 0.01, 0), (0.0, 0.0, 1.0, 0)])
def test_zero_is_a_value_of_a_map(low, high, scale, zero):
    assert map_scale(low, high) == (pytest.approx(scale), zero)


def error(values, limits):
    return np.square(rounded_to(values, limits) - values).mean()


@pytest.mark.parametrize('shift', [0, 3])
def test_no_other_range_is_better(shift):
    values = np.random.RandomState(0).laplace(size=20000) + shift
    low, high = best_range(values)
    ordered = np.sort(values)[1:-1]  # but for stray values
    best = error(ordered, (low, high))
    for others in ((ordered[0], ordered[-1]), (1.1 * low, high), (low, 1.1 * high),
                   (0.85 * low, high), (low, 0.85 * high), tuple(np.percentile(values, [1, 99]))):
        assert best <= error(ordered, others)


def test_very_large_values_have_a_range():
    values = np.linspace(-3e38, 3e38, 1000, dtype=np.float32)
    assert best_range(values) == pytest.approx((-3e38, 3e38), rel=0.01)
    assert best_range(np.zeros(9)) == (0, 0)


def test_a_symmetric_range():
    values = np.random.RandomState(0).standard_normal(20000) + 1
    low, high = best_range(values, symmetric=True)
    assert low == -high and error(values, (low, high)) < error(values, (1.3 * low, 1.3 * high))
    assert best_range(np.abs(values), symmetric=True)[0] == 0


def test_values_that_are_only_moved_are_not_rounded_again():
    model = chain(conv(8, 4), ('relu', {}, {}),
                  ('Pooling', dict(kernel=(2, 2), pool_type='max'), {}),
                  ('Reorder', dict(branch_factor=2), {}), conv(8, 8),
                  ('Pooling', dict(kernel=(2, 2), pool_type='avg'), {}))
    x = np.random.RandomState(0).standard_normal(model.batch_shape(8)).astype(np.float32)
    ranges = map_ranges(model, [x])
    assert ranges['n1'] == ranges['n2'] == ranges['n3'] != ranges['n4'] != ranges['n5']


def test_sizes_of_channels():
    model = chain(conv(4, 4, groups=4), channels=4)
    x = np.random.RandomState(0).uniform(-1, 1, model.batch_shape(8)).astype(np.float32)
    weight = model.arrays['n0_weight'].ravel()
    sizes = channel_sizes(model, [x[:4], x[4:]])
    np.testing.assert_allclose(sizes['n0'], weight, rtol=0.05)
    assert (sizes['n0'] >= channel_sizes(model, [x[:4]])['n0']).all()
