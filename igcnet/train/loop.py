"""The training loop: data parallel over any number of devices, and exact to resume."""

from __future__ import annotations

import signal
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.data.reader import EvalBatch
from igcnet.errors import TrainingError
from igcnet.train import checkpoint, optimizer
from igcnet.train.evaluate import evaluate
from igcnet.train.methods import Outcome, Place, find_method
from igcnet.train.metrics import Scores, score
from igcnet.train.recipes import Recipe
from igcnet.train.runlog import RunLog


class Interrupted(Exception):
    """Somebody asked the run to stop; it has written a checkpoint."""


# A step that has been asked for, and whether its gradients are finite on each device.
Pending = Tuple[Outcome, List[mx.nd.NDArray]]


class StopRequest:
    """Remembers SIGINT and SIGTERM while a run is in a ``with`` block.

    The first one lets the present step finish; a second one ends the program at once.
    """

    def __init__(self):
        self.requested = False
        self._old: Dict[int, Any] = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller stops us in another way
                break
        return self

    def __exit__(self, *exception):
        self._restore()

    def _handle(self, number, frame):
        self.requested = True
        self._restore()

    def _restore(self):
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}


def make_trainer(net, recipe: Recipe, schedule, kv_store: str) -> gluon.Trainer:
    """The ``gluon.Trainer`` of a recipe, with its decay rule; `kv_store` is 'device' or 'local'.

    Every device updates its own copy of the weights with the summed gradients, so that the
    optimiser's state can be saved whatever the store.
    """
    if recipe.decay == 'weights':
        for name, parameter in net.collect_params().items():
            parameter.wd_mult = 1.0 if name.endswith('_weight') else 0.0
    rule = optimizer.Nesterov(momentum=recipe.momentum, learning_rate=recipe.lr, wd=recipe.wd,
                              lr_scheduler=schedule)
    # Without the BN statistics: the trainer would copy the first device's to all others.
    learned = [p for p in net.collect_params().values() if p.grad_req != 'null']
    return gluon.Trainer(learned, rule, kvstore=kv_store, update_on_kvstore=False)


class Loop:
    """Trains `net` from wherever `state` stands to the end of the recipe.

    Parameters
    ----------
    net : igcnet.layers.Network
        Initialised on all `contexts`.
    contexts : list of Context
        Devices; each takes an equal part of every batch and normalises by its own statistics.
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
        Called with the state after each epoch, and after each checkpoint at the end of one.
    log_iters : int
        Steps between two log lines.
    checkpoint_epochs : int
        Epochs between two checkpoints. One is always written at the end and when interrupted.
    """

    def __init__(self, net, contexts, trainer, recipe: Recipe, train_reader,
                 validation: Optional[Iterable[EvalBatch]], state: checkpoint.State,
                 log: RunLog, on_epoch: Optional[Callable[[checkpoint.State], None]] = None,
                 on_checkpoint: Optional[Callable[[checkpoint.State], None]] = None,
                 log_iters: int = 50, checkpoint_epochs: int = 1):
        self.net, self.contexts, self.trainer, self.recipe = net, contexts, trainer, recipe
        self.reader, self.validation, self.state, self.log = train_reader, validation, state, log
        self.on_epoch, self.on_checkpoint = on_epoch, on_checkpoint
        self.log_iters = log_iters
        self.checkpoint_epochs = checkpoint_epochs
        self.method = find_method(recipe.method)(net, recipe, state.seed,
                                                 train_reader.steps_per_epoch)
        self.epoch_scores = Scores(*state.scores) if state.scores else Scores()

    @property
    def checkpoint_folder(self):
        return self.log.folder / 'checkpoints'

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
            The last epoch's numbers, as written to the metrics file.

        Raises
        ------
        Interrupted
            After a checkpoint was written on SIGINT or SIGTERM.
        TrainingError
            The loss is not a number, or the weights are not finite.
        """
        numbers: Dict[str, float] = {}
        with StopRequest() as stop:
            while self.state.position.epoch < self.recipe.num_epochs:
                numbers = self._epoch(stop, progress)
        return numbers

    def _epoch(self, stop: StopRequest, progress) -> Dict[str, float]:
        position = self.state.position
        epoch, started = position.epoch, time.time()
        meter = _Meter(self, epoch)
        pending: Optional[Pending] = None
        batches = self.reader.epoch(epoch, start_step=position.step)
        try:
            with progress(epoch, position.step) as show:
                for images, labels in batches:
                    asked = self._step(Place(epoch, position.step), images, labels)
                    # The numbers of the step before are ready by now: reading them does not
                    # make the devices wait.
                    if pending is not None:
                        meter.add(*pending)
                    pending = asked
                    position.step += 1
                    position.update += 1
                    show(meter.text())
                    if stop.requested:
                        meter.add(*pending)
                        self._save_interrupted(meter)
        finally:
            batches.close()
        if pending is not None:
            meter.add(*pending)
        return self._finish_epoch(meter, time.time() - started)

    def _step(self, place: Place, images, labels) -> Pending:
        # Seeding each step makes dropout repeatable from any checkpoint.
        mx.random.seed(_mix(self.state.seed, *place))
        outcome = self.method.gradients(place, images, labels, self.contexts)
        finite = [self._finite_gradients(output.context) for output in outcome.outputs]
        self.trainer.step(len(labels))
        return outcome, finite

    def _finite_gradients(self, context: mx.Context) -> mx.nd.NDArray:
        """1 if every gradient on a device is finite, else 0, computed there without waiting.

        The loss alone does not tell: MXNet's ReLU turns NaN into 0 on the CPU.
        """
        gradients = [p.grad(context) for p in self.net.collect_params().values()
                     if p.grad_req != 'null']
        return mx.nd.multi_all_finite(*gradients, num_arrays=len(gradients))

    def _finish_epoch(self, meter: _Meter, seconds: float) -> Dict[str, float]:
        position, log = self.state.position, self.log
        epoch = position.epoch
        log.line('Epoch[%d] Time cost=%.3f' % (epoch, seconds))
        rate = self.trainer.learning_rate if position.update else self.recipe.lr
        numbers: Dict[str, Any] = {'epoch': epoch + 1, 'lr': float(rate), 'seconds': seconds,
                                   'images_per_second': meter.images / max(seconds, 1e-9)}
        numbers.update(('train_' + k, v) for k, v in self.epoch_scores.means().items())
        if self.validation is not None:
            scores = evaluate(self.net, self.validation, self.contexts)
            numbers.update(('val_' + k, v) for k, v in scores.means().items())
            numbers['val_count'] = scores.count
            for name, key in (('cross-entropy', 'loss'), ('accuracy', 'top1'),
                              ('top_k_accuracy_5', 'top5')):
                log.line('Epoch[%d] Validation-%s=%f' % (epoch, name, scores.means()[key]))
        log.metrics('epoch', position.update, **numbers)
        position.epoch, position.step = epoch + 1, 0
        self.epoch_scores = Scores()
        done = position.epoch
        if done % self.checkpoint_epochs == 0 or done == self.recipe.num_epochs:
            self._save()
            if self.on_checkpoint is not None:
                self.on_checkpoint(self.state)
        if self.on_epoch is not None:
            self.on_epoch(self.state)
        return numbers

    def _save(self):
        self.state.scores = list(self.epoch_scores)
        self.state.metrics_bytes = self.log.metrics_bytes
        path = checkpoint.save(self.checkpoint_folder, self.net, self.trainer, self.state)
        self.log.line('Saved checkpoint to "%s"' % path)
        return path

    def _save_interrupted(self, meter: _Meter) -> None:
        path = self._save()
        raise Interrupted(str(path))


class _Meter:
    """Collects the scores of an epoch and logs them every `log_iters` steps."""

    def __init__(self, loop: Loop, epoch: int):
        self._loop = loop
        self._epoch = epoch
        self._window = Scores()
        self._clock: Optional[float] = None
        self._timed = 0
        self._last = ''
        self.images = 0

    def add(self, outcome: Outcome, finite: List[mx.nd.NDArray]) -> None:
        """Take in the numbers of one step; stop the run if the loss is not a number."""
        loop = self._loop
        logits = np.concatenate([output.asnumpy() for output in outcome.outputs])
        loss = float(sum(array.asnumpy().astype(np.float64).sum() for array in outcome.losses))
        if not (all(flag.asscalar() for flag in finite) and np.isfinite(loss)):
            kept = checkpoint.checkpoints(loop.checkpoint_folder)
            raise TrainingError(
                'the %s not finite at epoch %d, step %d (learning rate %g); try a lower --lr; %s'
                % ('gradients are' if np.isfinite(loss) else 'loss is', *outcome.place,
                    loop.trainer.learning_rate,
                   'the last good checkpoint is %s' % kept[-1] if kept else
                   'no checkpoint had been written yet'))
        scores = score(logits, outcome.labels)._replace(loss=loss)
        self._window += scores
        loop.epoch_scores += scores
        self.images += scores.count
        now = time.time()
        if self._clock is None:  # the first step includes tracing: it only starts the clock
            self._clock = now
        else:
            self._timed += scores.count
        self._last = 'loss %.4f top1 %.2f' % (scores.loss / scores.count,
                                              100.0 * scores.top1 / scores.count)
        if (outcome.place.step + 1) % loop.log_iters == 0:
            self._line(outcome.place.step, self._timed / max(now - self._clock, 1e-9))
            self._clock, self._timed, self._window = now, 0, Scores()

    def text(self) -> str:
        """Numbers of the last step whose numbers are known, for the progress bar."""
        return self._last

    def _line(self, step: int, speed: float) -> None:
        loop = self._loop
        now, mean = self._window.means(), loop.epoch_scores.means()
        shown = ['loss: %.4f(%.4f)' % (now['loss'], mean['loss'])]
        shown += ['%s: %.4f(%.4f)' % (k, 100 * now[k], 100 * mean[k]) for k in ('top1', 'top5')]
        loop.log.line('Epoch[%d] Batch [%d]\tSpeed: %.0f\t%s'
                      % (self._epoch, step + 1, speed, '\t'.join(shown)))
        loop.log.metrics('train', loop.state.position.update, epoch=self._epoch, step=step + 1,
                         lr=float(loop.trainer.learning_rate), images_per_second=speed, **now)


def _mix(*numbers: int) -> int:
    """A seed of 31 bits for MXNet out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
