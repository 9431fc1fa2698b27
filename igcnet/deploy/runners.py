"""The ways to run a model, by name.

========================  ======================================================================
``mxnet``                 MXNet, operator by operator: the stock way
``mxnet-fused``           MXNet with its oneDNN subgraphs
``mxnet-int8``            the same with convolutions in eight bits
``native``                the inference engine, where it is built
``onnxruntime``           ONNX Runtime
``onnxruntime-int8``      the same with convolutions in eight bits
========================  ======================================================================
"""

from __future__ import annotations

from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from igcnet.deploy.calibration import Range, map_ranges
from igcnet.deploy.compiling import compile_model
from igcnet.deploy.engine import Engine
from igcnet.deploy.int8 import (
    gate_nodes,
    int8_block,
    mxnet_ranges,
    quantize_onnx,
    ungrouped,
)
from igcnet.deploy.model import Model
from igcnet.deploy.onnx_form import to_onnx
from igcnet.deploy.runtimes import (
    Runner,
    block_runner,
    import_runtime,
    mxnet_runner,
    onnx_runner,
    session_runner,
)
from igcnet.deploy.verify import random_images
from igcnet.errors import UsageError
from igcnet.native.library import ENGINE, engine_missing

NATIVE = 'native'
INT8 = '-int8'
MXNET_INT8 = 'mxnet-int8'
# What a network can be made for: the ways to run it there, the usual one first. The files of
# 'mxnet' are run by the engine where that is faster, those of 'mxnet-alone' never.
TARGETS: Dict[str, Tuple[str, ...]] = {
    'mxnet': ('mxnet-fused', 'mxnet', NATIVE, MXNET_INT8),
    'mxnet-alone': ('mxnet-fused', 'mxnet', MXNET_INT8),
    'onnxruntime': ('onnxruntime', 'onnxruntime-int8'),
    NATIVE: (NATIVE,)}


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


def native_runner(model: Model) -> Runner:
    """Compute `model` by the inference engine.

    Raises
    ------
    UsageError
        A node has no native form.
    IgcnetError
        The engine is not built.
    """
    return Engine(compile_model(model)).run


RUNNERS: Dict[str, Callable[[Model], Runner]] = {
    'mxnet': lambda model: mxnet_runner(model, fused=False), 'mxnet-fused': mxnet_runner,
    MXNET_INT8: mxnet_int8_runner, 'onnxruntime': onnx_runner,
    'onnxruntime-int8': onnx_int8_runner, NATIVE: native_runner}


def runners_of(target: str, int8: bool) -> List[str]:
    """The ways to run a target's models that there are on this machine, the usual one first.

    Raises
    ------
    UsageError
        An unknown target, or one without a form in eight bits.
    """
    if target not in TARGETS:
        raise UsageError('target=%r: must be one of %s' % (target, ', '.join(TARGETS)))
    found = [name for name in TARGETS[target] if name.endswith(INT8) is int8]
    if not found:
        raise UsageError('target=%r: there is no form in eight bits' % target)
    # The engine is not needed where there is another way.
    return [name for name in found if name != NATIVE or len(found) == 1 or not engine_missing()]


def stock_way(target: str) -> str:
    """The way to run a network as it is against which a target's speed-up is given."""
    return 'onnxruntime' if target == 'onnxruntime' else 'mxnet'


def version_of(runner: str) -> str:
    """The version of what runs the models."""
    if runner == NATIVE:
        return ENGINE.fingerprint()
    return import_runtime(runner.split('-')[0]).__version__
