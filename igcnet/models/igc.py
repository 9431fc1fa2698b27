"""IGC v1: the six networks of the original repository and its published ImageNet models.

Source: Zhang, Qi, Xiao, Wang: Interleaved Group Convolutions for Deep Neural Networks
(ICCV 2017, arXiv 1707.02725); hellozting/InterleavedGroupConvolutions.

Notation: L = ``primary_partition`` (groups of the 3x3 convolution), M =
``secondary_partition`` (channels of one such group, and groups of the 1x1 convolution), and
C = L*M channels in the first stage.

Facts of the original that are kept here:

- Post-activation residual blocks; BN with epsilon 2e-5 and the running variance started at 0.
- `plain*` have BN momentum 0.99, all others 0.9.
- `plain*` accept a depth 3n+2 only; `resnet*` round other depths down and give what remains to
  the later stages (`stage_blocks`).
- In `resnet_igc` the first unit of a down-sampling block takes its secondary groups from its
  *input* channels (kin/L), so it has half as many as its neighbours and its second shuffle is
  not the inverse of the first. `plain_igc` and the ImageNet networks take them from the output.
- `resnet_igc_imgnet_d18` doubles the stem's width in its first stage already and doubles L from
  stage to stage, so its effective M is twice ``secondary_partition``. The published M-doubling
  networks (L4M32, L16M16) come from an older script; ``doubling='secondary'`` builds them.
- `plain*` and the ImageNet networks end in an average pool of fixed size (8x8, 7x7).
"""

from __future__ import annotations

from typing import List, Tuple

from mxnet.gluon import HybridBlock, nn

from igcnet.errors import UsageError
from igcnet.layers import (
    ConvUnit,
    Dense,
    Flatten,
    IGCUnit,
    Network,
    Pool2D,
    ResidualBlock,
    Stage,
    named_sequential,
)
from igcnet.layers.checks import check_positive
from igcnet.layers.igc import NormSettings
from igcnet.layers.init import IGCInit
from igcnet.registry import ModelSpec, Preprocessing, Published

RESIDUAL_NORM = NormSettings(momentum=0.9, epsilon=2e-5, running_variance_initializer='zeros')
PLAIN_NORM = RESIDUAL_NORM._replace(momentum=0.99)

# A stage: its blocks in order. Its name is their common prefix (g1, g2, ...).
Blocks = List[HybridBlock]


def stage_blocks(depth: int) -> Tuple[int, int, int]:
    """Blocks in the three stages of `resnet` and `resnet_igc`, by the original's rule.

    Every block counts two layers and the stem and the classifier one each; what does not divide
    goes to the later stages: 20 -> (3, 3, 3), 22 -> (3, 3, 4), 4 -> (0, 0, 1). Refuses a depth
    below 4.
    """
    used, blocks = 2, []
    for stages_left in (3, 2, 1):
        count = (depth - used) // (2 * stages_left)
        blocks.append(count)
        used += 2 * count
    if depth < 4:
        raise UsageError('depth=%d: a residual network for 32x32 images needs a depth of at '
                         'least 4 (6n+2 gives equal stages: 8, 14, 20, ...)' % depth)
    return tuple(blocks)


def plain_stage_length(depth: int) -> int:
    """Units in each of the three stages of `plain` and `plain_igc`; UsageError if the depth is not
    3n+2."""
    length = (depth - 2) // 3
    if length < 1 or depth != 3 * length + 2:
        raise UsageError('depth=%d: a plain network needs a depth of 3n+2 with n >= 1 '
                         '(5, 8, ..., 20, ..., 38, ...)' % depth)
    return length


def check_partitions(primary_partition: int, secondary_partition: int) -> int:
    """The width C = L*M, after a check of both numbers."""
    return (check_positive('primary_partition', primary_partition)
            * check_positive('secondary_partition', secondary_partition))


def _assemble(stem: HybridBlock, stages: List[Blocks], strides: List[int], pool: Pool2D,
              width: int, fc_name: str, classes: int, input_size: int) -> Network:
    """Put a network together from its parts; `width` is the channel count of the last stage."""
    check_positive('classes', classes)
    features = named_sequential(g0=stem)
    listing, total = [], strides[0]
    for number, (blocks, stride) in enumerate(zip(stages, strides[1:]), 1):
        if not blocks:  # the original skips a stage without blocks (depth 4)
            continue
        total *= stride
        stage = named_sequential(**{'b%d' % i: block for i, block in enumerate(blocks, 1)})
        setattr(features, 'g%d' % number, stage)
        listing.append(Stage('g%d' % number, width >> (len(stages) - number), total))
    features.pool = pool
    features.flatten = Flatten('flatten')
    fixed = 'global_pool' not in pool.attributes
    return Network(features, Dense(fc_name, width, classes), listing, IGCInit(), input_size,
                   fixed_input_size=fixed)


def plain(depth: int = 20, primary_partition: int = 16, secondary_partition: int = 1,
          classes: int = 10) -> Network:
    """Stacked 3x3 convolutions without shortcuts, for 32x32 images.

    Inputs: (N, 3, 32, 32). Outputs: (N, classes). Stages of C, 2C and 4C channels, C = L*M;
    the partitions matter only through their product. L is the `primary_partition`, M the
    `secondary_partition`; `depth` counts the layers with weights.
    """
    width = check_partitions(primary_partition, secondary_partition)

    def unit(name, kin, kout, stride):
        return ConvUnit(name, kin, kout, 3, PLAIN_NORM, stride)

    return _plain(depth, width, classes, unit)


def plain_igc(depth: int = 38, primary_partition: int = 24, secondary_partition: int = 2,
              classes: int = 10) -> Network:
    """Stacked IGC units without shortcuts, for 32x32 images.

    Inputs: (N, 3, 32, 32). Outputs: (N, classes). Stages of C, 2C and 4C channels, C = L*M;
    L primary groups everywhere; M, 2M, 4M secondary groups, so L channels in each. Parameters
    are those of `plain`.
    """
    width = check_partitions(primary_partition, secondary_partition)

    def unit(name, kin, kout, stride):
        return IGCUnit(name, kin, kout, primary_partition, kout // primary_partition,
                       PLAIN_NORM, stride)

    return _plain(depth, width, classes, unit)


def _plain(depth, width, classes, unit) -> Network:
    length = plain_stage_length(depth)
    stages, kin = [], width
    for stage in range(3):
        kout, blocks = width << stage, []
        for block in range(1, length + 1):
            stride = 1 if kin == kout else 2
            blocks.append(unit('g%d_b%d' % (stage + 1, block), kin, kout, stride))
            kin = kout
        stages.append(blocks)
    return _assemble(ConvUnit('g0', 3, width, 3, PLAIN_NORM), stages, [1, 1, 2, 2],
                     Pool2D('global_pool', 'avg', 8), 4 * width, 'fc_score', classes, 32)


def resnet(depth: int = 20, primary_partition: int = 16, secondary_partition: int = 1,
           classes: int = 10) -> Network:
    """Residual network of basic blocks with projection shortcuts, for 32x32 images.

    Inputs: (N, 3, H, W), H = W = 32. Outputs: (N, classes). Stages of C, 2C and 4C channels,
    C = L*M; the partitions matter only through their product. Parameters are those of `plain`.
    """
    width = check_partitions(primary_partition, secondary_partition)

    def block(name, kin, kout, stride, add_name):
        projection = None if kin == kout else ConvUnit(
            name + '_p0_line', kin, kout, 1, RESIDUAL_NORM, stride, act=False)
        return ResidualBlock(
            name, ConvUnit(name + '_p2_two1', kin, kout, 3, RESIDUAL_NORM, stride),
            ConvUnit(name + '_p2_two2', kout, kout, 3, RESIDUAL_NORM, act=False),
            projection, add_name)

    return _residual(depth, width, classes, block)


def resnet_igc(depth: int = 20, primary_partition: int = 24, secondary_partition: int = 2,
               classes: int = 10) -> Network:
    """Residual network of IGC units, for 32x32 images.

    Inputs: (N, 3, H, W), H = W = 32. Outputs: (N, classes). Stages of C, 2C and 4C channels,
    C = L*M; L primary groups everywhere. The first unit of a block has kin/L secondary groups,
    the second kout/L: see the module's notes on down-sampling blocks. Parameters are those of
    `plain`.
    """
    width = check_partitions(primary_partition, secondary_partition)
    groups = primary_partition

    def block(name, kin, kout, stride, add_name):
        projection = None if kin == kout else ConvUnit(
            name + '_p0_line', kin, kout, 1, RESIDUAL_NORM, stride, groups, act=False)
        return ResidualBlock(
            name, IGCUnit(name + '_p2_two1', kin, kout, groups, kin // groups, RESIDUAL_NORM,
                          stride),
            IGCUnit(name + '_p2_two2', kout, kout, groups, kout // groups, RESIDUAL_NORM,
                    act=False),
            projection, add_name)

    return _residual(depth, width, classes, block)


def _residual(depth, width, classes, block) -> Network:
    stages, kin, count = [], width, 0
    for stage, length in enumerate(stage_blocks(depth)):
        kout, blocks = width << stage, []
        for number in range(1, length + 1):
            stride = 1 if kin == kout else 2
            blocks.append(block('g%d_b%d' % (stage + 1, number), kin, kout, stride,
                                '_plus%d' % count))
            kin, count = kout, count + 1
        stages.append(blocks)
    return _assemble(ConvUnit('g0', 3, width, 3, RESIDUAL_NORM), stages, [1, 1, 2, 2],
                     Pool2D('pool', 'avg', 8, global_pool=True), 4 * width, 'fc', classes, 32)


def resnet_imgnet_d18(depth: int = 18, primary_partition: int = 64,
                      secondary_partition: int = 1, classes: int = 1000) -> Network:
    """ResNet-18 of width C = L for 224x224 images; M has no effect, as in the original.

    Inputs: (N, 3, 224, 224). Outputs: (N, classes). Stages of C, 2C, 4C and 8C channels.
    Parameters are those of `plain`.
    """
    check_partitions(primary_partition, secondary_partition)
    width = primary_partition

    def block(name, kin, kout, stride, stage, add_name):
        projection = None if kin == kout else ConvUnit(
            name + '_proj', kin, kout, 1, RESIDUAL_NORM, stride, act=False, conv_suffix='')
        return ResidualBlock(
            name,
            ConvUnit(name + '_conv1', kin, kout, 3, RESIDUAL_NORM, stride, conv_suffix=''),
            ConvUnit(name + '_conv2', kout, kout, 3, RESIDUAL_NORM, act=False, conv_suffix=''),
            projection, add_name)

    stem = ConvUnit('g0', 3, width, 7, RESIDUAL_NORM, 2, conv_suffix='')
    return _imagenet(depth, stem, width, width, classes, block)


def resnet_igc_imgnet_d18(depth: int = 18, primary_partition: int = 100,
                          secondary_partition: int = 1, classes: int = 1000,
                          doubling: str = 'primary', unit_name: str = 'igc') -> Network:
    """ResNet-18 of IGC units for 224x224 images.

    Inputs: (N, 3, 224, 224). Outputs: (N, classes). Refuses settings that do not go together.

    Parameters
    ----------
    depth, primary_partition, secondary_partition : int
        See `plain`.
    doubling : str
        'primary', the original's present script: stages of 2C, 4C, 8C and 16C channels with
        L, 2L, 4L, 8L primary groups and 2M secondary groups in each. 'secondary', the rule of
        the published L4M32 and L16M16: stages of C, 2C, 4C, 8C channels with L primary groups
        and M, 2M, 4M, 8M secondary groups.
    unit_name : str
        Name of a block's two units: 'igc' as in the present script, 'conv' as in the published
        files.
    """
    width = check_partitions(primary_partition, secondary_partition)
    if doubling not in ('primary', 'secondary'):
        raise UsageError("doubling=%r: must be 'primary' or 'secondary'" % (doubling,))
    if unit_name not in ('igc', 'conv'):
        raise UsageError("unit_name=%r: must be 'igc' or 'conv'" % (unit_name,))

    def block(name, kin, kout, stride, stage, add_name):
        groups = primary_partition << stage if doubling == 'primary' else primary_partition
        projection = None if kin == kout else ConvUnit(
            name + '_proj', kin, kout, 1, RESIDUAL_NORM, stride, groups, act=False)
        unit = '%s_%s' % (name, unit_name)
        return ResidualBlock(
            name,
            IGCUnit(unit + '1', kin, kout, groups, kout // groups, RESIDUAL_NORM, stride),
            IGCUnit(unit + '2', kout, kout, groups, kout // groups, RESIDUAL_NORM, act=False),
            projection, add_name)

    first = 2 * width if doubling == 'primary' else width
    stem = ConvUnit('g0', 3, width, 7, RESIDUAL_NORM, 2)
    return _imagenet(depth, stem, width, first, classes, block)


def _imagenet(depth, stem, width, first, classes, block) -> Network:
    if depth != 18:
        raise UsageError('depth=%d: the ImageNet networks exist with depth 18 only' % depth)
    stages, kin, strides = [], width, [1, 2, 2, 2]
    for stage in range(4):
        kout, blocks = first << stage, []
        for number in (1, 2):
            stride = strides[stage] if number == 1 else 1
            blocks.append(block('g%d_b%d' % (stage + 1, number), kin, kout, stride, stage,
                                '_plus%d' % (2 * stage + number - 1)))
            kin = kout
        stages.append(blocks)
    whole_stem = nn.HybridSequential(prefix='')
    whole_stem.unit = stem
    whole_stem.pool = Pool2D('g0_pool', 'max', 3, 2, padding=1)
    return _assemble(whole_stem, stages, [4] + strides, Pool2D('global_pool', 'avg', 7),
                     first * 8, 'fc_score', classes, 224)


CIFAR10 = Preprocessing(32, (125.307, 122.950, 113.865), (62.993, 62.089, 66.705))
# Records hold images with the shorter side at 480, read at scale 0.533, i.e. 256.
IMAGENET = Preprocessing(224, (123.370, 112.757, 99.406), (68.998, 66.093, 68.292),
                         resize_shorter=256)
_README = 'README of hellozting/InterleavedGroupConvolutions'


def _small(name, constructor, depth, primary, secondary):
    return ModelSpec('%s_d%dl%dm%d' % (name, depth, primary, secondary), 'igc', constructor,
                     CIFAR10, dict(depth=depth, primary_partition=primary,
                                   secondary_partition=secondary))


def _published(name, constructor, kwargs, params, macs, top1, top5, note=''):
    return ModelSpec(name, 'igc', constructor, IMAGENET, kwargs,
                     Published(params, macs, top1, top5, 'ImageNet', _README, note))


_CONV_ONLY = 'printed parameters are close to the convolutions alone'
_UNEXPLAINED = 'printed parameters do not follow from the published graph'

SPECS = [
    ModelSpec('plain', 'igc', plain, CIFAR10, summary='3x3 convolutions, no shortcuts'),
    ModelSpec('plain_igc', 'igc', plain_igc, CIFAR10, summary='IGC units, no shortcuts'),
    ModelSpec('resnet', 'igc', resnet, CIFAR10, summary='residual network, basic blocks'),
    ModelSpec('resnet_igc', 'igc', resnet_igc, CIFAR10, summary='residual network of IGC units'),
    ModelSpec('resnet_imgnet_d18', 'igc', resnet_imgnet_d18, IMAGENET, summary='ResNet-18'),
    ModelSpec('resnet_igc_imgnet_d18', 'igc', resnet_igc_imgnet_d18, IMAGENET,
              summary='ResNet-18 of IGC units'),
    _small('plain', plain, 20, 16, 1),
    _small('plain', plain, 20, 24, 2),
    _small('plain', plain, 38, 16, 1),
    _small('plain_igc', plain_igc, 8, 24, 2),
    _small('plain_igc', plain_igc, 20, 24, 2),
    _small('plain_igc', plain_igc, 38, 24, 2),
    _small('plain_igc', plain_igc, 62, 24, 2),
    _small('resnet', resnet, 20, 16, 1),
    _small('resnet', resnet, 38, 16, 1),
    _small('resnet', resnet, 62, 16, 1),
    _small('resnet_igc', resnet_igc, 20, 24, 2),
    _small('resnet_igc', resnet_igc, 38, 24, 2),
    _small('resnet_igc', resnet_igc, 62, 24, 2),
    _small('resnet_igc', resnet_igc, 20, 32, 26),
    _published('resnet_c64_imagenet', resnet_imgnet_d18, dict(primary_partition=64),
               11.151, 1800, 31.06, 11.38, _CONV_ONLY),
    _published('resnet_c69_imagenet', resnet_imgnet_d18, dict(primary_partition=69),
               11.333, 2100, 30.58, 10.77, _UNEXPLAINED),
    _published('igc_l4m32_imagenet', resnet_igc_imgnet_d18,
               dict(primary_partition=4, secondary_partition=32, doubling='secondary',
                    unit_name='conv'), 11.205, 1900, 30.77, 10.99, _CONV_ONLY),
    _published('igc_l16m16_imagenet', resnet_igc_imgnet_d18,
               dict(primary_partition=16, secondary_partition=16, doubling='secondary',
                    unit_name='conv'), 11.329, 2200, 29.40, 10.32, _UNEXPLAINED),
    _published('igc_l100m2_imagenet', resnet_igc_imgnet_d18,
               dict(primary_partition=100, secondary_partition=1, doubling='primary',
                    unit_name='conv'), 8.61, 1300, 26.95, 8.92,
               'printed parameters are those of convolutions and classifier'),
]
