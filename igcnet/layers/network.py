"""The base class of all networks."""

from __future__ import annotations

from typing import List, NamedTuple, Optional

from mxnet.gluon import HybridBlock
from mxnet.initializer import Initializer
from mxnet.symbol import Symbol

from igcnet.layers.basic import Dense
from igcnet.layers.checks import check_positive
from igcnet.layers.lowering import set_lowering, stock_form


class Stage(NamedTuple):
    """A point where features can be taken: child of ``features``, channels, total stride."""

    name: str
    channels: int
    stride: int


class Network(HybridBlock):
    """An image classifier in two children, ``features`` and ``output``, as in the Gluon zoo.

    Inputs: `data` (N, 3, H, W), normalised. Outputs: logits (N, classes), before any softmax.

    Parameters
    ----------
    features : HybridBlock
        Everything up to the flat feature vector.
    output : Dense
        The classifier.
    stages : list of Stage
        Where feature maps can be taken, from the largest to the smallest.
    initializer : Initializer
        The original's initialisation, used by ``initialize()`` when no other is given.
    input_size : int
        Height and width the network was designed for.
    fixed_input_size : bool
        Whether the final pooling works for that size only.
    """

    def __init__(self, features: HybridBlock, output: Dense, stages: List[Stage],
                 initializer: Initializer, input_size: int, fixed_input_size: bool = False):
        super().__init__(prefix='')
        self.features = features
        self.output = output
        self.stages = stages
        self.original_initializer = initializer
        self.input_size = input_size
        self.fixed_input_size = fixed_input_size

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.output.weight.shape[0]

    def initialize(self, init: Optional[Initializer] = None, ctx=None, verbose=False,
                   force_reinit=False):
        """As ``Block.initialize``, but with the original's initialisation by default."""
        super().initialize(init or self.original_initializer, ctx, verbose, force_reinit)

    def reset_classifier(self, classes: int) -> None:
        """Replace the classifier by a new one, not initialised, for another number of classes."""
        check_positive('classes', classes)
        self.output = Dense(self.output.name, self.output.weight.shape[1], classes)

    def set_lowering(self, lowering: str) -> str:
        """Choose how grouped convolutions and shuffles are computed.

        'stock', 'blocked', 'native' or 'auto'. The function, the parameters and the symbols stay
        the same; see `igcnet.layers.lowering`. Returns what was chosen, which is 'blocked' where
        'native' cannot be had.
        """
        return set_lowering(self, lowering)

    def forward(self, x, *args):
        # A graph asked for from outside is the plain one, whatever the lowering.
        if isinstance(x, Symbol):
            with stock_form(self):
                return super().forward(x, *args)
        return super().forward(x, *args)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))
