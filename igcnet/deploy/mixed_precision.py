"""A model in eight bits that stays near its float32 outputs: what is rounded, and what is not."""

from __future__ import annotations

from typing import Callable, Dict, FrozenSet, List, NamedTuple, Sequence, Tuple

import numpy as np

from igcnet.deploy.calibration import Ranges, map_ranges
from igcnet.deploy.int8 import gate_nodes, grouped_convolutions, mxnet_ranges
from igcnet.deploy.model import Model
from igcnet.deploy.rounding import round_weights, with_weights_of
from igcnet.deploy.runners import MXNET_INT8, RUNNERS
from igcnet.deploy.runtimes import mxnet_runner

# Largest error of the logits by default, see `logits_error`.
INT8_TOLERANCE = 0.06
# Calibration images on which the whole is compared, and single layers.
MOST_COMPARED = 128
MOST_FOR_LAYERS = 16
SUMS = ('elemwise_add', 'broadcast_add')


class EightBits(NamedTuple):
    """How a model is computed in eight bits.

    Parameters
    ----------
    ranges : dict
        Of the maps.
    in_float : dict
        Layers that stay in float32 because their error is too large: the error of the logits with
        only that layer in eight bits, largest first.
    error : float
        Of the logits on calibration images, see `logits_error`.
    """

    ranges: Ranges
    in_float: Dict[str, float]
    error: float

    def explain(self) -> List[str]:
        """For people."""
        return ['%s stays in float32: alone in eight bits it changes the logits by %.2g' % layer
                for layer in self.in_float.items()]


def in_eight_bits(model: Model, runner: str, batches: Sequence[np.ndarray],
                  tolerance: float = INT8_TOLERANCE) -> Tuple[Model, EightBits]:
    """`model` with weights as eight bits want them, and how it is to be computed.

    Parameters
    ----------
    runner : str
        'mxnet-int8', for which the model is that of `igcnet.deploy.int8.ungrouped`, or
        'onnxruntime-int8'.
    batches : sequence of array
        Calibration images.
    tolerance : float
        Layers stay in float32 until the error of the logits (`logits_error`) on calibration
        images is no larger.
    """
    never = gate_nodes(model)
    if runner == MXNET_INT8:
        # It rounds weights on a grid of its own: those that are rounded already become worse.
        ranges, rounded = mxnet_ranges(model, batches), model
        never |= grouped_convolutions(model)
    else:
        ranges = map_ranges(model, batches)
        rounded = round_weights(model, batches, ranges, never)
    layers = [node.name for node in model.graph.nodes if node.name not in never and (
        node.op == 'Convolution' or (node.op in SUMS and runner != MXNET_INT8))]
    images = np.concatenate(batches)
    images = images[::-(-len(images) // MOST_COMPARED)]
    few = -(-len(images) // MOST_FOR_LAYERS)
    expected = mxnet_runner(model, fused=False)(images)

    def error(in_float: FrozenSet[str], step: int = 1) -> float:
        mixed = with_weights_of(rounded, model, in_float)
        return logits_error(expected[::step], RUNNERS[runner](
            mixed, ranges, in_float)(images[::step]))

    def alone(layer: str) -> float:
        return error(frozenset(layers) - {layer}, few)

    kept = keep_in_float(layers, error, alone, tolerance)
    return (with_weights_of(rounded, model, kept),
            EightBits(ranges, kept, error(frozenset(kept))))


def keep_in_float(layers: Sequence[str], error: Callable[[FrozenSet[str]], float],
                  alone: Callable[[str], float], tolerance: float) -> Dict[str, float]:
    """The layers that must stay in float32, those with the largest errors, with these.

    Parameters
    ----------
    error : callable
        Error of the whole when the given layers are in float32 and the others in eight bits.
    alone : callable
        Error of the whole when only the given layer is in eight bits.
    tolerance : float
        Largest error wanted.
    """
    if error(frozenset()) <= tolerance:
        return {}
    errors = {layer: alone(layer) for layer in layers}
    ordered = sorted(layers, key=lambda layer: -errors[layer])
    few, enough = 0, len(ordered)
    while enough - few > 1:
        count = (few + enough) // 2
        if error(frozenset(ordered[:count])) <= tolerance:
            enough = count
        else:
            few = count
    return {layer: errors[layer] for layer in ordered[:enough]}


def logits_error(expected: np.ndarray, got: np.ndarray) -> float:
    """Root mean square error of logits (N, classes), as a part of their own root mean square.

    Each image's logits count from their mean, which decides nothing. 0.1 is a signal to noise
    ratio of 20 dB.
    """
    expected, got = (logits - logits.mean(axis=1, keepdims=True) for logits in (expected, got))
    return float(np.sqrt(np.square(got - expected).sum() / np.square(expected).sum()))
