"""Names in the MobileNet checkpoints of clavichord93/MENet: by the rules of its MENet.

No such checkpoint is published, so they are written as a present torch writes them, with the
counter of batches in each BN.
"""

from __future__ import annotations

from typing import Dict

import numpy as np

from igcnet.convert.families.menet import WRAPPER, torch_names
from igcnet.layers import Network

__all__ = ['WRAPPER', 'torch_extras', 'torch_names']


def torch_extras(net: Network) -> Dict[str, np.ndarray]:
    """``num_batches_tracked`` of every BN, 0."""
    norms = (path[:-len('running_var')] for path in net._collect_params_with_prefix()
             if path.endswith('.running_var'))
    return {norm + 'num_batches_tracked': np.zeros((), np.int64) for norm in norms}
