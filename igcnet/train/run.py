"""A whole training run: from settings to a trained, evaluated and exported network."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import mxnet as mx

import igcnet
from igcnet.convert import load_parameters, save_original
from igcnet.data.augment import find_augmentation
from igcnet.data.benchmark import Rate, timed_epoch
from igcnet.data.datasets import DataSet, check_labels, describe_records, find_dataset
from igcnet.data.reader import EvalReader, TrainReader
from igcnet.data.records import RecordFile
from igcnet.deploy import export, read_manifest
from igcnet.deploy.export import exported_paths
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import explain_os_errors
from igcnet.layers.init import find_initializer
from igcnet.profiling import count_parameters
from igcnet.progress import Progress
from igcnet.registry import get_model, get_spec
from igcnet.train import checkpoint, precision
from igcnet.train.devices import contexts as find_contexts
from igcnet.train.environment import differences, enforce_determinism, environment
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.methods import find_method, method_settings
from igcnet.train.optimizer import find_rule
from igcnet.train.parameter_groups import freeze
from igcnet.train.pretrained import load_weights
from igcnet.train.run_folder import (
    abandon_after,
    clear_temporary,
    find_checkpoint,
    locked,
    new_run_folder,
)
from igcnet.train.runlog import RunLog, plot_curves, read_metrics
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


def train(settings: RunSettings, folder: Optional[Path] = None, load_epoch: int = 0) -> None:
    """Train a network as `settings` say.

    Parameters
    ----------
    folder : Path, optional
        Of a run to go on with, from its newest checkpoint that is whole; a new run by default.
    load_epoch : int
        Go on after this many epochs. In a new run: with the weights of that epoch's
        original-layout checkpoint below ``settings.model_prefix``; the momentum starts at 0, as
        in the original.

    Raises
    ------
    IgcnetError
        Anything that a user can put right.
    igcnet.train.loop.Interrupted
        Stopped by a signal, after writing a checkpoint.
    """
    with contextlib.ExitStack() as held:
        if folder is None:
            _train(settings, lambda: held.enter_context(new_run_folder(settings)), load_epoch)
            return
        held.enter_context(locked(folder))
        clear_temporary(folder)
        warnings: List[str] = []
        path = find_checkpoint(folder, load_epoch or None, warnings.append)
        if abandon_after(path):  # what was exported is of a later time, too
            with contextlib.suppress(FileNotFoundError):
                exported_paths(folder / settings.run_name)[-1].unlink()
        if _is_finished(settings, folder, path):
            print('%s: finished after %d epochs; there is nothing left to do'
                  % (folder, settings.recipe.num_epochs))
            return
        _train(settings, lambda: folder, 0, path, warnings)


def _is_finished(settings: RunSettings, folder: Path, path: Path) -> bool:
    """Whether the newest checkpoint, at `path`, is that of the end, and has been exported."""
    position = checkpoint.read_state(path).position
    if position.epoch < settings.recipe.num_epochs:
        return False
    symbol, params, _ = exported_paths(folder / settings.run_name)
    try:
        manifest = read_manifest(symbol, params)
    except CheckpointError:
        return False
    return manifest is not None and manifest.get('figures', {}).get('update') == position.update


def _train(settings: RunSettings, open_folder: Callable[[], Path], load_epoch: int,
           resume_from: Optional[Path] = None, warnings: Sequence[str] = ()) -> None:
    if settings.deterministic:
        enforce_determinism()
    settings = with_seed(with_augmentation(settings))
    # What is wrong in the recipe is better said now than behind the data.
    method_settings(settings.recipe)
    find_rule(settings.recipe)
    initializer = find_initializer(settings.recipe.init) if settings.recipe.init else None
    devices = find_contexts(settings.gpus, settings.cpus)
    data = open_data(settings)
    if 'classes' not in settings.network_settings:
        settings = settings.changed(network_settings={'classes': data.facts.classes})
    recipe = settings.recipe
    if recipe.batch_size < len(devices) * recipe.accumulate:
        raise UsageError('--batch-size %d: too small for %d devices%s' % (
            recipe.batch_size, len(devices),
            ' and %d parts' % recipe.accumulate if recipe.accumulate > 1 else ''))

    precision.start(settings.precision, devices)
    if settings.precision == 'float16' and not find_method(recipe.method).SCALES_LOSS:
        raise UsageError('--precision float16: the method %s does not scale its loss'
                         % recipe.method)
    mx.random.seed(settings.rand_seed)
    net = get_model(settings.network, **settings.network_settings)
    for records in (data.train, data.validation):
        check_labels(records, net.classes)
    if net.fixed_input_size and net.input_size != data.facts.data_shape:
        raise UsageError('--network %s: needs %dx%d images, %s has %dx%d'
                         % (settings.network, net.input_size, net.input_size, data.facts.name,
                            data.facts.data_shape, data.facts.data_shape))
    net.initialize(initializer, ctx=devices)
    start = settings.load_model or settings.pretrained
    if start and resume_from is None:
        load_weights(net, get_spec(settings.network), start, devices,
                     new_classifier=bool(settings.pretrained))
    parameters = count_parameters(net)
    frozen = freeze(net, settings.freeze)
    net.set_lowering(settings.lowering)
    net.hybridize(static_alloc=True, static_shape=True)
    if settings.precision != 'float32':
        precision.check(net, data.facts.data_shape, settings.precision)

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
    conditions = environment(devices, settings.lowering)
    changes = differences(state.environment, conditions)
    if changes and settings.deterministic:
        raise UsageError('--deterministic: %s was written under other conditions, so the same '
                         'bits cannot be promised: %s' % (resume_from, changes))
    state.environment = conditions

    folder = open_folder()
    log = RunLog(folder, state.history)
    try:
        _announce(log, settings, data, net.classes, parameters, devices, reader.steps_per_epoch)
        if frozen:
            log.line('frozen: %d of %d parameter arrays; %d parameters learn' % (
                len(frozen), len(net.collect_params().keys()), count_parameters(net)))
        for warning in warnings:
            log.line(warning)
        if resume_from is not None:
            log.line('resuming %s' % resume_from)
        if changes:
            log.line('warning: the last bits will differ from those of an uninterrupted run, '
                     'because of: %s' % changes)
        log.open_tensorboard(state.position.update)

        def after_epoch(state):
            _log_bad(log, data.train, reader.bad)
            _log_bad(log, data.validation, validation.bad)
            plot_curves(folder, '%s on %s' % (settings.run_name, settings.dataset))

        def after_checkpoint(state):
            _save_original(net, settings, state.position.epoch)

        loop = Loop(net, devices, trainer, recipe, reader, validation, state, log,
                    after_epoch, after_checkpoint if settings.model_prefix else None,
                    settings.log_iters,
                    settings.checkpoint_epochs or max(1, recipe.num_epochs // 8),
                    settings.checkpoint_steps, settings.checkpoint_seconds, settings.keep,
                    settings.on_nan, settings.loss_limit,
                    loss_scale=precision.LossScale() if settings.precision == 'float16' else None)
        if resume_from is None:
            loop.save()
        # A folder with a configuration has a checkpoint, too: whatever ends the run, it can go on.
        settings.write(folder, igcnet=igcnet.__version__, mxnet=mx.__version__,
                       parameters=parameters)
        loop.run(_progress(log, reader, recipe))
        with contextlib.nullcontext() if loop.average is None else loop.average.applied():
            _export(net, settings, folder, preprocessing, data.train.classes)
        log.line('Exported "%s-symbol.json"%s' % (
            folder / settings.run_name, '' if loop.average is None else ', the averaged weights'))
    finally:
        log.close()


def _export(net, settings: RunSettings, folder: Path, preprocessing, classes) -> None:
    """Export the network with its figures after the last epoch."""
    epochs = [m for m in read_metrics(folder) if m['event'] == 'epoch']
    last = (epochs or [{}])[-1]
    figures = {key: value for key, value in last.items() if key in ('epoch', 'update')}
    start = 'val_ema_' if settings.recipe.ema_decay else 'val_'
    figures.update(('val_' + key[len(start):], value) for key, value in last.items()
                   if key.startswith(start))
    export(net, folder / settings.run_name, preprocessing, settings.network,
           dict(settings.network_settings), classes, figures)


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
    if recipe.lr_per:
        log.line('learning rate: %g for %d images, so %g for a total batch of %d'
                 % (recipe.lr, recipe.lr_per, recipe.rate, recipe.batch_size))
    if recipe.schedule.startswith('steps'):
        log.line('training strategy: lr=%f, step=[%s]' % (
            recipe.rate, ', '.join('%g' % epoch for epoch in recipe.drop_epochs())))
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
