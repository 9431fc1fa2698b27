"""Calls of the commands in this process, and what can be seen of them."""

import contextlib
import functools
import importlib
import io
import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

from igcnet.cli import main as console
from igcnet.deploy.timing import interleaved


class Seen:
    """One call of a command in a folder of its own, and what can be seen of it."""

    def __init__(self, folder, words):
        self.folder, self.noted = folder, {}
        before = Path.cwd()
        out, self._errors = io.StringIO(), io.StringIO()
        os.chdir(str(folder))
        try:
            with contextlib.ExitStack() as stack:
                for spy in SPIES:
                    stack.enter_context(spy(self.noted))
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(self._errors))
                self.code = console.main(shlex.split(words))
                self.noted['threads'] = os.environ['OMP_NUM_THREADS']
        finally:
            os.chdir(str(before))
        self.noted['out'] = re.sub(r'\d+\.\d+ (s|ms|%)|[\d,]+ images/s', 'T', out.getvalue())

    @property
    def error(self):
        """The last line of the error output."""
        return self._errors.getvalue().strip().split('\n')[-1]

    def __getitem__(self, name):
        """What is called `name`: noted by a spy, of a run's folder, or a file's content."""
        if name == 'names':
            return sorted(re.sub(r'tfevents.*', '', str(path.relative_to(self.folder)))
                          for path in self.folder.rglob('*'))
        if name == 'code':
            return self.code
        if name == 'weights':
            return sorted(self.folder.rglob('net.params'))[-1].read_bytes()
        if name == 'metrics':
            metrics, = self.folder.glob('log/*/*/*/metrics.jsonl')
            return metrics.read_bytes()
        if name == 'pairs':
            pairs = json.loads((self.folder / 'query_table.json').read_text())['pairs']
            return [{key: value for key, value in pair.items() if key != 'milliseconds'}
                    for pair in pairs]
        if '.' in name:
            return (self.folder / name).read_bytes()
        return self.noted.get(name, [])


def spy(where, name, note, key):
    """A context in which what `note` makes of the arguments and the result of the function `name`
    of `where` is appended to ``noted[key]``."""
    @contextlib.contextmanager
    def watch(noted):
        place = importlib.import_module(where)
        *path, last = name.split('.')
        for part in path:
            place = getattr(place, part)
        real = getattr(place, last)

        @functools.wraps(real)
        def noting(*args, **kwargs):
            result = real(*args, **kwargs)
            noted.setdefault(key, []).append(note(result, *args, **kwargs))
            return result
        setattr(place, last, noting)
        try:
            yield
        finally:
            setattr(place, last, real)
    return watch


def replaced(where, name, stand_in):
    """A context in which `stand_in` takes the place of the attribute `name` of `where`."""
    @contextlib.contextmanager
    def replacing(noted):
        place = importlib.import_module(where)
        real = getattr(place, name)
        setattr(place, name, stand_in(noted))
        try:
            yield
        finally:
            setattr(place, name, real)
    return replacing


def clock(noted):
    """A module ``time`` whose clock moves a hundredth of a second whenever it is asked."""
    def tick():
        noted['ticks'] = noted.get('ticks', 0) + 1
        return noted['ticks'] / 100
    return SimpleNamespace(perf_counter=tick)


def launcher(noted):
    """A launcher that only notes its job."""
    def launch(job):
        noted['job'] = job
        return SimpleNamespace(run=lambda: 0)
    return launch


def quick_turns(noted):
    """`interleaved` with turns of one call each; notes how many there were."""
    def turns(runners, images, rounds, seconds):
        found = interleaved(runners, images, rounds, 0)
        noted['turns'] = images.shape, {form: len(times) for form, times in found.items()}
        return found
    return turns


@contextlib.contextmanager
def same_threads(noted):
    """The number of threads is again what it was."""
    before = os.environ.get('OMP_NUM_THREADS')
    os.environ['OMP_NUM_THREADS'] = '1'
    try:
        yield
    finally:
        os.environ.pop('OMP_NUM_THREADS')
        if before is not None:
            os.environ['OMP_NUM_THREADS'] = before


SPIES = [
    same_threads,
    # Drawing takes longer than all the rest of a small run.
    replaced('igcnet.train.run', 'plot_curves', lambda noted: lambda *arguments: None),
    replaced('igcnet.data.benchmark', 'time', clock),
    replaced('igcnet.cli.launch', 'Launcher', launcher),
    spy('igcnet.train.evaluate', 'split_and_load', lambda parts, *args, **kwargs:
        [(part.shape, str(part.context)) for part in parts], 'batches'),
    spy('igcnet.layers', 'Network.forward', lambda result, net, x, *args: getattr(
        x, 'shape', None), 'inputs'),
    spy('igcnet.train.grid', 'at_resolution', lambda result, x, *args: x.shape, 'timed'),
    spy('igcnet.deploy.bench', 'random_images', lambda result, *args: result.shape, 'images'),
    replaced('igcnet.deploy.bench', 'interleaved', quick_turns),
    replaced('igcnet.deploy.bench', 'sgemm_speed', lambda noted: lambda: 1e9),
    spy('igcnet.layers', 'Network.set_lowering', lambda result, *args: result, 'lowerings'),
    spy('mxnet.gluon.trainer', '_create_kvstore', lambda result, *args: str(
        getattr(result[0], 'type', None)), 'stores'),
    spy('igcnet.data.workers', 'WorkerPool.__init__', lambda result, pool, workers: workers,
        'processes'),
    spy('igcnet.data.reader', 'TrainReader.__init__', lambda result, reader, records, batch_size,
        augmentation, *args, **kwargs: (batch_size, repr(augmentation), *(
            str(kwargs.get(key)) for key in ('threads', 'mean', 'std'))), 'readers'),
]
