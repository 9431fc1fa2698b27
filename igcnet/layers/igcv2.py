"""The block of IGCV2 and the two conditions on its branch sizes.

Source: Xie et al.: IGCV2: Interleaved Structured Sparse Convolutional Neural Networks (CVPR
2018, arXiv 1804.06202).

A kernel is the product of L sparse ones: W_1, a channel-wise 3x3 convolution, and W_2 to W_L,
1x1 convolutions in branches of K_2 to K_L channels, with permutations between them.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Optional, Sequence, Tuple

from mxnet.gluon import nn

from igcnet.errors import UsageError
from igcnet.layers import lanes
from igcnet.layers.basic import Activation, BatchNorm, Conv2D
from igcnet.layers.lowering import Lowered
from igcnet.layers.shuffle import ChannelShuffle


def balanced_branch_sizes(product: int, count: int) -> Optional[Tuple[int, ...]]:
    """The `count` whole numbers above 1 with this product whose sum is least, ascending.

    None when the product has no such factors, as a prime number for two of them.
    """
    def search(rest: int, left: int, smallest: int) -> Optional[Tuple[int, ...]]:
        if left == 1:
            return (rest,) if rest >= smallest else None
        found = None
        factor = smallest
        while factor ** left <= rest:
            others = search(rest // factor, left - 1, factor) if rest % factor == 0 else None
            if others and (found is None or factor + sum(others) < sum(found)):
                found = (factor, *others)
            factor += 1
        return found

    return search(product, count, 2)


def check_branch_sizes(where: str, channels: int, branch_sizes: Sequence[int],
                       complementary: str) -> None:
    """Check the complementary and the balance condition of the `branch_sizes` K_2, ..., K_L.

    Complementary, 'strict': K_2 * ... * K_L = C, so that exactly one path leads from each input
    channel to each output channel. 'loose' (IGCV2*): the product may be smaller, so that a block
    is not dense; no pair of channels has two paths either way.

    Balance: parameters are least when all K are equal. Where whole numbers do not allow that,
    the sum of the K is the least that their product allows.

    Raises
    ------
    UsageError
        A condition is violated; the message begins with `where` and names the numbers.
    """
    for size in branch_sizes:
        if not isinstance(size, Integral) or size < 2:
            raise UsageError('%s: branch size %r: must be a whole number of at least 2'
                             % (where, size))
        if channels % size:
            raise UsageError('%s: %d channels do not divide into branches of %d'
                             % (where, channels, size))
    product = math.prod(branch_sizes)
    written = '%s = %d' % (' x '.join(str(size) for size in branch_sizes), product)
    if product > channels or (complementary == 'strict' and product < channels):
        best = balanced_branch_sizes(channels, len(branch_sizes))
        raise UsageError(
            '%s: the complementary condition needs branch sizes whose product is %s%d channels, '
            'not %s%s' % (where, 'at most ' if complementary == 'loose' else '', channels, written,
                          '; %s would do' % ' x '.join(map(str, best)) if best else ''))
    best = balanced_branch_sizes(product, len(branch_sizes))
    if sum(branch_sizes) > sum(best):
        raise UsageError(
            '%s: branch sizes %s are not balanced: their sum is %d, that of %s is %d'
            % (where, written, sum(branch_sizes), ' x '.join(map(str, best)), sum(best)))


class IGCV2Unit(Lowered, nn.HybridSequential):
    """Channel-wise 3x3, then for each K a 1x1 in branches of K and a shuffle; BN, ReLU.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W'), H' = H divided by
    `strides`, rounded up; `channels` is a multiple of `in_channels`.

    Nothing stands between the convolutions. A shuffle with channels/K groups takes the digit
    that was just mixed, if channel numbers are written in the mixed radix of the K, to the slow
    end; the next convolution mixes the next digit. When the K multiply to `channels` the last
    shuffle restores the first order.

    Nodes: ``<name>_spatial``, ``_mix2``, ``_shuffle2``, ``_mix3``, ... , ``_bn``, ``_relu``.
    """

    def __init__(self, name: str, in_channels: int, channels: int, branch_sizes: Sequence[int],
                 strides: int = 1):
        super().__init__(prefix=name + '_')
        self.spatial = Conv2D(name + '_spatial', in_channels, channels, 3, strides, padding=1,
                              groups=in_channels)
        for layer, size in enumerate(branch_sizes, 2):
            groups = channels // size
            setattr(self, 'mix%d' % layer, Conv2D('%s_mix%d' % (name, layer), channels, channels,
                                                  1, groups=groups))
            setattr(self, 'shuffle%d' % layer, ChannelShuffle('%s_shuffle%d' % (name, layer),
                                                              channels, groups))
        self.bn = BatchNorm(name + '_bn', channels)
        self.relu = Activation(name + '_relu')
        self.layers = 1 + len(branch_sizes)

    def hybrid_forward(self, F, x):
        if self.lowering != 'native' or not lanes.possible(self.spatial):
            return super().hybrid_forward(F, x)
        y = lanes.convolve(F, lanes.enter(F, x), self.spatial)
        for layer in range(2, self.layers + 1):
            last = layer == self.layers
            y = lanes.convolve(F, y, getattr(self, 'mix%d' % layer), self.bn if last else None,
                               'relu', shuffle_after=getattr(self, 'shuffle%d' % layer).groups)
        return lanes.leave(F, y)
