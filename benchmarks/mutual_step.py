"""A step of mutual learning beside four plain steps of the same widths and resolutions.

    python benchmarks/mutual_step.py [--network NAME] [--batch-size N] [--draws N] [--rounds N]

The rival of a step that runs four sub-networks are four ordinary networks of these widths, each
with a forward pass, cross-entropy, a backward pass and an update of its own on images of that
resolution. Both take turns in one process; the medians over the rounds are compared, for each
draw of widths and resolutions and in the sum: of the time, and of the processor time of all
threads, which other work on the machine hardly changes. Both are warm: what is traced when a
sub-network is first drawn is printed apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPO)

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

import igcnet
from igcnet.layers.resolution import at_resolution
from igcnet.train.loop import make_trainer
from igcnet.train.methods import Place, find_method
from igcnet.train.mutual import SubNetwork
from igcnet.train.recipes import load_recipe

STATIC = dict(static_alloc=True, static_shape=True)
GOAL = 1.15
WARM_UP = 2


class PlainStep:
    """An ordinary network of one width and its training step at one resolution."""

    def __init__(self, blank, part: SubNetwork, recipe, images, labels):
        self.net = blank.cut(part.width)
        self.net.initialize()
        self.net.hybridize(**STATIC)
        self.trainer = make_trainer(self.net, recipe, None, 'device')
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss()
        self.loss.hybridize()
        self.images, self.labels = at_resolution(images, part.resolution), labels

    def __call__(self):
        with autograd.record():
            loss = self.loss(self.net(self.images), self.labels)
        loss.backward()
        self.trainer.step(len(self.labels))


def seconds(*calls) -> np.ndarray:
    """Time and processor time of some calls, each waited for."""
    mx.nd.waitall()
    begin = np.array([time.perf_counter(), time.process_time()])
    for call in calls:
        call()
        mx.nd.waitall()
    return [time.perf_counter(), time.process_time()] - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--network', default='wideresnet28_10_us_cifar10', metavar='NAME')
    parser.add_argument('--set', action='append', default=[], metavar='SETTING=NUMBER',
                        help='a setting of the network, such as depth=10')
    parser.add_argument('--widths', type=float, nargs=2, metavar=('LOW', 'HIGH'),
                        help="range of the network (default: the configuration's)")
    parser.add_argument('--recipe', default='mutualnet-cifar', metavar='NAME')
    parser.add_argument('--batch-size', type=int, default=64, metavar='N')
    parser.add_argument('--draws', type=int, default=3, metavar='N',
                        help='different steps that are compared')
    parser.add_argument('--rounds', type=int, default=5, metavar='N')
    args = parser.parse_args()

    settings = {key: int(value) for key, value in (word.split('=') for word in args.set)}
    if args.widths:
        settings.update(width_mult_range=args.widths, width_mult_list=args.widths)
    recipe = load_recipe(args.recipe).override(batch_size=args.batch_size)
    net, blank = (igcnet.get_model(args.network, **settings) for _ in range(2))
    net.initialize()
    net.hybridize(**STATIC)
    trainer = make_trainer(net, recipe, None, 'device')
    method = find_method('mutual')(net, recipe, 1, args.draws)
    size = net.input_size
    images = np.random.RandomState(0).normal(
        size=(args.batch_size, 3, size, size)).astype(np.float32)
    labels = (np.arange(args.batch_size) % net.classes).astype(np.float32)
    context = [mx.cpu()]

    def mutual_step(step):
        method.gradients(Place(0, step), images, labels, context)
        trainer.step(args.batch_size)

    print('%s, batch %d, widths %g to %g' % (args.network, args.batch_size, *net.width_range))
    steps = {}
    for step in range(args.draws):
        parts = [SubNetwork(net.width_range[1], size), *method.draw(Place(0, step))]
        first, _ = seconds(lambda step=step: mutual_step(step))
        plain = [PlainStep(blank, part, recipe, *(mx.nd.array(a) for a in (images, labels)))
                 for part in parts]
        steps[step] = parts, plain, first
    made = net.graphs.made
    found = {step: [] for step in steps}
    for number in range(WARM_UP + args.rounds):
        for step, (_, plain, _) in steps.items():
            pair = seconds(lambda step=step: mutual_step(step)), seconds(*plain)
            if number >= WARM_UP:
                found[step].append(pair)
    # For each step: mutual and plain, by time and processor time.
    medians = {step: np.median(pairs, axis=0) for step, pairs in found.items()}
    for step, (parts, _, first) in steps.items():
        (mine, _), (theirs, _) = medians[step]
        print('%s: mutual %.1f ms, four plain steps %.1f ms, %s (with tracing %.0f ms)'
              % (' '.join('%.3f@%d' % part for part in parts), 1e3 * mine, 1e3 * theirs,
                 ratios(medians[step]), 1e3 * first))
    print('sum: %s (goal at most %.2f); graphs traced in the rounds: %d'
          % (ratios(sum(medians.values())), GOAL, net.graphs.made - made))


def ratios(median: np.ndarray) -> str:
    return 'ratio %.3f, of processor time %.3f' % tuple(median[0] / median[1])


if __name__ == '__main__':
    main()
