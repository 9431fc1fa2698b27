"""The static form of a network of dynamic group convolutions."""

from __future__ import annotations

from typing import Any, Dict, Mapping

import mxnet as mx
import numpy as np

from igcnet.errors import UsageError
from igcnet.layers import DynamicGroupConv, Network, StaticGroupConv
from igcnet.registry import get_model


def freeze(net: Network, network: str, settings: Mapping[str, Any],
           saliencies: Mapping[str, np.ndarray]) -> Network:
    """The same network with a fixed selection in each head.

    A head keeps the channels with the largest mean gated saliency, as many as the gate factor
    says, and their filters are multiplied by that mean. So the average image sees what it saw
    before, and there are neither selectors nor masks.

    Parameters
    ----------
    net : igcnet.models.dgc.DynamicNetwork
        Trained; it is not changed.
    network, settings
        Name and overrides with which `igcnet.get_model` built it.
    saliencies : mapping
        Mean gated saliency (heads, C) by layer name, from
        `igcnet.deploy.selection.SelectionRecorder`.

    Returns
    -------
    Network
        With ``selection='static'``, hybridised, ready to be evaluated, exported or trained on.

    Raises
    ------
    UsageError
        The network has no dynamic group convolutions.
    """
    dynamic: Dict[str, DynamicGroupConv] = {
        layer.name: layer for layer in getattr(net, 'dynamic_layers', [])}
    if not dynamic:
        raise UsageError('%s: the network has no dynamic group convolutions to freeze' % network)
    static = get_model(network, **{**settings, 'selection': 'static'})
    contexts = net.output.weight.list_ctx()
    static.initialize(ctx=contexts)
    given = net.collect_params()
    for name, parameter in static.collect_params().items():
        if name in given:
            parameter.set_data(given[name].data(contexts[0]))
    layers = []
    static.apply(lambda block: layers.append(block) if isinstance(block, StaticGroupConv)
                 else None)
    for layer in layers:
        mean = saliencies[layer.name]
        chosen = np.sort(np.argsort(-mean, axis=1, kind='stable')[:, :layer.kept], axis=1)
        weights = [
            head.conv.weight.data(contexts[0]).asnumpy()[:, channels]
            * values[channels][:, None, None]
            for head, channels, values in zip(dynamic[layer.name].heads, chosen, mean)]
        layer.conv.weight.set_data(mx.nd.array(np.concatenate(weights)))
        layer.chosen.set_data(mx.nd.array(chosen.ravel()))
    static.hybridize(static_alloc=True, static_shape=True)
    return static
