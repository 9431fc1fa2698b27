"""How grouped convolutions and shuffles are computed, apart from what they are.

A CPU library computes convolutions in blocks of `VECTOR` channels. A group with fewer channels
falls back to slow kernels, and a shuffle leaves the blocked layout altogether. The lowering
'blocked' computes the same function in operators that stay in blocks:

- neighbouring groups are merged until a group's input and output channels fill whole blocks; the
  weight gets zeros where the groups did not meet;
- a 1x1 convolution with shuffles round it becomes one dense 1x1 convolution, the shuffles being
  permutations of its weight's rows and columns, so that no activation is moved;
- a dynamic group convolution is computed one image after the other, in the cache, see
  `igcnet.layers.norm_relu_pool` and `head_products`. This is for the CPU alone.

The weight is spread inside the graph, so that parameters, gradients and checkpoints are those of
the plain form. There are more multiply-adds: it pays for narrow groups, not for wide ones.

The lowering 'native' computes whole units by the operators of `igcnet.native`
(`igcnet.layers.lanes`), on a CPU only; 'auto' takes for each layer what is fastest.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Iterator, Optional, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter

from igcnet import native
from igcnet.errors import UsageError

LOWERINGS = ('stock', 'blocked', 'native', 'auto')
VECTOR = 16


class Lowered:
    """A block that can be computed in more than one way; `lowering` says in which."""

    lowering = 'stock'

    def fastest(self, native_operators: bool) -> str:
        """The lowering that was measured to be fastest on a CPU for a layer of this shape.

        Parameters
        ----------
        native_operators : bool
            Whether the operators of `igcnet.native` are there.
        """
        return 'native' if native_operators else 'stock'


def set_lowering(net: HybridBlock, lowering: str) -> str:
    """Choose the lowering of every layer of `net` that has one.

    Where 'native' cannot be had, the layers get 'blocked' and a line on stderr says why.

    Returns
    -------
    str
        `lowering`, or 'blocked' in place of 'native'.

    Raises
    ------
    UsageError
        Unknown lowering; the message lists all.
    """
    if lowering not in LOWERINGS:
        raise UsageError('lowering=%r: must be one of %s' % (lowering, ', '.join(LOWERINGS)))
    problem = why_not_native(net) if lowering in ('native', 'auto') else None
    if lowering == 'native' and problem is not None:
        print("note: lowering 'blocked' in place of 'native': %s" % problem, file=sys.stderr)
        lowering = 'blocked'

    def choose(block):
        if isinstance(block, Lowered):
            block.lowering = lowering if lowering != 'auto' else (
                'stock' if on_gpu(net) else block.fastest(problem is None))
        if isinstance(block, HybridBlock):
            block._clear_cached_op()  # a graph traced before holds the former choice
    net.apply(choose)
    return lowering


def on_gpu(net: HybridBlock) -> bool:
    """Whether any parameter of `net` is on a GPU."""
    return any(context.device_type == 'gpu' for parameter in net.collect_params().values()
               for context in parameter._ctx_list or ())


def why_not_native(net: HybridBlock) -> Optional[str]:
    """Why the lowering 'native' cannot be had, in one line; None when it can."""
    fixed = []
    net.apply(lambda block: fixed.append(getattr(block, 'use_running_statistics', False)))
    if any(fixed):
        return 'its operators have no batch normalisation that keeps its statistics in training'
    if on_gpu(net):
        return 'its operators are for CPUs only'
    amp = sys.modules.get('mxnet.contrib.amp.amp')
    if amp is not None and amp._amp_initialized:
        return 'its operators compute in float32 only'
    return native.missing()


@contextlib.contextmanager
def stock_form(net: HybridBlock) -> Iterator[None]:
    """Inside the ``with`` block `net` traces to its plain graph; cached graphs are kept."""
    changed = []

    def choose(block):
        if isinstance(block, Lowered) and block.lowering != 'stock':
            changed.append((block, block.lowering))
            block.lowering = 'stock'
    net.apply(choose)
    try:
        yield
    finally:
        for block, lowering in changed:
            block.lowering = lowering


def value_of(F: Any, parameter: Parameter, like: Any) -> Any:
    """A parameter as `F` takes it: a variable, or the data on the device of `like`."""
    return parameter.var() if F is mx.sym else parameter.data(like.context)


def in_plain_layout(F: Any, array: Any) -> Any:
    """A copy of `array` in the order of its shape.

    oneDNN has layouts of its own for what a convolution makes, and inference leaves weights in
    them. MXNet 1.9.1 cannot reshape, transpose or sum the weight of a grouped convolution then.
    It can slice it; and unlike an identity, a slice is never left out to save memory.
    """
    return F.slice_axis(array, axis=0, begin=0, end=None)


def merge_factor(groups: int, in_channels: int, channels: int) -> int:
    """How many neighbouring groups to compute as one: the fewest that fill whole blocks.

    1 for a channel-wise convolution, for which the library has kernels of its own, and where a
    group fills blocks already; all groups where no smaller number fits.
    """
    inputs, outputs = in_channels // groups, channels // groups
    if groups == 1 or inputs == outputs == 1:
        return 1
    for factor in range(1, groups):
        if groups % factor == 0 and not (factor * inputs % VECTOR or factor * outputs % VECTOR):
            return factor
    return groups


def merge_groups(F: Any, weight: Any, groups: int, factor: int, shape: Sequence[int]) -> Any:
    """The weight of the convolution in ``groups/factor`` groups that computes the same.

    Parameters
    ----------
    weight : (channels, in_channels/groups, kh, kw)
    shape : tuple of int
        The shape of `weight`.

    Returns
    -------
    (channels, factor*in_channels/groups, kh, kw), with zeros between the merged groups.
    """
    channels, inputs, kh, kw = shape
    parts = F.reshape(in_plain_layout(F, weight), shape=(
        groups // factor, factor, channels // groups, 1, inputs * kh * kw))
    spread = F.broadcast_mul(parts, _identity(F, parts, 1, (1, factor, 1, factor, 1)))
    return F.reshape(spread, shape=(channels, factor * inputs, kh, kw))


def fold_shuffles(F: Any, weight: Any, channels: int, primary_groups: int,
                  secondary_groups: int) -> Any:
    """The dense 1x1 weight of shuffle, grouped 1x1 convolution, shuffle.

    Parameters
    ----------
    weight : (channels, channels/secondary_groups, 1, 1)
    primary_groups, secondary_groups : int
        Groups of the shuffle before and of the convolution and the shuffle behind.

    Returns
    -------
    (channels, channels, 1, 1)
    """
    width = channels // secondary_groups
    parts = F.reshape(in_plain_layout(F, weight), shape=(secondary_groups, width, 1, width))
    dense = F.broadcast_mul(parts, _identity(F, parts, 0, (secondary_groups, 1, secondary_groups,
                                                           1)))
    # Rows are (group, channel of the group), columns what the first shuffle made of
    # (primary group, channel of the group): each pair is swapped.
    dense = F.reshape(dense, shape=(secondary_groups, width, channels // primary_groups,
                                    primary_groups))
    dense = F.transpose(dense, axes=(1, 0, 3, 2))
    return F.reshape(dense, shape=(channels, channels, 1, 1))


def _identity(F, like, axis: int, shape):
    """A unit matrix as large as `like` is along `axis`, in `shape`, on the device of `like`."""
    numbers = F.contrib.arange_like(like, axis=axis)
    rows = F.reshape(numbers, shape=(-1, 1))
    columns = F.reshape(numbers, shape=(1, -1))
    return F.BlockGrad(F.reshape(F.broadcast_equal(rows, columns), shape=shape))
