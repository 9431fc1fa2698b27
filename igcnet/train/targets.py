"""Targets that are no single class: label smoothing and mixed images."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

from igcnet.train.recipes import Recipe


def soft_targets(recipe: Recipe) -> bool:
    """Whether the targets of a recipe are distributions over the classes."""
    return recipe.label_smoothing > 0 or recipe.mixup_alpha > 0


def soften(images: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe,
           seed: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Mixup with the reversed batch, and label smoothing.

    Parameters
    ----------
    images : (N, 3, H, W)
    labels : (N,)
    classes : int
    seed : sequence of int
        Of the share with which images are mixed, one for the batch.

    Returns
    -------
    images : (N, 3, H, W)
    targets : float32 (N, classes)
    """
    smoothing = recipe.label_smoothing
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels.astype(np.int64)] += 1 - smoothing
    if recipe.mixup_alpha > 0:
        share = np.random.default_rng(seed).beta(recipe.mixup_alpha, recipe.mixup_alpha)
        # The own image keeps the larger share, so that the training accuracy means something.
        share = np.float32(max(share, 1 - share))
        images = share * images + (1 - share) * images[::-1]
        targets = share * targets + (1 - share) * targets[::-1]
    return images, targets
