"""Targets that are no single class: label smoothing, mixed and pasted images."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

from igcnet.train.recipes import Recipe


def soft_targets(recipe: Recipe) -> bool:
    """Whether the targets of a recipe are distributions over the classes."""
    return recipe.label_smoothing > 0 or recipe.mixup_alpha > 0 or recipe.cutmix_alpha > 0


def soften(images: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe,
           seed: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Label smoothing, and mixup or cutmix with the reversed batch.

    Parameters
    ----------
    images : (N, 3, H, W)
    labels : (N,)
    classes : int
    seed : sequence of int
        Of what is drawn, once for the batch: which of the two if the recipe has both, the share
        with which images are mixed, the place of the box.

    Returns
    -------
    images : (N, 3, H, W)
    targets : float32 (N, classes)
    """
    smoothing = recipe.label_smoothing
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels.astype(np.int64)] += 1 - smoothing
    draw, share = np.random.default_rng(seed), np.float32(1)
    if recipe.cutmix_alpha > 0 and (not recipe.mixup_alpha or draw.random() < 0.5):
        images, share = cutmix(images, recipe.cutmix_alpha, draw)
    elif recipe.mixup_alpha > 0:
        images, share = mixup(images, recipe.mixup_alpha, draw)
    return images, share * targets + (1 - share) * targets[::-1]


def mixup(images: np.ndarray, alpha: float,
          draw: np.random.Generator) -> Tuple[np.ndarray, np.float32]:
    """Each image mixed with that of the reversed batch; also its share, drawn from Beta(alpha).

    Source: Zhang, Cisse, Dauphin, Lopez-Paz: mixup (arXiv 1710.09412).
    """
    share = draw.beta(alpha, alpha)
    # The own image keeps the larger share, so that the training accuracy means something.
    share = np.float32(max(share, 1 - share))
    return share * images + (1 - share) * images[::-1], share


def cutmix(images: np.ndarray, alpha: float,
           draw: np.random.Generator) -> Tuple[np.ndarray, np.float32]:
    """A box of each image replaced by that of the reversed batch; also the share that is left.

    The box has the image's shape and the area that Beta(alpha) gives, its centre is anywhere, and
    what lies outside the image is cut off.

    Source: Yun et al.: CutMix (arXiv 1905.04899).
    """
    height, width = images.shape[2:]
    side = np.sqrt(1 - draw.beta(alpha, alpha))
    (top, bottom), (left, right) = (
        np.clip(draw.integers(extent) + np.array([-1, 1]) * (int(extent * side) // 2), 0, extent)
        for extent in (height, width))
    pasted = images.copy()
    pasted[:, :, top:bottom, left:right] = images[::-1, :, top:bottom, left:right]
    return pasted, np.float32(1 - (bottom - top) * (right - left) / (height * width))
