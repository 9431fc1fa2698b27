"""A whole training run: from settings to a trained, evaluated and exported network."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Callable, List, Optional, Sequence

import mxnet as mx

import igcnet
from igcnet.convert import load_parameters, save_original
from igcnet.data.datasets import check_labels
from igcnet.data.reader import EvalReader
from igcnet.deploy import export, read_manifest
from igcnet.deploy.export import exported_paths
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import explain_os_errors
from igcnet.layers.init import find_initializer
from igcnet.profiling import count_parameters
from igcnet.registry import get_model, get_spec
from igcnet.train import checkpoint, precision
from igcnet.train.announce import announce, log_bad, show_progress
from igcnet.train.devices import contexts as find_contexts
from igcnet.train.distributed import start_alike
from igcnet.train.environment import differences, enforce_determinism, environment
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.methods import find_method, method_settings
from igcnet.train.optimizer import find_rule
from igcnet.train.parameter_groups import freeze
from igcnet.train.pretrained import load_weights, released_file, with_released
from igcnet.train.recipes import Recipe
from igcnet.train.run_data import make_reader, open_data, with_augmentation, with_seed
from igcnet.train.run_folder import (
    abandon_after,
    clear_temporary,
    find_checkpoint,
    locked,
    new_run_folder,
)
from igcnet.train.runlog import RunLog, epoch_figures, plot_curves, read_epochs
from igcnet.train.settings import RunSettings, settings_from_text
from igcnet.train.synchronised import Synchronised
from igcnet.train.tuning import fastest_lowering
from igcnet.train.workers import ALONE, Alone


def share_settings(workers: Alone, settings: Optional[RunSettings]) -> RunSettings:
    """The settings of worker 0, with a seed, for every worker.

    Raises
    ------
    UsageError
        Settings that do not go with several workers, or with one.
    """
    if workers.size > 1:
        text = '' if settings is None else with_seed(settings).to_text()
        settings = settings_from_text(workers.broadcast(text.encode()).decode(), 'worker 0')
    settings = replace(settings, kv_store=workers.store_name(settings.kv_store))
    if settings.gc_type == '2bit':
        workers.compress_to(settings.gc_threshold)
    if workers.size > 1 and settings.sync_bn:
        raise UsageError('--sync-bn: the devices of one process exchange their statistics, %d '
                         'workers cannot' % workers.size)
    if workers.asynchronous and settings.on_nan == 'rollback':
        raise UsageError('--on-nan rollback: the servers of dist_async cannot go back')
    if workers.asynchronous and settings.recipe.clip_norm:
        raise UsageError('clip_norm=%g: the servers of dist_async update each weight alone, so the '
                         'norm of all gradients cannot be limited; clip_value can be'
                         % settings.recipe.clip_norm)
    return settings


def train(settings: RunSettings, folder: Optional[Path] = None, load_epoch: int = 0,
          workers: Alone = ALONE) -> None:
    """Train a network as `settings` say.

    Parameters
    ----------
    folder : Path, optional
        Of a run to go on with, from its newest checkpoint that is whole; a new run by default.
    load_epoch : int
        Go on after this many epochs. In a new run: with the weights of that epoch's
        original-layout checkpoint below ``settings.model_prefix``; the momentum starts at 0, as
        in the original.
    workers : Alone
        Who trains together. Worker 0 has the run's folder, the others temporary ones.

    Raises
    ------
    IgcnetError
        Anything that a user can put right.
    igcnet.train.stopping.Interrupted
        Stopped by a signal, after writing a checkpoint.
    """
    path: Optional[Path] = None
    finished = False
    warnings: List[str] = []
    with contextlib.ExitStack() as held:
        if workers.rank > 0:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix='igcnet-')))
        elif folder is not None:
            held.enter_context(locked(folder))
            clear_temporary(folder)
            path = find_checkpoint(folder, load_epoch or None, warnings.append)
            finished = _is_finished(settings, folder, path)
        finished, path = json.loads(workers.broadcast(
            json.dumps([finished, path and str(path)]).encode()))
        if finished:
            if workers.rank == 0:
                print('%s: the run has finished; there is nothing left to do' % folder)
            return
        _train(settings, lambda whole: folder or held.enter_context(new_run_folder(whole)),
               0 if path else load_epoch, path and Path(path), warnings, workers)


def _is_finished(settings: RunSettings, folder: Path, path: Path) -> bool:
    """Whether the checkpoint at `path` is the newest, that of the end, and has been exported."""
    position = checkpoint.read_state(path).position
    if (position.epoch < settings.recipe.num_epochs
            or path != checkpoint.checkpoints(path.parent)[-1]):
        return False
    symbol, params, _ = exported_paths(folder / settings.run_name)
    try:
        manifest = read_manifest(symbol, params)
    except CheckpointError:
        return False
    return manifest is not None and manifest.get('figures', {}).get('update') == position.update


def _train(settings: RunSettings, open_folder: Callable[[RunSettings], Path], load_epoch: int,
           resume_from: Optional[Path], warnings: Sequence[str], workers: Alone) -> None:
    if settings.deterministic:
        enforce_determinism()
    settings = with_seed(with_augmentation(settings))
    if resume_from is None:
        settings = with_released(settings)
    # What is wrong in the recipe is better said now than behind the data.
    method_settings(settings.recipe)
    find_rule(settings.recipe)
    initializer = find_initializer(settings.recipe.init) if settings.recipe.init else None
    devices = find_contexts(settings.gpus, settings.cpus)
    data = open_data(settings)
    if 'classes' not in settings.network_settings:
        settings = settings.changed(network_settings={'classes': data.facts.classes})
    recipe = settings.recipe
    check_batch(recipe, len(devices), workers)
    synchronise = settings.sync_bn and len(devices) > 1
    if synchronise and settings.precision != 'float32':
        raise UsageError('--sync-bn: goes with --precision float32 only')
    if synchronise and not find_method(recipe.method).SYNCHRONISES:
        raise UsageError('--sync-bn: does not go with the method %s' % recipe.method)

    precision.start(settings.precision, devices)
    if settings.precision == 'float16' and not find_method(recipe.method).SCALES_LOSS:
        raise UsageError('--precision float16: the method %s does not scale its loss'
                         % recipe.method)
    lowering = settings.lowering
    if settings.tune:
        lowering = fastest_lowering(
            settings.network, settings.network_settings,
            -(-recipe.batch_size // (len(devices) * recipe.accumulate)), data.facts.data_shape,
            devices[0])
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
        load_weights(net, get_spec(settings.network),
                     released_file(settings) if start is True else start, devices,
                     new_classifier=bool(settings.pretrained))
    parameters = count_parameters(net)
    frozen = freeze(net, settings.freeze)
    net.set_lowering(lowering)
    synchronised = Synchronised(net, len(devices)) if synchronise else None
    net.hybridize(static_alloc=True, static_shape=True)
    if settings.precision != 'float32':
        precision.check(net, data.facts.data_shape, settings.precision)

    reader = make_reader(settings, data, workers)
    preprocessing = data.facts.preprocessing()
    validation = EvalReader(data.validation, settings.test_batch_size
                            or data.facts.test_batch_size(recipe.batch_size), preprocessing,
                            threads=settings.decode_threads, on_bad=settings.on_bad,
                            part_index=workers.rank, num_parts=workers.size)
    schedule = recipe.make_schedule(settings.num_examples or len(data.train),
                                    reader.steps_per_epoch)
    trainer = make_trainer(net, recipe, schedule, settings.kv_store, workers)

    state = checkpoint.State(checkpoint.Position(), settings.rand_seed, settings.network,
                             dict(settings.network_settings), data.train.classes,
                             asdict(preprocessing))
    if resume_from is not None:
        with workers.shared_folder(resume_from) as shared:
            state = checkpoint.restore(shared, net, devices, trainer)
    elif load_epoch:
        load_parameters(net, '%s-%04d.params' % (original_prefix(settings), load_epoch),
                        ctx=devices)
        update = load_epoch * reader.steps_per_epoch
        state.position = checkpoint.Position(load_epoch, 0, update)
        trainer._optimizer.begin_num_update = update
    start_alike(net, workers)
    conditions = environment(devices, settings.lowering, synchronise)
    changes = differences(state.environment, conditions)
    if changes and settings.deterministic:
        raise UsageError('--deterministic: %s was written under other conditions, so the same '
                         'bits cannot be promised: %s' % (resume_from, changes))
    state.environment = conditions

    folder = open_folder(settings)
    # From here on the run is what it was at the checkpoint.
    if resume_from is not None and workers.rank == 0 and abandon_after(resume_from):
        with contextlib.suppress(FileNotFoundError):  # an export of the future, too
            exported_paths(folder / settings.run_name)[-1].unlink()
    log = RunLog(folder, state.history)
    if workers.rank > 0:
        log.write_console = _discard
    try:
        announce(log, settings, data, net.classes, parameters, devices, reader.steps_per_epoch,
                 workers)
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
        if workers.rank == 0:
            log.open_tensorboard(state.position.update)

        def after_epoch(state):
            log_bad(log, data.train, reader.bad)
            log_bad(log, data.validation, validation.bad)
            plot_curves(folder, '%s on %s' % (settings.run_name, settings.dataset))

        def after_checkpoint(state):
            _save_original(net, settings, state.position.epoch)

        loop = Loop(net, devices, trainer, recipe, reader, validation, state, log,
                    after_epoch, after_checkpoint if settings.model_prefix else None,
                    settings.log_iters,
                    settings.checkpoint_epochs or max(1, recipe.num_epochs // 8),
                    settings.checkpoint_steps, settings.checkpoint_seconds, settings.keep,
                    settings.on_nan, settings.loss_limit,
                    loss_scale=precision.LossScale() if settings.precision == 'float16' else None,
                    synchronised=synchronised, workers=workers)
        if resume_from is None:
            loop.save()
        # A folder with a configuration has a checkpoint, too: whatever ends the run, it can go on.
        settings.write(folder, igcnet=igcnet.__version__, mxnet=mx.__version__,
                       parameters=parameters)
        loop.run(show_progress(log, reader, recipe))
        if workers.rank > 0:
            return
        with contextlib.nullcontext() if loop.average is None else loop.average.applied():
            _export(net, settings, folder, preprocessing, data.train.classes)
        log.line('Exported "%s-symbol.json"%s' % (
            folder / settings.run_name, '' if loop.average is None else ', the averaged weights'))
    finally:
        log.close()


def check_batch(recipe: Recipe, devices: int, workers: Alone) -> None:
    """Raise `UsageError` unless every device of every worker gets a part of the batch, and all
    workers get equal ones."""
    batch_size, parts = recipe.batch_size, recipe.accumulate
    counts = workers.gather([devices])[:, 0].astype(int).tolist()
    if len(set(counts)) > 1:
        raise UsageError('--gpus, --cpus: every worker needs the same number of devices, they '
                         'have %s' % counts)
    if batch_size % workers.size:
        raise UsageError('--batch-size %d: it is the total, and does not divide by %d workers'
                         % (batch_size, workers.size))
    if batch_size < sum(counts) * parts:
        raise UsageError('--batch-size %d: too small for %d devices%s' % (
            batch_size, sum(counts), ' and %d parts' % parts if parts > 1 else ''))


def _export(net, settings: RunSettings, folder: Path, preprocessing, classes) -> None:
    """Export the network with its figures after the last epoch."""
    figures = epoch_figures((read_epochs(folder) or [{}])[-1], bool(settings.recipe.ema_decay))
    export(net, folder / settings.run_name, preprocessing, settings.network,
           dict(settings.network_settings), classes, figures)


def original_prefix(settings: RunSettings) -> str:
    """Prefix of the original-layout checkpoints, by the original's rule."""
    return '%sweights/%s/%s' % (settings.model_prefix, settings.run_name, settings.run_name)


def _save_original(net, settings: RunSettings, epoch: int) -> None:
    prefix = Path(original_prefix(settings))
    with explain_os_errors(prefix):
        prefix.parent.mkdir(parents=True, exist_ok=True)
    save_original(net, str(prefix), epoch)


def _discard(text: str) -> None:
    """Where the lines of all workers but the first go."""
