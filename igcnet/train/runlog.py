"""What a run writes while it goes: console, log.txt, metrics.jsonl, TensorBoard, curves.png."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from igcnet.errors import CheckpointError
from igcnet.files import PathLike, explain_os_errors

LOG, METRICS, CURVES = 'log.txt', 'metrics.jsonl', 'curves.png'


class RunLog:
    """Lines for people and objects for programs, in one folder.

    Parameters
    ----------
    folder : path
        The run's folder; made if needed.
    metrics_bytes : int, optional
        On resuming: the length of ``metrics.jsonl`` when the checkpoint was written. What was
        written later is cut off, because those steps are going to happen again.
    """

    def __init__(self, folder: PathLike, metrics_bytes: Optional[int] = None):
        self.folder = Path(folder)
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._text = open(self.folder / LOG, 'a', encoding='utf-8')
            self._metrics = open(self.folder / METRICS, 'ab')
            self._metrics.truncate(metrics_bytes or 0)
            self._metrics.seek(0, os.SEEK_END)
        self._board = None
        self.write_console: Optional[Callable[[str], None]] = None

    def line(self, text: str) -> None:
        """One line with the time, on the console and in the log."""
        stamped = '%s %s' % (time.strftime('%Y-%m-%d %H:%M:%S'), text)
        if self.write_console is None:
            print(stamped, flush=True)
        else:  # a progress bar has the terminal
            self.write_console(stamped)
        with explain_os_errors(self.folder / LOG):
            self._text.write(stamped + '\n')
            self._text.flush()

    def metrics(self, event: str, update: int, **values: Any) -> None:
        """One JSON object; numbers also go to TensorBoard under ``event/name``."""
        record = {'event': event, 'update': update, **values}
        with explain_os_errors(self.folder / METRICS):
            self._metrics.write(json.dumps(record).encode() + b'\n')
            self._metrics.flush()
        for name, value in values.items():
            if self._board is not None and isinstance(value, float):
                self._board.add_scalar('%s/%s' % (event, name), value, update)

    @property
    def metrics_bytes(self) -> int:
        """Present length of ``metrics.jsonl``."""
        return self._metrics.tell()

    def open_tensorboard(self, update: int) -> None:
        """Write TensorBoard events from now on, if tensorboardX is installed."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self.line('no TensorBoard events: tensorboardX is not installed '
                      "(pip install '.[tensorboard]')")
            return
        self._board = SummaryWriter(str(self.folder), purge_step=update or None)

    def close(self) -> None:
        """Flush and close all files."""
        self._text.close()
        self._metrics.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: PathLike) -> List[Dict[str, Any]]:
    """The objects of a run's ``metrics.jsonl``."""
    path = Path(folder) / METRICS
    try:
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as problem:
        raise CheckpointError('%s: cannot read the metrics (%s)' % (path, problem)) from None


def plot_curves(folder: PathLike, title: str) -> Optional[Path]:
    """Draw loss, top-1 error and learning rate over the epochs into ``curves.png``.

    Returns the path, or None before the first epoch has ended.
    """
    epochs = [m for m in read_metrics(folder) if m['event'] == 'epoch']
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

