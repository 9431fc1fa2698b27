"""Draw the validation accuracy of training runs over the epochs, a line for each run.

    python docs/figures/cifar10_runs.py RUN ... [--output FILE.png]

Networks of the IGC family, interleaved and plain, share one panel; all others the second.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent.parent))

from igcnet.files import atomic_path
from igcnet.registry import get_spec
from igcnet.train.runlog import epoch_figures, read_epochs
from igcnet.train.settings import read_settings

PANELS = ('IGC against plain convolution at equal parameters', 'mobile families')
PICTURE = FOLDER / 'cifar10-runs.png'


def make_figure(runs):
    """A matplotlib figure with a panel for each group that there are runs of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    groups = {title: [] for title in PANELS}
    for run in runs:
        settings = read_settings(run)
        groups[PANELS[get_spec(settings.network).family != 'igc']].append((settings, run))
    groups = {title: members for title, members in groups.items() if members}
    figure = Figure(figsize=(6 * len(groups), 4.5), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, members) in zip(panels, groups.items()):
        for settings, run in members:
            draw_run(axes, settings, run)
        axes.set(title=title, xlabel='epoch')
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel('validation top-1 (%)')
    return figure


def draw_run(axes, settings, run):
    averaged = bool(settings.recipe.ema_decay)
    figures = [epoch_figures(row, averaged) for row in read_epochs(run)]
    label = '%s, seed %d' % (settings.run_name, settings.rand_seed)
    axes.plot([row['epoch'] for row in figures], [100 * row['val_top1'] for row in figures],
              linestyle='-' if 'igc' in settings.network else '--', marker='.', label=label)


def draw(runs, output=PICTURE):
    """Write the picture of some run folders; returns its path."""
    with atomic_path(output) as temporary:
        make_figure(runs).savefig(str(temporary), format='png')
    return output


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    parser.add_argument('--output', type=Path, default=PICTURE, metavar='FILE.png')
    args = parser.parse_args()
    print('wrote %s' % draw(args.runs, args.output))


if __name__ == '__main__':
    main()
