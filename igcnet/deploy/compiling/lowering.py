"""A network's graph as a draft: what every operator does to planes, one after the other."""

from __future__ import annotations

from typing import Dict, Optional, Tuple, Union

import numpy as np

from igcnet.convert.original import INPUT
from igcnet.deploy.compiling.draft import Draft, Each, NoForm
from igcnet.deploy.compiling.operators import OPERATORS
from igcnet.deploy.compiling.tail import Tail, Vector
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.program import CLAMP, NOTHING, SIGMOID
from igcnet.deploy.rewrites.kernels import attributes_of
from igcnet.errors import UsageError

# A map: the plane of each channel.
Value = Union[np.ndarray, Vector]
Numbers = Union[float, np.ndarray]


def lower(model: Model) -> Draft:
    """The draft that computes a network.

    Raises
    ------
    UsageError
        A node has no native form; the message names it.
    """
    return Lowering(model).draft


class Lowering:
    """The state of lowering: the value of every node so far, and the draft that computes it.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model):
        self.editor, self.shapes = Editor(model), model.shapes()
        self.draft = Draft(model.image_shape)
        self.tail = Tail(self.draft)
        self.values: Dict[Tuple[int, int], Value] = {}
        for index, node in enumerate(self.editor.nodes):
            if index in self.editor.values:
                continue
            try:
                self._do(index)
                if (index, 0) in model.graph.heads:
                    self._finish(index)
            except NoForm as problem:
                raise UsageError('%s (%s): no native form%s' % (
                    node.name, node.op, ''.join(': %s' % word for word in problem.args))) from None

    def _do(self, index: int) -> None:
        node = self.editor.nodes[index]
        if node.is_variable:
            self.values[index, 0] = self._image(node.name)
            return
        handle = OPERATORS.get(node.op)
        if handle is None:
            raise NoForm()
        found = handle(self, index)
        for output, value in enumerate(found if isinstance(found, list) else [found]):
            self.values[index, output] = value

    def _finish(self, index: int) -> None:
        if len(self.shapes[self.editor.nodes[index].name]) != 2:
            raise NoForm('the output is no vector of logits')
        self.tail.finish(self.vector_of(self.values[index, 0]))

    def _image(self, name: str) -> np.ndarray:
        if name != INPUT:
            raise NoForm('it has no value')
        channels, height, width = self.draft.image_shape
        size = self.draft.size(height, width)
        return np.array([self.draft.image_view(channel, 1, 0, 0, size)
                         for channel in range(channels)], np.int32)

    # What handlers ask for.

    def input(self, index: int, place: int = 0) -> Value:
        """A map or vector that a node reads."""
        link = self.editor.nodes[index].inputs[place]
        if link not in self.values:
            raise NoForm('it computes with a parameter')
        return self.values[link]

    def planes(self, index: int, place: int = 0) -> np.ndarray:
        """A map that a node reads."""
        found = self.input(index, place)
        if isinstance(found, Vector):
            raise NoForm('its input is no map any more')
        return found

    def attributes(self, index: int) -> dict:
        """The attributes of a node with defaults filled in."""
        return attributes_of(self.editor, index)

    def vector_of(self, value: Value) -> Vector:
        """A value as a vector; a map must be of single pixels."""
        if isinstance(value, Vector):
            return value
        if self.extent(value) != (1, 1):
            raise NoForm('a map is read as a vector')
        return self.tail.mean(value, self.draft.size_of[value[0]])

    def vector(self, index: int) -> Vector:
        """What a node reads, as a vector."""
        return self.vector_of(self.input(index))

    def extent(self, planes: np.ndarray) -> Tuple[int, int]:
        """Height and width of a map."""
        return self.draft.extents[self.draft.size_of[planes[0]]]

    def output_extent(self, index: int) -> Tuple[int, int]:
        """Height and width of the map that a node writes."""
        return tuple(self.shapes[self.editor.nodes[index].name][2:])

    def nonnegative(self, planes: np.ndarray) -> np.ndarray:
        """Of each plane whether no pixel can be below 0."""
        return np.array(self.draft.nonnegative)[planes]

    def each(self, planes: np.ndarray, scale: Numbers = 1.0, shift: Numbers = 0.0,
             adds: Optional[np.ndarray] = None, factors: Optional[np.ndarray] = None,
             activation: str = CLAMP, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
        """A step that works on each plane of a map by itself; the planes that it writes.

        Parameters
        ----------
        planes : numpy.ndarray
            The map.
        scale, shift : float or numpy.ndarray
            One number for all planes or one for each.
        adds, factors, activation, low, high
            As of `Each`.
        """
        scale, shift = (np.broadcast_to(values, len(planes)) for values in (scale, shift))
        nonnegative = np.full(len(planes), activation == SIGMOID or low >= 0)
        if not nonnegative.all() and activation == CLAMP:
            nonnegative = (self.nonnegative(planes) & (scale >= 0) & (shift >= 0) & (high >= 0)
                           & (True if adds is None else self.nonnegative(adds)))
        if factors is not None:
            nonnegative = nonnegative & self.nonnegative(factors)
        size = self.draft.size_of[planes[0]]
        outs = self.draft.new_planes(len(planes), size, nonnegative)
        nothing = np.full(len(planes), NOTHING, np.int32)
        self.draft.steps.append(Each(
            size, planes, scale, shift, nothing if adds is None else adds,
            nothing if factors is None else factors, outs, activation, low, high))
        return outs

    def affine(self, index: int, scale: Numbers = 1.0, shift: Numbers = 0.0) -> Value:
        """What node `index` reads, with a scale and a shift for each channel."""
        found = self.input(index)
        if isinstance(found, Vector):
            return found.affine(scale, shift)
        return self.each(found, scale, shift)

    def clamped(self, index: int, low: float, high: float) -> Value:
        """What node `index` reads, between the limits `low` and `high`."""
        found = self.input(index)
        if isinstance(found, Vector):
            return self.tail.clamp(found, low, high)
        return self.each(found, low=low, high=high)
