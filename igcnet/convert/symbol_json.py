"""Symbol files of every MXNet from 0.7 to 1.x as checked graphs, and back.

An unchecked symbol file must never reach ``mx.sym.load_json``: an output number out of range, for
one, ends the process. Files are read here into a `Graph` in the form of MXNet 1.x:

======================  ==================  ================================================
written by              attributes under    and otherwise
======================  ==================  ================================================
MXNet up to 0.8         ``param``           inputs [i, o]; BatchNorm without its two running
                                            statistics; ``_Plus``; every default written out
MXNet 0.9 to about 0.11 ``attr``            inputs [i, o] or [i, o, v]
MXNet 1.x               ``attrs``           inputs [i, o, v]; ``elemwise_add``
======================  ==================  ================================================

Variables carry no attributes here: what files keep there is a copy of their consumer's, or
Gluon's training settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import mxnet as mx

from igcnet.convert import operators
from igcnet.convert.ndarray_file import file_size
from igcnet.errors import CheckpointError
from igcnet.files import PathLike, read_json, write_text

VARIABLE = 'null'
STATISTICS = ('moving_mean', 'moving_var')
MXNET_VERSION = 10901
LARGEST_FILE = 64 << 20
MOST_NODES = 100000
LONGEST_NAME = 1024


@dataclass(frozen=True)
class Node:
    """One node: `attributes` holds the values written in the file, without defaults; `inputs`
    pairs of (index of an earlier node, number of its output)."""

    op: str
    name: str
    attributes: Dict[str, Any] = field(default_factory=dict)
    inputs: Tuple[Tuple[int, int], ...] = ()

    @property
    def is_variable(self) -> bool:
        """Whether it is an input or a parameter."""
        return self.op == VARIABLE

    def output_counts(self) -> Tuple[int, int]:
        """Number of outputs that other nodes can use, and of all outputs."""
        return (1, 1) if self.is_variable else operators.output_counts(self.op, self.attributes)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed, and the outputs of the whole."""

    nodes: List[Node]
    heads: List[Tuple[int, int]]

    def auxiliary(self) -> List[int]:
        """Indices of the variables that hold running statistics, in order."""
        found = {index for node in self.nodes if node.op == 'BatchNorm'
                 for index, _ in node.inputs[3:]}
        return sorted(found)


def read_graph(path: PathLike) -> Graph:
    """Read and check a symbol file.

    Custom ``Reorder`` nodes stay; `igcnet.convert.reorder.expand` replaces them.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or needs operators that igcnet does not accept.
    """
    size = file_size(path, 'symbol file')
    if size > LARGEST_FILE:
        raise CheckpointError('%s: not a symbol file: %d bytes long' % (path, size))
    return parse_graph(read_json(path, 'symbol file', CheckpointError), path)


def parse_graph(value: Any, source: PathLike) -> Graph:
    """Check the JSON `value` of a symbol file and normalise it; see `read_graph`.

    Parameters
    ----------
    source : str
        What messages call the file.
    """
    try:
        return _Parser().parse(value)
    except ValueError as problem:
        raise CheckpointError('%s: %s' % (source, problem)) from None


def write_graph(path: PathLike, graph: Graph) -> None:
    """Write a symbol file in the layout of MXNet 1.x, atomically."""
    write_text(path, to_json(graph))


def to_json(graph: Graph) -> str:
    """The text of a symbol file in the layout of MXNet 1.x, one node per line.

    Variables get a copy of their consumer's attributes, as MXNet gives those that it makes
    itself.
    """
    consumers: Dict[int, Node] = {}
    for node in graph.nodes:
        for index, _ in node.inputs:
            consumers.setdefault(index, node)
    auxiliary = set(graph.auxiliary())
    lines, row, rows = [], 0, [0]
    for index, node in enumerate(graph.nodes):
        attributes = {key: str(value) for key, value in node.attributes.items()}
        consumer = consumers.get(index)
        if node.is_variable and consumer and node.name.startswith(consumer.name + '_'):
            attributes = {key: str(value) for key, value in consumer.attributes.items()}
            if index in auxiliary:
                start = 'one' if node.name.endswith('_var') else 'zero'
                attributes['__init__'] = json.dumps([start, {}])
        entry = {'op': node.op, 'name': node.name}
        if attributes:
            entry['attrs'] = dict(sorted(attributes.items()))
        entry['inputs'] = [[source, output, int(source in auxiliary)]
                           for source, output in node.inputs]
        lines.append('    ' + json.dumps(entry))
        row += node.output_counts()[1]
        rows.append(row)
    variables = [index for index, node in enumerate(graph.nodes) if node.is_variable]
    return '{\n  "nodes": [\n%s\n  ],\n%s\n}\n' % (',\n'.join(lines), ',\n'.join(
        '  "%s": %s' % (key, json.dumps(value)) for key, value in (
            ('arg_nodes', variables), ('node_row_ptr', rows),
            ('heads', [[index, output, 0] for index, output in graph.heads]),
            ('attrs', {'mxnet_version': ['int', MXNET_VERSION]}))))


def from_mxnet(symbol: mx.sym.Symbol) -> Graph:
    """The graph of a traced network."""
    return parse_graph(json.loads(symbol.tojson()), symbol.name or 'the traced network')


def to_mxnet(graph: Graph) -> mx.sym.Symbol:
    """Hand a graph without ``Reorder`` nodes to MXNet."""
    return mx.sym.load_json(to_json(graph))


class _Parser:
    """Builds a `Graph` node by node; every fault is a ValueError with one line of text."""

    def __init__(self):
        self.nodes: List[Node] = []
        self.new_index: List[int] = []  # by index in the file
        self.variables = set()

    def parse(self, value: Any) -> Graph:
        if not isinstance(value, dict) or not isinstance(value.get('nodes'), list):
            raise ValueError('not a symbol file: it has no list "nodes"')
        nodes = value['nodes']
        if not 0 < len(nodes) <= MOST_NODES:
            raise ValueError('damaged: %d nodes' % len(nodes))
        self.refuse_unknown_operators(nodes)
        for number, node in enumerate(nodes):
            what = 'node %d' % number
            if not isinstance(node, dict):
                raise ValueError('damaged: %s is not an object' % what)
            name = node.get('name')
            if not isinstance(name, str) or not name.isprintable() or (
                    not 0 < len(name) <= LONGEST_NAME):
                raise ValueError('damaged: %s has no usable name' % what)
            self.node(node, '%s (%s)' % (what, name))
        heads = self.links(value.get('heads'), 'heads')
        if not heads:
            raise ValueError('damaged: it has no heads')
        listed = value.get('arg_nodes')
        if not isinstance(listed, list) or not all(
                type(index) is int and 0 <= index < len(nodes)
                and nodes[index]['op'] == VARIABLE for index in listed):
            raise ValueError('damaged: "arg_nodes" does not list its variables')
        graph = Graph(self.nodes, list(heads))
        self.check_statistics(graph)
        return graph

    @staticmethod
    def refuse_unknown_operators(nodes: List[Any]) -> None:
        """All at once, so that the reader of the message sees what the file needs."""
        unknown = {}
        for node in nodes:
            op = node.get('op') if isinstance(node, dict) else None
            if isinstance(op, str) and op != VARIABLE and operators.canonical_name(op) is None:
                unknown.setdefault(op if op.isprintable() else repr(op), None)
        if unknown:
            names = [name[:60] for name in unknown]
            more = ' and %d more' % (len(names) - 5) if len(names) > 5 else ''
            raise ValueError('it needs operators that igcnet does not read: %s%s'
                             % (', '.join(names[:5]), more))

    def node(self, node: Dict[str, Any], what: str) -> None:
        name, op = node['name'], node.get('op')
        if not isinstance(op, str):
            raise ValueError('damaged: %s has no operator' % what)
        if node.get('control_deps') or node.get('subgraphs'):
            raise ValueError('%s: subgraphs and control dependencies are not read' % what)
        inputs = self.links(node.get('inputs'), what)
        if op == VARIABLE:
            if inputs:
                raise ValueError('damaged: %s is a variable with inputs' % what)
            self.new_index.append(self.variable(name))
            return
        op = operators.canonical_name(op)
        try:
            attributes = operators.parse_attributes(op, self.attribute_texts(node))
        except ValueError as problem:
            raise ValueError('%s: %s: %s' % (what, op, problem)) from None
        if op == 'BatchNorm' and len(inputs) == 3:
            inputs += tuple((self.variable('%s_%s' % (name, statistic)), 0)
                            for statistic in STATISTICS)
        expected = operators.input_count(op, attributes)
        if len(inputs) != expected:
            raise ValueError('damaged: %s: %s takes %d inputs, not %d'
                             % (what, op, expected, len(inputs)))
        self.new_index.append(self.add(Node(op, name, attributes, inputs)))

    @staticmethod
    def attribute_texts(node: Dict[str, Any]) -> Dict[str, str]:
        for key in ('param', 'attrs', 'attr'):  # beside "param", "attr" holds the user's own
            if key in node:
                texts = node[key]
                if not isinstance(texts, dict) or not all(
                        isinstance(text, str) for text in texts.values()):
                    raise ValueError('damaged: its attributes are not texts')
                return texts
        return {}

    def links(self, value: Any, what: str) -> Tuple[Tuple[int, int], ...]:
        """Check a list of [node, output] or [node, output, version]."""
        if not isinstance(value, list):
            raise ValueError('damaged: %s: not a list of links' % what)
        links = []
        for link in value:
            if not isinstance(link, list) or len(link) not in (2, 3) or not all(
                    type(number) is int for number in link):
                raise ValueError('damaged: %s: a link is not [node, output]' % what)
            index, output = link[:2]
            if not 0 <= index < len(self.new_index):
                raise ValueError('damaged: %s: a link to node %d, which is not before it'
                                 % (what, index))
            index = self.new_index[index]
            if not 0 <= output < self.nodes[index].output_counts()[0]:
                raise ValueError('damaged: %s: a link to output %d of %s, which it does not have'
                                 % (what, output, self.nodes[index].name))
            links.append((index, output))
        return tuple(links)

    def variable(self, name: str) -> int:
        if name in self.variables:
            raise ValueError('damaged: two variables are called %s' % name)
        self.variables.add(name)
        return self.add(Node(VARIABLE, name))

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    @staticmethod
    def check_statistics(graph: Graph) -> None:
        """Running statistics are written to: they must be variables of their own."""
        auxiliary = set(graph.auxiliary())
        for node in graph.nodes:
            for place, (index, _) in enumerate(node.inputs):
                is_statistic = node.op == 'BatchNorm' and place >= 3
                if (index in auxiliary) != is_statistic or (
                        is_statistic and not graph.nodes[index].is_variable):
                    raise ValueError('damaged: %s: input %d and the running statistics of a '
                                     'BatchNorm are mixed up' % (node.name, place))
