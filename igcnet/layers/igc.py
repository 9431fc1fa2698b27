"""Convolution units and the residual block of Interleaved Group Convolutions.

Source: Zhang, Qi, Xiao, Wang: Interleaved Group Convolutions for Deep Neural Networks
(arXiv 1707.02725), and the repository hellozting/InterleavedGroupConvolutions.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from mxnet.gluon import HybridBlock, nn

from igcnet.layers import lanes
from igcnet.layers.basic import Activation, Add, BatchNorm, Conv2D
from igcnet.layers.lowering import VECTOR, Lowered, fold_shuffles, value_of
from igcnet.layers.shuffle import ChannelShuffle


class NormSettings(NamedTuple):
    """Constants of the batch normalisations of one network."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    running_variance_initializer: str = 'ones'


class ConvUnit(Lowered, nn.HybridSequential):
    """Convolution in `groups`, BN, and ReLU if `act`.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H/strides, W/strides);
    the padding keeps the size of the map at stride 1.

    Nodes: ``<name><conv_suffix>``, ``<name>_bn``, ``<name>_relu``.
    """

    def __init__(self, name: str, in_channels: int, channels: int, kernel_size: int,
                 norm: NormSettings, strides: int = 1, groups: int = 1, act: bool = True,
                 conv_suffix: str = '_conv'):
        super().__init__(prefix=name + '_')
        self.conv = Conv2D(name + conv_suffix, in_channels, channels, kernel_size, strides,
                           padding=(kernel_size - 1) // 2, groups=groups)
        self.bn = BatchNorm(name + '_bn', channels, **norm._asdict())
        if act:
            self.relu = Activation(name + '_relu')

    def fastest(self, native_operators):
        return lanes.fastest_of_unit(self.conv, native_operators)

    def hybrid_forward(self, F, x):
        if self.lowering != 'native' or not lanes.possible(self.conv):
            return super().hybrid_forward(F, x)
        return lanes.leave(F, lanes.convolve(F, lanes.enter(F, x), self.conv, self.bn,
                                             'relu' if hasattr(self, 'relu') else 'none'))


class IGCUnit(Lowered, nn.HybridSequential):
    """The interleaved group convolution: 3x3 in `primary_groups`, shuffle, 1x1 in
    `secondary_groups`, shuffle, BN, and ReLU if `act`.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H/strides, W/strides).

    Nothing stands between the two convolutions. When ``secondary_groups`` is
    ``channels / primary_groups`` (the paper's case) the second shuffle undoes the first; the
    original's `resnet_igc` has units where it is not (see `igcnet.models.igc`), and the second
    shuffle then uses `secondary_groups` all the same.

    Nodes: ``<name>_conv1``, ``_reorder1``, ``_conv2``, ``_reorder2``, ``_bn``, ``_relu``.
    """

    def __init__(self, name: str, in_channels: int, channels: int, primary_groups: int,
                 secondary_groups: int, norm: NormSettings, strides: int = 1, act: bool = True):
        super().__init__(prefix=name + '_')
        self.conv1 = Conv2D(name + '_conv1', in_channels, channels, 3, strides, padding=1,
                            groups=primary_groups)
        self.reorder1 = ChannelShuffle(name + '_reorder1', channels, primary_groups)
        self.conv2 = Conv2D(name + '_conv2', channels, channels, 1, groups=secondary_groups)
        self.reorder2 = ChannelShuffle(name + '_reorder2', channels, secondary_groups)
        self.bn = BatchNorm(name + '_bn', channels, **norm._asdict())
        if act:
            self.relu = Activation(name + '_relu')

    def fastest(self, native_operators):
        if native_operators:
            return 'native'
        # Folding pays for the shuffles that it saves unless nearly all of the weight is zeros.
        narrow = self.conv1.group_channels <= VECTOR
        return 'blocked' if narrow and self.reorder2.groups <= 8 else 'stock'

    def hybrid_forward(self, F, x):
        if self.lowering == 'stock':
            return super().hybrid_forward(F, x)
        if self.lowering == 'native' and lanes.possible(self.conv1, self.conv2):
            between = lanes.convolve(F, lanes.enter(F, x), self.conv1)
            return lanes.leave(F, lanes.convolve(
                F, between, self.conv2, self.bn, 'relu' if hasattr(self, 'relu') else 'none',
                self.reorder1.groups, self.reorder2.groups))
        x = self.conv1(x)
        channels = self.reorder1.channels
        weight = fold_shuffles(F, value_of(F, self.conv2.weight, x), channels,
                               self.reorder1.groups, self.reorder2.groups)
        x = F.Convolution(x, weight, kernel=(1, 1), num_filter=channels, no_bias=True)
        x = self.bn(x)
        return self.relu(x) if hasattr(self, 'relu') else x


class ResidualBlock(Lowered, HybridBlock):
    """Two units beside a shortcut, added, then ReLU.

    Inputs: `data` (N, C, H, W). Outputs: (N, C', H', W') as `unit1` makes it.

    Parameters
    ----------
    unit1, unit2 : HybridBlock
        The branch; `unit2` ends without a non-linearity.
    shortcut : HybridBlock, optional
        The projection; None for the identity.
    add_name : str
        Node name of the sum, of which the shortcut is the left operand.
    """

    def __init__(self, name: str, unit1: HybridBlock, unit2: HybridBlock,
                 shortcut: Optional[HybridBlock], add_name: str):
        super().__init__(prefix=name + '_')
        self.unit1 = unit1
        self.unit2 = unit2
        self.shortcut = shortcut
        self.add = Add(add_name)
        self.relu = Activation(name + '_relu')

    def fastest(self, native_operators):
        return self.unit2.fastest(native_operators)

    def hybrid_forward(self, F, x):
        left = x if self.shortcut is None else self.shortcut(x)
        right = self.unit2(self.unit1(x))
        if self.lowering == 'native':
            branch = lanes.enter(F, right)
            if branch.norm is not None:
                return lanes.leave(F, lanes.add(F, branch, lanes.enter(F, left), 'relu'))
        return self.relu(self.add(left, right))
