"""Two workers with a core each beside one worker with one core, in one interleaved run.

    python benchmarks/scaling.py [--network NAME] [--batch-size N] [--rounds N]

Each measurement is a job of its own (`igcnet launch`): the scheduler, a server and the workers, or
a single process without any of them. Worker i computes with one thread on core i; scheduler and
server share these cores. The first half of the steps is left out; images per second are those of
all workers, the medians over the rounds are compared. The goal needs two cores that nobody else
uses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(REPO), str(REPO / 'tests')]

from synthetic import noise, write_records

from igcnet.train.runlog import TIMING

GOAL = 1.8


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--network', default='resnet_igc_d20l24m2', metavar='NAME')
    parser.add_argument('--batch-size', type=int, default=64, metavar='N', help='of each worker')
    parser.add_argument('--steps', type=int, default=10, metavar='N',
                        help='that are measured, after as many others')
    parser.add_argument('--rounds', type=int, default=3, metavar='N')
    parser.add_argument('--kv-store', default='dist_sync')
    parser.add_argument('--lowering', default='stock')
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit('two cores are needed')
    rates = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder / 'test', 2)
        for workers in rates:
            write(folder / ('train%d' % workers), 2 * args.steps * args.batch_size * workers)
        for number in range(args.rounds):
            for workers in (1, 2):
                rates[workers].append(run(args, folder, workers, cores[:2], number))
                print('%d worker%s: %.1f images/s' % (workers, 's' * (workers > 1),
                                                      rates[workers][-1]), flush=True)
    one, two = (float(np.median(rates[workers])) for workers in (1, 2))
    print('median %.1f and %.1f images/s; ratio %.2f (at least %.1f)' % (one, two, two / one, GOAL))


def run(args, folder: Path, workers: int, cores, number: int) -> float:
    """Images per second of all workers after the first steps."""
    log_dir = folder / ('%d-%d' % (workers, number))
    batch = args.batch_size * workers
    train = ['tools/train.py', '--network', args.network, '--dataset', 'records', '--data-dir',
             str(folder), '--train-dataset', 'train%d.rec' % workers, '--log-dir', str(log_dir),
             '--num-epochs', '1', '--batch-size', str(batch), '--rand-seed', '1', '--log-iters',
             str(args.steps), '--lowering', args.lowering]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    if workers > 1:
        # Each worker puts itself on its core.
        pin = 'exec taskset -c $(echo %s | cut -d " " -f $((IGCNET_RANK + 1))) "$@"' % ' '.join(
            map(str, cores))
        command = [sys.executable, 'tools/launch.py', '-n', str(workers), 'sh', '-c', pin, 'sh',
                   sys.executable, *train, '--kv-store', args.kv_store]
    else:
        command = ['taskset', '-c', str(cores[0]), sys.executable, *train]
    subprocess.run(command, cwd=str(REPO), env=environment, check=True, stdout=subprocess.DEVNULL)
    timing, = log_dir.rglob(TIMING)
    rows = [json.loads(line) for line in timing.read_text().splitlines()]
    return [row['images_per_second'] for row in rows if row['event'] == 'train'][1]


def write(prefix: Path, count: int) -> None:
    write_records(prefix, noise(count), np.arange(count) % 10.0, classes=list('abcdefghij'))


if __name__ == '__main__':
    main()
