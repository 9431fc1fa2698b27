"""MobileNetV2 in the two forms that stand beside IGCV3, and the plan that both families share.

Sources: Sandler et al.: MobileNetV2 (arXiv 1801.04381); xxradon/IGCV3-pytorch (PyTorch, CIFAR);
homles11/IGCV3 (MXNet, ImageNet), whose node names all networks here have.

Facts of the originals that are kept here:

- The first block has a 1x1 "expansion" convolution although its expansion is 1; the paper has
  none there (``first_expansion=False``).
- The last 1x1 convolution never has fewer than 1280 filters.
- The PyTorch form truncates channel counts, the MXNet form rounds them (`CHANNEL_RULES`).
- The PyTorch form drops half of the features before the classifier in training.

Apart from that the two are one function.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import mxnet as mx

from igcnet.errors import UsageError
from igcnet.layers import (
    Dense,
    Dropout,
    Flatten,
    Network,
    Pool2D,
    Stage,
    named_sequential,
)
from igcnet.layers.init import FanOutInit, find_initializer
from igcnet.layers.inverted_residual import (
    BlockForm,
    BlockPlan,
    InvertedResidual,
    ReLU6Unit,
    UnitNames,
)
from igcnet.registry import ModelSpec, Preprocessing, Published


class StageSize(NamedTuple):
    """Expansion, channels at width 1 and number of blocks of a stage."""

    expansion: int
    channels: int
    blocks: int


STAGES = tuple(StageSize(*size) for size in (
    (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)))
STEM_CHANNELS, LAST_CHANNELS = 32, 1280

# Strides of the stem and of the first block of each stage, by the total stride.
STRIDES = {8: (1, 1, 1, 2, 2, 1, 2, 1), 16: (2, 1, 1, 2, 2, 1, 2, 1), 32: (2, 1, 2, 2, 2, 1, 2, 1)}


class ChannelRule(NamedTuple):
    """How a script makes channel counts of a width multiplier.

    Parameters
    ----------
    nearest : bool
        Round to the nearest number, halves up (Python 2); otherwise truncate.
    multiple : int
        Then go up to a multiple of this.
    width_twice : bool
        The script forms the expanded width of a stage's first block from the *scaled* channels
        of the stage before, scaled once more; and the last layer has one filter more than
        1280 times a width above 1.
    shortcut_by_shape : bool
        Any block of stride 1 that keeps the number of channels adds its input; otherwise every
        block of a stage but the first. Only very small widths show the difference.
    """

    nearest: bool
    multiple: int
    width_twice: bool = False
    shortcut_by_shape: bool = False

    def scale(self, channels: int, width: float) -> int:
        """`channels` at a width multiplier."""
        whole = int(channels * width)
        if self.nearest and channels * width - whole >= 0.5:
            whole += 1
        return -(-whole // self.multiple) * self.multiple

    def scale_input(self, channels: int, width: float) -> int:
        """From a stage's channels, what the next stage's first block expands."""
        if not self.width_twice:
            return channels
        whole = self._replace(multiple=1).scale(channels, width)
        if self.multiple == 2:  # the script adds 1 to the wrong variable
            return channels + 1 if whole % 2 else whole
        return self.scale(channels, width)

    def scale_last(self, width: float) -> int:
        """Filters of the last 1x1 convolution."""
        if width <= 1:
            return LAST_CHANNELS
        if self.width_twice:
            return int(LAST_CHANNELS * width) + 1
        return self._replace(nearest=False).scale(LAST_CHANNELS, width)


CHANNEL_RULES = {
    # xxradon/IGCV3-pytorch, both networks
    'truncate': ChannelRule(False, 1, shortcut_by_shape=True),
    # pytorchcv and gluoncv2, IGCV3
    'truncate-even': ChannelRule(False, 2),
    # homles11/IGCV3, mobilenetv2
    'nearest': ChannelRule(True, 1),
    # the widths behind the published 0.5x and 0.7x rows of IGCV3 as far as they can be inferred
    'nearest-even': ChannelRule(True, 2),
    # homles11/IGCV3, igcv3 and igcv3_wider
    'mxnet-even': ChannelRule(True, 2, width_twice=True),
    # homles11/IGCV3, igcv3_g2g4
    'mxnet-fours': ChannelRule(True, 4, width_twice=True),
}


class NetworkPlan(NamedTuple):
    """Channels of the stem, the blocks of each stage, and filters of the last convolution."""

    stem: int
    stages: List[List[BlockPlan]]
    last: int


def plan_network(width: float, channel_rule: str, downsampling: int = 32,
                 stages: Sequence[StageSize] = STAGES, multiple: int = 1) -> NetworkPlan:
    """Work out all channel counts.

    Parameters
    ----------
    width : float
        Width multiplier.
    channel_rule : str
        One of `CHANNEL_RULES`.
    downsampling : int
        Total stride: 8, 16 or 32.
    stages : sequence of StageSize
        Sizes at width 1.
    multiple : int
        What the channel counts must divide by, because of grouped convolutions.

    Raises
    ------
    UsageError
        A value that cannot work, such as a width whose channels do not divide.
    """
    if not isinstance(width, Real) or not 0 < width <= 100:
        raise UsageError('width=%r: must be a number above 0 and at most 100' % (width,))
    if channel_rule not in CHANNEL_RULES:
        raise UsageError('channel_rule=%r: must be one of %s'
                         % (channel_rule, ', '.join(CHANNEL_RULES)))
    if downsampling not in STRIDES:
        raise UsageError('downsampling=%r: must be 8, 16 or 32' % (downsampling,))
    rule = CHANNEL_RULES[channel_rule]
    stem_stride, *strides = STRIDES[downsampling]
    in_channels = stem = _scale(rule, STEM_CHANNELS, width, multiple)
    expanded_input, plans = stem, []
    for size, stage_stride in zip(stages, strides):
        channels, blocks = _scale(rule, size.channels, width, multiple), []
        for number in range(size.blocks):
            stride = stage_stride if number == 0 else 1
            keeps_shape = stride == 1 and in_channels == channels
            shortcut = keeps_shape if rule.shortcut_by_shape else number > 0
            blocks.append(BlockPlan(in_channels, size.expansion * expanded_input, channels,
                                    stride, shortcut))
            in_channels = expanded_input = channels
        expanded_input = rule.scale_input(channels, width)
        plans.append(blocks)
    return NetworkPlan(stem, plans, rule.scale_last(width))


def _scale(rule: ChannelRule, channels: int, width: float, multiple: int) -> int:
    scaled = rule.scale(channels, width)
    if min(scaled, rule.scale_input(scaled, width)) < 1:
        raise UsageError('width=%r: leaves nothing of %d channels' % (width, channels))
    if scaled % multiple:
        raise UsageError(
            'width=%r: %d channels become %d, which do not divide by %d groups; use '
            "channel_rule='nearest-even' or a width such as 0.25, 0.5, 0.75 or 1"
            % (width, channels, scaled, multiple))
    return scaled


def build_network(plan: NetworkPlan, form: BlockForm, downsampling: int, classes: int,
                  dropout: float, initializer: mx.init.Initializer,
                  first_expansion: bool = True) -> Network:
    """Stem, stages of inverted residual blocks, last 1x1 convolution, global pool, classifier.

    Children of ``features``: ``stem``, ``seq0`` to ``seq6`` with ``block0``, ``block1``, ... in
    each, ``last``, ``pool``, ``flatten``, and ``dropout`` if the rate is not 0.

    Parameters
    ----------
    plan : NetworkPlan
        From `plan_network`, with the same `downsampling`.
    form : BlockForm
        Of the blocks.
    dropout : float
        Part of the features dropped before the classifier.
    first_expansion : bool
        Whether the first block has its first 1x1 convolution.

    Raises
    ------
    UsageError
        A rate of dropout outside 0 to 1.
    """
    if classes < 1:
        raise UsageError('classes=%d: a classifier needs at least one class' % classes)
    if not 0 <= dropout < 1:
        raise UsageError('dropout=%r: must be at least 0 and below 1' % (dropout,))
    total = STRIDES[downsampling][0]
    features = named_sequential(stem=ReLU6Unit(
        UnitNames.of('first-3x3-conv'), 3, plan.stem, 3, total))
    listing = []
    for s, blocks in enumerate(plan.stages):
        stage = named_sequential(**{
            'block%d' % b: InvertedResidual('seq-%d-block%d' % (s, b), block, form,
                                            expand=first_expansion or s > 0)
            for b, block in enumerate(blocks)})
        setattr(features, 'seq%d' % s, stage)
        total *= blocks[0].strides
        listing.append(Stage('seq%d' % s, blocks[-1].channels, total))
    features.last = ReLU6Unit(UnitNames.of('last-1x1-conv'), listing[-1].channels, plan.last)
    features.pool = Pool2D('global_pool', 'avg', 7, global_pool=True)
    features.flatten = Flatten('flatten')
    if dropout:
        features.dropout = Dropout('dropout', dropout)
    return Network(features, Dense('fc', plan.last, classes), listing, initializer,
                   224 if downsampling == 32 else 32)


def fan_in_initializer() -> mx.init.Initializer:
    """homles11/IGCV3: N(0, sqrt(2/fan_in)) for all weights, fan_in of one group; bias 0."""
    return find_initializer('igcv3-mxnet')


def mobilenetv2(width: float = 1.0, downsampling: int = 8, classes: int = 10,
                dropout: float = 0.5, channel_rule: str = 'truncate',
                first_expansion: bool = True) -> Network:
    """MobileNetV2 as in xxradon/IGCV3-pytorch.

    Inputs: (N, 3, H, W); the original takes multiples of 32, such as 32x32 with
    `downsampling` 8 or 16 and 224x224 with 32. Outputs: (N, classes).

    Parameters
    ----------
    width : float
        Width multiplier.
    downsampling : int
        Total stride: 8, 16 or 32.
    dropout : float
        Rate before the classifier. The original ignores its configuration's value and uses 0.5.
    channel_rule : str
        How channel counts are rounded, one of `CHANNEL_RULES`.
    first_expansion : bool
        The 1x1 convolution of the first block, which the paper does not have.
    """
    plan = plan_network(width, channel_rule, downsampling)
    return build_network(plan, BlockForm(), downsampling, classes, dropout, FanOutInit(),
                         first_expansion)


def mobilenetv2_mxnet(width: float = 1.0, classes: int = 1000) -> Network:
    """MobileNetV2 as in the MXNet script of homles11/IGCV3.

    Inputs: (N, 3, H, W), H = W = 224. Outputs: (N, classes).
    """
    return build_network(plan_network(width, 'nearest'), BlockForm(), 32, classes, 0,
                         fan_in_initializer())


def _to_bytes(values: Sequence[float]) -> Tuple[float, float, float]:
    return tuple(round(255 * value, 3) for value in values)


# Statistics of the training sets, which the PyTorch trainer computes when it starts.
CIFAR10 = Preprocessing(32, _to_bytes((0.4914, 0.4822, 0.4465)),
                        _to_bytes((0.2470, 0.2435, 0.2616)))
CIFAR100 = Preprocessing(32, _to_bytes((0.5071, 0.4865, 0.4409)),
                         _to_bytes((0.2673, 0.2564, 0.2762)))
# The mean is subtracted from 0..255 and nothing divided. Records are read at scale 0.533.
IMAGENET = Preprocessing(224, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), resize_shorter=256)
IMAGENET_FORM = dict(downsampling=32, classes=1000)
IGCV3_README = 'README of homles11/IGCV3'


def cifar_specs(family: str, constructor: Callable[..., Network], suffix: str,
                **kwargs: Any) -> List[ModelSpec]:
    """Two configurations, ``<family><suffix>_cifar10`` and ``_cifar100``."""
    return [ModelSpec('%s%s_cifar%d' % (family, suffix, classes), family, constructor, data,
                      dict(classes=classes, **kwargs))
            for classes, data in ((10, CIFAR10), (100, CIFAR100))]


SPECS = [
    ModelSpec('mobilenetv2', 'mobilenetv2', mobilenetv2, CIFAR10,
              summary='inverted residual blocks, as in xxradon/IGCV3-pytorch'),
    ModelSpec('mobilenetv2_mxnet', 'mobilenetv2', mobilenetv2_mxnet, IMAGENET,
              published=Published(3.4, None, 28.6, 9.9, 'ImageNet', IGCV3_README,
                                  'errors after retraining, before it 30.0 and 11.0; printed '
                                  'parameters are those of the MobileNetV2 paper'),
              summary='the same as in the MXNet script of homles11/IGCV3'),
    ModelSpec('mobilenetv2_cifar10', 'mobilenetv2', mobilenetv2, CIFAR10, dict(classes=10),
              Published(2.3, None, 5.44, None, 'CIFAR-10', IGCV3_README,
                        'printed parameters fit 100 classes with running statistics')),
    ModelSpec('mobilenetv2_cifar100', 'mobilenetv2', mobilenetv2, CIFAR100, dict(classes=100),
              Published(2.3, None, 22.91, None, 'CIFAR-100', IGCV3_README,
                        'printed parameters are 2.387 M with running statistics, cut')),
    *cifar_specs('mobilenetv2', mobilenetv2, '_w0.5', width=0.5),
    ModelSpec('mobilenetv2_imagenet', 'mobilenetv2', mobilenetv2, IMAGENET, IMAGENET_FORM),
    ModelSpec('mobilenetv2_paper', 'mobilenetv2', mobilenetv2, IMAGENET,
              dict(first_expansion=False, **IMAGENET_FORM),
              Published(3.4, 300, 28.0, None, 'ImageNet', 'arXiv 1801.04381, table 4',
                        'printed parameters are fewer than these layers have'),
              summary='without the first expansion'),
]
