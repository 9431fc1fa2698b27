"""The compiler: programs compute what the graphs do, and have no steps for what costs nothing."""

import numpy as np
import program_numpy
import pytest
from networks import trained_looking
from small_graphs import chain, conv, images, logits, norm

import igcnet
from igcnet.convert.symbol_json import Graph, Node
from igcnet.deploy.compiling import compile_model
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.program import (
    NOTHING,
    SIGMOID,
    Convolution,
    Dense,
    Enter,
    Largest,
    Mean,
    Split,
)
from igcnet.deploy.program_checks import check
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.rewrites.preprocessing import add_preprocessing
from igcnet.deploy.rewrites.training_parts import remove_training_parts
from igcnet.deploy.strategies import Strategy, apply_plan, stages_of
from igcnet.errors import UsageError
from igcnet.registry import Preprocessing

RELU = ('Activation', {'act_type': 'relu'}, {})
SIX = ('clip', {'a_min': 0.0, 'a_max': 6.0}, {})
# Networks of each family: settings and input size.
SMALL = {
    'plain_igc': (dict(depth=5, primary_partition=4, secondary_partition=2), 32),
    'resnet_igc': (dict(depth=8, primary_partition=3, secondary_partition=2), 35),
    'resnet': (dict(depth=8), 32),
    'igcv2': (dict(depth=8, channels=16), 32),
    'igcv3': (dict(width=0.25, deep=False), 32),
    'mobilenet': (dict(width_mul=0.25), 224),
    'shufflenet_1x_g3': (dict(block_layers=(1, 1, 1), classes=10), 224),
    'menet108_8x1_g3': (dict(block_layers=(1, 1, 1), classes=10), 224),
    'densenet': (dict(stages='2-2-2', growth='8-8-8'), 32),
    'dydensenet': (dict(stages='2-2-2', growth='8-8-8', selection='static'), 32),
}


@pytest.fixture(scope='module')
def models():
    """Small networks with BN folded, by name, made when they are first asked for."""
    made = {}

    def get(name):
        if name not in made:
            settings, size = SMALL[name]
            stock = Model.of(trained_looking(igcnet.get_model(name, **settings)), size)
            made[name] = fold_batch_norms(remove_training_parts(stock))
        return made[name]
    return get


def assert_computes(model, x=None, expected=None):
    """The program of a model is one, and gives the model's logits; returns it."""
    x = images(model, 1) if x is None else x
    program = compile_model(model)
    check(program)
    expected = logits(model, x) if expected is None else expected
    np.testing.assert_allclose(program_numpy.run(program, x), expected, rtol=0,
                               atol=1e-5 * np.abs(expected).max())
    return program


def count(program, *kinds):
    return sum(isinstance(step, kinds) for step in program.steps)


@pytest.mark.parametrize('name', SMALL)
def test_networks(models, name):
    program = assert_computes(models(name))
    operators = models(name).operators()
    if program.sizes[0].height < 50:  # no map is so large that it is computed in parts
        # Shuffles, concatenations, activations and sums are no steps of their own.
        assert count(program, Convolution) <= operators['Convolution'] + operators['Pooling'] + \
            operators.get('BatchNorm', 0)
    assert isinstance(program.steps[0], Enter) and isinstance(program.steps[-1], Dense)


@pytest.mark.parametrize('name, strategy', [
    *((name, strategy) for name in ('plain_igc', 'igcv2', 'menet108_8x1_g3') for strategy in (
        'free+merge', 'cheapest+merge+pad', 'leave+join1x1')), ('igcv3', 'duplicate')])
def test_rewritten_networks(models, name, strategy):
    model = models(name)
    plan = dict.fromkeys(stages_of(model), Strategy.parse(strategy))
    assert_computes(apply_plan(model, plan), expected=logits(model, images(model, 1)))


def test_networks_with_batch_norms_and_training_parts():
    net = trained_looking(igcnet.get_model('densenet', stages='1-1-1', growth='8-8-8'))
    assert_computes(Model.of(net))


def test_a_network_of_several_widths():
    net = igcnet.get_model('mobilenet_v1_us', classes=10)
    net.initialize()
    model = Model.of(net.cut(0.25), 32)
    assert_computes(model)


@pytest.mark.parametrize('steps', [
    [conv(4, 4, 3, pad=(1, 1))], [conv(4, 4, 7, pad=(3, 3))], [conv(4, 4, 2)],
    [conv(4, 4, 3)], [conv(4, 4, 3, pad=(2, 2))], [conv(4, 4, 3, stride=(2, 2))],
    [conv(4, 4, 3, pad=(1, 1), stride=(2, 2))], [conv(4, 4, stride=(2, 2))],
    [conv(4, 4, 5, pad=(2, 2), stride=(3, 3))], [conv(4, 4, 2, stride=(4, 4))],
    [conv(4, 4, 3, pad=(2, 2), dilate=(2, 2))], [conv(4, 4, 3, 4, pad=(1, 1), dilate=(1, 1))],
    [conv(6, 4, 3, 2, pad=(1, 1))], [conv(8, 4, 3, 4, pad=(1, 1), stride=(2, 2))],
    [conv(4, 4, 3, pad=(1, 1), stride=(2, 2))] * 3, [conv(4, 4, 3, pad=(1, 1)), RELU] * 2,
    [conv(4, 4, 3, stride=(2, 2)), conv(4, 4, 3, stride=(2, 2))],
    [conv(16, 4), SIX, conv(16, 16, 3, 16, pad=(1, 1), stride=(2, 2)), conv(4, 16)],
    [norm(4), RELU, conv(8, 4, 3, pad=(1, 1)), norm(8), RELU],
    [conv(8, 4), ('Reorder', {'branch_factor': 4}, {}), conv(8, 8, groups=2)],
    [('slice_axis', {'axis': 1, 'begin': 1, 'end': 3}, {}), conv(4, 2, 3)],
    [('hard_sigmoid', {'alpha': 0.2, 'beta': 0.5}, {}), conv(4, 4)],
    [('_rminus_scalar', {'scalar': 2.0}, {}), ('sigmoid', {}, {})]], ids=str)
@pytest.mark.parametrize('size', [9, 12])
def test_windows_and_operators(steps, size):
    assert_computes(chain(*steps, size=size))


@pytest.mark.parametrize('kind', ['max', 'avg'])
@pytest.mark.parametrize('kernel, stride, pad, convention', [
    (2, 2, 0, 'valid'), (3, 2, 1, 'valid'), (3, 1, 1, 'valid'), (3, 3, 0, 'valid'),
    (2, 3, 1, 'valid'), (3, 2, 0, 'full')])
@pytest.mark.parametrize('size', [9, 12])
def test_pooling(kind, kernel, stride, pad, convention, size):
    step = ('Pooling', dict(kernel=(kernel,) * 2, stride=(stride,) * 2, pad=(pad,) * 2,
                            pool_type=kind, pooling_convention=convention), {})
    model = chain(RELU, step, conv(4, 4), size=size)
    if (kind, convention, size) == ('avg', 'full', 12):
        with pytest.raises(UsageError, match='n1 .Pooling.: no native form'):
            compile_model(model)
    else:
        assert_computes(model)


def test_the_largest_of_pixels_that_may_be_negative():
    """Without padding, zeros beside the map cannot win."""
    def pooled(pad):
        return chain(conv(4, 4), ('Pooling', dict(
            kernel=(2, 2), stride=(2, 2), pad=(pad, pad), pool_type='max'), {}))
    assert count(assert_computes(pooled(0)), Largest) == 1
    with pytest.raises(UsageError, match='n1 .Pooling.*below 0'):
        compile_model(pooled(1))


@pytest.mark.parametrize('kernel, pad', [(6, 0), (5, 0), (8, 1), (7, 1)])
def test_a_last_window_is_a_mean(kernel, pad):
    model = chain(conv(4, 4), ('Pooling', dict(
        kernel=(kernel, kernel), stride=(7, 7), pad=(pad, pad), pool_type='avg'), {}),
        ('Flatten', {}, {}), ('FullyConnected', {'num_hidden': 5},
                              {'weight': (5, 4), 'bias': (5,)}), mean=False)
    program = assert_computes(model)
    assert (count(program, Mean), count(program, Convolution)) == (1, 1)


def test_layers_behind_the_mean():
    """Activations, BN, shuffles and 1x1 convolutions of the vector."""
    everywhere = ('Pooling', dict(global_pool=True, kernel=(1, 1), pool_type='avg'), {})
    dense = ('FullyConnected', {'num_hidden': 6}, {'weight': (6, 8), 'bias': (6,)})
    model = chain(conv(4, 4), everywhere, norm(4), conv(8, 4), RELU,
                  ('Reorder', {'branch_factor': 2}, {}), ('Flatten', {}, {}), dense, RELU,
                  mean=False)
    program = assert_computes(model)
    assert count(program, Dense) == 2 and program.steps[-1].low == 0


def branches(*, gate):
    """relu(conv(conv(x)) + x) or, with a gate, conv(x) x sigmoid(conv(conv(x)))."""
    editor = Editor(chain(conv(4, 4, 3, pad=(1, 1)), conv(4, 4, 3, pad=(1, 1)),
                          conv(4, 4, 3, pad=(1, 1))))
    x, _, last = editor.find('Convolution')
    behind = editor.find('mean')[0]
    if gate:
        last = editor.add('Activation', 'gate', {'act_type': 'sigmoid'}, [last])
        last = editor.add('elemwise_mul', 'product', {}, [x, last])
    else:
        last = editor.add('elemwise_add', 'sum', {}, [last, x])
        last = editor.add('Activation', 'relu', {'act_type': 'relu'}, [last])
    editor.change(behind, editor.nodes[behind].attributes, [last])
    return editor.finish()


def test_a_sum_is_added_by_the_convolution_that_writes_it_last():
    program = assert_computes(branches(gate=False))
    *_, last = [step for step in program.steps if isinstance(step, Convolution)]
    assert count(program, Convolution) == 3 and last.low == 0
    # The other summand stands where the sum is written.
    np.testing.assert_array_equal(last.groups[0].adds, last.groups[0].outs)


def test_a_gate_is_multiplied_by_the_convolution_that_makes_it():
    program = assert_computes(branches(gate=True))
    *_, last = [step for step in program.steps if isinstance(step, Convolution)]
    assert count(program, Convolution) == 3 and last.activation == SIGMOID
    assert (last.groups[0].factors != NOTHING).all()


def test_planes_that_others_read_too_stay():
    """A ReLU is not computed with a convolution whose sums are also read without it."""
    editor = Editor(chain(conv(4, 4), RELU))
    both = editor.add('elemwise_add', 'sum', {}, [editor.find('Convolution')[0],
                                                  editor.find('Activation')[0]])
    editor.replace(editor.find('Activation')[0], both, but=(both,))
    assert count(assert_computes(editor.finish()), Convolution) == 3


def test_a_stride_splits_the_narrow_map(models):
    """Before a strided channel-wise convolution IGCV3 expands its input six times."""
    program = compile_model(models('igcv3'))
    for step, behind in zip(program.steps, program.steps[1:]):
        if isinstance(step, Split):
            assert 3 * len(step.table) <= 2 * sum(len(group.outs) for group in behind.groups)
    assert count(program, Split) == len(program.sizes) - 1 == 3


def test_strides_in_a_row_are_one_view_of_the_image(models):
    """The pooling behind the first convolution of ShuffleNet: 224 pixels become 56 at once."""
    program = compile_model(models('shufflenet_1x_g3'))
    assert program.steps[0].stride == 4
    assert [size.height for size in program.sizes] == [56, 28, 14, 7]


def test_weights_that_are_zero_cost_nothing():
    """A convolution whose groups were merged gets its groups back."""
    model = chain(conv(8, 8, groups=1), channels=8)
    weight = model.arrays['n0_weight']
    weight[:] *= np.kron(np.eye(4), np.ones((2, 2)))[:, :, None, None]
    groups = compile_model(model).steps[1].groups
    assert [group.weight.shape for group in groups] == [(2, 2)] * 4
    assert_computes(model)


def test_groups_that_read_the_same_are_one():
    model = chain(('Concat', {'num_args': 2, 'dim': 1}, {}), conv(8, 8, 3, 2, pad=(1, 1)))
    model.graph.nodes[1] = Node('Concat', 'n0', {'num_args': 2, 'dim': 1}, ((0, 0), (0, 0)))
    group, = assert_computes(model).steps[1].groups
    assert group.weight.shape == (8, 36)


def test_what_nobody_reads_is_left_out():
    model = chain(conv(8, 4), ('slice_axis', {'axis': 1, 'begin': 2, 'end': 5}, {}), RELU)
    group, = assert_computes(model).steps[1].groups
    assert group.weight.shape == (3, 4)


def test_slots_are_used_again(models):
    """A chain of convolutions needs the planes of two maps."""
    model = chain(*[conv(4, 4, 3, pad=(1, 1)), RELU] * 6)
    assert [size.slots for size in compile_model(model).sizes] == [8]
    sizes = compile_model(models('resnet')).sizes
    assert max(size.slots * size.height * size.width for size in sizes) <= 32 * 32 * 32


def test_gaps_are_the_largest_offsets():
    sizes = compile_model(chain(conv(4, 4, 5, pad=(2, 2)), conv(4, 4, 3, stride=(2, 2)),
                                conv(4, 4), size=9)).sizes
    assert [(size.height, size.gap) for size in sizes] == [(9, 2), (4, 0)]


@pytest.mark.parametrize('size', [32, 35])
def test_preprocessing_in_the_graph(size):
    """Padding is zero behind the subtraction of the mean, also where a stride reads it."""
    model = chain(conv(6, 3, 3, pad=(1, 1), stride=(2, 2)), RELU, conv(
        6, 6, 3, pad=(1, 1), stride=(2, 2)), channels=3, size=size)
    model = add_preprocessing(model, Preprocessing(
        size, (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)))
    assert_computes(model, np.random.RandomState(0).randint(
        0, 256, model.batch_shape()).astype(np.float32))


@pytest.mark.parametrize('steps, word', [
    ([('tanh', {}, {})], 'n0 .tanh.: no native form$'),
    ([conv(4, 4, 3, stride=(1, 2))], 'two strides'),
    ([('LeakyReLU', {}, {})], 'n0 .LeakyReLU.'),
    ([('Pooling', dict(kernel=(3, 3), pad=(1, 1), pool_type='avg', count_include_pad=False), {})],
     'same number'),
    ([('Pooling', dict(kernel=(1, 1), global_pool=True, pool_type='max'), {})], 'means'),
    ([('softmax', {'axis': 1}, {})], 'softmax'),
    ([('Reshape', {'shape': (0, 2, 2, -1)}, {})], 'shape')])
def test_what_has_no_form_is_named(steps, word):
    with pytest.raises(UsageError, match=word) as caught:
        compile_model(chain(*steps))
    assert '\n' not in str(caught.value)


def test_dynamic_gates_have_no_form():
    net = trained_looking(igcnet.get_model('dydensenet', stages='2-2-2', growth='8-8-8'))
    with pytest.raises(UsageError, match='no native form'):
        compile_model(Model.of(net))


def test_a_map_as_output_has_no_form():
    model = chain(conv(4, 4))
    graph = Graph(model.graph.nodes, [(len(model.graph.nodes) - 2, 0)])
    with pytest.raises(UsageError, match='no vector of logits'):
        compile_model(Model(graph, model.arrays, model.image_shape))


def parts_model(channels=96, size=56):
    return chain(conv(channels, 4), SIX, conv(channels, channels, 3, channels, pad=(1, 1)),
                 conv(4, channels), size=size)


def test_wide_maps_are_written_and_read_part_by_part():
    """The planes of one part are written over by the next."""
    program = assert_computes(parts_model())
    wide, narrow = ([sum(len(group.outs) for group in step.groups) for step in program.steps
                     if isinstance(step, Convolution) and len(step.groups[0].sources) == taps]
                    for taps in (4, 9))
    assert sum(wide) == sum(narrow) == 96 and len(wide) == len(narrow) > 2
    # Twice the planes of a part, and those that are read behind.
    assert program.sizes[0].slots <= 4 + max(wide) + 96
    whole = assert_computes(parts_model(size=8))
    assert count(whole, Convolution) == 3


def test_maps_that_others_read_too_are_not_split():
    editor = Editor(parts_model())
    wide, narrow = editor.find('clip')[0], editor.find('Convolution')[1]
    other = editor.add('_plus_scalar', 'other', {'scalar': 1.0}, [wide])
    both = editor.add('elemwise_add', 'sum', {}, [narrow, other])
    editor.replace(narrow, both, but=(both,))
    wide = [step for step in compile_model(editor.finish()).steps if isinstance(step, Convolution)
            and step.groups[0].weight.shape[1] == 4]
    assert [step.groups[0].weight.shape for step in wide] == [(96, 4)]


def test_a_part_that_reads_more_than_it_writes_is_not_worth_it():
    model = chain(conv(96, 96), conv(96, 96, 3, 96, pad=(1, 1)), channels=96, size=56)
    assert count(compile_model(model), Convolution) == 2
