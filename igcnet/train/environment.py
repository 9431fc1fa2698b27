"""What decides the bits of a run beside its settings.

On one machine MXNet's CPU kernels give the same bits in every process, whatever the number of
threads is, as long as it stays the same: another number adds in another order. So do another
processor, whose vector instructions are others, and other versions.
"""

from __future__ import annotations

import os
from typing import Dict, List

import cv2
import mxnet as mx
import numpy as np

import igcnet
from igcnet.machine import cpu_model


def environment(contexts: List[mx.Context], lowering: str,
                synchronised: bool = False) -> Dict[str, str]:
    """Versions, devices, threads and processor, as a checkpoint records them."""
    return {'igcnet': igcnet.__version__, 'mxnet': mx.__version__, 'numpy': np.__version__,
            'opencv': cv2.__version__, 'devices': ' '.join(map(str, contexts)),
            'threads': os.environ.get('OMP_NUM_THREADS', "MXNet's choice"), 'lowering': lowering,
            'batch normalisation': 'over all devices' if synchronised else 'on each device',
            'processor': cpu_model()}


def differences(before: Dict[str, str], now: Dict[str, str]) -> str:
    """What has changed, in words; empty if nothing has."""
    return ', '.join('%s %s instead of %s' % (name, value, before[name])
                     for name, value in now.items() if before.get(name, value) != value)


def enforce_determinism() -> None:
    """Let MXNet choose only GPU kernels that give the same bits each time, or raise an error.

    It also keeps cuDNN from choosing by a measurement. On the CPU nothing is different: its
    kernels are deterministic anyway. Must be called before the first operator runs.
    """
    os.environ['MXNET_ENFORCE_DETERMINISM'] = '1'
    os.environ['MXNET_CUDNN_AUTOTUNE_DEFAULT'] = '0'
