"""Building blocks shared by the networks.

Every layer takes its input channels and its full name: the node of the traced graph carries
exactly that name and its parameters are called ``<name>_weight`` and so on, whatever else the
process has built before.
"""

from igcnet.layers.basic import (
    Activation,
    Add,
    BatchNorm,
    Concat,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Multiply,
    Pool2D,
    ReLU6,
    named_sequential,
)
from igcnet.layers.dynamic import DynamicGroupConv
from igcnet.layers.igc import ConvUnit, IGCUnit, ResidualBlock
from igcnet.layers.network import Network, Stage
from igcnet.layers.shuffle import ChannelShuffle
from igcnet.layers.shuffle_unit import MergeEvolveUnit, ShuffleUnit
from igcnet.layers.slimmable_network import SlimmableNetwork
from igcnet.layers.static_groups import StaticGroupConv

__all__ = ['Activation', 'Add', 'BatchNorm', 'ChannelShuffle', 'Concat', 'Conv2D', 'ConvUnit',
           'Dense', 'Dropout', 'DynamicGroupConv', 'Flatten', 'IGCUnit', 'MergeEvolveUnit',
           'Multiply', 'Network', 'Pool2D', 'ReLU6', 'ResidualBlock', 'ShuffleUnit',
           'SlimmableNetwork', 'Stage', 'StaticGroupConv', 'named_sequential']
