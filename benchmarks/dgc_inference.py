"""dydensenet86 at batch 1: image by image beside its masked form and the plain densenet.

    python benchmarks/dgc_inference.py [--network dyresnet18 --side 224] [--rounds N] [--layers]

One process, one thread; the rivals take turns and the medians are compared. Milliseconds of the
clock and of the processor; on a busy machine the second are the steadier ones. The weights are
random, the running statistics fit them, and the numbers of inactive channels are those at the end
of a training. ``--layers`` lists each layer in both forms, beside the same layer of the plain
network (BN, ReLU, dense 1x1) in the same arithmetic.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # before any library reads it
REPO = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPO)

import mxnet as mx
import numpy as np
from mxnet import autograd

import igcnet
from igcnet.deploy import ImageNetwork
from igcnet.layers import BatchNorm

PLAIN = {'dydensenet86_cifar10': 'densenet86_cifar10', 'dydensenet_imagenet': 'densenet_imagenet',
         'dyresnet18': 'resnet18'}
GOALS = {'masked': 1.5, 'plain': 1.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--network', choices=sorted(PLAIN), default='dydensenet86_cifar10')
    parser.add_argument('--side', type=int, metavar='N', help='height and width of the images')
    parser.add_argument('--rounds', type=int, default=30, metavar='N')
    parser.add_argument('--batch', type=int, default=1, metavar='N')
    parser.add_argument('--layers', action='store_true')
    args = parser.parse_args()
    side = args.side or igcnet.get_model(args.network).input_size
    images = mx.nd.array(np.random.RandomState(0).randn(max(8, args.batch), 3, side, side))
    dynamic, plain = (with_statistics(name, images)
                      for name in (args.network, PLAIN[args.network]))
    x = images[:args.batch]
    ours, ours_plain = ImageNetwork(dynamic, side), ImageNetwork(plain, side)
    difference = np.abs(ours(x.asnumpy()) - dynamic(x).asnumpy()).max()
    rivals = {'image by image': lambda: ours(x.asnumpy()),
              'masked': lambda: dynamic(x).asnumpy(),
              'plain': lambda: plain(x).asnumpy(),
              'plain, image by image': lambda: ours_plain(x.asnumpy())}
    medians = compare(rivals, args.rounds)
    print('%s, %dx%d, batch %d, %d of %d layers gather, medians of %d rounds; logits differ by '
          '%.1e from the masked form' % (
              args.network, side, side, args.batch,
              sum(layer.form == 'gathered' for layer in ours.layers), len(ours.layers),
              args.rounds, difference))
    print('  %-24s %10s %10s %16s' % ('', 'ms', 'CPU ms', 'multiply-adds'))
    macs = {'image by image': ours.macs, 'plain, image by image': ours_plain.macs}
    for name, row in medians.items():
        print('  %-24s %10.2f %10.2f %16s' % (
            name, *(1e3 * row), format(macs[name], ',') if name in macs else ''))
    best = medians.pop('image by image')
    for name, row in medians.items():
        print('  %s : image by image = %.2f by the clock, %.2f in CPU time%s' % (
            name, *(row / best), ' (goal %.1f)' % GOALS[name] if name in GOALS else ''))
    if args.layers:
        print_layers(ours, ours_plain)


def with_statistics(name, images):
    """A hybridised network whose running statistics fit its random weights and `images`.

    Without them the activations of a deep dynamic network leave the range of float32.
    """
    mx.random.seed(1)
    net = igcnet.get_model(name)
    net.initialize()
    if hasattr(net, 'set_progress'):
        net.set_progress(1)
    norms = []
    net.apply(lambda block: norms.append(block) if isinstance(block, BatchNorm) else None)
    for norm in norms:
        norm.momentum = 0
    with autograd.record():
        loss = net(images).sum()
    loss.backward()
    mx.nd.waitall()
    for norm in norms:
        norm.momentum = 0.9
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def compare(rivals, rounds):
    """Median (seconds, processor seconds) of each rival; they take turns of a few calls."""
    found = {name: [] for name in rivals}
    for number in range(-(-rounds // 3) + 1):
        for name, call in rivals.items():
            for _ in range(3):
                begin, cpu = time.perf_counter(), time.process_time()
                call()
                if number:
                    found[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    return {name: np.median(rows, axis=0) for name, rows in found.items()}


def print_layers(ours, ours_plain):
    """Milliseconds of each layer in each form."""
    times = ours.measure(rounds=15)
    plain = ours_plain.measure(rounds=15)
    print('  %-36s %5s %5s %9s %9s %9s   %s' % ('layer, ms', 'C', 'kept', 'gathered', 'scaled',
                                                'plain', 'fastest'))
    for layer in ours.layers:
        row = {**times[layer.name], **plain.get(layer.name, {})}
        cells = ['%9s' % ('%.3f' % (1e3 * row[form]) if form in row else '')
                 for form in ('gathered', 'scaled', 'plain')]
        print('  %-36s %5d %5d %s   %s' % (layer.name, layer.channels,
                                           layer.channels - layer.inactive, ' '.join(cells),
                                           min(row, key=row.get)))


if __name__ == '__main__':
    main()
