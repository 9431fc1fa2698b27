"""What maps look like on calibration images: their ranges, and the sizes of their channels."""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from igcnet.convert import expand
from igcnet.convert.operators import effective_attributes
from igcnet.convert.original import INPUT
from igcnet.convert.symbol_json import to_mxnet
from igcnet.deploy.model import Model
from igcnet.deploy.runtimes import block_of
from igcnet.errors import CheckpointError

Range = Tuple[float, float]
Ranges = Dict[str, Range]
# One in so many values at either end may be a stray one, which must not make the steps of all
# others coarse.
STRAY = 25000
MOST_VALUES = 100000  # of each map and batch
BINS = 1024
SHRINKAGES = np.linspace(0.3, 1, 36)
SWEEPS = 2  # over the two ends of a range


def map_ranges(model: Model, batches: Iterable[np.ndarray]) -> Ranges:
    """Range of the output of every node on calibration images, with a zero point.

    Maps that only move the values of another one have its range, so that they are not rounded
    twice.

    Parameters
    ----------
    batches : iterable of array
        (N, channels, height, width), prepared as the model takes them.

    Raises
    ------
    CheckpointError
        A map has values that are not finite, or there are no images.
    """
    found = ranges_of(*all_maps(model), batches)
    nodes = model.graph.nodes
    for node in nodes:
        if node.name in found and (node.op == 'Reorder' or (
                node.op == 'Pooling' and effective_attributes(
                    node.op, node.attributes)['pool_type'] == 'max')):
            found[node.name] = found[nodes[node.inputs[0][0]].name]
    return found


def ranges_of(names: List[str], block: SymbolBlock, batches: Iterable[np.ndarray],
              symmetric: bool = False) -> Ranges:
    """Ranges of the outputs of `block`, called `names`: the means of the best of each batch.

    Parameters
    ----------
    symmetric : bool
        As of `best_range`.
    """
    found: Dict[str, List[Range]] = {}
    for name, values in computed(names, block, batches):
        flat = values.ravel()
        found.setdefault(name, []).append(
            best_range(flat[::max(1, flat.size // MOST_VALUES)], symmetric))
    return {name: tuple(np.mean(limits, axis=0).tolist()) for name, limits in found.items()}


def channel_sizes(model: Model, batches: Iterable[np.ndarray]) -> Dict[str, np.ndarray]:
    """The largest absolute value in each channel of every map, at some places, by name."""
    found: Dict[str, np.ndarray] = {}
    for name, values in computed(*all_maps(model), batches):
        if values.ndim > 1:
            rows = np.abs(values.swapaxes(0, 1).reshape(values.shape[1], -1))
            size = rows[:, ::max(1, rows.size // MOST_VALUES)].max(axis=1)
            found[name] = np.maximum(found.get(name, 0), size)
    return found


def best_range(values: np.ndarray, symmetric: bool = False) -> Range:
    """The range whose 256 steps change `values` least, by the mean square, but for stray ones.

    Large values may be cut off where that makes the steps of all others finer.

    Parameters
    ----------
    values : (N,)
    symmetric : bool
        Negative values are to have a range with 0 in its middle.
    """
    stray = -(-values.size // STRAY) if values.size > STRAY // 10 else 0
    ordered = np.partition(values, [stray, values.size - 1 - stray])
    low, high = float(ordered[stray]), float(ordered[-1 - stray])
    if symmetric and low < 0:
        high = max(-low, high)
        low = -high
    low, high = min(low, 0.0), max(high, 0.0)
    if not np.isfinite([low, high]).all() or low == high:
        return low, high
    counts, edges = np.histogram(np.clip(values.astype(np.float64), low, high), BINS)
    centres = (edges[:-1] + edges[1:]) / 2

    def error(limits: Range) -> float:
        scale, zero = map_scale(*limits)
        rounded = (np.clip(np.rint(centres / scale) + zero, 0, 255) - zero) * scale
        return float(np.dot(counts, (rounded - centres) ** 2))

    best = low, high
    if symmetric:
        return min(((low * part, high * part) for part in SHRINKAGES), key=error)
    for _ in range(SWEEPS):
        best = min(((best[0], high * part) for part in SHRINKAGES), key=error)
        best = min(((low * part, best[1]) for part in SHRINKAGES), key=error)
    return best


def map_scale(low: float, high: float) -> Tuple[float, int]:
    """Step and zero point of a map's 256 values, so that 0 is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def rounded_to(values: np.ndarray, limits: Range) -> np.ndarray:
    """`values` rounded to the 256 values of a range."""
    scale, zero = map_scale(*limits)
    return ((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)


def all_maps(model: Model) -> Tuple[List[str], SymbolBlock]:
    """Names of all maps, the input among them, and a block that computes them."""
    internals = to_mxnet(expand(model.graph)).get_internals()
    names = [node.name for node in model.graph.nodes
             if not node.is_variable and node.output_counts()[0] == 1]
    outputs = [internals[name + '_output'] for name in names]
    return [INPUT, *names], block_of(mx.sym.Group([internals[INPUT], *outputs]), model.arrays)


def computed(names: List[str], block: SymbolBlock, batches: Iterable[np.ndarray]
             ) -> Iterator[Tuple[str, np.ndarray]]:
    """Name and values of every output of `block`, batch by batch.

    Raises
    ------
    CheckpointError
        Values that are not finite, or no batch.
    """
    empty = True
    for images in batches:
        empty = False
        for name, values in zip(names, block(mx.nd.array(images))):
            array = values.asnumpy()
            if not np.isfinite(array).all():
                raise CheckpointError('calibration: %s has values that are not finite' % name)
            yield name, array
    if empty:
        raise CheckpointError('calibration: there are no images')
