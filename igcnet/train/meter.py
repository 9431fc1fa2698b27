"""The numbers of an epoch while it goes: scores, log lines, and whether the run has diverged."""

from __future__ import annotations

import time
from typing import Dict, List, NamedTuple, Optional

import mxnet as mx
import numpy as np

from igcnet.errors import DivergedError
from igcnet.train import checkpoint
from igcnet.train.methods import Outcome
from igcnet.train.metrics import Scores, score
from igcnet.train.precision import in_full


class Pending(NamedTuple):
    """A step that has been asked for: its numbers, whether its gradients are finite on each
    device, the number of its update from 1, and the learning rate of that."""

    outcome: Outcome
    finite: List[mx.nd.NDArray]
    update: int
    rate: float


class Meter:
    """Collects the scores of an epoch and logs them every `log_iters` steps."""

    def __init__(self, loop, epoch: int):
        self._loop = loop
        self._epoch = epoch
        self._clock: Optional[float] = None
        self._timed = 0
        self._last = ''
        self.device_images: Dict[mx.Context, int] = dict.fromkeys(loop.contexts, 0)
        self.images = 0

    def add(self, pending: Pending) -> None:
        """Take in the numbers of one step; end the run if they show that it has diverged."""
        loop, outcome = self._loop, pending.outcome
        logits = np.concatenate([in_full(output).asnumpy() for output in outcome.outputs])
        loss = float(sum(array.asnumpy().astype(np.float64).sum() for array in outcome.losses))
        mean = loss / len(outcome.labels)
        if not np.isfinite(loss):
            self._diverged('the loss is not finite', pending)
        if not all(flag.asscalar() for flag in pending.finite):
            self._diverged('the gradients are not finite', pending)
        if loop.loss_limit is not None and mean > loop.loss_limit:
            self._diverged('the loss is %.4g, above the limit of %g,' % (mean, loop.loss_limit),
                           pending)
        scores = score(logits, outcome.labels)._replace(loss=loss)
        loop.window_scores += scores
        loop.epoch_scores += scores
        self.images += scores.count
        for output in outcome.outputs:
            self.device_images[output.context] += len(output)
        now = time.time()
        if self._clock is None:  # the first step includes tracing: it only starts the clock
            self._clock = now
        else:
            self._timed += scores.count
        self._last = 'loss %.4f top1 %.2f' % (mean, 100.0 * scores.top1 / scores.count)
        if (outcome.place.step + 1) % loop.log_iters == 0:
            self._line(pending, self._timed / max(now - self._clock, 1e-9))
            self._clock, self._timed, loop.window_scores = now, 0, Scores()

    def _diverged(self, what: str, pending: Pending) -> None:
        kept = checkpoint.checkpoints(self._loop.checkpoint_folder)
        raise DivergedError(
            '%s at epoch %d, step %d (learning rate %g); try a lower --lr; %s'
            % (what, *pending.outcome.place, pending.rate,
               'the last good checkpoint is %s' % kept[-1] if kept else
               'no checkpoint had been written yet'))

    def text(self) -> str:
        """Numbers of the last step whose numbers are known, for the progress bar."""
        return self._last

    def _line(self, pending: Pending, speed: float) -> None:
        loop, step = self._loop, pending.outcome.place.step + 1
        speed *= loop.workers.size
        now, mean = (scores.means() for scores in
                     loop.workers.total(loop.window_scores, loop.epoch_scores))
        shown = ['loss: %.4f(%.4f)' % (now['loss'], mean['loss'])]
        shown += ['%s: %.4f(%.4f)' % (k, 100 * now[k], 100 * mean[k]) for k in ('top1', 'top5')]
        loop.log.line('Epoch[%d] Batch [%d]\tSpeed: %.0f\t%s'
                      % (self._epoch, step, speed, '\t'.join(shown)))
        loop.log.metrics('train', pending.update, epoch=self._epoch, step=step, lr=pending.rate,
                         **now)
        loop.log.timing('train', pending.update, epoch=self._epoch, step=step,
                        images_per_second=speed)
