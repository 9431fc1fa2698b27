"""What a run tells people beside its numbers."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, ContextManager, Dict, Sequence

from igcnet.data.reader import TrainReader
from igcnet.data.records import RecordFile
from igcnet.progress import Progress
from igcnet.train.recipes import Recipe
from igcnet.train.run_data import Data
from igcnet.train.runlog import RunLog
from igcnet.train.settings import RunSettings
from igcnet.train.workers import Alone


def announce(log: RunLog, settings: RunSettings, data: Data, classes: int, parameters: int,
             devices: Sequence[Any], steps_per_epoch: int, workers: Alone) -> None:
    """Say what is going to be done, before the first step.

    `parameters` are those of the network, frozen ones too.
    """
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
    several = '%d workers with ' % workers.size if workers.size > 1 else ''
    log.line('devices: %s%s; kv-store %s; total batch %d, %s a device' % (
        several, ' '.join(map(str, devices)), settings.kv_store, recipe.batch_size,
        '%g' % (recipe.batch_size / len(devices) / workers.size)))
    if settings.sync_bn:
        log.line('batch normalisation: %s' % (
            "over the parts of all devices; other lowerings stand in for 'native'"
            if len(devices) > 1 else
            'one device has the whole batch anyway, so --sync-bn changes nothing'))
    log.line('recipe: %s' % ', '.join('%s=%s' % item for item in recipe.as_dict().items()))
    if recipe.lr_per:
        log.line('learning rate: %g for %d images, so %g for a total batch of %d'
                 % (recipe.lr, recipe.lr_per, recipe.rate, recipe.batch_size))
    if recipe.schedule.startswith('steps'):
        log.line('training strategy: lr=%f, step=[%s]' % (
            recipe.rate, ', '.join('%g' % epoch for epoch in recipe.drop_epochs())))
    log.line('random seed: %d; %d steps an epoch' % (settings.rand_seed, steps_per_epoch))


def log_bad(log: RunLog, records: RecordFile, bad: Dict[int, str]) -> None:
    """Say how many images could not be read, if any."""
    if bad:
        log.line('skipped %d of %d images of %s as unreadable; the first: %s'
                 % (len(bad), len(records), records.paths.rec, bad[min(bad)]))


def show_progress(log: RunLog, reader: TrainReader, recipe: Recipe
                  ) -> Callable[[int, int], ContextManager[Callable[[str], None]]]:
    """What `igcnet.train.loop.Loop.run` takes: a bar on a terminal, nothing in a log file."""
    @contextlib.contextmanager
    def show_epoch(epoch: int, first: int):
        label = 'epoch %d/%d' % (epoch + 1, recipe.num_epochs)
        # In a log file the lines of the log show the progress.
        watched = sys.stderr.isatty()
        own_console = log.write_console
        with Progress(reader.steps_per_epoch - first, label, 'steps', enabled=watched) as bar:
            log.write_console = bar.write if watched else own_console
            try:
                yield lambda text: bar.advance(1, text)
            finally:
                log.write_console = own_console
    return show_epoch
