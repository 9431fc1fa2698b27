"""Networks of dynamic group convolutions: dydensenet and dyresnet18.

Source: Su et al.: Dynamic Group Convolution for Accelerating Convolutional Neural Networks
(ECCV 2020, arXiv 2007.04242); zhuogege1943/dgc (now hellozhuo/dgc). Layer names are the
original's.

Facts of the original that are kept here:

- The number of inactive channels belongs to the layer and is saved with the weights. The gate
  factor decides it during training only; at evaluation it has no effect.
- Every dynamic convolution begins with its own BN and ReLU, so that in dyresnet18 two BN-ReLU
  pairs stand in a row between the convolutions of a block.
- All channels are computed, dropped ones as zeros: the printed FLOPs are not what is executed.

Departures: the progress of the training is given to the network and not to the whole process
(`DynamicNetwork.set_progress`), and dyresnet18 has any number of classes.
"""

from __future__ import annotations

from functools import partial
from typing import Iterator, List

import mxnet as mx
from mxnet.gluon import HybridBlock, SymbolBlock

from igcnet.errors import UsageError
from igcnet.layers import (
    BatchNorm,
    DynamicGroupConv,
    Network,
    StaticGroupConv,
    named_sequential,
)
from igcnet.models.densenet import (
    CIFAR10,
    CIFAR100,
    IMAGENET,
    IMAGENET_STAGES,
    Numbers,
    dense_network,
)
from igcnet.models.resnet import residual_network
from igcnet.registry import ModelSpec, Published


class DynamicNetwork(Network):
    """A `Network` with dynamic group convolutions.

    For training, call `set_progress` before each step, and add the lasso terms of `with_lasso`
    to the loss. Neither is needed for evaluation.
    """

    @property
    def dynamic_layers(self) -> List[DynamicGroupConv]:
        """The dynamic group convolutions, in the order of the original's lasso terms."""
        return list(_dynamic_layers(self.features))

    def set_progress(self, progress: float) -> None:
        """Set the number of inactive channels of all layers for a point of the training.

        Parameters
        ----------
        progress : float
            Finished steps divided by the steps of the whole training.
        """
        for layer in self.dynamic_layers:
            layer.set_progress(progress)

    def with_lasso(self) -> SymbolBlock:
        """The same network with a second output, for training.

        Returns
        -------
        SymbolBlock
            Shares the parameters. Inputs: `data` (N, 3, H, W). Outputs: logits (N, classes) and
            lasso terms (N, layers), for each sample the mean saliency summed over the heads.
            The original adds 1e-5 times their sum over the layers to the cross-entropy, both
            averaged over the batch. It is hybridised with ``static_alloc=True,
            static_shape=True``; hybridise the network so before, which saves copies. To be made
            anew after `reset_classifier`, `cast` and `set_lowering`.
        """
        data = mx.sym.var('data', dtype=self.output.weight.dtype)
        # Not the plain graph that `Network.forward` gives: this one is for training.
        logits = super(Network, self).forward(data)
        nodes = logits.get_internals()
        terms = [mx.sym.sum(mx.sym.mean(nodes[layer.name + '_saliency_output'], axis=2),
                            axis=1, keepdims=True) for layer in self.dynamic_layers]
        block = SymbolBlock([logits, mx.sym.concat(*terms, dim=1, name='lasso')], [data],
                            params=self.collect_params())
        # What the layers of a network that was hybridised so rely upon.
        block.hybridize(static_alloc=True, static_shape=True)
        return block


def _dynamic_layers(block: HybridBlock) -> Iterator[DynamicGroupConv]:
    for child in block._children.values():
        if isinstance(child, DynamicGroupConv):
            yield child
        else:
            yield from _dynamic_layers(child)


def _form(selection: str, heads: int, gate_factor: float, squeeze_rate: int):
    """Class of the network, and what makes its group convolutions."""
    if selection == 'dynamic':
        return DynamicNetwork, partial(DynamicGroupConv, heads=heads, gate_factor=gate_factor,
                                       squeeze_rate=squeeze_rate)
    if selection == 'static':
        return Network, partial(StaticGroupConv, heads=heads, gate_factor=gate_factor)
    raise UsageError("selection=%r: must be 'dynamic' or 'static'" % (selection,))


def dydensenet(stages: Numbers = '14-14-14', growth: Numbers = '8-16-32', bottleneck: int = 4,
               heads: int = 4, group_3x3: int = 4, gate_factor: float = 0.25,
               squeeze_rate: int = 16, form: str = 'cifar',
               classes: int = 10, selection: str = 'dynamic') -> Network:
    """DenseNet whose 1x1 convolutions are dynamic group convolutions.

    Inputs: (N, 3, 32, 32), or (N, 3, 224, 224) with five stages and form 'imagenet'.
    Outputs: (N, classes).

    Parameters
    ----------
    stages, growth, bottleneck, group_3x3, form
        See `igcnet.models.densenet.densenet`.
    heads, gate_factor, squeeze_rate
        See `igcnet.layers.DynamicGroupConv`.
    selection : str
        'dynamic'; or 'static', the form that `igcnet.deploy.freeze` fills, an ordinary `Network`
        of `igcnet.layers.StaticGroupConv`.

    Returns
    -------
    DynamicNetwork or Network

    Raises
    ------
    UsageError
        A value that cannot work, such as channels that do not divide by the heads.
    """
    make_network, conv = _form(selection, heads, gate_factor, squeeze_rate)

    def reduce(name, in_channels, channels):
        return conv(name, in_channels, channels, 1)

    return dense_network(make_network, reduce, stages, growth, bottleneck, group_3x3, form,
                         classes, 'bn_last')


def dyresnet18(heads: int = 4, gate_factor: float = 0.25, squeeze_rate: int = 16,
               classes: int = 1000, selection: str = 'dynamic') -> Network:
    """ResNet-18 whose blocks and projections are dynamic group convolutions.

    Inputs: (N, 3, H, W), H = W = 224. Outputs: (N, classes). Stages of 64, 128, 256 and 512
    channels.

    Parameters
    ----------
    heads, gate_factor, squeeze_rate
        See `igcnet.layers.DynamicGroupConv`.
    selection : str
        'dynamic'; or 'static', the form that `igcnet.deploy.freeze` fills, an ordinary `Network`
        of `igcnet.layers.StaticGroupConv`.

    Returns
    -------
    DynamicNetwork or Network

    Raises
    ------
    UsageError
        A value that cannot work, such as channels that do not divide by the heads.
    """
    make_network, conv = _form(selection, heads, gate_factor, squeeze_rate)

    def projection_norm(name, channels):
        return named_sequential(norm=BatchNorm(name + '_norm', channels))

    return residual_network(make_network, conv, projection_norm, classes)


def _published(name, constructor, preprocessing, kwargs, params, macs, top1, top5, data_set):
    return ModelSpec(name, 'dgc', constructor, preprocessing, kwargs, Published(
        params, macs, top1, top5, data_set, 'README and counter of zhuogege1943/dgc',
        'its multiply-adds take the gate factor as the share of each dynamic convolution that '
        'is computed, and include ReLU, pooling, gating and biases'))


SPECS = [
    ModelSpec('dydensenet', 'dgc', dydensenet, CIFAR10,
              summary='DenseNet of dynamic group convolutions'),
    _published('dydensenet86_cifar10', dydensenet, CIFAR10, {}, 4.26, 71.04, 4.77, None,
               'CIFAR-10'),
    _published('dydensenet86_cifar100', dydensenet, CIFAR100, dict(classes=100), 4.34, 71.11,
               23.41, None, 'CIFAR-100'),
    _published('dydensenet_imagenet', dydensenet, IMAGENET, IMAGENET_STAGES, 24.06, 549.27,
               25.4, 7.8, 'ImageNet'),
    _published('dyresnet18', dyresnet18, IMAGENET, dict(gate_factor=0.45), 12.34, 890.40,
               31.22, 11.38, 'ImageNet'),
]
