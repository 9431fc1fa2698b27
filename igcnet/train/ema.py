"""An exponential moving average of the weights, which is evaluated and exported."""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator

import numpy as np

_STATISTICS = ('_moving_mean', '_moving_var')


class WeightAverage:
    """The average of what is learned, running statistics included, over the updates::

        average = decay * average + (1 - decay) * weight

    It starts from the weights that `net` has. With several devices it is that of the first,
    whose statistics of BN are the ones that count.

    Parameters
    ----------
    net : igcnet.layers.Network
        Initialised.
    decay : float
        From 0 up to below 1; 0.999 averages over the last thousand updates or so.
    """

    def __init__(self, net, decay: float):
        self.decay = decay
        self._parameters = {name: p for name, p in net.collect_params().items()
                            if p.grad_req != 'null' or name.endswith(_STATISTICS)}
        self._average = {name: p.list_data()[0].copy() for name, p in self._parameters.items()}

    def update(self) -> None:
        """Take in the weights after an update."""
        for name, average in self._average.items():
            average *= self.decay
            average += (1 - self.decay) * self._parameters[name].list_data()[0]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the ``with`` block the network has the averaged weights, on all devices."""
        kept = {name: [array.copy() for array in p.list_data()]
                for name, p in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.set_data(self._average[name])
            yield
        finally:
            for name, parameter in self._parameters.items():
                for array, own in zip(parameter.list_data(), kept[name]):
                    array[:] = own

    def arrays(self) -> Dict[str, np.ndarray]:
        """The average by parameter name, for a checkpoint."""
        return {name: average.asnumpy() for name, average in self._average.items()}

    def set_arrays(self, arrays: Dict[str, np.ndarray]) -> None:
        """Take up again what `arrays` gave."""
        for name, average in self._average.items():
            if name in arrays:
                average[:] = arrays[name]
