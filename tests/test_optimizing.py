"""The optimised network: strategies, the choice among them, and that it stays the same."""

import json

import mxnet as mx
import numpy as np
import pytest
from networks import trained_looking

import igcnet
from igcnet.deploy import choosing, optimize
from igcnet.deploy.choosing import Choice, cached_choice, choose
from igcnet.deploy.model import Model
from igcnet.deploy.optimizing import _Chain, require_same
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.strategies import CANDIDATES, Strategy, apply_plan, plan_steps, stages_of
from igcnet.deploy.timing import interleaved
from igcnet.errors import CheckpointError, UsageError


@pytest.fixture(scope='module')
def net():
    return trained_looking(igcnet.get_model('plain_igc', depth=5, primary_partition=4,
                                            secondary_partition=2))


@pytest.fixture(scope='module')
def stock(net):
    return Model.of(net)


@pytest.fixture(scope='module')
def folded(stock):
    return fold_batch_norms(stock)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'igcnet' / 'plans.json'


def pretend(monkeypatch, seconds):
    """Let `seconds`, of a model, be the time that it takes; the runners are the models."""
    monkeypatch.setattr(choosing, 'RUNNERS', {'mxnet': lambda model: model})
    monkeypatch.setattr(choosing, 'runners_of', lambda target, int8: ['mxnet'])
    monkeypatch.setattr(choosing, 'compare',
                        lambda one, other, images, rounds=0: seconds(one) / seconds(other))


@pytest.mark.parametrize('strategy', CANDIDATES, ids=Strategy.text)
def test_strategies_have_names(strategy):
    assert Strategy.parse(strategy.text()) == strategy


@pytest.mark.parametrize('text', ['', 'fastest', 'merge', 'pad+merge+cheapest', 'cheapest+merge+',
                                  'cheapest+cheapest', 'cheapest+merge+join'])
def test_unknown_strategies_are_refused(text):
    with pytest.raises(UsageError, match='cheapest'):
        Strategy.parse(text)


def test_stages_are_the_sizes_of_maps(stock):
    assert stages_of(stock) == ['32x32', '16x16', '8x8']


def test_a_plan_works_on_its_stages_alone(folded):
    plan = {'16x16': Strategy.parse('cheapest+merge')}
    changed = apply_plan(folded, plan)
    assert {node.name[:2] for node in changed.graph.nodes if node.op == 'Reorder'} \
        == {'g1', 'g3'}
    groups = {node.name: node.attributes.get('num_group', 1) for node in changed.graph.nodes
              if node.op == 'Convolution'}
    assert groups['g2_b1_conv1'] == 1 and groups['g1_b1_conv1'] == groups['g3_b1_conv1'] == 4


@pytest.mark.parametrize('strategy', ['stock', *(s.text() for s in CANDIDATES)])
def test_the_optimised_network_is_the_same(net, strategy):
    optimized = optimize(net, strategy=strategy)
    x = np.random.RandomState(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    expected = net(mx.nd.array(x)).asnumpy()
    got = optimized.runner()(x)
    require_same(expected, got, strategy)
    if strategy == 'stock':
        assert optimized.steps == [step for step in optimized.steps if not step.changed()]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_every_step_of_a_plan_is_a_step_of_the_explanation(net):
    optimized = optimize(net, strategy='cheapest+join+merge+pad')
    text = optimized.explain()
    for name, _ in plan_steps({}):
        if name not in ('groups merged', 'channels padded'):
            assert name in text
    assert '-6 Reorder' in text and '-4 BatchNorm' in text
    assert 'million multiply-adds' in text and 'cheapest+join+merge+pad' in text


def test_images_of_another_size():
    net = trained_looking(igcnet.get_model('resnet_igc', depth=8, primary_partition=2,
                                           secondary_partition=2))
    optimized = optimize(net, input_size=48, strategy='cheapest')
    x = np.random.RandomState(0).standard_normal((1, 3, 48, 48)).astype(np.float32)
    require_same(net(mx.nd.array(x)).asnumpy(), optimized.runner()(x), '48')


def test_images_that_do_not_fit(net):
    with pytest.raises(UsageError, match='16x16'):
        optimize(net, input_size=16)


def test_an_unknown_target(net):
    with pytest.raises(UsageError, match='onnxruntime'):
        optimize(net, target='tensorrt')


def test_a_rewriting_that_changes_the_outputs_is_refused(stock):
    def wrong(model):
        arrays = {name: array * (1.01 if name == 'fc_score_weight' else 1)
                  for name, array in model.arrays.items()}
        return Model(model.graph, arrays, model.image_shape)
    with pytest.raises(CheckpointError, match='wrong'):
        _Chain(stock).do('wrong', wrong)


def test_logits_that_are_no_numbers_are_refused():
    good = np.ones((1, 3), np.float32)
    with pytest.raises(CheckpointError):
        require_same(good, np.full((1, 3), np.nan, np.float32), 'it')


def test_another_largest_logit_is_refused_unless_the_two_are_equal():
    before = np.array([[1.0, 0.99995, 0.0]])
    require_same(before, np.array([[0.99998, 0.99999, 0.0]]), 'it')
    with pytest.raises(CheckpointError):
        require_same(np.array([[1.0, 0.9, 0.0]]), np.array([[0.9, 1.0, 0.0]]), 'it')


def test_the_choice_is_the_fastest_of_each_stage(stock, folded, monkeypatch):
    """Here shuffles cost time in the first stage, and groups that were lost in the last."""
    def seconds(model):
        names = [node.name[:2] for node in model.graph.nodes if node.op == 'Reorder']
        lost = [node for node in model.graph.nodes if node.op == 'Convolution'
                and node.name.startswith('g3') and node.attributes.get('num_group', 1) == 1]
        return 10 + names.count('g1') + 2 * len(lost) + 0.1 * len(model.graph.nodes)
    pretend(monkeypatch, seconds)
    choice = choose(stock, folded, 'mxnet', 1)
    assert choice.plan['32x32'].shuffles == 'cheapest'
    assert choice.plan['8x8'].shuffles in ('leave', 'free', 'duplicate')
    assert choice.speedup == pytest.approx(
        seconds(stock) / seconds(apply_plan(folded, choice.plan)))


def test_nothing_slower_than_the_stock_form_is_chosen(net, stock, folded, monkeypatch, cache):
    """As when every rewriting is slower: even BN stays."""
    pretend(monkeypatch, lambda model: 1 if 'BatchNorm' in model.operators() else 2)
    assert choose(stock, folded, 'mxnet', 1) == Choice(None, 'mxnet', 1.0)
    optimized = optimize(net)
    assert optimized.model.form() == stock.form()
    assert 'left as they are' in optimized.explain()


def test_forms_with_far_more_work_are_not_timed(stock, folded, monkeypatch):
    timed = []

    def seconds(model):
        timed.append(model.macs() / stock.macs())
        return 1.0
    pretend(monkeypatch, seconds)
    monkeypatch.setattr(choosing, 'MOST_WORK', 1.5)
    choose(stock, folded, 'mxnet', 1)
    assert max(timed) <= 1.5
    monkeypatch.undo()
    timed.clear()
    pretend(monkeypatch, seconds)
    choose(stock, folded, 'mxnet', 1)
    assert max(timed) > 1.5


def test_a_choice_is_remembered(stock, folded, monkeypatch, cache):
    pretend(monkeypatch, lambda model: len(model.graph.nodes))
    first = cached_choice(stock, folded, 'mxnet', 1)
    pretend(monkeypatch, lambda model: 1 / len(model.graph.nodes))
    assert cached_choice(stock, folded, 'mxnet', 1).plan == first.plan
    other_batch = cached_choice(stock, folded, 'mxnet', 8)
    assert other_batch.plan is None
    assert len(json.loads(cache.read_text())) == 2
    assert cached_choice(stock, folded, 'mxnet', 1, fresh=True).plan is None


@pytest.mark.parametrize('content', ['', '[]', '{"%s": 3}', '{"%s": {"plan": {"8x8": "x"}, '
                                     '"runner": "mxnet", "speedup": 2}}'])
def test_a_damaged_memory_is_measured_again(stock, folded, monkeypatch, cache, content):
    pretend(monkeypatch, lambda model: len(model.graph.nodes))
    expected = cached_choice(stock, folded, 'mxnet', 1)
    key, = json.loads(cache.read_text())
    cache.write_text(content.replace('%s', key))
    assert cached_choice(stock, folded, 'mxnet', 1).plan == expected.plan


def test_runners_take_turns():
    calls = []
    times = interleaved({'a': lambda x: calls.append('a'), 'b': lambda x: calls.append('b')},
                        np.zeros(1), rounds=3, seconds=0)
    assert ''.join(calls) == 'abababab'
    assert {name: len(turns) for name, turns in times.items()} == {'a': 3, 'b': 3}
