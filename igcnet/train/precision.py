"""Computing in half precision, by MXNet's AMP: weights and optimiser stay in float32.

AMP changes MXNet's operators for the rest of the process, so a process computes in one precision.
bfloat16 is for the CPU and float16 for GPUs, because MXNet has no kernels for the others. float16
has so few exponents that the loss is scaled up for the backward pass; see `LossScale`.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError

PRECISIONS = ('float32', 'float16', 'bfloat16')
_DEVICE = {'float16': 'gpu', 'bfloat16': 'cpu'}
_started: Optional[str] = None


def start(precision: str, contexts: Sequence[mx.Context]) -> None:
    """Compute in `precision` from now on; to be called before a network is made.

    Raises
    ------
    UsageError
        The devices cannot, or this process computes in another one already.
    """
    global _started
    if precision not in PRECISIONS:
        raise UsageError('--precision %s: must be one of %s' % (precision, ', '.join(PRECISIONS)))
    needed = _DEVICE.get(precision)
    if needed and any(context.device_type != needed for context in contexts):
        raise UsageError('--precision %s: MXNet computes in it on the %s only; take %s there'
                         % (precision, needed.upper(), {'gpu': 'bfloat16 or float32',
                                                        'cpu': 'float16 or float32'}[needed]))
    if _started not in (None, precision):
        raise UsageError('--precision %s: this process computes in %s already; begin a new one'
                         % (precision, _started))
    if needed and _started is None:
        from mxnet.contrib import amp
        amp.init(precision)
        _started = precision


def check(net: HybridBlock, input_size: int, precision: str) -> None:
    """Compute one step, and leave the network as it was.

    Raises
    ------
    UsageError
        An operator of the network does not work in `precision`.
    """
    kept = [(array, array.copy()) for parameter in net.collect_params().values()
            if parameter.grad_req == 'null' for array in parameter.list_data()]
    x = mx.nd.ones((2, 3, input_size, input_size), ctx=net.output.weight.list_ctx()[0])
    try:
        with autograd.record():
            loss = in_full(net(x)).sum()
        loss.backward()
        mx.nd.waitall()
    except mx.base.MXNetError as problem:
        raise UsageError('--precision %s: MXNet cannot train this network in it (%s)' % (
            precision, str(problem).strip().split('\n')[-1])) from None
    for array, value in kept:
        array[:] = value


def in_full(array: mx.nd.NDArray) -> mx.nd.NDArray:
    """`array` in float32, if it is in a half precision; NumPy does not know bfloat16."""
    return array if array.dtype in (np.float32, np.float64) else array.astype('float32')


class LossScale:
    """The factor of the loss in the backward pass of float16, which follows the gradients.

    When they overflow, the update is left out and the factor is halved; after `INTERVAL` updates
    without an overflow it is doubled. The numbers are those of MXNet's AMP.
    """

    FIRST, LARGEST, INTERVAL = 2.0 ** 16, 2.0 ** 24, 2000

    def __init__(self):
        self.factor = self.FIRST
        self._updates = 0

    def take(self, finite: List[mx.nd.NDArray]) -> bool:
        """Whether the gradients can be used, given whether they are finite on each device.

        This waits for the devices.
        """
        usable = all(flag.asscalar() for flag in finite)
        if not usable:
            self.factor /= 2
            self._updates = 0
        else:
            self._updates += 1
            if self._updates == self.INTERVAL:
                self.factor = min(2 * self.factor, self.LARGEST)
                self._updates = 0
        return usable

    def arrays(self) -> Dict[str, np.ndarray]:
        """For a checkpoint."""
        return {'factor': np.array([self.factor]), 'updates': np.array([float(self._updates)])}

    def set_arrays(self, arrays: Dict[str, np.ndarray]) -> None:
        """Take up again what `arrays` gave."""
        self.factor, self._updates = float(arrays['factor'][0]), int(arrays['updates'][0])
