"""Packing against MXNet's own im2rec.py: same images, same list, same number of workers.

Run it from anywhere: ``python benchmarks/pack.py``. Without folders it makes its own images. The
runs of the two are interleaved, and the ratio of their medians is printed: of the time that passes,
which depends on how many cores are free, and of the processor time of all processes, which hardly
does. Every run includes the start of its program. im2rec checks no image in the pass-through case;
ours decodes each.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
CLASSES = 10


class Run(NamedTuple):
    """Seconds of one run of a program: by the clock, and of all its processes."""

    wall: float
    cpu: float


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--small', metavar='FOLDER', help='class folders of small JPEGs, such as '
                        'CIFAR-10 (default: 60,000 synthetic ones of 32x32)')
    parser.add_argument('--photographs', metavar='FOLDER', help='class folders of photographs '
                        '(default: 2,000 synthetic ones of 640x480)')
    parser.add_argument('--workers', type=int, nargs='+', default=[1, os.cpu_count() or 1])
    parser.add_argument('--runs', type=int, default=5, help='of each program')
    parser.add_argument('--only', choices=['small', 'photographs'])
    args = parser.parse_args(argv)
    print('%s, %d cores, Python %s, OpenCV %s' % (_processor(), os.cpu_count() or 1,
                                                  platform.python_version(), cv2.__version__))
    with tempfile.TemporaryDirectory() as scratch:
        cases = {'small': (args.small, 60000, 32, 32, ['--pass-through']),
                 'photographs': (args.photographs, 2000, 480, 640, ['--resize', '256'])}
        for name, (given, count, height, width, options) in cases.items():
            if args.only in (None, name):
                folder = Path(given).resolve() if given else _make(
                    Path(scratch) / name, count, height, width)
                for workers in sorted(set(args.workers)):
                    _compare(name, folder, options, workers, args.runs, Path(scratch))
    return 0


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':', 1)[1].strip() for line in lines
                    if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _make(root: Path, count: int, height: int, width: int) -> Path:
    """Pictures with the smoothness and the size in bytes of natural ones."""
    draw = np.random.RandomState(0)
    for number in range(CLASSES):
        (root / str(number)).mkdir(parents=True)
    for number in range(count):
        small = draw.randint(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (root / str(number % CLASSES) / ('%06d.jpg' % number)).write_bytes(data.tobytes())
    return root


def _compare(name: str, folder: Path, options: List[str], workers: int, runs: int,
             scratch: Path) -> None:
    spec = importlib.util.find_spec('mxnet')
    if spec is None:
        raise SystemExit('error: MXNet is not installed, so there is no im2rec.py to compare with')
    programs = {'im2rec.py': Path(spec.origin).parent / 'tools' / 'im2rec.py',
                'igcnet': REPOSITORY / 'tools' / 'im2rec_pack.py'}
    prefixes = {}
    for program in programs:
        prefixes[program] = scratch / ('%s-%s-%d' % (name, program, workers)) / 'x'
        prefixes[program].parent.mkdir()
    _run([programs['im2rec.py'], prefixes['im2rec.py'], folder, '--list', '--recursive'])
    lines = prefixes['im2rec.py'].with_suffix('.lst').read_bytes()
    prefixes['igcnet'].with_suffix('.lst').write_bytes(lines)
    times: Dict[str, List[Run]] = {program: [] for program in programs}
    for number in range(runs + 1):
        for program, path in programs.items():
            # With several workers im2rec rewrites its list in the order of the records.
            prefixes[program].with_suffix('.lst').write_bytes(lines)
            done = _run([path, prefixes[program], folder, *options, '--num-thread', workers])
            if number:  # the first run fills the caches of both
                times[program].append(done)
    theirs, ours = (Run(*map(statistics.median, zip(*times[program]))) for program in programs)
    print('%s, %d images, %s, --num-thread %d: im2rec.py %.2f s, igcnet %.2f s, ratio %.2f (of '
          'processor time %.2f); records %s'
          % (name, lines.count(b'\n'), ' '.join(options), workers, theirs.wall, ours.wall,
             theirs.wall / ours.wall, theirs.cpu / ours.cpu, _difference(*prefixes.values())),
          flush=True)
    for program, runs_done in times.items():
        print('    %-9s %s' % (program, ', '.join('%.2f (%.2f)' % one for one in runs_done)))


def _run(command: Sequence[object]) -> Run:
    start, used = time.perf_counter(), _cpu_of_children()
    done = subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment())
    if done.returncode:
        raise SystemExit('error: %s failed: %s' % (command[0], done.stderr.decode()[-500:]))
    return Run(time.perf_counter() - start, _cpu_of_children() - used)


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _environment() -> Dict[str, str]:
    """As after the first use of an installation: compiled modules are there for both."""
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=os.path.join(tempfile.gettempdir(),
                                                                    'pack-benchmark-pyc'))
    environment.pop('PYTHONDONTWRITEBYTECODE', None)
    return environment


def _difference(theirs: Path, ours: Path) -> str:
    """Are the files equal? With several workers im2rec writes the records in another order."""
    sys.path.insert(0, str(REPOSITORY))
    from igcnet.data.records import RecordFile
    if theirs.with_suffix('.rec').read_bytes() == ours.with_suffix('.rec').read_bytes():
        return 'equal to the byte'
    one, two = RecordFile(theirs), RecordFile(ours)
    places = {key: place for place, key in enumerate(two.keys.tolist())}
    different = sum(one.read(place).image != two.read(places[key]).image
                    for place, key in enumerate(one.keys.tolist()) if key in places)
    return 'equal but for their order' if len(one) == len(two) and not different else (
        'DIFFERENT in %d images' % (different + abs(len(one) - len(two))))


if __name__ == '__main__':
    sys.exit(main())
