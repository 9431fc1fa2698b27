"""Dynamic group convolution: each head of the layer picks the input channels of each sample.

Source: Su et al.: Dynamic Group Convolution for Accelerating Convolutional Neural Networks
(ECCV 2020, arXiv 2007.04242); zhuogege1943/dgc (now hellozhuo/dgc).
"""

from __future__ import annotations

from typing import List, Optional

from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError
from igcnet.layers import head_products, norm_relu_pool
from igcnet.layers.basic import Activation, BatchNorm, Conv2D, Dense, Flatten, Pool2D
from igcnet.layers.lowering import Lowered, in_plain_layout, value_of
from igcnet.layers.naming import ExactName

# Between these shares of the training the number of inactive channels grows linearly.
RAMP_START, RAMP_END = 1.0 / 12, 3.0 / 4


def inactive_count(progress: float, channels: int, gate_factor: float) -> Optional[int]:
    """Inactive channels per head at a point of the training; None: leave the number as it is.

    Parameters
    ----------
    progress : float
        Finished share of the training, 0 to 1.
    channels : int
        Input channels of the layer.
    gate_factor : float
        Share of them that a head keeps in the end, above 0 and at most 1.

    Notes
    -----
    Up to and including 1/12 the original leaves the number as it is, which is 0 in a new
    network. From 3/4 on it is ``round(channels * (1 - gate_factor))``. Halves are rounded to
    the even number.

    Raises
    ------
    UsageError
        `progress` is out of its range.
    """
    if not 0 <= progress <= 1:
        raise UsageError('progress=%r: must be from 0 to 1' % (progress,))
    if progress <= RAMP_START:
        return None
    if progress < RAMP_END:
        # Another order of the operations would round some halves to the other side.
        return round(channels * (1 - gate_factor) * 3.0 / 2 * (progress - RAMP_START))
    return round(channels * (1 - gate_factor))


def hidden_units(name: str, channels: int, squeeze_rate: int) -> int:
    """Width of a selector: the rate counts half below 80 channels; all divisions round down.

    Refuses a rate with which nothing would be left.
    """
    halved = channels < 80
    smallest, largest = (2, 2 * channels + 1) if halved else (1, channels)
    if not smallest <= squeeze_rate <= largest:
        raise UsageError('%s: squeeze_rate=%d must be from %d to %d for %d input channels'
                         % (name, squeeze_rate, smallest, largest, channels))
    return channels // (squeeze_rate // 2 if halved else squeeze_rate)


class Head(HybridBlock):
    """One head: the selector that rates the input channels, and filters that see all of them.

    Inputs: `pooled` (N, in_channels). Outputs: saliencies (N, in_channels), not negative.
    The filters, `conv`, are applied by the layer to the map that it has scaled; `strides`,
    `padding` and `dilation` are theirs. `hidden` is the width of the selector.
    """

    def __init__(self, name: str, in_channels: int, channels: int, hidden: int,
                 kernel_size: int, strides: int, padding: int, dilation: int):
        super().__init__(prefix=name + '_')
        self.conv = Conv2D(name + '_conv', in_channels, channels, kernel_size, strides, padding,
                           dilation=dilation)
        self.fc1 = Dense(name + '_fc1', in_channels, hidden, use_bias=False)
        self.relu_fc1 = Activation(name + '_relu_fc1')
        self.fc2 = Dense(name + '_fc2', hidden, in_channels, bias_initializer='ones')
        self.relu_fc2 = Activation(name + '_relu_fc2')

    def hybrid_forward(self, F, pooled):
        return self.relu_fc2(self.fc2(self.relu_fc1(self.fc1(pooled))))


class DynamicGroupConv(Lowered, HybridBlock):
    """BN, ReLU, and a convolution whose heads each drop the least salient input channels.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), see `Conv2D`.

    In each head and for each sample the `inactive_channels` smallest saliencies, and all that
    are equal to the largest of them, become 0; the other channels are multiplied by their
    saliency. So at least that many channels are off. Selection has no gradient; kept saliencies
    have the ordinary one. Output channel ``j*heads + h`` is filter j of head h.

    Nodes: ``<name>_saliency``, ``<name>_mask``, ``<name>_gated`` (N, heads, in_channels) and
    ``<name>``, the output. The layer's lasso term is the mean of ``<name>_saliency`` over
    samples and channels, summed over the heads.

    Parameters
    ----------
    in_channels, channels : int
        Input and output channels; both must divide by `heads`.
    kernel_size, strides, padding, dilation : int
        Of the convolution. The selectors see the whole map whatever the stride.
    heads : int
        Number of heads; each makes ``channels / heads`` of the output channels.
    squeeze_rate : int
        Input channels per hidden unit of a selector; see `hidden_units`.
    gate_factor : float
        Share of the input channels that a head keeps at the end of the training. It matters to
        `set_progress` alone: the number of inactive channels is data.

    Attributes
    ----------
    inactive_channels : Parameter
        The number of inactive channels per head, (1,) float32, without a gradient, 0 at first;
        saved with the weights. `set_inactive` and `set_progress` change it in place, also in a
        hybridised network.
    lowering : str
        'stock', or any other of `igcnet.layers.lowering`: the heads are then matrix products of
        one image after the other on the CPU, see `igcnet.layers.head_products`. There are no
        nodes for the mask and the gated saliencies.

    Raises
    ------
    UsageError
        A value that cannot work; the message names the layer.
    """

    def __init__(self, name: str, in_channels: int, channels: int, kernel_size: int,
                 strides: int = 1, padding: int = 0, dilation: int = 1, heads: int = 4,
                 squeeze_rate: int = 16, gate_factor: float = 0.25):
        super().__init__(prefix=name + '_')
        if heads < 1 or in_channels % heads or channels % heads:
            raise UsageError('%s: %d input and %d output channels do not divide by %d heads'
                             % (name, in_channels, channels, heads))
        if not 0 < gate_factor <= 1:
            raise UsageError('%s: gate_factor=%r must be above 0 and at most 1'
                             % (name, gate_factor))
        hidden = hidden_units(name, in_channels, squeeze_rate)
        self.in_channels, self.gate_factor = in_channels, gate_factor
        self._window = dict(kernel=kernel_size, stride=strides, padding=padding,
                            dilation=dilation)
        self.inactive_channels = self.params.get('inactive_channels', shape=(1,), init='zeros',
                                                 grad_req='null', differentiable=False)
        self.norm = BatchNorm(name + '_norm', in_channels)
        self.relu = Activation(name + '_relu')
        self.avg_pool = Pool2D(name + '_avg_pool', 'avg', 1, global_pool=True)
        self.flatten = Flatten(name + '_flatten')
        self._heads = ['headconv_%d' % number for number in range(heads)]
        for head in self._heads:
            setattr(self, head, Head('%s_%s' % (name, head), in_channels, channels // heads,
                                     hidden, kernel_size, strides, padding, dilation))

    @property
    def heads(self) -> List[Head]:
        """The heads in the order of their output channels."""
        return [getattr(self, head) for head in self._heads]

    @property
    def inactive(self) -> int:
        """The number of inactive channels per head."""
        return int(self.inactive_channels.list_data()[0].asscalar())

    def fastest(self, native_operators):
        # A larger kernel is about as fast either way; the stock graph takes more memory.
        return 'blocked' if self._window['kernel'] == 1 else 'stock'

    def set_inactive(self, count: int) -> None:
        """Let each head drop `count` channels from now on, on all devices; UsageError if it has
        not so many."""
        if not 0 <= count <= self.in_channels:
            raise UsageError('%s: %d inactive channels; must be from 0 to %d'
                             % (self.name, count, self.in_channels))
        # Parameter.set_data would make a trainer that updates on its store start it anew.
        for array in self.inactive_channels.list_data():
            array[:] = count

    def set_progress(self, progress: float) -> None:
        """Follow the original's schedule, see `inactive_count`. To be called before each step.

        Parameters
        ----------
        progress : float
            Finished steps divided by the steps of the whole training.
        """
        count = inactive_count(progress, self.in_channels, self.gate_factor)
        if count is not None:
            self.set_inactive(count)

    def hybrid_forward(self, F, x, inactive_channels):
        if self.lowering != 'stock':
            return self._image_by_image(F, x, inactive_channels)
        x = self.relu(self.norm(x))
        saliency = self._saliency(F, self.flatten(self.avg_pool(x)))
        mask = self._mask(F, F.BlockGrad(saliency), inactive_channels)
        gated = F.elemwise_mul(saliency, mask, name='gated')
        one_map = F.slice_axis(F.slice_axis(x, axis=0, begin=0, end=1), axis=1, begin=0, end=1)
        ones = F.ones_like(F.reshape(one_map, shape=(1, -1)))
        outputs = []
        for number, head in enumerate(self.heads):
            scale = F.slice_axis(gated, axis=1, begin=number, end=number + 1)
            # As broadcast_mul(x, scale), whose backward pass takes ten times as long on CPU.
            scale = F.reshape_like(F.dot(F.reshape(scale, shape=(-1, 1)), ones), x)
            outputs.append(head.conv(F.elemwise_mul(x, scale)))
        interleaved = F.stack(*outputs, axis=2, name='interleaved')
        with ExactName(self.name):
            return F.reshape(interleaved, shape=(0, -3, 0, 0))

    def _image_by_image(self, F, x, inactive_channels):
        norm = self.norm
        x, pooled, *_ = F.Custom(
            self._for_python(F, x), *[value_of(F, parameter, x) for parameter in (
                norm.gamma, norm.beta, norm.running_mean, norm.running_var)],
            op_type=norm_relu_pool.OPERATOR, epsilon=norm.epsilon, momentum=norm.momentum,
            fixed=norm.use_running_statistics)
        weight = F.concat(*[value_of(F, head.conv.weight, x) for head in self.heads], dim=0)
        saliency = self._saliency(F, pooled)
        with ExactName(self.name):
            output = F.Custom(x, saliency, self._for_python(F, weight), inactive_channels,
                              op_type=head_products.OPERATOR, **self._window)
        return self._for_python(F, output)  # for the sake of its gradient

    def _for_python(self, F, array):
        """An array, or what makes its gradient, as an operator in Python can take it.

        MXNet 1.9.1 gives such operators copies of arrays that are in oneDNN's layouts. Where
        the memory of a graph is not static the copies are freed before the operator has run.
        """
        static = {'static_alloc', 'static_shape'} <= {flag for flag, on in self._flags if on}
        return array if self._active and static else in_plain_layout(F, array)

    def _saliency(self, F, pooled):
        return F.stack(*[head(pooled) for head in self.heads], axis=1, name='saliency')

    @staticmethod
    def _mask(F, saliency, inactive_channels):
        """1 where a channel stays, 0 where it is dropped."""
        # A threshold and not topk, whose number is fixed in the graph and which breaks ties.
        # With -1 in front, element k is the k-th smallest, and element 0 lets everything pass.
        ascending = F.sort(saliency, axis=-1)
        below = F.zeros_like(F.slice_axis(ascending, axis=-1, begin=0, end=1)) - 1
        threshold = F.take(F.concat(below, ascending, dim=-1), inactive_channels, axis=-1,
                           mode='clip')
        return F.broadcast_greater(saliency, threshold, name='mask')

    def __repr__(self):
        return 'DynamicGroupConv(%d, heads=%d, gate_factor=%g)' % (
            self.in_channels, len(self._heads), self.gate_factor)
