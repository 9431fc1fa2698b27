"""The units of ShuffleNet v1 and of MENet.

Sources: Zhang, Zhou, Lin, Sun: ShuffleNet (arXiv 1707.01083); Qin, Zhang, Zhang, Yu, Peng: Merging
and Evolution (arXiv 1803.09127); and the repository clavichord93/MENet, whose layer names are
kept.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock

from igcnet.layers import lanes
from igcnet.layers.basic import Activation, Add, BatchNorm, Concat, Conv2D, Multiply, Pool2D
from igcnet.layers.lowering import Lowered
from igcnet.layers.shuffle import ChannelShuffle


class ShuffleUnit(Lowered, HybridBlock):
    """1x1 grouped, BN, ReLU, shuffle, 3x3 depthwise, BN, 1x1 grouped, BN; added to the input, or
    set before its average pool; ReLU.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H, W), or with `downsample`
    (N, channels, (H+1)//2, (W+1)//2).

    The layers between the two 1x1 convolutions have ``channels // 4`` channels, also when
    down-sampling, where the second convolution makes the ``channels - in_channels`` that the
    pooled input does not bring. The pool counts the padding: it always divides by 9.

    Nodes: ``<name>_compress``, ``_bn_compress``, ``_relu_compress``, ``_shuffle``,
    ``_depthwise``, ``_bn_depthwise``, ``_expand``, ``_bn_expand``, then ``_add``, or ``_pool``
    and ``_concat``, then ``_relu``.

    Parameters
    ----------
    groups : int
        Groups of both 1x1 convolutions and of the shuffle.
    downsample : bool
        Stride 2 and concatenation in place of stride 1 and addition.
    whole_compress : bool
        Leave the first 1x1 convolution ungrouped; the shuffle stays. The originals do it in the
        first unit of a network, whose input is narrow.
    """

    def __init__(self, name: str, in_channels: int, channels: int, groups: int,
                 downsample: bool = False, whole_compress: bool = False):
        super().__init__(prefix=name + '_')
        width = channels // 4
        expanded = channels - in_channels if downsample else channels
        strides = 2 if downsample else 1
        self.compress = Conv2D(name + '_compress', in_channels, width, 1,
                               groups=1 if whole_compress else groups)
        self.bn_compress = BatchNorm(name + '_bn_compress', width)
        self.relu_compress = Activation(name + '_relu_compress')
        self.shuffle = ChannelShuffle(name + '_shuffle', width, groups)
        self.depthwise = Conv2D(name + '_depthwise', width, width, 3, strides, padding=1,
                                groups=width)
        self.bn_depthwise = BatchNorm(name + '_bn_depthwise', width)
        self.expand = Conv2D(name + '_expand', width, expanded, 1, groups=groups)
        self.bn_expand = BatchNorm(name + '_bn_expand', expanded)
        self.pool = Pool2D(name + '_pool', 'avg', 3, 2, padding=1) if downsample else None
        self.join = Concat(name + '_concat') if downsample else Add(name + '_add')
        self.relu = Activation(name + '_relu')

    def spatial(self, x: Any) -> Any:
        """The layers between the shuffle and the second 1x1 convolution."""
        return self.bn_depthwise(self.depthwise(x))

    def spatial_in_lanes(self, F: Any, x: lanes.Lanes) -> lanes.Lanes:
        """The shuffle and `spatial`, by the operators of `igcnet.native`."""
        return lanes.convolve(F, x, self.depthwise, self.bn_depthwise,
                              shuffle_before=self.shuffle.groups)

    def hybrid_forward(self, F, x):
        if self.lowering == 'native' and lanes.possible(self.depthwise):
            return self._through_lanes(F, x)
        y = self.shuffle(self.relu_compress(self.bn_compress(self.compress(x))))
        y = self.bn_expand(self.expand(self.spatial(y)))
        return self.relu(self.join(y, x if self.pool is None else self.pool(x)))

    def _through_lanes(self, F, x):
        given = lanes.enter(F, x)
        y = lanes.convolve(F, given, self.compress, self.bn_compress, 'relu')
        y = lanes.convolve(F, self.spatial_in_lanes(F, y), self.expand, self.bn_expand)
        if self.pool is None:
            return lanes.leave(F, lanes.add(F, y, given, 'relu'))
        pooled = lanes.enter(F, self.relu(self.pool(x)))
        y = lanes.add(F, y, activation='relu')
        return lanes.leave(F, y._replace(data=F.concat(y.data, lanes.whole(F, pooled), dim=1)))


class MergeEvolveUnit(ShuffleUnit):
    """The ME module: a `ShuffleUnit` whose depthwise convolution is gated by a narrow branch.

    Parameters but for `side_channels` are those of `ShuffleUnit`.

    The branch reads the shuffled channels: merge (1x1 to `side_channels`, BN, ReLU), evolve
    (3x3, BN, ReLU; 1x1 back, BN, sigmoid). Its output, one value for each channel and pixel,
    multiplies the depthwise convolution's. Where the unit down-samples, merge works on the large
    map and the 3x3 convolution of the branch has stride 2.

    Nodes beside those of `ShuffleUnit`: ``<name>_s_merge``, ``_s_bn_merge``, ``_s_relu_merge``,
    ``_s_conv``, ``_s_bn_conv``, ``_s_relu_conv``, ``_s_evolve``, ``_s_bn_evolve``, ``_s_gate``,
    ``_product``.
    """

    def __init__(self, name: str, in_channels: int, channels: int, side_channels: int,
                 groups: int, downsample: bool = False, whole_compress: bool = False):
        super().__init__(name, in_channels, channels, groups, downsample, whole_compress)
        width = channels // 4
        self.s_merge = Conv2D(name + '_s_merge', width, side_channels, 1)
        self.s_bn_merge = BatchNorm(name + '_s_bn_merge', side_channels)
        self.s_relu_merge = Activation(name + '_s_relu_merge')
        self.s_conv = Conv2D(name + '_s_conv', side_channels, side_channels, 3,
                             2 if downsample else 1, padding=1)
        self.s_bn_conv = BatchNorm(name + '_s_bn_conv', side_channels)
        self.s_relu_conv = Activation(name + '_s_relu_conv')
        self.s_evolve = Conv2D(name + '_s_evolve', side_channels, width, 1)
        self.s_bn_evolve = BatchNorm(name + '_s_bn_evolve', width)
        self.s_gate = Activation(name + '_s_gate', 'sigmoid')
        self.product = Multiply(name + '_product')

    def fusion(self, x: Any) -> Any:
        """The gate: merge and evolve."""
        x = self.s_relu_merge(self.s_bn_merge(self.s_merge(x)))
        x = self.s_relu_conv(self.s_bn_conv(self.s_conv(x)))
        return self.s_gate(self.s_bn_evolve(self.s_evolve(x)))

    def spatial(self, x):
        return self.product(super().spatial(x), self.fusion(x))

    def spatial_in_lanes(self, F, x):
        gate = lanes.convolve(F, x, self.s_merge, self.s_bn_merge, 'relu',
                              shuffle_before=self.shuffle.groups)
        gate = lanes.convolve(F, gate, self.s_conv, self.s_bn_conv, 'relu')
        gate = lanes.convolve(F, gate, self.s_evolve, self.s_bn_evolve)
        depthwise = lanes.whole(F, super().spatial_in_lanes(F, x))
        return lanes.Lanes(F.igcnet_gate(depthwise, lanes.whole(F, gate)), x.images)
