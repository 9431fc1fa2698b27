"""Checkpoints and graphs in the layouts of others, read safely and written back.

Files from strangers are never executed, never end the process and never ask for more memory
than they are long; every fault is one `igcnet.errors.CheckpointError`.
"""

from igcnet.convert.graphs import differences
from igcnet.convert.ndarray_file import read_ndarrays, write_ndarrays
from igcnet.convert.original import (
    checkpoint_arrays,
    checkpoint_paths,
    load_network,
    network_symbol,
    parameter_value,
    save_original,
    to_graph,
    to_symbol,
)
from igcnet.convert.parameters import load_parameters, set_parameters
from igcnet.convert.recognise import recognise
from igcnet.convert.reorder import expand, fold
from igcnet.convert.symbol_json import Graph, Node, parse_graph, read_graph, write_graph

__all__ = ['Graph', 'Node', 'checkpoint_arrays', 'checkpoint_paths', 'differences', 'expand',
           'fold', 'load_network', 'load_parameters', 'network_symbol', 'parameter_value',
           'parse_graph', 'read_graph', 'read_ndarrays', 'recognise', 'save_original',
           'set_parameters', 'to_graph', 'to_symbol', 'write_graph', 'write_ndarrays']
