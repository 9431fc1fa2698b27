"""Checkpoint files of the originals to exported networks, and back.

What `to_mxnet` writes is what training and ``igcnet evaluate`` write and read. A PyTorch file also
leaves ``<prefix>-origin.pt``, from which `to_torch` restores everything that is no parameter.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert import load_network, load_parameters, write_ndarrays
from igcnet.convert.ndarray_file import LIST_MAGIC, file_size
from igcnet.convert.torch_convert import Report, family_of, load_torch, save_torch
from igcnet.convert.torch_origin import origin_path, read_origin, write_origin
from igcnet.deploy.export import export, exported_paths
from igcnet.errors import CheckpointError
from igcnet.files import PathLike, sha256
from igcnet.registry import ModelSpec, get_model


class Converted(NamedTuple):
    """What `to_mxnet` made.

    Parameters
    ----------
    params : Path
        The parameter file.
    symbol : Path or None
        The symbol file; None when the network has parameters that no single graph shows, as
        those with several widths do.
    origin : Path or None
        What the PyTorch file held besides; None for a file of MXNet.
    report : Report or None
        What became of its entries; None for a file of MXNet.
    values : dict
        Arrays by parameter name, as the PyTorch file holds them.
    """

    params: Path
    symbol: Optional[Path]
    origin: Optional[Path]
    report: Optional[Report]
    values: Dict[str, np.ndarray]

    def load(self, spec: ModelSpec, settings: Mapping[str, Any]) -> HybridBlock:
        """The network, from the files that were written."""
        if self.symbol is not None:
            return load_network(symbol=self.symbol, params=self.params)
        return load_network(params=self.params, network=spec.name, **settings)


def to_mxnet(spec: ModelSpec, settings: Mapping[str, Any], source: PathLike, prefix: PathLike,
             allow_missing: bool = False) -> Converted:
    """Convert an original's checkpoint and write it as ``<prefix>-0000.params`` and so on.

    Parameters
    ----------
    spec, settings
        Of the network, as for `igcnet.get_model`.
    source : path
        A file of PyTorch, or a ``.params`` file of MXNet in any layout.
    allow_missing : bool
        Take over what fits, see `igcnet.convert.torch_convert.load_torch`.

    Raises
    ------
    UsageError, CheckpointError
        The family has no original of this kind; the file is damaged, refused, or does not fit.
    """
    net = get_model(spec.name, **settings)
    if is_ndarray_file(source):
        load_parameters(net, source, allow_missing=allow_missing, ignore_extra=allow_missing)
        params, symbol = write_network(net, spec, settings, prefix)
        return Converted(params, symbol, None, None, {})
    matched = load_torch(net, family_of(spec), source, allow_missing)
    params, symbol = write_network(net, spec, settings, prefix)
    path = origin_path(params)
    write_origin(path, matched.origin, sha256(params, CheckpointError),
                 file_size(source, 'checkpoint'))
    parameters = net._collect_params_with_prefix()
    return Converted(params, symbol, path, matched.report,
                     {parameters[where].name: value for where, value in matched.values.items()})


def write_network(net: HybridBlock, spec: ModelSpec, settings: Mapping[str, Any],
                  prefix: PathLike) -> Tuple[Path, Optional[Path]]:
    """Export `net`, or only its parameters if its graph does not show all of them.

    Returns
    -------
    (Path, Path or None)
        The parameter file and the symbol file.
    """
    parameters = net.collect_params()
    if set(parameters) <= set(net(mx.sym.var('data')).list_inputs()):
        symbol, params, _ = export(net, prefix, spec.preprocessing, spec.name, dict(settings))
        return params, symbol
    params = exported_paths(prefix)[1]
    write_ndarrays(params, {
        ('aux:' if parameter.grad_req == 'null' else 'arg:') + name: parameter.data().asnumpy()
        for name, parameter in parameters.items()})
    return params, None


def to_torch(spec: ModelSpec, settings: Mapping[str, Any], params: PathLike, path: PathLike,
             origin: Optional[PathLike] = None, container: Optional[str] = None,
             allow_missing: bool = False) -> int:
    """Write the parameters in a ``.params`` file as a checkpoint of the PyTorch original.

    Parameters
    ----------
    spec : ModelSpec
    settings : mapping
        The network, and what differs from its named configuration.
    params, path : path
        The file to read, and the one to write.
    origin : path, optional
        File from `to_mxnet` with everything that is no parameter; see `fitting_origin`.
    container : str, optional
        'legacy' or 'zip'; by default that of the origin, or the original's.

    Returns
    -------
    int
        Number of entries in the state_dict.
    """
    net, family = get_model(spec.name, **settings), family_of(spec)
    load_parameters(net, params, allow_missing=allow_missing, ignore_extra=allow_missing)
    known = None if origin is None else read_origin(origin)[0]
    return len(save_torch(net, family, path, known, spec.name, container))


def fitting_origin(params: PathLike) -> Optional[Path]:
    """The origin beside a parameter file, if there is one and it belongs to these parameters.

    Parameters that have been trained since are others: an epoch or momentum of the file that
    they once came from says nothing about them.
    """
    path = origin_path(params)
    if path.is_file() and read_origin(path)[1] == sha256(params, CheckpointError):
        return path
    return None


def is_ndarray_file(path: PathLike) -> bool:
    """Whether `path` is a ``.params`` file of MXNet, by its first bytes."""
    file_size(path, 'checkpoint')
    try:
        with open(os.fspath(path), 'rb') as stream:
            return stream.read(8) == struct.pack('<Q', LIST_MAGIC)
    except OSError as problem:
        raise CheckpointError('%s: cannot read this checkpoint (%s)'
                              % (path, problem.strerror)) from None
