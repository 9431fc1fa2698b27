"""A real run, killed again and again and resumed, against the same run left alone.

Run it from anywhere: ``python benchmarks/kill_resume.py``. It packs scikit-learn's digits, trains a
small network on a part of them with mixup, augmentation and validation, and then trains it again
in rounds that are killed at random: at a random moment of a random step, while a checkpoint is
being written, and while the program starts. At the end of each round the checkpoint, the metrics
and the exported network are compared with those of the undisturbed run, byte by byte. The exit
code is 1 if anything differs or an epoch was lost: trained to its end, saved, and trained again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = REPOSITORY / 'tools' / 'train.py'
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
PLACES = ['in a step'] * 5 + ['in a checkpoint'] * 4 + ['at the start']
# None of these changes what is trained, so each start may have its own.
SAVING = [[], ['--checkpoint-steps', '3'], ['--checkpoint-seconds', '0.3'],
          ['--checkpoint-steps', '1', '--keep', '1']]
PATIENCE = 300.0  # seconds without an end: the run hangs


class Kill(NamedTuple):
    signal: signal.Signals
    place: str


class Undisturbed(NamedTuple):
    folder: Path
    updates: int
    start_seconds: float


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--kills-per-round', type=int, default=5,
                        help='a run is killed so often before it is left to end')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--parts', type=int, default=6,
                        help='train on one of so many parts of the digits')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0, help='of the kills')
    parser.add_argument('--work', metavar='FOLDER', help='keep the runs there')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(args.work or scratch)
        return Benchmark(args, work).run()


class Benchmark:
    def __init__(self, args, work: Path):
        self.args, self.work = args, work
        self.draw = random.Random(args.seed)
        self.kills: List[Kill] = []
        self.problems: List[str] = []
        self.again = self.lost_epochs = 0

    def run(self) -> int:
        started = time.time()
        self.pack()
        plain = self.undisturbed()
        print('undisturbed: %d epochs, %d updates in %.0f s, of which %.1f s to start'
              % (self.args.epochs, plain.updates, time.time() - started, plain.start_seconds))
        rounds = 0
        while len(self.kills) < self.args.kills:
            rounds += 1
            before = len(self.problems)
            self.round(rounds, plain)
            print('round %d: %d kills so far, %s' % (
                rounds, len(self.kills), 'every byte as in the undisturbed run'
                if len(self.problems) == before else '; '.join(self.problems[before:])),
                flush=True)
        signals = Counter(kill.signal.name for kill in self.kills)
        places = Counter(kill.place for kill in self.kills)
        print('%d kills in %d rounds (%s; %s): %d differences, %d lost epochs, %d of %d updates '
              'done again; %.0f s' % (
                  len(self.kills), rounds, _counted(signals), _counted(places),
                  len(self.problems), self.lost_epochs, self.again, rounds * plain.updates,
                  time.time() - started))
        return 1 if self.problems or self.lost_epochs else 0

    def pack(self) -> None:
        data = self.work / 'data'
        for command in (['im2rec_pack.py', data, '--dataset', 'digits'],
                        ['im2rec_pack.py', 'split', data / 'train', '--parts', self.args.parts]):
            subprocess.run([sys.executable, '-W', 'ignore', REPOSITORY / 'tools' / command[0],
                            *map(str, command[1:])], check=True, env=self.environment(),
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def environment(self):
        return {**os.environ, 'OMP_NUM_THREADS': str(self.args.threads),
                'PYTHONPATH': str(REPOSITORY)}

    def command(self, log_dir: Path) -> List[str]:
        """The command that begins a run."""
        return ['--network', 'resnet_igc', '--depth', '8', '--primary-partition', '2',
                '--secondary-partition', '2', '--dataset', 'digits', '--data-dir',
                str(self.work / 'data'), '--train-dataset', 'train_0.rec', '--val-dataset',
                'train_1.rec', '--recipe', 'modern', '--aug-type', '1', '--num-epochs',
                str(self.args.epochs), '--batch-size', '24', '--rand-seed', '1', '--log-iters',
                '1', '--checkpoint-epochs', '1', '--log-dir', str(log_dir)]

    def start(self, options: List[str]) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, '-W', 'ignore', str(TRAIN), *options],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                env=self.environment())

    def undisturbed(self) -> Undisturbed:
        log_dir = self.work / 'undisturbed'
        shutil.rmtree(log_dir, ignore_errors=True)
        started, first = time.time(), 0.0
        process = self.start(self.command(log_dir))
        while process.poll() is None:
            if not first and _updates(_run_in(log_dir)):
                first = time.time()
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit('error: the undisturbed run failed: %s' % process.stderr.read())
        folder = _run_in(log_dir)
        return Undisturbed(folder, _updates(folder), first - started)

    def round(self, number: int, plain: Undisturbed) -> None:
        log_dir = self.work / ('round%d' % number)
        shutil.rmtree(log_dir, ignore_errors=True)
        for left in range(self.args.kills_per_round, -1, -1):
            folder = _run_in(log_dir)
            newest, resumed = _newest(folder), _resumed(folder)
            process = self.start((['--resume', str(folder)] if folder else self.command(log_dir))
                                 + self.draw.choice(SAVING))
            if left and len(self.kills) < self.args.kills:
                self.kill(process, log_dir, plain)
            try:
                _, errors = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                errors = 'no end after %g s' % PATIENCE
            # A signal may come before the first line of the program: then Python dies of it.
            if process.returncode not in (-signal.SIGINT, -signal.SIGTERM) and (
                    process.returncode not in (0, 130, -signal.SIGKILL) or 'Traceback' in errors):
                self.problems.append('exit code %s: %s' % (process.returncode, errors[-500:]))
            for name in _resumed(folder)[len(resumed):]:
                self.lost_epochs += max(0, int(newest[:4]) - int(name[:4]))
            if process.returncode == 0:
                break
        folder = _run_in(log_dir)
        self.problems += ['%s differs' % name for name in _different(plain.folder, folder)]
        steps = _steps(folder)
        self.again += len(steps) - len(set(steps))
        if not self.args.work:
            shutil.rmtree(log_dir)

    def kill(self, process, log_dir: Path, plain: Undisturbed) -> None:
        """Wait for a random moment, and end the process if it has not ended by itself."""
        number, place = self.draw.choice(SIGNALS), self.draw.choice(PLACES)
        started, delay = time.time(), self.draw.random()
        done = _updates(_run_in(log_dir))
        # Not too far on, so that there is something left for the kills that follow.
        target = done + 1 + self.draw.randrange(max(1, (plain.updates - done) // 2))
        if place == 'at the start':
            _wait(process, lambda: time.time() - started > delay * plain.start_seconds)
        else:
            _wait(process, lambda: _updates(_run_in(log_dir)) >= target)
            if place == 'in a checkpoint':
                _wait(process, lambda: _is_saving(_run_in(log_dir)), 0.001)
            time.sleep((0.01 if place == 'in a checkpoint' else 0.1) * delay)
        if process.poll() is None:
            process.send_signal(number)
            self.kills.append(Kill(number, place))


def _run_in(log_dir: Path) -> Optional[Path]:
    """The newest run below a folder that can be resumed."""
    found = sorted(log_dir.glob('*/*/*/config.yaml'))
    return found[-1].parent if found else None


def _steps(folder: Path) -> List[int]:
    """The updates that the run has noted, in the order in which they were made."""
    try:
        text = (folder / 'timing.jsonl').read_text()
    except FileNotFoundError:
        return []
    return [int(number) for number in re.findall(r'"train", "update": (\d+),', text)]


def _updates(folder: Optional[Path]) -> int:
    return max(_steps(folder), default=0) if folder else 0


def _is_saving(folder: Optional[Path]) -> bool:
    return folder is not None and any(
        re.fullmatch(r'\.\d{4}.*', name) for name in os.listdir(folder / 'checkpoints'))


def _newest(folder: Optional[Path]) -> str:
    """Name of the newest checkpoint."""
    names = os.listdir(folder / 'checkpoints') if folder else []
    return max((name for name in names if re.fullmatch(r'\d{4}(-\d{6})?', name)), default='0000')


def _resumed(folder: Optional[Path]) -> List[str]:
    """Names of the checkpoints from which the run has gone on."""
    return re.findall(r' resuming .*/(\S+)\n', (folder / 'log.txt').read_text()) if folder else []


def _different(one: Path, other: Optional[Path]) -> List[str]:
    """The files that tell what was trained, as far as they differ in two runs."""
    if other is None:
        return ['everything']
    last = Path('checkpoints') / _newest(one)
    names = [path.relative_to(one) for pattern in (last / '*', 'metrics.jsonl', '*.params',
                                                   '*-symbol.json', '*-manifest.json')
             for path in sorted(one.glob(str(pattern)))]
    assert len(names) == 8, names
    return [str(name) for name in names if not (other / name).is_file()
            or (one / name).read_bytes() != (other / name).read_bytes()]


def _counted(counter: Counter) -> str:
    return ', '.join('%d %s' % (count, name) for name, count in counter.most_common())


def _wait(process, condition, interval: float = 0.02) -> None:
    """Until the process has ended or `condition` holds."""
    deadline = time.time() + PATIENCE
    while process.poll() is None and not condition() and time.time() < deadline:
        time.sleep(interval)


if __name__ == '__main__':
    sys.exit(main())
