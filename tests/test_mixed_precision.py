"""Which layers stay in float32, and that eight bits are near."""

import numpy as np
import pytest
from networks import trained_looking
from test_rewrites import SMALL

import igcnet
from igcnet.deploy import Model, optimize
from igcnet.deploy.calibration import all_maps, computed
from igcnet.deploy.mixed_precision import in_eight_bits, keep_in_float, logits_error
from igcnet.deploy.runners import RUNNERS
from igcnet.deploy.runtimes import mxnet_runner
from igcnet.deploy.verify import random_images

ERRORS = {'a': 0.01, 'b': 0.3, 'c': 0.02, 'd': 0.1, 'e': 0.05}


def total(in_float):
    return sum(error ** 2 for layer, error in ERRORS.items() if layer not in in_float) ** 0.5


@pytest.mark.parametrize('tolerance, kept', [
    (1, ''), (0.33, ''), (0.31, 'b'), (0.12, 'b'), (0.1, 'bd'), (0.02, 'bdec'), (0.001, 'bdeca')])
def test_as_few_layers_as_will_do(tolerance, kept):
    assert ''.join(keep_in_float(list(ERRORS), total, ERRORS.get, tolerance)) == kept


def test_layers_come_with_the_errors_that_they_make():
    kept = keep_in_float(list(ERRORS), total, ERRORS.get, 0.1)
    assert kept == pytest.approx({'b': 0.3, 'd': 0.1})


def test_error_of_logits():
    expected = np.array([[1.0, -1, 0], [3, 5, 4]])
    assert logits_error(expected, expected + 7) == 0  # no class minds
    assert logits_error(expected, 1.25 * expected) == pytest.approx(0.25)
    assert logits_error(100 + expected, 100 + 1.25 * expected) == pytest.approx(0.25)


@pytest.mark.parametrize('target', ['mxnet', 'onnxruntime'])
def test_the_tolerance_is_kept(target):
    if target == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    net = trained_looking(igcnet.get_model('resnet_igc', **SMALL['resnet_igc']))
    batches = [random_images(2, net.input_size, seed) for seed in (1, 2)]
    expected = mxnet_runner(Model.of(net), fused=False)(np.concatenate(batches))

    def made(tolerance):
        return optimize(net, target, strategy='cheapest', calibration=batches, tolerance=tolerance)

    loose = made(1.0)
    assert not loose.eight_bits.in_float
    close = made(loose.eight_bits.error / 2)
    assert 0 < close.eight_bits.error <= loose.eight_bits.error / 2
    assert logits_error(expected, close.runner()(np.concatenate(batches))) == pytest.approx(
        close.eight_bits.error, rel=0.05)
    layers = list(close.eight_bits.in_float)
    assert '%s stays in float32' % layers[0] in close.explain()
    errors = list(close.eight_bits.in_float.values())
    assert errors == sorted(errors, reverse=True)


def test_layers_in_float_keep_their_weights():
    pytest.importorskip('onnxruntime')
    model = Model.of(trained_looking(igcnet.get_model('plain_igc', **SMALL['plain_igc'])))
    batches = [random_images(4, 32, 1)]
    rounded, eight_bits = in_eight_bits(model, 'onnxruntime-int8', batches, 1e-9)
    assert eight_bits.error < 1e-5
    assert all(np.array_equal(rounded.arrays[name], array)
               for name, array in model.arrays.items() if name in rounded.arrays)


def test_better_than_plain_rounding():
    """Against ranges of whole maps and weights rounded to the nearest."""
    pytest.importorskip('onnxruntime')
    net = trained_looking(igcnet.get_model('plain_igc', **SMALL['plain_igc']))
    x, unseen = random_images(32, 32, 1), random_images(16, 32, 2)
    optimized = optimize(net, 'onnxruntime', strategy='cheapest', calibration=[x], tolerance=1.0)
    plain = optimize(net, 'onnxruntime', strategy='cheapest')
    expected = plain.runner()(unseen)
    ranges = {name: (float(values.min()), float(values.max()))
              for name, values in computed(*all_maps(plain.model), [x])}
    before = logits_error(expected, RUNNERS['onnxruntime-int8'](plain.model, ranges)(unseen))
    assert logits_error(expected, optimized.runner()(unseen)) < 0.95 * before
