"""Loading parameter files into networks, by name and with every fault in one line."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, Parameter

from igcnet.convert.ndarray_file import read_ndarrays
from igcnet.errors import CheckpointError
from igcnet.files import PathLike

# Where parameters go; None: where they are, or the current context.
Contexts = Union[mx.Context, Sequence[mx.Context], None]

KIND = re.compile(r'(arg|aux):')
# Not parameters: the label input of a loss, which some writers keep.
LABEL = re.compile(r'.*label')
# The published ImageNet files call a block's units conv1 and conv2, the present script igc1, igc2.
UNIT = re.compile(r'(g\d+_b\d+_)(igc|conv)([12]_(?:conv[12]_weight|bn_[a-z_]+))')
NAMES_SHOWN = 3


def load_parameters(net: HybridBlock, path: PathLike, ctx: Contexts = None,
                    allow_missing: bool = False, ignore_extra: bool = False) -> None:
    """Load a ``.params`` file into `net`, which need not be initialised.

    Accepted names are those of a checkpoint (``arg:g0_conv_weight``, ``aux:...``), plain
    parameter names (``g0_conv_weight``), Gluon's ``save_parameters`` names
    (``features.g0.conv.weight``), and for the IGC ImageNet networks those of the published files
    (``g1_b1_conv1_conv1_weight`` for ``g1_b1_igc1_conv1_weight``) and the other way round.

    Parameters
    ----------
    net : HybridBlock
        Changed only after the whole file has been checked.
    ctx : Context or list of Context, optional
        Where the parameters go; by default where they are, or the current context.
    allow_missing : bool
        Leave parameters that the file does not have as they are; they are initialised when they
        are not yet.
    ignore_extra : bool
        Ignore arrays that the network does not have.

    Raises
    ------
    CheckpointError
        The file is damaged, or does not fit; the message counts and names what is missing,
        unexpected, and of another shape.
    """
    set_parameters(net, read_ndarrays(path), path, ctx, allow_missing, ignore_extra)


def set_parameters(net: HybridBlock, arrays: Mapping[str, np.ndarray], source: PathLike,
                   ctx: Contexts = None, allow_missing: bool = False,
                   ignore_extra: bool = False,
                   keep: Collection[str] = ()) -> None:
    """As `load_parameters`, from arrays in memory; `source` is what messages call them.

    The parameters named in `keep` stay as they are, whatever `arrays` has for them.
    """
    parameters = net.collect_params()
    given, extra = _assign(net, arrays, source)
    given = {name: array for name, array in given.items() if name not in keep}
    missing = [name for name in parameters if name not in given and name not in keep]
    misshapen = [(name, array.shape, parameters[name].shape) for name, array in given.items()
                 if not _fits(array.shape, parameters[name].shape)]
    faults = []
    if missing and not allow_missing:
        faults.append(_list_some('%d missing', missing))
    if extra and not ignore_extra:
        faults.append(_list_some('%d unexpected', extra))
    if misshapen:
        faults.append(_list_some('%d of another shape', [
            '%s: %s in the file, %s in the network' % (name, shape, _shape_text(expected))
            for name, shape, expected in misshapen]))
    if faults:
        raise CheckpointError('%s does not fit the network: %s' % (source, '; '.join(faults)))
    for name, array in given.items():
        _set(parameters[name], array, ctx)
    initializer = getattr(net, 'original_initializer', None) or mx.init.Uniform()
    for name in missing:
        _place(parameters[name], ctx, default_init=initializer)


def parameter_name(key: str) -> str:
    """The name in a ``.params`` file without ``arg:`` or ``aux:``."""
    return KIND.sub('', key, count=1) if KIND.match(key) else key


def _assign(net: HybridBlock, arrays: Mapping[str, np.ndarray],
            source: PathLike) -> Tuple[Dict[str, np.ndarray], List[str]]:
    """Arrays by the network's parameter names, and the names that it does not have."""
    known = {name: name for name in net.collect_params()}
    # Gluon has no public way to the names that save_parameters writes.
    for attribute_path, parameter in net._collect_params_with_prefix().items():
        known.setdefault(attribute_path, parameter.name)
    given, extra = {}, []
    for key, array in arrays.items():
        name = parameter_name(key)
        target = known.get(name) or known.get(_other_unit_name(name))
        if target is None:
            if not LABEL.fullmatch(name):
                extra.append(key)
        elif target in given and not np.array_equal(given[target], array):
            raise CheckpointError('%s: it has %s twice, with different values' % (source, target))
        else:
            given[target] = array
    return given, extra


def _other_unit_name(name: str) -> Optional[str]:
    match = UNIT.fullmatch(name)
    if not match:
        return None
    other = {'igc': 'conv', 'conv': 'igc'}[match.group(2)]
    return match.group(1) + other + match.group(3)


def _fits(shape: Tuple[int, ...], expected: Optional[Tuple[int, ...]]) -> bool:
    """Whether `shape` is `expected`, in which 0 and negative extents are unknown."""
    return expected is None or len(shape) == len(expected) and all(
        wanted <= 0 or extent == wanted for extent, wanted in zip(shape, expected))


def _shape_text(shape: Tuple[int, ...]) -> str:
    return str(shape) if min(shape) > 0 else '(%s)' % ', '.join(
        str(extent) if extent > 0 else '?' for extent in shape)


def _list_some(counted: str, items: Sequence[str]) -> str:
    more = ', ...' if len(items) > NAMES_SHOWN else ''
    return '%s (%s%s)' % (counted % len(items), ', '.join(items[:NAMES_SHOWN]), more)


def _set(parameter: Parameter, array: np.ndarray, ctx: Any) -> None:
    parameter.shape = array.shape
    _place(parameter, ctx, init='zeros')
    parameter.set_data(mx.nd.array(array, dtype=parameter.dtype))


def _place(parameter: Parameter, ctx: Any, **initializer: Any) -> None:
    """Make sure that a parameter has values, and on `ctx` if one is given."""
    try:
        parameter.list_data()
    except RuntimeError:  # not initialised, or waiting for its shape
        parameter.initialize(ctx=ctx or _chosen_contexts(parameter), force_reinit=True,
                             **initializer)
        return
    contexts = [ctx] if isinstance(ctx, mx.Context) else ctx
    if contexts and parameter.list_ctx() != list(contexts):
        parameter.reset_ctx(contexts)


def _chosen_contexts(parameter: Parameter) -> Optional[List[mx.Context]]:
    try:
        return parameter.list_ctx()
    except RuntimeError:
        return None
