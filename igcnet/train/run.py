"""A whole training run: from settings to a trained, evaluated and exported network."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import mxnet as mx

import igcnet
from igcnet.convert import load_parameters, save_original
from igcnet.data.augment import find_augmentation
from igcnet.data.benchmark import Rate, timed_epoch
from igcnet.data.datasets import DataSet, check_labels, describe_records, find_dataset
from igcnet.data.reader import EvalReader, TrainReader
from igcnet.data.records import RecordFile
from igcnet.deploy import export
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import explain_os_errors
from igcnet.profiling import count_parameters
from igcnet.progress import Progress
from igcnet.registry import get_model
from igcnet.train import checkpoint
from igcnet.train.devices import contexts as find_contexts
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.methods import find_method, method_settings
from igcnet.train.runlog import RunLog, plot_curves
from igcnet.train.settings import RunSettings


class Data(NamedTuple):
    """The two record files of a run, and what is known about them."""

    facts: DataSet
    train: RecordFile
    validation: RecordFile


def open_data(settings: RunSettings) -> Data:
    """Open and check the records of a run.

    Raises
    ------
    UsageError, DataError
        Unknown data set, missing or damaged records.
    """
    known = settings.dataset != 'records'
    facts = None
    if known:
        facts = find_dataset(settings.dataset + ('_fb' if settings.fb_mean else ''))
    folder = Path(settings.data_dir or 'data/' + settings.dataset)
    train = RecordFile(folder / settings.train_dataset)
    validation = RecordFile(folder / settings.val_dataset)
    if facts is None:
        facts = describe_records(train, settings.mean_rgb, settings.std_rgb,
                                 settings.data_shape or 32)
    elif settings.data_shape not in (None, facts.data_shape):
        raise UsageError('--data-shape %d: %s has %d; use --dataset records for records of your own'
                         % (settings.data_shape, facts.name, facts.data_shape))
    else:
        facts = replace(facts, mean=settings.mean_rgb or facts.mean,
                        std=settings.std_rgb or facts.std)
    return Data(facts, train, validation)


def with_augmentation(settings: RunSettings) -> RunSettings:
    """`settings` with the data set's own augmentation type where the recipe leaves it open."""
    if settings.recipe.aug_type is not None or settings.recipe.augmentation is not None:
        return settings
    known = settings.dataset != 'records'
    return settings.changed(aug_type=find_dataset(settings.dataset).aug_type if known else 1)


def make_reader(settings: RunSettings, data: Data) -> TrainReader:
    """The reader of the training images."""
    facts, recipe = data.facts, settings.recipe
    augmentation = find_augmentation(recipe.augmentation or facts.augmentation(recipe.aug_type),
                                     facts.data_shape, facts.fill)
    return TrainReader(data.train, recipe.batch_size, augmentation, settings.rand_seed,
                       threads=settings.decode_threads, mean=facts.mean, std=facts.std,
                       on_bad=settings.on_bad, resolutions=find_method(recipe.method).resolutions(
                           recipe, facts.data_shape))


def test_io(settings: RunSettings) -> List[Rate]:
    """Read an epoch as training would, without the network; two, if images stay in memory."""
    settings = with_seed(with_augmentation(settings))
    reader = make_reader(settings, open_data(settings))
    rates = [timed_epoch(reader, 0)]
    if reader.in_memory:
        rates.append(timed_epoch(reader, 1))
    return rates


def with_seed(settings: RunSettings) -> RunSettings:
    """`settings` with a seed from the clock where none was given."""
    if settings.rand_seed is not None:
        return settings
    return replace(settings, rand_seed=int(time.time()))


def new_run_folder(settings: RunSettings) -> Path:
    """The next free folder ``<run name>_<exp name><number>``."""
    stem = '%s_%s' % (settings.run_name, settings.exp_name)
    number = 1
    while (settings.folder_of_runs / ('%s%d' % (stem, number))).exists():
        number += 1
    return settings.folder_of_runs / ('%s%d' % (stem, number))


def newest_run_folder(settings: RunSettings) -> Path:
    """The newest run of this configuration that has a checkpoint."""
    settings = with_augmentation(settings)
    stem = '%s_%s' % (settings.run_name, settings.exp_name)
    found = []
    if settings.folder_of_runs.is_dir():
        for path in settings.folder_of_runs.iterdir():
            number = path.name[len(stem):]
            if path.name.startswith(stem) and re.fullmatch(r'\d+', number) and \
                    checkpoint.checkpoints(path / 'checkpoints'):
                found.append((int(number), path))
    if not found:
        raise CheckpointError('%s/%s*: no run with a checkpoint to resume'
                              % (settings.folder_of_runs, stem))
    return max(found)[1]


def find_checkpoint(folder: Path, epoch: Optional[int] = None) -> Path:
    """The newest checkpoint of a run, or the one after `epoch` epochs."""
    found = checkpoint.checkpoints(folder / 'checkpoints')
    if epoch is not None:
        found = [path for path in found if path.name == '%04d' % epoch]
    if not found:
        raise CheckpointError('%s: no checkpoint%s to resume' % (
            folder / 'checkpoints', '' if epoch is None else ' of epoch %d' % epoch))
    return found[-1]


def train(settings: RunSettings, folder: Optional[Path] = None,
          resume_from: Optional[Path] = None, load_epoch: int = 0) -> Dict[str, float]:
    """Train a network as `settings` say.

    Parameters
    ----------
    folder : Path, optional
        The run's folder; a new one by default.
    resume_from : Path, optional
        A checkpoint of `folder` to go on from.
    load_epoch : int
        Begin after this many epochs with the weights of that epoch's original-layout checkpoint
        below ``settings.model_prefix``; the momentum starts at 0, as in the original.

    Returns
    -------
    dict
        The numbers of the last epoch.

    Raises
    ------
    IgcnetError
        Anything that a user can put right.
    igcnet.train.loop.Interrupted
        Stopped by a signal, after writing a checkpoint.
    """
    settings = with_seed(with_augmentation(settings))
    method_settings(settings.recipe)  # a wrong one is better said now than behind the data
    devices = find_contexts(settings.gpus, settings.cpus)
    data = open_data(settings)
    if 'classes' not in settings.network_settings:
        settings = settings.changed(network_settings={'classes': data.facts.classes})
    recipe = settings.recipe
    if recipe.batch_size < len(devices):
        raise UsageError('--batch-size %d: too small for %d devices'
                         % (recipe.batch_size, len(devices)))

    mx.random.seed(settings.rand_seed)
    net = get_model(settings.network, **settings.network_settings)
    for records in (data.train, data.validation):
        check_labels(records, net.classes)
    if net.fixed_input_size and net.input_size != data.facts.data_shape:
        raise UsageError('--network %s: needs %dx%d images, %s has %dx%d'
                         % (settings.network, net.input_size, net.input_size, data.facts.name,
                            data.facts.data_shape, data.facts.data_shape))
    net.initialize(ctx=devices)
    if settings.load_model:
        load_parameters(net, settings.load_model, ctx=devices)
    net.set_lowering(settings.lowering)
    net.hybridize(static_alloc=True, static_shape=True)

    reader = make_reader(settings, data)
    preprocessing = data.facts.preprocessing()
    validation = EvalReader(data.validation, settings.test_batch_size
                            or data.facts.test_batch_size(recipe.batch_size), preprocessing,
                            threads=settings.decode_threads, on_bad=settings.on_bad)
    schedule = recipe.make_schedule(settings.num_examples or len(data.train),
                                    reader.steps_per_epoch)
    trainer = make_trainer(net, recipe, schedule, settings.kv_store)

    state = checkpoint.State(checkpoint.Position(), settings.rand_seed, settings.network,
                             dict(settings.network_settings), data.train.classes,
                             asdict(preprocessing))
    if resume_from is not None:
        state = checkpoint.restore(resume_from, net, devices, trainer)
    elif load_epoch:
        load_parameters(net, '%s-%04d.params' % (original_prefix(settings), load_epoch),
                        ctx=devices)
        update = load_epoch * reader.steps_per_epoch
        state.position = checkpoint.Position(load_epoch, 0, update)
        trainer._optimizer.begin_num_update = update

    folder = folder or new_run_folder(settings)
    log = RunLog(folder, state.metrics_bytes)
    try:
        parameters = count_parameters(net)
        _announce(log, settings, data, net.classes, parameters, devices, reader.steps_per_epoch)
        settings.write(folder, igcnet=igcnet.__version__, mxnet=mx.__version__,
                       parameters=parameters)
        log.open_tensorboard(state.position.update)

        def after_epoch(state):
            _log_bad(log, data.train, reader.bad)
            _log_bad(log, data.validation, validation.bad)
            plot_curves(folder, '%s on %s' % (settings.run_name, settings.dataset))

        def after_checkpoint(state):
            if settings.model_prefix:
                _save_original(net, settings, state.position.epoch)

        loop = Loop(net, devices, trainer, recipe, reader, validation, state, log,
                    after_epoch, after_checkpoint, settings.log_iters,
                    settings.checkpoint_epochs or max(1, recipe.num_epochs // 8))
        numbers = loop.run(_progress(log, reader, recipe))
        prefix = folder / settings.run_name
        export(net, prefix, preprocessing, settings.network, dict(settings.network_settings),
               data.train.classes, {k: v for k, v in numbers.items() if k.startswith('val_')})
        log.line('Exported "%s-symbol.json"' % prefix)
        return numbers
    finally:
        log.close()


def original_prefix(settings: RunSettings) -> str:
    """Prefix of the original-layout checkpoints, by the original's rule."""
    return '%sweights/%s/%s' % (settings.model_prefix, settings.run_name, settings.run_name)


def _log_bad(log: RunLog, records: RecordFile, bad: Dict[int, str]) -> None:
    if bad:
        log.line('skipped %d of %d images of %s as unreadable; the first: %s'
                 % (len(bad), len(records), records.paths.rec, bad[min(bad)]))


def _save_original(net, settings: RunSettings, epoch: int) -> None:
    prefix = Path(original_prefix(settings))
    with explain_os_errors(prefix):
        prefix.parent.mkdir(parents=True, exist_ok=True)
    save_original(net, str(prefix), epoch)


def _announce(log: RunLog, settings: RunSettings, data: Data, classes: int, parameters: int,
              devices: List[mx.Context], steps_per_epoch: int) -> None:
    recipe = settings.recipe
    log.line('run folder: %s' % log.folder)
    log.line('network: %s %s' % (settings.run_name, ', '.join(
        '%s=%s' % item for item in sorted(settings.network_settings.items()))))
    log.line('network parameters: %.4fM (%d)' % (parameters / 1e6, parameters))
    log.line('data: %d training and %d validation images, %d classes, mean %s, std %s' % (
        len(data.train), len(data.validation), classes, data.facts.mean, data.facts.std))
    if not data.train.has_index:
        log.line('%s has no index file; its records were found by reading through it'
                 % data.train.paths.rec)
    log.line('devices: %s; kv-store %s; total batch %d, %s a device' % (
        ' '.join(map(str, devices)), settings.kv_store, recipe.batch_size,
        '%g' % (recipe.batch_size / len(devices))))
    log.line('recipe: %s' % ', '.join('%s=%s' % item for item in recipe.as_dict().items()))
    if recipe.schedule == 'steps':
        log.line('training strategy: lr=%f, step=%s' % (
            recipe.lr, [int(epoch) for epoch in recipe.drop_epochs()]))
    log.line('random seed: %d; %d steps an epoch' % (settings.rand_seed, steps_per_epoch))


def _progress(log: RunLog, reader, recipe):
    @contextlib.contextmanager
    def show_epoch(epoch: int, first: int):
        label = 'epoch %d/%d' % (epoch + 1, recipe.num_epochs)
        # In a log file the lines of the log show the progress.
        watched = sys.stderr.isatty()
        with Progress(reader.steps_per_epoch - first, label, 'steps', enabled=watched) as bar:
            log.write_console = bar.write if watched else None
            try:
                yield lambda text: bar.advance(1, text)
            finally:
                log.write_console = None
    return show_epoch
