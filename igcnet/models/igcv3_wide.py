"""IGCV3 as the backbone of the authors' detector: wider, with projected shortcuts.

Source: ``detection/`` of homles11/IGCV3, whose released graph is ``igcv3_wide-symbol.json``.
Node names of layers with parameters are that graph's, the counted ones (``batchnorm7``)
included.

Where it differs from `igcnet.models.igcv3`:

- Stages are up to twice as wide, with the depth of MobileNetV2; the groups of the first 1x1
  convolution vary (`EXPAND_GROUPS`), those of the last are 4.
- The shuffle stands after the 3x3 convolution, with 4 groups, and both ReLU6 are there.
- A stride of 2 is that of the last 1x1 convolution, so the 3x3 works on the large map.
- Every block of stride 1 has a shortcut. Where the channels change it is a pair of grouped 1x1
  convolutions; such a pair also stands before the global pool.
- BN has an epsilon of 1e-3, the operator's default, which the graph leaves out.
"""

from __future__ import annotations

from typing import Optional

from mxnet.gluon import HybridBlock, nn

from igcnet.errors import UsageError
from igcnet.layers import (
    Add,
    ChannelShuffle,
    Dense,
    Flatten,
    Network,
    Pool2D,
    Stage,
    named_sequential,
)
from igcnet.layers.inverted_residual import ReLU6Unit, UnitNames
from igcnet.models.igcv3 import WIDER_STAGES
from igcnet.models.mobilenetv2 import (
    IMAGENET,
    LAST_CHANNELS,
    STEM_CHANNELS,
    STRIDES,
    fan_in_initializer,
)
from igcnet.registry import ModelSpec

EPSILON = 1e-3
GROUPS = 4
# Of the first 1x1 convolution of each block.
EXPAND_GROUPS = (4, 2, 2, 2) + 13 * (4,)


def _unit(conv: str, bn: int, in_channels: int, channels: int, *args, act: bool = True,
          **kwargs) -> ReLU6Unit:
    """A unit whose BN is the original's number `bn`."""
    names = UnitNames(conv, 'batchnorm%d' % bn, conv + '_relu6' if act else None)
    return ReLU6Unit(names, in_channels, channels, *args, epsilon=EPSILON, **kwargs)


class GroupedPair(nn.HybridSequential):
    """1x1 in 4 groups, BN, shuffle, 1x1 in 4 groups, BN, ReLU6, shuffle back.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H, W).
    """

    def __init__(self, name: str, bn: int, in_channels: int, channels: int):
        super().__init__(prefix='')
        self.linear = _unit(name + '_ln_1', bn, in_channels, in_channels, groups=GROUPS,
                            act=False)
        self.shuffle = ChannelShuffle(name + '_shuffle', in_channels, GROUPS)
        self.nonlinear = _unit(name + '_nl_1', bn + 1, in_channels, channels, groups=GROUPS)
        self.output_shuffle = ChannelShuffle(name + '_output_shuffle', channels,
                                             channels // GROUPS)


class WideBlock(HybridBlock):
    """1x1, BN, ReLU6, 3x3 depthwise, BN, ReLU6, shuffle, 1x1, BN, shuffle; plus the shortcut.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), H' = H divided by
    `strides`, rounded up.

    Parameters
    ----------
    expansion : int
        Channels of the depthwise convolution, in multiples of `in_channels`.
    expand_groups : int
        Groups of the first 1x1 convolution.
    bn : int
        Number of the first BN; the block has 3, or 5 with a projection.
    add_name : str
        Node name of the sum; not used at stride 2, where there is none.
    """

    def __init__(self, name: str, bn: int, in_channels: int, channels: int, expansion: int,
                 strides: int, expand_groups: int, add_name: str):
        super().__init__(prefix='')
        expanded = expansion * in_channels
        self.exp = _unit(name + 'nl_1', bn, in_channels, expanded, groups=expand_groups)
        self.depthwise = _unit(name + '_dw', bn + 1, expanded, expanded, 3, groups=expanded)
        self.shuffle = ChannelShuffle(name + '_shuffle', expanded, GROUPS)
        self.linear = _unit(name + '_ln_1', bn + 2, expanded, channels, 1, strides,
                            groups=GROUPS, act=False)
        self.output_shuffle = ChannelShuffle(name + '_output_shuffle', channels,
                                             channels // GROUPS)
        projected = strides == 1 and in_channels != channels
        self.projection: Optional[GroupedPair] = GroupedPair(
            name + '_igc', bn + 3, in_channels, channels) if projected else None
        self.add = Add(add_name) if strides == 1 else None

    def hybrid_forward(self, F, x):
        y = self.shuffle(self.depthwise(self.exp(x)))
        y = self.output_shuffle(self.linear(y))
        if self.add is None:
            return y
        return self.add(x if self.projection is None else self.projection(x), y)


def igcv3_wide(classes: int = 1000) -> Network:
    """The graph ``igcv3_wide`` of homles11/IGCV3.

    Inputs: (N, 3, H, W), H = W = 224 in classification. Outputs: (N, classes). UsageError if
    `classes` is no positive whole number.
    """
    if classes < 1:
        raise UsageError('classes=%d: a classifier needs at least one class' % classes)
    total, *strides = STRIDES[32]
    features = named_sequential(stem=ReLU6Unit(
        UnitNames('conv0', 'bn0', 'conv0_relu6'), 3, STEM_CHANNELS, 3, total, epsilon=EPSILON))
    in_channels, listing, block_number, bn, sums = STEM_CHANNELS, [], 0, 0, 0
    for s, (size, stage_stride) in enumerate(zip(WIDER_STAGES, strides)):
        stage = named_sequential()
        for b in range(size.blocks):
            stride = stage_stride if b == 0 else 1
            block = WideBlock('blk%d' % block_number, bn, in_channels, size.channels,
                              size.expansion, stride, EXPAND_GROUPS[block_number],
                              '_plus%d' % sums)
            setattr(stage, 'block%d' % b, block)
            bn += 3 if block.projection is None else 5
            sums += block.add is not None
            block_number, in_channels = block_number + 1, size.channels
        setattr(features, 'seq%d' % s, stage)
        total *= stage_stride
        listing.append(Stage('seq%d' % s, size.channels, total))
    features.last = GroupedPair('final_conv', bn, in_channels, LAST_CHANNELS)
    features.pool = Pool2D('pooling0', 'avg', 7, global_pool=True)
    features.flatten = Flatten('flatten0')
    return Network(features, Dense('fullyconnected0', LAST_CHANNELS, classes), listing,
                   fan_in_initializer(), 224)


SPECS = [
    ModelSpec('igcv3_wide', 'igcv3', igcv3_wide, IMAGENET,
              summary='backbone of the detector of homles11/IGCV3'),
]
