"""One network in every form, ours and others', timed side by side.

Latency is the time of a call with one image, throughput that of a larger batch. All forms take
turns in one run, so that whatever else the machine does meets all of them; the median of the
turns counts.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet._backend import default_threads
from igcnet.convert import expand
from igcnet.convert.torch_twin import twin
from igcnet.deploy.choosing import processor_name
from igcnet.deploy.model import Model
from igcnet.deploy.optimizing import optimize
from igcnet.deploy.runtimes import (
    Runner,
    block_runner,
    import_runtime,
    onnx_runner,
)
from igcnet.deploy.timing import interleaved
from igcnet.deploy.verify import random_images
from igcnet.errors import IgcnetError, UsageError
from igcnet.files import PathLike, atomic_path
from igcnet.layers import BatchNorm
from igcnet.profiling.report import align

STOCK, NAIVE = 'MXNet stock', 'ONNX Runtime naive'
SGEMM_SIZE = 1024


class Timing(NamedTuple):
    """The times of one form at one batch size.

    Parameters
    ----------
    form : str
        See `FORMS`.
    batch_size : int
    seconds : float
        Of a call, the median of the turns.
    spread : float
        Of the turns: largest minus smallest, as a part of `seconds`.
    """

    form: str
    batch_size: int
    seconds: float
    spread: float


class Bench(NamedTuple):
    """All times of one network.

    Parameters
    ----------
    network : str
    image_shape : tuple of int
    macs : int
        Multiply-adds of the stock form for one image.
    timings : list of Timing
    left_out : dict
        Why a form is missing, by form.
    sgemm : float
        Multiply-adds a second of a large matrix product in the same run.
    machine : dict
        Processor, threads, versions.
    """

    network: str
    image_shape: Sequence[int]
    macs: int
    timings: List[Timing]
    left_out: Dict[str, str]
    sgemm: float
    machine: Dict[str, Any]

    def find(self, form: str, batch_size: int) -> Optional[float]:
        """Seconds of a call, or None where the form was left out."""
        return next((timing.seconds for timing in self.timings
                     if (timing.form, timing.batch_size) == (form, batch_size)), None)

    def ratio(self, form: str, rival: str, batch_size: int) -> Optional[float]:
        """How many times as fast as a rival a form is."""
        ours, theirs = (self.find(name, batch_size) for name in (form, rival))
        return None if ours is None or theirs is None else theirs / ours

    def as_dict(self) -> Dict[str, Any]:
        """Plain values, for JSON."""
        return {**self._asdict(), 'image_shape': list(self.image_shape),
                'timings': [timing._asdict() for timing in self.timings]}


def give_random_parameters(net: HybridBlock, size: int) -> None:
    """Initialise a network, with the running statistics of a batch of random images.

    Numbers that overflow or vanish on their way through the layers would take another time.
    """
    net.initialize()
    norms: List[BatchNorm] = []
    net.apply(lambda block: norms.append(block) if isinstance(block, BatchNorm) else None)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    with mx.autograd.record():
        total = net(mx.nd.array(random_images(4, size, 0))).sum()
    total.backward()  # only this updates running statistics
    mx.nd.waitall()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def mxnet_stock(net: HybridBlock, size: int, batch_size: int) -> Runner:
    """The network as it is, hybridised."""
    net.hybridize(static_alloc=True, static_shape=True)
    return block_runner(net, fused=False)


def _optimized(target: str, int8: bool = False) -> Callable[[HybridBlock, int, int], Runner]:
    def make(net: HybridBlock, size: int, batch_size: int) -> Runner:
        calibration = [random_images(1, size, 0)] if int8 else None
        # Which layers would have to stay in float32 says nothing where the weights are random.
        return optimize(net, target, size, batch_size, calibration=calibration,
                        tolerance=np.inf).runner()
    return make


def onnx_naive(net: HybridBlock, size: int, batch_size: int) -> Runner:
    """The graph as PyTorch exports it: convolution, BN, Reshape, Transpose, Reshape."""
    return onnx_runner(Model.of(net, size))


def _torch(channels_last: bool, compiled: bool) -> Callable[[HybridBlock, int, int], Runner]:
    def make(net: HybridBlock, size: int, batch_size: int) -> Runner:
        torch = import_runtime('torch')
        torch.set_num_threads(default_threads())

        def arrange(tensor):
            if channels_last and tensor.dim() == 4:
                return tensor.to(memory_format=torch.channels_last)
            return tensor
        model = Model.of(net, size)
        run = twin(expand(model.graph), model.arrays, arrange)
        if compiled:
            run = torch.compile(run)

        def compute(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return run(arrange(torch.from_numpy(images))).numpy()
        return compute
    return make


# How each form is made of a network, an input size and a batch size.
FORMS: Dict[str, Callable[[HybridBlock, int, int], Runner]] = {
    STOCK: mxnet_stock,
    'MXNet optimised': _optimized('mxnet-alone'),
    'igcnet engine': _optimized('native'),
    NAIVE: onnx_naive,
    'ONNX Runtime optimised': _optimized('onnxruntime'),
    'MXNet int8': _optimized('mxnet', int8=True),
    'ONNX Runtime int8': _optimized('onnxruntime', int8=True),
    'PyTorch eager': _torch(channels_last=False, compiled=False),
    'PyTorch channels_last': _torch(channels_last=True, compiled=False),
    'PyTorch compiled': _torch(channels_last=False, compiled=True),
}
OURS = ('MXNet optimised', 'igcnet engine', 'ONNX Runtime optimised')
INT8 = ('MXNet int8', 'ONNX Runtime int8')


def bench(net: HybridBlock, name: str, input_size: Optional[int] = None,
          batch_sizes: Sequence[int] = (1, 32), forms: Sequence[str] = tuple(FORMS),
          rounds: int = 7, seconds: float = 0.3,
          report: Callable[[str], None] = lambda line: None) -> Bench:
    """Time a network in all forms.

    Parameters
    ----------
    net : HybridBlock
        With parameters, whose values do not matter much.
    name : str
        What the result calls it.
    forms : sequence of str
        Of `FORMS`; one whose package is missing, or that the network does not have, is left out.
    rounds : int
        Turns of each form.
    seconds : float
        Length of a turn.
    report : callable
        Gets a line for each thing that is done.

    Raises
    ------
    UsageError
        Images of this size do not fit.
    """
    model = Model.of(net, input_size)
    size = model.image_shape[-1]
    timings: List[Timing] = []
    left_out: Dict[str, str] = {}
    for batch_size in batch_sizes:
        images = np.random.RandomState(0).standard_normal(
            model.batch_shape(batch_size)).astype(np.float32)
        runners = {}
        for form in forms:
            report('%s, batch %d: preparing %s' % (name, batch_size, form))
            try:
                runners[form] = FORMS[form](net, size, batch_size)
                runners[form](images)
            except IgcnetError as problem:
                runners.pop(form, None)
                left_out[form] = str(problem)
            except Exception as problem:  # a rival's compiler may fail in any way
                if form == STOCK or form in OURS + INT8:
                    raise
                runners.pop(form, None)
                left_out[form] = '%s: %s' % (type(problem).__name__,
                                             str(problem).strip().split('\n')[0][:200])
        report('%s, batch %d: %d forms take turns' % (name, batch_size, len(runners)))
        for form, turns in interleaved(runners, images, rounds, seconds).items():
            middle = float(np.median(turns))
            timings.append(Timing(form, batch_size, middle,
                                  (max(turns) - min(turns)) / middle))
    return Bench(name, model.image_shape, model.macs(), timings, left_out, sgemm_speed(),
                 machine())


def sgemm_speed(rounds: int = 20) -> float:
    """Multiply-adds a second of a large float32 matrix product, the fastest of some."""
    left = mx.nd.random.normal(shape=(SGEMM_SIZE, SGEMM_SIZE))
    mx.nd.dot(left, left).wait_to_read()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        mx.nd.dot(left, left).wait_to_read()
        times.append(time.perf_counter() - start)
    return SGEMM_SIZE ** 3 / min(times)


def machine() -> Dict[str, Any]:
    """Processor, threads, and versions of what is installed."""
    found = {'processor': processor_name(), 'threads': default_threads()}
    for package in ('mxnet', 'onnxruntime', 'torch'):
        try:
            found[package] = import_runtime(package).__version__
        except UsageError:
            continue
    return found


def format_bench(result: Bench) -> str:
    """The times as a table, and what was left out."""
    sizes = sorted({timing.batch_size for timing in result.timings})
    header = ['form']
    for size in sizes:
        header += ['batch %d' % size, 'images/s', 'x naive', 'x stock', 'of sgemm']
    rows = []
    for form in dict.fromkeys(timing.form for timing in result.timings):
        cells = [form]
        for size in sizes:
            seconds = result.find(form, size)
            if seconds is None:
                cells += ['-'] * 5
                continue
            cells += ['%.2f ms' % (1e3 * seconds), '%.1f' % (size / seconds)]
            cells += ['-' if ratio is None else '%.2f' % ratio for ratio in (
                result.ratio(form, rival, size) for rival in (NAIVE, STOCK))]
            cells.append('%.0f %%' % (100 * result.macs * size / seconds / result.sgemm))
        rows.append(cells)
    lines = ['%s, %s, %.1f million multiply-adds an image; sgemm %.1f thousand million a second'
             % (result.network, 'x'.join(map(str, result.image_shape)), result.macs / 1e6,
                result.sgemm / 1e9),
             ', '.join('%s %s' % item for item in result.machine.items()), '',
             *align(header, rows, right=range(1, len(header)))]
    lines += ['left out: %s (%s)' % item for item in result.left_out.items()]
    return '\n'.join(lines)


def plot_bench(result: Bench, path: PathLike) -> Path:
    """Bars of images a second, one panel for each batch size."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    sizes = sorted({timing.batch_size for timing in result.timings})
    forms = list(dict.fromkeys(timing.form for timing in result.timings))
    figure, panels = pyplot.subplots(1, len(sizes), figsize=(4.5 * len(sizes) + 1.5,
                                                             0.4 * len(forms) + 1.2),
                                     sharey=True, squeeze=False)
    for panel, size in zip(panels[0], sizes):
        speeds = [size / (result.find(form, size) or math.inf) for form in forms]
        panel.barh(forms, speeds, color=['tab:orange' if form in OURS + INT8 else 'tab:blue'
                                         for form in forms])
        panel.set_xlabel('images/s, batch %d' % size)
    panels[0][0].invert_yaxis()
    figure.suptitle('%s, %d threads' % (result.network, result.machine['threads']))
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(str(temporary), format=Path(path).suffix[1:] or 'png', dpi=120)
    pyplot.close(figure)
    return Path(path)
