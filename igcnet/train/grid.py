"""Measuring a slimmable network at every width and resolution, for its query table."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from igcnet.data.reader import EvalBatch
from igcnet.deploy.query_table import (
    Pair,
    QueryTable,
    read_table,
    statistics_path,
    table_path,
    write_statistics,
    write_table,
)
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike, atomic_path
from igcnet.layers import SlimmableNetwork
from igcnet.layers.resolution import at_resolution, check_resolution
from igcnet.profiling import profile
from igcnet.train.calibrate import calibrate
from igcnet.train.evaluate import evaluate

# Calls before those that are timed: the first traces, the second still sorts out its memory.
WARM_UP = 3


class Latency(NamedTuple):
    """How the time of a call is measured: the median of `repeats` calls with `batch_size` images
    of the full size, resizing included, on the first device."""

    batch_size: int = 1
    repeats: int = 20


def counts(blank: SlimmableNetwork, width: float, resolution: int) -> Tuple[int, int]:
    """Multiply-adds for one image, and trainable parameters, of one sub-network alone.

    Parameters
    ----------
    blank : SlimmableNetwork
        It need not be initialised; nothing is computed.
    """
    check_resolution(blank, resolution)
    counted = profile(blank.cut(width), (1, 3, resolution, resolution))
    return counted.macs, counted.parameters


def median_milliseconds(net: SlimmableNetwork, width: float, resolution: int, input_size: int,
                        context: mx.Context, latency: Latency) -> float:
    """Time of one call as `Latency` says, in milliseconds."""
    shape = (latency.batch_size, 3, input_size, input_size)
    x = mx.nd.random.normal(shape=shape, ctx=context, dtype=net.output.weight.dtype)
    times = []
    for _ in range(WARM_UP + latency.repeats):
        mx.nd.waitall()
        begin = time.perf_counter()
        net(at_resolution(x, resolution), width=width).wait_to_read()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[WARM_UP:])


def open_table(prefix: PathLike, wanted: QueryTable) -> QueryTable:
    """The table below `prefix` with the pairs that it has, or `wanted` if there is none yet.

    Raises
    ------
    CheckpointError
        The table there is of another network, other weights, or measured in another way.
    """
    path = table_path(prefix)
    if not path.exists():
        return wanted
    found = read_table(path)
    for name in ('network', 'settings', 'weights', 'preprocessing', 'classes', 'made_with'):
        if _plain(getattr(found, name)) != _plain(getattr(wanted, name)):
            raise CheckpointError(
                '%s: this table was begun with other %s; choose another --output, or remove it'
                % (path, 'weights (checksum)' if name == 'weights' else
                   ', '.join(_changed_keys(found.made_with, wanted.made_with))
                   if name == 'made_with' else name))
    return found


def remaining(table: QueryTable, prefix: PathLike,
              pairs: Iterable[Tuple[float, int]]) -> List[Tuple[float, int]]:
    """Those of `pairs` that the table below `prefix` does not have yet, with their statistics."""
    path = table_path(prefix)
    known = ((pair, table.find(*pair)) for pair in dict.fromkeys(pairs))
    return [pair for pair, row in known
            if row is None or not statistics_path(path, row.name).is_file()]


def measure(net: SlimmableNetwork, blank: SlimmableNetwork, table: QueryTable, prefix: PathLike,
            pairs: Iterable[Tuple[float, int]], calibration: Callable[[], Iterable[Any]],
            validation: Iterable[EvalBatch], contexts: Sequence[mx.Context], latency: Latency,
            each_batch: Optional[Callable[[EvalBatch, np.ndarray], None]] = None,
            on_pair: Optional[Callable[[Pair], None]] = None) -> QueryTable:
    """Calibrate, evaluate and time each pair, and write the table after each.

    Parameters
    ----------
    net : SlimmableNetwork
        With its parameters, on all `contexts`, hybridised as it will be used.
    blank : SlimmableNetwork
        The same network, not initialised, for counting.
    table : QueryTable
        From `open_table`; gets the new pairs.
    prefix : path
        Of the files of the table.
    pairs : iterable of (float, int)
        Widths and resolutions; `remaining` gives those of an interrupted measurement.
    calibration : callable
        Gives the batches of training images to calibrate with, the same ones at each call.
    validation : iterable of EvalBatch
        The images to evaluate.
    each_batch, on_pair : callable, optional
        Called with each batch and its logits, and with each pair measured.

    Raises
    ------
    UsageError
        A width outside the range, or a resolution that leaves nothing of the image; before
        anything is measured.
    CheckpointError
        The network gives no numbers.
    """
    counted = [(width, resolution, *counts(blank, width, resolution))
               for width, resolution in pairs]
    for width, resolution, macs, parameters in counted:
        found = calibrate(net, calibration(), width, resolution)
        net.set_width(width)
        scores = evaluate(net, validation, list(contexts), each_batch, resolution)
        if not scores.count:
            raise UsageError('evaluation: there is not one image')
        means = scores.means()
        if not math.isfinite(means['loss']):
            raise CheckpointError('width %g at resolution %d: the logits are not finite; the '
                                  'weights or the images to calibrate with are broken'
                                  % (width, resolution))
        pair = Pair(width, resolution, macs, parameters,
                    median_milliseconds(net, width, resolution, table.preprocessing.input_size,
                                        contexts[0], latency),
                    scores.count, means['top1'], means['top5'], means['loss'], '')
        checksum = write_statistics(statistics_path(table_path(prefix), pair.name), found)
        table.pairs = [other for other in table.pairs if other.name != pair.name]
        table.pairs.append(replace(pair, statistics=checksum))
        write_table(table, prefix)
        if on_pair is not None:
            on_pair(table.pairs[-1])
    return table


def plot_frontier(table: QueryTable, path: PathLike) -> Path:
    """Draw top-1 accuracy over multiply-adds and over milliseconds: a line for each resolution,
    and the frontier."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4.5), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    scales = (('macs', 1e-6, 'multiply-adds (millions)'), ('milliseconds', 1, 'milliseconds'))
    for axes, (cost, scale, label) in zip(figure.subplots(1, 2, sharey=True), scales):
        for resolution in sorted({pair.resolution for pair in table.pairs}, reverse=True):
            row = sorted((pair for pair in table.pairs if pair.resolution == resolution),
                         key=lambda pair: pair.width)
            axes.plot([scale * getattr(pair, cost) for pair in row],
                      [100 * pair.top1 for pair in row], marker='o', markersize=3, linewidth=1,
                      label='resolution %d' % resolution)
        front = table.frontier(cost)
        axes.plot([scale * getattr(pair, cost) for pair in front],
                  [100 * pair.top1 for pair in front], color='black', linewidth=2.5, alpha=0.35,
                  zorder=0, label='frontier')
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.axes[0].set_ylabel('top-1 accuracy (%)')
    figure.suptitle('%s: %d pairs of width and resolution' % (table.network, len(table.pairs)))
    with atomic_path(path) as temporary:
        figure.savefig(str(temporary), format='png')
    return Path(path)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _changed_keys(first: Dict[str, Any], second: Dict[str, Any]) -> List[str]:
    return [key for key in {**first, **second}
            if _plain(first.get(key)) != _plain(second.get(key))]
