"""A slimmable network that runs at the best width and resolution for a budget."""

from __future__ import annotations

from typing import Dict, Optional

import mxnet as mx

from igcnet.convert import load_parameters
from igcnet.deploy.query_table import (
    Pair,
    blank_network,
    check_weights,
    read_statistics,
    read_table,
)
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.layers.resolution import at_resolution, check_resolution
from igcnet.layers.slimmable_network import Statistics

# As the times of the table are measured.
GRAPH_FLAGS = {'static_alloc': True}


class AdaptiveModel:
    """One set of weights, a query table, and the pair of width and resolution in use.

    ``model.select(macs=150e6)`` or ``model.select(milliseconds=20)`` takes the best pair of the
    table within the budget; ``model(images)`` then runs at it. Changing the pair copies its
    running statistics of BN, a few hundred short arrays, and no weights; each width is traced
    when it is first used. At first the most accurate pair is in use. One thread at a time may
    use a model.

    Parameters
    ----------
    params : path
        Parameter file with the weights that the table was made for.
    table : path
        JSON file written by ``igcnet query_table``, with its statistics beside it.
    ctx : Context, optional
        Where to compute; the current context by default.

    Attributes
    ----------
    table : QueryTable
        With ``preprocessing`` and ``classes``, and every `Pair` in ``pairs``.
    pair : Pair
        The one in use.

    Raises
    ------
    CheckpointError
        A damaged file, or files that do not belong together.
    """

    def __init__(self, params: PathLike, table: PathLike, ctx: Optional[mx.Context] = None):
        self.table = read_table(table)
        if not self.table.pairs:
            raise CheckpointError('%s: the table has no pairs yet' % table)
        self._context = ctx or mx.context.current_context()
        self._net = blank_network(self.table.network, self.table.settings, table)
        load_parameters(self._net, params, ctx=self._context)
        check_weights(self._net, self.table, params, table)
        self._statistics: Dict[Pair, Statistics] = {}
        for pair in self.table.pairs:
            statistics = read_statistics(table, pair)
            try:
                check_resolution(self._net, pair.resolution)
                if not self._net.has_statistics(pair.width):
                    self._net.add_statistics(pair.width)
                self._net.set_statistics(statistics, pair.width)
            except UsageError as problem:
                raise CheckpointError('%s: %s' % (table, problem)) from None
            self._statistics[pair] = {layer: tuple(value.as_in_context(self._context)
                                                   for value in values)
                                      for layer, values in statistics.items()}
        # A graph for each width is all it ever needs.
        self._net.graphs.limit = len({pair.width for pair in self.table.pairs})
        self._net.hybridize(**GRAPH_FLAGS)
        self._use(max(self.table.pairs, key=lambda pair: (pair.top1, -pair.macs)))

    def select(self, macs: Optional[float] = None, milliseconds: Optional[float] = None) -> Pair:
        """Use the best pair within a budget, and return it.

        Parameters
        ----------
        macs : float, optional
            Multiply-adds for one image.
        milliseconds : float, optional
            Of one call, by the times in the table.

        Raises
        ------
        UsageError
            No budget, or one below the cheapest pair.
        """
        return self._use(self.table.best(macs=macs, milliseconds=milliseconds))

    def use(self, width: float, resolution: int) -> Pair:
        """Use one pair of the table, and return it.

        Raises
        ------
        UsageError
            The table does not have it.
        """
        pair = self.table.find(width, resolution)
        if pair is None:
            raise UsageError('width %g at resolution %d: not in the table, which has the widths '
                             '%s and the resolutions %s' % (
                                 width, resolution,
                                 ', '.join('%g' % w for w in sorted({
                                     p.width for p in self.table.pairs})),
                                 ', '.join('%d' % r for r in sorted({
                                     p.resolution for p in self.table.pairs}))))
        return self._use(pair)

    def __call__(self, images) -> mx.nd.NDArray:
        """Logits (N, classes) of `images` (N, 3, H, W), preprocessed as the table says.

        They are resized to the present resolution on the device.
        """
        x = images if isinstance(images, mx.nd.NDArray) else mx.nd.array(images)
        x = x.as_in_context(self._context)
        return self._net(at_resolution(x, self.pair.resolution), width=self.pair.width)

    def _use(self, pair: Pair) -> Pair:
        self._net.set_statistics(self._statistics[pair], pair.width)
        self.pair = pair
        return pair
