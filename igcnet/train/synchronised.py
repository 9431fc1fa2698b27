"""Batch normalisation over the whole batch where several devices of one process share it.

The forward passes of the devices run in turn, each in a thread of its own that stops at every BN
layer until all have arrived there. Their means and variances are then made one, by copies that
autograd records, so that one backward pass through all devices gives the exact gradient. Only one
thread runs at a time, in the order of the devices: whatever draws random numbers does so in the
same order each time. The devices compute side by side all the same, MXNet does not wait for them.

MXNet's own ``contrib.SyncBatchNorm`` waits for ever on several CPU contexts.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Iterator, List, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block

from igcnet.errors import UsageError
from igcnet.layers.basic import BatchNorm
from igcnet.layers.dynamic import DynamicGroupConv
from igcnet.layers.lowering import Lowered
from igcnet.layers.slimmable import RunningStatistics, SlimmableBatchNorm


class Moments(NamedTuple):
    """The values that a channel has in a part of the batch: `count` of them, their mean, and the
    sum of the squares of what they differ from it; both (1, C, 1, ...)."""

    layer: BatchNorm
    count: int
    mean: mx.nd.NDArray
    squares: mx.nd.NDArray


class _GivenUp(Exception):
    """Another device's pass has failed."""


class _Pass:
    """The forward pass of one device, which runs from one BN layer to the next."""

    def __init__(self, threads: ThreadPoolExecutor, forward, x: mx.nd.NDArray):
        self._answers: SimpleQueue = SimpleQueue()
        self._arrivals: SimpleQueue = SimpleQueue()
        self._future = threads.submit(self._run, forward, x)

    def _run(self, forward, x):
        try:
            self._wait()
            with autograd.record():  # each thread has its own switch
                return forward(self, x)
        finally:
            self._arrivals.put(None)

    def _wait(self):
        answer = self._answers.get()
        if answer is None:
            raise _GivenUp
        return answer

    def meet(self, own: Moments) -> Moments:
        """Those of the whole batch, on the device of `own`; called by the pass itself."""
        self._arrivals.put(own)
        return self._wait()

    def go_on(self, answer) -> Optional[Moments]:
        """Let it run to its next BN layer, with the answer for the one where it stands. Returns
        what it has there, None at its end."""
        self._answers.put(answer)
        return self._arrivals.get()

    def give_up(self) -> None:
        """End it where it stands; one that has ended does not mind."""
        self._answers.put(None)

    def result(self):
        """What it has computed; raises what it has raised."""
        return self._future.result()


class Synchronised:
    """Forward passes for training in which the BN layers of `net` see the whole batch.

    They are computed operator by operator, not as the graph of a hybridised network. Running
    statistics take the mean and the biased variance of the whole batch, as MXNet's operator takes
    its part's, and are the same on all devices. Layers whose statistics are frozen normalise by
    these. Inference is as ever.

    Parameters
    ----------
    net : Network
        Initialised on all devices, with its lowering chosen. Layers with the lowering 'native',
        whose operators normalise each device by itself, get the fastest of the others.
    devices : int
        How many there are.

    Raises
    ------
    UsageError
        The network normalises in other layers than `BatchNorm`.
    """

    def __init__(self, net: Block, devices: int):
        self._net, self._norms = net, []
        net.apply(self._take)
        self._threads = ThreadPoolExecutor(devices)
        self._here = threading.local()

    def _take(self, block: Block) -> None:
        if isinstance(block, (SlimmableBatchNorm, RunningStatistics, DynamicGroupConv)):
            raise UsageError('--sync-bn: not for networks with %s, whose batch normalisation is '
                             'part of them' % ('dynamic group convolutions' if isinstance(
                                 block, DynamicGroupConv) else 'slimmable layers'))
        if isinstance(block, BatchNorm):
            self._norms.append(block)
        elif isinstance(block, Lowered) and block.lowering == 'native':
            block.lowering = block.fastest(False)

    def __call__(self, data: Sequence[mx.nd.NDArray]) -> List[mx.nd.NDArray]:
        """The network's outputs for each device's part, of any sizes; to be called inside
        ``autograd.record()``."""
        passes = [_Pass(self._threads, self._forward, x) for x in data]
        answers: List = ['begin'] * len(passes)
        try:
            with self._in_layers():
                while True:
                    arrived = [each.go_on(answer) for each, answer in zip(passes, answers)]
                    ended = [each for each, own in zip(passes, arrived) if own is None]
                    if ended:
                        break
                    answers = _whole(arrived)
        finally:
            for each in passes:
                each.give_up()
        for each in ended:  # before those that had to give up
            each.result()
        return [each.result() for each in passes]

    def _forward(self, own: _Pass, x):
        self._here.meet = own.meet
        return self._net(x)

    @contextlib.contextmanager
    def _in_layers(self) -> Iterator[None]:
        """Inside the ``with`` block the BN layers are computed here, and all layers one by one."""
        graphs: List[Block] = []
        self._net.apply(lambda block: graphs.append(block) if getattr(block, '_active', False)
                        else None)
        try:
            # Not by `hybridize`, which would throw away the graphs for inference.
            for block in graphs:
                block._active = False
            for norm in self._norms:
                norm.normalise = self._normalise
            yield
        finally:
            for norm in self._norms:
                norm.normalise = None
            for block in graphs:
                block._active = True

    def _normalise(self, layer: BatchNorm, x, gamma, beta):
        mean = mx.nd.mean(x, axis=1, exclude=True, keepdims=True)
        centred = mx.nd.broadcast_sub(x, mean)
        squares = mx.nd.sum(mx.nd.square(centred), axis=1, exclude=True, keepdims=True)
        whole = self._here.meet(Moments(layer, x.size // layer.channels, mean, squares))
        scale = (gamma.reshape(mean.shape)
                 / mx.nd.sqrt(whole.squares / whole.count + layer.epsilon))
        shift = beta.reshape(mean.shape) + (mean - whole.mean) * scale
        return mx.nd.broadcast_add(mx.nd.broadcast_mul(centred, scale), shift)


def _whole(parts: Sequence[Moments]) -> List[Moments]:
    """The moments of all parts together, on the device of each; the layer's running statistics
    move towards them."""
    layer, first = parts[0].layer, parts[0].mean.context
    count = sum(part.count for part in parts)
    means = [part.mean.as_in_context(first) for part in parts]
    mean = mx.nd.add_n(*(own * (part.count / count) for part, own in zip(parts, means)))
    # Of differences, not of the squares of the values, which would cost digits.
    squares = mx.nd.add_n(*(part.squares.as_in_context(first)
                            + mx.nd.square(own - mean) * part.count
                            for part, own in zip(parts, means)))
    momentum = float(np.float32(layer.momentum))  # in MXNet's operator a single precision number
    with autograd.pause():
        for running, value in ((layer.running_mean, mean), (layer.running_var, squares / count)):
            for array in running.list_data():
                array *= momentum
                array += (1 - momentum) * value.reshape(array.shape).as_in_context(
                    array.context)
    return [Moments(layer, count, mean.as_in_context(part.mean.context),
                    squares.as_in_context(part.mean.context)) for part in parts]
