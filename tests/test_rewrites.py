"""The rewritings of graphs: each computes the same, and does what it is for."""

import numpy as np
import pytest
from networks import trained_looking
from small_graphs import chain, conv, images, logits, norm

import igcnet
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.rewrites.groups import join_convolutions, merge_groups, pad_channels
from igcnet.deploy.rewrites.kernels import EMPTY, Kernel
from igcnet.deploy.rewrites.preprocessing import add_preprocessing
from igcnet.deploy.rewrites.regions import find_region, rename_channels
from igcnet.deploy.rewrites.shuffles import absorb_shuffles, shuffle_order
from igcnet.deploy.rewrites.training_parts import remove_training_parts
from igcnet.registry import Preprocessing

# One small network of each family with shuffles.
SMALL = {
    'plain_igc': dict(depth=5, primary_partition=4, secondary_partition=2),
    'resnet_igc': dict(depth=8, primary_partition=3, secondary_partition=2),
    'igcv2': dict(depth=8, channels=16),
    'igcv3': dict(width=0.25, deep=False),
    'shufflenet_1x_g3': dict(block_layers=(1, 1, 1), classes=10),
    'menet108_8x1_g3': dict(block_layers=(1, 1, 1), classes=10),
}


def assert_same(one, other, x=None):
    x = images(one) if x is None else x
    expected = logits(one, x)
    np.testing.assert_allclose(logits(other, x), expected, rtol=0,
                               atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope='module')
def models():
    """Small networks with BN folded, by name, made when they are first asked for."""
    made = {}

    def get(name):
        if name not in made:
            stock = Model.of(trained_looking(igcnet.get_model(name, **SMALL[name])))
            made[name] = stock, fold_batch_norms(remove_training_parts(stock))
        return made[name]
    return get


def test_channel_shuffles_are_single_nodes_of_a_model(models):
    stock, _ = models('plain_igc')
    assert stock.operators()['Reorder'] == 6
    assert 'SwapAxis' not in stock.operators()


@pytest.mark.parametrize('name', SMALL)
def test_batch_norm_is_folded(models, name):
    stock, folded = models(name)
    assert 'BatchNorm' in stock.operators()
    assert not {'BatchNorm', 'Dropout'} & set(folded.operators())
    assert folded.operators().get('Reorder') == stock.operators().get('Reorder')
    assert folded.macs() == stock.macs()
    assert_same(stock, folded)


def test_batch_norm_before_a_non_linearity_stays():
    stock = Model.of(trained_looking(igcnet.get_model(
        'densenet', stages='2-2-2', growth='8-8-8')))
    folded = fold_batch_norms(stock)
    assert 0 < folded.operators()['BatchNorm'] < stock.operators()['BatchNorm']
    assert_same(stock, folded)


@pytest.mark.parametrize('step, folds', [
    (conv(8, 4), True), (conv(8, 4, groups=2), True), (conv(8, 4, 3), True),
    (conv(8, 4, 3, pad=(1, 1)), False)])
def test_batch_norm_before_a_convolution(step, folds):
    """Exact where no padded zeros would have been normalised."""
    model = chain(norm(4), step)
    folded = fold_batch_norms(model)
    assert ('BatchNorm' not in folded.operators()) == folds
    assert_same(model, folded)


def test_batch_norm_with_a_fixed_scale():
    model = chain(conv(8, 4), norm(8, fix_gamma=True))
    assert 'BatchNorm' not in fold_batch_norms(model).operators()
    assert_same(model, fold_batch_norms(model))


def test_batch_norm_behind_a_shuffle():
    model = chain(conv(12, 4), ('Reorder', {'branch_factor': 3}, {}), norm(12))
    folded = fold_batch_norms(model)
    assert set(folded.operators()) == {'Convolution', 'Reorder', 'mean'}
    assert_same(model, folded)


def test_a_convolution_that_others_read_keeps_its_batch_norm():
    editor = Editor(chain(conv(4, 4), norm(4)))
    both = editor.add('elemwise_add', 'sum', {}, [editor.find('Convolution')[0],
                                                  editor.find('BatchNorm')[0]])
    editor.replace(editor.find('BatchNorm')[0], both, but=(both,))
    model = editor.finish()
    assert 'BatchNorm' in fold_batch_norms(model).operators()
    assert_same(model, fold_batch_norms(model))


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('way', ['free', 'duplicate', 'cheapest'])
def test_shuffles_are_absorbed(models, name, way):
    _, folded = models(name)
    absorbed = absorb_shuffles(folded, lambda _: way)
    left = absorbed.operators().get('Reorder', 0)
    assert left < folded.operators()['Reorder'] or (
        way != 'cheapest' and absorbed.form() == folded.form())
    if way == 'cheapest':
        assert left == 0
    if way == 'free':
        assert absorbed.macs() == folded.macs()
    assert_same(folded, absorbed)


def test_duplicating_keeps_the_multiply_adds(models):
    """IGCV3: the wide shuffles go, the narrow ones stay, and no convolution loses groups."""
    _, folded = models('igcv3')
    duplicated = absorb_shuffles(folded, lambda _: 'duplicate')
    assert duplicated.macs() == folded.macs()
    assert duplicated.operators()['Concat'] > 10
    left = [node.name for node in duplicated.graph.nodes
            if node.op == 'Reorder' and not node.name.endswith('-output-shuffle')]
    assert left == ['seq-0-block0-shuffle']  # this block does not expand its input
    assert absorb_shuffles(folded, lambda _: 'cheapest').macs() > folded.macs()


def test_only_the_chosen_shuffles_go(models):
    _, folded = models('plain_igc')
    absorbed = absorb_shuffles(
        folded, lambda name: 'cheapest' if name.startswith('g2') else 'leave')
    assert {node.name[:2] for node in absorbed.graph.nodes if node.op == 'Reorder'} \
        == {'g1', 'g3'}


@pytest.mark.parametrize('channels, groups', [(6, 2), (6, 3), (12, 4), (8, 8), (8, 1)])
def test_shuffle_order_is_the_operators(channels, groups):
    model = chain(('Reorder', {'branch_factor': groups}, {}), channels=channels)
    x = images(model)
    np.testing.assert_allclose(logits(model, x), x.mean((2, 3))[:, shuffle_order(
        channels, groups)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['plain_igc', 'igcv3', 'shufflenet_1x_g3'])
def test_groups_are_merged(models, name):
    _, folded = models(name)
    merged = merge_groups(folded, lambda _: True)
    assert merged.macs() > folded.macs()
    assert merged.operators() == folded.operators()
    assert_same(folded, merged)
    assert merge_groups(folded, lambda _: False).form() == folded.form()


def test_convolutions_are_joined():
    steps = (conv(8, 4, 3, pad=(1, 1)), conv(12, 8, groups=4), norm(12), conv(4, 12))
    model = fold_batch_norms(chain(*steps))
    joined = join_convolutions(model, lambda _: True)
    assert joined.operators()['Convolution'] == 1
    assert_same(model, joined)
    only_last = join_convolutions(model, lambda name: name == 'n1')
    assert only_last.operators()['Convolution'] == 2
    assert_same(model, only_last)


@pytest.mark.parametrize('second', [conv(8, 8, stride=(2, 2)), conv(8, 8, 3),
                                    conv(8, 8, pad=(1, 1))])
def test_other_convolutions_are_not_joined(second):
    model = chain(conv(8, 4), second)
    assert join_convolutions(model, lambda _: True).form() == model.form()


def test_the_units_of_igcv2_become_single_convolutions(models):
    _, folded = models('igcv2')
    absorbed = absorb_shuffles(folded, lambda _: 'cheapest')
    joined = join_convolutions(absorbed, lambda _: True)
    assert joined.operators()['Convolution'] == joined.operators()['Activation']
    assert_same(folded, joined)


@pytest.mark.parametrize('name', ['menet108_8x1_g3', 'shufflenet_1x_g3'])
def test_channels_are_padded(models, name):
    _, folded = models(name)
    dense = merge_groups(absorb_shuffles(folded, lambda _: 'cheapest'), lambda _: True)
    padded = pad_channels(dense, lambda _: True)
    assert padded.macs() > dense.macs()
    widths = [node.attributes['num_filter'] for node in padded.graph.nodes
              if node.op == 'Convolution' and node.name.endswith('depthwise')]
    assert widths and not any(width % 16 for width in widths)
    assert_same(folded, padded)


def test_channels_of_a_region_can_be_renamed():
    """A region with a BN, a channel-wise convolution and a sum of maps."""
    editor = Editor(chain(conv(6, 4), norm(6), conv(6, 6, 3, 6, pad=(1, 1)), conv(5, 6)))
    model = editor.finish()
    region = find_region(editor, editor.find('BatchNorm')[0], editor.consumers())
    assert (len(region.maps), len(region.writers), len(region.readers)) == (3, 1, 1)
    rename_channels(editor, region, [5, 3, EMPTY, 1, 0, 2, 4, EMPTY])
    renamed = editor.finish()
    assert renamed.shapes()['n1'][1] == 8
    assert_same(model, renamed)


def test_a_region_at_the_output_has_no_border():
    editor = Editor(chain(conv(6, 4), norm(6)))
    assert find_region(editor, editor.find('BatchNorm')[0], editor.consumers()) is None


def test_groups_of_a_kernel():
    used = np.kron(np.eye(4, dtype=bool), np.ones((2, 3), bool))
    kernel = Kernel(used[:, :, None, None].astype(np.float32), used, np.zeros(8, np.float32))
    assert kernel.groups() == 4
    assert kernel.outputs([1, 0, 3, 2, 5, 4, 7, 6]).groups() == 4
    assert kernel.outputs([2, 3, 0, 1, 4, 5, 6, 7]).groups() == 2
    assert kernel.outputs([7, 1, 2, 3, 4, 5, 6, 0]).groups() == 1
    assert kernel.outputs([2, 3, 0, 1, 4, 5, 6, 7]).inputs(
        [3, 4, 5, 0, 1, 2, *range(6, 12)]).groups() == 4


@pytest.mark.parametrize('name', ['plain_igc', 'igcv3'])
def test_preprocessing_in_the_graph(models, name):
    _, folded = models(name)
    preprocessing = Preprocessing(32, (120.0, 110.0, 100.0), (60.0, 50.0, 70.0))
    whole = add_preprocessing(folded, preprocessing)
    pixels = np.random.RandomState(0).randint(0, 256, folded.batch_shape(2)).astype(np.float32)
    mean, std = (np.reshape(values, (3, 1, 1))
                 for values in (preprocessing.mean, preprocessing.std))
    expected = logits(folded, ((pixels - mean) / std).astype(np.float32))
    np.testing.assert_allclose(logits(whole, pixels), expected, rtol=0,
                               atol=1e-4 * np.abs(expected).max())


def test_preprocessing_where_the_image_is_read_twice():
    editor = Editor(chain(conv(3, 3), channels=3))
    data = next(i for i, node in enumerate(editor.nodes) if node.name == 'data')
    first = editor.find('Convolution')[0]
    both = editor.add('elemwise_add', 'sum', {}, [first, data])
    editor.replace(first, both, but=(both,))
    model = editor.finish()
    whole = add_preprocessing(model, Preprocessing(6, (1.0, 2.0, 3.0), (2.0, 4.0, 5.0)))
    x = images(model)
    expected = logits(model, (x - np.reshape((1, 2, 3), (3, 1, 1)).astype(np.float32))
                      / np.reshape((2, 4, 5), (3, 1, 1)).astype(np.float32))
    np.testing.assert_allclose(logits(whole, x), expected, rtol=1e-5, atol=1e-5)


def test_an_editor_renames_what_has_a_name_already():
    editor = Editor(chain(conv(4, 4)))
    first = editor.find('Convolution')[0]
    second = editor.add('relu', 'n0', {}, [first])
    editor.replace(first, second, but=(second,))
    assert [node.name for node in editor.finish().graph.nodes if not node.is_variable] \
        == ['n0', 'n0_2', 'logits']
