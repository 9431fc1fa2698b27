"""Evaluation: one object for training and for the command line, each image counted once."""

from __future__ import annotations

from typing import Callable, Iterable, List, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon.utils import split_and_load

from igcnet.data.reader import EvalBatch
from igcnet.layers.resolution import at_resolution
from igcnet.train.metrics import Scores, score
from igcnet.train.precision import in_full


def forward(net: Callable[..., mx.nd.NDArray], images: np.ndarray, contexts: List[mx.Context],
            resolution: Optional[int] = None) -> np.ndarray:
    """Logits of one batch (N, 3, H, W), computed on all devices in parts.

    With `resolution` the images are resized to it first, on the devices.
    """
    used = contexts[:max(1, min(len(contexts), len(images)))]
    parts = split_and_load(mx.nd.array(images, dtype='float32'), used, even_split=False)
    outputs = [net(at_resolution(part, resolution)) for part in parts]
    return np.concatenate([in_full(output).asnumpy() for output in outputs])


def evaluate(net: Callable[..., mx.nd.NDArray], batches: Iterable[EvalBatch],
             contexts: List[mx.Context],
             each_batch: Optional[Callable[[EvalBatch, np.ndarray], None]] = None,
             resolution: Optional[int] = None) -> Scores:
    """Scores of `net` over all of `batches`.

    Parameters
    ----------
    batches : iterable of EvalBatch
        Such as an `igcnet.data.reader.EvalReader`: every image once, the last batch short.
    each_batch : callable, optional
        Called with each batch and its logits (N, classes), before they are scored.
    resolution : int, optional
        Resize the preprocessed images to it, as MutualNet does.
    """
    total = Scores()
    for batch in batches:
        logits = forward(net, batch.images, contexts, resolution)
        if each_batch is not None:
            each_batch(batch, logits)
        total += score(logits, batch.labels)
    return total
