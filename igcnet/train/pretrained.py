"""Starting from the weights in a file of any layout that the package reads."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from igcnet.convert import read_ndarrays, set_parameters
from igcnet.convert.torch_convert import MismatchError, family_of, match_torch
from igcnet.deploy.conversion import is_ndarray_file
from igcnet.deploy.released import Release, find_release
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.registry import ModelSpec
from igcnet.train.settings import RunSettings


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


def with_released(settings: RunSettings) -> RunSettings:
    """`settings` with those of the released weights that the run starts from, if it does.

    The number of classes is a matter of the data, for the classifier is new.
    """
    if settings.pretrained is not True:
        return settings
    release = _release_of(settings)
    return settings.changed(network_settings={key: value for key, value in release.settings.items()
                                              if key != 'classes'})


def released_file(settings: RunSettings) -> Path:
    """The file of the released weights, its checksum verified."""
    release = _release_of(settings)
    release.verify()
    return release.params


def _release_of(settings: RunSettings) -> Release:
    return find_release(settings.network, {key: value for key, value
                                           in settings.network_settings.items()
                                           if key != 'classes'})
