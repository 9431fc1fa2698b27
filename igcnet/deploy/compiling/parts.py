"""Wide maps written and read part by part, so that each part stays in the cache.

What a 1x1 convolution has widened for a channel-wise one is read once: where the whole of it
would not stay in the cache, the two take turns, some channels at a time, and the planes of one
part are written over by the next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Dict, List, Optional, Set

import numpy as np

from igcnet.deploy.compiling.draft import Draft, Written, outputs_of, planes_read, planes_written
from igcnet.deploy.program import Convolution, Group

BYTES = 768 << 10  # that a part may write: it stays in a second-level cache of 1 MB
TILE = 6  # outputs that the engine computes at once
# A part is worth it if it reads at most so many times the planes that it writes.
MOST_READ = 2.0


def split_into_parts(draft: Draft, most: int = BYTES) -> None:
    """Let convolutions take turns with those that alone read them.

    Parameters
    ----------
    most : int
        Bytes that a part may write; maps that are smaller are not split.
    """
    reads = draft.reads()
    steps: List[Written] = []
    for step in draft.steps:
        parts = steps and _parts(draft, reads, steps[-1], step, most)
        if parts:
            steps.pop()
            steps.extend(parts)
        else:
            steps.append(step)
    draft.steps = steps


def _parts(draft: Draft, reads: Dict[int, int], first: Written, second: Written, most: int
           ) -> Optional[List[Convolution]]:
    """Two convolutions in turns, if the second one's groups read different planes of the first
    one, which nothing else reads."""
    if not (isinstance(first, Convolution) and isinstance(second, Convolution)
            and first.size == second.size):
        return None
    written = set(planes_written(first).tolist())
    needs = [set(planes_read(replace(second, groups=[group])).tolist()) & written
             for group in second.groups]
    times = Counter(planes_read(second).tolist())
    if sum(map(len, needs)) != len(written) or any(
            reads[plane] != times[plane] for plane in written):
        return None
    height, width = draft.extents[first.size]
    plane_bytes = 4 * height * width
    sizes = [len(need) + len(group.outs) for need, group in zip(needs, second.groups)]
    if sum(sizes) * plane_bytes <= most or 0 in map(len, needs):
        return None
    count = max(int(most // (plane_bytes * np.mean(sizes))), 1)
    count = count // TILE * TILE or min(count, TILE)
    found: List[Convolution] = []
    for begin in range(0, len(needs), count):
        wanted = set().union(*needs[begin:begin + count])
        groups = [part for part in (_only(group, wanted) for group in first.groups) if part]
        narrowest = min(len(group.outs) for group in groups)
        if narrowest < min(TILE, min(len(group.outs) for group in first.groups)):
            return None
        found += [replace(first, groups=groups),
                  replace(second, groups=second.groups[begin:begin + count])]
        read = set(planes_read(found[-2]).tolist())
        if len(read) > MOST_READ * sum(sizes[begin:begin + count]):
            return None
    return found if len(found) > 2 else None


def _only(group: Group, planes: Set[int]) -> Optional[Group]:
    kept = np.array([plane in planes for plane in group.outs.tolist()])
    return outputs_of(group, kept) if kept.any() else None
