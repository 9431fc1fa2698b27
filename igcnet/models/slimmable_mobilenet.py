"""Slimmable MobileNet v1 and v2: one set of weights for every width in a range.

Source: Yang et al.: MutualNet: Adaptive ConvNet via Mutual Learning from Network Width and
Resolution (ECCV 2020, arXiv 1909.12978); taoyang1122/MutualNet, whose networks come from
JiahuiYu/slimmable_networks.

Facts of the original that are kept here:

- Channel counts are rounded by `igcnet.layers.widths.round_channels`, which does not cut to
  whole multiples only and whose 9 for tiny layers is kept.
- The image side of the first convolution and the class side of the classifier are fixed; so are
  the 1280 channels of the last convolution of v2 with its BN and its classifier, even where the
  widest network is wider than 1.
- In v2 the expanded channels are the rounded *unexpanded* ones times the expansion.
- Any resolution works at run time; the size it is built for must be a multiple of 32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Sequence

from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError
from igcnet.layers import Add, Flatten, Pool2D, ReLU6, SlimmableNetwork, named_sequential
from igcnet.layers.init import FanOutInit
from igcnet.layers.slimmable_network import Layers, Parts
from igcnet.layers.widths import Channels, Widths
from igcnet.registry import ModelSpec, Preprocessing, Published

IMAGE = Channels(3, slim=False)


class Row(NamedTuple):
    """A row of the table of MobileNet v2: `repeats` blocks, the first with `stride`."""

    expansion: int
    channels: int
    repeats: int
    stride: int


# Base output channels and stride of the 13 blocks of v1.
V1_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
             (1024, 2), (1024, 1)]
V2_ROWS = [Row(1, 16, 1, 1), Row(6, 24, 2, 2), Row(6, 32, 3, 2), Row(6, 64, 4, 2),
           Row(6, 96, 3, 1), Row(6, 160, 3, 2), Row(6, 320, 1, 1)]
# The original means to spare CIFAR-10 the second row's stride, and replaces the third.
V2_CIFAR10_ROWS = [*V2_ROWS[:2], Row(6, 24, 2, 1), *V2_ROWS[3:]]
V2_TAIL = Channels(1280, slim=False)


def check_image_size(image_size: int) -> int:
    """`image_size`; UsageError if it is not a multiple of 32, as the networks for ImageNet want."""
    if image_size < 32 or image_size % 32:
        raise UsageError('image_size=%r: must be a multiple of 32' % (image_size,))
    return image_size


def finish(features: HybridBlock) -> HybridBlock:
    """`features` with the global average pooling that ends every network."""
    features.pool = Pool2D('pool', 'avg', 7, global_pool=True)
    features.flatten = Flatten('flatten')
    return features


def conv_unit(layers: Layers, name: str, inputs: Channels, outputs: Channels, kernel_size: int,
              strides: int = 1) -> HybridBlock:
    """Convolution, BN, ReLU6: (N, inputs, H, W) -> (N, outputs, H/strides, W/strides)."""
    return named_sequential(
        conv=layers.conv(name + '_conv', inputs, outputs, kernel_size, strides),
        bn=layers.batch_norm(name + '_bn', outputs), relu=ReLU6(name + '_relu'))


def separable_block(layers: Layers, name: str, inputs: Channels, outputs: Channels,
                    strides: int) -> HybridBlock:
    """3x3 depthwise, BN, ReLU6, 1x1, BN, ReLU6: the block of MobileNet v1.

    (N, inputs, H, W) -> (N, outputs, H/strides, W/strides).
    """
    return named_sequential(
        depthwise=layers.depthwise(name + '_depthwise', inputs, strides),
        depthwise_bn=layers.batch_norm(name + '_depthwise_bn', inputs),
        depthwise_relu=ReLU6(name + '_depthwise_relu'),
        pointwise=layers.conv(name + '_pointwise', inputs, outputs, 1),
        pointwise_bn=layers.batch_norm(name + '_pointwise_bn', outputs),
        pointwise_relu=ReLU6(name + '_pointwise_relu'))


class InvertedResidual(HybridBlock):
    """1x1, BN, ReLU6, 3x3 depthwise, BN, ReLU6, 1x1, BN; plus the input where the shapes agree.

    Inputs: `data` (N, inputs, H, W). Outputs: (N, outputs, H/strides, W/strides). Without
    expansion the first three are left out.
    """

    def __init__(self, layers: Layers, name: str, inputs: Channels, outputs: Channels,
                 expansion: int, strides: int):
        super().__init__(prefix=name + '_')
        hidden = Channels(inputs.base * expansion, ratio=expansion)
        self.body = named_sequential()
        if expansion != 1:
            self.body.expand = layers.conv(name + '_expand', inputs, hidden, 1)
            self.body.expand_bn = layers.batch_norm(name + '_expand_bn', hidden)
            self.body.expand_relu = ReLU6(name + '_expand_relu')
        self.body.depthwise = layers.depthwise(name + '_depthwise', hidden, strides)
        self.body.depthwise_bn = layers.batch_norm(name + '_depthwise_bn', hidden)
        self.body.depthwise_relu = ReLU6(name + '_depthwise_relu')
        self.body.project = layers.conv(name + '_project', hidden, outputs, 1)
        self.body.project_bn = layers.batch_norm(name + '_project_bn', outputs)
        self.add = Add(name + '_add') if strides == 1 and inputs == outputs else None

    def hybrid_forward(self, F, x):
        return self.body(x) if self.add is None else self.add(x, self.body(x))


def mobilenet_v1_us(width_mult_range: Sequence[float] = (0.25, 1.0),
                    width_mult_list: Sequence[float] = (0.25, 1.0), divisor: int = 8,
                    image_size: int = 224, classes: int = 1000) -> SlimmableNetwork:
    """Slimmable MobileNet v1: 13 depthwise-separable blocks.

    Inputs: (N, 3, H, W). Outputs: (N, classes).

    Parameters
    ----------
    width_mult_range : (float, float)
        The narrowest and the widest network; the widest is what is stored. It may exceed 1.
    width_mult_list : sequence of float
        Widths with running statistics of BN, in the order of the checkpoint.
    divisor : int
        What channel counts are rounded to.
    image_size : int
        Height and width of the largest images it is meant for.

    Raises
    ------
    UsageError
        A value that cannot work.
    """
    def build(layers: Layers) -> Parts:
        inputs = Channels(32)
        features = named_sequential(stem=conv_unit(layers, 'stem', IMAGE, inputs, 3, 2))
        stages, total = [], 2
        for number, (base, stride) in enumerate(V1_BLOCKS, 1):
            name, outputs = 'block%d' % number, Channels(base)
            setattr(features, name, separable_block(layers, name, inputs, outputs, stride))
            inputs, total = outputs, total * stride
            stages = _add_stage(stages, name, outputs, total)
        return Parts(finish(features), inputs, stages)

    return SlimmableNetwork(build, Widths(width_mult_range, width_mult_list, divisor), classes,
                            FanOutInit(), check_image_size(image_size))


def mobilenet_v2_us(width_mult_range: Sequence[float] = (0.7, 1.0),
                    width_mult_list: Sequence[float] = (0.7, 0.9, 1.0), divisor: int = 8,
                    cifar10_rows: bool = False, image_size: int = 224,
                    classes: int = 1000) -> SlimmableNetwork:
    """Slimmable MobileNet v2: 17 inverted residual blocks.

    Inputs: (N, 3, H, W). Outputs: (N, classes).

    Parameters
    ----------
    width_mult_range, width_mult_list, divisor, image_size
        As for `mobilenet_v1_us`.
    cifar10_rows : bool
        What the original builds for ``dataset: cifar10``: the three blocks of 32 channels become
        two of 24 without a stride, so the total stride is 16.

    Raises
    ------
    UsageError
        A value that cannot work.
    """
    def build(layers: Layers) -> Parts:
        inputs = Channels(32)
        features = named_sequential(stem=conv_unit(layers, 'stem', IMAGE, inputs, 3, 2))
        stages, number, total = [], 0, 2
        for row in V2_CIFAR10_ROWS if cifar10_rows else V2_ROWS:
            outputs = Channels(row.channels)
            for repeat in range(row.repeats):
                number, stride = number + 1, row.stride if repeat == 0 else 1
                name = 'block%d' % number
                setattr(features, name, InvertedResidual(layers, name, inputs, outputs,
                                                         row.expansion, stride))
                inputs, total = outputs, total * stride
                stages = _add_stage(stages, name, outputs, total)
        features.tail = conv_unit(layers, 'tail', inputs, V2_TAIL, 1)
        return Parts(finish(features), V2_TAIL, _add_stage(stages, 'tail', V2_TAIL, total))

    return SlimmableNetwork(build, Widths(width_mult_range, width_mult_list, divisor), classes,
                            FanOutInit(), check_image_size(image_size))


def _add_stage(stages, name, channels, total):
    """Features are taken from the last block of each resolution."""
    return [stage for stage in stages if stage[2] != total] + [(name, channels, total)]


README = 'README of taoyang1122/MutualNet'
IMAGENET = Preprocessing(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
                         resize_shorter=256, interpolation='pil-bilinear')
_LARGER = replace(IMAGENET, input_size=288, resize_shorter=329)  # 256/224 of it, as above

SPECS = [
    ModelSpec('mobilenet_v1_us', 'slimmable', mobilenet_v1_us, IMAGENET,
              published=Published(None, 569, 27.6, None, 'ImageNet', README,
                                  'at width 1 and resolution 224'),
              summary='slimmable MobileNet v1, widths 0.25 to 1'),
    ModelSpec('mobilenet_v1_us_1.6x', 'slimmable', mobilenet_v1_us, _LARGER,
              dict(width_mult_range=(0.25, 1.6), width_mult_list=(0.25, 1.6), image_size=288),
              Published(None, 2300, 22.9, None, 'ImageNet', README,
                        'at width 1.6 and resolution 288, printed as 1.3 (times 224); the '
                        'narrowest width and the resize before the crop are not published'),
              'slimmable MobileNet v1 scaled up, widths 0.25 to 1.6'),
    ModelSpec('mobilenet_v2_us', 'slimmable', mobilenet_v2_us, IMAGENET,
              published=Published(None, 300, 27.1, None, 'ImageNet', README,
                                  'at width 1 and resolution 224'),
              summary='slimmable MobileNet v2, widths 0.7 to 1'),
]
