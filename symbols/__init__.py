"""The IGC networks as MXNet symbols, one module each, as in the original's folder ``network``.

Every module has ``get_symbol(num_classes, depth, primary_partition, secondary_partition)``. The
graph is traced from the network of `igcnet.models.igc`, in stock operators, with the original's
node names and its softmax at the end.
"""
