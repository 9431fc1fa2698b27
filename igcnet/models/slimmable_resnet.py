"""Slimmable ResNet (bottleneck) and WideResNet: one set of weights for every width in a range.

Source: Yang et al.: MutualNet: Adaptive ConvNet via Mutual Learning from Network Width and
Resolution (ECCV 2020, arXiv 1909.12978); taoyang1122/MutualNet.

Facts of the original that are kept here:

- In ResNet the *outer* channels of a block are rounded and the inner ones are a quarter of them,
  so inner counts (and the stem's) are multiples of 2. The stride is in the 3x3 convolution.
- In WideResNet the stem is slimmable too; a shortcut convolution works on the activated input
  and has no BN, and stands only where the base channels change.
"""

from __future__ import annotations

from typing import Sequence

from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError
from igcnet.layers import Activation, Add, Dropout, Pool2D, SlimmableNetwork, named_sequential
from igcnet.layers.init import FanOutInit
from igcnet.layers.slimmable_network import Layers, Parts
from igcnet.layers.widths import Channels, Widths
from igcnet.models.slimmable_mobilenet import IMAGE, IMAGENET, README, check_image_size, finish
from igcnet.registry import ModelSpec, Preprocessing, Published

RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
QUARTER = 0.25


class Bottleneck(HybridBlock):
    """1x1, BN, ReLU, 3x3 with the stride, BN, ReLU, 1x1, BN; plus the shortcut; ReLU.

    Inputs: `data` (N, inputs, H, W). Outputs: (N, outputs, H/strides, W/strides). The shortcut
    is a 1x1 convolution and BN if `projection`, else the input.
    """

    def __init__(self, layers: Layers, name: str, inputs: Channels, inner: Channels,
                 outputs: Channels, strides: int, projection: bool):
        super().__init__(prefix=name + '_')
        self.body = named_sequential(
            conv1=layers.conv(name + '_conv1', inputs, inner, 1),
            bn1=layers.batch_norm(name + '_bn1', inner),
            relu1=Activation(name + '_relu1'),
            conv2=layers.conv(name + '_conv2', inner, inner, 3, strides),
            bn2=layers.batch_norm(name + '_bn2', inner),
            relu2=Activation(name + '_relu2'),
            conv3=layers.conv(name + '_conv3', inner, outputs, 1),
            bn3=layers.batch_norm(name + '_bn3', outputs))
        self.shortcut = named_sequential(
            conv=layers.conv(name + '_shortcut_conv', inputs, outputs, 1, strides),
            bn=layers.batch_norm(name + '_shortcut_bn', outputs)) if projection else None
        self.add = Add(name + '_add')
        self.relu = Activation(name + '_relu')

    def hybrid_forward(self, F, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.relu(self.add(self.body(x), shortcut))


class PreActivationBlock(HybridBlock):
    """BN, ReLU, 3x3 with the stride, BN, ReLU, dropout, 3x3; plus the shortcut.

    Inputs: `data` (N, inputs, H, W). Outputs: (N, outputs, H/strides, W/strides). The shortcut
    is the input, or a 1x1 convolution of the activated input where the base channels differ.
    """

    def __init__(self, layers: Layers, name: str, inputs: Channels, outputs: Channels,
                 strides: int, dropout: float):
        super().__init__(prefix=name + '_')
        self.bn1 = layers.batch_norm(name + '_bn1', inputs)
        self.relu1 = Activation(name + '_relu1')
        self.conv1 = layers.conv(name + '_conv1', inputs, outputs, 3, strides)
        self.bn2 = layers.batch_norm(name + '_bn2', outputs)
        self.relu2 = Activation(name + '_relu2')
        self.dropout = Dropout(name + '_dropout', dropout) if dropout else None
        self.conv2 = layers.conv(name + '_conv2', outputs, outputs, 3)
        self.shortcut = None if inputs == outputs else layers.conv(name + '_shortcut', inputs,
                                                                   outputs, 1, strides)
        self.add = Add(name + '_add')

    def hybrid_forward(self, F, x):
        activated = self.relu1(self.bn1(x))
        y = self.relu2(self.bn2(self.conv1(activated)))
        y = self.conv2(y if self.dropout is None else self.dropout(y))
        return self.add(y, x if self.shortcut is None else self.shortcut(activated))


def resnet_us(depth: int = 50, width_mult_range: Sequence[float] = (0.9, 1.0),
              width_mult_list: Sequence[float] = (0.9, 1.0), divisor: int = 8,
              image_size: int = 224, classes: int = 1000) -> SlimmableNetwork:
    """Slimmable ResNet of bottleneck blocks.

    Inputs: (N, 3, H, W). Outputs: (N, classes).

    Parameters
    ----------
    depth : int
        50, 101 or 152.
    width_mult_range : (float, float)
        The narrowest and the widest network; the widest is what is stored. It may exceed 1.
    width_mult_list : sequence of float
        Widths with running statistics of BN, in the order of the checkpoint.
    divisor : int
        What the outer channel counts are rounded to.
    image_size : int
        Height and width of the largest images it is meant for.

    Raises
    ------
    UsageError
        A value that cannot work.
    """
    if depth not in RESNET_BLOCKS:
        raise UsageError('depth=%r: must be one of %s'
                         % (depth, ', '.join('%d' % known for known in RESNET_BLOCKS)))

    def build(layers: Layers) -> Parts:
        inputs = Channels(64, QUARTER)
        features = named_sequential(stem=named_sequential(
            conv=layers.conv('stem_conv', IMAGE, inputs, 7, 2),
            bn=layers.batch_norm('stem_bn', inputs), relu=Activation('stem_relu'),
            pool=Pool2D('stem_pool', 'max', 3, 2, padding=1)))
        stages, number = [], 0
        for stage, blocks in enumerate(RESNET_BLOCKS[depth]):
            inner, outputs = Channels(64 << stage, QUARTER), Channels(256 << stage)
            for block in range(blocks):
                number += 1
                name = 'block%d' % number
                setattr(features, name, Bottleneck(layers, name, inputs, inner, outputs,
                                                   2 if stage and not block else 1, not block))
                inputs = outputs
            stages.append((name, outputs, 4 << stage))
        return Parts(finish(features), inputs, stages)

    return SlimmableNetwork(build, Widths(width_mult_range, width_mult_list, divisor), classes,
                            FanOutInit(), check_image_size(image_size))


def wideresnet_us(depth: int = 28, widen_factor: int = 10, dropoutrate: float = 0.0,
                  width_mult_range: Sequence[float] = (0.9, 1.0),
                  width_mult_list: Sequence[float] = (0.9, 1.0), divisor: int = 8,
                  image_size: int = 32, classes: int = 100) -> SlimmableNetwork:
    """Slimmable WideResNet of basic pre-activation blocks, for CIFAR.

    Inputs: (N, 3, H, W). Outputs: (N, classes).

    Parameters
    ----------
    depth : int
        6n+4 for n blocks in each of the three stages.
    widen_factor : int
        The stages have 16, 32 and 64 times as many channels at width 1.
    dropoutrate : float
        Of the dropout between the two convolutions of a block; 0: none.
    width_mult_range, width_mult_list, divisor, image_size
        As for `resnet_us`.

    Raises
    ------
    UsageError
        A value that cannot work.
    """
    if depth < 10 or depth % 6 != 4:
        raise UsageError('depth=%r: must be 6n+4 with n >= 1 (10, 16, 22, 28, ...)' % (depth,))
    if widen_factor < 1 or widen_factor != int(widen_factor):
        raise UsageError('widen_factor=%r: must be a whole number of at least 1'
                         % (widen_factor,))
    if not 0 <= dropoutrate < 1:
        raise UsageError('dropoutrate=%r: must be at least 0 and below 1' % (dropoutrate,))
    if image_size < 4:
        raise UsageError('image_size=%r: must be at least 4' % (image_size,))

    def build(layers: Layers) -> Parts:
        inputs = Channels(16)
        features = named_sequential(conv=layers.conv('stem_conv', IMAGE, inputs, 3))
        stages = []
        for stage in range(3):
            outputs = Channels((16 << stage) * int(widen_factor))
            blocks = named_sequential()
            for block in range((depth - 4) // 6):
                name = 'stage%d_block%d' % (stage + 1, block + 1)
                setattr(blocks, 'block%d' % (block + 1), PreActivationBlock(
                    layers, name, inputs, outputs, 2 if stage and not block else 1, dropoutrate))
                inputs = outputs
            setattr(features, 'stage%d' % (stage + 1), blocks)
            stages.append(('stage%d' % (stage + 1), outputs, 1 << stage))
        features.bn = layers.batch_norm('bn', inputs)
        features.relu = Activation('relu')
        return Parts(finish(features), inputs, stages)

    return SlimmableNetwork(build, Widths(width_mult_range, width_mult_list, divisor), classes,
                            FanOutInit(uniform_classifier=True), image_size)


CIFAR = Preprocessing(32, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))

SPECS = [
    ModelSpec('resnet50_us', 'slimmable', resnet_us, IMAGENET,
              published=Published(None, None, 21.4, None, 'ImageNet', README,
                                  'the error is that of width 1 at resolution 224'),
              summary='slimmable ResNet-50, widths 0.9 to 1'),
    ModelSpec('wideresnet28_10_us', 'slimmable', wideresnet_us, CIFAR,
              published=Published(None, None, 16.2, None, 'CIFAR-100', README,
                                  'the error is that of width 1 at resolution 32'),
              summary='slimmable WideResNet-28-10, widths 0.9 to 1'),
    ModelSpec('wideresnet28_10_us_cifar10', 'slimmable', wideresnet_us, CIFAR, dict(classes=10),
              Published(None, None, 2.7, None, 'CIFAR-10', README,
                        'the error is that of width 1 at resolution 32'),
              'slimmable WideResNet-28-10 for CIFAR-10, widths 0.9 to 1'),
]
