"""Weights on a grid of eight bits: nearer outputs than by rounding each to the nearest step."""

import numpy as np
import pytest
from test_rewrites import chain, conv, images

from igcnet.deploy.calibration import all_maps, computed, map_ranges, rounded_to
from igcnet.deploy.model import Model
from igcnet.deploy.rounding import LARGEST, round_rows, round_weights, row_scale


def correlated(groups=2, inputs=24, count=2000):
    draw = np.random.RandomState(0)
    causes = draw.standard_normal((groups, count, 4)) @ draw.standard_normal((4, inputs))
    values = causes + 0.2 * draw.standard_normal((groups, count, inputs))
    return values, values.swapaxes(1, 2) @ values / count


def test_weights_make_up_for_each_other():
    values, moments = correlated()
    rows = np.random.RandomState(1).standard_normal((2, 5, 24))
    error = [np.square((round_rows(rows, given) - rows) @ values.swapaxes(1, 2)).mean()
             for given in (None, moments)]
    assert error[1] < 0.3 * error[0]


@pytest.mark.parametrize('compensated', [False, True])
def test_whole_steps_the_largest_of_them_first(compensated):
    rows = np.random.RandomState(1).standard_normal((2, 50, 24))
    rows[0, 0] = 0
    rounded = round_rows(rows, correlated()[1] if compensated else None)
    scale, _ = row_scale(rows)
    np.testing.assert_allclose(rounded / scale, np.rint(rounded / scale), atol=1e-6)
    np.testing.assert_allclose(row_scale(rounded)[0][rows.any(axis=2)],
                               scale[rows.any(axis=2)])  # the same grid is found again
    assert np.abs(rounded / scale).max() == pytest.approx(LARGEST)
    assert not rounded[0, 0].any()


def skewed(model, count=8):
    return np.abs(images(model, count)) ** 2


@pytest.mark.parametrize('step', [
    conv(8, 8, 3, pad=(1, 1)), conv(8, 8, 3, groups=8), conv(8, 8, 3, groups=2, stride=(2, 1)),
    conv(8, 8, 3, dilate=(2, 1), pad=(2, 0))])
def test_no_mean_error_is_left(step):
    model = chain(step, channels=8, size=12)
    x = skewed(model)
    ranges = {**map_ranges(model, [x]), 'data': (0.0, 4.0)}  # cuts off
    rounded = round_weights(model, [x[:4], x[4:]], ranges, set())
    seen = rounded_to(x, ranges['data'])
    plain = Model(model.graph, {name: round_rows(array.reshape(1, len(array), -1), None).reshape(
        array.shape) for name, array in model.arrays.items()}, model.image_shape)
    exact, ours, nearest = (dict(computed(*all_maps(one), [given]))['n0'] for one, given in (
        (model, x), (rounded, seen), (plain, seen)))
    assert np.abs((ours - exact).mean((0, 2, 3))).max() < 0.3 * np.abs(
        (nearest - exact).mean((0, 2, 3))).max()
    assert np.std(ours - exact) <= 1.01 * np.std(nearest - exact)


def test_layers_in_float_stay():
    model = chain(conv(8, 4), conv(8, 8), channels=4)
    rounded = round_weights(model, [images(model)], map_ranges(model, [images(model)]), {'n0'})
    assert np.array_equal(rounded.arrays['n0_weight'], model.arrays['n0_weight'])
    assert not np.array_equal(rounded.arrays['n1_weight'], model.arrays['n1_weight'])


def test_very_wide_layers_are_rounded_to_the_nearest(monkeypatch):
    monkeypatch.setattr('igcnet.deploy.rounding.MOST_INPUTS', 7)
    model = chain(conv(8, 8), channels=8)
    rounded = round_weights(model, [images(model)], map_ranges(model, [images(model)]), set())
    weight = model.arrays['n0_weight'].reshape(1, 8, 8).astype(np.float64)
    np.testing.assert_allclose(rounded.arrays['n0_weight'].reshape(1, 8, 8),
                               round_rows(weight, None), rtol=1e-6)
