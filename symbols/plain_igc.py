"""`igcnet.models.igc.plain_igc` as a symbol."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where nothing is installed

from igcnet.convert import network_symbol  # noqa: E402


def get_symbol(num_classes, depth, primary_partition, secondary_partition):
    """The network's graph with its softmax; UsageError for an impossible depth or partition."""
    return network_symbol('plain_igc', num_classes, depth, primary_partition,
                          secondary_partition)
