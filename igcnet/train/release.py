"""Released weights out of a training run: its checkpoint, its figures, its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import mxnet as mx

from igcnet.convert import load_network, read_ndarrays, set_parameters
from igcnet.data.datasets import DATA_SETS
from igcnet.deploy.export import manifest_facts, preprocessing_from
from igcnet.deploy.released import write_release
from igcnet.deploy.verify import random_images
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.profiling import count_parameters
from igcnet.registry import Preprocessing
from igcnet.train.checkpoint import (
    ARRAYS,
    HISTORY,
    WEIGHTS,
    State,
    checkpoints,
    step_of,
    verify,
    weights_of,
)
from igcnet.train.run_folder import CHECKPOINTS
from igcnet.train.runlog import epoch_figures
from igcnet.train.settings import RunSettings, read_settings

CHECK_IMAGES = 4
AVERAGE = 'extra:average:'


def release(run: PathLike, folder: PathLike, command: str,
            epoch: Optional[int] = None) -> Tuple[Path, Path]:
    """Write the network of a run as released weights.

    Parameters
    ----------
    run : path
        Folder of a run of the trainer.
    folder : path
        Where the two files go, see `igcnet.deploy.released`.
    command : str
        That trains it again.
    epoch : int, optional
        Release the checkpoint after so many epochs; by default that of the end of the run.

    Returns
    -------
    tuple of Path
        The parameter file and the manifest.

    Raises
    ------
    UsageError
        There are weights of this name in `folder`, or the run was never validated.
    CheckpointError
        `run` is no run, has not finished, has no checkpoint of this epoch, or is damaged.
    """
    settings = read_settings(run)
    path = _checkpoint(Path(run), settings, epoch)
    state = verify(path)
    averaged = bool(settings.recipe.ema_decay)
    net = load_network(params=path / WEIGHTS, network=state.network, **state.settings)
    if averaged:
        set_parameters(net, {key[len(AVERAGE):]: array
                             for key, array in read_ndarrays(path / ARRAYS).items()
                             if key.startswith(AVERAGE)}, path / ARRAYS, allow_missing=True)
    preprocessing = _for_photographs(
        preprocessing_from(state.preprocessing, str(path)), settings.dataset)
    if state.classes is None:
        raise UsageError('%s: the records of this run have no class names' % run)
    facts = manifest_facts(preprocessing, state.network, state.settings,
                           preprocessing.input_size, state.classes,
                           _figures(path, state, averaged))
    images = random_images(CHECK_IMAGES, preprocessing.input_size, seed=0)
    facts.update(training=_training(settings, state, command, count_parameters(net)),
                 check_logits=net(mx.nd.array(images)).asnumpy().astype(float).round(5).tolist())
    return write_release(folder, '%s-%s' % (settings.run_name, settings.dataset),
                         weights_of(net), facts)


def _checkpoint(run: Path, settings: RunSettings, epoch: Optional[int]) -> Path:
    """The checkpoint after `epoch` epochs, or after the last."""
    found = {int(path.name): path for path in checkpoints(run / CHECKPOINTS) if not step_of(path)}
    wanted = epoch or settings.recipe.num_epochs
    if wanted in found:
        return found[wanted]
    kept = ', '.join(map(str, sorted(set(found) - {0}))) or 'none'
    raise CheckpointError('%s: %s; there are checkpoints after the epochs: %s' % (
        run, 'no checkpoint after epoch %d' % epoch if epoch else
        'the run has not finished its %d epochs; --epoch N releases an earlier one' % wanted,
        kept))


def _figures(path: Path, state: State, averaged: bool) -> Dict[str, Any]:
    """What the run has recorded of the epoch that the checkpoint ends."""
    try:
        rows = [json.loads(line) for line in (path / HISTORY).read_text('utf-8').splitlines()]
        row = next((row for row in rows if row['event'] == 'epoch'
                    and row['update'] == state.position.update), {})
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError('%s: not the metrics of a run (%s)'
                              % (path / HISTORY, problem)) from None
    figures = epoch_figures(row, averaged)
    if 'val_top1' not in figures:
        raise UsageError('%s: the run has no validation accuracy of this epoch' % path)
    return figures


def _for_photographs(preprocessing: Preprocessing, data_set: str) -> Preprocessing:
    """With a resizing for images of any size.

    The images of a small data set have the size of the input already, and stay as they are; a
    larger one would lose all but its centre.
    """
    if preprocessing.resize_shorter is not None or data_set not in DATA_SETS:
        return preprocessing
    return replace(preprocessing, resize_shorter=preprocessing.input_size, interpolation='area')


def _training(settings: RunSettings, state: State, command: str,
              parameters: int) -> Dict[str, Any]:
    return {'data_set': settings.dataset, 'command': command, 'seed': settings.rand_seed,
            'recipe': settings.recipe.as_dict(), 'parameters': parameters,
            'best_epoch': state.best_epoch, 'best_top1': state.best_top1,
            'environment': state.environment}
