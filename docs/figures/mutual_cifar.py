"""Draw training runs and their query tables beside each other.

    python docs/figures/mutual_cifar.py NAME=RUN,TABLE.json ... [--output FILE.png]
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

from matplotlib import pyplot as plt

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent.parent))

from igcnet.deploy.query_table import read_table
from igcnet.train.runlog import read_epochs


def draw_curves(axes, name, run, colour):
    """Validation top-1 of the widest network, and of the others that were validated."""
    epochs = read_epochs(run)
    for key in epochs[0]:
        if key.startswith('val_') and key.endswith('top1'):
            width = key[len('val_width_'):-len('_top1')]
            axes.plot([m['epoch'] for m in epochs], [100 * m[key] for m in epochs], marker='o',
                      color=colour, linestyle='--' if width else '-',
                      label='%s, %s' % (name, 'width %s' % width if width else 'widest'))


def draw_frontier(axes, name, table, colour):
    """Every pair as a point, the frontier as a line."""
    for pairs, style in ((table.pairs, dict(linestyle='', marker='.', alpha=0.6)),
                         (table.frontier('macs'), dict(linewidth=2.5, label=name))):
        axes.plot([pair.macs / 1e6 for pair in pairs], [100 * pair.top1 for pair in pairs],
                  color=colour, **style)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('runs', nargs='+', metavar='NAME=RUN,TABLE.json')
    parser.add_argument('--output', default=str(FOLDER / 'mutual-cifar.png'), metavar='FILE.png')
    args = parser.parse_args()
    figure, (curves, frontier) = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained')
    for number, word in enumerate(args.runs):
        name, _, files = word.partition('=')
        run, _, table = files.rpartition(',')
        draw_curves(curves, name, run, 'C%d' % number)
        draw_frontier(frontier, name, read_table(table), 'C%d' % number)
    curves.set(xlabel='epoch', title='at full resolution, after each epoch',
               ylabel='validation top-1 (%)')
    frontier.set(xlabel='multiply-adds (millions)',
                 title='every width and resolution, and the frontiers')
    for axes in (curves, frontier):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(args.output, dpi=100)
    print(args.output)


if __name__ == '__main__':
    main()
