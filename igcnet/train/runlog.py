"""What a run writes while it goes: console, log.txt, metrics.jsonl, timing.jsonl, TensorBoard,
curves.png.

``metrics.jsonl`` is a function of the settings alone: two runs with the same settings, or one that
was stopped and resumed, write the same bytes. What the clock says goes to ``timing.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Optional

from igcnet.errors import CheckpointError
from igcnet.files import PathLike, explain_os_errors
from igcnet.train.board import Board

LOG, METRICS, TIMING, CURVES = 'log.txt', 'metrics.jsonl', 'timing.jsonl', 'curves.png'


class RunLog:
    """Lines for people and objects for programs, in one folder.

    Parameters
    ----------
    folder : path
        The run's folder; made if needed. The log and the timing that are there are continued.
    history : bytes
        On resuming: the content of ``metrics.jsonl`` when the checkpoint was written. What was
        written later is dropped, because those steps are going to happen again.
    """

    def __init__(self, folder: PathLike, history: bytes = b''):
        self.folder = Path(folder)
        self._board: Optional[Board] = None
        self.write_console: Optional[Callable[[str], None]] = None
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._text, self._timing = (_continued(self.folder / name) for name in (LOG, TIMING))
            self._metrics = open(self.folder / METRICS, 'ab')
        self.rewind(history)

    def line(self, text: str) -> None:
        """One line with the time, on the console and in the log."""
        stamped = '%s %s' % (time.strftime('%Y-%m-%d %H:%M:%S'), text)
        if self.write_console is None:
            print(stamped, flush=True)
        else:  # a progress bar has the terminal
            self.write_console(stamped)
        with explain_os_errors(self.folder / LOG):
            self._text.write(stamped.encode('utf-8') + b'\n')
            self._text.flush()

    def metrics(self, event: str, update: int, **values: Any) -> None:
        """One JSON object, of `event` and the `values` after so many updates (`update`), of what
        follows from the settings: nothing that a clock has measured. Numbers also go to
        TensorBoard under ``event/name``."""
        self._object(self._metrics, METRICS, event, update, values)

    def timing(self, event: str, update: int, **values: Any) -> None:
        """As `metrics`, for what differs from one run to the next."""
        self._object(self._timing, TIMING, event, update, values)

    def _object(self, file: BinaryIO, name: str, event: str, update: int,
                values: Dict[str, Any]) -> None:
        with explain_os_errors(self.folder / name):
            file.write(json.dumps({'event': event, 'update': update, **values}).encode() + b'\n')
            file.flush()
            for key, value in values.items():
                if self._board is not None and isinstance(value, float):
                    self._board.add('%s/%s' % (event, key), value, update)

    @property
    def history(self) -> bytes:
        """Present content of ``metrics.jsonl``."""
        with explain_os_errors(self.folder / METRICS):
            return (self.folder / METRICS).read_bytes()

    def rewind(self, history: bytes) -> None:
        """Replace the content of ``metrics.jsonl`` by an earlier one."""
        with explain_os_errors(self.folder / METRICS):
            # One after the other: a process that is killed here has a checkpoint with all of it.
            self._metrics.truncate(0)
            self._metrics.write(history)
            self._metrics.flush()

    def open_tensorboard(self, update: int) -> None:
        """Write TensorBoard events from now on, if tensorboardX is installed."""
        try:
            with explain_os_errors(self.folder):
                self._board = Board(self.folder, update)
        except ImportError:
            self.line('no TensorBoard events: tensorboardX is not installed '
                      "(pip install '.[tensorboard]')")

    def close(self) -> None:
        """Flush and close all files."""
        for file in (self._text, self._metrics, self._timing, self._board):
            # What a full disk did not take has been said by then.
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()


def read_metrics(folder: PathLike) -> List[Dict[str, Any]]:
    """The objects of a run's ``metrics.jsonl``."""
    path = Path(folder) / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as problem:
        raise CheckpointError('%s: cannot read the metrics (%s)' % (path, problem)) from None


def read_epochs(folder: PathLike) -> List[Dict[str, Any]]:
    """The objects of a run's finished epochs."""
    return [row for row in read_metrics(folder) if row['event'] == 'epoch']


def read_speeds(folder: PathLike) -> List[float]:
    """Training images a second between the log lines of a run, the validation left out.

    A line that a killed process has left half-written is passed over.
    """
    found = []
    with contextlib.suppress(OSError):
        for line in (Path(folder) / TIMING).read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if row['event'] == 'train':
                    found.append(row['images_per_second'])
    return found


def epoch_figures(row: Dict[str, Any], averaged: bool) -> Dict[str, Any]:
    """The figures of a network after an epoch, from that epoch's object of the metrics.

    Parameters
    ----------
    averaged : bool
        Whether the network has the averaged weights; their figures have the same names.
    """
    figures = {key: value for key, value in row.items() if key in ('epoch', 'update')}
    start = 'val_ema_' if averaged else 'val_'
    figures.update(('val_' + key[len(start):], value) for key, value in row.items()
                   if key.startswith(start))
    return figures


def plot_curves(folder: PathLike, title: str) -> Optional[Path]:
    """Draw loss, top-1 error and learning rate over the epochs into ``curves.png``.

    Returns the path, or None before the first epoch has ended.
    """
    epochs = read_epochs(folder)
    if not epochs:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from igcnet.files import atomic_path
    figure = Figure(figsize=(11, 4), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    loss, error, rate = figure.subplots(1, 3)
    x = [m['epoch'] for m in epochs]
    marker = 'o' if len(x) < 30 else ''
    for axes, key, scale in ((loss, 'loss', lambda v: v), (error, 'top1', lambda v: 100 - 100 * v)):
        axes.plot(x, [scale(m['train_' + key]) for m in epochs], marker=marker, markersize=3,
                  label='training')
        tested = [(m['epoch'], scale(m['val_' + key])) for m in epochs if 'val_' + key in m]
        if tested:
            axes.plot(*zip(*tested), marker=marker, markersize=3, label='validation')
        axes.legend()
    rate.plot(x, [m['lr'] for m in epochs], color='tab:gray', marker=marker, markersize=3)
    for axes, label in ((loss, 'cross-entropy'), (error, 'top-1 error (%)'),
                        (rate, 'learning rate')):
        axes.set_title(label)
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    path = Path(folder) / CURVES
    with atomic_path(path) as temporary:
        figure.savefig(str(temporary), format='png')
    return path


def _continued(path: Path) -> BinaryIO:
    """`path`, opened to go on at its end; half a line that a killed process left is ended."""
    file = open(path, 'a+b')
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b'\n':
            file.write(b'\n')
    return file
