"""Parameters from the PyTorch originals into our networks, and back.

Which key belongs to which parameter is known by name, from the family's module in
`igcnet.convert.families`; nothing is matched by order or by shape. What a file holds besides the
network's parameters - numbers of batches, epoch, best accuracy, optimiser - is kept as its
`igcnet.convert.torch_origin.Origin`, so that the way back gives the same file.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import OrderedDict
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert.parameters import Contexts, set_parameters
from igcnet.convert.torch_file import LEGACY, TAR, read_torch
from igcnet.convert.torch_origin import Origin
from igcnet.convert.torch_report import Entry, Report
from igcnet.convert.torch_state import State, find_state, place_text, replace_state
from igcnet.convert.torch_writer import write_torch
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike


def family_of(spec: Any) -> ModuleType:
    """The module with the key map for a `ModelSpec`.

    Raises
    ------
    UsageError
        The family has no PyTorch original.
    """
    name = 'igcnet.convert.families.' + spec.family
    if importlib.util.find_spec(name) is None:
        raise UsageError('%s: no PyTorch original of the family %r is known, so there is nothing '
                         'to convert from or to' % (spec.name, spec.family))
    return importlib.import_module(name)


class MismatchError(CheckpointError):
    """A checkpoint does not fit a network; `report` says all about it, the message the worst."""

    def __init__(self, report: Report):
        super().__init__('%s does not fit the network: %s' % (report.source, report.faults()))
        self.report = report


class Matched(NamedTuple):
    """A checkpoint of an original, taken apart for a network.

    Parameters
    ----------
    values : dict
        Arrays by parameter path, as ``net.load_parameters`` knows them.
    report : Report
    origin : Origin
    """

    values: Dict[str, np.ndarray]
    report: Report
    origin: Origin


def match_torch(net: HybridBlock, family: ModuleType, path: PathLike,
                allow_missing: bool = False) -> Matched:
    """Read a checkpoint of the original and find the entry of each parameter of `net`.

    Parameters
    ----------
    family : module
        Key map, see `family_of`.
    allow_missing : bool
        Accept a file of which entries are unused, missing or of another shape.

    Raises
    ------
    CheckpointError
        The file is damaged or refused (see `igcnet.convert.torch_file.read_torch`), or holds no
        parameter of the network. A `MismatchError` when it does not fit.
    UsageError
        The network is a form that the original does not have.
    """
    file = read_torch(path)
    names = family.torch_names(net)
    state = find_state(file.value, names.values(), family.WRAPPER['state_dict'], path)
    report = Report(str(path), file.container, place_text(state.place), state.prefix)
    taken = _match(net, family, names, state, report)
    around = replace_state(file.value, state.place, None)
    if state.place:
        report.beside = [str(key) for key in around if key != state.place[0]]
    if not report.complete and not allow_missing:
        raise MismatchError(report)
    return Matched(taken, report, _origin(file.container, state, report, around))


def load_torch(net: HybridBlock, family: ModuleType, path: PathLike, allow_missing: bool = False,
               ctx: Contexts = None) -> Matched:
    """Load a checkpoint of the original into `net`, which need not be initialised.

    Parameters, results and errors are those of `match_torch`. Parameters without an entry keep
    their values, or get the original's initialisation.
    """
    matched = match_torch(net, family, path, allow_missing)
    set_parameters(net, matched.values, path, ctx, allow_missing=allow_missing)
    return matched


def _match(net: HybridBlock, family: ModuleType, names: Dict[str, str], state: State,
           report: Report) -> Dict[str, np.ndarray]:
    """Fill the report; returns what fits, by parameter path."""
    given, parameters = state.parameters(), net._collect_params_with_prefix()
    ignored = tuple(family.WRAPPER['ignored'])
    known_extras = family.torch_extras(net)
    taken = {}
    for path, name in names.items():
        key, expected = state.prefix + name, tuple(parameters[path].shape)
        if name not in given:
            report.missing.append(key)
            continue
        entry = Entry(key, path, given[name].shape, expected)
        if entry.shape == expected and given[name].dtype.kind != 'c':
            report.converted.append(entry)
            taken[path] = given[name].astype(np.float32, copy=False)
        else:
            report.misshapen.append(entry)
    used = {state.prefix + name for name in names.values()}
    for key in state.entries:
        if key not in used:
            name = key[len(state.prefix):] if key.startswith(state.prefix) else key
            explained = name in known_extras or name.rpartition('.')[2] in ignored
            (report.kept if explained else report.unused).append(key)
    return taken


def _origin(container: str, state: State, report: Report, around: Any) -> Origin:
    converted = {entry.key for entry in report.converted}
    kept = {key: value for key, value in state.entries.items() if key not in converted}
    return Origin(
        LEGACY if container == TAR else container, state.place, state.prefix,
        list(state.entries), {key: state.entries[key].dtype.name for key in converted
                              if state.entries[key].dtype != np.float32},
        kept, around, getattr(state.entries, '_metadata', None),
        isinstance(state.entries, OrderedDict))


def save_torch(net: HybridBlock, family: ModuleType, path: PathLike,
               origin: Optional[Origin] = None, network: str = '',
               container: Optional[str] = None) -> List[str]:
    """Write `net` as a checkpoint that loads with ``strict=True`` in the original's class.

    Parameters
    ----------
    origin : Origin, optional
        Of the file that the parameters came from: keys, order, types and everything around them
        will be as there. Without it, as the original writes a new network.
    network : str
        What to write where the original has a label of the network.
    container : str, optional
        'legacy' or 'zip'; by default that of `origin`, or the original's.

    Returns
    -------
    list of str
        The keys of the state_dict.

    Raises
    ------
    UsageError
        The network is a form that the original does not have, or has no values yet.
    """
    values = _values(net, family)
    if origin is None:
        value = _new_file(net, family, values, network)
        keys = list(value[family.WRAPPER['state_dict']])
        container = container or family.WRAPPER.get('container', LEGACY)
    else:
        value, keys = origin.restore(values)
        container = container or origin.container
    write_torch(path, value, container)
    return keys


def _values(net: HybridBlock, family: ModuleType) -> Dict[str, np.ndarray]:
    """The network's parameters under the original's keys, without a prefix."""
    names, parameters = family.torch_names(net), net._collect_params_with_prefix()
    try:
        return {name: parameters[path].data().asnumpy() for path, name in names.items()}
    except RuntimeError:
        raise UsageError('the network has no values yet: initialise it or load parameters before '
                         'it is saved') from None


def _new_file(net: HybridBlock, family: ModuleType, values: Dict[str, np.ndarray],
              network: str) -> Dict[str, Any]:
    wrapper = family.WRAPPER
    state = OrderedDict((wrapper['prefixes'][0] + key, value)
                        for key, value in with_extras(values, family.torch_extras(net)).items())
    others = family.torch_others(net) if hasattr(family, 'torch_others') else {}
    return {wrapper['state_dict']: state,
            **{entry: others.get(entry, network) for entry in wrapper['written']}}


def with_extras(values: Dict[str, np.ndarray],
                extras: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """`values` with each of `extras` after the last entry of its module, where torch has it."""
    following: Dict[str, List[str]] = {}
    last = {key.rpartition('.')[0]: key for key in values}
    for key in extras:
        following.setdefault(last.get(key.rpartition('.')[0], ''), []).append(key)
    ordered = {key: extras[key] for key in following.get('', ())}
    for key, value in values.items():
        ordered[key] = value
        ordered.update((extra, extras[extra]) for extra in following.get(key, ()))
    return ordered
