"""Exact node names in traced graphs."""

from mxnet.gluon import HybridBlock
from mxnet.name import NameManager


class ExactName(NameManager):
    """Inside the ``with`` block, the node made gets `node_name`, without any prefix or counter.

    Gluon would call the node of a layer ``<prefix>fwd``; the checkpoints and graphs of the
    originals need ``<prefix>`` without its underscore.
    """

    def __init__(self, node_name: str):
        super().__init__()
        self._node_name = node_name

    def get(self, name, hint):
        return self._node_name


class NamedLayer(HybridBlock):
    """A leaf layer whose node in the graph is called `name`, its parameters ``<name>_...``.

    Parameters
    ----------
    name : str
        Full node name, such as ``g1_b1_conv1``. The enclosing blocks add nothing to it.
    """

    def __init__(self, name: str):
        super().__init__(prefix=name + '_')

    def exact_name(self) -> ExactName:
        """Context in which the layer's operator is created."""
        return ExactName(self.name)
