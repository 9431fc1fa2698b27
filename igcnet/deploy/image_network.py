"""The DGC networks and their plain baselines for one image at a time, see `image_layers`."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from igcnet.deploy.image_layers import (
    FORMS,
    DynamicConv,
    Memory,
    NormRelu,
    PlainConv,
    ShiftedConv,
    affine,
    values,
)
from igcnet.errors import UsageError
from igcnet.layers import Conv2D, DynamicGroupConv, Network
from igcnet.models.resnet import BasicBlock

Step = Callable[[np.ndarray], np.ndarray]


class ImageNetwork:
    """A trained dydensenet, dyresnet18, densenet or resnet18 that is fast at batch 1 on a CPU.

    It computes what `net` computes in evaluation, up to rounding: a channel whose saliency is
    within rounding of the last dropped one may fall on the other side. In a batch each image has
    its own selection.

    Parameters
    ----------
    net : igcnet.layers.Network
        The weights and the numbers of inactive channels are copied.
    side : int, optional
        Height and width of the images; that of the network by default.
    measure : bool
        Choose the form of each dynamic layer by its time on this machine; otherwise 'gathered'
        wherever it is possible.

    Attributes
    ----------
    layers : list of DynamicConv
        The dynamic layers in order; their `form` may be set.

    Raises
    ------
    UsageError
        Another kind of network, or a size that it cannot take.
    """

    def __init__(self, net: Network, side: Optional[int] = None, measure: bool = True):
        side = side or net.input_size
        if net.fixed_input_size and side != net.input_size:
            raise UsageError('%dx%d images: the network takes %dx%d' % (
                side, side, net.input_size, net.input_size))
        if hasattr(net.features, 'denseblock_1'):
            build = _dense_steps
        elif isinstance(net.features._children.get('layer1', [None])[0], BasicBlock):
            build = _residual_steps
        else:
            raise UsageError('%s: only dydensenet, dyresnet18, densenet and resnet18 can be '
                             'computed image by image' % type(net).__name__)
        self.side, self.memory = side, Memory()
        self._parts: List[Any] = []
        self._steps = build(net, side, self.memory, self._parts)
        self._weight, self._bias = values(net.output.weight), values(net.output.bias)
        self.layers = [part for part in self._parts if isinstance(part, DynamicConv)]
        if measure and self.layers:
            for layer, times in zip(self.layers, self.measure().values()):
                layer.form = min(times, key=times.get)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and fully connected layers, as executed for an image."""
        return sum(part.macs for part in self._parts) + self._weight.size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits (N, classes) of images (N, 3, side, side), normalised."""
        images = np.asarray(images, np.float32)
        if images.shape[1:] != (3, self.side, self.side):
            raise UsageError('images of the shape %s: must be (N, 3, %d, %d)'
                             % (images.shape, self.side, self.side))
        logits = np.empty((len(images), len(self._weight)), np.float32)
        for number, x in enumerate(images):
            x = x.reshape(3, -1)
            for step in self._steps:
                x = step(x)
            logits[number] = self._weight @ x + self._bias
        return logits

    def measure(self, rounds: int = 7) -> Dict[str, Dict[str, float]]:
        """Seconds of each dynamic or reducing layer in each form, the median of some images.

        Returns
        -------
        dict
            Name of the layer -> form -> seconds; of a plain layer the form is 'plain'.
        """
        image = np.random.RandomState(0).randn(1, 3, self.side, self.side)
        plain = [part for part in self._parts if isinstance(part, PlainConv) and part.name]
        chosen = [layer.form for layer in self.layers]
        found: Dict[str, Dict[str, float]] = {part.name: {} for part in self._parts
                                              if getattr(part, 'name', '')}
        for form in FORMS if self.layers else ('plain',):
            possible = [layer for layer in self.layers if form == 'scaled' or layer.can_gather]
            for layer in possible:
                layer.form = form
            timed = possible + plain
            for part in timed:
                part.times = []
            for _ in range(rounds):
                self(image)
            for part in timed:
                found[part.name][form if part in possible else 'plain'] = float(
                    np.median(part.times))
                part.times = None
        for layer, form in zip(self.layers, chosen):
            layer.form = form
        return found


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """(O, ...) as (heads, O/heads, ...): output channel j*heads + h is filter j of head h."""
    return array.reshape(-1, heads, *array.shape[1:]).swapaxes(0, 1)


class _DenseBlock:
    """The layers of a dense block write behind their inputs, into the map of the whole block."""

    def __init__(self, block, in_channels: int, channels: int, side: int, memory: Memory,
                 parts: List[Any]):
        self._maps = np.empty((channels, side ** 2), np.float32)
        self._in_channels = in_channels
        self._layers = []
        for layer in block._children.values():
            norm, conv = layer.conv_2.norm, layer.conv_2.conv
            first, heads = _reduce(layer.conv_1, side, memory, norm)
            second = ShiftedConv(values(conv.weight), conv._kwargs['num_group'], side, memory)
            self._layers.append((first, _interleaved(second.inside, heads), second, in_channels,
                                 in_channels + conv._channels))
            in_channels += conv._channels
            parts += [first, second]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        maps = self._maps
        maps[:self._in_channels] = x
        for first, target, second, begin, end in self._layers:
            np.maximum(first(maps[:begin]).reshape(target.shape), 0, out=target)
            second(maps[begin:end])
        return maps


def _reduce(block, side: int, memory: Memory, norm):
    """The first convolution of a dense layer, and how many heads it has."""
    if isinstance(block, DynamicGroupConv):
        return DynamicConv(block, side, memory, norm), len(block.heads)
    if block.conv._kwargs['num_group'] > 1:
        raise UsageError('%s: a 1x1 convolution in groups cannot be computed image by image'
                         % block.conv.name)
    return PlainConv(block.conv, side, norm, NormRelu(block.norm, memory), block.name), 1


class _BasicBlock:
    def __init__(self, block: BasicBlock, side: int, memory: Memory, parts: List[Any]):
        self._first = _conv(block.conv1, side, memory, block.bn1)
        self.side = self._first.window.output[0]
        self._second = _conv(block.conv2, self.side, memory, block.bn2)
        self._shortcut = None
        parts += [self._first, self._second]
        if block.downsample is not None:
            conv, norm = block.downsample._children.values()
            self._shortcut = _conv(conv, side, memory, getattr(norm, 'norm', norm))
            parts.append(self._shortcut)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        shortcut = x if self._shortcut is None else _in_order(self._shortcut, x)
        y = _in_order(self._first, x)
        y = _in_order(self._second, np.maximum(y, 0, out=y))
        y += shortcut
        return np.maximum(y, 0, out=y)


def _conv(conv, side: int, memory: Memory, norm):
    if isinstance(conv, DynamicGroupConv):
        return DynamicConv(conv, side, memory, norm)
    if isinstance(conv, Conv2D):
        return PlainConv(conv, side, norm)
    raise UsageError('%s: a %s cannot be computed image by image'
                     % (conv.name, type(conv).__name__))


def _in_order(conv, x: np.ndarray) -> np.ndarray:
    """Output (O, pixels) of a convolution in memory of its own, channels in the layer's order."""
    y = conv(x)
    if not isinstance(conv, DynamicConv):
        return y
    result = np.empty((conv.heads * conv.filters, y.shape[2]), np.float32)
    _interleaved(result, conv.heads)[...] = y
    return result


def _dense_steps(net: Network, side: int, memory: Memory, parts: List[Any]) -> List[Step]:
    """Everything from an image (3, pixels) to the feature vector."""
    features = net.features
    stem = PlainConv(features.init_conv, side)
    parts.append(stem)
    steps: List[Step] = [stem]
    channels, side = len(stem.weight), stem.window.output[0]
    for stage in net.stages:
        if len(steps) > 1:
            steps.append(partial(_halve, side=side))
            side //= 2
        steps.append(_DenseBlock(getattr(features, stage.name), channels, stage.channels, side,
                                 memory, parts))
        channels = stage.channels
    last = features.bn_last if hasattr(features, 'bn_last') else features.norm_last
    scale, shift = (vector[:, None] for vector in affine(last))
    steps.append(lambda x: np.maximum(x * scale + shift, 0).mean(axis=1))
    return steps


def _residual_steps(net: Network, side: int, memory: Memory, parts: List[Any]) -> List[Step]:
    """As `_dense_steps`, of a residual network."""
    features = net.features
    stem = PlainConv(features.conv1, side, features.bn1)
    parts.append(stem)
    side = stem.window.output[0]
    steps: List[Step] = [stem, partial(_relu_pool, side=side)]
    side = (side - 1) // 2 + 1
    for stage in net.stages:
        for block in getattr(features, stage.name)._children.values():
            steps.append(_BasicBlock(block, side, memory, parts))
            side = steps[-1].side
    steps.append(lambda x: x.mean(axis=1))
    return steps


def _halve(x: np.ndarray, side: int) -> np.ndarray:
    """Average pooling 2x2 of (C, side*side)."""
    x = x.reshape(-1, side, side)
    total = x[:, ::2, ::2] + x[:, ::2, 1::2]
    total += x[:, 1::2, ::2]
    total += x[:, 1::2, 1::2]
    total *= np.float32(0.25)
    return total.reshape(len(x), -1)


def _relu_pool(x: np.ndarray, side: int) -> np.ndarray:
    """ReLU and maximum pooling 3x3, stride 2, padding 1, of (C, side*side)."""
    framed = np.zeros((len(x), side + 2, side + 2), np.float32)
    framed[:, 1:-1, 1:-1] = x.reshape(-1, side, side)
    half = (side - 1) // 2 + 1
    result = np.zeros((len(x), half, half), np.float32)
    for row in range(3):
        for column in range(3):
            np.maximum(result, framed[:, row:row + 2 * half - 1:2, column:column + 2 * half - 1:2],
                       out=result)
    return result.reshape(len(x), -1)
