"""Batch normalisation over all devices: as one device with the whole batch."""

import mxnet as mx
import numpy as np
import pytest
from loops import RECIPE, make_loop, parameters, random_batches, silent, small_net

import igcnet
from igcnet import native
from igcnet.convert import save_original
from igcnet.errors import UsageError
from igcnet.train.parameter_groups import freeze
from igcnet.train.synchronised import Synchronised


def devices(count):
    return [mx.cpu(number) for number in range(count)]


def trained(folder, batches, count, synchronised=True, **changes):
    """The parameters before and after the batches, on `count` devices."""
    net = small_net(devices(count), dtype=str(batches[0][0].dtype))
    before = parameters(net)
    recipe = RECIPE.override(num_epochs=1, **changes)
    loop = make_loop(folder, batches, recipe, devices(count), net=net,
                     synchronised=Synchronised(net, count) if synchronised else None)
    loop.run(silent)
    return before, parameters(net)


def apart(first, second):
    """The largest difference, statistics included."""
    return max(np.abs(first[name][0] - array).max() for name in first for array in second[name])


# Three devices get 3, 3 and 2 of 8 images.
@pytest.mark.parametrize('size, count', [(8, 2), (8, 3), (5, 2)])
def test_several_devices_give_the_weights_and_statistics_of_one(tmp_path, size, count):
    batches = [(x.astype(np.float64), y) for x, y in random_batches(6, size=size)]
    before, one = trained(tmp_path / 'one', batches, 1, synchronised=False)
    _, several = trained(tmp_path / 'several', batches, count)
    _, each = trained(tmp_path / 'each', batches, count, synchronised=False)
    assert apart(one, several) < 1e-9
    assert apart(one, each) > 1e-3 and apart(before, one) > 1e-2
    statistics = [name for name in one if name.endswith(('moving_mean', 'moving_var'))]
    assert len(statistics) == 18
    for name in statistics:
        assert np.abs(one[name][0] - before[name][0]).max() > 1e-3
        for array in several[name]:
            np.testing.assert_array_equal(array, several[name][0], err_msg=name)


@pytest.mark.parametrize('changes', [
    {'accumulate': 2}, {'method': 'dgc'}, {'method': 'distillation'}])
def test_methods_and_accumulation(tmp_path, changes):
    if changes.get('method') == 'distillation':
        save_original(small_net(devices(1), seed=2), str(tmp_path / 'teacher'), 1)
        changes = {**changes, 'method_settings': {
            'teacher': 'resnet_igc', 'teacher_params': str(tmp_path / 'teacher-0001.params'),
            'teacher_settings': dict(depth=8, primary_partition=4, secondary_partition=2)}}
    batches = [(x.astype(np.float64), y) for x, y in random_batches(2)]
    _, one = trained(tmp_path / 'one', batches, 1, synchronised=False, **changes)
    _, several = trained(tmp_path / 'several', batches, 2, **changes)
    assert apart(one, several) < 1e-9
    _, plain = trained(tmp_path / 'plain', batches, 1, synchronised=False)
    assert (apart(one, plain) > 1e-4) == (changes.get('method') != 'dgc')


def test_large_means_cost_no_digits():
    # Of float32 with a mean of 1000 deviations the squares alone would leave nothing.
    x = (1000 + np.random.RandomState(0).normal(size=(7, 4, 5, 5))).astype(np.float32)
    net = igcnet.layers.BatchNorm('bn', 4)
    net.initialize(ctx=devices(2))
    parts = [mx.nd.array(x[:3], ctx=mx.cpu(0)), mx.nd.array(x[3:], ctx=mx.cpu(1))]
    with mx.autograd.record():
        found = Synchronised(net, 2)(parts)
    wide = x.astype(np.float64)
    mean, variance = wide.mean(axis=(0, 2, 3)), wide.var(axis=(0, 2, 3))
    expected = (wide - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(np.concatenate([y.asnumpy() for y in found]), expected, atol=1e-3)
    np.testing.assert_allclose(net.running_var.data(mx.cpu(1)).asnumpy(), 0.9 + 0.1 * variance,
                               rtol=1e-4)


def test_frozen_layers_keep_their_statistics():
    net = small_net(devices(2))
    freeze(net, ('g0_*',))
    before = parameters(net)
    x = [mx.nd.array(random_batches(1, size=2, seed=i)[0][0], ctx=mx.cpu(i)) for i in (0, 1)]
    with mx.autograd.record():
        Synchronised(net, 2)(x)
    moved = {name for name, arrays in parameters(net).items()
             if not np.array_equal(arrays[1], before[name][1])}
    assert moved == {name for name in before if '_moving_' in name and name[:3] != 'g0_'}


def test_dropout_is_the_same_in_every_run():
    def outputs():
        mx.random.seed(4)
        net = igcnet.get_model('igcv3_cifar10', width=0.25)
        net.initialize(ctx=devices(2))
        net.features.apply(lambda block: drops.append(block) if isinstance(
            block, igcnet.layers.Dropout) else None)
        x = [mx.nd.array(random_batches(1, size=2, seed=i)[0][0], ctx=mx.cpu(i)) for i in (0, 1)]
        with mx.autograd.record():
            return np.concatenate([y.asnumpy() for y in Synchronised(net, 2)(x)])
    drops = []
    np.testing.assert_array_equal(outputs(), outputs())
    assert drops


def test_an_error_on_one_device_ends_the_passes_of_all_and_leaves_the_network_as_it_was():
    net = small_net(devices(2))
    forward = Synchronised(net, 2)
    good = [mx.nd.ones((2, 3, 32, 32), ctx=context) for context in devices(2)]
    bad = mx.nd.ones((2, 4, 32, 32), ctx=mx.cpu(1))
    before = net(good[0]).asnumpy()
    for parts in ([good[0], bad], [bad.as_in_context(mx.cpu(0)), good[1]]):
        with pytest.raises(mx.base.MXNetError), mx.autograd.record():
            forward(parts)
    assert all(norm.normalise is None for norm in forward._norms) and net._active
    np.testing.assert_array_equal(net(good[0]).asnumpy(), before)
    with mx.autograd.record():
        assert [y.context for y in forward(good)] == devices(2)
    assert len(forward._threads._threads) == 2


@pytest.mark.skipif(native.missing() is not None, reason=native.missing() or '')
def test_units_of_native_operators_are_computed_otherwise():
    net = small_net(devices(2))
    assert net.set_lowering('native') == 'native'
    Synchronised(net, 2)
    found = []
    net.apply(lambda block: found.append(getattr(block, 'lowering', None)))
    assert 'native' not in found and set(found) & {'stock', 'blocked'}


@pytest.mark.parametrize('name, kind', [
    ('mobilenet_v1_us', 'slimmable layers'),
    ('dydensenet86_cifar10', 'dynamic group convolutions')])
def test_networks_with_other_batch_normalisation_are_refused(name, kind):
    with pytest.raises(UsageError, match='--sync-bn: not for networks with %s' % kind):
        Synchronised(igcnet.get_model(name), 2)
