"""Which channels the heads of a network choose, counted over a data set."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from igcnet.errors import UsageError
from igcnet.layers import DynamicGroupConv


class LayerSelection(NamedTuple):
    """What one layer chose.

    Parameters
    ----------
    layer : DynamicGroupConv
    pixels : int
        Of its output.
    by_class : numpy.ndarray (classes, C)
        How many pairs of an image of the class and a head had the channel on.
    on : numpy.ndarray (heads, C)
        For how many images a head had the channel on.
    saliency : numpy.ndarray (heads, C)
        Sum over the images of the gated saliency.
    """

    layer: DynamicGroupConv
    pixels: int
    by_class: np.ndarray
    on: np.ndarray
    saliency: np.ndarray

    @property
    def channel_macs(self) -> int:
        """Multiply-adds of one channel in one head."""
        return int(np.prod(self.layer.heads[0].conv.weight.shape)) // self.layer.in_channels \
            * self.pixels


class SelectionRecorder:
    """A network in evaluation that remembers what its heads chose.

    Call it with images as a network, and `add` the labels after each batch.

    Parameters
    ----------
    net : igcnet.models.dgc.DynamicNetwork
        Initialised; parameters are shared.
    size : int, optional
        Height and width of the images; the network's by default.

    Attributes
    ----------
    images : numpy.ndarray (classes,)
        Images of each class so far.

    Raises
    ------
    UsageError
        The network has no dynamic group convolutions.
    """

    def __init__(self, net, size: Optional[int] = None):
        layers: List[DynamicGroupConv] = getattr(net, 'dynamic_layers', [])
        if not layers:
            raise UsageError('the network has no dynamic group convolutions, so nothing is '
                             'selected')
        data = mx.sym.var('data', dtype='float32')
        logits = net(data)
        nodes = logits.get_internals()
        gated = [nodes[layer.name + '_gated_output'] for layer in layers]
        maps = mx.sym.Group([nodes[layer.name + '_output'] for layer in layers])
        size = size or net.input_size
        _, shapes, _ = maps.infer_shape(data=(1, 3, size, size))
        self._block = SymbolBlock([logits, *gated], [data], params=net.collect_params())
        self._block.hybridize(static_alloc=True, static_shape=True)
        self._pending: List[List[np.ndarray]] = []
        self.images = np.zeros(net.classes, np.int64)
        self.layers = [LayerSelection(
            layer, shape[2] * shape[3], np.zeros((net.classes, layer.in_channels), np.int64),
            *np.zeros((2, len(layer.heads), layer.in_channels)))
            for layer, shape in zip(layers, shapes)]

    def __call__(self, images: mx.nd.NDArray) -> mx.nd.NDArray:
        """Logits (N, classes)."""
        logits, *gated = self._block(images)
        self._pending.append([array.asnumpy() for array in gated])
        return logits

    def add(self, labels: np.ndarray) -> None:
        """Count what was chosen since the last call, for images with these labels."""
        classes = labels.astype(np.int64)
        np.add.at(self.images, classes, 1)
        for layer, *parts in zip(self.layers, *self._pending):
            gated = np.concatenate(parts)
            np.add.at(layer.by_class, classes, (gated > 0).sum(axis=1))
            layer.on[...] += (gated > 0).sum(axis=0)
            layer.saliency[...] += gated.sum(axis=0)
        self._pending = []

    def saliencies(self) -> Dict[str, np.ndarray]:
        """Mean gated saliency (heads, C) by the name of the layer."""
        return {layer.layer.name: layer.saliency / self.images.sum() for layer in self.layers}

    def table(self) -> List[Dict[str, Any]]:
        """Multiply-adds of each layer's convolution for an image, counted in four ways.

        Returns
        -------
        list of dict
            ``layer``, ``channels`` C, ``inactive``, and
            ``all``: of all channels, which the masked form executes;
            ``counter``: with the gate factor's share, the original's counter;
            ``kept``: with ``C - inactive`` channels, which the gathered form executes;
            ``on``: of the channels that were not 0, the mean over the images;
            ``used``: share of the channels that any image has on in any head.
        """
        rows = []
        for selection in self.layers:
            layer, one = selection.layer, selection.channel_macs
            everything = one * layer.in_channels * len(layer.heads)
            rows.append({
                'layer': layer.name, 'channels': layer.in_channels, 'inactive': layer.inactive,
                'all': everything, 'counter': everything * layer.gate_factor,
                'kept': one * len(layer.heads) * (layer.in_channels - layer.inactive),
                'on': float(one * selection.on.sum() / self.images.sum()),
                'used': float((selection.on.sum(axis=0) > 0).mean())})
        return rows

    def shares(self) -> Dict[str, np.ndarray]:
        """Share of (image, head) pairs with the channel on, (classes, C), by layer name.

        Classes without an image are NaN.
        """
        with np.errstate(invalid='ignore'):
            return {layer.layer.name: layer.by_class / (
                self.images[:, None] * len(layer.layer.heads)) for layer in self.layers}
