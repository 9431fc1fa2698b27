"""The ways to run a model, by name.

========================  ======================================================================
``mxnet``                 MXNet, operator by operator: the stock way
``mxnet-fused``           MXNet with its oneDNN subgraphs
``mxnet-int8``            the same with convolutions in eight bits
``onnxruntime``           ONNX Runtime
``onnxruntime-int8``      the same with convolutions in eight bits
========================  ======================================================================
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Mapping, Optional

from igcnet.deploy.calibration import Range, map_ranges
from igcnet.deploy.int8 import (
    gate_nodes,
    int8_block,
    mxnet_ranges,
    quantize_onnx,
    ungrouped,
)
from igcnet.deploy.model import Model
from igcnet.deploy.onnx_form import to_onnx
from igcnet.deploy.runtimes import Runner, block_runner, mxnet_runner, onnx_runner, session_runner
from igcnet.deploy.verify import random_images

TARGETS = ('mxnet', 'onnxruntime')
INT8 = '-int8'


def mxnet_int8_runner(model: Model, ranges: Optional[Mapping[str, Range]] = None,
                      in_float: Iterable[str] = ()) -> Runner:
    """Compute `model` in eight bits by MXNet, but for the layers `in_float`; without ranges, with
    those of a random image."""
    model = ungrouped(model)
    if ranges is None:
        ranges = mxnet_ranges(model, [random_images(1, model.image_shape[-1], 0)])
    return block_runner(int8_block(model, ranges, in_float), fused=False)


def onnx_int8_runner(model: Model, ranges: Optional[Mapping[str, Range]] = None,
                     in_float: Iterable[str] = ()) -> Runner:
    """Compute `model` in eight bits by ONNX Runtime, but for the layers `in_float`; without ranges,
    with those of a random image."""
    if ranges is None:
        ranges = map_ranges(model, [random_images(1, model.image_shape[-1], 0)])
    made = quantize_onnx(to_onnx(model), ranges, {*in_float, *gate_nodes(model)})
    return session_runner(made.SerializeToString())


RUNNERS: Dict[str, Callable[[Model], Runner]] = {
    'mxnet': lambda model: mxnet_runner(model, fused=False), 'mxnet-fused': mxnet_runner,
    'mxnet-int8': mxnet_int8_runner, 'onnxruntime': onnx_runner,
    'onnxruntime-int8': onnx_int8_runner}


def runners_of(target: str, int8: bool) -> List[str]:
    """The ways to run a target's models, the stock way first."""
    return [name for name in RUNNERS
            if name.split('-')[0] == target and name.endswith(INT8) is int8]
