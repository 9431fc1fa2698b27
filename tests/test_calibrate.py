"""Calibration of BN statistics: the original's numbers, and that it touches nothing else."""

import mxnet as mx
import numpy as np
import pytest
from comparing import maximum_difference, relative_difference
from mxnet import autograd
from slimmable_cases import HYBRID, close, images, small, values
from slimmable_originals import Original, resize
from synthetic import noise, write_records

import igcnet
from igcnet.data.augment import find_augmentation
from igcnet.data.reader import EvalBatch, TrainReader
from igcnet.errors import UsageError
from igcnet.layers.resolution import at_resolution, check_resolution
from igcnet.train.calibrate import calibrate, first_batches, mean_statistics
from igcnet.train.evaluate import evaluate


@pytest.mark.parametrize('hybrid', HYBRID)
@pytest.mark.parametrize('listed, dtype, tolerance', [
    (True, 'float32', 1e-3), (True, 'float64', 1e-4), (False, 'float32', 1e-3)])
def test_statistics_of_the_original(hybrid, listed, dtype, tolerance, shared_fixtures):
    """The slimmable layers' and the plain one's; also for a width that has none before. In
    float32 the original itself is 1e-4 away from its double-precision run."""
    original = Original(shared_fixtures('mutualnet'), 'bncalib_mobilenet_v2_c10')
    facts, arrays, net = original.facts, original.arrays, original.net(hybrid)
    width, size = facts['width'], facts['resolution']
    names = original.parameters(net)
    if not listed:
        whole, net = net, original.net(hybrid, width_mult_list=[0.25, 0.5])
        assert not net.has_statistics(width) and whole.has_statistics(width)
    net.cast(dtype)
    found = calibrate(net, iter(arrays['x_batches']), width, size)
    assert net.has_statistics(width)
    by_layer = {names[key].name: value for key, value in original.selected('bn')}
    for name, value in by_layer.items():
        layer, _, kind = name.rpartition('_moving_')
        layer = layer.replace('_width2', '')
        assert relative_difference(found[layer][kind == 'var'], value) < tolerance, name
        stored = net.running_statistics(width)[layer][kind == 'var']
        assert relative_difference(stored, value) < tolerance, name
    logits = net(resize(arrays['x_batches'][0], size).astype(dtype), width=width)
    assert maximum_difference(logits, arrays['logits_batch0']) < tolerance


def test_only_the_statistics_of_the_width_change():
    net = small()
    net.hybridize()
    before = values(net)
    batches = [images(size=32, seed=seed).asnumpy() for seed in range(3)]
    calibrate(net, batches, 0.5, 24)
    changed = {path for path, value in values(net).items()
               if not np.array_equal(value, before[path])}
    assert changed == {path for path in before if '.statistics.0.' in path}
    assert net.width == 1.0


def test_each_batch_counts_the_same_whatever_its_size():
    net = small()
    batches = [images(count, size=32, seed=count) for count in (2, 6)]
    found = mean_statistics(net, batches, 1.0)
    single = [net.batch_statistics(batch, 1.0) for batch in batches]
    for layer, pair in found.items():
        for kind, value in enumerate(pair):
            close(value.asnumpy(), sum(one[layer][kind].asnumpy() for one in single) / 2, 1e-5)


def test_the_present_width_and_nothing_to_calibrate_with():
    net = small()
    net.set_width(0.5)
    assert calibrate(net, [images(size=32)])['bn'][0].shape == (32,)
    with pytest.raises(UsageError, match='not one batch'):
        calibrate(net, [], 0.5)
    with pytest.raises(UsageError, match='from 0.5 to 1'):
        calibrate(net, [images(size=32)], 0.4)
    with pytest.raises(UsageError, match='resolution 3: .*empty; take at least 4'):
        calibrate(net, [images(size=32)], 0.5, 3)


def test_calibrated_inference_is_training_mode_but_for_the_unbiased_variance():
    net, x = small(), images(size=32)
    calibrate(net, [x], 0.8, 24)
    with autograd.train_mode():
        trained = net(at_resolution(x, 24), width=0.8).asnumpy()
    calibrate(net, [x], 0.8, 24)
    close(net(at_resolution(x, 24), width=0.8).asnumpy(), trained, 0.02)


def test_two_devices_get_the_same():
    net = small(ctx=[mx.cpu(0), mx.cpu(1)])
    calibrate(net, [images(size=32)], 0.5)
    first, second = net.features.bn.statistics_at(0).running_mean.list_data()
    np.testing.assert_array_equal(first.asnumpy(), second.asnumpy())


def test_first_batches_are_the_same_at_each_call(tmp_path):
    write_records(tmp_path / 'train', noise(20), np.zeros(20))
    augmentation = find_augmentation('mutualnet-cifar', 32, (0, 0, 0))
    reader = TrainReader(tmp_path / 'train.rec', 6, augmentation, seed=3, mean=(120,) * 3,
                         std=(60,) * 3)
    first, again = (list(first_batches(reader, 2)) for _ in range(2))
    assert len(first) == 2 and first[0].shape == (6, 3, 32, 32)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], next(reader.epoch(0))[0])
    assert len(list(first_batches(reader, 99))) == reader.steps_per_epoch == 4
    assert not np.array_equal(next(first_batches(reader, 1, epoch=1)), first[0])


# Resolutions


def test_resizing_is_that_of_the_original(shared_fixtures):
    arrays = np.load(shared_fixtures('mutualnet') / 'wideresnet10_1_c10.npz')
    x = mx.nd.array(arrays['x'])
    for size in (28, 20):
        assert maximum_difference(at_resolution(x, size), arrays['x_r%d' % size]) < 1e-6
    assert at_resolution(x, None) is x and at_resolution(x, 32) is x


def test_smallest_resolution_is_the_total_stride():
    net = small('mobilenet_v1_us')
    check_resolution(net, 32)
    assert net(images(size=32)).shape == (4, 4)
    for size in (31, 1, 0, -5):
        with pytest.raises(UsageError, match='resolution %d: the network divides it by 32' % size):
            check_resolution(net, size)
    with pytest.raises(UsageError, match='resolution 64: the network takes images of 224x224'):
        check_resolution(igcnet.get_model('mobilenet_0.25x'), 64)


def test_evaluation_at_a_resolution():
    net, x = small(), images(size=32)
    labels = net(at_resolution(x, 20)).asnumpy().argmax(1).astype(np.float32)
    batches = [EvalBatch(x.asnumpy(), labels, np.arange(4))]
    assert evaluate(net, batches, [mx.cpu()], resolution=20).top1 == 4
    assert evaluate(net, batches, [mx.cpu()]).loss != evaluate(net, batches, [mx.cpu()],
                                                               resolution=20).loss
