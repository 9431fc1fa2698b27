"""ResNet-18 as in torchvision, the baseline of DGC.

Source: He et al.: Deep Residual Learning for Image Recognition (arXiv 1512.03385), in the form
of torchvision; zhuogege1943/dgc (now hellozhuo/dgc). Layer names are the original's.
"""

from __future__ import annotations

import math
from typing import Callable, Optional

import mxnet as mx
from mxnet.gluon import HybridBlock

from igcnet.layers import (
    Activation,
    Add,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Network,
    Pool2D,
    Stage,
    named_sequential,
)
from igcnet.layers.checks import check_positive
from igcnet.layers.init import DGCInit
from igcnet.models.densenet import IMAGENET, counted
from igcnet.registry import ModelSpec

STAGE_LENGTH, WIDTHS = 2, (64, 128, 256, 512)


class BasicBlock(HybridBlock):
    """Two convolutions with BN beside a shortcut, added, then ReLU.

    Inputs: `data` (N, C, H, W). Outputs: (N, channels, H', W') as `conv1` makes it.

    Parameters
    ----------
    conv1, conv2 : HybridBlock
        The convolutions.
    channels : int
        Output channels of both.
    downsample : HybridBlock, optional
        The projection; None for the identity.
    """

    def __init__(self, name: str, conv1: HybridBlock, conv2: HybridBlock, channels: int,
                 downsample: Optional[HybridBlock]):
        super().__init__(prefix=name + '_')
        self.conv1 = conv1
        self.bn1 = BatchNorm(name + '_bn1', channels)
        self.relu1 = Activation(name + '_relu1')
        self.conv2 = conv2
        self.bn2 = BatchNorm(name + '_bn2', channels)
        self.downsample = downsample
        self.add = Add(name + '_add')
        self.relu2 = Activation(name + '_relu2')

    def hybrid_forward(self, F, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.add(x, shortcut))


def residual_network(make_network: Callable[..., Network], conv: Callable[..., HybridBlock],
                     projection_norm: Callable[..., HybridBlock], classes: int) -> Network:
    """Put a ResNet-18 together.

    Parameters
    ----------
    make_network : callable
        `Network` or a subclass.
    conv : callable
        Makes a convolution of a block from (name, in_channels, channels, kernel_size, strides,
        padding).
    projection_norm : callable
        Makes what follows the 1x1 convolution of a projection from (name, channels).
    classes : int
        Number of classes.
    """
    check_positive('classes', classes)
    features = named_sequential(conv1=Conv2D('conv1', 3, WIDTHS[0], 7, 2, padding=3),
                                bn1=BatchNorm('bn1', WIDTHS[0]), relu=Activation('relu'),
                                maxpool=Pool2D('maxpool', 'max', 3, 2, padding=1))
    listing, in_channels, total = [], WIDTHS[0], 4
    for number, channels in enumerate(WIDTHS, 1):
        stage, blocks = 'layer%d' % number, {}
        for block in range(STAGE_LENGTH):
            name, downsample = '%s_%d' % (stage, block), None
            stride = 1 if in_channels == channels else 2
            if stride > 1:
                downsample = named_sequential(**{
                    '0': conv(name + '_downsample_0', in_channels, channels, 1, stride, 0),
                    '1': projection_norm(name + '_downsample_1', channels)})
            blocks['%d' % block] = BasicBlock(
                name, conv(name + '_conv1', in_channels, channels, 3, stride, 1),
                conv(name + '_conv2', channels, channels, 3, 1, 1), channels, downsample)
            in_channels, total = channels, total * stride
        setattr(features, stage, named_sequential(**blocks))
        listing.append(Stage(stage, channels, total))
    features.avgpool = Pool2D('avgpool', 'avg', 7, global_pool=True)
    features.flatten = Flatten('flatten')
    fc = Dense('fc', in_channels, classes,
               bias_initializer=mx.init.Uniform(math.sqrt(1.0 / in_channels)))
    return make_network(features, fc, listing, DGCInit(uniform_classifier=True), input_size=224)


def resnet18(classes: int = 1000) -> Network:
    """ResNet-18 for 224x224 images.

    Inputs: (N, 3, H, W), H = W = 224. Outputs: (N, classes). Stages of 64, 128, 256 and 512
    channels.
    """
    return residual_network(Network, Conv2D, BatchNorm, classes)


SPECS = [ModelSpec('resnet18', 'dgc', resnet18, IMAGENET, {}, counted(11.69, 1818.21),
                   'ResNet-18 of torchvision, the baseline of DGC')]
