"""Initialisers of the originals, written out."""

from __future__ import annotations

import math
from functools import partial
from typing import Callable, Dict

import mxnet as mx

from igcnet.errors import UsageError


@mx.init.register
class IGCInit(mx.init.Initializer):
    """Initialisation of the IGC original.

    Names that contain ``fc``: U(-a, a) with a = sqrt(1/fan_in). Every other weight:
    N(0, sqrt(2/fan_in)). fan_in is shape[1] times the kernel's area, so the input channels of one
    group. BN scale 1, shift 0, and *both* running statistics 0 (stock MXNet starts the variance
    at 1): these are set on the BN layers, see `igcnet.layers.basic.BatchNorm`.
    """

    def _init_weight(self, name, arr):
        fan_in = 1
        for extent in arr.shape[1:]:
            fan_in *= extent
        if 'fc' in name:
            bound = math.sqrt(1.0 / fan_in)
            mx.random.uniform(-bound, bound, shape=arr.shape, out=arr)
        else:
            mx.random.normal(0, math.sqrt(2.0 / fan_in), shape=arr.shape, out=arr)


@mx.init.register
class FanInit(mx.init.Initializer):
    """Initialisation of the MENet original, for all its networks.

    Convolutions: N(0, sqrt(2/fan)). The classifier: U(-a, a) with a = sqrt(6/fan), bias 0.
    BN scale 1, shift 0.

    Parameters
    ----------
    mode : str
        'fan_in': the input channels of one group times the kernel's area, or the classifier's
        inputs. 'fan_out': *all* output channels times the kernel's area, not divided by the
        groups, or the number of classes.
    """

    def __init__(self, mode: str = 'fan_out'):
        if mode not in ('fan_in', 'fan_out'):
            raise UsageError("init_mode=%r: must be 'fan_in' or 'fan_out'" % (mode,))
        super().__init__(mode=mode)
        self.mode = mode

    def _init_weight(self, name, arr):
        fan = arr.size // arr.shape[0 if self.mode == 'fan_in' else 1]
        if len(arr.shape) == 2:
            bound = math.sqrt(6.0 / fan)
            mx.random.uniform(-bound, bound, shape=arr.shape, out=arr)
        else:
            mx.random.normal(0, math.sqrt(2.0 / fan), shape=arr.shape, out=arr)


@mx.init.register
class FanOutInit(mx.init.Initializer):
    """Initialisation of xxradon/IGCV3-pytorch and of the MutualNet original.

    Convolutions: N(0, sqrt(2/fan_out)), where fan_out is the kernel's area times *all* output
    channels, not divided by the groups. The classifier: N(0, 0.01), or U(-a, a) with
    a = sqrt(1/inputs) if `uniform_classifier`; bias 0. BN scale 1, shift 0.
    """

    def __init__(self, uniform_classifier: bool = False):
        super().__init__(uniform_classifier=uniform_classifier)
        self.uniform_classifier = uniform_classifier

    def _init_weight(self, name, arr):
        if len(arr.shape) == 4:
            fan_out = arr.size // arr.shape[1]
            mx.random.normal(0, math.sqrt(2.0 / fan_out), shape=arr.shape, out=arr)
        elif self.uniform_classifier:
            bound = math.sqrt(1.0 / arr.shape[1])
            mx.random.uniform(-bound, bound, shape=arr.shape, out=arr)
        else:
            mx.random.normal(0, 0.01, shape=arr.shape, out=arr)


@mx.init.register
class DGCInit(FanOutInit):
    """Initialisation of the DGC original and its plain DenseNet and ResNet.

    As `FanOutInit`, with ``uniform_classifier=True``; the fan_out of a dynamic group convolution
    is that of one head. The two layers of a selector (``headconv``): N(0, sqrt(2/fan_in)). The
    biases that are not 0 are set on the layers.
    """

    def _init_weight(self, name, arr):
        if 'headconv' in name and len(arr.shape) == 2:
            mx.random.normal(0, math.sqrt(2.0 / arr.shape[1]), shape=arr.shape, out=arr)
        else:
            super()._init_weight(name, arr)


# The originals' initialisations, by the name that a recipe calls them.
INITIALIZERS: Dict[str, Callable[[], mx.init.Initializer]] = {
    'igc': IGCInit,
    'igcv3': FanOutInit,
    'igcv3-mxnet': partial(mx.init.Xavier, 'gaussian', 'in', 2),
    'menet-fan-in': partial(FanInit, 'fan_in'),
    'menet-fan-out': partial(FanInit, 'fan_out'),
    'mutualnet': FanOutInit,
    'mutualnet-wideresnet': partial(FanOutInit, uniform_classifier=True),
    'dgc': partial(DGCInit, uniform_classifier=True),
}


def find_initializer(name: str) -> mx.init.Initializer:
    """The initialisation called `name`, for any network.

    Raises
    ------
    UsageError
        Unknown name; the message lists all.
    """
    if name not in INITIALIZERS:
        raise UsageError('init=%s: must be one of %s' % (name, ', '.join(INITIALIZERS)))
    return INITIALIZERS[name]()
