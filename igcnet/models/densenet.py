"""DenseNet with growth that rises from stage to stage, the baseline of DGC.

Source: zhuogege1943/dgc (now hellozhuo/dgc), after CondenseNet (Huang et al., arXiv 1711.09224)
and DenseNet (Huang et al., arXiv 1608.06993). Layer names are the original's.

Facts of the original that are kept here:

- The stem is a convolution alone; BN and ReLU come with the first layer, before its convolution.
- A transition is an average pool alone: it has no convolution and keeps all channels.
- The last average pool has a fixed size, 8x8 or 7x7, so that the input must be 32x32 with three
  stages (form 'cifar') or 224x224 with five (form 'imagenet'); others follow from the number
  of stages.
- The original's training script cannot run this network; it has no published figures.
"""

from __future__ import annotations

from operator import index
from typing import Any, Callable, NamedTuple, Sequence, Tuple, Union

from mxnet.gluon import HybridBlock, nn

from igcnet.errors import UsageError
from igcnet.layers import (
    Activation,
    BatchNorm,
    Concat,
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
from igcnet.registry import ModelSpec, Preprocessing, Published

# '14-14-14' as on the original's command line, or whole numbers.
Numbers = Union[str, Sequence[int]]


class Form(NamedTuple):
    """What differs between networks for small and for large images."""

    stem_stride: int
    pool: int


FORMS = {'cifar': Form(1, 8), 'imagenet': Form(2, 7)}


class NormReluConv(nn.HybridSequential):
    """BN, ReLU and convolution; the padding keeps the size of the map.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H, W).
    """

    def __init__(self, name: str, in_channels: int, channels: int, kernel_size: int,
                 groups: int = 1):
        super().__init__(prefix=name + '_')
        self.norm = BatchNorm(name + '_norm', in_channels)
        self.relu = Activation(name + '_relu')
        self.conv = Conv2D(name + '_conv', in_channels, channels, kernel_size,
                           padding=(kernel_size - 1) // 2, groups=groups)


class DenseLayer(HybridBlock):
    """Two convolutions, whose output is appended to the input.

    Inputs: `data` (N, C, H, W). Outputs: (N, C + growth, H, W), the input's channels first.
    """

    def __init__(self, name: str, conv_1: HybridBlock, conv_2: HybridBlock):
        super().__init__(prefix=name + '_')
        self.conv_1 = conv_1
        self.conv_2 = conv_2
        self.concat = Concat(name + '_concat')

    def hybrid_forward(self, F, x):
        # Reshaping to the same shape leaves oneDNN's blocked layout, which concat would hand on
        # to every later BN and pool: many times slower than the plain one on CPU.
        new = F.reshape(self.conv_2(self.conv_1(x)), shape=(0, 0, 0, -1))
        return self.concat(x, new)


def whole_numbers(name: str, value: Numbers) -> Tuple[int, ...]:
    """The numbers of ``'14-14-14'`` or ``(14, 14, 14)``; UsageError if one is not at least 1."""
    try:
        numbers = (tuple(map(int, value.split('-'))) if isinstance(value, str)
                   else tuple(map(index, value)))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError("%s=%r: must be whole numbers of at least 1, such as '4-6-8'"
                         % (name, value))
    return numbers


def dense_network(make_network: Callable[..., Network], reduce: Callable[..., HybridBlock],
                  stages: Numbers, growth: Numbers, bottleneck: int, group_3x3: int, form: str,
                  classes: int, last_norm: str) -> Network:
    """Put a network of dense blocks together.

    Parameters
    ----------
    make_network : callable
        `Network` or a subclass.
    reduce : callable
        Makes the first unit of each layer from (name, in_channels, channels).
    stages, growth, bottleneck, group_3x3, form, classes
        See `densenet`.
    last_norm : str
        Name of the last BN.

    Raises
    ------
    UsageError
        Settings that do not go together.
    """
    stages, growth = whole_numbers('stages', stages), whole_numbers('growth', growth)
    if len(stages) != len(growth):
        raise UsageError('%d stages and %d growth rates: one rate is needed for each stage'
                         % (len(stages), len(growth)))
    if form not in FORMS:
        raise UsageError("form=%r: must be 'cifar' or 'imagenet'" % (form,))
    check_positive('bottleneck', bottleneck)
    check_positive('classes', classes)
    stride, pool = FORMS[form]
    channels = 2 * growth[0]
    features = named_sequential(init_conv=Conv2D('init_conv', 3, channels, 3, stride, padding=1))
    listing = []
    for number, (length, rate) in enumerate(zip(stages, growth), 1):
        if number > 1:
            name, stride = 'transition_%d' % (number - 1), 2 * stride
            setattr(features, name, named_sequential(pool=Pool2D(name + '_pool', 'avg', 2, 2)))
        block, layers = 'denseblock_%d' % number, {}
        for layer in ('denselayer_%d' % i for i in range(1, length + 1)):
            name, width = '%s_%s' % (block, layer), bottleneck * rate
            layers[layer] = DenseLayer(
                name, reduce(name + '_conv_1', channels, width),
                NormReluConv(name + '_conv_2', width, rate, 3, groups=group_3x3))
            channels += rate
        setattr(features, block, named_sequential(**layers))
        listing.append(Stage(block, channels, stride))
    setattr(features, last_norm, BatchNorm(last_norm, channels))
    features.relu_last = Activation('relu_last')
    features.pool_last = Pool2D('pool_last', 'avg', pool, pool)
    features.flatten = Flatten('flatten')
    return make_network(features, Dense('classifier', channels, classes), listing,
                        DGCInit(uniform_classifier=True), input_size=stride * pool,
                        fixed_input_size=True)


def densenet(stages: Numbers = '14-14-14', growth: Numbers = '8-16-32', bottleneck: int = 4,
             group_1x1: int = 1, group_3x3: int = 4, form: str = 'cifar',
             classes: int = 10) -> Network:
    """DenseNet without compression: 1x1 and 3x3 group convolutions, BN and ReLU before each.

    Inputs: (N, 3, 32, 32), or (N, 3, 224, 224) with five stages and form 'imagenet'.
    Outputs: (N, classes).

    Parameters
    ----------
    stages : str or sequence of int
        Layers of each stage: '14-14-14' or (14, 14, 14).
    growth : str or sequence of int
        Channels that each layer of a stage adds. The stem has twice the first one.
    bottleneck : int
        Width of a layer's 1x1 convolution in units of the growth.
    group_1x1, group_3x3 : int
        Groups of the two convolutions of a layer.
    form : str
        'cifar': stem with stride 1 and last pool of 8x8. 'imagenet': stride 2 and 7x7.

    Raises
    ------
    UsageError
        A value that cannot work, such as channels that do not divide by the groups.
    """
    def reduce(name, in_channels, channels):
        return NormReluConv(name, in_channels, channels, 1, groups=group_1x1)

    return dense_network(Network, reduce, stages, growth, bottleneck, group_3x3, form, classes,
                         'norm_last')


def _scaled(values: Sequence[float]) -> Tuple[Any, ...]:
    # The source prints them for pixels from 0 to 1.
    return tuple(round(255 * value, 4) for value in values)


CIFAR10 = Preprocessing(32, _scaled((.4914, .4824, .4467)), _scaled((.2471, .2435, .2616)))
CIFAR100 = Preprocessing(32, _scaled((.5071, .4867, .4408)), _scaled((.2675, .2565, .2761)))
IMAGENET = Preprocessing(224, _scaled((.485, .456, .406)), _scaled((.229, .224, .225)),
                         resize_shorter=256, interpolation='pil-bilinear')
IMAGENET_STAGES = dict(stages='4-6-8-10-8', growth='8-16-32-64-128', form='imagenet',
                       classes=1000)


def counted(params: float, macs: float) -> Published:
    """Figures that the original's own counter gives for a plain network."""
    return Published(params, macs, source='counter of zhuogege1943/dgc',
                     note='its multiply-adds include ReLU, pooling and the classifier bias')


SPECS = [
    ModelSpec('densenet', 'dgc', densenet, CIFAR10, summary='DenseNet, the baseline of DGC'),
    ModelSpec('densenet86_cifar10', 'dgc', densenet, CIFAR10, {}, counted(1.45, 177.29)),
    ModelSpec('densenet_imagenet', 'dgc', densenet, IMAGENET, IMAGENET_STAGES,
              counted(11.92, 1280.59)),
]
