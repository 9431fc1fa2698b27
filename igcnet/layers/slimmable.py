"""Layers that use the first channels of their weights, as many as the network's width says.

`SlimmableLayers` makes them; `PlainLayers` has the same methods and makes the ordinary layers of
one width, so that a network is written once for both.

Weights are cut by ``slice_axis``: other ways of slicing end in oneDNN errors, or end the process.
Where a layer uses all of its weights, nothing is cut.
"""

from __future__ import annotations

from typing import Any, List, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn
from mxnet.symbol import Symbol

from igcnet.errors import UsageError
from igcnet.layers.basic import BatchNorm, Conv2D, Dense
from igcnet.layers.naming import ExactName, NamedLayer
from igcnet.layers.widths import Channels, Widths


def first_channels(F: Any, array: Any, axis: int, count: int, stored: int) -> Any:
    """The first `count` of the `stored` entries of `array` along `axis`."""
    return array if count == stored else F.slice_axis(array, axis=axis, begin=0, end=count)


class SlimmableLayer(NamedLayer):
    """Base class: a layer whose graph depends on the width."""

    def __init__(self, name: str, widths: Widths):
        super().__init__(name)
        self.widths = widths

    def hybridize(self, active=True, **flags):
        """Refused: the graph would keep the width at which it was traced.

        Raises
        ------
        UsageError
            Always, unless `active` is false.
        """
        if active:
            raise UsageError('%s: the graph of a slimmable layer depends on the width; hybridize '
                             'the whole network, or the one that cut(width) gives' % self.name)


class SlimmableConv2D(SlimmableLayer):
    """2-D convolution without bias, NCHW.

    Inputs: `data` (N, inputs, H, W). Outputs: (N, outputs, H', W'), channels at the present
    width, with ``H' = (H + 2*padding - kernel_size) // strides + 1``.
    """

    def __init__(self, name: str, widths: Widths, inputs: Channels, outputs: Channels,
                 kernel_size: int, strides: int = 1, padding: int = 0):
        super().__init__(name, widths)
        self.inputs, self.outputs = inputs, outputs
        self.kernel_size, self.strides, self.padding = kernel_size, strides, padding
        stored_in, stored_out = widths.use(name, inputs, outputs)
        self.weight = self.params.get('weight',
                                      shape=(stored_out, stored_in, kernel_size, kernel_size))

    def hybrid_forward(self, F, x, weight):
        inputs, outputs = self.widths.count(self.inputs), self.widths.count(self.outputs)
        weight = first_channels(F, weight, 0, outputs, self.weight.shape[0])
        weight = first_channels(F, weight, 1, inputs, self.weight.shape[1])
        with self.exact_name():
            return F.Convolution(x, weight, kernel=(self.kernel_size,) * 2,
                                 stride=(self.strides,) * 2, pad=(self.padding,) * 2,
                                 num_filter=outputs, num_group=1, no_bias=True)

    def __repr__(self):
        return 'SlimmableConv2D(%s -> %s)' % (self.inputs, self.outputs)


class SlimmableDepthwiseConv2D(SlimmableLayer):
    """3x3 depthwise convolution without bias, NCHW; as many groups as channels.

    Inputs: `data` (N, channels, H, W). Outputs: (N, channels, H', W'), H' = H divided by
    `strides`, rounded up.
    """

    def __init__(self, name: str, widths: Widths, channels: Channels, strides: int = 1):
        super().__init__(name, widths)
        self.channels, self.strides = channels, strides
        self.weight = self.params.get('weight', shape=(*widths.use(name, channels), 1, 3, 3))

    def hybrid_forward(self, F, x, weight):
        count = self.widths.count(self.channels)
        weight = first_channels(F, weight, 0, count, self.weight.shape[0])
        with self.exact_name():
            return F.Convolution(x, weight, kernel=(3, 3), stride=(self.strides,) * 2, pad=(1, 1),
                                 num_filter=count, num_group=count, no_bias=True)

    def __repr__(self):
        return 'SlimmableDepthwiseConv2D(%s)' % (self.channels,)


class SlimmableDense(SlimmableLayer):
    """Fully connected layer with bias on flat input.

    Inputs: `data` (N, inputs), as many as at the present width. Outputs: (N, units).
    """

    def __init__(self, name: str, widths: Widths, inputs: Channels, units: int):
        super().__init__(name, widths)
        self.inputs, self.units = inputs, units
        self.weight = self.params.get('weight', shape=(units, *widths.use(name, inputs)))
        self.bias = self.params.get('bias', shape=(units,), init='zeros')

    def hybrid_forward(self, F, x, weight, bias):
        count = self.widths.count(self.inputs)
        weight = first_channels(F, weight, 1, count, self.weight.shape[1])
        with self.exact_name():
            return F.FullyConnected(x, weight, bias, num_hidden=self.units)

    def __repr__(self):
        return 'SlimmableDense(%s -> %d)' % (self.inputs, self.units)


class RunningStatistics(NamedLayer):
    """The running mean and variance of one BN layer at one width, and BN with them.

    `node_name` is that of the BN layer; `epsilon` and `momentum` as of `BatchNorm`.

    Inputs: `data` (N, channels, ...), scale and shift (channels,). Outputs: as `data`.
    """

    def __init__(self, name: str, channels: int, node_name: str, epsilon: float, momentum: float):
        super().__init__(name)
        self.node_name, self.epsilon, self.momentum = node_name, epsilon, momentum
        self.running_mean = self.params.get('moving_mean', shape=(channels,), init='zeros',
                                            grad_req='null', differentiable=False)
        self.running_var = self.params.get('moving_var', shape=(channels,), init='ones',
                                           grad_req='null', differentiable=False)

    def update(self, mean: mx.nd.NDArray, variance: mx.nd.NDArray) -> None:
        """Move towards the statistics of a batch, on their device."""
        for parameter, value in ((self.running_mean, mean), (self.running_var, variance)):
            array = parameter.data(value.context)
            array *= self.momentum
            array += (1 - self.momentum) * value

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        with ExactName(self.node_name):
            return F.BatchNorm(x, gamma, beta, running_mean, running_var, eps=self.epsilon,
                               momentum=self.momentum, fix_gamma=False)


class SlimmableBatchNorm(SlimmableLayer):
    """Batch normalisation over axis 1: scale and shift common to all widths, running statistics
    for each listed width.

    Inputs: `data` (N, channels, ...), channels at the present width. Outputs: the same shape.

    ``statistics`` has a child for each listed width, called by its position in the list; where
    the channels are the same at every width it has one child, ``every_width``.

    Notes
    -----
    In training mode the network takes the statistics of the batch and updates the running ones
    itself (`igcnet.layers.SlimmableNetwork`), with the unbiased variance as the original. Where
    only a part of the network is called, or its symbol is trained, BN is MXNet's own: at listed
    widths, updated in the backward pass with the biased variance.
    """

    def __init__(self, name: str, widths: Widths, channels: Channels, momentum: float = 0.9,
                 epsilon: float = 1e-5):
        super().__init__(name, widths)
        self.channels, self.momentum, self.epsilon = channels, momentum, epsilon
        shape = widths.use(name, channels)
        self.gamma = self.params.get('gamma', shape=shape, init='ones')
        self.beta = self.params.get('beta', shape=shape, init='zeros')
        self.statistics = nn.HybridSequential(prefix='')
        if channels.slim:
            for position in range(len(widths.listed)):
                self.add_statistics(position)
        else:
            self._add_statistics('every_width', name, channels.base)

    def add_statistics(self, position: int) -> Optional[RunningStatistics]:
        """Make running statistics for the width at `position` of the list, not initialised;
        None when those for every width do."""
        if not self.channels.slim:
            return None
        count = self.channels.at(self.widths.listed[position], self.widths.divisor)
        return self._add_statistics('%d' % position, '%s_width%d' % (self.name, position), count)

    def _add_statistics(self, key: str, name: str, channels: int) -> RunningStatistics:
        made = RunningStatistics(name, channels, self.name, self.epsilon, self.momentum)
        setattr(self.statistics, key, made)
        return made

    def statistics_at(self, position: Optional[int]) -> Optional[RunningStatistics]:
        """Those of the width at `position` of the list."""
        if not self.channels.slim:
            return self.statistics.every_width
        return None if position is None else getattr(self.statistics, '%d' % position)

    def cast(self, dtype):
        # Statistics in half precision lose digits; Gluon keeps float32 as well.
        super().cast('float32' if str(dtype) == 'float16' else dtype)

    def hybrid_forward(self, F, x, gamma, beta):
        count = self.widths.count(self.channels)
        gamma = first_channels(F, gamma, 0, count, self.gamma.shape[0])
        beta = first_channels(F, beta, 0, count, self.beta.shape[0])
        if self.widths.training_pass is not None:
            return self._normalise_by_batch(F, x, gamma, beta, count)
        running = self.statistics_at(self.widths.position())
        if running is not None:
            return running(x, gamma, beta)
        if not isinstance(x, Symbol):
            self.widths.require_statistics()
        # A graph to count or to look at: its statistics are variables without values.
        with self.exact_name():
            return F.BatchNorm(x, gamma, beta, eps=self.epsilon, momentum=self.momentum,
                               fix_gamma=False)

    def _normalise_by_batch(self, F, x, gamma, beta, count):
        # The operator insists on running statistics of its own. It would update them in the
        # backward pass and with the biased variance, so it gets idle ones that stay as they are.
        dtype = np.dtype(self.gamma.dtype).name
        scratch = self.widths.training_pass.scratch(count, dtype)
        with self.exact_name():
            y, mean, inverse_deviation = F.BatchNorm(
                x, gamma, beta, *scratch, eps=self.epsilon, momentum=1.0, fix_gamma=False,
                output_mean_var=True)
        values = F.prod(F.cast(F.shape_array(x), dtype)) / count  # per channel
        biased = F.relu(1 / F.square(inverse_deviation) - self.epsilon)
        unbiased = F.broadcast_mul(biased, values / F.maximum(values - 1, 1))
        self.widths.training_pass.statistics.append((self, mean, unbiased))
        return y

    def __repr__(self):
        return 'SlimmableBatchNorm(%s, widths %s)' % (
            self.channels, ', '.join('%g' % width for width in self.widths.listed))


class SlimmableLayers:
    """Makes the layers of a slimmable network.

    Attributes
    ----------
    norms : list of SlimmableBatchNorm
        Those made so far.
    """

    def __init__(self, widths: Widths):
        self.widths = widths
        self.norms: List[SlimmableBatchNorm] = []

    def count(self, channels: Channels) -> int:
        """Channels at the present width."""
        return self.widths.count(channels)

    def conv(self, name: str, inputs: Channels, outputs: Channels, kernel_size: int,
             strides: int = 1) -> HybridBlock:
        """Convolution whose padding keeps the size of the map at stride 1."""
        return SlimmableConv2D(name, self.widths, inputs, outputs, kernel_size, strides,
                               (kernel_size - 1) // 2)

    def depthwise(self, name: str, channels: Channels, strides: int = 1) -> HybridBlock:
        """3x3 depthwise convolution."""
        return SlimmableDepthwiseConv2D(name, self.widths, channels, strides)

    def batch_norm(self, name: str, channels: Channels) -> HybridBlock:
        """Batch normalisation."""
        self.norms.append(SlimmableBatchNorm(name, self.widths, channels))
        return self.norms[-1]

    def dense(self, name: str, inputs: Channels, units: int) -> HybridBlock:
        """Fully connected layer with bias."""
        if not inputs.slim:
            return Dense(name, inputs.base, units)
        return SlimmableDense(name, self.widths, inputs, units)


class PlainLayers:
    """Makes the ordinary layers of one width, under the same names."""

    def __init__(self, width: float, divisor: int):
        self.width, self.divisor = width, divisor

    def count(self, channels: Channels) -> int:
        """Channels at the width."""
        return channels.at(self.width, self.divisor)

    def conv(self, name: str, inputs: Channels, outputs: Channels, kernel_size: int,
             strides: int = 1) -> HybridBlock:
        """Convolution whose padding keeps the size of the map at stride 1."""
        return Conv2D(name, self.count(inputs), self.count(outputs), kernel_size, strides,
                      (kernel_size - 1) // 2)

    def depthwise(self, name: str, channels: Channels, strides: int = 1) -> HybridBlock:
        """3x3 depthwise convolution."""
        count = self.count(channels)
        return Conv2D(name, count, count, 3, strides, 1, groups=count)

    def batch_norm(self, name: str, channels: Channels) -> HybridBlock:
        """Batch normalisation."""
        return BatchNorm(name, self.count(channels))

    def dense(self, name: str, inputs: Channels, units: int) -> HybridBlock:
        """Fully connected layer with bias."""
        return Dense(name, self.count(inputs), units)
