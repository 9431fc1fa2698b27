"""The groups of a convolution: outputs that read the same planes."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List

import numpy as np

from igcnet.deploy.compiling.draft import outputs_of
from igcnet.deploy.program import NOTHING, Group

# A group whose outputs read different planes becomes several if that leaves out so much.
WORTH_SPLITTING = 0.7


def make_groups(sources: np.ndarray, weight: np.ndarray, bias: np.ndarray, outs: np.ndarray
                ) -> List[Group]:
    """Outputs of the same sources, without sums or products, without weights that are 0.

    Parameters
    ----------
    sources : numpy.ndarray
        int32 (K, 3), as of `Group`; may name the same pixel twice.
    weight : numpy.ndarray
        (O, K)
    bias, outs : numpy.ndarray
        (O,)
    """
    nothing = np.full(len(outs), NOTHING, np.int32)
    group = Group(sources, weight, bias, outs, nothing, nothing)
    if len(set(map(tuple, sources.tolist()))) < len(sources):
        unique, place = np.unique(sources, axis=0, return_inverse=True)
        joined = np.zeros((len(outs), len(unique)), weight.dtype)
        np.add.at(joined.T, place.ravel(), weight.T)
        group = replace(group, sources=unique, weight=joined)
    return [_compact(part) for part in _split(group)]


def merge_alike(groups: List[Group]) -> List[Group]:
    """Groups with the same sources become one."""
    found: Dict[bytes, List[Group]] = {}
    for group in groups:
        found.setdefault(group.sources.tobytes(), []).append(group)
    return [same[0] if len(same) == 1 else Group(
        same[0].sources, *(np.concatenate([getattr(group, name) for group in same])
                           for name in ('weight', 'bias', 'outs', 'adds', 'factors')))
            for same in found.values()]


def _split(group: Group) -> List[Group]:
    """By the planes whose weights are not 0, where most are; else as it is."""
    if len(group.outs) == 1 or (group.weight != 0).all():
        return [group]
    order = np.argsort(group.sources[:, 0], kind='stable')
    starts = np.flatnonzero(np.diff(group.sources[order, 0], prepend=-1))
    used = np.add.reduceat(group.weight[:, order] != 0, starts, axis=1) > 0
    patterns, place = np.unique(used, axis=0, return_inverse=True)
    if len(patterns) == 1 or used.mean() > WORTH_SPLITTING:
        return [group]
    return [outputs_of(group, place == number) for number in range(len(patterns))]


def _compact(group: Group) -> Group:
    """Without sources that no output weighs; at least one stays."""
    used = (group.weight != 0).any(axis=0)
    used[0] |= not used.any()
    if used.all():
        return group
    return replace(group, sources=group.sources[used], weight=group.weight[:, used])
