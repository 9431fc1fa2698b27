"""The trainer's loop beside a bare Gluon loop, in one interleaved run.

    python benchmarks/trainer_overhead.py [--network NAME] [--batch-size N] [--rounds N]

Both train the same network on the same reader's batches with the same optimiser, and take turns:
some steps of one, some of the other. The bare loop is what one writes by hand: forward, loss,
backward, ``trainer.step``, and reading the loss of the step before. The trainer's loop also checks
every gradient, scores every image, seeds every step and writes its logs. The medians of the times
per step are compared, and those of the processor time, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

REPO = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(REPO), str(REPO / 'tests')]

from synthetic import noise, write_records

import igcnet
from igcnet.data.augment import find_augmentation
from igcnet.data.datasets import find_dataset
from igcnet.data.reader import TrainReader
from igcnet.train import checkpoint
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.optimizer import make_optimizer
from igcnet.train.recipes import load_recipe
from igcnet.train.runlog import RunLog

GOAL = 1.03


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--network', default='resnet_igc_d20l24m2', metavar='NAME')
    parser.add_argument('--batch-size', type=int, default=64, metavar='N')
    parser.add_argument('--steps', type=int, default=5, metavar='N',
                        help='of one loop before it is the turn of the other')
    parser.add_argument('--rounds', type=int, default=8, metavar='N')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reader = make_reader(Path(folder), args.batch_size, args.steps)
        times = measure(args, reader, Path(folder))
    bare, ours = (np.median(times[name], axis=0) for name in ('bare', 'trainer'))
    for name, (wall, processor) in (('bare loop', bare), ('trainer', ours)):
        print('%-10s %8.1f ms a step, %8.1f ms of processor time' % (name, 1e3 * wall,
                                                                     1e3 * processor))
    print('ratio      %8.3f             %8.3f      (at most %.2f)'
          % (*(ours / bare), GOAL))


def make_reader(folder: Path, batch_size: int, steps: int) -> TrainReader:
    """A reader of so many steps of random 32x32 images, augmented as CIFAR-10."""
    count = batch_size * steps
    path = write_records(folder / 'train', noise(count), np.arange(count) % 10.0)
    facts = find_dataset('cifar10')
    return TrainReader(path, batch_size,
                       find_augmentation(facts.augmentation(1), facts.data_shape, facts.fill), 1,
                       mean=facts.mean, std=facts.std)


class Timed:
    """A reader whose steps are timed from batch to batch, the first of each epoch left out."""

    def __init__(self, reader: TrainReader, times: list):
        self.reader, self.times = reader, times
        self.steps_per_epoch = reader.steps_per_epoch

    def epoch(self, number: int, start_step: int = 0):
        last = None
        for batch in self.reader.epoch(number, start_step):
            now = np.array([time.perf_counter(), time.process_time()])
            if last is not None and number > 0:
                self.times.append(now - last)
            last = now
            yield batch


def new_net(network):
    mx.random.seed(1)
    net = igcnet.get_model(network, classes=10)
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def measure(args, reader, folder: Path):
    """(wall, processor) seconds of each step of both loops."""
    times = {'bare': [], 'trainer': []}
    recipe = load_recipe('igc-cifar').override(num_epochs=args.rounds, batch_size=args.batch_size)
    bare = bare_loop(new_net(args.network), recipe, Timed(reader, times['bare']))
    next(bare)

    net = new_net(args.network)
    schedule = recipe.make_schedule(args.batch_size * args.steps, args.steps)
    trainer = make_trainer(net, recipe, schedule, 'device')
    state = checkpoint.State(checkpoint.Position(), 1, args.network, {}, None, {})
    log = RunLog(folder / 'run')
    log.write_console = lambda text: None
    loop = Loop(net, [mx.cpu()], trainer, recipe, Timed(reader, times['trainer']), None, state, log,
                on_epoch=lambda state: next(bare), checkpoint_epochs=args.rounds)
    with contextlib.closing(log):
        loop.run(no_progress)
    return times


def bare_loop(net, recipe, reader):
    """Trains an epoch whenever the next value is asked for."""
    trainer = gluon.Trainer(net.collect_params(), make_optimizer(recipe, None))
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    loss_of.hybridize()
    for epoch in range(recipe.num_epochs + 1):
        yield
        before = None
        for images, labels in reader.epoch(epoch):
            data, label = mx.nd.array(images), mx.nd.array(labels)
            with autograd.record():
                loss = loss_of(net(data), label)
            loss.backward()
            trainer.step(len(labels))
            if before is not None:
                before.mean().asscalar()
            before = loss
        mx.nd.waitall()


@contextlib.contextmanager
def no_progress(epoch, first):
    yield lambda text: None


if __name__ == '__main__':
    main()
