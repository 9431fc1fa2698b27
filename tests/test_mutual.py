"""Mutual learning: the original's steps, the draws, several devices, resuming, what is refused."""

import mxnet as mx
import numpy as np
import pytest
from comparing import relative_difference
from slimmable_cases import WRN, count_traces, gradients, small
from slimmable_originals import (
    STEPS,
    Original,
)

import igcnet
from igcnet.errors import UsageError
from igcnet.train import checkpoint
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.methods import Place, find_method
from igcnet.train.mutual import SubNetwork
from igcnet.train.recipes import Recipe, load_recipe
from igcnet.train.runlog import RunLog, read_metrics
from igcnet.train.stopping import Interrupted

STATIC = dict(static_alloc=True, static_shape=True)
RECIPE = Recipe('test', num_epochs=2, batch_size=8, lr=0.02, wd=5e-4, schedule='cosine-torch-1.0',
                method='mutual', method_settings={'resolutions': [32, 28, 20]})


class FakeReader:
    """Fixed batches, as `TrainReader` gives them."""

    def __init__(self, count=3, size=8, before_step=None):
        draw = np.random.RandomState(count)
        self.batches = [(draw.normal(size=(size, 3, 32, 32)).astype(np.float32),
                         draw.randint(4, size=size).astype(np.float32)) for _ in range(count)]
        self.steps_per_epoch, self.before_step = count, before_step

    def epoch(self, number, start_step=0):
        for step in range(start_step, len(self.batches)):
            if self.before_step is not None:
                self.before_step(number, step)
            yield self.batches[step]


def make_loop(folder, net, recipe=RECIPE, reader=None, contexts=None, resume=None, steps=3,
              **settings):
    contexts = contexts or [mx.cpu()]
    net.hybridize(**STATIC)
    trainer = make_trainer(net, recipe, recipe.make_schedule(0, steps), 'device')
    state = checkpoint.State(checkpoint.Position(), 5, WRN, {}, None, {})
    if resume is not None:
        state = checkpoint.restore(resume, net, contexts, trainer)
    return Loop(net, contexts, trainer, recipe, reader or FakeReader(), settings.pop(
        'validation', None), state, RunLog(folder, state.history), log_iters=2, **settings)


@pytest.mark.parametrize('case', STEPS)
def test_step_of_the_original(case, shared_fixtures, tmp_path, monkeypatch):
    """Its draws give its losses, gradients and weights, with the optimiser of our loop and the
    recipe's decay rule."""
    original = Original(shared_fixtures('mutualnet'), case)
    facts, arrays, net = original.facts, original.arrays, original.net()
    draws = [SubNetwork(part['width'], part['resolution'])
             for part in facts['draws']['sub_networks_in_run_order']]
    recipe = load_recipe('mutualnet-imagenet' if 'mobilenet' in case else 'mutualnet-cifar')
    recipe = recipe.override(batch_size=len(arrays['x']), method_settings={
        'resolutions': facts['config']['resolution_list']})
    for name in ('lr', 'momentum'):
        assert getattr(recipe, name) == facts['optimizer'][name]
    assert recipe.wd == facts['optimizer']['weight_decay']
    loop = make_loop(tmp_path, net, recipe)
    drawn = loop.method.draw(Place(0, 0))
    assert len(drawn) == len(draws) - 1 and drawn[-1].width == draws[-1].width
    monkeypatch.setattr(loop.method, 'draw', lambda place: draws[1:])
    for _ in range(2):  # what an earlier step left in the gradients must not add up
        outcome = loop.method.gradients(Place(0, 0), arrays['x'],
                                        arrays['labels'].astype(np.float32), [mx.cpu()])
    found, count = original.parameters(net), len(arrays['x'])
    assert outcome.losses[0].asnumpy().mean() == pytest.approx(arrays['losses'].sum(), abs=1e-4)
    np.testing.assert_allclose(outcome.outputs[0].asnumpy(), arrays['logits_0'], atol=1e-3)
    for key, gradient in original.selected('grad'):
        assert relative_difference(found[key].grad() / count, gradient) < 1e-4, key
    loop.trainer.step(count)
    for key, weight in original.selected('after'):
        assert relative_difference(found[key].data(), weight) < 1e-4, key


def test_selective_decay_is_that_of_the_original(shared_fixtures):
    """Groups of its optimiser, in the order of the parameters."""
    original = Original(shared_fixtures('mutualnet'), STEPS[0])
    net = original.net()
    make_trainer(net, load_recipe('mutualnet-imagenet'), None, 'device')
    ours = [1e-4 * p.wd_mult for p in net.collect_params().values() if p.grad_req != 'null']
    assert ours == [group['weight_decay'] for group in original.file['optimizer']['param_groups']]
    assert len(set(ours)) == 2


def test_draws_are_a_function_of_seed_epoch_and_step():
    net = small()
    recipe = RECIPE.override(method_settings={'resolutions': [32, 28, 24, 20],
                                              'sampled_widths': 2})
    first, same, other = (find_method('mutual')(net, recipe, seed, 100) for seed in (1, 1, 2))
    places = [Place(epoch, step) for epoch in range(8) for step in range(100)]
    drawn = [first.draw(place) for place in places]
    assert drawn == [same.draw(place) for place in reversed(places)][::-1]
    assert drawn != [other.draw(place) for place in places]
    assert len({tuple(parts) for parts in drawn}) == len(places)
    for parts in drawn:
        assert [part.width for part in parts] == sorted((p.width for p in parts), reverse=True)
        assert parts[-1].width == 0.5 and len(parts) == 3
    sampled = np.array([part.width for parts in drawn for part in parts[:-1]])
    assert abs(sampled.mean() - 0.75) < 0.01 and 0.5 <= sampled.min() < 0.51 < 0.99 < sampled.max()
    for position in range(3):
        sizes = [parts[position].resolution for parts in drawn]
        assert all(abs(sizes.count(size) / len(sizes) - 0.25) < 0.06 for size in (32, 28, 24, 20))


def test_settings_change_the_step():
    net = small()
    net.hybridize(**STATIC)
    images, labels = FakeReader(1).batches[0]
    found = {}
    for settings in ({}, {'resolutions': [20]}, {'sampled_widths': 0}):
        method = find_method('mutual')(net, RECIPE.override(method_settings={
            **RECIPE.method_settings, **settings}), 1, 3)
        method.gradients(Place(0, 0), images, labels, [mx.cpu()])
        found[str(settings)] = gradients(net)['features.conv.weight']
    kinds = list(found.values())
    assert all(np.abs(kinds[i] - kinds[j]).max() > 1e-3 for i in range(3) for j in range(i))


def test_nothing_is_traced_again():
    net = small()
    net.hybridize(**STATIC)
    traces = count_traces(net)
    method = find_method('mutual')(net, RECIPE, 1, 50)
    images, labels = FakeReader(1, size=2).batches[0]
    for step in range(50):
        method.gradients(Place(0, step), images, labels, [mx.cpu()])
    assert len(traces) == net.graphs.made == len(net.graphs) <= net.graphs.limit
    shapes = {net.channel_counts(part.width) for step in range(50)
              for part in method.draw(Place(0, step))[:-1]}
    assert net.graphs.made == len(shapes) + 2  # the two listed widths have graphs of their own


def test_two_devices_equal_two_accumulated_halves():
    """Every device runs the same sub-networks, each with the statistics of its part."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    images, labels = FakeReader(1).batches[0]
    together, alone = small(ctx=contexts), small()
    method = find_method('mutual')(together, RECIPE, 1, 3)
    outcome = method.gradients(Place(0, 1), images, labels, contexts)
    single, halves = find_method('mutual')(alone, RECIPE, 1, 3), []
    losses = []
    for half in (slice(0, 4), slice(4, 8)):
        part = single.gradients(Place(0, 1), images[half], labels[half], [mx.cpu()])
        losses.append(part.losses[0].asnumpy())
        halves.append(gradients(alone))
    for device in range(2):
        np.testing.assert_allclose(outcome.losses[device].asnumpy(), losses[device], rtol=1e-4)
    for path, parameter in together._collect_params_with_prefix().items():
        if parameter.grad_req != 'null':
            mine = sum(g.asnumpy() for g in parameter.list_grad())
            expected = halves[0][path] + halves[1][path]
            assert np.abs(mine - expected).max() <= 1e-4 * max(1e-3, np.abs(expected).max()), path


@pytest.mark.parametrize('contexts', [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]])
def test_resuming_in_mid_epoch_gives_the_same_bits(tmp_path, contexts):
    images, labels = FakeReader(1, size=5).batches[0]
    from igcnet.data.reader import EvalBatch
    validation = [EvalBatch(images, labels, np.arange(5))]

    def run(folder, **settings):
        loop = make_loop(folder, small(ctx=contexts), contexts=contexts, validation=validation,
                         **settings)
        loop.run(silent)
        return loop

    straight = run(tmp_path / 'straight')

    def interrupt(epoch, step):
        if (epoch, step) == (1, 2):
            import os
            import signal
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(tmp_path / 'broken', reader=FakeReader(before_step=interrupt))
    saved = checkpoint.checkpoints(tmp_path / 'broken' / 'checkpoints')[-1]
    assert saved.name == '0001-000003'
    resumed = run(tmp_path / 'broken', resume=saved)
    for path, parameter in straight.net._collect_params_with_prefix().items():
        other = resumed.net._collect_params_with_prefix()[path]
        for mine, theirs in zip(parameter.list_data(), other.list_data()):
            np.testing.assert_array_equal(mine.asnumpy(), theirs.asnumpy(), err_msg=path)
    assert [[{k: v for k, v in m.items() if 'second' not in k} for m in read_metrics(
        tmp_path / name) if m['event'] == 'epoch'] for name in ('straight', 'broken')][0] == [
            {k: v for k, v in m.items() if 'second' not in k} for m in read_metrics(
                tmp_path / 'broken') if m['event'] == 'epoch']


def test_listed_widths_are_calibrated_and_evaluated(tmp_path):
    from igcnet.data.reader import EvalBatch
    net, reader = small(), FakeReader(4)
    loop = make_loop(tmp_path, net, RECIPE.override(num_epochs=1), reader, steps=4,
                     validation=[EvalBatch(*reader.batches[0], np.arange(8))])
    numbers = loop.run(silent)
    assert {'val_top1', 'val_width_0.5_top1', 'val_width_0.5_loss'} <= set(numbers)
    assert numbers['val_loss'] != numbers['val_width_0.5_loss']
    assert net.width == 1.0
    log = (tmp_path / 'log.txt').read_text()
    assert 'Validation-accuracy=' in log and 'Validation-width_0.5_accuracy=' in log
    for width in (0.5, 1.0):
        found = [net.batch_statistics(mx.nd.array(images), width) for images, _ in reader.batches]
        stored = net.running_statistics(width)
        for layer, pair in stored.items():
            for kind, value in enumerate(pair):
                expected = np.mean([one[layer][kind].asnumpy() for one in found], axis=0)
                np.testing.assert_allclose(value.asnumpy(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('settings, message', [
    (dict(width_mult_list=(0.9,)), 'the widest width, 1, is validated'),
    (dict(width_mult_range=(0.05, 0.4), width_mult_list=(0.05, 0.4)),
     'width 0.071: .* would have 9 channels, but only 8')])
def test_widths_that_cannot_work_are_refused_at_the_start(settings, message):
    net = igcnet.get_model(WRN, depth=10, widen_factor=1, **settings)
    net.initialize()
    with pytest.raises(UsageError, match=message):
        find_method('mutual')(net, RECIPE, 1, 3)


@pytest.mark.parametrize('net, changes, message', [
    ('igc', {}, 'needs a slimmable network'),
    (WRN, dict(label_smoothing=0.1), 'neither label_smoothing nor mixup_alpha'),
    (WRN, dict(method_settings={'resolutions': []}), 'at least one'),
    (WRN, dict(method_settings={'resolutions': [32, 2]}), 'resolution 2: .*empty; take at least 4'),
    (WRN, dict(method_settings={'resolutions': [32, 20.5]}), 'resolutions=20.5: must be a whole'),
    (WRN, dict(method_settings={'resolutions': [32], 'sampled_widths': -1}), 'sampled_widths=-1')])
def test_what_cannot_work_is_one_line(net, changes, message):
    net = small() if net == WRN else igcnet.get_model('resnet_igc', depth=8, primary_partition=2,
                                                      secondary_partition=2)
    with pytest.raises(UsageError, match=message) as caught:
        find_method('mutual')(net, RECIPE.override(**changes), 1, 3)
    assert '\n' not in str(caught.value)


def test_resolutions_above_the_data():
    method = find_method('mutual')
    method.check_input(RECIPE, 32)
    with pytest.raises(UsageError, match='resolutions: 32 is more than the 28 of the images'):
        method.check_input(RECIPE, 28)


@pytest.mark.parametrize('name, network, expected', [
    ('mutualnet-imagenet', 'mobilenet_v1_us', (250, 1024, 0.5, 1e-4)),
    ('mutualnet-imagenet', 'mobilenet_v2_us', (250, 1024, 0.5, 1e-4)),
    ('mutualnet-imagenet-resnet', 'resnet50_us', (120, 512, 0.2, 1e-4)),
    ('mutualnet-cifar', 'wideresnet28_10_us', (200, 128, 0.1, 5e-4))])
def test_recipes_of_the_original(name, network, expected):
    recipe = load_recipe(name)
    assert (recipe.num_epochs, recipe.batch_size, recipe.lr, recipe.wd) == expected
    assert recipe.decay == ('all' if name == 'mutualnet-cifar' else 'weights-not-depthwise')
    spec = igcnet.get_spec(network)
    assert recipe.method_settings['resolutions'][0] == spec.preprocessing.input_size


def silent(epoch, first):
    from contextlib import nullcontext
    return nullcontext(lambda text: None)
