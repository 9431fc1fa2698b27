"""Nothing lost: whatever ends a run, going on from what it left gives the same bits."""

import os
import random
import re
import signal

import mxnet as mx
import numpy as np
import pytest
from loops import RECIPE, assert_same_bits, make_loop, parameters, random_batches, silent

from igcnet.data.reader import EvalBatch
from igcnet.errors import DivergedError, UsageError
from igcnet.layers import Dense, Dropout, named_sequential
from igcnet.train import checkpoint, run_folder
from igcnet.train.loop import MAX_ROLLBACKS
from igcnet.train.run_folder import find_checkpoint
from igcnet.train.runlog import read_metrics
from igcnet.train.stopping import Interrupted

TWO = RECIPE.override(num_epochs=2)


class Killed(BaseException):
    """Ends a process in a test; nothing may catch it."""


def validation_of(count=10):
    images, labels = random_batches(1, size=count, seed=7)[0]
    return [EvalBatch(images[:6], labels[:6], np.arange(6)),
            EvalBatch(images[6:], labels[6:], np.arange(6, count))]


def momentum(loop):
    return {index: [array.asnumpy()] for index, array in loop.trainer._updaters[0].states.items()}


def assert_same_ends(first, second):
    assert_same_bits(parameters(first.net), parameters(second.net))
    assert_same_bits(momentum(first), momentum(second))
    assert first.log.history == second.log.history != b''
    assert first.state.position == second.state.position


def go_on(folder, batches, recipe=TWO, **settings):
    """What ``--resume`` does with a folder."""
    return make_loop(folder, batches, recipe, resume=find_checkpoint(folder), **settings)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """The folder, loop and batches of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp('straight')
    batches = random_batches(5)
    loop = make_loop(folder, batches, TWO, validation=validation_of())
    loop.save()
    loop.run(silent)
    return folder, loop, batches


@pytest.mark.parametrize('place', [(0, 0), (0, 4), (1, 2)])
@pytest.mark.parametrize('settings, most_lost', [
    ({}, 5), ({'checkpoint_steps': 3}, 2), ({'checkpoint_seconds': 0}, 0)])
def test_a_killed_run_ends_in_the_same_bits(straight, tmp_path, place, settings, most_lost):
    def kill(*now):
        if now == place:
            raise Killed
    killed = make_loop(tmp_path, straight[2], TWO, before_step=kill, validation=validation_of(),
                       **settings)
    killed.save()
    with pytest.raises(Killed):
        killed.run(silent)
    resumed = go_on(tmp_path, straight[2], validation=validation_of(), **settings)
    assert 0 <= 5 * place[0] + place[1] - resumed.state.position.update <= most_lost
    resumed.run(silent)
    assert_same_ends(straight[1], resumed)


def test_every_call_that_writes_can_be_the_last(straight, tmp_path, monkeypatch):
    # A process that is killed while it writes a checkpoint: at each of the calls that make one,
    # the third time that it comes by.
    calls = [(checkpoint, 'write_ndarrays'), (checkpoint, 'write_json'),
             (checkpoint, 'sync_folder'), (checkpoint.os, 'replace'), (run_folder, 'remove')]
    for number, (module, name) in enumerate(calls):
        folder = tmp_path / str(number)
        killed = make_loop(folder, straight[2], TWO, validation=validation_of(), keep=1,
                           checkpoint_steps=2)
        killed.save()
        real, seen = getattr(module, name), []

        def last(*arguments, real=real, seen=seen, **named):
            seen.append(1)
            if len(seen) >= 3:
                raise Killed
            return real(*arguments, **named)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, last)
            with pytest.raises(Killed):
                killed.run(silent)
        resumed = go_on(folder, straight[2], validation=validation_of(), keep=1)
        resumed.run(silent)
        assert_same_ends(straight[1], resumed)


@pytest.mark.parametrize('when', ['step', 'validation'])
def test_a_request_to_stop_is_heeded_within_a_step_or_batch(straight, tmp_path, when):
    def stop(*place):
        if place == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    class Stopping(list):
        def __iter__(self):
            for number, batch in enumerate(list.__iter__(self)):
                yield batch
                assert number == 0, 'the request was not heeded'
                os.kill(os.getpid(), signal.SIGTERM)
    stopped = make_loop(tmp_path, straight[2], TWO, before_step=stop if when == 'step' else None,
                        validation=validation_of() if when == 'step' else
                        Stopping(3 * validation_of()))
    with pytest.raises(Interrupted) as caught:
        stopped.run(silent)
    assert caught.value.args[0].endswith('0001-000002' if when == 'step' else '0000-000005')
    resumed = go_on(tmp_path, straight[2], validation=validation_of())
    resumed.run(silent)
    assert_same_ends(straight[1], resumed)


def test_nothing_depends_on_the_state_of_a_random_generator(tmp_path):
    def dropping_net():
        mx.random.seed(1)
        net = named_sequential(one=Dense('one', 3 * 32 * 32, 8), dropout=Dropout('dropout', 0.5),
                               two=Dense('two', 8, 10))
        net.classes = 10
        net.initialize()
        net.hybridize(static_alloc=True, static_shape=True)
        return net

    def disturb(epoch, step):
        for draw in (random.random, np.random.rand, lambda: mx.nd.random.uniform().asscalar()):
            for _ in range(epoch + step):
                draw()
    recipe = TWO.override(mixup_alpha=0.4)
    runs = [make_loop(tmp_path / name, random_batches(4), recipe, before_step=before,
                      net=dropping_net())
            for name, before in (('quiet', None), ('disturbed', disturb))]
    for loop in runs:
        loop.run(silent)
    assert_same_ends(*runs)
    other = make_loop(tmp_path / 'other', random_batches(4), recipe, net=dropping_net())
    other.state.seed += 1  # the dropout does matter
    other.run(silent)
    assert other.log.history != runs[0].log.history


class Counter:
    """Something beside the network that has a state: it adds up the steps' numbers."""

    def __init__(self):
        self.total = np.zeros(2, np.float32)

    def count(self, epoch, step):
        self.total += epoch + step, 1

    def arrays(self):
        return {'total': self.total.copy()}

    def set_arrays(self, arrays):
        self.total = arrays['total']


def test_whatever_else_has_a_state_is_kept_with_it(tmp_path):
    batches = random_batches(4)
    first = Counter()

    def count_and_die(epoch, step):
        if (epoch, step) == (1, 1):
            raise Killed
        first.count(epoch, step)
    killed = make_loop(tmp_path, batches, TWO, before_step=count_and_die,
                       stateful={'counter': first})
    with pytest.raises(Killed):
        killed.run(silent)
    second = Counter()
    resumed = go_on(tmp_path, batches, before_step=second.count, stateful={'counter': second})
    assert second.total.tolist() == [6, 4]
    resumed.run(silent)
    assert second.total.tolist() == [6 + 10, 8]


def test_the_best_and_the_newest_checkpoints_are_kept(tmp_path):
    batches = random_batches(2)

    def names(keep, accuracies, **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        loop = make_loop(folder, batches, RECIPE.override(num_epochs=len(accuracies)), keep=keep,
                         validation=[], **settings)
        loop.save()
        with pytest.MonkeyPatch.context() as patch:
            results = iter(accuracies)
            patch.setattr('igcnet.train.loop.evaluate', lambda *arguments: Result(next(results)))
            loop.run(silent)
        assert loop.state.best_top1 == max(accuracies)
        return [path.name for path in checkpoint.checkpoints(loop.checkpoint_folder)]
    accuracies = (0.1, 0.5, 0.2, 0.5, 0.3, 0.4)
    assert names(2, accuracies) == ['0004', '0005', '0006']
    assert names(1, accuracies[:4]) == ['0004']
    assert names(0, accuracies[:3]) == ['0000', '0001', '0002', '0003']
    assert names(0, accuracies, checkpoint_epochs=5) == ['0000', '0001', '0002', '0004', '0005',
                                                         '0006']


class Result:
    count = 1

    def __init__(self, accuracy):
        self.accuracy = accuracy

    def means(self):
        return {'loss': 0.0, 'top1': self.accuracy, 'top5': 1.0}


def test_a_rollback_starts_from_the_place_that_the_clock_has_not_decided(tmp_path):
    # A batch of a huge value: the loss is above the limit with the full rate only.
    batches = random_batches(6)

    def run(folder, **settings):
        spoilt = []

        def spoil(epoch, step):
            if (epoch, step) == (1, 4) and not spoilt:
                spoilt.append(1)
                batches[step][0][0, 0, 0, 0] = np.nan
            else:
                batches[step][0][0, 0, 0, 0] = 0.5
        loop = make_loop(folder, batches, TWO, before_step=spoil, on_nan='rollback', **settings)
        loop.save()
        loop.run(silent)
        return loop
    first = run(tmp_path / 'first')
    second = run(tmp_path / 'second', checkpoint_seconds=0, keep=1)
    assert_same_ends(first, second)
    metrics = read_metrics(tmp_path / 'first')
    assert [m['rollbacks'] for m in metrics if m['event'] == 'rollback'] == [1]
    assert [m['lr'] for m in metrics if m['event'] == 'epoch'] == [0.05, 0.025]
    log = (tmp_path / 'first' / 'log.txt').read_text()
    assert re.search(r'epoch 1, step 4 .*; rolled back to ".*0001", learning rate times 0.5', log)
    # The rate stays halved when the run is resumed.
    assert make_loop(tmp_path / 'first', batches, TWO, resume=find_checkpoint(tmp_path / 'first')
                     ).trainer.learning_rate == 0.025
    by_steps = run(tmp_path / 'steps', checkpoint_steps=2)
    assert 'rolled back to "%s' % (tmp_path / 'steps' / 'checkpoints' / '0001-000004') in (
        tmp_path / 'steps' / 'log.txt').read_text()
    assert by_steps.log.history != first.log.history


def test_a_rate_that_is_far_too_high(tmp_path):
    # It really diverges, with each of the halved rates too; the good checkpoint stays.
    recipe = TWO.override(lr=1e4)
    loop = make_loop(tmp_path, random_batches(30), recipe, on_nan='rollback', loss_limit=100.0)
    loop.save()
    before = parameters(loop.net)
    with pytest.raises(DivergedError, match='rolled back %d times already' % MAX_ROLLBACKS):
        loop.run(silent)
    rates = re.findall('learning rate times ([0-9.]+)', (tmp_path / 'log.txt').read_text())
    assert rates == ['0.5', '0.25', '0.125', '0.0625', '0.03125']
    kept = checkpoint.checkpoints(loop.checkpoint_folder)
    assert [path.name for path in kept] == ['0000']
    assert_same_bits(before, parameters(make_loop(tmp_path, random_batches(1), recipe,
                                                  resume=kept[0]).net))


def test_a_rate_that_is_twice_too_high_is_cured(tmp_path):
    recipe = TWO.override(lr=5.0)
    stopped = make_loop(tmp_path / 'stop', random_batches(8), recipe, loss_limit=20.0)
    with pytest.raises(DivergedError, match='above the limit of 20, at epoch 0, step'):
        stopped.run(silent)
    cured = make_loop(tmp_path / 'back', random_batches(8), recipe, loss_limit=20.0,
                      on_nan='rollback')
    cured.save()
    cured.run(silent)
    assert cured.state.position.epoch == 2 and 1 <= cured.state.rollbacks <= MAX_ROLLBACKS


def test_two_ways_to_meet_divergence(tmp_path):
    with pytest.raises(UsageError, match='on_nan=ignore: must be one of stop, rollback'):
        make_loop(tmp_path, random_batches(1), on_nan='ignore')


def test_there_is_nothing_to_roll_back_to(tmp_path):
    loop = make_loop(tmp_path, random_batches(3), TWO.override(lr=1e30), on_nan='rollback')
    with pytest.raises(DivergedError, match='nothing to roll back to'):
        loop.run(silent)
