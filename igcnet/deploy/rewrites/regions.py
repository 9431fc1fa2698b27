"""Maps whose channels can be put in another order, or padded, all together.

Between two convolutions that mix channels there is often nothing that does: BN, activations,
pooling, channel-wise convolutions, sums and products of maps. The channels of all these maps can
be renamed if the convolutions at the borders rename theirs: those that write take other rows of
their weights, those that read other columns.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from igcnet.deploy.model import Editor
from igcnet.deploy.rewrites.kernels import (
    EMPTY,
    Kernel,
    bias_of,
    is_channelwise,
    is_plain_convolution,
    store,
)

# Work on each channel by itself, and the same on all.
ALIKE = frozenset('''Activation relu sigmoid tanh clip Pooling hard_sigmoid _plus_scalar _mul_scalar
    _minus_scalar _div_scalar _rminus_scalar'''.split())
JOINS = frozenset(['elemwise_add', 'elemwise_sub', 'elemwise_mul', 'add_n'])


class Region(NamedTuple):
    """Maps that share the order of their channels.

    Parameters
    ----------
    maps : set of int
        The nodes that make them.
    writers, readers : list of int
        Convolutions at the borders; among the readers also fully connected layers.
    """

    maps: Set[int]
    writers: List[int]
    readers: List[int]


def find_region(editor: Editor, seed: int, consumers: Dict[int, List[int]],
                border: Optional[int] = None) -> Optional[Region]:
    """The region that the output of node `seed` belongs to; None where it has no clean border.

    Parameters
    ----------
    consumers : dict
        Of the editor.
    border : int, optional
        A node that may stand at the border, whatever it is: a shuffle that is to go.
    """
    maps, writers, readers = set(), [], []
    ahead = [seed]
    while ahead:
        index = ahead.pop()
        if index in maps:
            continue
        maps.add(index)
        if index != border:
            if _mixes(editor, index):
                writers.append(index)
            elif not _keeps_channels(editor, index):
                return None
            else:
                ahead.extend(_map_inputs(editor, index))
        for consumer in consumers.get(index, ()):
            if consumer == border:
                continue
            if consumer == -1:
                return None
            if _mixes(editor, consumer) or _is_classifier(editor, consumer, consumers):
                if editor.source(consumer) != index:
                    return None
                readers.append(consumer)
            elif _keeps_channels(editor, consumer):
                ahead.append(consumer)
            else:
                return None
    return Region(maps, writers, readers)


def rename_channels(editor: Editor, region: Region, order: Sequence[int]) -> None:
    """Channel i of every map of the region becomes the former ``order[i]``, 0 if it is `EMPTY`.

    An `EMPTY` channel need not stay 0 on its way through the region; no border reads it.
    """
    order = np.asarray(order)
    for index in region.writers:
        Kernel.of(editor, index).outputs(order).store(editor, index)
    for index in region.readers:
        if editor.nodes[index].op == 'Convolution':
            Kernel.of(editor, index).inputs(order).store(editor, index)
        else:
            _rename_columns(editor, _dense_behind(editor, index), order)
    for index in region.maps - set(region.writers):
        node = editor.nodes[index]
        if node.op == 'Convolution':
            weight, bias = (_padded(array, order) for array in (editor.value(index, 1),
                                                                bias_of(editor, index)))
            store(editor, index, weight, bias, {**node.attributes, 'num_filter': len(order),
                                                'num_group': len(order)})
        elif node.op == 'BatchNorm':
            parameters = [
                editor.add_parameter('%s_%s' % (node.name, name),
                                     _padded(editor.value(index, place), order, fill))
                for place, (name, fill) in enumerate((('gamma', 0), ('beta', 0), (
                    'moving_mean', 0), ('moving_var', 1)), 1)]
            editor.change(index, node.attributes, [editor.source(index), *parameters])


def _mixes(editor: Editor, index: int) -> bool:
    return is_plain_convolution(editor, index) and not is_channelwise(editor, index)


def _keeps_channels(editor: Editor, index: int) -> bool:
    node = editor.nodes[index]
    if node.op == 'Convolution':
        return is_plain_convolution(editor, index) and is_channelwise(editor, index)
    if node.op == 'BatchNorm':
        return (not node.attributes.get('output_mean_var') and node.attributes.get('axis', 1) == 1
                and all(source in editor.values for source, _ in node.inputs[1:]))
    if node.op in JOINS:
        return not any(source in editor.values for source, _ in node.inputs)
    return node.op in ALIKE


def _map_inputs(editor: Editor, index: int) -> List[int]:
    node = editor.nodes[index]
    return [source for source, _ in (node.inputs if node.op in JOINS else node.inputs[:1])]


def _is_classifier(editor: Editor, index: int, consumers: Dict[int, List[int]]) -> bool:
    """Whether a node is a fully connected layer, or the flattening before a single one."""
    dense = index
    if editor.nodes[index].op == 'Flatten':
        behind = consumers.get(index, [])
        dense = behind[0] if len(behind) == 1 else -1
    return dense >= 0 and editor.nodes[dense].op == 'FullyConnected' and all(
        source in editor.values for source, _ in editor.nodes[dense].inputs[1:])


def _dense_behind(editor: Editor, index: int) -> int:
    if editor.nodes[index].op == 'FullyConnected':
        return index
    return next(number for number in editor.find('FullyConnected')
                if editor.source(number) == index)


def _rename_columns(editor: Editor, index: int, order: np.ndarray) -> None:
    weight = editor.value(index, 1)
    channels = len(set(order.tolist()) - {EMPTY})
    columns = _padded(np.moveaxis(weight.reshape(len(weight), channels, -1), 1, 0), order)
    store(editor, index, np.moveaxis(columns, 0, 1).reshape(len(weight), -1),
          bias_of(editor, index))


def _padded(array: np.ndarray, order: np.ndarray, fill: float = 0) -> np.ndarray:
    taken = array[np.maximum(order, 0)]
    taken[order == EMPTY] = fill
    return taken
