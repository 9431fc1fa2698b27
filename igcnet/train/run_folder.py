"""The folder of a run: its name, its lock, and which of its checkpoints count.

The newest checkpoint is the one that a run goes on from. Going on from an older one moves the
newer ones to ``checkpoints/abandoned``: they belong to a future that is not going to happen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from itertools import count
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence, Set

from igcnet.errors import CheckpointError, TrainingError
from igcnet.files import explain_os_errors, sync_folder
from igcnet.train.checkpoint import checkpoints, remove, verify
from igcnet.train.settings import CONFIG, RunSettings

LOCK, CHECKPOINTS, ABANDONED = '.lock', 'checkpoints', 'abandoned'
# Temporary names: those of `igcnet.files.atomic_path` for the files of a run, and of checkpoints
# that are being written or removed.
_TEMPORARY = re.compile(
    r'\.(config\.yaml|curves\.png|metrics\.jsonl|.+-(symbol\.json|\d{4}\.params|manifest\.json))'
    r'\.[a-z0-9_]{8}|\.\d{4,}(-\d{6,})?\.(\d+|removed)')


@contextlib.contextmanager
def new_run_folder(settings: RunSettings) -> Iterator[Path]:
    """Make the next free folder ``<run name>_<exp name><number>`` and hold its lock."""
    stem = '%s_%s' % (settings.run_name, settings.exp_name)
    with explain_os_errors(settings.folder_of_runs):
        settings.folder_of_runs.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = settings.folder_of_runs / ('%s%d' % (stem, number))
            with contextlib.suppress(FileExistsError):  # perhaps since a moment ago
                folder.mkdir()
                break
        sync_folder(settings.folder_of_runs)
    with locked(folder):
        yield folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from writing into the run's folder.

    The system gives the lock back when the process ends, however it ends.

    Raises
    ------
    TrainingError
        Another process has the lock; the message names it.
    """
    with explain_os_errors(folder / LOCK):
        file = open(folder / LOCK, 'a+', encoding='utf-8')
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TrainingError('%s: process %s is training this run; wait for its end, or end it '
                                'before you resume' % (folder, file.read(20).strip())) from None
        except OSError:  # some network file systems have no locks
            pass
        file.truncate(0)
        file.write('%d\n' % os.getpid())
        file.flush()
        yield


def newest_run_folder(settings: RunSettings) -> Path:
    """The newest run of this configuration that has a checkpoint."""
    stem = '%s_%s' % (settings.run_name, settings.exp_name)
    found = []
    if settings.folder_of_runs.is_dir():
        for path in settings.folder_of_runs.iterdir():
            number = path.name[len(stem):]
            if path.name.startswith(stem) and re.fullmatch(r'\d+', number) and \
                    (path / CONFIG).is_file() and checkpoints(path / CHECKPOINTS):
                found.append((int(number), path))
    if not found:
        raise CheckpointError('%s/%s*: no run with a checkpoint to resume'
                              % (settings.folder_of_runs, stem))
    return max(found)[1]


def find_checkpoint(folder: Path, epoch: Optional[int] = None,
                    warn: Callable[[str], None] = lambda text: None) -> Path:
    """The checkpoint of a run to go on from.

    Parameters
    ----------
    folder : Path
        The run's.
    epoch : int, optional
        Only the one after so many epochs will do; by default the newest that is whole.
    warn : callable
        Called with one line for each damaged checkpoint that was passed over.

    Raises
    ------
    CheckpointError
        There is none, or every one is damaged.
    """
    found = checkpoints(folder / CHECKPOINTS)
    if epoch is not None:
        found = [path for path in found if path.name == '%04d' % epoch]
    if not found:
        raise CheckpointError('%s: no checkpoint%s to resume' % (
            folder / CHECKPOINTS, '' if epoch is None else ' of epoch %d' % epoch))
    return newest_whole(found, warn)


def newest_whole(found: Sequence[Path], warn: Callable[[str], None]) -> Path:
    """The last of some checkpoints, oldest first, that is not damaged."""
    problems = []
    for path in reversed(found):
        try:
            verify(path)
        except CheckpointError as problem:
            problems.append(str(problem))
            continue
        for problem in problems:
            warn('warning: %s; going back to the checkpoint before it' % problem)
        return path
    raise CheckpointError(problems[0] + ('' if len(problems) == 1 else
                                         '; damaged as well, checkpoints before it: %d'
                                         % (len(problems) - 1)))


def abandon_after(kept: Path) -> int:
    """Move the checkpoints that are newer than `kept` out of the way; returns how many."""
    found = checkpoints(kept.parent)
    abandoned = kept.parent / ABANDONED
    newer = found[found.index(kept) + 1:]
    for path in newer:
        with explain_os_errors(path):
            abandoned.mkdir(exist_ok=True)
            shutil.rmtree(str(abandoned / path.name), ignore_errors=True)
            os.replace(str(path), str(abandoned / path.name))
            sync_folder(abandoned)
            sync_folder(kept.parent)
    return len(newer)


def prune(folder: Path, keep: int, protected: Set[str]) -> None:
    """Remove all checkpoints below `folder` but the newest `keep` and the `protected` names.

    `keep` 0 removes none.
    """
    for path in checkpoints(folder)[:-keep] if keep else ():
        if path.name not in protected:
            with explain_os_errors(path):
                remove(path)


def clear_temporary(folder: Path) -> None:
    """Remove what a killed process left behind half-written in the run's folder."""
    for place in (folder, folder / CHECKPOINTS):
        for path in list(place.iterdir()) if place.is_dir() else []:
            if _TEMPORARY.fullmatch(path.name):
                with explain_os_errors(path):
                    if path.is_dir():
                        shutil.rmtree(str(path))
                    else:
                        path.unlink()
