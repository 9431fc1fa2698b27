"""The static form of a dynamic group convolution: each head keeps the same channels always."""

from __future__ import annotations

from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError
from igcnet.layers.basic import Activation, BatchNorm, Conv2D
from igcnet.layers.naming import ExactName
from igcnet.layers.shuffle import ChannelShuffle


class StaticGroupConv(HybridBlock):
    """BN, ReLU, a fixed choice of channels for each group, grouped convolution, channel shuffle.

    What `DynamicGroupConv` becomes when its selection is frozen: no selectors, and as many
    channels in a group as a head keeps at the end of the training. Output channel ``j*heads + h``
    is filter j of group h.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), see `Conv2D`.

    Parameters
    ----------
    in_channels, channels, kernel_size, strides, padding, dilation, heads, gate_factor
        See `DynamicGroupConv`.

    Attributes
    ----------
    chosen : Parameter
        Numbers of the input channels of each group, (heads * kept,) float32, without a gradient.
        `igcnet.deploy.freeze` sets them; a new layer has channel 0 everywhere.

    Raises
    ------
    UsageError
        A value that cannot work, or no channel would be kept.
    """

    def __init__(self, name: str, in_channels: int, channels: int, kernel_size: int,
                 strides: int = 1, padding: int = 0, dilation: int = 1, heads: int = 4,
                 gate_factor: float = 0.25):
        super().__init__(prefix=name + '_')
        if heads < 1 or channels % heads:
            raise UsageError('%s: %d output channels do not divide by %d heads'
                             % (name, channels, heads))
        if not 0 < gate_factor <= 1:
            raise UsageError('%s: gate_factor=%r must be above 0 and at most 1'
                             % (name, gate_factor))
        self.kept = in_channels - round(in_channels * (1 - gate_factor))
        if not self.kept:
            raise UsageError('%s: gate_factor=%g keeps none of %d channels'
                             % (name, gate_factor, in_channels))
        self.heads = heads
        self.norm = BatchNorm(name + '_norm', in_channels)
        self.relu = Activation(name + '_relu')
        self.chosen = self.params.get('chosen', shape=(heads * self.kept,), init='zeros',
                                      grad_req='null', differentiable=False)
        self.conv = Conv2D(name + '_conv', heads * self.kept, channels, kernel_size, strides,
                           padding, groups=heads, dilation=dilation)
        self.shuffle = ChannelShuffle(name, channels, heads)

    def hybrid_forward(self, F, x, chosen):
        x = self.relu(self.norm(x))
        with ExactName(self.name + '_take'):
            x = F.take(x, chosen, axis=1, mode='clip')
        return self.shuffle(self.conv(x))

    def __repr__(self):
        return 'StaticGroupConv(%d channels in each of %d groups)' % (self.kept, self.heads)
