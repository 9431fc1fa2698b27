"""Key map of IGCV3 to the checkpoints of xxradon/IGCV3-pytorch.

All tensors have the same shapes on both sides. The checkpoints of homles11/IGCV3 need no map:
their ``arg:`` and ``aux:`` keys are our parameter names.
"""

from __future__ import annotations

from typing import Dict

from mxnet.gluon import HybridBlock

from igcnet.convert.families.mobilenetv2 import (
    WRAPPER,
    inverted_residual_names,
    torch_extras,
    torch_others,
)
from igcnet.errors import UsageError
from igcnet.layers.inverted_residual import InvertedResidual
from igcnet.models.igcv3 import PAPER_FORM

__all__ = ['WRAPPER', 'torch_extras', 'torch_names', 'torch_others']

# Positions of the modules in a block's ``conv`` sequence: convolution, its BN follows. The
# shuffles are modules 3 and 9.
BLOCK_POSITIONS = {'exp': 0, 'depthwise': 4, 'linear': 7}


def torch_names(net: HybridBlock) -> Dict[str, str]:
    """The original's key for every parameter under its attribute path.

    Raises
    ------
    UsageError
        The network is one of the MXNet forms. At width 1 the keys and shapes would fit, but the
        same parameters are another function there.
    """
    block = net.features.seq0.block0
    if not isinstance(block, InvertedResidual) or block.form != PAPER_FORM:
        raise UsageError('this form of IGCV3 is another function of its parameters than the '
                         "PyTorch original, so no checkpoint moves between them; build 'igcv3'")
    return inverted_residual_names(net, BLOCK_POSITIONS)
