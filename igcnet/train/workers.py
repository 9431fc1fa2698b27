"""What a training run needs of those who train with it.

In a run of one process that is `Alone`, which costs nothing, so that the loop knows no difference;
`igcnet.train.distributed.Workers` is one of several.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.errors import UsageError
from igcnet.files import PathLike
from igcnet.train.devices import KV_STORES
from igcnet.train.metrics import Scores


class Alone:
    """The workers of a run of one process.

    Attributes
    ----------
    rank, size : int
        This worker's number, from 0, and how many there are.
    updates_per_step : int
        Updates of the weights while each worker makes one step.
    asynchronous : bool
        Whether each worker's gradient is an update of its own.
    """

    rank, size, updates_per_step = 0, 1, 1
    asynchronous = False

    @property
    def own_seed(self) -> Tuple[int, ...]:
        """What this worker adds to a seed, so that dropout is not the same on all of them."""
        return (self.rank,) if self.rank else ()

    def store_name(self, asked: str) -> str:
        """The ``--kv-store`` of this run, where `asked` may be that of a run it goes on from."""
        return asked if asked in KV_STORES else KV_STORES[0]

    def compress_to(self, threshold: float) -> None:
        """Exchange gradients in 2 bits: for each element nothing or plus or minus the threshold,
        and what is left over is added to the next gradient. Refused where nothing is exchanged."""
        raise UsageError('--gc-type 2bit: goes with the distributed values of --kv-store')

    def trainer(self, parameters: List[gluon.Parameter], rule: mx.optimizer.Optimizer,
                kv_store: str) -> gluon.Trainer:
        """The trainer that updates `parameters` by `rule`.

        Every device updates its own copy of the weights with the summed gradients, so that the
        optimiser's state can be saved whatever the store.
        """
        return gluon.Trainer(parameters, rule, kvstore=kv_store, update_on_kvstore=False)

    def broadcast(self, data: bytes) -> bytes:
        """What worker 0 has given."""
        return data

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """The numbers of every worker, exactly: (size, len(numbers)), float64."""
        return np.array([numbers], np.float64)

    def total(self, *scores: Scores) -> List[Scores]:
        """Each of these over all workers."""
        return list(scores)

    def all_scores(self, scores: Scores) -> List[float]:
        """Those of every worker in a row, for a checkpoint."""
        return list(scores)

    def own_scores(self, saved: List[float]) -> Scores:
        """This worker's out of what `all_scores` gave; all of them are worker 0's when they were
        saved by another number of workers."""
        width = len(Scores._fields)
        rows = [as_scores(saved[i:i + width]) for i in range(0, len(saved), width)]
        if len(rows) == self.size:
            return rows[self.rank]
        return sum(rows, Scores()) if self.rank == 0 else Scores()

    def all_good(self, finite: List[mx.nd.NDArray], losses: List[mx.nd.NDArray],
                 limit: Optional[float]) -> List[mx.nd.NDArray]:
        """Arrays that are all 1 unless a worker diverges; nobody waits for them.

        Parameters
        ----------
        finite : list of NDArray
            This worker's: 1 for each device whose gradients are finite.
        losses : list of NDArray
            Of each device, which are judged here for the other workers: each worker judges its
            own anyway.
        limit : float, optional
            Of the mean loss.
        """
        return finite

    def agree(self, *questions: bool) -> List[bool]:
        """For each question, whether any worker says yes: the same answer for every worker.

        Of several workers the answer is that of the step before.
        """
        return list(questions)

    def stateful(self, net: gluon.HybridBlock) -> Dict[str, Any]:
        """What of the workers goes into a checkpoint, see `igcnet.train.loop.Loop`."""
        return {}

    def fetch(self, trainer: gluon.Trainer) -> None:
        """Get what is not in this process before it is saved."""

    def synchronise(self, net: gluon.HybridBlock, trainer: gluon.Trainer) -> None:
        """Give every worker the same network, before it is evaluated."""

    def average_statistics(self, net: gluon.HybridBlock) -> None:
        """Give every worker the mean of the workers' running statistics."""

    @contextlib.contextmanager
    def shared_folder(self, path: PathLike) -> Iterator[Path]:
        """A folder with the files of worker 0's folder at `path`."""
        yield Path(path)


def as_scores(numbers: Sequence[float]) -> Scores:
    """`Scores` out of numbers that may all have become floats."""
    count, loss, top1, top5 = numbers
    return Scores(int(count), float(loss), int(top1), int(top5))


ALONE = Alone()
