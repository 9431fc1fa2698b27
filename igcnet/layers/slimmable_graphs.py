"""The graphs of a hybridised slimmable network: one for each sub-network, a bounded number."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Callable, Hashable, List, Optional, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock
from mxnet.gluon.parameter import ParameterDict

from igcnet.layers.widths import Widths


class TracedNetwork(HybridBlock):
    """The graph of one sub-network for inference, made at the first call.

    Inputs: (N, 3, H, W). Outputs: logits (N, classes).

    Parameters
    ----------
    forward : callable
        Gives the logits of its argument at the present width.
    parameters : callable
        As ``collect_params`` of the network.
    widths : Widths
        Of the network.
    contexts : sequence of Context
        Where it will run.
    """

    def __init__(self, forward: Callable, parameters: Callable[..., ParameterDict],
                 widths: Widths, contexts: Sequence[mx.Context]):
        super().__init__(prefix='batch_')
        self._forward, self._parameters, self._widths = forward, parameters, widths
        self._run_on = list(contexts)
        self._inputs: List[str] = []

    def hybrid_forward(self, F, x):
        outputs = self.outputs(x)
        self._inputs = mx.sym.Group(outputs).list_inputs()
        return outputs if len(outputs) > 1 else outputs[0]

    def outputs(self, x: mx.sym.Symbol) -> List[mx.sym.Symbol]:
        """The logits."""
        return [self._forward(x)]

    def collect_params(self, select=None) -> ParameterDict:
        # Those that the graph uses: not the statistics of other widths.
        params = self._parameters('^(?:%s)$' % '|'.join(map(re.escape, self._inputs)))
        params.update(self.params)
        return params


class TrainingGraph(TracedNetwork):
    """The graph of one sub-network for training.

    Outputs: the logits; then mean and unbiased variance of the batch for each of ``norms``.
    """

    def outputs(self, x):
        with self._widths.training(self._idle_statistics) as run:
            logits = self._forward(x)
        self.norms = [norm for norm, _, _ in run.statistics]
        return [logits, *(symbol for _, mean, variance in run.statistics
                          for symbol in (mean, variance))]

    def _idle_statistics(self, count: int, dtype: str):
        return [self._idle(name % count, count, dtype, init)
                for name, init in (('mean%d', 'zeros'), ('var%d', 'ones'))]

    def _idle(self, name: str, count: int, dtype: str, init: str) -> mx.sym.Symbol:
        known = self.prefix + name in self.params
        parameter = self.params.get(name, shape=(count,), dtype=dtype, init=init,
                                    grad_req='null', differentiable=False)
        if not known:
            parameter.initialize(ctx=self._run_on)
        return parameter.var()


class GraphStore:
    """Graphs by what tells them apart, of which the least recently used are dropped.

    Attributes
    ----------
    limit : int
        How many are kept.
    made : int
        How many were made since the network was.
    """

    def __init__(self, limit: int = 32):
        self.limit, self.made = limit, 0
        self._graphs: OrderedDict = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, key: Hashable) -> Optional[TracedNetwork]:
        """The graph of `key`, which thereby is the most recently used."""
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def keep(self, key: Hashable, graph: TracedNetwork) -> None:
        """Add a graph, and drop what is too much."""
        self._graphs[key] = graph
        self.made += 1
        while len(self._graphs) > max(1, self.limit):
            self._graphs.popitem(last=False)

    def clear(self) -> None:
        """Drop all."""
        self._graphs.clear()
