"""Channels equalised: exact, and what eight bits gain by it."""

import numpy as np
import pytest
from networks import trained_looking
from test_rewrites import SMALL, assert_same, chain, conv, images

import igcnet
from igcnet.deploy.calibration import channel_sizes
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.rewrites.equalising import STRENGTH, equalise_channels
from igcnet.deploy.strategies import Strategy, apply_plan, stages_of

RELU = ('relu', {}, {})


def equalised(model):
    x = images(model)
    return equalise_channels(model, channel_sizes(model, [x]))


def spread(model, name):
    """How many times the largest channel is as large as the smallest."""
    size = channel_sizes(model, [images(model)])[name]
    return size.max() / size.min()


def uneven(*steps):
    """A chain whose first convolution writes channels of very different sizes."""
    model = chain(*steps, channels=4)
    rows = 2.0 ** -np.arange(8).reshape(-1, 1, 1, 1)
    return Model(model.graph, {**model.arrays, 'n0_weight': model.arrays['n0_weight'] * rows.astype(
        np.float32)}, model.image_shape)


@pytest.mark.parametrize('between', [
    [RELU], [], [('Reorder', dict(branch_factor=2), {})],
    [('LeakyReLU', dict(act_type='leaky', slope=0.1), {})],
    [('Pooling', dict(kernel=(2, 2), pool_type='avg'), {}), RELU]])
def test_exact_and_nearer(between):
    model = uneven(conv(8, 4), *between, conv(6, 8, groups=2))
    after = equalised(model)
    assert_same(model, after)
    read = 'n%d' % len(between)
    assert spread(after, read) == pytest.approx(spread(model, read) ** (1 - STRENGTH), rel=0.01)


def test_channel_wise_readers_allow_all():
    model = uneven(conv(8, 4), RELU, conv(8, 8, 3, groups=8), conv(6, 8))
    after = equalised(model)
    assert_same(model, after)
    assert spread(after, 'n1') == pytest.approx(1, rel=0.01) and spread(model, 'n1') > 50


@pytest.mark.parametrize('step', [
    ('clip', dict(a_min=0, a_max=6), {}), ('sigmoid', {}, {}), ('_plus_scalar', dict(scalar=1), {}),
    ('Activation', dict(act_type='tanh'), {})])
def test_what_minds_a_factor_is_left_alone(step):
    model = uneven(conv(8, 4), step, conv(6, 8))
    after = equalised(model)
    assert_same(model, after)
    for name, array in after.arrays.items():
        np.testing.assert_array_equal(array, model.arrays[name])


@pytest.mark.parametrize('op', ['elemwise_add', 'elemwise_mul', 'Concat'])
def test_joined_maps(op):
    """Summands share their factors, of a product one has none, concatenated maps have their own."""
    width = 16 if op == 'Concat' else 8
    editor = Editor(uneven(conv(8, 4), RELU, conv(8, 8), RELU, conv(6, width)))
    one, other = editor.find('relu')
    joined = editor.add(op, 'joined', dict(dim=1, num_args=2) if op == 'Concat' else {},
                        [one, other])
    editor.replace(other, joined, but=(joined,))
    model = editor.finish()
    after = equalised(model)
    assert_same(model, after)
    changed = {name for name, array in after.arrays.items()
               if not np.array_equal(array, model.arrays[name])}
    assert changed >= {'n0_weight', 'n4_weight'}


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('strategy', ['leave', 'cheapest+merge'])
def test_networks(name, strategy):
    model = fold_batch_norms(Model.of(trained_looking(igcnet.get_model(name, **SMALL[name]))))
    model = apply_plan(model, dict.fromkeys(stages_of(model), Strategy.parse(strategy)))
    after = equalised(model)
    assert_same(model, after)
    assert any(not np.array_equal(array, model.arrays[key]) for key, array in after.arrays.items())
