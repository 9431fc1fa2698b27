"""Which lowering trains a network fastest on this machine, measured once and remembered."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, Mapping, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

import igcnet
from igcnet import native
from igcnet.files import write_json
from igcnet.layers.lowering import LOWERINGS, why_not_native
from igcnet.machine import cache_folder, cpu_model
from igcnet.native.library import OPERATORS
from igcnet.registry import get_model

ROUNDS = 3


def fastest_lowering(network: str, settings: Mapping[str, Any], batch: int, size: int,
                     context: mx.Context) -> str:
    """The lowering whose training steps take the least time.

    Every lowering does one step to warm up and `ROUNDS` in turn with the others; the medians
    decide. The answer is kept in ``tuned.json`` in the user's cache, by processor, threads,
    versions, network, batch and image size.

    Parameters
    ----------
    network, settings
        For `igcnet.get_model`.
    batch : int
        Images on one device.
    size : int
        Height and width of an image.
    """
    path = cache_folder() / 'tuned.json'
    key = ' '.join(map(str, (
        cpu_model(), os.environ.get('OMP_NUM_THREADS', '-'), igcnet.__version__, mx.__version__,
        'no operators' if native.missing() else OPERATORS.fingerprint(), context.device_type,
        network, json.dumps(dict(settings), sort_keys=True, default=str), batch, size)))
    known = _read(path)
    if known.get(key) not in LOWERINGS:
        seconds = measure(network, settings, batch, size, context)
        known = {**_read(path), key: min(seconds, key=seconds.get)}
        write_json(path, known)
    return known[key]


def measure(network: str, settings: Mapping[str, Any], batch: int, size: int,
            context: mx.Context, lowerings: Optional[Sequence[str]] = None) -> Dict[str, float]:
    """Median seconds of a training step for each of `lowerings` (all by default), without the
    optimiser.

    Parameters
    ----------
    settings : mapping
        Overrides for `igcnet.get_model`.
    batch, size : int
        Images in a step; their height and width.
    """
    steps = {}
    for lowering in lowerings or LOWERINGS:
        net = get_model(network, **settings)
        net.initialize(ctx=context)
        if lowering == 'native' and why_not_native(net):
            continue
        net.set_lowering(lowering)
        steps[lowering] = _step(net, batch, size, context)
        steps[lowering]()
    times: Dict[str, list] = {lowering: [] for lowering in steps}
    for _ in range(ROUNDS):
        for lowering, step in steps.items():
            start = time.perf_counter()
            step()
            times[lowering].append(time.perf_counter() - start)
    return {lowering: float(np.median(values)) for lowering, values in times.items()}


def _step(net, batch: int, size: int, context: mx.Context):
    net.hybridize(static_alloc=True, static_shape=True)
    images = mx.nd.random.normal(shape=(batch, 3, size, size), ctx=context)
    labels = mx.nd.zeros((batch,), ctx=context)
    loss = gluon.loss.SoftmaxCrossEntropyLoss()

    def step():
        with autograd.record():
            value = loss(net(images), labels)
        value.backward()
        mx.nd.waitall()
    return step


def _read(path) -> Dict[str, str]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
