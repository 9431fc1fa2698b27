"""Running a model: MXNet and ONNX Runtime.

A runner is a function from images (N, channels, height, width) to logits (N, classes), both
float32 numpy arrays.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Callable, Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from igcnet._backend import default_threads
from igcnet.convert import expand
from igcnet.convert.original import INPUT
from igcnet.convert.symbol_json import to_mxnet
from igcnet.deploy.model import Model
from igcnet.deploy.onnx_form import to_onnx
from igcnet.errors import UsageError

Runner = Callable[[np.ndarray], np.ndarray]
FUSION = 'MKLDNN'


def mxnet_runner(model: Model, fused: bool = True) -> Runner:
    """Compute `model` by MXNet on the CPU, with its oneDNN subgraphs if `fused`."""
    return block_runner(to_block(model), fused)


def to_block(model: Model) -> SymbolBlock:
    """A model as a Gluon block with parameters on the CPU."""
    return block_of(to_mxnet(expand(model.graph)), model.arrays)


def block_of(symbol: mx.sym.Symbol, arrays: Mapping[str, Any]) -> SymbolBlock:
    """A symbol with the input ``data`` as a Gluon block with parameters on the CPU.

    Parameters
    ----------
    arrays : mapping
        Values of the parameters by name, arrays of numpy or MXNet.
    """
    with warnings.catch_warnings():
        # It wants a type for the input, but takes float32 for everything without one.
        warnings.simplefilter('ignore', UserWarning)
        block = SymbolBlock(symbol, mx.sym.var(INPUT))
    for name, parameter in block.collect_params().items():
        value = arrays[name]
        parameter.shape, parameter.dtype = value.shape, value.dtype
        parameter.initialize(mx.init.Zero(), ctx=mx.cpu(), force_reinit=True)
        parameter.set_data(value if isinstance(value, mx.nd.NDArray) else mx.nd.array(value))
    return block


def block_runner(block: Any, fused: bool = True) -> Runner:
    """Compute a Gluon block by MXNet on the CPU, as `mxnet_runner`."""
    ready = []

    def run(images: np.ndarray) -> np.ndarray:
        x = mx.nd.array(images)
        if not ready:
            block.hybridize(static_alloc=True, static_shape=True)
            if fused:
                block.optimize_for(x, backend=FUSION, static_alloc=True, static_shape=True)
            ready.append(True)
        return block(x).asnumpy()
    return run


def onnx_runner(model: Model) -> Runner:
    """Compute `model` by ONNX Runtime on the CPU.

    Raises
    ------
    UsageError
        onnx or onnxruntime is not installed, or the graph has no ONNX form.
    """
    return session_runner(to_onnx(model).SerializeToString())


def session_runner(source: Any) -> Runner:
    """Compute an ONNX model by ONNX Runtime on the CPU.

    Parameters
    ----------
    source : str or bytes
        Path of a file, or its content.
    """
    session = open_session(source)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_session(source: Any) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU with as many threads as MXNet has."""
    onnxruntime = import_runtime('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


def import_runtime(name: str) -> Any:
    """The package of this name.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError('%s is not installed%s' % (name, {
            'onnxruntime': ": pip install -c constraints.txt '.[onnx]'",
            'torch': ": pip install -c constraints.txt '.[torch]'"}.get(name, ''))) from None
