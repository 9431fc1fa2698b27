"""Running statistics of batch normalisation where several workers train one network."""

from __future__ import annotations

from typing import Dict, List

import mxnet as mx
import numpy as np
from mxnet import gluon


def is_statistic(parameter: gluon.Parameter) -> bool:
    """Whether it is a running statistic, which no gradient reaches even when nothing is frozen."""
    return not parameter._differentiable


class WorkersStatistics:
    """The running statistics of all devices of all workers.

    Each device normalises its part of the batch by itself, so these differ. They are averaged
    where an epoch ends, before the network is evaluated, and kept apart in a checkpoint in
    mid-epoch, so that a run that goes on from there ends as if it had not been stopped.

    Parameters
    ----------
    workers : igcnet.train.distributed.Workers
    net : igcnet.layers.Network
        With as many devices on every worker.
    """

    def __init__(self, workers, net):
        self._workers = workers
        self._parameters: List[gluon.Parameter] = [
            p for p in net.collect_params().values() if is_statistic(p)]

    def arrays(self) -> Dict[str, np.ndarray]:
        """Each statistic (workers * devices, channels); all workers ask at the same time."""
        own = [array.asnumpy().ravel() for p in self._parameters for array in p.list_data()]
        if not own:
            return {}
        rows = self._workers.gather(np.concatenate(own))
        found, begin = {}, 0
        for parameter in self._parameters:
            size = int(np.prod(parameter.shape))
            end = begin + size * len(parameter.list_data())
            found[parameter.name] = rows[:, begin:end].reshape(-1, size).astype(parameter.dtype)
            begin = end
        return found

    def set_arrays(self, arrays: Dict[str, np.ndarray]) -> None:
        """Take what `arrays` has given; its mean, if the number of devices was another one."""
        for parameter in self._parameters:
            if parameter.name in arrays:
                rows, devices = arrays[parameter.name], parameter.list_data()
                first = self._workers.rank * len(devices)
                if len(rows) != self._workers.size * len(devices):
                    self._set_mean(parameter, rows)
                    continue
                for array, row in zip(devices, rows[first:]):
                    array[:] = row.reshape(parameter.shape)

    def average(self) -> None:
        """Give every device the mean over all of them; all workers do it at the same time."""
        arrays = self.arrays()
        for parameter in self._parameters:
            self._set_mean(parameter, arrays[parameter.name])

    @staticmethod
    def _set_mean(parameter: gluon.Parameter, rows: np.ndarray) -> None:
        mean = rows.mean(axis=0, dtype=np.float64).reshape(parameter.shape)
        parameter.set_data(mx.nd.array(mean, dtype=parameter.dtype))
