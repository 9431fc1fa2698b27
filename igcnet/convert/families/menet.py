"""Names in the MENet checkpoints of clavichord93/MENet, whose other networks follow them.

The blocks of `igcnet.models.menet` carry the original's names, so that only the classifier and
the parameters of BN are called otherwise. All shapes are equal on both sides.
"""

from __future__ import annotations

from typing import Dict

import numpy as np

from igcnet.layers import Network

WRAPPER = {
    # Entry of the file that holds the parameters.
    'state_dict': 'state_dict',
    # What the keys may begin with: training checkpoints come from a multi-GPU wrapper.
    'prefixes': ('', 'module.'),
    # Entries beside it that may be there: 'name' in published files (the network's label, such
    # as 128-MENet-8x1-group-4), the others in training checkpoints.
    'others': ('name', 'model_name', 'optimizer', 'last_epoch', 'best_prec1'),
    # Entries beside it to write: the original's evaluation prints the name. Without a prefix.
    'written': ('name',),
    # Last parts of keys that mean nothing here: a present torch counts the batches of each BN.
    'ignored': ('num_batches_tracked',),
}

_PARAMETERS = {'gamma': 'weight', 'beta': 'bias'}


def torch_names(net: Network) -> Dict[str, str]:
    """Key in the original's state_dict for every parameter path of `net`."""
    return {path: _torch_name(path) for path in net._collect_params_with_prefix()}


def torch_extras(net: Network) -> Dict[str, np.ndarray]:
    """None: the published files are older than ``num_batches_tracked``, and load without it."""
    return {}


def _torch_name(path: str) -> str:
    block, parameter = path.rsplit('.', 1)
    return '%s.%s' % ('classifier' if block == 'output' else block,
                      _PARAMETERS.get(parameter, parameter))
