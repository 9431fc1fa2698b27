"""ShuffleNet v1, as the MENet repository builds it.

Source: Zhang, Zhou, Lin, Sun: ShuffleNet (CVPR 2018, arXiv 1707.01083); clavichord93/MENet,
whose layer names and rounding are kept.

Facts of the original that are kept here:

- The stem and the stages have a multiplier each, ``init_mul`` and ``width_mul``: the published
  1.5x plan keeps the stem of the 1x plan.
- Each multiplied width is cut to a whole number and then rounded *up* to a multiple of the groups.
- The inner width of a unit is a quarter of its output, so 2 and 4 groups cannot be built at the
  multipliers 0.25, 0.5, 0.75 and 1.5.
- The first unit's first 1x1 convolution is not grouped, but its channels are shuffled.
- The network ends in an average pool of fixed size, 7x7 with stride 7.

The form 'cifar', for 32x32 images, is ours: the stem keeps the resolution, and the last average
pool is 4x4.

The stages are built by `shuffle_network`, which MENet uses as well.
"""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Sequence, Tuple

from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError
from igcnet.layers import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Network,
    Pool2D,
    ShuffleUnit,
    Stage,
    named_sequential,
)
from igcnet.layers.checks import check_multiplier, check_positive, check_stages
from igcnet.layers.init import FanInit
from igcnet.models.mobilenetv2 import CIFAR10
from igcnet.registry import ModelSpec, Preprocessing

# Number of groups -> channels of the three stages at width 1.
BASE_CHANNELS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
BASE_STEM = 24
STAGES = 3


class Form(NamedTuple):
    """What differs between the network for large and for small images.

    `stride` is that of the stem's convolution, `stem_pool` says whether a pool of stride 2
    follows it, `last_pool` is the size of the map that the last pool averages.
    """

    stride: int
    stem_pool: bool
    last_pool: int

    @property
    def stem_stride(self) -> int:
        """Stride of the stem with its pool."""
        return self.stride * (2 if self.stem_pool else 1)

    @property
    def input_size(self) -> int:
        """Height and width of the images: the last pool covers the last map."""
        return self.stem_stride * 2 ** STAGES * self.last_pool


FORMS = {'imagenet': Form(2, True, 7), 'cifar': Form(1, False, 4)}

# The preprocessing of all networks of the MENet repository.
IMAGENET = Preprocessing(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
                         resize_shorter=256, interpolation='pil-bilinear')


def check_plan(block_channels: Sequence[int], block_layers: Sequence[int], init_c: int,
               groups: int) -> None:
    """Refuse `block_channels`, `block_layers` and `init_c` that cannot be built, before a layer is
    made.

    Raises
    ------
    UsageError
        A value that is no positive whole number, stages that do not grow, or channels that do
        not divide by the groups.
    """
    check_stages('block_channels', block_channels, STAGES)
    check_stages('block_layers', block_layers, STAGES, smallest=0)
    check_positive('init_c', init_c)
    check_positive('groups', groups)
    widths = [init_c, *block_channels]
    if any(after <= before for before, after in zip(widths, widths[1:])):
        raise UsageError('a stem of %d and stages of %s channels: each must be wider than the one '
                         'before' % (init_c, ', '.join(map(str, block_channels))))
    if init_c % groups:
        raise UsageError('a stem of %d channels does not divide by groups=%d' % (init_c, groups))
    for channels in block_channels:
        if channels < 4 or channels % groups or channels // 4 % groups:
            raise UsageError('a stage of %d channels: the number and a quarter of it, %d, must '
                             'divide by groups=%d' % (channels, channels // 4, groups))


def find_form(form: str) -> Form:
    """The form of that name; `UsageError` if there is none."""
    if form not in FORMS:
        raise UsageError("form=%r: must be 'imagenet' or 'cifar'" % (form,))
    return FORMS[form]


def stem_layers(names: Sequence[str], init_c: int, form: str) -> Dict[str, HybridBlock]:
    """Convolution to `init_c` channels, BN, ReLU and, in the form 'imagenet', max pool; `names` are
    theirs."""
    found = find_form(form)
    conv, norm, relu, pool = names
    layers = {conv: Conv2D(conv, 3, init_c, 3, found.stride, padding=1),
              norm: BatchNorm(norm, init_c), relu: Activation(relu)}
    if found.stem_pool:
        layers[pool] = Pool2D(pool, 'max', 3, 2, padding=1)
    return layers


def shuffle_network(features: HybridBlock, init_c: int, block_channels: Sequence[int],
                    block_layers: Sequence[int], unit: Callable[..., HybridBlock],
                    classes: int, init_mode: str, form: str) -> Network:
    """Stages of `unit` after a stem, then average pool and classifier.

    Parameters
    ----------
    features : HybridBlock
        The stem in a container of named children. The stages are added to it as ``stage_1_1``,
        ``stage_1_2`` and so on.
    init_c : int
        Channels of the stem.
    block_channels : sequence of int
        Output channels of each stage.
    block_layers : sequence of int
        Units of each stage after the first, which down-samples.
    unit : callable
        ``unit(name, stage, in_channels, channels, downsample=, whole_compress=)`` makes one unit;
        `stage` counts from 0.
    init_mode : str
        See `igcnet.layers.init.FanInit`.
    form : str
        Key of `FORMS`.
    """
    found = find_form(form)
    listing, in_channels = [], init_c
    for stage, (channels, layers) in enumerate(zip(block_channels, block_layers)):
        for number in range(layers + 1):
            name = 'stage_%d_%d' % (stage + 1, number + 1)
            setattr(features, name,
                    unit(name, stage, in_channels, channels, downsample=number == 0,
                         whole_compress=stage == 0 and number == 0))
            in_channels = channels
        listing.append(Stage(name, channels, found.stem_stride * 2 << stage))
    features.avg_pool = Pool2D('avg_pool', 'avg', found.last_pool, found.last_pool)
    features.flatten = Flatten('flatten')
    return Network(features, Dense('classifier', in_channels, check_positive('classes', classes)),
                   listing, FanInit(init_mode), found.input_size, fixed_input_size=True)


def shufflenet(groups: int = 3, init_mul: float = 1.0, width_mul: float = 1.0,
               block_layers: Tuple[int, ...] = (3, 7, 3), init_mode: str = 'fan_out',
               classes: int = 1000, form: str = 'imagenet') -> Network:
    """ShuffleNet v1.

    Inputs: (N, 3, 224, 224), or (N, 3, 32, 32) in the form 'cifar'. Outputs: (N, classes).

    Parameters
    ----------
    groups : int
        Groups of the 1x1 convolutions: 1, 2, 3, 4 or 8. They choose the base widths.
    init_mul, width_mul : float
        Multipliers of the stem's 24 channels and of the stages' channels.
    block_layers : tuple of int
        Units of each stage after the first one.
    init_mode : str
        'fan_out' or 'fan_in', see `igcnet.layers.init.FanInit`.
    form : str
        'imagenet' or 'cifar': the stem and the last pool.

    Raises
    ------
    UsageError
        A value that cannot work, such as 2 groups at half width.
    """
    if groups not in BASE_CHANNELS:
        raise UsageError('groups=%r: must be one of %s'
                         % (groups, ', '.join(map(str, BASE_CHANNELS))))
    init_c = _scaled(BASE_STEM, 'init_mul', init_mul, groups)
    block_channels = [_scaled(base, 'width_mul', width_mul, groups)
                      for base in BASE_CHANNELS[groups]]
    check_plan(block_channels, block_layers, init_c, groups)

    def unit(name, stage, in_channels, channels, **options):
        return ShuffleUnit(name, in_channels, channels, groups, **options)

    stem = named_sequential(**stem_layers(('conv_1', 'norm_1', 'relu_1', 'pool_1'), init_c, form))
    return shuffle_network(stem, init_c, block_channels, block_layers, unit, classes, init_mode,
                           form)


def _scaled(base: int, name: str, multiplier: float, groups: int) -> int:
    """The multiplied width, rounded down to a whole number and up to a multiple of `groups`."""
    whole = int(base * check_multiplier(name, multiplier))
    if whole < 1:
        raise UsageError('%s=%r: leaves no channel of %d' % (name, multiplier, base))
    return -(-whole // groups) * groups


def _config(groups, init_mul, width_mul, summary=''):
    return ModelSpec('shufflenet_%gx_g%d' % (width_mul, groups), 'shufflenet', shufflenet,
                     IMAGENET, dict(groups=groups, init_mul=init_mul, width_mul=width_mul),
                     summary=summary)


_NO_FILE = 'in the code of the original, but in none of its configuration files'

SPECS = [
    ModelSpec('shufflenet', 'shufflenet', shufflenet, IMAGENET, summary='ShuffleNet v1'),
    _config(3, 0.5, 0.5),
    _config(1, 1.0, 1.0, _NO_FILE),
    _config(2, 1.0, 1.0, _NO_FILE),
    _config(3, 1.0, 1.0),
    _config(4, 1.0, 1.0),
    _config(8, 1.0, 1.0),
    _config(3, 1.0, 1.5, 'stem of the 1x plan'),
    _config(3, 2.0, 2.0),
    ModelSpec('shufflenet_1x_g3_cifar10', 'shufflenet', shufflenet, CIFAR10,
              dict(form='cifar', classes=10), summary='our form for small images'),
]
