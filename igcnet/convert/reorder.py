"""The original's custom operator ``Reorder`` in graphs, and the stock operators that equal it.

``Reorder(branch_factor=k)`` is the channel shuffle with k groups, which
`igcnet.layers.ChannelShuffle` writes as three nodes: Reshape ``(0, -4, k, -1, -2)`` called
``<name>_split``, SwapAxis of 1 and 2 called ``<name>_swap``, Reshape ``(0, -3, -2)`` called
``<name>``. Stock MXNet refuses a symbol file with ``Reorder``.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from igcnet.convert.symbol_json import Graph, Node

MERGE = {'shape': (0, -3, -2)}


def expand(graph: Graph) -> Graph:
    """Replace every ``Reorder`` by its three stock nodes."""
    rebuilt = Rebuilder(graph)
    for index, node in enumerate(graph.nodes):
        if node.op != 'Reorder':
            rebuilt.keep(index)
            continue
        split = {'shape': (0, -4, node.attributes['branch_factor'], -1, -2)}
        last = rebuilt.add(Node('Reshape', node.name + '_split', split,
                                rebuilt.links(node.inputs)))
        last = rebuilt.add(Node('SwapAxis', node.name + '_swap', {'dim1': 1, 'dim2': 2},
                                ((last, 0),)))
        rebuilt.replace(index, Node('Reshape', node.name, MERGE, ((last, 0),)))
    return rebuilt.graph()


def fold(graph: Graph) -> Graph:
    """Replace every shuffle in stock nodes by one ``Reorder``; the inverse of `expand`."""
    shuffles = _find_shuffles(graph)
    inner = {index for found in shuffles.values() for index in found[:2]}
    rebuilt = Rebuilder(graph)
    for index, node in enumerate(graph.nodes):
        if index in shuffles:
            first, _, groups = shuffles[index]
            rebuilt.replace(index, Node('Reorder', node.name, {'branch_factor': groups},
                                        rebuilt.links(graph.nodes[first].inputs)))
        elif index not in inner:
            rebuilt.keep(index)
    return rebuilt.graph()


def prune(graph: Graph, heads: List[Tuple[int, int]]) -> Graph:
    """The part of `graph` that the given outputs need."""
    needed = {index for index, _ in heads}
    for index in range(len(graph.nodes) - 1, -1, -1):
        if index in needed:
            needed.update(source for source, _ in graph.nodes[index].inputs)
    rebuilt = Rebuilder(Graph(graph.nodes, heads))
    for index in sorted(needed):
        rebuilt.keep(index)
    return rebuilt.graph()


class Rebuilder:
    """Copies a graph node by node and renumbers its links."""

    def __init__(self, source: Graph):
        self.source = source
        self.nodes: List[Node] = []
        self.new_index: Dict[int, int] = {}

    def links(self, links: Iterable[Sequence[int]]) -> Tuple[Tuple[int, int], ...]:
        """Links of the source graph in the new numbering."""
        return tuple((self.new_index[index], output) for index, output in links)

    def add(self, node: Node) -> int:
        """Append a node whose links are in the new numbering."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def replace(self, index: int, node: Node) -> None:
        """Append `node` in the place of node `index` of the source."""
        self.new_index[index] = self.add(node)

    def keep(self, index: int) -> None:
        """Append node `index` of the source as it is."""
        node = self.source.nodes[index]
        self.replace(index, Node(node.op, node.name, node.attributes, self.links(node.inputs)))

    def graph(self) -> Graph:
        """The new graph."""
        return Graph(self.nodes, list(self.links(self.source.heads)))


def _find_shuffles(graph: Graph) -> Dict[int, Tuple[int, int, int]]:
    """By index of the last node: indices of the first and second, and the number of groups."""
    uses: Dict[int, int] = {}
    for index, _ in [link for node in graph.nodes for link in node.inputs] + graph.heads:
        uses[index] = uses.get(index, 0) + 1
    found = {}
    for index, node in enumerate(graph.nodes):
        if node.op != 'Reshape' or node.attributes != MERGE:
            continue
        second = node.inputs[0][0]
        first = _swapped(graph.nodes[second])
        groups = None if first is None else _split_groups(graph.nodes[first])
        if groups and uses[first] == uses[second] == 1:
            found[index] = (first, second, groups)
    return found


def _swapped(node: Node) -> Optional[int]:
    """The input of a SwapAxis of axes 1 and 2."""
    axes = {node.attributes.get('dim1', 0), node.attributes.get('dim2', 0)}
    return node.inputs[0][0] if node.op == 'SwapAxis' and axes == {1, 2} else None


def _split_groups(node: Node) -> Optional[int]:
    """The groups of a Reshape that splits the channels into (groups, rest)."""
    shape = node.attributes.get('shape', ())
    plain = node.op == 'Reshape' and set(node.attributes) == {'shape'} and len(shape) == 5
    matches = plain and shape[:2] == (0, -4) and shape[3:] == (-1, -2) and shape[2] >= 1
    return shape[2] if matches else None
