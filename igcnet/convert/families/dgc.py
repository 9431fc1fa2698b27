"""Names in the checkpoints of zhuogege1943/dgc, and of torchvision's ResNet-18.

The blocks of `igcnet.models.dgc`, `densenet` and `resnet` carry the original's names. What is
called otherwise: the parameters of BN and the inactive channels; the last BN of dydensenet and
everything in the ResNets stand outside ``features``; the classifier. All shapes are equal on both
sides.
"""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from igcnet.errors import UsageError
from igcnet.layers import Network

WRAPPER = {
    # Entry of the file that holds the parameters.
    'state_dict': 'state_dict',
    # What the keys may begin with: the training script saves the multi-GPU wrapper. The first
    # one is written.
    'prefixes': ('module.', ''),
    # Entries beside it that may be there: the finished epoch, counted from 0; the best top-1
    # accuracy in percent; SGD's state, which the published files do not have.
    'others': ('epoch', 'best_prec1', 'optimizer'),
    # Entries beside it to write, as `torch_others` gives them. The original stops at the first
    # that is missing, and resumes with epoch + 1.
    'written': ('epoch', 'best_prec1'),
    # Last parts of keys that mean nothing here: torch counts the batches of each BN.
    'ignored': ('num_batches_tracked',),
}

_PARAMETERS = {'gamma': 'weight', 'beta': 'bias', 'inactive_channels': '_inactive_channels'}


def torch_names(net: Network) -> Dict[str, str]:
    """Key in the original's state_dict for every parameter path of `net`, or of a lone layer.

    Raises
    ------
    UsageError
        `net` has the static form.
    """
    paths = list(net._collect_params_with_prefix())
    if any(path.endswith('.chosen') for path in paths):
        raise UsageError('a network with static selection: the original has no such form')
    return {path: _torch_name(net, path) for path in paths}


def torch_extras(net: Network) -> Dict[str, np.ndarray]:
    """``num_batches_tracked`` of every BN, 0."""
    norms = (key[:-len('running_var')] for key in torch_names(net).values()
             if key.endswith('.running_var'))
    return {norm + 'num_batches_tracked': np.zeros((), np.int64) for norm in norms}


def torch_others(net: Network) -> Dict[str, Any]:
    """The entries beside the state_dict of a network before its first epoch."""
    return {'epoch': -1, 'best_prec1': 0.0}


def _torch_name(net: Network, path: str) -> str:
    block, dot, parameter = path.rpartition('.')
    if block == 'output':
        block = net.output.name
    elif block == 'features.bn_last' or block.startswith('features.') and hasattr(
            net.features, 'layer1'):
        block = block[len('features.'):]
    return block + dot + _PARAMETERS.get(parameter, parameter)
