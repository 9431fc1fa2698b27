"""Do two processes that train the same network end in the same bits? For several threads, too.

Run it from anywhere: ``python benchmarks/determinism.py``. Each network makes some steps in two
processes, one after the other, for each lowering and number of threads; weights, BN statistics and
momentum are compared by their checksum. The exit code is 1 if any differ. For comparison it
says whether the bits depend on the number of threads and on the lowering: they may.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

REPOSITORY = Path(__file__).resolve().parent.parent
# Grouped, plain and depthwise convolutions, gates and dropout among them.
NETWORKS = {
    'resnet_igc': dict(depth=20, primary_partition=8, secondary_partition=2),
    'plain': dict(depth=8),
    'igcv3_w0.25_cifar10': {},
    'menet228_12x1_g3_cifar10': {},
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--train', nargs=2, metavar=('NETWORK', 'LOWERING'), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.train:
        print(*_train(*args.train, args.steps, args.batch_size))
        return 0
    different = 0
    for network in args.networks:
        found: Dict[Tuple[str, int], str] = {}
        for lowering in ('stock', 'blocked'):
            for threads in args.threads:
                runs = [_run(network, lowering, threads, args) for _ in range(2)]
                same = runs[0][0] == runs[1][0]
                different += not same
                found[lowering, threads] = runs[0][0]
                print('%s, %s, %d threads: %s in two processes, %s ms a step' % (
                    network, lowering, threads, 'the same bits' if same else 'DIFFERENT bits',
                    ' and '.join(milliseconds for _, milliseconds in runs)), flush=True)
        print('%s: %d different results of %d settings' % (network, len(set(found.values())),
                                                           len(found)))
    return 1 if different else 0


def _run(network: str, lowering: str, threads: int, args) -> Sequence[str]:
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONPATH': str(REPOSITORY)}
    command = [sys.executable, '-W', 'ignore', __file__, '--train', network, lowering, '--steps',
               str(args.steps), '--batch-size', str(args.batch_size)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit('error: %s' % done.stderr[-500:])
    return done.stdout.split()


def _train(network: str, lowering: str, steps: int, batch_size: int) -> Tuple[str, str]:
    """Checksum of all that `steps` steps leave, and the median milliseconds of one."""
    from igcnet._backend import set_threads
    set_threads()
    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon

    import igcnet
    from igcnet.train.optimizer import Nesterov
    mx.random.seed(1)
    net = igcnet.get_model(network, **NETWORKS[network])
    net.initialize()
    net.set_lowering(lowering)
    net.hybridize(static_alloc=True, static_shape=True)
    learned = [p for p in net.collect_params().values() if p.grad_req != 'null']
    trainer = gluon.Trainer(learned, Nesterov(learning_rate=0.05, wd=1e-4),
                            update_on_kvstore=False)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    draw, seconds = np.random.RandomState(2), []
    size = net.input_size
    for step in range(steps):
        mx.random.seed(step)
        images = mx.nd.array(draw.normal(size=(batch_size, 3, size, size)))
        labels = mx.nd.array(draw.randint(10, size=batch_size))
        started = time.perf_counter()
        with autograd.record():
            error = loss(net(images), labels)
        error.backward()
        trainer.step(batch_size)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - started)
    digest = hashlib.sha256()
    for parameter in net.collect_params().values():
        digest.update(parameter.data().asnumpy().tobytes())
    for momentum in trainer._updaters[0].states.values():
        digest.update(momentum.asnumpy().tobytes())
    return digest.hexdigest(), '%.1f' % (1000 * sorted(seconds)[len(seconds) // 2])


if __name__ == '__main__':
    sys.exit(main())
