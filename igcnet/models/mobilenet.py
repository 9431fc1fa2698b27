"""MobileNet v1, as the MENet repository builds it.

Source: Howard et al.: MobileNets (arXiv 1704.04861); clavichord93/MENet, whose layer names are
kept.

Facts of the original that are kept here:

- Every width is the multiple of its base width, cut to a whole number.
- The layers stand in one flat sequence; each convolution is followed by BN and ReLU.
- The network ends in an average pool of fixed size, 7x7 with stride 7.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from igcnet.errors import UsageError
from igcnet.layers import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Network,
    Pool2D,
    Stage,
    named_sequential,
)
from igcnet.layers.checks import check_multiplier, check_positive
from igcnet.layers.init import FanInit
from igcnet.models.shufflenet import IMAGENET
from igcnet.registry import ModelSpec


class Block(NamedTuple):
    """A depthwise 3x3 convolution with `stride` and a 1x1 convolution to `channels`."""

    channels: int
    stride: int


STEM_CHANNELS = 32
FULL = [Block(64, 1), Block(128, 2), Block(128, 1), Block(256, 2), Block(256, 1), Block(512, 2),
        *[Block(512, 1)] * 5, Block(1024, 2), Block(1024, 1)]
SHALLOW = [Block(64, 1), Block(128, 2), Block(128, 1), Block(256, 2), Block(256, 1),
           Block(512, 2), Block(1024, 2), Block(1024, 1)]


def mobilenet(width_mul: float = 1.0, init_mode: str = 'fan_in', classes: int = 1000) -> Network:
    """MobileNet v1 with 13 depthwise-separable blocks, for 224x224 images.

    Inputs: (N, 3, 224, 224). Outputs: (N, classes).

    Parameters
    ----------
    width_mul : float
        Multiplier of all widths.
    init_mode : str
        'fan_in' or 'fan_out', see `igcnet.layers.init.FanInit`.

    Raises
    ------
    UsageError
        A value that cannot work.
    """
    return _mobilenet(FULL, width_mul, init_mode, classes)


def shallow_mobilenet(width_mul: float = 1.0, init_mode: str = 'fan_in',
                      classes: int = 1000) -> Network:
    """`mobilenet` with 8 blocks: one block of 512 channels in place of six."""
    return _mobilenet(SHALLOW, width_mul, init_mode, classes)


def _mobilenet(plan: Sequence[Block], width_mul: float, init_mode: str, classes: int) -> Network:
    check_multiplier('width_mul', width_mul)
    stem, *widths = (int(base * width_mul)
                     for base in (STEM_CHANNELS, *(block.channels for block in plan)))
    if stem < 1:
        raise UsageError('width_mul=%r: leaves no channel of %d' % (width_mul, STEM_CHANNELS))
    features = named_sequential(conv_0=Conv2D('conv_0', 3, stem, 3, 2, padding=1),
                                norm_0=BatchNorm('norm_0', stem),
                                relu_0=Activation('relu_0'))
    listing, in_channels, total = [], stem, 2
    for number, (channels, block) in enumerate(zip(widths, plan)):
        layers = dict(
            dw_conv=Conv2D('dw_conv_%d' % number, in_channels, in_channels, 3, block.stride,
                           padding=1, groups=in_channels),
            dw_norm=BatchNorm('dw_norm_%d' % number, in_channels),
            dw_relu=Activation('dw_relu_%d' % number),
            pw_conv=Conv2D('pw_conv_%d' % number, in_channels, channels, 1),
            pw_norm=BatchNorm('pw_norm_%d' % number, channels),
            pw_relu=Activation('pw_relu_%d' % number))
        for layer in layers.values():
            setattr(features, layer.name, layer)
        in_channels, total = channels, total * block.stride
        # The last block of each resolution is where features are taken.
        if number + 1 == len(plan) or plan[number + 1].stride == 2:
            listing.append(Stage(layers['pw_relu'].name, channels, total))
    features.avg_pool = Pool2D('avg_pool', 'avg', 7, 7)
    features.flatten = Flatten('flatten')
    return Network(features, Dense('classifier', in_channels, check_positive('classes', classes)),
                   listing, FanInit(init_mode), IMAGENET.input_size, fixed_input_size=True)


def _config(width_mul):
    return ModelSpec('mobilenet_%gx' % width_mul, 'mobilenet', mobilenet, IMAGENET,
                     dict(width_mul=width_mul))


SPECS = [
    ModelSpec('mobilenet', 'mobilenet', mobilenet, IMAGENET, summary='MobileNet v1'),
    ModelSpec('shallow_mobilenet', 'mobilenet', shallow_mobilenet, IMAGENET,
              summary='MobileNet v1 with one block of 512 channels in place of six'),
    _config(0.25),
    _config(0.5),
    _config(0.75),
    _config(1.0),
]
