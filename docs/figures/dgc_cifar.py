"""Pictures of docs/networks/dgc.md: the short run on CIFAR-10, and what its layers choose.

    python docs/figures/dgc_cifar.py DYNAMIC_RUN PLAIN_RUN

The runs are folders that ``igcnet train --checkpoint-epochs 1`` has left. What the layers choose
is the picture of ``igcnet dgc inspect``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[0] = str(FOLDER.parent.parent)

from igcnet.convert import read_ndarrays
from igcnet.train.runlog import read_epochs

SUFFIX = '.inactive_channels'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('dynamic', type=Path)
    parser.add_argument('plain', type=Path)
    parser.add_argument('--output', type=Path, default=FOLDER / 'dgc-cifar.png')
    args = parser.parse_args()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 3.6), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    loss, error, gates = figure.subplots(1, 3)
    for label, run in (('dydensenet', args.dynamic), ('densenet', args.plain)):
        rows = read_epochs(run)
        epochs = [row['epoch'] for row in rows]
        line, = loss.plot(epochs, [row['val_loss'] for row in rows], label=label + ', validation')
        loss.plot(epochs, [row['train_loss'] for row in rows], ':', color=line.get_color(),
                  label=label + ', training')
        error.plot(epochs, [100 * (1 - row['val_top1']) for row in rows], label=label)
    for name, shares in inactive_shares(args.dynamic).items():
        gates.plot(range(1, len(shares) + 1), shares, marker='.', label=name)
    for axes, title in ((loss, 'loss'), (error, 'validation error, %'),
                        (gates, 'share of inactive channels')):
        axes.set_title(title)
        axes.set_xlabel('epoch')
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(str(args.output), format='png')
    print('wrote %s' % args.output)


def inactive_shares(run):
    """Share of the channels that each head drops, after each epoch, by the name of the layer."""
    found = {}
    for path in sorted((run / 'checkpoints').iterdir()):
        arrays = read_ndarrays(path / 'net.params')
        for key, count in arrays.items():
            if key.endswith(SUFFIX):
                channels = len(arrays[key.replace(SUFFIX, '.norm.gamma')])
                label = '%s, %d channels' % (key.split('.')[1], channels)
                found.setdefault(label, []).append(float(count[0]) / channels)
    return found


if __name__ == '__main__':
    main()
