"""The training loop: data parallel over any number of devices, and exact to resume."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.data.reader import EvalBatch
from igcnet.errors import DivergedError, UsageError
from igcnet.train import checkpoint
from igcnet.train.ema import WeightAverage
from igcnet.train.evaluate import evaluate
from igcnet.train.gradients import all_finite, batch_gradients, leave_out_update, update
from igcnet.train.meter import Meter, Pending
from igcnet.train.methods import Place, find_method
from igcnet.train.metrics import Scores
from igcnet.train.optimizer import make_optimizer
from igcnet.train.parameter_groups import learned, set_multipliers
from igcnet.train.precision import LossScale
from igcnet.train.recipes import Recipe
from igcnet.train.run_folder import CHECKPOINTS, abandon_after, newest_whole, prune
from igcnet.train.runlog import RunLog
from igcnet.train.schedules import Scaled
from igcnet.train.stopping import Interrupted, Stopped, StopRequest
from igcnet.train.synchronised import Synchronised
from igcnet.train.workers import ALONE, Alone

ON_NAN = ('stop', 'rollback')
MAX_ROLLBACKS = 5


def make_trainer(net: gluon.HybridBlock, recipe: Recipe, schedule: mx.lr_scheduler.LRScheduler,
                 kv_store: str, workers: Alone = ALONE) -> gluon.Trainer:
    """The ``gluon.Trainer`` of a recipe, with its multipliers, for one of `workers`.

    `kv_store` is 'device' or 'local'; in a distributed job it says nothing.
    """
    set_multipliers(net, recipe)
    # Without the BN statistics: the trainer would copy the first device's to all others.
    return workers.trainer(learned(net), make_optimizer(recipe, schedule), kv_store)


class Loop:
    """Trains `net` from wherever `state` stands to the end of the recipe.

    Parameters
    ----------
    net : igcnet.layers.Network
        Initialised on all `contexts`.
    contexts : list of Context
        Devices; each takes an equal part of every batch, and normalises by its own statistics
        unless `synchronised` is given.
    trainer : gluon.Trainer
        See `make_trainer`.
    recipe : Recipe
    train_reader : igcnet.data.reader.TrainReader
        Gives the batches of an epoch from any step on.
    validation : EvalReader, optional
        The validation images; read once after every epoch.
    state : checkpoint.State
        Position, seed and description; updated as the run goes.
    log : RunLog
    on_epoch, on_checkpoint : callable, optional
        Called with the state after each epoch, and before each checkpoint at the end of one
        that `checkpoint_epochs` asks for.
    log_iters : int
        Steps between two log lines.
    checkpoint_epochs, checkpoint_steps, checkpoint_seconds : int, int, float
        Epochs, steps of an epoch, and seconds between two checkpoints; 0 steps: not by steps.
        Whatever they are, one is written when interrupted, at the end, and after an epoch with
        the best validation accuracy so far, or the same.
    keep : int
        How many of the newest checkpoints are kept, beside that of the best epoch and the newest
        one whose place the clock has not decided. 0: all.
    on_nan : {'stop', 'rollback'}
        When the run diverges: end it, or go on from the newest checkpoint whose place the clock
        has not decided, with half the learning rate; after `MAX_ROLLBACKS` of these end it.
    loss_limit : float, optional
        A mean loss of a step above it counts as diverged, too.
    stateful : mapping of str to object, optional
        Whatever else has a state, each with ``arrays() -> Dict[str, numpy.ndarray]``, asked for
        at each checkpoint, and ``set_arrays(arrays)``, given the same again on resuming and
        rolling back. See `igcnet.train.checkpoint.State.extra` for what arrays can be. The
        training method is always among them.
    loss_scale : LossScale, optional
        Of float16.
    synchronised : Synchronised, optional
        Makes BN see the whole batch.
    workers : Alone
        The workers of the run. Each has a loop of its own and the same position; only worker 0
        writes checkpoints.
    """

    def __init__(self, net, contexts, trainer, recipe: Recipe, train_reader,
                 validation: Optional[Iterable[EvalBatch]], state: checkpoint.State,
                 log: RunLog, on_epoch: Optional[Callable[[checkpoint.State], None]] = None,
                 on_checkpoint: Optional[Callable[[checkpoint.State], None]] = None,
                 log_iters: int = 50, checkpoint_epochs: int = 1, checkpoint_steps: int = 0,
                 checkpoint_seconds: float = 600, keep: int = 3, on_nan: str = 'stop',
                 loss_limit: Optional[float] = None,
                 stateful: Optional[Mapping[str, Any]] = None,
                 loss_scale: Optional[LossScale] = None,
                 synchronised: Optional[Synchronised] = None, workers: Alone = ALONE):
        if on_nan not in ON_NAN:
            raise UsageError('on_nan=%s: must be one of %s' % (on_nan, ', '.join(ON_NAN)))
        self.net, self.contexts, self.trainer, self.recipe = net, contexts, trainer, recipe
        self.reader, self.validation, self.log = train_reader, validation, log
        self.on_epoch, self.on_checkpoint = on_epoch, on_checkpoint
        self.log_iters = log_iters
        self.checkpoint_epochs = checkpoint_epochs
        self.checkpoint_steps, self.checkpoint_seconds = checkpoint_steps, checkpoint_seconds
        self.keep, self.on_nan, self.loss_limit = keep, on_nan, loss_limit
        self.method = find_method(recipe.method)(net, recipe, state.seed,
                                                 train_reader.steps_per_epoch)
        self.method.synchronised = synchronised
        self.workers = workers
        self.average = WeightAverage(net, recipe.ema_decay) if recipe.ema_decay else None
        self.loss_scale = loss_scale
        own = {'method': self.method, 'average': self.average, 'loss_scale': loss_scale,
               **workers.stateful(net)}
        self.stateful = {name: thing for name, thing in {**own, **(stateful or {})}.items()
                         if thing is not None}
        self._schedule = trainer._optimizer.lr_scheduler
        self._saved_at = time.monotonic()
        self._take_up(state)

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints go."""
        return self.log.folder / CHECKPOINTS

    def _take_up(self, state: checkpoint.State) -> None:
        """Go on from `state`, to which net and trainer have been set."""
        self.state = state
        self.epoch_scores, self.window_scores = map(self.workers.own_scores,
                                                    (state.scores, state.window))
        for name, thing in self.stateful.items():
            prefix = name + ':'
            arrays = {key[len(prefix):]: array for key, array in state.extra.items()
                      if key.startswith(prefix)}
            if arrays:
                thing.set_arrays(arrays)
        if state.rollbacks:
            self.trainer._optimizer.lr_scheduler = Scaled(self._schedule, 0.5 ** state.rollbacks)

    def run(self, progress: Callable[[int, int], Any]) -> Dict[str, float]:
        """Train to the end.

        Parameters
        ----------
        progress : callable
            Given (epoch, first step), returns a context manager whose value is called with a
            text after every step.

        Returns
        -------
        dict
            The last epoch's numbers, as written to the metrics file; none if there was nothing
            left to do.

        Raises
        ------
        Interrupted
            After a checkpoint was written on SIGINT or SIGTERM.
        DivergedError
            The loss or the weights are not finite, or the loss is above its limit.
        """
        numbers: Dict[str, float] = {}
        with StopRequest() as stop:
            while self.state.position.epoch < self.recipe.num_epochs:
                try:
                    numbers = self._epoch(stop, progress)
                except DivergedError as problem:
                    if self.on_nan == 'stop':
                        raise
                    self._roll_back(problem)
        return numbers

    def _epoch(self, stop: StopRequest, progress) -> Dict[str, float]:
        position = self.state.position
        epoch, started = position.epoch, time.time()
        meter = Meter(self, epoch)
        pending: Optional[Pending] = None
        batches = self.reader.epoch(epoch, start_step=position.step)
        try:
            with progress(epoch, position.step) as show:
                for images, labels in batches:
                    asked = self._step(Place(epoch, position.step), images, labels)
                    # The numbers of the step before are ready by now: reading them does not
                    # make the devices wait.
                    if pending is not None:
                        meter.add(pending)
                    pending = asked
                    position.step += 1
                    position.update += 1
                    show(meter.text())
                    stopping, late = self.workers.agree(stop.requested, self._is_late())
                    if stopping or late or self._is_due(position):
                        meter.add(pending)
                        pending = None
                        path = self.save()
                        if stopping:
                            raise Interrupted(str(path))
        finally:
            batches.close()
        if pending is not None:
            meter.add(pending)
        return self._finish_epoch(stop, meter, time.time() - started)

    def _step(self, place: Place, images, labels) -> Pending:
        workers = self.workers
        # Seeding each step makes dropout repeatable from any checkpoint.
        mx.random.seed(_mix(self.state.seed, *place, *workers.own_seed))
        parameters, scale = self.trainer._params, self.loss_scale
        self.method.loss_scale = factor = 1.0 if scale is None else scale.factor
        outcome = batch_gradients(self.method, place, images, labels, self.contexts, parameters,
                                  self.recipe.accumulate)
        finite = workers.all_good(
            all_finite(parameters, list(dict.fromkeys(
                output.context for output in outcome.outputs))), outcome.losses, self.loss_limit)
        if scale is None or scale.take(finite):
            update(self.trainer, len(labels) * workers.size // workers.updates_per_step,
                   self.recipe.clip_norm, factor)
            if self.average is not None:
                self.average.update()
        elif scale.factor >= 1:  # an overflow of half precision, not of the network
            leave_out_update(self.trainer)
            finite = []
        return Pending(outcome, finite, self.state.position.update + 1,
                       float(self.trainer.learning_rate))

    def _finish_epoch(self, stop: StopRequest, meter: Meter, seconds: float) -> Dict[str, float]:
        state, position, log, workers = self.state, self.state.position, self.log, self.workers
        epoch = position.epoch
        log.line('Epoch[%d] Time cost=%.3f' % (epoch, seconds))
        self._log_devices(meter, seconds)
        workers.synchronise(self.net, self.trainer)
        trained, = workers.total(self.epoch_scores)
        rate = self.trainer.learning_rate if position.update else self.recipe.rate
        numbers: Dict[str, Any] = {'epoch': epoch + 1, 'lr': float(rate)}
        numbers.update(('train_' + k, v) for k, v in trained.means().items())
        if self.validation is not None:
            try:
                numbers.update(self._validate(epoch, stop))
                if self.average is not None:
                    with self.average.applied():
                        numbers.update(self._validate(epoch, stop, 'ema_'))
            except Stopped:  # only now has the network the weights to save again
                raise Interrupted(str(self.save())) from None
        log.metrics('epoch', position.update, **numbers)
        log.timing('epoch', position.update, epoch=epoch + 1, seconds=seconds,
                   images_per_second=meter.images * workers.size / max(seconds, 1e-9))
        position.epoch, position.step = epoch + 1, 0
        self.epoch_scores = self.window_scores = Scores()
        best = numbers.get('val_top1', -np.inf) >= state.best_top1
        if best:
            state.best_epoch, state.best_top1 = position.epoch, numbers['val_top1']
        at_interval = (position.epoch % self.checkpoint_epochs == 0
                       or position.epoch == self.recipe.num_epochs)
        # The checkpoint comes last: a run that is killed before it does all of this again.
        if at_interval and self.on_checkpoint is not None and workers.rank == 0:
            checkpoint.check_finite(self.net)
            self.on_checkpoint(state)
        if self.on_epoch is not None and workers.rank == 0:
            self.on_epoch(state)
        if best or at_interval:
            self.save()
        return numbers

    def _validate(self, epoch: int, stop: StopRequest, prefix: str = '') -> Dict[str, float]:
        numbers: Dict[str, float] = {}
        with closing(self.method.evaluations(self.reader, epoch)) as evaluations:
            for name in evaluations:
                # What a method has calibrated, each worker has from images of its own.
                self.workers.average_statistics(self.net)
                numbers.update(self._evaluate(epoch, stop, prefix + name))
        return numbers

    def _evaluate(self, epoch: int, stop: StopRequest, name: str) -> Dict[str, float]:
        # Where several workers evaluate, none may leave before the others.
        scores, = self.workers.total(evaluate(
            self.net, self.validation, self.contexts,
            lambda *batch: stop.heed() if self.workers.size == 1 else None))
        means = scores.means()
        for text, key in (('cross-entropy', 'loss'), ('accuracy', 'top1'),
                          ('top_k_accuracy_5', 'top5')):
            self.log.line('Epoch[%d] Validation-%s%s=%f' % (epoch, name, text, means[key]))
        return {**{'val_%s%s' % (name, key): value for key, value in means.items()},
                'val_%scount' % name: scores.count}

    def _is_due(self, position: checkpoint.Position) -> bool:
        """Whether a checkpoint in mid-epoch is due at this place."""
        return bool(self.checkpoint_steps) and position.step % self.checkpoint_steps == 0

    def _is_late(self) -> bool:
        """Whether the clock says that a checkpoint is due."""
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def _log_devices(self, meter: Meter, seconds: float) -> None:
        """What each device has done, if there are several."""
        counts = self.workers.gather([meter.device_images[c] for c in self.contexts])
        if counts.size > 1:
            rates = ['%s%s %.1f' % ('worker %d ' % rank if len(counts) > 1 else '', context,
                                    count / max(seconds, 1e-9))
                     for rank, row in enumerate(counts)
                     for context, count in zip(self.contexts, row)]
            self.log.line('Images/s: %s' % ', '.join(rates))

    def _repeatable(self) -> List[Path]:
        """The checkpoints that every run with these settings writes, whatever the clock says."""
        return [path for path in checkpoint.checkpoints(self.checkpoint_folder)
                if checkpoint.step_of(path) % (self.checkpoint_steps or np.inf) == 0]

    def save(self) -> Path:
        """Write a checkpoint of the present state, and remove those that are not kept.

        All workers call it, and all get the path; worker 0 writes.
        """
        state, workers = self.state, self.workers
        workers.fetch(self.trainer)
        state.scores, state.window = map(workers.all_scores,
                                         (self.epoch_scores, self.window_scores))
        state.history = self.log.history
        state.extra = {'%s:%s' % (name, key): array for name, thing in self.stateful.items()
                       for key, array in thing.arrays().items()}
        self._saved_at = time.monotonic()
        if workers.rank > 0:
            return self.checkpoint_folder / state.position.folder_name()
        path = checkpoint.save(self.checkpoint_folder, self.net, self.trainer, state)
        self.log.line('Saved checkpoint to "%s"' % path)
        protected = {'%04d' % state.best_epoch, *(p.name for p in self._repeatable()[-1:])}
        prune(self.checkpoint_folder, self.keep, protected)
        return path

    def _roll_back(self, problem: DivergedError) -> None:
        """Go back to a good checkpoint, with half the learning rate.

        The order of the images cannot be what is changed: it is that of the seed.
        """
        rollbacks, path = self.state.rollbacks, Path()
        if self.workers.rank == 0:
            found = self._repeatable()
            if rollbacks == MAX_ROLLBACKS or not found:
                raise DivergedError('%s; %s' % (
                    problem, 'rolled back %d times already' % rollbacks
                    if found else 'nothing to roll back to')) from None
            path = newest_whole(found, self.log.line)
            abandon_after(path)
        with self.workers.shared_folder(path) as shared:
            state = checkpoint.restore(shared, self.net, self.contexts, self.trainer)
        state.rollbacks = rollbacks + 1
        self.log.rewind(state.history)
        self._take_up(state)
        self.log.line('%s; rolled back to "%s", learning rate times %g from here on (%d of %d)'
                      % (problem, path, 0.5 ** state.rollbacks, state.rollbacks, MAX_ROLLBACKS))
        self.log.metrics('rollback', state.position.update, rollbacks=state.rollbacks)


def _mix(*numbers: int) -> int:
    """A seed of 31 bits for MXNet out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
