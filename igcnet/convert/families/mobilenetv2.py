"""Key map of MobileNetV2 to the checkpoints of xxradon/IGCV3-pytorch.

All tensors have the same shapes on both sides. The checkpoints of homles11/IGCV3 need no map:
their ``arg:`` and ``aux:`` keys are our parameter names.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping

import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.errors import UsageError

WRAPPER = {
    # Entry of the file that holds the parameters. The optional pretrained file of the trainer is
    # that dictionary alone.
    'state_dict': 'state_dict',
    # What the keys may begin with: the trainer uses no multi-GPU wrapper.
    'prefixes': ('',),
    # Entries beside it that may be there: the next epoch to run, the best training accuracy
    # (0..1), SGD's or RMSprop's state.
    'others': ('epoch', 'best_top1', 'optimizer'),
    # Entries beside it to write, as `torch_others` gives them.
    'written': ('epoch', 'best_top1', 'optimizer'),
    # Last parts of keys that mean nothing here: a present torch counts the batches of each BN.
    'ignored': ('num_batches_tracked',),
    # PyTorch 0.3.1 reads no zip files.
    'container': 'legacy',
}

# Positions of the modules in a block's ``conv`` sequence: convolution, its BN follows.
BLOCK_POSITIONS = {'exp': 0, 'depthwise': 3, 'linear': 6}

LEAVES = {'weight': 'weight', 'bias': 'bias', 'gamma': 'weight', 'beta': 'bias',
          'running_mean': 'running_mean', 'running_var': 'running_var'}
BLOCK = re.compile(r'features\.seq(\d+)\.block(\d+)\.(exp|depthwise|linear)\.(conv|bn)\.(\w+)')
END = re.compile(r'features\.(stem|last)\.(conv|bn)\.(\w+)')


def torch_names(net: HybridBlock) -> Dict[str, str]:
    """The original's key for every parameter under its attribute path.

    Raises
    ------
    UsageError
        The network has no first expansion, which the original always has.
    """
    if net.features.seq0.block0.exp is None:
        raise UsageError('a MobileNetV2 without its first expansion has no PyTorch original')
    return inverted_residual_names(net, BLOCK_POSITIONS)


def torch_extras(net: HybridBlock) -> Dict[str, np.ndarray]:
    """None: the original's PyTorch 0.3.1 had no ``num_batches_tracked``."""
    return {}


def torch_others(net: HybridBlock) -> Dict[str, Any]:
    """The entries beside the state_dict of a checkpoint before the first step.

    The optimiser is that of the shipped configuration, without buffers.
    """
    trained = sum(p.grad_req != 'null' for p in net.collect_params().values())
    group = dict(lr=0.1, momentum=0.9, dampening=0, weight_decay=0.0005, nesterov=False,
                 params=list(range(trained)))
    return {'epoch': 0, 'best_top1': 0.0, 'optimizer': {'state': {}, 'param_groups': [group]}}


def inverted_residual_names(net: HybridBlock, positions: Mapping[str, int]) -> Dict[str, str]:
    """Keys of a network of inverted residual blocks.

    The original counts the stem as ``features.0``, then the blocks of all stages from 1, then
    the last convolution.

    Parameters
    ----------
    positions : mapping
        Index of each convolution in a block's sequence.
    """
    starts, total = [], 1
    for stage in net.stages:
        starts.append(total)
        total += len(getattr(net.features, stage.name))
    ends = {'stem': 0, 'last': total}
    names = {}
    for path in net._collect_params_with_prefix():
        block, end = BLOCK.fullmatch(path), END.fullmatch(path)
        leaf = LEAVES[path.rpartition('.')[2]]
        if block:
            stage, number, part, kind, _ = block.groups()
            names[path] = 'features.%d.conv.%d.%s' % (
                starts[int(stage)] + int(number), positions[part] + (kind == 'bn'), leaf)
        elif end:
            part, kind, _ = end.groups()
            names[path] = 'features.%d.%d.%s' % (ends[part], kind == 'bn', leaf)
        else:
            names[path] = 'classifier.1.' + leaf
    return names
