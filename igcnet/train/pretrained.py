"""Starting from the weights in a file of any layout that the package reads."""

from __future__ import annotations

from typing import Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from igcnet.convert import read_ndarrays, set_parameters
from igcnet.convert.torch_convert import MismatchError, family_of, match_torch
from igcnet.deploy.conversion import is_ndarray_file
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.registry import ModelSpec


def load_weights(net: HybridBlock, spec: ModelSpec, path: PathLike,
                 contexts: Sequence[mx.Context], new_classifier: bool = False) -> None:
    """Load a ``.params`` file of MXNet, or a checkpoint of the network's PyTorch original.

    Parameters
    ----------
    net : igcnet.layers.Network
        Initialised.
    spec : ModelSpec
        Of `net`, for the names in the original's checkpoint.
    new_classifier : bool
        Keep the classifier that `net` has; that of the file may have another number of classes,
        or be missing. All else must match.

    Raises
    ------
    CheckpointError
        The file is damaged, or does not fit.
    """
    kept = {p.name for p in net.output.collect_params().values()} if new_classifier else set()
    if is_ndarray_file(path):
        set_parameters(net, read_ndarrays(path), path, list(contexts), keep=kept)
        return
    try:
        family = family_of(spec)
    except UsageError:
        raise CheckpointError('%s: this is no .params file of MXNet, and %s has no PyTorch '
                              'original' % (path, spec.name)) from None
    matched = match_torch(net, family, path, allow_missing=new_classifier)
    needed = {where for where, parameter in net._collect_params_with_prefix().items()
              if parameter.name not in kept}
    if matched.report.unused or not needed <= set(matched.values):
        raise MismatchError(matched.report)
    set_parameters(net, matched.values, path, list(contexts), keep=kept)
