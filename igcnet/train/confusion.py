"""The confusion matrix of an evaluation, as a table and as a picture."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np

from igcnet.files import PathLike, atomic_path

# Above this many classes the cells of the picture carry no names and no numbers.
LARGEST_LABELLED = 30


class Confusion:
    """Counts of images by true class (row) and predicted class (column).

    Parameters
    ----------
    classes : int
        Number of classes.
    title : str
        What was evaluated.
    """

    def __init__(self, classes: int, title: str):
        self.counts = np.zeros((classes, classes), np.int64)
        self.title = title

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Count one batch of class numbers."""
        np.add.at(self.counts, (labels.astype(np.int64), predictions.astype(np.int64)), 1)

    def write(self, prefix: PathLike, names: Optional[Sequence[str]] = None) -> List[Path]:
        """Write ``<prefix>.csv`` and ``<prefix>.png``; returns both paths."""
        table, picture = (Path(os.fspath(prefix) + suffix) for suffix in ('.csv', '.png'))
        names = list(names or map(str, range(len(self.counts))))
        with atomic_path(table) as temporary, \
                open(temporary, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(['true \\ predicted', *names])
            writer.writerows([name, *row] for name, row in zip(names, self.counts.tolist()))
        self._draw(picture, names)
        return [table, picture]

    def _draw(self, path: Path, names: Sequence[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        totals = self.counts.sum(axis=1, keepdims=True)
        shares = self.counts / np.maximum(totals, 1)
        small = len(names) <= LARGEST_LABELLED
        side = 3 + 0.45 * len(names) if small else 10
        figure = Figure(figsize=(side + 1, side), dpi=100, layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label='share of the true class', shrink=0.8)
        axes.set_xlabel('predicted class')
        axes.set_ylabel('true class')
        axes.set_title('%s: %d of %d right' % (self.title, np.trace(self.counts),
                                               self.counts.sum()))
        if small:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
            for row, column in zip(*np.nonzero(self.counts)):
                axes.text(column, row, str(self.counts[row, column]), ha='center', va='center',
                          fontsize=8, color='white' if shares[row, column] > 0.5 else 'black')
        with atomic_path(path) as temporary:
            figure.savefig(str(temporary), format='png')
