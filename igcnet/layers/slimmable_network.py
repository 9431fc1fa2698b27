"""Networks that run at any width in a range, with one set of weights."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock
from mxnet.initializer import Initializer

from igcnet.errors import UsageError
from igcnet.layers.checks import check_positive
from igcnet.layers.network import Network, Stage
from igcnet.layers.slimmable import PlainLayers, SlimmableLayers
from igcnet.layers.slimmable_graphs import GraphStore, TracedNetwork, TrainingGraph
from igcnet.layers.widths import Channels, Widths

OUTPUT_NAME = 'fc'

# BN statistics by layer name: mean and (unbiased) variance, each (channels,).
Statistics = Dict[str, Tuple[mx.nd.NDArray, mx.nd.NDArray]]
Layers = Union[SlimmableLayers, PlainLayers]


class Parts(NamedTuple):
    """What a network is made of.

    Parameters
    ----------
    features : HybridBlock
        Everything up to the flat feature vector.
    channels : Channels
        Of the feature vector.
    stages : list of (str, Channels, int)
        As `igcnet.layers.Stage`.
    """

    features: HybridBlock
    channels: Channels
    stages: List[Tuple[str, Channels, int]]


class SlimmableNetwork(Network):
    """An image classifier whose width is chosen at run time.

    Inputs: `data` (N, 3, H, W), normalised. Outputs: logits (N, classes), before any softmax.

    ``net(x)`` runs at the present width, ``net.width``, which is the widest at first and which
    `set_width` changes; ``net(x, width=0.5)`` runs once at another. The parameters are those of
    the widest network; gradients of the channels that a narrower one leaves out are 0, so
    gradients of several widths add up with ``grad_req='add'``.

    BN has running statistics for the listed widths only. In training mode every width runs, by
    the statistics of the batch; each such pass, recorded or not, moves the running statistics of
    its width, if it has any, by a tenth towards the mean and the *unbiased* variance of the
    batch, as in the original. (MXNet's own BN does it in the backward pass, with the biased
    variance.) In inference a width without statistics is an error; `add_statistics` makes room
    for them, and `batch_statistics` and `set_statistics` calibrate them.

    After ``hybridize()`` each sub-network is traced once and its graph kept, for training and
    inference apart; changing the width back finds it again. Sub-networks are told apart by their
    channel counts, and by their running statistics. ``net.graphs`` is the bounded store of
    graphs. Hybridise the network itself, not a block that contains it: that block's graph would
    keep the width at which it was traced. With ``static_alloc`` the memory of a graph is kept
    with it, which a training step at ever new widths cannot afford; graphs for training at
    widths without statistics go without.

    A symbol as the input gives the graph for inference at the present width. At a width without
    statistics, these are variables without values: enough to count, not to run.

    Parameters
    ----------
    build : callable
        Given the maker of layers, the `Parts` of the network: for `SlimmableLayers` those of the
        slimmable network, for `PlainLayers` those of the ordinary one of a single width.
    widths : Widths
        The widths it takes.
    classes : int
    initializer : Initializer
        The original's initialisation.
    input_size : int
        Height and width of the largest images it is meant for.

    Attributes
    ----------
    graphs : GraphStore
        Graphs of the hybridised network; ``graphs.limit`` is how many are kept.
    """

    def __init__(self, build: Callable[[Layers], Parts], widths: Widths, classes: int,
                 initializer: Initializer, input_size: int):
        check_positive('classes', classes)
        # Before the children, which clear it.
        self.graphs = GraphStore()
        layers = SlimmableLayers(widths)
        parts = build(layers)
        super().__init__(parts.features, layers.dense(OUTPUT_NAME, parts.channels, classes),
                         _stages(parts, layers), initializer, input_size)
        self._build, self._layers, self._parts = build, layers, parts
        self._widths = widths
        self._flags: Optional[Dict[str, Any]] = None  # of the graphs, once hybridised

    @property
    def width(self) -> float:
        """The present width."""
        return self._widths.current

    @property
    def width_range(self) -> Tuple[float, float]:
        """The narrowest and the widest width."""
        return self._widths.low, self._widths.high

    @property
    def listed_widths(self) -> Tuple[float, ...]:
        """Widths that have running statistics, in the order of the original's checkpoints."""
        return tuple(self._widths.listed)

    @property
    def divisor(self) -> int:
        """What channel counts are rounded to, see `igcnet.layers.widths.round_channels`."""
        return self._widths.divisor

    def set_width(self, width: float) -> None:
        """Change the present width.

        Raises
        ------
        UsageError
            A width outside the range, which the message names.
        """
        self._widths.current = self._widths.resolve(width)
        self.stages = _stages(self._parts, self._layers)

    def channel_counts(self, width: Optional[float] = None) -> Tuple[int, ...]:
        """The different channel counts at a width, from the image on: equal for two widths if
        and only if they have the same sub-network."""
        with self._widths.at(width):
            return self._widths.shape(self.width)

    def reset_classifier(self, classes: int) -> None:
        check_positive('classes', classes)
        self.output = self._layers.dense(OUTPUT_NAME, self._parts.channels, classes)

    # Running

    def __call__(self, x, width: Optional[float] = None):
        """Logits (N, classes) of `x` (N, 3, H, W) at `width`, or at the present width."""
        with self._widths.at(width):
            return super().__call__(x)

    def forward(self, x):
        if isinstance(x, mx.sym.Symbol):
            return super().forward(x)
        if not autograd.is_training():
            self._widths.require_statistics()
            return super().forward(x) if self._flags is None else self._graph(x)(x)
        logits, batch = self._forward_training(x)
        position = self._widths.position()
        with autograd.pause():
            for norm, mean, variance in batch:
                running = norm.statistics_at(position)
                if running is not None:
                    running.update(mean, variance)
        return logits

    def _forward_training(self, x):
        """Logits, and (BN layer, mean, variance) of the batch for every BN layer."""
        if self._flags is None:
            def scratch(count, dtype):
                return mx.nd.zeros(count, x.context, dtype), mx.nd.ones(count, x.context, dtype)

            with self._widths.training(scratch) as run:
                return super().forward(x), run.statistics
        graph = self._graph(x)
        logits, *flat = graph(x)
        return logits, list(zip(graph.norms, flat[::2], flat[1::2]))

    # Graphs

    def hybridize(self, active: bool = True, **flags):
        """As ``HybridBlock.hybridize``, with a graph for each sub-network; see the class."""
        self.graphs.clear()
        self._flags = flags if active else None

    def _clear_cached_op(self):
        # Gluon calls this when a child is replaced or the type of the parameters changes.
        super()._clear_cached_op()
        self.graphs.clear()

    def _graph(self, x) -> TracedNetwork:
        training, position = autograd.is_training(), self._widths.position()
        contexts = tuple(self.output.weight.list_ctx())
        key = (training, position, self._widths.shape(self.width), contexts)
        graph = self.graphs.find(key)
        if graph is None:
            kind = TrainingGraph if training else TracedNetwork
            graph = kind(super().forward, self.collect_params, self._widths, contexts)
            flags = self._flags
            if position is None:
                flags = {**flags, 'static_alloc': False, 'static_shape': False}
            graph.hybridize(True, **flags)
            self.graphs.keep(key, graph)
        return graph

    def optimize_for(self, *args, **kwargs):
        """Refused: a backend works on one graph.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError('optimize_for works on the graph of one width: use it on the network '
                         'that cut(width) gives')

    def export(self, path: str, epoch: int = 0, remove_amp_cast: bool = True):
        """Write the graph and the parameters of the present width alone, as `cut` gives it."""
        net = self.cut()
        net.hybridize()
        weight = net.output.weight
        net(mx.nd.zeros((1, 3, self.input_size, self.input_size), weight.list_ctx()[0],
                        weight.dtype))
        return net.export(path, epoch, remove_amp_cast)

    # Statistics

    def has_statistics(self, width: Optional[float] = None) -> bool:
        """Whether a width of the range (the present one) is listed, so that it has running
        statistics."""
        with self._widths.at(width):
            return self._widths.position() is not None

    def add_statistics(self, width: float) -> None:
        """List one more width, with running mean 0 and variance 1 until they are calibrated.

        Raises
        ------
        UsageError
            A width outside the range, or one that is listed.
        """
        position = self._widths.add(width)
        made = [norm.add_statistics(position) for norm in self._layers.norms]
        contexts = self._contexts()
        if contexts:
            for statistics in filter(None, made):
                statistics.initialize(ctx=contexts)

    def batch_statistics(self, x: Any, width: Optional[float] = None) -> Statistics:
        """Mean and unbiased variance of every BN layer's input for one batch.

        The layers before it normalise by the batch too. Works at every width and leaves the
        running statistics alone; nothing is recorded.

        Parameters
        ----------
        x : NDArray
            (N, 3, H, W).
        width : float, optional
            The present width by default.
        """
        with self._widths.at(width), autograd.pause(train_mode=True):
            return {norm.name: (mean, variance)
                    for norm, mean, variance in self._forward_training(x)[1]}

    def running_statistics(self, width: Optional[float] = None) -> Statistics:
        """Copies of the running mean and variance of every BN layer at a listed width."""
        position = self._position(width)
        return {norm.name: tuple(parameter.data().copy() for parameter in _pair(norm, position))
                for norm in self._layers.norms}

    def set_statistics(self, statistics: Statistics, width: Optional[float] = None) -> None:
        """Replace the running statistics of a listed width, on all devices.

        A BN layer whose channels are the same at every width has one set of statistics, so it is
        replaced for all widths.

        Parameters
        ----------
        statistics : dict
            As `running_statistics` gives it: every BN layer, by name.

        Raises
        ------
        UsageError
            A width without statistics, or BN layers or sizes of another network or width.
        """
        position = self._position(width)
        names = {norm.name for norm in self._layers.norms}
        if set(statistics) != names:
            raise UsageError('BN statistics: %s; they must be those of every BN layer'
                             % '; '.join(_differences(names, set(statistics))))
        for norm in self._layers.norms:
            for parameter, value in zip(_pair(norm, position), statistics[norm.name]):
                if tuple(value.shape) != parameter.shape:
                    raise UsageError('BN statistics of %s have the shape %s, this width needs %s'
                                     % (norm.name, tuple(value.shape), parameter.shape))
        for norm in self._layers.norms:
            for parameter, value in zip(_pair(norm, position), statistics[norm.name]):
                parameter.set_data(value)

    def _position(self, width: Optional[float]) -> int:
        with self._widths.at(width):
            return self._widths.require_statistics()

    # Sub-networks

    def cut(self, width: Optional[float] = None) -> Network:
        """The sub-network of one width as an ordinary network with parameters of its own.

        Of a network that is not initialised, so is the result; it can be counted. Its parameters
        are called as here, and the statistics of BN as in every ordinary network.

        Raises
        ------
        UsageError
            A width outside the range or, if there are parameters, without statistics.
        """
        with self._widths.at(width):
            layers = PlainLayers(self.width, self.divisor)
            parts = self._build(layers)
            net = Network(parts.features, layers.dense(OUTPUT_NAME, parts.channels, self.classes),
                          _stages(parts, layers), self.original_initializer, self.input_size)
            contexts = self._contexts()
            if contexts:
                net.cast(self.output.weight.dtype)
                net.initialize(mx.init.Zero(), ctx=contexts)
                self._copy_to(net, self._widths.require_statistics())
        return net

    def _copy_to(self, net: Network, position: int) -> None:
        sources = self._collect_params_with_prefix()
        for path, parameter in net._collect_params_with_prefix().items():
            layer, name = path.rsplit('.', 1)
            if path not in sources:
                entry = '%s.statistics.%%s.%s' % (layer, name)
                path = entry % 'every_width'
                if path not in sources:
                    path = entry % position
            first = tuple(slice(extent) for extent in parameter.shape)
            parameter.set_data(mx.nd.array(_value(sources[path])[first], dtype=parameter.dtype))

    def _contexts(self) -> List[mx.Context]:
        """Where the parameters are; nowhere before ``initialize()``."""
        try:
            return self.output.weight.list_ctx()
        except RuntimeError:
            return []


def _stages(parts: Parts, layers: Layers) -> List[Stage]:
    return [Stage(name, layers.count(channels), stride) for name, channels, stride in parts.stages]


def _pair(norm, position: int):
    statistics = norm.statistics_at(position)
    return statistics.running_mean, statistics.running_var


def _value(parameter) -> np.ndarray:
    """The value of a parameter; of statistics, the mean over the devices, as Gluon saves them."""
    devices = [array.asnumpy() for array in parameter.list_data()]
    return devices[0] if parameter.grad_req != 'null' else np.mean(devices, 0, devices[0].dtype)


def _differences(expected: set, given: set) -> List[str]:
    return ['%s %s' % (', '.join(sorted(names)[:3]) + (' ...' if len(names) > 3 else ''), word)
            for names, word in ((expected - given, 'missing'), (given - expected, 'unknown'))
            if names]
