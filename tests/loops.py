"""Training loops of a small network on fixed batches."""

from contextlib import contextmanager

import mxnet as mx
import numpy as np

import igcnet
from igcnet.train import checkpoint
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.recipes import Recipe
from igcnet.train.runlog import RunLog

RECIPE = Recipe('test', num_epochs=3, batch_size=8, lr=0.05, lr_steps=(2,), lr_factor=0.1)


class FakeReader:
    """Fixed batches, as `TrainReader` gives them."""

    def __init__(self, batches, before_step=None):
        self.batches, self.before_step = batches, before_step
        self.steps_per_epoch = len(batches)

    def epoch(self, number, start_step=0):
        for step in range(start_step, len(self.batches)):
            if self.before_step is not None:
                self.before_step(number, step)
            yield self.batches[step]


@contextmanager
def silent(epoch, first):
    yield lambda text: None


def random_batches(count, size=8, classes=10, seed=0):
    draw = np.random.RandomState(seed)
    return [(draw.normal(size=(size, 3, 32, 32)).astype(np.float32),
             draw.randint(classes, size=size).astype(np.float32)) for _ in range(count)]


def small_net(contexts, seed=1, dtype='float32'):
    mx.random.seed(seed)
    net = igcnet.get_model('resnet_igc', depth=8, primary_partition=4, secondary_partition=2)
    net.cast(dtype)
    net.initialize(ctx=contexts)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def make_loop(folder, batches, recipe=RECIPE, contexts=None, resume=None, before_step=None,
              validation=None, net=None, **settings):
    contexts = contexts or [mx.cpu()]
    net = net or small_net(contexts, dtype=str(batches[0][0].dtype))
    reader = FakeReader(batches, before_step)
    schedule = recipe.make_schedule(len(batches) * recipe.batch_size, len(batches))
    trainer = make_trainer(net, recipe, schedule, 'device')
    state = checkpoint.State(checkpoint.Position(), 5, 'resnet_igc', {}, None, {})
    if resume is not None:
        state = checkpoint.restore(resume, net, contexts, trainer)
    log = RunLog(folder, state.history)
    return Loop(net, contexts, trainer, recipe, reader, validation, state, log, log_iters=2,
                **settings)


def parameters(net):
    return {name: [array.asnumpy() for array in parameter.list_data()]
            for name, parameter in net.collect_params().items()}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        for mine, theirs in zip(first[name], second[name]):
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
