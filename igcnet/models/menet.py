"""MENet: ShuffleNet units with a narrow branch that merges and evolves the groups' information.

Source: Qin, Zhang, Zhang, Yu, Peng: Merging and Evolution (arXiv 1803.09127);
clavichord93/MENet.

Facts of the original that are kept here:

- The narrow branch reads the channels *after* the shuffle and gates the depthwise convolution
  by a sigmoid, one value for each channel and pixel.
- The inner width is a quarter of the stage's width also in the units that down-sample.
- ``block_layers`` counts the units after the one that down-samples: (3, 7, 3) makes 4, 8 and 4.
- The "x1" of the published names stands for nothing in the code.
- The network ends in an average pool of fixed size, 7x7 with stride 7.

The form 'cifar', for 32x32 images, is ours, see `igcnet.models.shufflenet`.

In the published names the first number is the width of the first stage, the second the width of
the narrow branch.
"""

from __future__ import annotations

from typing import Tuple

from igcnet.layers import MergeEvolveUnit, Network, named_sequential
from igcnet.layers.checks import check_stages
from igcnet.models.mobilenetv2 import CIFAR10
from igcnet.models.shufflenet import IMAGENET, STAGES, check_plan, shuffle_network, stem_layers
from igcnet.registry import ModelSpec, Published


def menet(block_channels: Tuple[int, ...] = (228, 456, 912),
          block_layers: Tuple[int, ...] = (3, 7, 3), init_c: int = 24,
          side_channels: Tuple[int, ...] = (12, 12, 12), groups: int = 3,
          init_mode: str = 'fan_out', classes: int = 1000, form: str = 'imagenet') -> Network:
    """MENet.

    Inputs: (N, 3, 224, 224), or (N, 3, 32, 32) in the form 'cifar'. Outputs: (N, classes).

    Parameters
    ----------
    block_channels : tuple of int
        Channels of the three stages.
    block_layers : tuple of int
        Units of each stage after the first one, which down-samples.
    init_c : int
        Channels of the stem.
    side_channels : tuple of int
        Width of the narrow branch in each stage.
    groups : int
        Groups of the 1x1 convolutions and of the shuffles.
    init_mode : str
        'fan_out' or 'fan_in', see `igcnet.layers.init.FanInit`.
    form : str
        'imagenet' or 'cifar': the stem and the last pool.

    Raises
    ------
    UsageError
        A value that cannot work, such as channels that do not divide by the groups.
    """
    check_plan(block_channels, block_layers, init_c, groups)
    check_stages('side_channels', side_channels, STAGES)

    def unit(name, stage, in_channels, channels, **options):
        return MergeEvolveUnit(name, in_channels, channels, side_channels[stage], groups,
                               **options)

    init = named_sequential(**{name[len('init_'):]: layer for name, layer in stem_layers(
        ('init_conv', 'init_bn', 'init_relu', 'init_pool'), init_c, form).items()})
    return shuffle_network(named_sequential(init=init), init_c, block_channels, block_layers,
                           unit, classes, init_mode, form)


_README = 'README of clavichord93/MENet'
_TRUNCATED = 'multiply-adds are printed cut to whole millions; accuracies are printed, not errors'


def _config(width, side, groups, init_c, published=None, summary=''):
    return ModelSpec('menet%d_%dx1_g%d' % (width, side, groups), 'menet', menet, IMAGENET,
                     dict(block_channels=(width, 2 * width, 4 * width), init_c=init_c,
                          side_channels=(side,) * STAGES, groups=groups), published, summary)


def _published(macs, top1_accuracy, top5_accuracy):
    return Published(macs=macs, top1_error=round(100 - top1_accuracy, 2),
                     top5_error=round(100 - top5_accuracy, 2), data_set='ImageNet',
                     source=_README, note=_TRUNCATED)


SPECS = [
    ModelSpec('menet', 'menet', menet, IMAGENET, summary='merging-and-evolution network'),
    _config(108, 8, 3, 12, _published(38, 56.08, 79.24)),
    _config(128, 8, 4, 12, summary='a checkpoint is published, but no figures'),
    _config(228, 12, 3, 24, _published(144, 66.43, 86.72)),
    _config(256, 12, 4, 24, _published(140, 66.59, 86.74)),
    _config(348, 12, 3, 24, _published(299, 69.91, 89.08)),
    _config(352, 12, 8, 24, _published(144, 66.69, 86.92)),
    _config(456, 24, 3, 48, _published(551, 71.60, 90.07)),
    ModelSpec('menet228_12x1_g3_cifar10', 'menet', menet, CIFAR10,
              dict(form='cifar', classes=10), summary='our form for small images'),
]
