"""Where the time of a training step goes: its parts, and forward and backward of every layer."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from igcnet.layers import Network
from igcnet.profiling.report import align


class LayerTime(NamedTuple):
    """Seconds of one layer on its own, for a batch."""

    name: str
    kind: str
    forward: float
    backward: float


class StepTimes(NamedTuple):
    """Medians, in seconds: the parts of a whole step, and layers computed one by one."""

    parts: Dict[str, float]
    layers: List[LayerTime]

    def as_dict(self) -> Dict[str, Any]:
        """For JSON."""
        return {'parts': dict(self.parts), 'layers': [layer._asdict() for layer in self.layers]}


def time_step(net: Network, optimizer: mx.optimizer.Optimizer, batch: int, size: int,
              rounds: int = 5) -> StepTimes:
    """Time training steps of `net` on random images.

    Parameters
    ----------
    net : Network
        Initialised on one device, not hybridised. Its parameters change.
    optimizer : Optimizer
        For the update.
    batch, size : int
        Images, and their height and width.
    rounds : int
        Steps that are timed; one more comes before them.

    Returns
    -------
    StepTimes
        `parts` has 'forward', 'backward' and 'optimiser' of the hybridised network. The layers
        are the blocks that compute themselves, in order of execution; each is hybridised and timed
        on its own, so their sum is not the step: what a lowering saves between layers is missing.
    """
    draw = np.random.RandomState(0)
    images = mx.nd.array(draw.normal(size=(batch, 3, size, size)))
    labels = mx.nd.array(draw.randint(0, net.classes, batch))
    calls = _calls(net, images)
    parts = _time_parts(net, optimizer, images, labels, rounds)
    return StepTimes(parts, [_time_layer(*call, rounds) for call in calls])


def format_times(times: StepTimes) -> str:
    """Two tables: the parts with their shares, then the layers, in milliseconds."""
    total = sum(times.parts.values())
    lines = align(('part', 'ms', 'share'),
                  [(name, _ms(value), '%.0f%%' % (100 * value / total))
                   for name, value in times.parts.items()] + [('step', _ms(total), '')], (1, 2))
    rows = [(layer.name, layer.kind, _ms(layer.forward), _ms(layer.backward))
            for layer in times.layers]
    rows.append(('all layers', '', _ms(sum(layer.forward for layer in times.layers)),
                 _ms(sum(layer.backward for layer in times.layers))))
    return '\n'.join(lines + [''] + align(('layer, on its own', 'kind', 'forward ms',
                                           'backward ms'), rows, (2, 3)))


def _ms(seconds: float) -> str:
    return '%.2f' % (1e3 * seconds)


def _calls(net: Network, images: mx.nd.NDArray) -> List[Tuple[str, Any, Sequence[Any]]]:
    """Path, block and inputs of every block that calls no other block, as the network calls it."""
    found: List[Tuple[str, Any, Sequence[Any]]] = []
    calling: List[int] = []
    handles = []

    def watch(block, path):
        def before(_, inputs):
            calling.append(len(found))

        def after(_, inputs, outputs):
            if calling.pop() == len(found):
                found.append((path, block, inputs))
        handles.append(block.register_forward_pre_hook(before))
        handles.append(block.register_forward_hook(after))
        for name, child in block._children.items():
            watch(child, '%s.%s' % (path, name) if path else name)
    watch(net, '')
    try:
        net(images)
    finally:
        for handle in handles:
            handle.detach()
    return found


def _time_parts(net, optimizer, images, labels, rounds) -> Dict[str, float]:
    net.hybridize(static_alloc=True, static_shape=True)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize()
    trainer = gluon.Trainer(net.collect_params(), optimizer, kvstore=None)
    losses: List[Any] = []

    def forward():
        with autograd.record():
            losses[:] = [loss(net(images), labels)]

    return _medians({'forward': forward, 'backward': lambda: losses[0].backward(),
                     'optimiser': lambda: trainer.step(len(images))}, rounds)


def _time_layer(path: str, block, inputs, rounds: int) -> LayerTime:
    block.hybridize(static_alloc=True, static_shape=True)
    inputs = [x.copy() for x in inputs]
    for x in inputs:
        x.attach_grad()
    outputs: List[Any] = []

    def forward():
        with autograd.record():
            outputs[:] = [block(*inputs)]

    seconds = _medians({'forward': forward, 'backward': lambda: outputs[0].backward()}, rounds)
    return LayerTime(path, type(block).__name__, seconds['forward'], seconds['backward'])


def _medians(actions: Dict[str, Callable[[], Any]], rounds: int) -> Dict[str, float]:
    times: Dict[str, List[float]] = {name: [] for name in actions}
    for _ in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            mx.nd.waitall()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values[1:])) for name, values in times.items()}
