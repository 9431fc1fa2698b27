"""Weights rounded to eight bits so that the outputs change least.

Rounding every weight to the nearest value is not best: the inputs of a convolution are correlated,
and so the error of one weight can be made up for by those behind it, as in Optimal Brain Surgeon
and GPTQ (Frantar et al., arXiv 2210.17323). What is left of the mean error of an output, with that
of rounding the input, goes into the bias (Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Set, Tuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from igcnet.deploy.calibration import Range, all_maps, computed, rounded_to
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import attributes_of, bias_of, is_plain_convolution, store

MOST_PLACES = 1024  # of each layer and batch
# Weights of an output with more inputs than this are rounded to the nearest value.
MOST_INPUTS = 1024
DAMPING = 0.01
LARGEST = 127


def round_weights(model: Model, batches: Iterable[np.ndarray], ranges: Mapping[str, Range],
                  in_float: Set[str]) -> Model:
    """`model` with the weights of its convolutions on a grid of eight bits for each output.

    The largest weight of each output channel becomes `LARGEST` steps, so that whoever takes its
    size for the scale finds the same grid.

    Parameters
    ----------
    batches : iterable of array
        Calibration images, as of `igcnet.deploy.calibration.map_ranges`.
    ranges : mapping
        Of the maps: their rounding is made up for in the biases as well.
    in_float : set of str
        Names of convolutions that stay as they are.
    """
    editor = Editor(model)
    layers: Dict[str, List[_Layer]] = {}
    for index in editor.find('Convolution'):
        node = editor.nodes[index]
        if is_plain_convolution(editor, index) and node.name not in in_float:
            layers.setdefault(editor.nodes[editor.source(index)].name, []).append(
                _Layer(editor, index))
    for name, values in computed(*all_maps(model), batches):
        for layer in layers.get(name, ()):
            layer.see(values, ranges[name])
    for layer in (layer for readers in layers.values() for layer in readers):
        layer.finish(editor)
    return editor.finish()


def with_weights_of(model: Model, other: Model, names: Iterable[str]) -> Model:
    """`model` with the weights that the convolutions of these names have in `other`."""
    editor, source, names = Editor(model), Editor(other), set(names)
    others = {source.nodes[index].name: index for index in source.find('Convolution')}
    for index in editor.find('Convolution'):
        name = editor.nodes[index].name
        if name in names:
            store(editor, index, source.value(others[name], 1), bias_of(source, others[name]))
    return editor.finish()


class _Layer:
    """A convolution and the statistics of its inputs: mean and second moments for each group."""

    def __init__(self, editor: Editor, index: int):
        self.index = index
        self.attributes = attributes_of(editor, index)
        self.shape = editor.value(index, 1).shape
        groups, inputs = self.attributes['num_group'], int(np.prod(self.shape[1:]))
        self.generator = np.random.RandomState(0)
        self.count = 0
        self.sum, self.rounded_sum = np.zeros((2, groups, inputs))
        self.products = np.zeros((groups, inputs, inputs)) if inputs <= MOST_INPUTS else None

    def see(self, values: np.ndarray, limits: Range) -> None:
        """Take inputs (N, channels, H, W) at some random places into the statistics."""
        patches = self._patches(values)
        self.count += patches.shape[1]
        self.sum += patches.sum(axis=1)
        self.rounded_sum += rounded_to(patches, limits).sum(axis=1)
        if self.products is not None:
            self.products += patches.swapaxes(1, 2) @ patches

    def _patches(self, values: np.ndarray) -> np.ndarray:
        """What some outputs are computed from: (groups, places, inputs)."""
        a, groups = self.attributes, self.attributes['num_group']
        padded = np.pad(values, ((0, 0), (0, 0), *((pad, pad) for pad in a['pad'])))
        extents = [(kernel - 1) * step + 1 for kernel, step in zip(a['kernel'], a['dilate'])]
        windows = sliding_window_view(padded, extents, axis=(2, 3))[
            :, :, ::a['stride'][0], ::a['stride'][1], ::a['dilate'][0], ::a['dilate'][1]]
        count, _, height, width = windows.shape[:4]
        places = self.generator.choice(count * height * width, min(
            MOST_PLACES, count * height * width), replace=False)
        image, row, column = np.unravel_index(places, (count, height, width))
        found = windows[image, :, row, column].reshape(len(places), groups, -1)
        return found.swapaxes(0, 1).astype(np.float64)

    def finish(self, editor: Editor) -> None:
        """Round the weight, and make up for the mean error in the bias."""
        groups = len(self.sum)
        weight = editor.value(self.index, 1).astype(np.float64)
        rows = weight.reshape(groups, self.shape[0] // groups, -1)
        mean, rounded_mean = self.sum / self.count, self.rounded_sum / self.count
        moments = None
        if self.products is not None:
            moments = self.products / self.count - mean[:, :, None] * mean[:, None, :]
        rounded = round_rows(rows, moments)
        error = (np.einsum('gri,gi->gr', rounded, rounded_mean)
                 - np.einsum('gri,gi->gr', rows, mean)).ravel()
        store(editor, self.index, rounded.reshape(self.shape).astype(np.float32),
              (bias_of(editor, self.index) - error).astype(np.float32))


def round_rows(rows: np.ndarray, moments: Optional[np.ndarray]) -> np.ndarray:
    """Rows of weights rounded to whole steps, the largest of each to `LARGEST`.

    Parameters
    ----------
    rows : (groups, outputs, inputs)
    moments : (groups, inputs, inputs), optional
        Covariance of the inputs: each weight then makes up for the errors of those before it.
        Without, each is rounded to the nearest step.
    """
    scale, largest = row_scale(rows)
    if moments is None:
        return np.rint(rows / scale) * scale
    factor = _inverse_factor(moments)
    rows, rounded = rows.copy(), np.empty_like(rows)
    for place in range(rows.shape[2]):
        steps = np.clip(np.rint(rows[:, :, place] / scale[:, :, 0]), -LARGEST, LARGEST)
        steps = np.where(largest[:, :, place] != 0, LARGEST * largest[:, :, place], steps)
        rounded[:, :, place] = steps * scale[:, :, 0]
        error = (rows[:, :, place] - rounded[:, :, place]) / factor[:, None, place, place]
        rows[:, :, place:] -= error[:, :, None] * factor[:, None, place, place:]
    return rounded


def row_scale(rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Step of each row, its last axis, and the sign of its largest weight, at that place."""
    sizes = np.abs(rows)
    scale = np.maximum(sizes.max(axis=-1, keepdims=True), 1e-12) / LARGEST
    first = sizes.argmax(axis=-1)[..., None] == np.arange(rows.shape[-1])
    return scale, np.where(first, np.sign(rows), 0)


def _inverse_factor(moments: np.ndarray) -> np.ndarray:
    """Upper triangular U with ``U.T @ U`` the inverse of the moments, a little damped."""
    size = moments.shape[-1]
    strength = np.trace(moments, axis1=1, axis2=2) / size
    damped = moments + (DAMPING * strength + 1e-12)[:, None, None] * np.eye(size)
    return np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
