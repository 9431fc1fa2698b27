"""Training runs as one table, with the commands that made them and a picture of their curves.

    python benchmarks/cifar10_results.py RUN ... [--output FILE.md] [--figure FILE.png]

A RUN is the folder of a run of the trainer, or one that has such folders below it. What the
runs have recorded is read from their files; parameters and multiply-adds are counted. Latency is
measured now, with the weights of the newest checkpoints: a call with one image, all networks in
their stock and optimised forms taking turns in one run. The training speed is the median between
the log lines, with the threads of the run, on a machine that may have been busy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

REPO = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(REPO), str(REPO / 'docs' / 'figures')]

from igcnet.cli.common import positive_int
from igcnet.cli.common import run as run_command

COLUMNS = ('network', 'parameters', 'multiply-adds', 'epochs', 'recipe', 'seed', 'top-1, last',
           'top-1, best (epoch)', 'training images/s', 'stock ms', 'optimised ms', 'ratio')


class Run(NamedTuple):
    """What the files of a run say, and the network that it has trained."""

    folder: Path
    settings: Any
    figures: List[Dict[str, Any]]
    speeds: List[float]
    net: Any
    input_size: int


class Latency(NamedTuple):
    """Milliseconds of a call with one image, and the optimised form that was the fastest."""

    stock: float
    optimised: float
    form: str


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    parser.add_argument('--output', metavar='FILE.md', help='write the table (default: print it)')
    parser.add_argument('--figure', metavar='FILE.png', type=Path,
                        help='draw the curves (default: docs/figures/cifar10-runs.png)')
    parser.add_argument('--threads', type=positive_int, default=1,
                        help='of the latency (default: 1)')
    parser.add_argument('--rounds', type=positive_int, default=9,
                        help='turns of each form; their median counts (default: 9)')
    parser.add_argument('--no-latency', action='store_true', help='measure nothing')
    args = parser.parse_args(argv)
    from igcnet._backend import set_threads
    set_threads(args.threads)
    import cifar10_runs

    from igcnet.files import write_text

    runs = [read_run(folder) for given in args.runs for folder in run_folders(given)]
    latencies = None if args.no_latency else measure(runs, args.rounds)
    text = report(runs, latencies, args.threads)
    if args.output:
        write_text(args.output, text)
    else:
        print(text, end='')
    print('wrote %s' % cifar10_runs.draw([run.folder for run in runs],
                                         args.figure or cifar10_runs.PICTURE), file=sys.stderr)
    return 0


def run_folders(given: Path) -> List[Path]:
    """The folder itself if it is a run's, else those below it."""
    from igcnet.errors import UsageError
    from igcnet.train.settings import CONFIG
    found = [path.parent for path in sorted(given.rglob(CONFIG))]
    if not found:
        raise UsageError('%s: neither a run nor a folder of runs' % given)
    return [given] if given in found else found


def read_run(folder: Path) -> Run:
    """A run with at least one finished epoch."""
    from igcnet.convert import load_network
    from igcnet.errors import UsageError
    from igcnet.train.checkpoint import WEIGHTS, read_state
    from igcnet.train.run_folder import find_checkpoint
    from igcnet.train.runlog import epoch_figures, read_epochs, read_speeds
    from igcnet.train.settings import read_settings
    settings = read_settings(folder)
    figures = [epoch_figures(row, bool(settings.recipe.ema_decay)) for row in read_epochs(folder)]
    if not figures:
        raise UsageError('%s: no epoch has ended yet' % folder)
    path = find_checkpoint(folder)
    state = read_state(path)
    net = load_network(params=path / WEIGHTS, network=state.network, **state.settings)
    return Run(folder, settings, figures, read_speeds(folder), net,
               state.preprocessing['input_size'])


def measure(runs: List[Run], rounds: int, seconds: float = 0.2) -> List[Latency]:
    """Latency of each network, all forms of all networks taking turns."""
    import numpy as np

    from igcnet.deploy.bench import FORMS, OURS, STOCK
    from igcnet.deploy.timing import interleaved
    from igcnet.deploy.verify import random_images
    from igcnet.errors import UsageError
    runners = {}
    for number, run in enumerate(runs):
        images = random_images(1, run.input_size, seed=0)
        for form in (STOCK, *OURS):
            print('%s: preparing %s' % (run.settings.run_name, form), file=sys.stderr, flush=True)
            try:
                compute = FORMS[form](run.net, run.input_size, 1)
            except UsageError as problem:  # a runtime that is not installed
                print('left out: %s' % problem, file=sys.stderr)
                continue
            runners[number, form] = lambda _, compute=compute, images=images: compute(images)
    times = {key: 1e3 * float(np.median(turns))
             for key, turns in interleaved(runners, None, rounds, seconds).items()}
    found = []
    for number in range(len(runs)):
        form = min((form for form in OURS if (number, form) in times),
                   key=lambda form: times[number, form])
        found.append(Latency(times[number, STOCK], times[number, form], form))
    return found


def report(runs: List[Run], latencies: Optional[List[Latency]], threads: int) -> str:
    """The table and the commands, in Markdown."""
    from igcnet.cli.train_command import train_command
    from igcnet.machine import cpu_model
    lines = ['| %s |' % ' | '.join(COLUMNS), '| --- | --: | --: | --: | --- | --: %s|'
             % ('| --: ' * (len(COLUMNS) - 6))]
    for run, latency in zip(runs, latencies or [None] * len(runs)):
        lines.append('| %s |' % ' | '.join(row(run, latency)))
    commands = dict.fromkeys(train_command(run.settings) for run in runs)
    notes = ['Top-1 accuracy on %s validation images.'
             % ', '.join(sorted({'{:,}'.format(run.figures[-1]['val_count']) for run in runs}))]
    if latencies:
        notes.append('Latency: one image, %d thread%s, all forms taking turns in one run; %s.'
                     % (threads, 's' * (threads > 1), cpu_model()))
    return '\n'.join([*lines, '', ' '.join(notes), '', '```bash', *commands, '```', ''])


def row(run: Run, latency: Optional[Latency]) -> List[str]:
    """The cells of a run."""
    import numpy as np

    from igcnet.cli.train_command import recipe_changes
    from igcnet.profiling import profile
    settings = run.settings
    counted = profile(run.net, (1, 3, run.input_size, run.input_size))
    last, best = run.figures[-1], max(run.figures, key=lambda figures: figures['val_top1'])
    name, changes = recipe_changes(settings)
    changes.pop('num_epochs', None)
    epochs = '%d' % last['epoch']
    if last['epoch'] < settings.recipe.num_epochs:
        epochs += ' of %d' % settings.recipe.num_epochs
    speed = '-' if not run.speeds else '%.0f (%d thread%s, %s)' % (
        np.median(run.speeds), settings.threads, 's' * (settings.threads != 1), settings.lowering)
    times = ['-'] * 3 if latency is None else [
        '%.2f' % latency.stock, '%.2f (%s)' % (latency.optimised, latency.form.split(' opt')[0]),
        '%.1f' % (latency.stock / latency.optimised)]
    return ['`%s`' % settings.run_name, '{:,}'.format(counted.parameters),
            '{:,}'.format(counted.macs), epochs,
            ', '.join(['`%s`' % name, *('%s=%s' % item for item in changes.items())]),
            '%d' % settings.rand_seed, '%.2f %%' % (100 * last['val_top1']),
            '%.2f %% (%d)' % (100 * best['val_top1'], best['epoch']), speed, *times]


if __name__ == '__main__':
    sys.exit(run_command(main))
