"""Optimised networks as files, and ONNX files as networks.

The symbol form is a symbol file and a parameter file as of every exported network, in stock
operators. The ONNX form is one file, which holds a copy of the manifest.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert import expand, write_graph, write_ndarrays
from igcnet.convert.ndarray_file import file_size
from igcnet.deploy.export import MANIFEST_FORMAT, exported_paths, write_manifest
from igcnet.deploy.int8 import int8_block
from igcnet.deploy.model import Model
from igcnet.deploy.runners import MXNET_INT8, NATIVE, native_runner
from igcnet.deploy.runtimes import FUSION, Runner, open_session
from igcnet.errors import CheckpointError, IgcnetError, UsageError
from igcnet.files import PathLike, atomic_path
from igcnet.registry import Preprocessing

METADATA = 'igcnet'


def write_symbol_form(model: Model, prefix: PathLike, facts: Dict[str, Any]
                      ) -> Tuple[Path, Path, Path]:
    """Write ``<prefix>-symbol.json``, ``-0000.params`` and ``-manifest.json``.

    Parameters
    ----------
    facts : dict
        For the manifest, see `igcnet.deploy.export.manifest_facts`.
    """
    symbol, params, manifest = exported_paths(prefix)
    auxiliary = {model.graph.nodes[index].name for index in model.graph.auxiliary()}
    kinds = {name: 'aux:' if name in auxiliary else 'arg:' for name in model.arrays}
    names = sorted(model.arrays, key=lambda name: kinds[name] == 'aux:')
    write_ndarrays(params, {kinds[name] + name: model.arrays[name] for name in names})
    write_graph(symbol, expand(model.graph))
    write_manifest(manifest, facts, (symbol, params))
    return symbol, params, manifest


def write_onnx_form(made: Any, prefix: PathLike, facts: Dict[str, Any]) -> Tuple[Path, Path]:
    """Write ``<prefix>.onnx`` and ``<prefix>-manifest.json``.

    Parameters
    ----------
    made : onnx.ModelProto
        From `igcnet.deploy.onnx_form.to_onnx`.
    facts : dict
        For the manifest; a copy goes into the ONNX file.
    """
    path, manifest = Path(os.fspath(prefix) + '.onnx'), exported_paths(prefix)[2]
    for entry in [entry for entry in made.metadata_props if entry.key == METADATA]:
        made.metadata_props.remove(entry)
    entry = made.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(facts)
    with atomic_path(path) as temporary:
        temporary.write_bytes(made.SerializeToString())
    write_manifest(manifest, facts, (path,))
    return path, manifest


def pixel_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """What is left to do for a model that normalises its input itself: only the geometry."""
    return replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class OnnxNetwork(NamedTuple):
    """An ONNX file as a network.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Takes one array of images and gives the logits.
    manifest : dict or None
        What it says about itself; None for a file that is not ours.
    """

    session: Any
    manifest: Optional[Dict[str, Any]]

    def __call__(self, images: mx.nd.NDArray) -> mx.nd.NDArray:
        """Logits (N, classes) of images (N, 3, H, W)."""
        name = self.session.get_inputs()[0].name
        try:
            return mx.nd.array(self.session.run(None, {name: images.asnumpy()})[0])
        except Exception as problem:  # onnxruntime's own classes derive from it directly
            raise mx.MXNetError('Error in ONNX Runtime: %s' % str(problem).split('\n')[0]) from None


def load_onnx(path: PathLike) -> OnnxNetwork:
    """Open an ONNX file, ours or another classifier's.

    Raises
    ------
    UsageError
        onnxruntime is not installed.
    CheckpointError
        The file is missing or damaged, or does not take one array of images.
    """
    file_size(path, 'ONNX file')
    try:
        session = open_session(os.fspath(path))
        manifest = session.get_modelmeta().custom_metadata_map.get(METADATA)
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or 'float' not in inputs[0].type:
            raise ValueError('it does not take one array of images (N, 3, H, W)')
        found = None if manifest is None else json.loads(manifest)
        if found is not None and found.get('format') != MANIFEST_FORMAT:
            raise ValueError('its manifest is damaged')
    except UsageError:
        raise
    except Exception as problem:  # onnxruntime's own classes derive from it directly
        raise CheckpointError('%s: cannot use this ONNX file (%s)'
                              % (path, str(problem).strip().split('\n')[0][:200])) from None
    return OnnxNetwork(session, found)


class EngineNetwork(NamedTuple):
    """A network that the inference engine computes.

    Parameters
    ----------
    run : callable
        Gives the logits of images, see `igcnet.deploy.engine.Engine.run`.
    """

    run: Runner

    def __call__(self, images: mx.nd.NDArray) -> mx.nd.NDArray:
        """Logits (N, classes) of images (N, 3, H, W)."""
        try:
            return mx.nd.array(self.run(images.asnumpy()))
        except UsageError as problem:
            raise mx.MXNetError('Error in the inference engine: %s' % problem) from None


def ready(net: HybridBlock, manifest: Dict[str, Any], input_size: int, source: PathLike
          ) -> Callable[[mx.nd.NDArray], mx.nd.NDArray]:
    """A loaded symbol form in the way in which it is to be run on a CPU, as its manifest says.

    Where the inference engine is not built, MXNet takes its place and a line on stderr says why.

    Parameters
    ----------
    source : path
        What messages call the file.

    Raises
    ------
    CheckpointError
        The ranges for eight bits are damaged or belong to another graph.
    """
    runner = manifest.get('runner')
    if runner == MXNET_INT8:
        try:
            ranges = {str(name): (float(low), float(high))
                      for name, (low, high) in manifest['ranges'].items()}
            in_float = [str(name) for name in manifest.get('in_float', ())]
            if not np.isfinite(list(ranges.values())).all():
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CheckpointError('%s: the ranges for eight bits in its manifest are damaged'
                                  % source) from None
        return int8_block(Model.of(net, input_size), ranges, in_float)
    if runner == 'mxnet-fused':
        net.hybridize()
        net.optimize_for(mx.nd.zeros((1, 3, input_size, input_size)), backend=FUSION)
    if runner == NATIVE:
        try:
            return EngineNetwork(native_runner(Model.of(net, input_size)))
        except IgcnetError as problem:
            print('note: MXNet in place of the inference engine: %s' % problem, file=sys.stderr)
    return net
