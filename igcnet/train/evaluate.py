"""Evaluation: one object for training and for the command line, each image counted once."""

from __future__ import annotations

from typing import Callable, Iterable, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon.utils import split_and_load

from igcnet.train.metrics import Scores, score

Batches = Iterable[Tuple[np.ndarray, np.ndarray]]


def forward(net, images: np.ndarray, contexts: List[mx.Context]) -> np.ndarray:
    """Logits of one batch (N, 3, H, W), computed on all devices in parts."""
    used = contexts[:max(1, min(len(contexts), len(images)))]
    parts = split_and_load(mx.nd.array(images, dtype='float32'), used, even_split=False)
    outputs = [net(part) for part in parts]
    return np.concatenate([output.asnumpy() for output in outputs])


def evaluate(net, batches: Batches, contexts: List[mx.Context],
             each_batch: Optional[Callable[[np.ndarray, np.ndarray], None]] = None) -> Scores:
    """Scores of `net` over all of `batches`.

    Parameters
    ----------
    batches : iterable of (images, labels)
        Such as an `igcnet.data.reader.EvalReader`: every image once, the last batch short.
    each_batch : callable, optional
        Called with the logits (N, classes) and labels (N,) of each batch.
    """
    total = Scores()
    for images, labels in batches:
        logits = forward(net, images, contexts)
        total += score(logits, labels)
        if each_batch is not None:
            each_batch(logits, labels)
    return total
