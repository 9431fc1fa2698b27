"""Checkpoints of a training run: one folder each, complete or not there at all.

``checkpoints/0012/`` is the state after 12 epochs, ``checkpoints/0012-000345/`` the state 345
steps into the 13th. A folder holds

- ``net.params``: the weights under Gluon's attribute names, for ``net.load_parameters``;
- ``state.npz``: the optimiser's arrays, and BN statistics of each device if there are several;
- ``state.json``: position, seed, scores of the running epoch, length of the metrics file, the
  network with its settings, class names and preprocessing.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

import mxnet as mx
import numpy as np

from igcnet.convert import load_parameters, parameter_value, write_ndarrays
from igcnet.errors import CheckpointError, TrainingError
from igcnet.files import PathLike, explain_os_errors, read_json, sync_file, sync_folder, write_json

WEIGHTS, ARRAYS, STATE = 'net.params', 'state.npz', 'state.json'
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
        return '%04d-%06d' % (self.epoch, self.step) if self.step else '%04d' % self.epoch


@dataclass
class State:
    """Everything beside the arrays that a run needs to go on."""

    position: Position
    seed: int
    network: str
    settings: Dict[str, Any]
    classes: Optional[List[str]]
    preprocessing: Dict[str, Any]
    scores: List[float] = field(default_factory=list)
    metrics_bytes: int = 0
    extra: Dict[str, np.ndarray] = field(default_factory=dict)


def save(folder: PathLike, net, trainer, state: State) -> Path:
    """Write a checkpoint below `folder`; returns its path.

    The files go to a temporary folder that is renamed when complete, so a reader or a later
    run never finds half of a checkpoint.

    Raises
    ------
    TrainingError
        A parameter is not finite: such weights are of no use to anybody.
    IgcnetError
        The folder cannot be written.
    """
    for name, parameter in net.collect_params().items():
        if not all(np.isfinite(array.asnumpy()).all() for array in parameter.list_data()):
            raise TrainingError('%s: the values are not finite, so no checkpoint is written; '
                                'the last good one is kept' % name)
    folder = Path(folder)
    final = folder / state.position.folder_name()
    temporary = folder / ('.%s.%d' % (final.name, os.getpid()))
    with explain_os_errors(final):
        try:
            shutil.rmtree(str(temporary), ignore_errors=True)
            temporary.mkdir(parents=True)
            write_ndarrays(temporary / WEIGHTS, {
                name: parameter_value(parameter)
                for name, parameter in net._collect_params_with_prefix().items()})
            with open(temporary / ARRAYS, 'wb') as file:
                np.savez(file, **_arrays(net, trainer), **{
                    'extra:' + key: array for key, array in state.extra.items()})
            values = asdict(state)
            del values['extra']
            write_json(temporary / STATE, values)
            sync_file(temporary / ARRAYS)
            sync_folder(temporary)
            if final.exists():
                shutil.rmtree(str(final))
            os.replace(str(temporary), str(final))
            sync_folder(folder)
        finally:
            shutil.rmtree(str(temporary), ignore_errors=True)
    return final


def restore(path: PathLike, net, contexts, trainer) -> State:
    """Load weights, statistics and optimiser arrays of the checkpoint at `path`.

    `trainer` must not have made a step yet. Its optimiser counts on from the checkpoint.
    """
    path = Path(path)
    state = read_state(path)
    load_parameters(net, str(path / WEIGHTS), ctx=contexts)
    arrays = _read_arrays(path / ARRAYS)
    parameters = {p.name: (index, p) for index, p in enumerate(trainer._params)}
    for key, array in arrays.items():
        kind, _, rest = key.partition(':')
        if kind == 'extra':
            state.extra[rest] = array
        elif kind == 'optimizer' and rest.partition(':')[2] in parameters:
            number, _, name = rest.partition(':')
            index, parameter = parameters[name]
            _check_shape(path, key, array, parameter.shape)
            for updater, context in zip(trainer._updaters, contexts):
                if index not in updater.states:
                    updater.states[index] = trainer._optimizer.create_state_multi_precision(
                        index, parameter.data(context))
                    updater.states_synced[index] = True
                own = _flat(updater.states[index])
                if not number.isdigit() or int(number) >= len(own):
                    raise CheckpointError('%s: %s: this optimiser has no such array'
                                          % (path / ARRAYS, key))
                own[int(number)][:] = array
        elif kind == 'device':
            number, _, name = rest.partition(':')
            found = net.collect_params().get(name)
            if found is not None and number.isdigit() and int(number) < len(contexts):
                _check_shape(path, key, array, found.shape)
                found.list_data()[int(number)][:] = array
    trainer._optimizer.begin_num_update = trainer._optimizer.num_update = state.position.update
    return state


def read_state(path: PathLike) -> State:
    """The `State` of the checkpoint folder at `path`, every field checked for its type."""
    where = Path(path) / STATE
    values = read_json(where, 'checkpoint state', CheckpointError)
    try:
        position = Position(**values.pop('position'))
        state = State(position=position, **values)
        numbers = [position.epoch, position.step, position.update, state.seed,
                   state.metrics_bytes]
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not (
                isinstance(state.network, str) and isinstance(state.settings, dict)
                and isinstance(state.preprocessing, dict)
                and all(isinstance(n, (int, float)) for n in state.scores)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError('%s: not the state of a checkpoint: its fields are missing or of '
                              'the wrong type' % where) from None
    return state


def checkpoints(folder: PathLike) -> List[Path]:
    """Checkpoint folders below `folder`, oldest first."""
    found = []
    if Path(folder).is_dir():
        for path in Path(folder).iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / STATE).is_file():
                found.append((int(match.group(1)), int(match.group(2) or 0), path))
    return [path for _, _, path in sorted(found)]


def _arrays(net, trainer) -> Dict[str, np.ndarray]:
    arrays = {}
    for index, made in trainer._updaters[0].states.items():
        for number, array in enumerate(_flat(made)):
            arrays['optimizer:%d:%s' % (number, trainer._params[index].name)] = array.asnumpy()
    for name, parameter in net.collect_params().items():
        devices = parameter.list_data()
        if parameter.grad_req == 'null' and len(devices) > 1:
            for number, array in enumerate(devices):
                arrays['device:%d:%s' % (number, name)] = array.asnumpy()
    return arrays


def _read_arrays(path: Path) -> Dict[str, np.ndarray]:
    import zipfile
    try:
        with np.load(str(path), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise CheckpointError('%s: cannot read the optimiser state (%s); take an earlier '
                              'checkpoint with --load-epoch'
                              % (path, str(problem).split('\n')[0])) from None


def _flat(made: Any) -> List[mx.nd.NDArray]:
    """The arrays of an optimiser's state for one parameter."""
    return list(made) if isinstance(made, tuple) else [made]


def _check_shape(path: Path, key: str, array: np.ndarray, shape) -> None:
    if array.shape != tuple(shape):
        raise CheckpointError('%s: %s has the shape %s, the network needs %s'
                              % (path / ARRAYS, key, array.shape, tuple(shape)))
