"""Channel shuffles taken out of the graph.

A shuffle is a permutation of channels. Where only work on single channels lies between it and
the next convolutions, on one side or the other, it becomes a permutation of their weights. A
grouped convolution that takes one in is afterwards grouped in fewer groups or not at all, with
zeros in its weight: more multiply-adds, but no map is moved.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import Kernel, attributes_of, is_pointwise
from igcnet.deploy.rewrites.regions import Region, find_region, rename_channels


def shuffle_order(channels: int, groups: int) -> np.ndarray:
    """The input channel of each output channel of a shuffle."""
    return np.arange(channels).reshape(groups, channels // groups).T.ravel()


def absorb_shuffles(model: Model, way: Callable[[str], str]) -> Model:
    """Take shuffles into convolutions.

    Parameters
    ----------
    way : callable
        Of the name of a shuffle: 'cheapest' takes it into the convolutions on the side where
        that costs fewer multiply-adds; 'free' does so where it costs none; 'duplicate' keeps
        the groups on both sides (see `_duplicate`), or is 'free' where that cannot be done;
        'leave' leaves it.
    """
    editor, shapes = Editor(model), model.shapes()
    for index in editor.find('Reorder'):
        name = editor.nodes[index].name
        chosen = way(name)
        if chosen == 'leave':
            continue
        order = shuffle_order(shapes[name][1], editor.nodes[index].attributes['branch_factor'])
        sides = sorted((side for side in _sides(editor, index, order, shapes)),
                       key=lambda side: side.cost)
        if sides and (chosen == 'cheapest' or sides[0].cost == 0):
            rename_channels(editor, sides[0].region, sides[0].order)
            editor.replace(index, editor.source(index))
        elif chosen == 'duplicate':
            _duplicate(editor, index, order)
    return editor.finish()


class Side(NamedTuple):
    """One side of a shuffle: what would be renamed, how, and the multiply-adds it would add."""

    region: Region
    order: np.ndarray
    cost: int


def _sides(editor: Editor, index: int, order: np.ndarray,
           shapes: Dict[str, Tuple[int, ...]]) -> Iterator[Side]:
    for seed, renaming in ((index, np.argsort(order)), (editor.source(index), order)):
        region = _region(editor, index, seed)
        if region is None:
            continue
        cost = 0
        for border in region.writers + region.readers:
            groups = attributes_of(editor, border).get('num_group', 1)
            if groups > 1:
                kernel = Kernel.of(editor, border)
                renamed = (kernel.outputs if border in region.writers else kernel.inputs)(renaming)
                node = editor.nodes[border]
                whole = kernel.weight.size * int(np.prod(shapes[node.name][2:]))
                cost += whole // renamed.groups() - whole // groups
        yield Side(region, renaming, cost)


def _region(editor: Editor, index: int, seed: int) -> Optional[Region]:
    """The region on one side of a shuffle, if it does not go round it."""
    region = find_region(editor, seed, editor.consumers(), border=index)
    if region is None or (editor.source(index) in region.maps) == (index in region.maps):
        return None
    return region._replace(maps=region.maps - {index})


def _duplicate(editor: Editor, index: int, order: np.ndarray) -> bool:
    """Keep the groups of the convolutions on both sides of a shuffle, as in IGCV3.

    The 1x1 convolution that writes (W groups) and the one that reads (R groups) may have the
    channels between them in any order, if only the reader finds those of each of its groups
    together. Ordered by (group of the reader, group of the writer) the writer has R*W groups.
    Each group of the reader needs every input channel of the writer once, so the input is
    repeated R times: worth it only while that is narrower than what is no longer moved.
    """
    before, behind = (_region(editor, index, seed) for seed in (editor.source(index), index))
    if before is None or behind is None or (
            len(before.writers), len(before.readers), len(behind.writers),
            len(behind.readers)) != (1, 0, 0, 1):
        return False
    (writer,), (reader,) = before.writers, behind.readers
    if editor.nodes[reader].op != 'Convolution' or not is_pointwise(editor, writer):
        return False
    kernel = Kernel.of(editor, writer)
    channels, inputs = kernel.used.shape
    groups, parts = (attributes_of(editor, border)['num_group'] for border in (writer, reader))
    if channels % (groups * parts) or inputs * parts > channels:
        return False
    # The writer's channels as the reader sees them, group by group, sorted by their writer.
    grouped = [sorted(part, key=lambda channel: channel // (channels // groups))
               for part in order.reshape(parts, -1)]
    written = np.concatenate(grouped)
    if (written.reshape(parts, groups, -1) // (channels // groups)
            != np.arange(groups)[:, None]).any():
        return False
    rename_channels(editor, behind, np.argsort(order)[written])
    rename_channels(editor, Region(before.maps - {writer}, [], []), written)
    editor.replace(index, editor.source(index))
    spread = kernel.outputs(written).inputs(list(range(inputs)) * parts)
    own = (np.arange(channels) // (channels // parts))[:, None] == (
        np.arange(inputs * parts) // inputs)
    Kernel(spread.weight * own[:, :, None, None], spread.used & own, spread.bias).store(
        editor, writer)
    repeated = editor.add('Concat', editor.nodes[writer].name + '_repeated',
                          {'num_args': parts, 'dim': 1}, [editor.source(writer)] * parts)
    node = editor.nodes[writer]
    editor.change(writer, node.attributes,
                  [repeated, *(source for source, _ in node.inputs[1:])])
    return True

