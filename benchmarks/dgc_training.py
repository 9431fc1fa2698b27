"""A training step of dydensenet beside the original's formulation, in MXNet and in PyTorch.

    python benchmarks/dgc_training.py [--stages 6-6-6] [--batch 32] [--rounds N]

Every measurement is a process of its own, with one thread; the rivals take turns in each round and
the medians are compared. Printed for each, with the channels all on (as in the first twelfth of a
training) and at the end of it: seconds of a step, processor seconds of a step, and the memory that
training takes on top of the process with the network in it, at its peak. The rivals are

- ours: ``--lowering auto`` and ``blocked``; the stock graph of the same layer;
- the original's formulation in stock operators: one scaled copy of the map for each head,
  concatenated, and a grouped convolution;
- the same in PyTorch: eager, channels_last and torch.compile; left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPO)

RIVALS = ('ours, auto', 'ours, blocked', 'ours, stock', 'original, MXNet',
          'PyTorch, eager', 'PyTorch, channels_last', 'PyTorch, compile')
PROGRESS = {'all channels on': 0.0, 'end of the training': 1.0}
GROWTH, HEADS, LASSO, RATE = '8-16-32', 4, 1e-5, 0.1
STEPS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--stages', default='6-6-6')
    parser.add_argument('--batch', type=int, default=32, metavar='N')
    parser.add_argument('--rounds', type=int, default=3, metavar='N')
    parser.add_argument('--only', nargs='+', choices=RIVALS, help='these (default: all)')
    parser.add_argument('--measure', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], float(args.measure[1]), args)))
        return
    rivals = [rival for rival in RIVALS
              if not rival.startswith('PyTorch') or importlib.util.find_spec('torch')]
    rivals = [rival for rival in rivals if not args.only or rival in args.only]
    for title, progress in PROGRESS.items():
        found = {rival: [] for rival in rivals}
        for _ in range(args.rounds):
            for rival in rivals:
                found[rival].append(in_a_process(rival, progress, args))
        report(title, found, args)


def report(title, found, args):
    """Print a table and how the others compare with ours."""
    print('dydensenet %s, batch %d, %s: medians of %d rounds'
          % (args.stages, args.batch, title, args.rounds))
    print('  %-20s %10s %10s %12s' % ('', 's/step', 'CPU s/step', 'memory MiB'))
    medians = {rival: np.median([row[:3] for row in rows], axis=0)
               for rival, rows in found.items()}
    for rival, row in medians.items():
        print('  %-20s %10.3f %10.3f %12.0f' % (rival, *row))
    first, base = next(iter(medians.items()))
    for rival, row in medians.items():
        print('  %s: %.2f times the time of %s, %.2f times its CPU time, %.2f times its memory'
              % (rival, row[0] / base[0], first, *(row[1:] / base[1:])))
    losses = {rival: rows[0][3] for rival, rows in found.items()}
    print('  losses of the first step: %s\n' % ', '.join(
        '%s %.5f' % item for item in losses.items()), flush=True)


def in_a_process(rival, progress, args):
    """Seconds, processor seconds, MiB at the peak, and the first loss."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', __file__, '--stages', args.stages, '--batch',
         str(args.batch), '--measure', rival, str(progress)],
        stdout=subprocess.PIPE, check=True, timeout=1800,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)})
    return json.loads(done.stdout)


def measure(rival, progress, args):
    """One rival in this process; the first step is warming up."""
    draw = np.random.RandomState(0)
    images = draw.randn(args.batch, 3, 32, 32).astype(np.float32)
    labels = draw.randint(10, size=args.batch).astype(np.float32)
    make = pytorch_step if rival.startswith('PyTorch') else mxnet_step
    step = make(rival, progress, args.stages, images, labels)
    before = resident()
    first = step()
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step()
    seconds = (time.perf_counter() - begin) / STEPS, (time.process_time() - cpu) / STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (*seconds, peak - before, first)


def resident():
    """MiB of this process now."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 2 ** 20


def weights(stages):
    """Our network, the source of the weights for all rivals."""
    import mxnet as mx

    import igcnet
    mx.random.seed(1)
    net = igcnet.get_model('dydensenet', stages=stages, growth=GROWTH, heads=HEADS)
    net.initialize()
    return net


def mxnet_step(rival, progress, stages, images, labels):
    """A function that makes one step and returns its loss."""
    import mxnet as mx

    from igcnet.train.dgc import DynamicGroups
    from igcnet.train.loop import make_trainer
    from igcnet.train.methods import Place
    from igcnet.train.recipes import Recipe
    net = weights(stages)
    net.set_progress(progress)
    if rival.startswith('original'):
        for layer in net.dynamic_layers:
            layer.__class__ = as_published()
    net.set_lowering(rival.split()[-1] if rival.startswith('ours') else 'stock')
    net.hybridize(static_alloc=True, static_shape=True)
    # So many epochs that the schedule leaves the counts as they are.
    recipe = Recipe('benchmark', 10 ** 6, len(images), RATE, method='dgc',
                    method_settings={'group_lasso_lambda': LASSO})
    method = DynamicGroups(net, recipe, 0, 1)
    trainer = make_trainer(net, recipe, None, 'device')

    def step():
        outcome = method.gradients(Place(0, 0), images, labels, [mx.cpu()])
        trainer.step(len(images))
        mx.nd.waitall()
        return float(outcome.losses[0].mean().asscalar())
    return step


def as_published():
    """The layer with a scaled copy of the map for each head and one grouped convolution."""
    from igcnet.layers import DynamicGroupConv
    from igcnet.layers.lowering import value_of
    from igcnet.layers.naming import ExactName

    class AsPublished(DynamicGroupConv):
        def hybrid_forward(self, F, x, inactive_channels):
            x = self.relu(self.norm(x))
            pooled = self.flatten(self.avg_pool(x))
            saliency = F.stack(*[head(pooled) for head in self.heads], axis=1, name='saliency')
            gated = saliency * self._mask(F, F.BlockGrad(saliency), inactive_channels)
            copies = []
            for number in range(len(self.heads)):
                scale = F.slice_axis(gated, axis=1, begin=number, end=number + 1)
                scale = F.reshape(scale, shape=(0, -1, 1, 1))
                copies.append(F.broadcast_mul(x, scale))
            filters = [value_of(F, head.conv.weight, x) for head in self.heads]
            shape = self.heads[0].conv.weight.shape
            y = F.Convolution(F.concat(*copies, dim=1), F.concat(*filters, dim=0),
                              kernel=shape[2:], num_filter=shape[0] * len(self.heads),
                              num_group=len(self.heads), no_bias=True)
            y = F.reshape(y, shape=(0, -4, len(self.heads), -1, -2))
            with ExactName(self.name):
                return F.reshape(F.swapaxes(y, dim1=1, dim2=2), shape=(0, -3, -2))
    return AsPublished


def pytorch_step(rival, progress, stages, images, labels):
    """As `mxnet_step`, of a PyTorch module with the same weights."""
    import torch

    from igcnet.convert.families.dgc import torch_names
    torch.set_num_threads(1)
    ours = weights(stages)
    ours.set_progress(progress)
    net = torch_network(ours)
    names, given = torch_names(ours), ours._collect_params_with_prefix()
    net.load_state_dict({names[path]: torch.from_numpy(parameter.data().asnumpy())
                         for path, parameter in given.items()}, strict=False)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, nesterov=True,
                                weight_decay=1e-4)
    x, y = torch.from_numpy(images), torch.from_numpy(labels).long()

    if rival.endswith('channels_last'):
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    compute = torch.compile(net) if rival.endswith('compile') else net

    def step():
        logits, lasso = compute(x)
        loss = torch.nn.functional.cross_entropy(logits, y) + LASSO * lasso
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def torch_network(ours):
    """dydensenet in PyTorch, with the names and the arithmetic of the original."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Head(nn.Module):
        def __init__(self, channels, filters, hidden):
            super().__init__()
            self.conv = nn.Conv2d(channels, filters, 1, bias=False)
            self.fc1 = nn.Linear(channels, hidden, bias=False)
            self.fc2 = nn.Linear(hidden, channels)

    class Dynamic(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.inactive, self.heads = layer.inactive, len(layer.heads)
            self.norm = nn.BatchNorm2d(layer.in_channels)
            for number, head in enumerate(layer.heads):
                setattr(self, 'headconv_%d' % number, Head(
                    layer.in_channels, head.conv.weight.shape[0], head.fc1.weight.shape[0]))

        def forward(self, x):
            x = F.relu(self.norm(x))
            pooled, lasso, copies, filters = x.mean(dim=(2, 3)), 0, [], []
            for number in range(self.heads):
                head = getattr(self, 'headconv_%d' % number)
                saliency = F.relu(head.fc2(F.relu(head.fc1(pooled))))
                lasso = lasso + saliency.mean()
                if self.inactive:
                    with torch.no_grad():
                        smallest = torch.topk(saliency, self.inactive, largest=False)[0]
                        dropped = saliency <= smallest.max(dim=1, keepdim=True)[0]
                    saliency = saliency.masked_fill(dropped, 0)
                copies.append(x * saliency[:, :, None, None])
                filters.append(head.conv.weight)
            y = F.conv2d(torch.cat(copies, 1), torch.cat(filters), groups=self.heads)
            batch, channels, height, width = y.shape
            y = y.view(batch, self.heads, channels // self.heads, height, width)
            return y.transpose(1, 2).reshape(batch, channels, height, width), lasso

    class Grouped(nn.Module):
        def __init__(self, layer):
            super().__init__()
            shape, groups = layer.conv.weight.shape, layer.conv._kwargs['num_group']
            self.norm = nn.BatchNorm2d(shape[1] * groups)
            self.conv = nn.Conv2d(shape[1] * groups, shape[0], 3, padding=1, groups=groups,
                                  bias=False)

        def forward(self, x):
            return self.conv(F.relu(self.norm(x)))

    class Dense(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.conv_1, self.conv_2 = Dynamic(layer.conv_1), Grouped(layer.conv_2)

        def forward(self, x):
            y, lasso = self.conv_1(x)
            return torch.cat([x, self.conv_2(y)], 1), lasso

    class DyDenseNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Module()
            self.features.init_conv = nn.Conv2d(3, 2 * int(GROWTH.split('-')[0]), 3, padding=1,
                                                bias=False)
            self.blocks = [stage.name for stage in ours.stages]
            for name in self.blocks:
                block = nn.Module()
                for key, layer in getattr(ours.features, name)._children.items():
                    setattr(block, key, Dense(layer))
                setattr(self.features, name, block)
            last = ours.stages[-1].channels
            self.bn_last, self.classifier = nn.BatchNorm2d(last), nn.Linear(last, ours.classes)

        def forward(self, x):
            x, total = self.features.init_conv(x), 0
            for number, name in enumerate(self.blocks):
                x = F.avg_pool2d(x, 2) if number else x
                for layer in getattr(self.features, name).children():
                    x, lasso = layer(x)
                    total = total + lasso
            return self.classifier(F.relu(self.bn_last(x)).mean(dim=(2, 3))), total
    return DyDenseNet()


if __name__ == '__main__':
    main()
