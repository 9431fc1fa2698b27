"""IGCV3: inverted residual blocks of grouped 1x1 convolutions with channel shuffles.

Sources: Sun, Li, Liu, Wang: IGCV3: Interleaved Low-Rank Group Convolutions for Efficient Deep
Neural Networks (BMVC 2018, arXiv 1806.00178); homles11/IGCV3 (MXNet, the authors', ImageNet);
xxradon/IGCV3-pytorch (CIFAR).

Stages, strides and last layer are those of MobileNetV2 (`igcnet.models.mobilenetv2`), the first
block's 1x1 expansion included. IGCV3-D ("deeper") has twice the blocks in all stages but the
first and the last.

The two originals are different functions of the same parameters:

==================================  ======================  ========================
step                                `igcv3` (PyTorch form)  `igcv3_mxnet`
==================================  ======================  ========================
ReLU6 after the first 1x1           yes                     no
shuffle before the 3x3              2 groups                2 groups
shuffle at the end of the branch    channels/2 groups       no
dropout before the classifier       0.5                     no
channel counts                      truncated               rounded, see `CHANNEL_RULES`
==================================  ======================  ========================

The figure that the authors publish has both shuffles, which is why `igcv3` is the default; the
graph that they released has one. Nothing in a parameter file tells the forms apart.
"""

from __future__ import annotations

from typing import Tuple

from igcnet.errors import UsageError
from igcnet.layers import Network
from igcnet.layers.init import FanOutInit
from igcnet.layers.inverted_residual import BlockForm
from igcnet.models.mobilenetv2 import (
    CIFAR10,
    CIFAR100,
    IGCV3_README,
    IMAGENET,
    IMAGENET_FORM,
    STAGES,
    StageSize,
    build_network,
    cifar_specs,
    fan_in_initializer,
    plan_network,
)
from igcnet.registry import ModelSpec, Published


def deeper(stages: Tuple[StageSize, ...]) -> Tuple[StageSize, ...]:
    """The depth rule of IGCV3-D: twice the blocks, but in the first and the last stage."""
    first, *middle, last = stages
    return (first, *(stage._replace(blocks=2 * stage.blocks) for stage in middle), last)


# Both group convolutions in 2 groups, with all that `BlockForm` offers.
PAPER_FORM = BlockForm(2, 2, expand_act=True, shuffle=True, output_shuffle=True)

DEEPER_STAGES = deeper(STAGES)
WIDER_STAGES = tuple(StageSize(*size) for size in (
    (1, 32, 1), (6, 48, 2), (6, 64, 3), (6, 128, 4), (6, 192, 3), (6, 320, 3), (6, 640, 1)))

# Scripts of homles11/IGCV3: stages, groups of the last 1x1 convolution, channel rule.
SCRIPTS = {
    'igcv3': (DEEPER_STAGES, 2, 'mxnet-even'),
    'igcv3_wider': (WIDER_STAGES, 2, 'mxnet-even'),
    'igcv3_g2g4': (DEEPER_STAGES, 4, 'mxnet-fours'),
}


def igcv3(width: float = 1.0, downsampling: int = 8, classes: int = 10, dropout: float = 0.5,
          channel_rule: str = 'truncate', deep: bool = True, expand_act: bool = True,
          output_shuffle: bool = True) -> Network:
    """IGCV3 as in the paper's figure and in xxradon/IGCV3-pytorch.

    Inputs: (N, 3, H, W); the original takes multiples of 32, such as 32x32 with
    `downsampling` 8 or 16 and 224x224 with 32. Outputs: (N, classes).

    Parameters
    ----------
    width : float
        Width multiplier. All channel counts must become even: with ``channel_rule='truncate'``
        that is so for 0.25, 0.5, 0.75 and 1 but not for 0.7.
    downsampling : int
        Total stride: 8, 16 or 32.
    dropout : float
        Rate before the classifier. The original ignores its configuration's value and uses 0.5.
    channel_rule : str
        How channel counts are rounded, one of `igcnet.models.mobilenetv2.CHANNEL_RULES`.
    deep : bool
        IGCV3-D; otherwise as many blocks as MobileNetV2.
    expand_act, output_shuffle : bool
        The ReLU6 after the first 1x1 convolution and the shuffle at the end of a block, which
        the released MXNet graph does not have.
    """
    plan = plan_network(width, channel_rule, downsampling, DEEPER_STAGES if deep else STAGES,
                        multiple=2)
    form = PAPER_FORM._replace(expand_act=expand_act, output_shuffle=output_shuffle)
    return build_network(plan, form, downsampling, classes, dropout, FanOutInit())


def igcv3_mxnet(width: float = 1.0, classes: int = 1000, script: str = 'igcv3') -> Network:
    """IGCV3 as in the MXNet scripts of homles11/IGCV3.

    Inputs: (N, 3, H, W), H = W = 224. Outputs: (N, classes).

    Parameters
    ----------
    script : str
        'igcv3', the released graph; 'igcv3_wider', stages up to twice as wide with the depth of
        MobileNetV2; 'igcv3_g2g4', four groups in the last 1x1 convolution of a block.

    Raises
    ------
    UsageError
        Another script, or a width whose channels do not divide.
    """
    if script not in SCRIPTS:
        raise UsageError('script=%r: must be one of %s' % (script, ', '.join(SCRIPTS)))
    stages, project_groups, channel_rule = SCRIPTS[script]
    plan = plan_network(width, channel_rule, 32, stages, multiple=project_groups)
    form = BlockForm(2, project_groups, expand_act=False, shuffle=True)
    return build_network(plan, form, 32, classes, 0, fan_in_initializer())


_CIFAR = (('cifar10', CIFAR10, 10, 'CIFAR-10'), ('cifar100', CIFAR100, 100, 'CIFAR-100'))
_RATIO = ('"%sx" is the ratio of parameters, its width is not published: inferred from them, '
          'with running statistics at 100 classes')


def _ratio_specs(ratio, width, params, errors):
    """The published CIFAR rows of networks with fewer parameters."""
    return [ModelSpec('igcv3_%sx_%s' % (ratio, name), 'igcv3', igcv3, data,
                      dict(width=width, classes=classes, channel_rule='nearest-even'),
                      Published(params, None, error, None, data_set, IGCV3_README,
                                _RATIO % ratio))
            for (name, data, classes, data_set), error in zip(_CIFAR, errors)]


SPECS = [
    ModelSpec('igcv3', 'igcv3', igcv3, CIFAR10,
              summary='IGCV3-D as in the paper and xxradon/IGCV3-pytorch'),
    ModelSpec('igcv3_mxnet', 'igcv3', igcv3_mxnet, IMAGENET,
              published=Published(3.5, None, 27.8, 9.5, 'ImageNet', IGCV3_README,
                                  'errors after retraining, before it 29.4 and 10.3'),
              summary='IGCV3-D as released by its authors'),
    ModelSpec('igcv3_wider', 'igcv3', igcv3_mxnet, IMAGENET, dict(script='igcv3_wider'),
              summary='wider instead of deeper, MXNet script'),
    ModelSpec('igcv3_g2g4', 'igcv3', igcv3_mxnet, IMAGENET, dict(script='igcv3_g2g4'),
              summary='2 and 4 groups, MXNet script'),
    ModelSpec('igcv3_cifar10', 'igcv3', igcv3, CIFAR10, dict(classes=10),
              Published(2.4, None, 5.04, None, 'CIFAR-10', IGCV3_README,
                        'printed parameters fit 100 classes with running statistics')),
    ModelSpec('igcv3_cifar100', 'igcv3', igcv3, CIFAR100, dict(classes=100),
              Published(2.4, None, 22.05, None, 'CIFAR-100', IGCV3_README,
                        'printed parameters are 2.403 M with running statistics')),
    *_ratio_specs('0.7', 0.80, 1.7, (5.08, 22.17)),
    *_ratio_specs('0.5', 0.64, 1.2, (5.27, 22.71)),
    *cifar_specs('igcv3', igcv3, '_w0.75', width=0.75),
    *cifar_specs('igcv3', igcv3, '_w0.5', width=0.5),
    *cifar_specs('igcv3', igcv3, '_w0.25', width=0.25),
    ModelSpec('igcv3_imagenet', 'igcv3', igcv3, IMAGENET, IMAGENET_FORM),
    *(ModelSpec('igcv3_w%g_imagenet' % width, 'igcv3', igcv3, IMAGENET,
                dict(width=width, **IMAGENET_FORM)) for width in (0.75, 0.5, 0.25)),
]
