"""The inverted residual block of MobileNetV2 and its grouped, shuffled form of IGCV3.

Sources: Sandler et al.: MobileNetV2 (arXiv 1801.04381); Sun, Li, Liu, Wang: IGCV3 (arXiv
1806.00178); node names of homles11/IGCV3.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from mxnet.gluon import HybridBlock, nn

from igcnet.layers import lanes
from igcnet.layers.basic import Add, BatchNorm, Conv2D, ReLU6
from igcnet.layers.lowering import Lowered
from igcnet.layers.shuffle import ChannelShuffle


class UnitNames(NamedTuple):
    """Node names of a `ReLU6Unit`; without `act` it has no non-linearity."""

    conv: str
    bn: str
    act: Optional[str]

    @classmethod
    def of(cls, prefix: str, act: bool = True) -> UnitNames:
        """The names that homles11/IGCV3 gives: ``<prefix>-conv2d``, ``-batchnorm``, ``-relu6``."""
        return cls(prefix + '-conv2d', prefix + '-batchnorm', prefix + '-relu6' if act else None)


class ReLU6Unit(Lowered, nn.HybridSequential):
    """Convolution in `groups`, BN with `epsilon`, and ReLU6 if it has a name.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), H' = H divided by
    `strides`, rounded up.
    """

    def __init__(self, names: UnitNames, in_channels: int, channels: int, kernel_size: int = 1,
                 strides: int = 1, groups: int = 1, epsilon: float = 1e-5):
        super().__init__(prefix='')
        self.conv = Conv2D(names.conv, in_channels, channels, kernel_size, strides,
                           padding=(kernel_size - 1) // 2, groups=groups)
        self.bn = BatchNorm(names.bn, channels, epsilon=epsilon)
        if names.act is not None:
            self.relu6 = ReLU6(names.act)

    def fastest(self, native_operators):
        return lanes.fastest_of_unit(self.conv, native_operators)

    def in_lanes(self, F: Any, x: lanes.Lanes, shuffle_before: int = 1) -> lanes.Lanes:
        """The unit, behind a channel shuffle, by the operators of `igcnet.native`."""
        return lanes.convolve(F, x, self.conv, self.bn,
                              'relu6' if hasattr(self, 'relu6') else 'none', shuffle_before)

    def hybrid_forward(self, F, x):
        if self.lowering != 'native' or not lanes.possible(self.conv):
            return super().hybrid_forward(F, x)
        return lanes.leave(F, self.in_lanes(F, lanes.enter(F, x)))


class BlockForm(NamedTuple):
    """What one network's inverted residual blocks do beyond their channel counts.

    Parameters
    ----------
    expand_groups, project_groups : int
        Groups of the first and of the last 1x1 convolution.
    expand_act : bool
        ReLU6 after the first 1x1 convolution.
    shuffle : bool
        Channel shuffle with `expand_groups` groups before the 3x3 convolution.
    output_shuffle : bool
        Channel shuffle with channels/`project_groups` groups at the end of the branch.
    """

    expand_groups: int = 1
    project_groups: int = 1
    expand_act: bool = True
    shuffle: bool = False
    output_shuffle: bool = False


class BlockPlan(NamedTuple):
    """Channel counts and stride of one block, and whether its input is added to its output."""

    in_channels: int
    expanded: int
    channels: int
    strides: int
    shortcut: bool


class InvertedResidual(Lowered, HybridBlock):
    """1x1, BN, ReLU6, shuffle, 3x3 depthwise, BN, ReLU6, 1x1, BN, shuffle; plus the input.

    `form` says which of the first ReLU6 and the two shuffles are there. The input is added to
    the shuffled result as it is, and nothing follows the sum.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), H' = H divided by
    the stride, rounded up.

    Nodes: ``<name>-exp-...``, ``-shuffle``, ``-depthwise-...``, ``-linear-...``,
    ``-output-shuffle``, ``-shortcut``.

    Parameters
    ----------
    expand : bool
        Whether the first 1x1 convolution is there at all. Without it `plan.expanded` must be
        `plan.in_channels`.
    """

    def __init__(self, name: str, plan: BlockPlan, form: BlockForm, expand: bool = True):
        super().__init__(prefix='')
        self.form = form
        self.exp = ReLU6Unit(
            UnitNames.of(name + '-exp', form.expand_act), plan.in_channels, plan.expanded,
            groups=form.expand_groups) if expand else None
        self.shuffle = ChannelShuffle(
            name + '-shuffle', plan.expanded, form.expand_groups) if form.shuffle else None
        self.depthwise = ReLU6Unit(UnitNames.of(name + '-depthwise'), plan.expanded,
                                   plan.expanded, 3, plan.strides, groups=plan.expanded)
        self.linear = ReLU6Unit(UnitNames.of(name + '-linear', act=False), plan.expanded,
                                plan.channels, groups=form.project_groups)
        self.output_shuffle = ChannelShuffle(
            name + '-output-shuffle', plan.channels,
            plan.channels // form.project_groups) if form.output_shuffle else None
        self.add = Add(name + '-shortcut') if plan.shortcut else None

    def hybrid_forward(self, F, x):
        if self.lowering == 'native' and lanes.possible(self.depthwise.conv):
            return lanes.leave(F, self._in_lanes(F, lanes.enter(F, x)))
        y = x
        for layer in (self.exp, self.shuffle, self.depthwise, self.linear, self.output_shuffle):
            if layer is not None:
                y = layer(y)
        return y if self.add is None else self.add(x, y)

    def _in_lanes(self, F, x):
        y = x if self.exp is None else self.exp.in_lanes(F, x)
        y = self.depthwise.in_lanes(F, y, 1 if self.shuffle is None else self.shuffle.groups)
        y = self.linear.in_lanes(F, y)
        shuffle = 1 if self.output_shuffle is None else self.output_shuffle.groups
        if self.add is None and shuffle == 1:
            return y  # the next convolution does the normalisation
        return lanes.add(F, y, None if self.add is None else x, shuffle=shuffle)
