"""Checkpoints: what they hold, and what is noticed when one is damaged."""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from small_networks import assert_same_values, refused

from igcnet.errors import DivergedError
from igcnet.train import checkpoint
from igcnet.train.checkpoint import ARRAYS, HISTORY, STATE, WEIGHTS, Position, State
from igcnet.train.optimizer import Nesterov

# None, one and two arrays of state for each parameter.
RULES = {'sgd': lambda: mx.optimizer.SGD(learning_rate=0.1),
         'nesterov': lambda: Nesterov(learning_rate=0.1),
         'adam': lambda: mx.optimizer.Adam(learning_rate=0.01)}


class Trained:
    """A network of three layers, with its trainer."""

    def __init__(self, rule='nesterov', seed=1):
        mx.random.seed(seed)
        self.net = gluon.nn.HybridSequential(prefix='')
        with self.net.name_scope():
            self.net.add(gluon.nn.Dense(4, in_units=3, prefix='first_'),
                         gluon.nn.BatchNorm(in_channels=4, prefix='bn_'),
                         gluon.nn.Dense(2, in_units=4, prefix='last_'))
        self.net.initialize()
        learned = [p for p in self.net.collect_params().values() if p.grad_req != 'null']
        self.trainer = gluon.Trainer(learned, RULES[rule](), update_on_kvstore=False)

    def steps(self, first, last):
        for step in range(first, last):
            draw = np.random.RandomState(step)
            with autograd.record():
                loss = (self.net(mx.nd.array(draw.normal(size=(5, 3)))) ** 2).sum()
            loss.backward()
            self.trainer.step(5)
        return self

    def save(self, folder, state=None):
        return checkpoint.save(folder, self.net, self.trainer, state or make_state())

    def restore(self, path):
        return checkpoint.restore(path, self.net, [mx.cpu()], self.trainer)


def make_state(**values):
    return State(Position(1, 2, 3), 5, 'resnet_igc', {'depth': 8}, ['a', 'ü'], {'mean': [0.1]},
                 **values)


@pytest.mark.parametrize('rule', RULES)
def test_going_on_from_a_checkpoint_equals_going_on(tmp_path, rule):
    run = Trained(rule).steps(0, 3)
    path = run.save(tmp_path)
    other = Trained(rule, seed=2).steps(0, 7)  # whose momentum and counts must leave no trace
    assert other.restore(path).position == Position(1, 2, 3)
    assert_same_values(other.net, run.net)
    assert_same_values(run.steps(3, 6).net, other.steps(3, 6).net)
    # And back again, in the same process.
    other.restore(path)
    assert_same_values(run.net, other.steps(3, 6).net)


def test_a_checkpoint_before_the_first_update_has_no_momentum(tmp_path):
    run = Trained()
    path = run.save(tmp_path)
    other = Trained().steps(0, 2)
    other.restore(path)
    assert_same_values(run.steps(0, 2).net, other.steps(0, 2).net)


def test_the_state_comes_back_as_it_was(tmp_path):
    state = make_state(
        scores=[8, 0.1 + 0.2, 3, 5], window=[2, 1 / 3, 1, 2], best_epoch=1, best_top1=2 / 3,
        rollbacks=2, environment={'threads': '1'}, history=b'{"a": 1}\n',
        extra={'ema:weight': np.float32([[1, 2]]), 'method:count': np.int64([7])})
    path = Trained().steps(0, 1).save(tmp_path, state)
    assert path.name == '0001-000002' and checkpoint.step_of(path) == 2
    found = Trained().restore(path)
    for name in state.extra:
        np.testing.assert_array_equal(found.extra.pop(name), state.extra[name])
    state.extra = {}
    assert found == state
    assert checkpoint.read_state(path).scores == state.scores


def test_another_optimiser_or_network_is_refused(tmp_path):
    path = Trained('adam').steps(0, 1).save(tmp_path)
    refused(lambda: Trained('nesterov').restore(path), ARRAYS, 'has 2 arrays', 'needs 1')


@pytest.mark.parametrize('name', [WEIGHTS, ARRAYS, HISTORY, STATE])
@pytest.mark.parametrize('damage', [
    lambda content: content[:-3], lambda content: content + b'\0', lambda content: b'',
    lambda content: content[:30] + bytes([content[30] ^ 4]) + content[31:]])
def test_every_damaged_file_is_noticed_and_named(tmp_path, name, damage):
    path = Trained().steps(0, 1).save(tmp_path, make_state(history=b'{"event": "epoch"}\n' * 3))
    checkpoint.verify(path)
    (path / name).write_bytes(damage((path / name).read_bytes()))
    refused(lambda: checkpoint.verify(path), str(path / name))
    (path / name).unlink()
    refused(lambda: checkpoint.verify(path), str(path / name))


def test_the_checksums_are_of_exactly_the_files_of_a_checkpoint(tmp_path):
    path = Trained().save(tmp_path)
    content = json.loads((path / STATE).read_text())
    del content['own_sha256']
    for sums in ({}, {**content['sha256'], '../other': 'x'}):
        changed = {**content, 'sha256': sums}
        changed['own_sha256'] = checkpoint._digest(changed)
        (path / STATE).write_text(json.dumps(changed))
        refused(lambda: checkpoint.verify(path), STATE, 'missing')


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = Trained()
    run.net[0].weight.data()[1, 2] = np.inf
    with pytest.raises(DivergedError, match='first_weight'):
        run.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_replaces_that_of_the_same_place(tmp_path):
    run = Trained().steps(0, 1)
    run.save(tmp_path)
    path = run.steps(1, 2).save(tmp_path)
    other = Trained()
    other.restore(path)
    assert_same_values(run.net, other.net)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
