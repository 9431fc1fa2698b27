"""Loss and accuracies over a stream of batches, each image weighing the same."""

from __future__ import annotations

from typing import Dict, NamedTuple

import numpy as np

# The original floors probabilities at machine epsilon, in float32.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


class Scores(NamedTuple):
    """Sums over images: how many, cross-entropy, and those right in the first 1 and 5."""

    count: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0

    def __add__(self, other):
        return Scores(*(a + b for a, b in zip(self, other)))

    def means(self) -> Dict[str, float]:
        """Mean cross-entropy, and top-1 and top-5 accuracy as fractions."""
        count = max(1, self.count)
        return {'loss': self.loss / count, 'top1': self.top1 / count, 'top5': self.top5 / count}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of one batch.

    Parameters
    ----------
    logits : numpy.ndarray, shape (N, classes)
    labels : numpy.ndarray, shape (N,)
        Class numbers.

    Notes
    -----
    A logit that is not a number gives a loss that is not a number.
    """
    rows = np.arange(len(labels))
    labels = labels.astype(np.int64)
    right = softmax(logits.astype(np.float64))[rows, labels]
    loss = -np.log(np.maximum(right, SMALLEST_PROBABILITY))
    # Position of the right class in the order of the logits; of equal logits the first class
    # comes first, as in argmax.
    own = logits[rows, labels][:, None]
    before = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    valid = np.isfinite(own[:, 0])
    return Scores(len(labels), float(loss.sum()), int(((rank < 1) & valid).sum()),
                  int(((rank < 5) & valid).sum()))
