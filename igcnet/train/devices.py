"""Which devices to compute on."""

from __future__ import annotations

from typing import List, Optional

import mxnet as mx

from igcnet._backend import INSTALL_GPU
from igcnet.errors import UsageError

KV_STORES = ('device', 'local')


def contexts(gpus: Optional[str] = None, cpus: int = 1) -> List[mx.Context]:
    """The contexts for ``--gpus 0,1`` or ``--cpus N``.

    Parameters
    ----------
    gpus : str, optional
        Comma-separated GPU numbers; None or empty computes on the CPU.
    cpus : int
        Number of CPU contexts. More than one runs the multi-device path on one machine.

    Raises
    ------
    UsageError
        Numbers that are not GPU numbers, or GPUs that this machine or wheel cannot use.
    """
    if not gpus:
        return [mx.cpu(i) for i in range(cpus)]
    try:
        numbers = [int(word) for word in gpus.split(',')]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise UsageError('--gpus %s: must be different GPU numbers, such as 0,1' % gpus)
    _check_gpus(gpus, numbers)
    return [mx.gpu(number) for number in numbers]


def _check_gpus(option: str, numbers: List[int]) -> None:
    if not mx.runtime.Features().is_enabled('CUDA'):
        raise UsageError('--gpus %s: the installed MXNet is the CPU build; leave --gpus out to '
                         'compute on the CPU, or: pip uninstall -y mxnet, then %s'
                         % (option, INSTALL_GPU))
    try:
        present = mx.context.num_gpus()
    except mx.base.MXNetError:  # no driver
        present = 0
    if max(numbers) >= present:
        raise UsageError('--gpus %s: this machine has %s; leave --gpus out to compute on the CPU'
                         % (option, 'no usable NVIDIA GPU' if not present else
                            'the GPUs 0 to %d' % (present - 1)))
    for number in numbers:
        try:
            (mx.nd.ones((8, 8), ctx=mx.gpu(number)) * 2).wait_to_read()
        except mx.base.MXNetError as problem:
            raise UsageError(
                '--gpus %s: GPU %d cannot run the kernels of mxnet-cu112, which were compiled for '
                'compute capability 5.0 to 8.6 (Maxwell to Ampere); use an older GPU or leave '
                '--gpus out (%s)' % (option, number, str(problem).strip().split('\n')[0])
            ) from None
