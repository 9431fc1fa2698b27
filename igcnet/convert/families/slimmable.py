"""Names in the checkpoints of taoyang1122/MutualNet.

All shapes are equal on both sides. The original's ``bn.<i>`` are the running statistics of the
i-th width of its ``width_mult_list``, which the network must have in the same order.
"""

from __future__ import annotations

import re
from typing import Any, Dict

import numpy as np

from igcnet.layers import SlimmableNetwork

WRAPPER = {
    # Entry of the file that holds the parameters.
    'state_dict': 'model',
    # What the keys may begin with: the original always saves its multi-GPU wrapper.
    'prefixes': ('module.', ''),
    # Entries beside it that may be there.
    'others': ('optimizer', 'last_epoch'),
    # Entries beside it to write, as `torch_others` gives them.
    'written': ('optimizer', 'last_epoch'),
    # Last parts of keys that mean nothing here: see `torch_extras`.
    'ignored': ('num_batches_tracked',),
}

# Positions in the original's nn.Sequential of the layers of a block.
_SEPARABLE = {'depthwise': 0, 'depthwise_bn': 1, 'pointwise': 3, 'pointwise_bn': 4}
_INVERTED = {'expand': 0, 'expand_bn': 1, 'depthwise': 3, 'depthwise_bn': 4, 'project': 6,
             'project_bn': 7}
_BOTTLENECK = {'conv1': 0, 'bn1': 1, 'conv2': 3, 'bn2': 4, 'conv3': 6, 'bn3': 7}
_UNIT = {'conv': 0, 'bn': 1}
_PARAMETERS = {'gamma': 'weight', 'beta': 'bias'}


def torch_names(net: SlimmableNetwork) -> Dict[str, str]:
    """Key in the original's state_dict, without ``module.``, for every parameter path."""
    names = {}
    for path in net._collect_params_with_prefix():
        layer, parameter = path.rsplit('.', 1)
        layer, _, statistics = layer.partition('.statistics.')
        key = _layer(net, layer)
        if statistics and statistics != 'every_width':
            key += '.bn.' + statistics
        names[path] = '%s.%s' % (key, _PARAMETERS.get(parameter, parameter))
    return names


def torch_extras(net: SlimmableNetwork) -> Dict[str, np.ndarray]:
    """``num_batches_tracked`` of every set of running statistics.

    0, as in the original for those of a width, which nothing ever counts. It counts the batches
    of the plain BN of MobileNet v2, but uses that number for nothing.
    """
    variance = 'running_var'
    return {key[:-len(variance)] + 'num_batches_tracked': np.zeros((), np.int64)
            for key in torch_names(net).values() if key.endswith('.' + variance)}


def torch_others(net: SlimmableNetwork) -> Dict[str, Any]:
    """The entries beside the state_dict of a checkpoint before the first step.

    The optimiser is that of the shipped configuration of the network: without buffers; for
    ImageNet with a group for each parameter, of which only full convolutions and the classifier
    have weight decay.
    """
    if _is_wide(net):
        shapes = _trained_shapes(net)
        groups = [dict(lr=0.1, momentum=0.9, dampening=0, weight_decay=0.0005, nesterov=True,
                       initial_lr=0.1, params=list(range(len(shapes))))]
    else:
        rate = 0.2 if hasattr(net.features.block1, 'shortcut') else 0.5
        groups = [dict(weight_decay=0.0001 if _decays(shape) else 0, lr=rate, momentum=0.9,
                       nesterov=True, dampening=0, initial_lr=rate, params=[number])
                  for number, shape in enumerate(_trained_shapes(net))]
    return {'optimizer': {'state': {}, 'param_groups': groups}, 'last_epoch': 0}


def _is_wide(net: SlimmableNetwork) -> bool:
    return hasattr(net.features, 'stage1')


def _trained_shapes(net: SlimmableNetwork):
    return [parameter.shape for parameter in net._collect_params_with_prefix().values()
            if parameter.grad_req != 'null']


def _decays(shape) -> bool:
    return len(shape) == 2 or len(shape) == 4 and shape[1] != 1


def _layer(net: SlimmableNetwork, path: str) -> str:
    """The original's name of the layer at our `path`."""
    if _is_wide(net):
        return _wide_layer(path)
    if path == 'output':
        return 'classifier.0'
    _, block, *inner = path.split('.')
    if block in ('stem', 'tail'):
        number = 0 if block == 'stem' else _last_block(net) + 1
        return 'features.%d.%d' % (number, _UNIT[inner[0]])
    number = int(block[len('block'):])
    if inner[0] == 'shortcut':
        return 'features.%d.shortcut.%d' % (number, _UNIT[inner[1]])
    if inner[0] != 'body':
        return 'features.%d.body.%d' % (number, _SEPARABLE[inner[0]])
    if inner[1] in _BOTTLENECK:
        return 'features.%d.body.%d' % (number, _BOTTLENECK[inner[1]])
    position = _INVERTED[inner[1]]
    if not hasattr(getattr(net.features, block).body, 'expand'):
        position -= 3  # a block without expansion lacks the first three layers
    return 'features.%d.body.%d' % (number, position)


def _wide_layer(path: str) -> str:
    if path == 'output':
        return 'fc'
    path = path[len('features.'):]
    match = re.fullmatch(r'stage(\d+)\.block(\d+)\.(\w+)', path)
    if match is None:
        return {'conv': 'conv1', 'bn': 'bn1'}[path]
    stage, block, layer = match.groups()
    return 'block%s.layer.%d.%s' % (stage, int(block) - 1,
                                    'convShortcut' if layer == 'shortcut' else layer)


def _last_block(net: SlimmableNetwork) -> int:
    return max(int(name[len('block'):]) for name in net.features._children
               if name.startswith('block'))
