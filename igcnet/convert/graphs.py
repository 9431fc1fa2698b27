"""Comparison of two graphs by what they compute and what they call it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List

from igcnet.convert import operators
from igcnet.convert.symbol_json import Graph, Node


def differences(first: Graph, second: Graph) -> List[str]:
    """What distinguishes two graphs; empty when they are equal.

    Compared are operators, names, inputs, order and heads, and the *effective* attributes:
    defaults are filled in, texts are read as values ("2e-005" is 2e-05), and the settings of
    the machinery (``workspace``, ``cudnn_*``) and attributes without effect are left out.
    ``Reorder`` and its stock form count as different: `fold` or `expand` both first.

    Returns
    -------
    list of str
        One readable line per difference, such as ``g0_bn: eps is 2e-05 in the first, 1e-05 in
        the second``.
    """
    one, other = _by_label(first), _by_label(second)
    found = ['%s (%s): only in the first' % (label, node['op'])
             for label, node in one.items() if label not in other]
    found += ['%s (%s): only in the second' % (label, node['op'])
              for label, node in other.items() if label not in one]
    for label, node in one.items():
        if label in other:
            found += _node_differences(label, node, other[label])
    common = [label for label in one if label in other]
    for mine, theirs in zip(common, [label for label in other if label in one]):
        if mine != theirs:
            found.append('order: %s in the first where the second has %s' % (mine, theirs))
            break
    heads = [_links(graph, graph.heads) for graph in (first, second)]
    if heads[0] != heads[1]:
        found.append('heads: %s in the first, %s in the second' % tuple(heads))
    return found


def _by_label(graph: Graph) -> Dict[str, Dict[str, Any]]:
    """Comparable nodes by name; a repeated name is numbered (MXNet allows it for operators)."""
    labels = _labels(graph)
    return {label: {'op': node.op, 'inputs': _links(graph, node.inputs, labels),
                    **_attributes(node)}
            for label, node in zip(labels, graph.nodes)}


def _labels(graph: Graph) -> List[str]:
    seen, labels = Counter(), {}
    for node in graph.nodes:
        label = node.name
        while label in labels:
            seen[node.name] += 1
            label = '%s #%d' % (node.name, seen[node.name] + 1)
        labels[label] = None
    return list(labels)


def _links(graph: Graph, links, labels=None) -> str:
    labels = labels or _labels(graph)
    return ', '.join(labels[index] if not output else '%s[%d]' % (labels[index], output)
                     for index, output in links)


def _attributes(node: Node) -> Dict[str, Any]:
    return {} if node.is_variable else operators.effective_attributes(node.op, node.attributes)


def _node_differences(label: str, mine: Dict[str, Any], theirs: Dict[str, Any]) -> List[str]:
    if mine['op'] != theirs['op']:
        return ['%s: %s in the first, %s in the second' % (label, mine['op'], theirs['op'])]
    return ['%s: %s %s %s in the first, %s in the second'
            % (label, key, 'are' if key == 'inputs' else 'is', mine[key], theirs[key])
            for key in mine if mine[key] != theirs[key]]
