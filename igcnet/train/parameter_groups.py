"""Which parameters learn, and how fast and how strongly decayed each of them is."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Dict, List, Sequence

from mxnet.gluon import HybridBlock, Parameter

from igcnet.errors import UsageError
from igcnet.layers.basic import BatchNorm
from igcnet.layers.slimmable import SlimmableBatchNorm
from igcnet.train.recipes import Recipe


def learned(net: HybridBlock) -> List[Parameter]:
    """The parameters that get gradients: neither running statistics nor frozen ones."""
    return [p for p in net.collect_params().values() if p.grad_req != 'null']


def matching(net: HybridBlock, pattern: str, option: str) -> Dict[str, Parameter]:
    """The parameters whose names match `pattern`, in which ``*``, ``?`` and ``[...]`` are wild.

    Raises
    ------
    UsageError
        There is none; `option` begins the message.
    """
    parameters = net.collect_params()
    found = {name: p for name, p in parameters.items() if fnmatchcase(name, pattern)}
    if not found:
        names = list(parameters)
        raise UsageError('%s %s: no parameter of the network has such a name; they are %s, ..., %s'
                         % (option, pattern, ', '.join(names[:3]), names[-1]))
    return found


def set_multipliers(net: HybridBlock, recipe: Recipe) -> None:
    """Set ``wd_mult`` and ``lr_mult`` of every parameter as the recipe says."""
    for name, parameter in net.collect_params().items():
        parameter.wd_mult = 1.0 if _decayed(name, parameter.shape, recipe.decay) else 0.0
        parameter.lr_mult = 1.0
    for key in ('wd_mult', 'lr_mult'):
        for pattern, factor in getattr(recipe, key).items():
            for parameter in matching(net, pattern, key).values():
                setattr(parameter, key, factor)


def _decayed(name: str, shape, decay: str) -> bool:
    if decay == 'all':
        return True
    if decay == 'weights-and-gamma':
        return name.endswith(('_weight', '_gamma'))
    if not name.endswith('_weight'):
        return False
    # MutualNet's rule goes by the shape: a depthwise convolution has one input channel a group.
    return decay == 'weights' or len(shape) == 2 or shape[1] != 1


def freeze(net: HybridBlock, patterns: Sequence[str]) -> List[str]:
    """Keep the parameters that match any of `patterns` as they are; returns their names.

    They get no gradient, so they are neither updated nor decayed. A BN layer of which scale and
    shift are both frozen also keeps its running statistics, and normalises by them in training.

    Raises
    ------
    UsageError
        A pattern without a parameter, nothing is left to learn, or BN of a slimmable network.
    """
    if not patterns:
        return []
    frozen: Dict[str, Parameter] = {}
    for pattern in patterns:
        frozen.update(matching(net, pattern, '--freeze'))
    for parameter in frozen.values():
        parameter.grad_req = 'null'
    if not learned(net):
        raise UsageError('--freeze %s: no parameter is left to learn' % ','.join(patterns))
    net.apply(_fix_statistics)
    return list(frozen)


def _fix_statistics(block) -> None:
    if isinstance(block, (BatchNorm, SlimmableBatchNorm)):
        fixed = block.gamma.grad_req == block.beta.grad_req == 'null'
        if fixed and isinstance(block, SlimmableBatchNorm):
            raise UsageError('--freeze: %s has statistics of its own for each width, which cannot '
                             'be kept; freeze the weights alone, such as *_weight' % block.name)
        block.use_running_statistics = fixed
