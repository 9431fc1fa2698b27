"""Running statistics of a slimmable network, sub-networks cut out of it, several devices."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from slimmable_cases import HYBRID, SMALL, WRN, close, images, small, values

import igcnet
from igcnet.errors import UsageError
from igcnet.layers import Network

# Statistics


def running(net, position):
    """Running statistics of one width, and those for every width."""
    return {path: value for path, value in values(net).items()
            if '.statistics.%d.' % position in path or 'every_width' in path}


@pytest.mark.parametrize('hybrid', HYBRID)
@pytest.mark.parametrize('recorded', [True, False])
def test_training_passes_move_running_statistics(hybrid, recorded):
    """By a tenth, at the width of the pass alone; the tail of v2 at every width."""
    net, x = small('mobilenet_v2_us'), images()
    if hybrid is not None:
        net.hybridize(**hybrid)
    for width, position in ((0.25, 0), (0.4, None), (0.5, 1)):
        before, batch = values(net), net.batch_statistics(x, width)
        assert all(np.array_equal(before[path], value) for path, value in values(net).items())
        with autograd.record() if recorded else autograd.train_mode():
            net(x, width=width)
        after, moved = values(net), set()
        for path, value in after.items():
            if 'running' in path and not np.array_equal(value, before[path]):
                layer, _, which = path.rsplit('.', 1)[0].partition('.statistics.')
                assert which in (str(position), 'every_width')
                layer = layer[len('features.'):].replace('.body', '').replace('.', '_')
                mean, variance = (array.asnumpy() for array in batch[layer])
                target = mean if path.endswith('running_mean') else variance
                close(value, 0.9 * before[path] + 0.1 * target, 1e-5)
                moved.add(path)
        expected = {path for path in after if '.every_width.' in path
                    or position is not None and '.statistics.%d.' % position in path}
        assert moved == expected and len(moved) == (2 if position is None else 2 * 52)


def test_inference_leaves_statistics_alone():
    net, x = small(), images(size=32)
    before = values(net)
    net(x)
    with autograd.record(train_mode=False):
        y = net(x).sum()
    y.backward(train_mode=False)
    assert all(np.array_equal(before[path], value) for path, value in values(net).items())


def test_batch_statistics_are_those_of_the_batch():
    """At the first BN of WideResNet, whose input is the stem's convolution."""
    net, x = small(), images(size=32)
    for width, channels in ((1.0, 16), (0.5, 8), (0.8, 16)):
        made = net.batch_statistics(x, width)['stage1_block1_bn1']
        weight = net.features.conv.weight.data()[:channels]
        y = mx.nd.Convolution(x, weight, kernel=(3, 3), pad=(1, 1), num_filter=channels,
                              no_bias=True).asnumpy().transpose(1, 0, 2, 3).reshape(channels, -1)
        close(made[0].asnumpy(), y.mean(1), 1e-5)
        close(made[1].asnumpy(), y.var(1, ddof=1), 1e-5)
    assert net.width == 1.0


def test_add_statistics_and_calibrate():
    """After calibration with one batch, inference on it is training mode but for n/(n-1)."""
    net, x = small(), images(size=32)
    net.hybridize()
    net.add_statistics(0.8)
    assert net.listed_widths == (0.5, 1.0, 0.8)
    assert len(running(net, 2)) == 2 * 7  # 6 BN layers in the blocks and one at the end
    uncalibrated = net(x, width=0.8).asnumpy()
    net.set_statistics(net.batch_statistics(x, 0.8), 0.8)
    with autograd.train_mode():
        trained = net(x, width=0.8).asnumpy()
    net.set_statistics(net.batch_statistics(x, 0.8), 0.8)
    close(net(x, width=0.8).asnumpy(), trained, 0.01)
    assert np.abs(uncalibrated - trained).max() > 0.1
    with pytest.raises(UsageError, match='width 0.8: is listed twice'):
        net.add_statistics(0.8)


def test_add_statistics_before_initialisation():
    net = igcnet.get_model(WRN, depth=10, widen_factor=1)
    net.add_statistics(0.95)
    net.initialize()
    assert net(images(size=32), width=0.95).shape == (4, 100)


def test_running_statistics_there_and_back():
    net = small('mobilenet_v2_us')
    kept = net.running_statistics(0.25)
    assert len(kept) == 52 and kept['stem_bn'][0].shape == (8,) and 'tail_bn' in kept
    before = values(net)
    net.set_statistics(net.running_statistics(0.5), 0.5)
    assert all(np.array_equal(before[path], value) for path, value in values(net).items())
    with autograd.train_mode():
        net(images(), width=0.25)
    moved = net.running_statistics(0.25)['stem_bn'][0].asnumpy()
    assert not np.array_equal(kept['stem_bn'][0].asnumpy(), moved)  # what was given are copies
    net.set_statistics(kept, 0.25)
    assert all(np.array_equal(before[path], value) for path, value in values(net).items())


def test_wrong_statistics():
    net = small()
    kept = net.running_statistics(0.5)
    with pytest.raises(UsageError, match='width 0.8: has no BN statistics'):
        net.set_statistics(kept, 0.8)
    with pytest.raises(UsageError, match='width 0.8: has no BN statistics'):
        net.running_statistics(0.8)
    with pytest.raises(UsageError, match=r'stage1_block1_bn1 have the shape \(8,\), .* \(16,\)'):
        net.set_statistics(kept, 1.0)
    first = kept.pop('bn')
    with pytest.raises(UsageError, match='bn missing; they must be those of every BN layer'):
        net.set_statistics(kept, 0.5)
    with pytest.raises(UsageError, match='other unknown'):
        net.set_statistics({**kept, 'bn': first, 'other': first}, 0.5)


# Cutting out


@pytest.mark.parametrize('name', SMALL)
def test_cut(name):
    """An ordinary network: equal outputs, small parameters, ordinary BN, independent."""
    net, x = small(name), images()
    for width in net.listed_widths:
        part = net.cut(width)
        assert type(part) is Network and part.classes == 4
        close(part(x).asnumpy(), net(x, width).asnumpy(), 1e-5)
        graph = part(mx.sym.var('data')).tojson()
        assert 'slice_axis' not in graph
        path = next(path for path in values(part) if path.endswith('running_mean'))
        position = net.listed_widths.index(width)
        wanted = values(net)[path.replace('running', 'statistics.%d.running' % position)]
        np.testing.assert_array_equal(values(part)[path], wanted)
    before = net(x).asnumpy()
    part.output.weight.set_data(part.output.weight.data() * 0)
    close(net(x).asnumpy(), before, 0)
    assert net.width == net.width_range[1]


def test_cut_of_the_present_width_and_without_statistics():
    net = small()
    net.set_width(0.5)
    assert net.cut().features.conv.weight.shape == (8, 3, 3, 3)
    with pytest.raises(UsageError, match='width 0.8: has no BN statistics'):
        net.cut(0.8)
    with pytest.raises(UsageError, match='from 0.5 to 1'):
        net.cut(0.3)


def test_cut_keeps_the_type():
    net, x = small(), images(size=32).astype('float64')
    net.cast('float64')
    part = net.cut(0.5)
    assert part(x).dtype == np.float64
    close(part(x).asnumpy(), net(x, 0.5).asnumpy(), 1e-12)


@pytest.mark.parametrize('name', SMALL)
def test_export_and_import(name, tmp_path):
    """The files hold the present width alone and give its outputs."""
    net, x = small(name), images()
    net.hybridize(static_alloc=True)
    for width in net.listed_widths:
        net.set_width(width)
        net.export(str(tmp_path / 'net'))
        stored = mx.nd.load(str(tmp_path / 'net-0000.params'))
        part = net.cut()
        assert {key.split(':')[1]: array.shape for key, array in stored.items()} == {
            key: p.shape for key, p in part.collect_params().items()}
        again = mx.gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'],
                                             str(tmp_path / 'net-0000.params'))
        close(again(x).asnumpy(), net(x).asnumpy(), 1e-5)


def test_save_and_load(tmp_path):
    """One file holds all widths."""
    net, x = small('mobilenet_v2_us'), images()
    net.save_parameters(str(tmp_path / 'net.params'))
    again = igcnet.get_model('mobilenet_v2_us', classes=4, **SMALL['mobilenet_v2_us'][0])
    again.load_parameters(str(tmp_path / 'net.params'))
    for width in net.listed_widths:
        close(again(x, width).asnumpy(), net(x, width).asnumpy(), 0)


# Devices


@pytest.mark.parametrize('hybrid', HYBRID)
def test_two_devices(hybrid):
    """Each device has its own batch statistics and moves its own running ones."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    net, single = small(ctx=contexts), small()
    if hybrid is not None:
        net.hybridize(**hybrid)
        single.hybridize(**hybrid)
    parts = [images(size=32, seed=seed) for seed in (0, 1)]
    for width in (1.0, 0.8, 0.5, 1.0):
        with autograd.record():
            outputs = [net(x.as_in_context(ctx), width=width) for x, ctx in zip(parts, contexts)]
            losses = [(y ** 2).sum() for y in outputs]
        autograd.backward(losses)
        for device, (x, y) in enumerate(zip(parts, outputs)):
            assert y.context == contexts[device]
            with autograd.record():
                expected = single(x, width=width)
                loss = (expected ** 2).sum()
            loss.backward()
            close(y.asnumpy(), expected.asnumpy(), 1e-4)
            close(net.output.weight.list_grad()[device].asnumpy(),
                  single.output.weight.grad().asnumpy(), 1e-3)
    first, second = net.features.bn.statistics_at(1).running_mean.list_data()
    assert np.abs(first.asnumpy() - second.asnumpy()).max() > 1e-4
    averaged = (first.asnumpy() + second.asnumpy()) / 2
    close(net.cut(1.0).features.bn.running_mean.data().asnumpy(), averaged, 1e-6)
