"""Layers computed by the operators of `igcnet.native`, in lanes.

The operators keep an activation as (blocks, channels, height, width, 16): the 16 numbers side by
side belong to 16 images. Each layer here takes and gives ordinary arrays (N, C, H, W) all the
same; where one follows another in a traced graph, `enter` finds that its input has just left the
lanes and takes it from there, so that nothing is converted in between. In the same way a batch
normalisation and its activation are left to the convolution that follows, which applies them to
what it reads.

What a batch normalisation does with its statistics is MXNet's own: the operator ``BatchNorm`` is
given two points a channel that have the batch's mean and variance. It knows whether the graph is
run for training, which the library's operators are not told, and updates the running statistics
in the backward pass.

The library's operators write their gradients; they are not told to add them. Whatever may be
used twice, or may have ``grad_req='add'``, therefore goes through an identity, which can add.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.layers.lowering import value_of

ACTIVATIONS = ('none', 'relu', 'relu6')


class Norm(NamedTuple):
    """A batch normalisation that is not computed yet: its five arrays, and what follows it."""

    arrays: Sequence[Any]
    activation: str


class Lanes(NamedTuple):
    """An activation in lanes; `images` is an array with one number for each image."""

    data: Any
    images: Any
    norm: Optional[Norm] = None


def possible(*convolutions: HybridBlock) -> bool:
    """Whether the operators can compute these layers: float32 on a CPU, and their shapes."""
    for convolution in convolutions:
        weight = convolution.weight
        if np.dtype(weight.dtype) != np.float32 or not _has_kernel(convolution):
            return False
        if any(context.device_type != 'cpu' for context in weight._ctx_list or ()):
            return False
    return True


def _has_kernel(convolution) -> bool:
    """Whether there is a kernel for a convolution: 1x1 or 3x3, the padding that keeps the size."""
    given = convolution._kwargs
    size = given['kernel'][0]
    return (size in (1, 3) and given['kernel'] == (size, size)
            and given['pad'] == (size // 2, size // 2) and max(given['dilate']) == 1
            and given['stride'][0] == given['stride'][1] and convolution.bias is None)


def fastest_of_unit(convolution: HybridBlock, native_operators: bool) -> str:
    """The fastest lowering of a convolution with batch normalisation and activation.

    Where many channels meet in a 3x3 or 1x1 convolution, the CPU library's own kernels are as
    fast, and need no lanes.
    """
    pays = _has_kernel(convolution) and convolution.group_channels < 48
    return 'native' if native_operators and pays else 'stock'


def enter(F: Any, x: Any) -> Lanes:
    """An ordinary array (N, C, H, W) as lanes."""
    if F is mx.sym and x.attr('igcnet') == 'from_lanes':
        data, images = x.get_children()
        if data.attr('igcnet') == 'norm':
            z, images, *arrays = data.get_children()
            return Lanes(z, images, Norm(arrays, ACTIVATIONS[int(data.attr('act'))]))
        return Lanes(data, images)
    data, images = F.igcnet_to_lanes(F.identity(x))
    return Lanes(data, F.BlockGrad(images))


def leave(F: Any, lanes: Lanes) -> Any:
    """The ordinary array."""
    return F.igcnet_from_lanes(whole(F, lanes), lanes.images, igcnet='from_lanes')


def whole(F: Any, lanes: Lanes) -> Any:
    """The data with its batch normalisation applied, if it has one."""
    return F.identity(lanes.data) if lanes.norm is None else _normalise(F, lanes, lanes.norm)


def add(F: Any, lanes: Lanes, residual: Optional[Lanes] = None, activation: str = 'none',
        shuffle: int = 1) -> Lanes:
    """What a batch normalisation made, shuffled, plus `residual`, then the activation.

    Parameters
    ----------
    lanes : Lanes
        With a batch normalisation that no activation follows.
    shuffle : int
        Groups of the channel shuffle behind the normalisation; 1 is none.
    """
    norm = lanes.norm._replace(activation=activation)
    more = [] if residual is None else [whole(F, residual)]
    return Lanes(_normalise(F, lanes, norm, more, shuffle), lanes.images)


def _normalise(F, lanes, norm, residual=(), shuffle=1):
    # `enter` takes a plain one apart again; the mark says that this can be done.
    mark = 'sum' if residual or shuffle > 1 else 'norm'
    return F.igcnet_norm(F.identity(lanes.data), lanes.images, *norm.arrays, *residual,
                         igcnet=mark, residual=len(residual), shuffle=shuffle,
                         act=ACTIVATIONS.index(norm.activation))


def convolve(F: Any, lanes: Lanes, convolution: HybridBlock, bn: Optional[HybridBlock] = None,
             activation: str = 'none', shuffle_before: int = 1, shuffle_after: int = 1) -> Lanes:
    """A `Conv2D` between two shuffles, and the `BatchNorm` (`bn`) and activation that follow it.

    Parameters
    ----------
    shuffle_before, shuffle_after : int
        Groups of the channel shuffle before and behind; 1 is none.
    """
    given = convolution._kwargs
    like = lanes.data
    norm = Norm((), 'none') if lanes.norm is None else lanes.norm
    outputs = F.igcnet_convolution(
        F.identity(lanes.data), F.identity(value_of(F, convolution.weight, like)), lanes.images,
        *norm.arrays, norm=int(lanes.norm is not None), act=ACTIVATIONS.index(norm.activation),
        moments=int(bn is not None), groups=given['num_group'], stride=given['stride'][0],
        shuffle_before=shuffle_before, shuffle_after=shuffle_after)
    if bn is None:
        return Lanes(outputs, lanes.images)
    z, points, ones, zeros = outputs
    gamma, beta, mean, variance = (value_of(F, p, like) for p in (
        bn.gamma, bn.beta, bn.running_mean, bn.running_var))
    # Its output is used, so that its backward pass, which updates the statistics, takes place.
    normalised, mean, inverse = F.BatchNorm(
        points, ones, zeros, mean, variance, eps=bn.epsilon, momentum=bn.momentum,
        fix_gamma=False, output_mean_var=True)
    arrays = [normalised, mean, inverse, F.identity(gamma), F.identity(beta)]
    return Lanes(z, lanes.images, Norm(arrays, activation))
