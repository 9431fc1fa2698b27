"""Training steps of the lowerings beside PyTorch's forms of the same networks, in one run.

    python benchmarks/train_speed.py [--only NAME ...] [--rounds N] [--threads N]

A step is forward, backward and update (Nesterov momentum). The forms take turns in each round and
their medians are compared. PyTorch computes the graph of our own network, with the same weights,
in three forms: eager, channels_last and torch.compile. How far a step is from what the machine can
do is said by two rates that are measured in the same run, multiply-adds in registers and a large
matrix product. Memory is the peak of a process of its own, less what it had before the network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPO)

from igcnet._backend import set_threads
from igcnet.machine import cpu_model

# name -> network, settings, batch, times PyTorch's best form that the goal asks for
CASES = {
    'plain_igc': ('plain_igc_d38l24m2', {}, 64, 4.0),
    'resnet_igc': ('resnet_igc_d20l24m2', {}, 64, 3.5),
    'igcv3': ('igcv3_cifar10', {}, 64, 2.0),
    'mobilenetv2': ('mobilenetv2_cifar10', {}, 64, 2.0),
    'igcv2': ('igcv2star_c416_cifar10', {}, 64, 1.5),
    'shufflenet': ('shufflenet_1x_g3_cifar10', {}, 64, 1.5),
    'menet': ('menet228_12x1_g3_cifar10', {}, 64, 1.5),
}
LOWERINGS = ('stock', 'blocked', 'native', 'auto')
TORCH = ('eager', 'channels_last', 'compile')


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=sorted(CASES), default=list(CASES))
    parser.add_argument('--forms', nargs='+', choices=LOWERINGS + TORCH,
                        default=list(LOWERINGS + TORCH))
    parser.add_argument('--rounds', type=int, default=7, metavar='N')
    parser.add_argument('--threads', type=int, default=2, metavar='N')
    parser.add_argument('--batch', type=int, metavar='N', help="(default: the case's)")
    parser.add_argument('--no-memory', action='store_true', help='leave the memory out')
    parser.add_argument('--json', metavar='FILE', help='also write the numbers there')
    parser.add_argument('--memory-of', nargs=2, help=argparse.SUPPRESS)
    return parser


def main():
    args = build_parser().parse_args()
    set_threads(args.threads)
    if args.memory_of:
        print(memory_here(*args.memory_of, args.batch))
        return
    print('%s, %s, %d threads' % (cpu_model(), platform.machine(), args.threads))
    rates = machine_rates(args.threads)
    print('multiply-adds in registers %.0f GFLOP/s, matrix product %.0f GFLOP/s, load average %.1f'
          % (*rates, os.getloadavg()[0]))
    results = {}
    for name in args.only:
        results[name] = compare(name, args, rates)
    if args.json:
        Path(args.json).write_text(json.dumps(
            {'cpu': cpu_model(), 'threads': args.threads, 'peak': rates, 'cases': results},
            indent=1))


def compare(name, args, rates):
    """Print the table of one case; returns its numbers."""
    from igcnet.profiling import count_macs
    network, settings, batch, goal = CASES[name]
    batch = args.batch or batch
    steps, notes = {}, []
    net = make_network(network, settings)
    for form in args.forms:
        try:
            steps[form] = make_step(form, net, network, settings, batch)
            steps[form]()
            steps[form]()
        except Exception as problem:  # a rival that does not work here is left out, and named
            steps.pop(form, None)
            notes.append('%s: %s' % (form, str(problem).strip().split('\n')[0][:100]))
    times = {form: [] for form in steps}
    for _ in range(args.rounds):
        for form, step in steps.items():
            start = time.perf_counter()
            step()
            times[form].append(time.perf_counter() - start)
    seconds = {form: float(np.median(values)) for form, values in times.items()}
    size = net.input_size
    work = 3 * 2 * batch * count_macs(net, (1, 3, size, size))
    memory = {} if args.no_memory else {
        form: memory_of(name, form, args) for form in seconds if form in LOWERINGS}
    print('\n%s, batch %d, %.1f GFLOP a step' % (network, batch, work / 1e9))
    print('%-14s %9s %9s %9s %9s %12s' % ('', 'ms', 'of stock', 'GFLOP/s', 'of peak', 'MB beyond'))
    for form, value in seconds.items():
        print('%-14s %9.1f %9s %9.1f %8.0f%% %12s' % (
            form, 1e3 * value,
            '%.2fx' % (seconds['stock'] / value) if 'stock' in seconds else '', work / value / 1e9,
            100 * work / value / 1e9 / rates[0],
            '%.0f' % memory[form] if form in memory else ''))
    best = min((seconds[form] for form in TORCH if form in seconds), default=None)
    ours = min((seconds[form] for form in LOWERINGS if form in seconds), default=None)
    if best and ours:
        print("the fastest of ours is %.2fx PyTorch's best form; the goal is %.1fx"
              % (best / ours, goal))
    for note in notes:
        print('left out, ' + note)
    return {'ms': {form: 1e3 * value for form, value in seconds.items()}, 'memory': memory,
            'flop': work, 'notes': notes}


def make_network(network, settings):
    import mxnet as mx

    from igcnet import get_model
    mx.random.seed(1)
    net = get_model(network, **settings)
    net.initialize()
    return net


def make_step(form, net, network, settings, batch):
    """A function that does one training step and waits for its end."""
    draw = np.random.RandomState(0)
    images = draw.normal(size=(batch, 3, net.input_size, net.input_size)).astype(np.float32)
    labels = draw.randint(0, net.classes, batch)
    if form in TORCH:
        return torch_step(form, net, images, labels)
    return our_step(form, make_network(network, settings), images, labels)


def our_step(form, net, images, labels):
    import mxnet as mx
    from mxnet import autograd, gluon

    from igcnet.train.optimizer import Nesterov
    if net.set_lowering(form) != form:
        raise RuntimeError('not on this machine')
    net.hybridize(static_alloc=True, static_shape=True)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize()
    trainer = gluon.Trainer(net.collect_params(), Nesterov(
        momentum=0.9, learning_rate=0.01, wd=1e-4), kvstore=None)
    data, target = mx.nd.array(images), mx.nd.array(labels)

    def step():
        with autograd.record():
            value = loss(net(data), target)
        value.backward()
        trainer.step(len(images))
        mx.nd.waitall()
    return step


def torch_step(form, net, images, labels):
    import torch

    from igcnet.convert import to_graph
    twin = make_twin(torch, to_graph(net, head=False), {
        name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()})
    data, target = torch.from_numpy(images), torch.from_numpy(labels)
    if form == 'channels_last':
        twin, data = (x.to(memory_format=torch.channels_last) for x in (twin, data))
    rule = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4,
                           nesterov=True, fused=True)
    compute = torch.compile(twin) if form == 'compile' else twin

    def step():
        rule.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(compute(data), target).backward()
        rule.step()
    return step


def make_twin(torch, graph, arrays):
    """A ``torch.nn.Module`` that computes our graph in training mode."""
    from igcnet.convert.operators import effective_attributes
    from igcnet.convert.torch_twin import torch_operators
    operators = torch_operators(torch, training=True)
    plan = [(operators.get(node.op), node.inputs,
             {} if node.is_variable else effective_attributes(node.op, node.attributes))
            for node in graph.nodes]
    names = [node.name if node.is_variable else None for node in graph.nodes]

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.places = {}
            for number, name in enumerate(names):
                if name not in arrays:
                    continue
                value = torch.from_numpy(arrays[name].copy())
                if name.endswith(('moving_mean', 'moving_var')):
                    self.register_buffer('v%d' % number, value)
                else:
                    self.register_parameter('v%d' % number, torch.nn.Parameter(value))
                self.places[number] = 'v%d' % number

        def forward(self, data):
            results = []
            for number, (operator, inputs, attributes) in enumerate(plan):
                if number in self.places:
                    found = getattr(self, self.places[number])
                elif operator is None:
                    found = data
                else:
                    found = operator([results[i] for i, _ in inputs], attributes)
                results.append(found)
            return results[graph.heads[0][0]]
    return Twin()


def machine_rates(threads):
    """GFLOP/s of multiply-adds in registers (0 without our library) and of a matrix product."""
    import mxnet as mx

    from igcnet import native
    best = [0.0, 0.0]
    for _ in range(3):
        if native.missing() is None:
            best[0] = max(best[0], register_rate(native.load(), threads))
        left = mx.nd.ones((1536, 1536))
        mx.nd.dot(left, left).wait_to_read()
        start = time.perf_counter()
        for _ in range(4):
            mx.nd.dot(left, left).wait_to_read()
        best[1] = max(best[1], 4 * 2 * 1536 ** 3 / (time.perf_counter() - start) / 1e9)
    return best


def register_rate(library, threads, rounds=20_000_000):
    counts = [0.0] * threads

    def count(place):
        counts[place] = library.igcnet_multiply_adds(rounds)
    workers = [threading.Thread(target=count, args=(place,)) for place in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 2 * sum(counts) / (time.perf_counter() - start) / 1e9


def memory_of(name, form, args):
    """Megabytes that training takes, measured in a process of its own."""
    command = [sys.executable, '-W', 'ignore', os.path.abspath(__file__), '--threads',
               str(args.threads), '--memory-of', name, form]
    if args.batch:
        command += ['--batch', str(args.batch)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def peak_megabytes():
    """The most memory this process has had. `ru_maxrss` would begin with its parent's."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) / 1024
    raise RuntimeError('the peak of the memory is not known on this system')


def memory_here(name, form, batch):
    network, settings, usual, _ = CASES[name]
    import mxnet as mx
    mx.nd.ones((1,)).wait_to_read()
    net = make_network(network, settings)
    before = peak_megabytes()
    step = make_step(form, net, network, settings, batch or usual)
    for _ in range(3):
        step()
    return peak_megabytes() - before


if __name__ == '__main__':
    main()
