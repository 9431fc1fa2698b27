"""Which of our networks a graph is."""

from __future__ import annotations

import re
from typing import Any, Dict, Optional, Tuple

from igcnet.convert.graphs import differences
from igcnet.convert.original import to_graph
from igcnet.convert.reorder import fold
from igcnet.convert.symbol_json import Graph
from igcnet.errors import UsageError
from igcnet.registry import get_model

BLOCK = re.compile(r'g(\d+)_b(\d+)_')
# By (for ImageNet, residual, of IGC units).
NETWORKS = {
    (False, False, False): 'plain', (False, False, True): 'plain_igc',
    (False, True, False): 'resnet', (False, True, True): 'resnet_igc',
    (True, True, False): 'resnet_imgnet_d18', (True, True, True): 'resnet_igc_imgnet_d18',
}


def recognise(graph: Graph) -> Optional[Tuple[str, Dict[str, Any]]]:
    """The IGC network whose graph this is, published ImageNet files included.

    Shuffles may be ``Reorder`` or stock nodes, and the softmax may be there or not. Where only
    the product of the partitions matters, it is given as the primary one.

    Returns
    -------
    tuple or None
        Name and settings for `igcnet.get_model`; None unless the network built with them has an
        equal graph (`igcnet.convert.differences`).
    """
    graph = fold(graph)
    guess = _guess(graph)
    if guess is None:
        return None
    name, settings = guess
    try:
        network = get_model(name, **settings)
    except UsageError:
        return None
    head = any(node.op == 'SoftmaxOutput' for node in graph.nodes)
    return None if differences(graph, fold(to_graph(network, head))) else guess


def _guess(graph: Graph) -> Optional[Tuple[str, Dict[str, Any]]]:
    """Name and settings by a few tell-tale nodes."""
    nodes = {node.name: node for node in graph.nodes}
    stem = nodes.get('g0_conv', nodes.get('g0'))
    classifier = nodes.get('fc', nodes.get('fc_score'))
    # The first shuffle stands behind the first unit's 3x3 convolution.
    units = [graph.nodes[node.inputs[0][0]] for node in graph.nodes if node.op == 'Reorder']
    needed = [(stem, 'Convolution'), (classifier, 'FullyConnected')]
    needed += [(unit, 'Convolution') for unit in units[:1]]
    if any(node is None or node.op != op for node, op in needed):
        return None
    imagenet, residual = 'g0_pool' in nodes, '_plus0' in nodes
    name = NETWORKS.get((imagenet, residual, bool(units)))
    if name is None:
        return None
    blocks = len({match.group() for match in map(BLOCK.match, nodes) if match})
    width = stem.attributes['num_filter']
    primary = units[0].attributes.get('num_group', 1) if units else width
    settings = dict(depth=18 if imagenet else blocks * (2 if residual else 1) + 2,
                    primary_partition=primary, secondary_partition=width // primary,
                    classes=classifier.attributes['num_hidden'])
    if imagenet and units:
        if units[0].attributes['num_filter'] == width:
            settings['doubling'] = 'secondary'
        if 'g1_b1_conv1_conv1' in nodes:
            settings['unit_name'] = 'conv'
    return name, settings
