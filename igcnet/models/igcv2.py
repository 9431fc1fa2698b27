"""IGCV2: channel-wise 3x3 convolutions followed by sparse 1x1 convolutions.

Source: Xie et al.: IGCV2: Interleaved Structured Sparse Convolutional Neural Networks (CVPR
2018, arXiv 1804.06202). Its authors published no code.

Published: the block (`igcnet.layers.igcv2.IGCV2Unit`), the complementary and the balance
condition, and results: 2.4 M parameters, 5.24 % and 22.55 % error on CIFAR-10 and CIFAR-100 (in
the README of homles11/IGCV3), and for IGCV2*, whose complementary condition is loose, 0.65 M and
22.95 % on CIFAR-100 (its width C = 416 and depth 20 are recalled, not verified).

Reconstructed, so **not** to be taken for the authors' network: everything else. The skeleton is
that of `igcnet.models.igc.plain_igc`, the same group's earlier network without shortcuts: three
stages of C, 2C and 4C channels and (depth-2)/3 units each. With depth 20, C = 416 and branches
of 8 and 8 it has 650,308 parameters for 100 classes, which is the published 0.65 M and the
evidence for it. For the 2.4 M row, C = 560 is the strict network of that depth that comes
nearest; widths, order of the K, place of BN and ReLU and the doubling of channels (two outputs
per channel of a stage's first 3x3) are our choices. The paper's ImageNet networks are not here,
because nothing tells their layers.
"""

from __future__ import annotations

from numbers import Integral
from typing import Optional, Sequence, Tuple

from igcnet.errors import UsageError
from igcnet.layers import ConvUnit, Dense, Flatten, Network, Pool2D, Stage, named_sequential
from igcnet.layers.igc import NormSettings
from igcnet.layers.igcv2 import IGCV2Unit, balanced_branch_sizes, check_branch_sizes
from igcnet.models.igc import plain_stage_length
from igcnet.models.mobilenetv2 import CIFAR10, CIFAR100, IGCV3_README, fan_in_initializer
from igcnet.registry import ModelSpec, Published

STAGE_COUNT = 3


def igcv2(depth: int = 20, channels: int = 560, layers: int = 3,
          branch_sizes: Optional[Tuple[int, ...]] = None, complementary: str = 'strict',
          classes: int = 100) -> Network:
    """Stacked IGCV2 units without shortcuts, for 32x32 images.

    Inputs: (N, 3, H, W), H = W = 32. Outputs: (N, classes). Stages of C, 2C and 4C channels.

    Parameters
    ----------
    depth : int
        3n+2; a unit counts as one layer.
    channels : int
        C.
    layers : int
        The paper's L: convolutions in a unit, the 3x3 included.
    branch_sizes : tuple of int, optional
        K_2 to K_L for all stages, or for each stage in turn. By default the most balanced
        numbers whose product is the stage's width.
    complementary : str
        'strict': the K multiply to the stage's width. 'loose' (IGCV2*): they may multiply to
        less.

    Raises
    ------
    UsageError
        The complementary or the balance condition is violated; the message names the numbers.
    """
    for name, value, least in (('channels', channels, 1), ('layers', layers, 2),
                               ('classes', classes, 1)):
        if not isinstance(value, Integral) or value < least:
            raise UsageError('%s=%r: must be a whole number of at least %d' % (name, value, least))
    if complementary not in ('strict', 'loose'):
        raise UsageError("complementary=%r: must be 'strict' or 'loose'" % (complementary,))
    length = plain_stage_length(depth)
    sizes = _stage_branch_sizes(channels, layers, branch_sizes, complementary)
    features = named_sequential(g0=ConvUnit('g0', 3, channels, 3, NormSettings()))
    kin, listing = channels, []
    for stage, stage_sizes in enumerate(sizes):
        width, name = channels << stage, 'g%d' % (stage + 1)
        check_branch_sizes('stage %s' % name, width, stage_sizes, complementary)
        blocks = {}
        for block in range(1, length + 1):
            blocks['b%d' % block] = IGCV2Unit('%s_b%d' % (name, block), kin, width, stage_sizes,
                                              strides=1 if kin == width else 2)
            kin = width
        setattr(features, name, named_sequential(**blocks))
        listing.append(Stage(name, width, 1 << stage))
    features.pool = Pool2D('pool', 'avg', 8, global_pool=True)
    features.flatten = Flatten('flatten')
    return Network(features, Dense('fc', kin, classes), listing, fan_in_initializer(), 32)


def _stage_branch_sizes(channels: int, layers: int, given: Optional[Sequence[int]],
                        complementary: str) -> Tuple[Tuple[int, ...], ...]:
    """K_2 to K_L of each stage."""
    widths = [channels << stage for stage in range(STAGE_COUNT)]
    if given is None:
        if complementary == 'loose':
            raise UsageError("branch_sizes: must be given with complementary='loose'")
        sizes = [balanced_branch_sizes(width, layers - 1) for width in widths]
        for width, found in zip(widths, sizes):
            if found is None:
                raise UsageError('channels=%d: the %d channels of a stage are not a product of '
                                 '%d whole numbers above 1' % (channels, width, layers - 1))
        return tuple(sizes)
    count = layers - 1
    if not isinstance(given, (list, tuple)) or len(given) not in (count, STAGE_COUNT * count):
        raise UsageError('branch_sizes=%r: with layers=%d there must be %d numbers for all stages '
                         'or %d for each in turn' % (given, layers, count, STAGE_COUNT * count))
    every = tuple(given) * (STAGE_COUNT * count // len(given))
    return tuple(every[start:start + count] for start in range(0, len(every), count))


_RECONSTRUCTED = 'the network behind this row is not published: reconstruction'
_STAR = dict(channels=416, branch_sizes=(8, 8), complementary='loose')

SPECS = [
    ModelSpec('igcv2', 'igcv2', igcv2, CIFAR100,
              summary='channel-wise 3x3 and sparse 1x1 convolutions (reconstruction)'),
    ModelSpec('igcv2_c560_cifar10', 'igcv2', igcv2, CIFAR10, dict(channels=560, classes=10),
              Published(2.4, None, 5.24, None, 'CIFAR-10', IGCV3_README, _RECONSTRUCTED)),
    ModelSpec('igcv2_c560_cifar100', 'igcv2', igcv2, CIFAR100, dict(channels=560, classes=100),
              Published(2.4, None, 22.55, None, 'CIFAR-100', IGCV3_README, _RECONSTRUCTED)),
    ModelSpec('igcv2star_c416_cifar10', 'igcv2', igcv2, CIFAR10, dict(classes=10, **_STAR),
              summary='reconstruction'),
    ModelSpec('igcv2star_c416_cifar100', 'igcv2', igcv2, CIFAR100, dict(classes=100, **_STAR),
              Published(0.65, None, 22.95, None, 'CIFAR-100', 'arXiv 1804.06202',
                        'figures from a summary of the paper; depth, width and layers are a '
                        'reconstruction')),
]
