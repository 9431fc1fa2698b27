"""Channels of a map brought nearer to one size, for eight bits.

A map has one step for all its channels, so channels of small values are coarse beside those of
large ones. Between convolutions there is often nothing that minds a positive factor on a channel:
ReLU, pooling, shuffles, sums of maps that have the same factor. The convolution that writes the
channel takes the factor into a row of its weight, those that read it the inverse into a column.
Rows have steps of their own, and so do the channels of channel-wise convolutions; only for a
reader that mixes channels must map and columns share what there is to gain.

After Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(arXiv 1906.04721), and, for measuring the maps and halving between map and weight, Xiao et al.,
SmoothQuant (arXiv 2211.10438).
"""

from __future__ import annotations

from typing import Dict, Mapping, Set

import numpy as np

from igcnet.deploy.model import Editor, Model, Shape
from igcnet.deploy.rewrites.kernels import (
    attributes_of,
    bias_of,
    is_channelwise,
    is_plain_convolution,
    store,
)
from igcnet.deploy.rewrites.shuffles import shuffle_order

# What is taken from the differences of a map's channels, as an exponent, where a reader mixes them.
STRENGTH = 0.75
SMALLEST = 1 / 256  # part of a map's largest channel below which all are treated alike
SUMS = ('elemwise_add', 'elemwise_sub', 'add_n')


def equalise_channels(model: Model, sizes: Mapping[str, np.ndarray]) -> Model:
    """Bring the channels of maps nearer to the largest of each map.

    Exact but for rounding. Channels on which something else works than ReLU, pooling, shuffles,
    sums and gates stay as they are: behind a ReLU6, say.

    Parameters
    ----------
    sizes : mapping
        Of every map by name: how large each channel gets, see
        `igcnet.deploy.calibration.channel_sizes`.
    """
    editor = Editor(model)
    channels = _Channels(editor, model.shapes())
    factors = channels.factors(sizes)
    for index in editor.find('Convolution', 'FullyConnected'):
        if index not in channels.weighted:
            continue
        weight = editor.value(index, 1).astype(np.float64)
        bias = bias_of(editor, index)
        columns = factors[channels.of(editor.source(index))]
        if editor.nodes[index].op == 'FullyConnected':
            store(editor, index, weight * columns, bias)
            continue
        rows = factors[channels.of(index)]
        groups = attributes_of(editor, index)['num_group']
        columns = np.repeat(columns.reshape(groups, -1), len(weight) // groups, axis=0)
        store(editor, index, weight * (columns / rows[:, None])[:, :, None, None], bias / rows)
    return editor.finish()


class _Channels:
    """Which channels must have one factor in common.

    Every channel of every map has a number; `of` gives one number for all that share a factor.

    Attributes
    ----------
    weighted : set of int
        Convolutions and fully connected layers that can take factors.
    """

    def __init__(self, editor: Editor, shapes: Mapping[str, Shape]):
        self.editor = editor
        self.places: Dict[int, slice] = {}
        self.weighted: Set[int] = set()
        self.read: Dict[int, float] = {}  # map that is rounded -> strength that its readers allow
        self.fixed: Set[int] = set()
        end = 0
        for index, node in enumerate(editor.nodes):
            shape = shapes.get(node.name, ())
            if len(shape) > 1 and index not in editor.values:
                self.places[index] = slice(end, end + shape[1])
                end += shape[1]
        self.parents = list(range(end))
        for index, node in enumerate(editor.nodes):
            if index in self.places and (node.is_variable or not self._understood(index)):
                self._fix(index)
                for source, _ in node.inputs:
                    self._fix(source)
        for index, _ in editor.heads:
            self._fix(index)

    def of(self, index: int) -> np.ndarray:
        """The numbers of a map's channels."""
        places = self.places[index]
        return np.array([self._root(number) for number in range(places.start, places.stop)])

    def factors(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the values of each channel, by its number, are divided by."""
        parts = np.zeros(len(self.parents))
        strengths = np.ones(len(self.parents))
        for index, strength in self.read.items():
            size, numbers = sizes[self.editor.nodes[index].name], self.of(index)
            np.maximum.at(parts, numbers, size / (size.max() or 1))
            np.minimum.at(strengths, numbers, strength)
        factors = np.where(parts > 0, np.maximum(parts, SMALLEST) ** strengths, 1)
        factors[[self._root(number) for number in self.fixed]] = 1
        return factors

    def _understood(self, index: int) -> bool:
        """Tie the channels of a node to those of its inputs; False if they cannot have factors."""
        editor, node = self.editor, self.editor.nodes[index]
        maps = [source for source, _ in node.inputs if source not in editor.values]
        if node.op == 'Convolution' and is_plain_convolution(editor, index):
            self.weighted.add(index)
            self._read_by(maps[0], 1 if is_channelwise(editor, index) else STRENGTH)
        elif node.op == 'FullyConnected' and len(maps) == 1:
            if editor.value(index, 1).shape[1] != len(self.of(maps[0])):
                return False
            self.weighted.add(index)
        elif self._is_homogeneous(index):
            self._tie(index, maps[0])
        elif node.op == 'Reorder':
            order = shuffle_order(len(self.of(index)), node.attributes['branch_factor'])
            self._merge(self.of(index), self.of(maps[0])[order])
        elif node.op == 'Concat' and attributes_of(editor, index)['dim'] == 1:
            self._merge(self.of(index), np.concatenate([self.of(source) for source in maps]))
        elif node.op in SUMS and len(maps) == len(node.inputs):
            for source in maps:
                self._tie(index, source)
                self._read_by(source, 1)
        elif node.op == 'elemwise_mul' and len(maps) == 2:
            scaled, gate = sorted(maps, key=self._is_fixed)
            self._fix(gate)
            self._tie(index, scaled)
            self._read_by(scaled, 1)
        else:
            return False
        return True

    def _is_homogeneous(self, index: int) -> bool:
        """Whether a node makes, on each channel alone, of k times its input k times its output."""
        node, a = self.editor.nodes[index], attributes_of(self.editor, index)
        source = self.editor.source(index) if node.inputs else -1
        return (node.op in ('relu', 'Pooling') or a.get('act_type') in ('relu', 'leaky')
                or (node.op == 'Flatten' and source in self.places
                    and len(self.of(source)) == len(self.of(index))))

    def _tie(self, one: int, other: int) -> None:
        self._merge(self.of(one), self.of(other))

    def _merge(self, ones: np.ndarray, others: np.ndarray) -> None:
        for one, other in zip(ones, others):
            self.parents[self._root(one)] = self._root(other)

    def _root(self, number: int) -> int:
        parents = self.parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def _is_fixed(self, index: int) -> bool:
        fixed = {self._root(number) for number in self.fixed}
        return not fixed.isdisjoint(self.of(index).tolist())

    def _fix(self, index: int) -> None:
        if index in self.places:
            self.fixed.update(range(self.places[index].start, self.places[index].stop))

    def _read_by(self, index: int, strength: float) -> None:
        self.read[index] = min(strength, self.read.get(index, 1))
