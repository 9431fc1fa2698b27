"""Gluon's layers under exact names, with only the attributes that were set.

They behave as their namesakes in ``mxnet.gluon.nn`` and are instances of them where Gluon's
constructor allows it. A traced graph holds the attributes that the originals wrote, no defaults.
"""

from __future__ import annotations

from typing import Tuple, Union

from mxnet.gluon import HybridBlock, nn
from mxnet.initializer import Initializer

from igcnet.errors import UsageError
from igcnet.layers.lowering import VECTOR, Lowered, merge_factor, merge_groups
from igcnet.layers.naming import ExactName, NamedLayer

Size = Union[int, Tuple[int, int]]


def named_sequential(**children: HybridBlock) -> nn.HybridSequential:
    """A HybridSequential whose children are attributes with the given names, in that order."""
    block = nn.HybridSequential(prefix='')
    for name, child in children.items():
        setattr(block, name, child)
    return block


class Conv2D(Lowered, nn.Conv2D):
    """2-D convolution, grouped or not, NCHW.

    Inputs: `data` (N, in_channels, H, W). Outputs: (N, channels, H', W') with
    ``H' = (H + 2*padding - dilation*(kernel_size - 1) - 1) // strides + 1``.

    Raises
    ------
    UsageError
        When the channel counts do not divide by `groups`.
    """

    def __init__(self, name: str, in_channels: int, channels: int, kernel_size: Size,
                 strides: Size = 1, padding: Size = 0, groups: int = 1, use_bias: bool = False,
                 dilation: Size = 1):
        if groups < 1 or in_channels % groups or channels % groups:
            raise UsageError('%s: %d input and %d output channels do not divide by %d groups'
                             % (name, in_channels, channels, groups))
        super().__init__(channels, kernel_size, strides, padding, dilation, groups=groups,
                         use_bias=use_bias, in_channels=in_channels, prefix=name + '_')

    @property
    def group_channels(self) -> int:
        """Input channels of one group."""
        return self._in_channels // self._kwargs['num_group']

    def fastest(self, native_operators):
        # From 8 channels a group on, the CPU library's own kernels are faster than more zeros;
        # but where a group makes few of them their gradients take up to seven times as long.
        inputs, outputs = self.group_channels, self._channels // self._kwargs['num_group']
        merged = inputs * merge_factor(self._kwargs['num_group'], self._in_channels,
                                       self._channels)
        limit = 2 * VECTOR if inputs <= 4 else 8 * VECTOR
        return 'blocked' if min(inputs, outputs) <= 4 and merged <= limit else 'stock'

    def hybrid_forward(self, F, x, weight, bias=None):
        given, groups = self._kwargs, self._kwargs['num_group']
        # The operators of `igcnet.native` are for whole units.
        lowering = self.fastest(False) if self.lowering == 'native' else self.lowering
        if lowering == 'blocked':
            factor = merge_factor(groups, self._in_channels, self._channels)
            if factor > 1:
                weight = merge_groups(F, weight, groups, factor, self.weight.shape)
                groups //= factor
        inputs = (x, weight) if bias is None else (x, weight, bias)
        dilation = {'dilate': given['dilate']} if max(given['dilate']) > 1 else {}
        with ExactName(self.name):
            return F.Convolution(*inputs, kernel=given['kernel'], stride=given['stride'],
                                 pad=given['pad'], num_filter=given['num_filter'],
                                 num_group=groups, no_bias=bias is None, **dilation)


class Dense(nn.Dense):
    """Fully connected layer on flat input, with bias unless `use_bias` is false.

    Inputs: `data` (N, in_units). Outputs: (N, units). `bias_initializer` is that of the bias, by
    name or as an Initializer.
    """

    def __init__(self, name: str, in_units: int, units: int, use_bias: bool = True,
                 bias_initializer: Union[str, Initializer] = 'zeros'):
        super().__init__(units, use_bias=use_bias, bias_initializer=bias_initializer,
                         in_units=in_units, prefix=name + '_')

    def hybrid_forward(self, F, x, weight, bias=None):
        inputs = (x, weight) if bias is None else (x, weight, bias)
        no_bias = {'no_bias': True} if bias is None else {}
        with ExactName(self.name):
            return F.FullyConnected(*inputs, num_hidden=self._units, **no_bias)


class BatchNorm(NamedLayer):
    """Batch normalisation over axis 1, with trainable scale and shift.

    The running statistics are the attributes ``running_mean`` and ``running_var`` as in Gluon,
    but the parameters are called ``<name>_moving_mean`` and ``<name>_moving_var`` as in MXNet's
    symbol checkpoints, which is why this cannot be a subclass of ``nn.BatchNorm``.

    Inputs: `data` (N, channels, ...). Outputs: the same shape.

    Parameters
    ----------
    momentum : float
        The part of the old running statistic that is kept at each update.
    running_variance_initializer : str
        'ones' as in Gluon, or 'zeros' as in the IGC original.
    epsilon : float
        Added to the variance.

    Attributes
    ----------
    use_running_statistics : bool
        Normalise by the running statistics in training too, and keep them as they are.
    normalise : callable, optional
        Computes the layer in place of MXNet's operator, unless `use_running_statistics`: given
        the layer, its input, scale and shift.

    Notes
    -----
    MXNet stores the biased batch variance and updates the running statistics in the backward
    pass only.
    """

    def __init__(self, name: str, channels: int, momentum: float = 0.9, epsilon: float = 1e-5,
                 running_variance_initializer: str = 'ones'):
        super().__init__(name)
        self.channels, self.momentum, self.epsilon = channels, momentum, epsilon
        self.use_running_statistics = False
        self.normalise = None
        shape = (channels,)
        self.gamma = self.params.get('gamma', shape=shape, init='ones')
        self.beta = self.params.get('beta', shape=shape, init='zeros')
        self.running_mean = self.params.get('moving_mean', shape=shape, init='zeros',
                                            grad_req='null', differentiable=False)
        self.running_var = self.params.get('moving_var', shape=shape,
                                           init=running_variance_initializer,
                                           grad_req='null', differentiable=False)

    def cast(self, dtype):
        # Statistics in half precision lose digits; Gluon keeps float32 as well.
        super().cast('float32' if str(dtype) == 'float16' else dtype)

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        if self.normalise is not None and not self.use_running_statistics:
            return self.normalise(self, x, gamma, beta)
        fixed = {'use_global_stats': True} if self.use_running_statistics else {}
        with self.exact_name():
            return F.BatchNorm(x, gamma, beta, running_mean, running_var, eps=self.epsilon,
                               momentum=self.momentum, fix_gamma=False, **fixed)

    def __repr__(self):
        return 'BatchNorm(channels=%d, momentum=%g, epsilon=%g)' % (
            self.channels, self.momentum, self.epsilon)


class Activation(NamedLayer):
    """Element-wise non-linearity of MXNet's ``Activation`` operator ('relu', 'sigmoid', ...).

    Inputs: `data` of any shape. Outputs: the same shape.
    """

    def __init__(self, name: str, act_type: str = 'relu'):
        super().__init__(name)
        self.act_type = act_type

    def hybrid_forward(self, F, x):
        with self.exact_name():
            return F.Activation(x, act_type=self.act_type)

    def __repr__(self):
        return 'Activation(%s)' % self.act_type


class ReLU6(NamedLayer):
    """min(max(x, 0), 6), as the operator ``clip``.

    Inputs: `data` of any shape. Outputs: the same shape.
    """

    def hybrid_forward(self, F, x):
        with self.exact_name():
            return F.clip(x, a_min=0, a_max=6)

    def __repr__(self):
        return 'ReLU6()'


class Dropout(NamedLayer):
    """Sets values to 0 with probability `rate` in training and scales up the others.

    Inputs: `data` of any shape. Outputs: the same shape.
    """

    def __init__(self, name: str, rate: float):
        super().__init__(name)
        self.rate = rate

    def hybrid_forward(self, F, x):
        with self.exact_name():
            return F.Dropout(x, p=self.rate)

    def __repr__(self):
        return 'Dropout(%g)' % self.rate


class Pool2D(NamedLayer):
    """2-D pooling; sizes are rounded down ('valid' convention), padding counts in averages.

    Inputs: `data` (N, C, H, W). Outputs: (N, C, H', W'), H' = H divided by `strides`, or
    (N, C, 1, 1) with `global_pool`. `pool_type` is 'max' or 'avg'.
    """

    def __init__(self, name: str, pool_type: str, kernel_size: int, strides: int = 1,
                 padding: int = 0, global_pool: bool = False):
        super().__init__(name)
        self.attributes = {'pool_type': pool_type, 'kernel': (kernel_size, kernel_size),
                           'stride': (strides, strides)}
        if padding:
            self.attributes['pad'] = (padding, padding)
        if global_pool:
            self.attributes['global_pool'] = True

    def hybrid_forward(self, F, x):
        with self.exact_name():
            return F.Pooling(x, **self.attributes)

    def __repr__(self):
        return 'Pool2D(%s)' % ', '.join('%s=%s' % item for item in self.attributes.items())


class Flatten(NamedLayer):
    """Everything but the first axis as one. Inputs: (N, C, H, W). Outputs: (N, C*H*W)."""

    def hybrid_forward(self, F, x):
        with self.exact_name():
            return F.Flatten(x)

    def __repr__(self):
        return 'Flatten()'


class Add(NamedLayer):
    """Sum. Inputs: two arrays of one shape. Outputs: that shape."""

    def hybrid_forward(self, F, left, right):
        with self.exact_name():
            return F.elemwise_add(left, right)

    def __repr__(self):
        return 'Add()'


class Multiply(NamedLayer):
    """Element-wise product. Inputs: two arrays of one shape. Outputs: that shape."""

    def hybrid_forward(self, F, left, right):
        with self.exact_name():
            return F.elemwise_mul(left, right)

    def __repr__(self):
        return 'Multiply()'


class Concat(NamedLayer):
    """One after the other along the channels. Inputs: (N, C_i, H, W), ... Outputs: (N, sum of C_i,
    H, W)."""

    def hybrid_forward(self, F, *parts):
        with self.exact_name():
            return F.concat(*parts, dim=1)

    def __repr__(self):
        return 'Concat()'
