"""The linear map of a convolution or fully connected layer, and what can be done to its channels.

Where channels are permuted, a grouped convolution need not stay one: its weight is spread over
all input channels, with the structure of the zeros beside it, and gathered into as many groups
as the structure still has.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import numpy as np

from igcnet.convert.operators import effective_attributes
from igcnet.deploy.model import Editor

EMPTY = -1  # in a list of channels: one that is 0


class Kernel(NamedTuple):
    """A linear map with its structure.

    Parameters
    ----------
    weight : (channels, in_channels, kh, kw)
        Spread over all input channels.
    used : (channels, in_channels)
        Where the groups meet; elsewhere `weight` is 0.
    bias : (channels,)
    """

    weight: np.ndarray
    used: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, editor: Editor, index: int) -> Kernel:
        """The kernel of a Convolution."""
        groups = attributes_of(editor, index)['num_group']
        weight = editor.value(index, 1)
        channels, inputs = weight.shape[:2]
        width = channels // groups
        whole = np.zeros((channels, groups * inputs, *weight.shape[2:]), np.float32)
        used = np.zeros((channels, groups * inputs), bool)
        for group in range(groups):
            block = (slice(group * width, (group + 1) * width),
                     slice(group * inputs, (group + 1) * inputs))
            whole[block] = weight[block[0]]
            used[block] = True
        return cls(whole, used, bias_of(editor, index))

    def outputs(self, order: Sequence[int]) -> Kernel:
        """Output channel i becomes the former ``order[i]``, or 0 where that is `EMPTY`."""
        return Kernel(*(_gather(array, order, 0) for array in self))

    def inputs(self, order: Sequence[int]) -> Kernel:
        """Input channel i becomes the former ``order[i]``, or one without effect."""
        return Kernel(_gather(self.weight, order, 1), _gather(self.used, order, 1), self.bias)

    def groups(self) -> int:
        """The largest number of groups in which it can be computed."""
        channels, inputs = self.used.shape
        for groups in range(int(np.gcd(channels, inputs)), 1, -1):
            if channels % groups == inputs % groups == 0:
                blocks = self.used.reshape(groups, channels // groups, groups, -1).any((1, 3))
                if not (blocks & ~np.eye(groups, dtype=bool)).any():
                    return groups
        return 1

    def store(self, editor: Editor, index: int, groups: Optional[int] = None) -> None:
        """Make it the kernel of a Convolution, in as many groups as it has or as are given."""
        groups = groups or self.groups()
        channels, inputs = self.used.shape
        height, width = channels // groups, inputs // groups
        weight = np.concatenate([
            self.weight[group * height:(group + 1) * height, group * width:(group + 1) * width]
            for group in range(groups)])
        node = editor.nodes[index]
        store(editor, index, weight, self.bias,
              {**node.attributes, 'num_filter': channels, 'num_group': groups})


def store(editor: Editor, index: int, weight: np.ndarray, bias: np.ndarray,
          attributes: Optional[dict] = None) -> None:
    """Give the Convolution or FullyConnected number `index` another weight and bias (none if all is
    0), and other `attributes` if there are any."""
    node = editor.nodes[index]
    attributes = dict(attributes or node.attributes, no_bias=not bias.any())
    inputs = [editor.source(index), editor.add_parameter(node.name + '_weight', weight)]
    if bias.any():
        inputs.append(editor.add_parameter(node.name + '_bias', bias))
    editor.change(index, attributes, inputs)


def bias_of(editor: Editor, index: int) -> np.ndarray:
    """The bias of a Convolution or FullyConnected, 0 where it has none."""
    if len(editor.nodes[index].inputs) > 2:
        return editor.value(index, 2)
    return np.zeros(len(editor.value(index, 1)), np.float32)


def attributes_of(editor: Editor, index: int) -> dict:
    """The attributes of a node with defaults filled in."""
    node = editor.nodes[index]
    return effective_attributes(node.op, node.attributes)


def is_plain_convolution(editor: Editor, index: int) -> bool:
    """Whether a node is a 2-D convolution, NCHW, whose weight and bias are parameters."""
    node = editor.nodes[index]
    return (node.op == 'Convolution' and len(node.attributes['kernel']) == 2
            and attributes_of(editor, index)['layout'] == 'NCHW'
            and all(source in editor.values for source, _ in node.inputs[1:]))


def is_channelwise(editor: Editor, index: int) -> bool:
    """Whether a plain convolution makes each output channel of the same input channel."""
    shape = editor.value(index, 1).shape
    return shape[1] == 1 and attributes_of(editor, index)['num_group'] == shape[0]


def is_pointwise(editor: Editor, index: int) -> bool:
    """Whether a plain convolution is 1x1 with stride 1 and without padding."""
    a = attributes_of(editor, index)
    return a['kernel'] == a['stride'] == (1, 1) and a['pad'] == (0, 0)


def _gather(array: np.ndarray, order: Sequence[int], axis: int) -> np.ndarray:
    order = np.asarray(order)
    taken = np.take(array, np.maximum(order, 0), axis)
    if (order == EMPTY).any():
        taken[(slice(None),) * axis + (order == EMPTY,)] = 0
    return taken
