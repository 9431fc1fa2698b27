"""Checkpoints of a training run: one folder each, complete or not there at all.

``checkpoints/0012/`` is the state after 12 epochs, ``checkpoints/0012-000345/`` the state 345
steps into the 13th. A folder holds

- ``net.params``: the weights under Gluon's attribute names, for ``net.load_parameters``;
- ``state.params``: the optimiser's arrays, those of everything else that has a state, and BN
  statistics of each device if there are several;
- ``metrics.jsonl``: what the run had written into its own file of that name;
- ``state.json``: position, seed, scores of the running epoch, the network with its settings,
  class names and preprocessing, and the checksum of every file.

Which of them are kept, and which one a run goes on from, is said in `igcnet.train.keeping`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.convert import load_parameters, parameter_value, read_ndarrays, write_ndarrays
from igcnet.errors import CheckpointError, DivergedError
from igcnet.files import (
    PathLike,
    explain_os_errors,
    read_json,
    sha256,
    sync_file,
    sync_folder,
    write_json,
)

WEIGHTS, ARRAYS, HISTORY, STATE = 'net.params', 'state.params', 'metrics.jsonl', 'state.json'
_NAME = re.compile(r'(\d{4,})(?:-(\d{6,}))?')


@dataclass
class Position:
    """Where a run stands.

    Parameters
    ----------
    epoch : int
        Finished epochs.
    step : int
        Finished steps of the epoch after them.
    update : int
        Finished updates in all.
    """

    epoch: int = 0
    step: int = 0
    update: int = 0

    def folder_name(self) -> str:
        """Name of the checkpoint's folder."""
        return '%04d-%06d' % (self.epoch, self.step) if self.step else '%04d' % self.epoch


@dataclass
class State:
    """Everything beside weights and optimiser that a run needs to go on.

    There is no state of a random generator among it: all that is random in a run is a function
    of the seed and of the place in the run.

    Parameters
    ----------
    position : Position
    seed : int
    network, settings, classes, preprocessing
        What the weights belong to.
    scores, window : list of float
        `Scores` of the running epoch, and of the steps since the last log line.
    best_epoch, best_top1
        The finished epoch with the highest validation accuracy; 0 and -1 before there is one.
    rollbacks : int
        How often the run went back because it diverged; each halves the learning rate.
    environment : dict of str to str
        What beside the settings decides the bits: versions, threads, processor.
    extra : dict of str to numpy.ndarray
        Arrays of anything else that has a state, such as averaged weights; not empty, of one
        dimension at least, and of an element type that MXNet has. See `igcnet.train.loop.Loop`.
    history : bytes
        The run's ``metrics.jsonl`` up to here.
    """

    position: Position
    seed: int
    network: str
    settings: Dict[str, Any]
    classes: Optional[List[str]]
    preprocessing: Dict[str, Any]
    scores: List[float] = field(default_factory=list)
    window: List[float] = field(default_factory=list)
    best_epoch: int = 0
    best_top1: float = -1.0
    rollbacks: int = 0
    environment: Dict[str, str] = field(default_factory=dict)
    extra: Dict[str, np.ndarray] = field(default_factory=dict)
    history: bytes = b''


# In files of their own.
_APART = ('position', 'extra', 'history')


def save(folder: PathLike, net: gluon.HybridBlock, trainer: gluon.Trainer,
         state: State) -> Path:
    """Write a checkpoint below `folder`; returns its path.

    The files go to a temporary folder that is renamed when everything in it is on the disk, so a
    reader or a later run never finds half of a checkpoint.

    Raises
    ------
    DivergedError
        A parameter is not finite: such weights are of no use to anybody.
    IgcnetError
        The folder cannot be written.
    """
    check_finite(net)
    folder = Path(folder)
    final = folder / state.position.folder_name()
    temporary = folder / ('.%s.%d' % (final.name, os.getpid()))
    with explain_os_errors(final):
        try:
            shutil.rmtree(str(temporary), ignore_errors=True)
            temporary.mkdir(parents=True)
            write_ndarrays(temporary / WEIGHTS, weights_of(net))
            write_ndarrays(temporary / ARRAYS, _arrays(net, trainer, state))
            (temporary / HISTORY).write_bytes(state.history)
            sync_file(temporary / HISTORY)
            _write_state(temporary, state)
            sync_folder(temporary)
            if final.exists():
                remove(final)
            os.replace(str(temporary), str(final))
            sync_folder(folder)
        finally:
            shutil.rmtree(str(temporary), ignore_errors=True)
    return final


def weights_of(net: gluon.HybridBlock) -> Dict[str, np.ndarray]:
    """The parameters under the names that ``net.load_parameters`` reads."""
    return {name: parameter_value(parameter)
            for name, parameter in net._collect_params_with_prefix().items()}


def check_finite(net: gluon.HybridBlock) -> None:
    """Raise `DivergedError` if a parameter of `net` is not finite, and name it."""
    for name, parameter in net.collect_params().items():
        if not all(np.isfinite(array.asnumpy()).all() for array in parameter.list_data()):
            raise DivergedError('%s: the values are not finite, so no checkpoint is written; '
                                'the last good one is kept' % name)


def restore(path: PathLike, net: gluon.HybridBlock, contexts: Sequence[mx.Context],
            trainer: gluon.Trainer) -> State:
    """Load weights, statistics and optimiser arrays of the checkpoint at `path`.

    `net` and `trainer` may have been used: nothing of what they held is left. The optimiser
    counts on from the checkpoint.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged, see `verify`, or is one of another network or optimiser.
    """
    path = Path(path)
    state = verify(path)
    load_parameters(net, str(path / WEIGHTS), ctx=contexts)
    moments: Dict[str, Dict[int, np.ndarray]] = {}
    for key, array in read_ndarrays(path / ARRAYS).items():
        kind, _, rest = key.partition(':')
        number, _, name = rest.partition(':')
        if kind == 'optimizer' and number.isdigit():
            moments.setdefault(name, {})[int(number)] = array
        elif kind == 'device':
            found = net.collect_params().get(name)
            if found is not None and number.isdigit() and int(number) < len(contexts):
                _check_shape(path, key, array, found.shape)
                found.list_data()[int(number)][:] = array
        elif kind == 'extra':
            state.extra[rest] = array
    _restore_optimizer(path, trainer, contexts, moments)
    rule = trainer._optimizer
    rule.begin_num_update = rule.num_update = state.position.update
    rule._all_index_update_counts = {0: {}}
    rule._index_update_count = rule._all_index_update_counts[0]
    state.history = (path / HISTORY).read_bytes()
    return state


def verify(path: PathLike) -> State:
    """Check every file of a checkpoint against its checksum.

    Returns
    -------
    State
        As `read_state` gives it.

    Raises
    ------
    CheckpointError
        A file is missing, truncated or changed; the message names it.
    """
    path = Path(path)
    state = read_state(path)
    for name, expected in _read_json(path)['sha256'].items():
        if sha256(path / name, CheckpointError) != expected:
            raise CheckpointError('%s: damaged: its checksum is not the one in %s'
                                  % (path / name, STATE))
    return state


def read_state(path: PathLike) -> State:
    """What ``state.json`` of the checkpoint at `path` says, every field checked for its type."""
    values = _read_json(Path(path))['state']
    try:
        state = State(position=Position(**values.pop('position')), **values)
        position = state.position
        whole = [position.epoch, position.step, position.update, state.seed, state.best_epoch,
                 state.rollbacks]
        if not all(isinstance(n, int) and n >= 0 for n in whole) or not (
                isinstance(state.network, str) and isinstance(state.settings, dict)
                and isinstance(state.preprocessing, dict) and isinstance(state.environment, dict)
                and all(isinstance(n, (int, float))
                        for n in [state.best_top1, *state.scores, *state.window])):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError('%s: not the state of a checkpoint: its fields are missing or of '
                              'the wrong type' % (Path(path) / STATE)) from None
    return state


def remove(path: Path) -> None:
    """Remove a checkpoint. Half-way through it does not bear its name any more, so that it is
    not taken for a damaged one."""
    leaving = path.with_name('.%s.removed' % path.name)
    shutil.rmtree(str(leaving), ignore_errors=True)
    os.replace(str(path), str(leaving))
    shutil.rmtree(str(leaving))


def step_of(path: Path) -> int:
    """How many steps of an epoch the checkpoint at `path` has behind it."""
    return int(_NAME.fullmatch(path.name).group(2) or 0)


def checkpoints(folder: PathLike) -> List[Path]:
    """Checkpoint folders below `folder`, oldest first."""
    found = []
    if Path(folder).is_dir():
        for path in Path(folder).iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / STATE).is_file():
                found.append((int(match.group(1)), int(match.group(2) or 0), path))
    return [path for _, _, path in sorted(found)]


def _write_state(folder: Path, state: State) -> None:
    values = {'position': vars(state.position)}
    values.update((f.name, getattr(state, f.name)) for f in fields(State)
                  if f.name not in _APART)
    content = {'state': values,
               'sha256': {name: sha256(folder / name) for name in (WEIGHTS, ARRAYS, HISTORY)}}
    write_json(folder / STATE, {**content, 'own_sha256': _digest(content)})


def _read_json(folder: Path) -> Dict[str, Any]:
    """Both parts of ``state.json``, after a check of its own checksum."""
    where = folder / STATE
    content = read_json(where, 'checkpoint state', CheckpointError)
    try:
        own, state, sums = content.pop('own_sha256'), content['state'], content['sha256']
        sound = (isinstance(state, dict) and isinstance(sums, dict)
                 and set(sums) == {WEIGHTS, ARRAYS, HISTORY})
    except (AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise CheckpointError('%s: not the state of a checkpoint: its fields are missing or of '
                              'the wrong type' % where)
    if own != _digest(content):
        raise CheckpointError('%s: damaged: its content is not what its checksum says' % where)
    return content


def _digest(content: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _arrays(net, trainer, state: State) -> Dict[str, np.ndarray]:
    arrays = {}
    for index, moments in trainer._updaters[0].states.items():
        for number, array in enumerate(_flat(moments)):
            name = 'optimizer:%d:%s' % (number, trainer._params[index].name)
            arrays[name] = array.asnumpy()
    for name, parameter in net.collect_params().items():
        devices = parameter.list_data()
        if parameter.grad_req == 'null' and len(devices) > 1:
            for number, array in enumerate(devices):
                arrays['device:%d:%s' % (number, name)] = array.asnumpy()
    arrays.update(('extra:' + key, array) for key, array in state.extra.items())
    return arrays


def _restore_optimizer(path: Path, trainer, contexts,
                       moments: Dict[str, Dict[int, np.ndarray]]) -> None:
    """Give each device's updater the arrays of each parameter, in the form its rule makes."""
    for updater, context in zip(trainer._updaters, contexts):
        updater.states.clear()
        updater.states_synced.clear()
        for index, parameter in enumerate(trainer._params):
            if parameter.name not in moments:
                continue  # not updated yet
            made = trainer._optimizer.create_state_multi_precision(index, parameter.data(context))
            own, given = _flat(made), moments[parameter.name]
            if sorted(given) != list(range(len(own))):
                raise CheckpointError('%s: the optimiser state of %s has %d arrays, this optimiser '
                                      'needs %d' % (path / ARRAYS, parameter.name, len(given),
                                                    len(own)))
            for number, array in enumerate(own):
                _check_shape(path, 'optimizer:%d:%s' % (number, parameter.name), given[number],
                             array.shape)
                array[:] = given[number]
            updater.states[index] = made
            updater.states_synced[index] = True


def _flat(moments: Any) -> List[mx.nd.NDArray]:
    """The arrays of an optimiser's state for one parameter: none, one, or tuples of them."""
    if moments is None:
        return []
    if isinstance(moments, (tuple, list)):
        return [array for part in moments for array in _flat(part)]
    return [moments]


def _check_shape(path: Path, key: str, array: np.ndarray, shape) -> None:
    if array.shape != tuple(shape):
        raise CheckpointError('%s: %s has the shape %s, the network needs %s'
                              % (path / ARRAYS, key, array.shape, tuple(shape)))
