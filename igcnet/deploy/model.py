"""A network as plain data: its graph, its parameters, and the size of its input.

This is what `igcnet.deploy.rewrites` turn into a model that computes the same, and what the
runtimes run. The channel shuffles are single nodes (``Reorder``, see `igcnet.convert.reorder`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert import checkpoint_arrays, expand, fold, to_graph
from igcnet.convert.original import INPUT
from igcnet.convert.parameters import parameter_name
from igcnet.convert.symbol_json import VARIABLE, Graph, Node, to_json, to_mxnet
from igcnet.errors import UsageError

Shape = Tuple[int, ...]
Link = Tuple[int, int]


@dataclass(frozen=True)
class Model:
    """A network in inference mode.

    Parameters
    ----------
    graph : Graph
        Its input is the variable ``data``, its one output are the logits; no two nodes have the
        same name.
    arrays : dict
        Value of every other variable by name, float32.
    image_shape : tuple of int
        (channels, height, width) of one input image.
    """

    graph: Graph
    arrays: Dict[str, np.ndarray]
    image_shape: Shape

    @classmethod
    def of(cls, net: HybridBlock, input_size: Optional[int] = None) -> Model:
        """A network of ours with its present parameters.

        Parameters
        ----------
        input_size : int, optional
            Height and width of the images; by default what the network was made for.

        Raises
        ------
        UsageError
            Images of this size do not fit, or parameters have no value yet.
        """
        size = input_size or net.input_size
        graph = to_graph(net, head=False)
        arrays = {parameter_name(key): array.astype(np.float32)
                  for key, array in checkpoint_arrays(net, graph).items()}
        model = Editor(cls(fold(graph), arrays, (3, size, size))).finish()
        try:
            fits = all(min(shape, default=1) > 0 for shape in model.shapes().values())
        except mx.MXNetError:
            fits = False
        if not fits:
            raise UsageError('images of %dx%d do not fit the network' % (size, size))
        return model

    def batch_shape(self, batch_size: int = 1) -> Shape:
        """Shape of a batch of images."""
        return (batch_size, *self.image_shape)

    def shapes(self, batch_size: int = 1) -> Dict[str, Shape]:
        """Shape of the first output of every node by name, variables included."""
        internals = to_mxnet(expand(self.graph)).get_internals()
        given = {name: array.shape for name, array in self.arrays.items()}
        # infer_shape would print its arguments before it raises.
        inferred = internals.infer_shape_partial(
            **given, **{INPUT: self.batch_shape(batch_size)})[1]
        content = json.loads(internals.tojson())
        return {content['nodes'][index]['name']: shape
                for (index, output, _), shape in zip(content['heads'], inferred) if not output}

    def macs(self) -> int:
        """Multiply-adds of convolutions and fully connected layers for one image."""
        shapes = self.shapes()
        return sum(math.prod(shapes[node.name])
                   * math.prod(shapes[self.graph.nodes[node.inputs[1][0]].name][1:])
                   for node in self.graph.nodes if node.op in ('Convolution', 'FullyConnected'))

    def operators(self) -> Dict[str, int]:
        """Number of nodes of each operator, without variables."""
        found: Dict[str, int] = {}
        for node in self.graph.nodes:
            if not node.is_variable:
                found[node.op] = found.get(node.op, 0) + 1
        return found

    def form(self) -> str:
        """A text that two models share if they differ in the values of parameters only."""
        return to_json(self.graph) + json.dumps(
            [self.image_shape, sorted((name, array.shape)
                                      for name, array in self.arrays.items())])


class Editor:
    """Changes a `Model` node by node.

    Nodes keep their index while they are edited; new ones are appended, wherever their inputs
    are. What is no longer reached falls away in `finish`, which also brings the nodes into an
    order in which they can be computed.

    Attributes
    ----------
    nodes : list of Node
    values : dict
        Value of the variables by index.
    heads : list
        As of `Graph`.
    """

    def __init__(self, model: Model):
        self.model = model
        self.nodes: List[Node] = list(model.graph.nodes)
        self.heads: List[Link] = list(model.graph.heads)
        self.values: Dict[int, np.ndarray] = {
            index: model.arrays[node.name] for index, node in enumerate(self.nodes)
            if node.is_variable and node.name in model.arrays}

    def find(self, *ops: str) -> List[int]:
        """Indices of the nodes of these operators that are in use."""
        reached = set(self._order())
        return [index for index, node in enumerate(self.nodes)
                if node.op in ops and index in reached]

    def source(self, index: int, place: int = 0) -> int:
        """The node that gives input number `place` of a node."""
        return self.nodes[index].inputs[place][0]

    def value(self, index: int, place: int) -> np.ndarray:
        """Value of the variable that is input number `place` of a node."""
        return self.values[self.source(index, place)]

    def consumers(self) -> Dict[int, List[int]]:
        """By node: the nodes that use it, once for each use; -1 stands for the whole's output."""
        found: Dict[int, List[int]] = {}
        for index in self._order():
            for source, _ in self.nodes[index].inputs:
                found.setdefault(source, []).append(index)
        for source, _ in self.heads:
            found.setdefault(source, []).append(-1)
        return found

    def add(self, op: str, name: str, attributes: Dict, inputs: List[int]) -> int:
        """Append a node on the first outputs of other nodes; returns its index."""
        self.nodes.append(Node(op, name, attributes, tuple((index, 0) for index in inputs)))
        return len(self.nodes) - 1

    def add_parameter(self, name: str, value: np.ndarray) -> int:
        """Append a variable with a value; returns its index."""
        self.values[len(self.nodes)] = np.ascontiguousarray(value, np.float32)
        return self.add(VARIABLE, name, {}, [])

    def change(self, index: int, attributes: Dict, inputs: List[int]) -> None:
        """Give a node other attributes and inputs."""
        node = self.nodes[index]
        self.nodes[index] = Node(node.op, node.name, attributes,
                                 tuple((source, 0) for source in inputs))

    def replace(self, index: int, other: int, but: Tuple[int, ...] = ()) -> None:
        """Let everything that uses node `index` use `other`, the nodes `but` excepted."""
        def moved(links):
            return tuple((other, 0) if source == index else (source, output)
                         for source, output in links)
        for number, node in enumerate(self.nodes):
            if number not in but and any(source == index for source, _ in node.inputs):
                self.nodes[number] = Node(node.op, node.name, node.attributes,
                                          moved(node.inputs))
        self.heads = list(moved(self.heads))

    def finish(self) -> Model:
        """The changed model; a name that is taken gets a number."""
        order = self._order()
        place = {index: number for number, index in enumerate(order)}
        taken, nodes, arrays = set(), [], {}
        for index in order:
            node = self.nodes[index]
            name, number = node.name, 2
            while name in taken:
                name, number = '%s_%d' % (node.name, number), number + 1
            taken.add(name)
            nodes.append(Node(node.op, name, node.attributes,
                              tuple((place[source], output) for source, output in node.inputs)))
            if index in self.values:
                arrays[name] = self.values[index]
        heads = [(place[index], output) for index, output in self.heads]
        return Model(Graph(nodes, heads), arrays, self.model.image_shape)

    def _order(self) -> List[int]:
        """The nodes that the output needs, each after its inputs."""
        order, seen = [], set()
        stack = [(index, False) for index, _ in reversed(self.heads)]
        while stack:
            index, done = stack.pop()
            if done:
                order.append(index)
            elif index not in seen:
                seen.add(index)
                stack.append((index, True))
                stack.extend((source, False) for source, _ in reversed(self.nodes[index].inputs)
                             if source not in seen)
        return order
