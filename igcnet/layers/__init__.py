"""Building blocks shared by the networks.

Every layer takes its input channels and its full name: the node of the traced graph carries
exactly that name and its parameters are called ``<name>_weight`` and so on, whatever else the
process has built before.
"""

from igcnet.layers.basic import (
    Activation,
    Add,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Pool2D,
    named_sequential,
)
from igcnet.layers.dynamic import DynamicGroupConv
from igcnet.layers.igc import ConvUnit, IGCUnit, ResidualBlock
from igcnet.layers.network import Network, Stage
from igcnet.layers.shuffle import ChannelShuffle

__all__ = ['Activation', 'Add', 'BatchNorm', 'ChannelShuffle', 'Conv2D', 'ConvUnit', 'Dense',
           'DynamicGroupConv', 'Flatten', 'IGCUnit', 'Network', 'Pool2D', 'ResidualBlock', 'Stage',
           'named_sequential']
