"""Small slimmable networks for the tests."""

import mxnet as mx
import numpy as np
from mxnet import autograd

import igcnet

# Small enough to compute in no time; every kind of layer. The third width is not listed.
SMALL = {
    'mobilenet_v1_us': (dict(width_mult_range=(0.125, 0.25), width_mult_list=(0.125, 0.25)),
                        (0.125, 0.25, 0.19)),
    'mobilenet_v2_us': (dict(width_mult_range=(0.25, 0.5), width_mult_list=(0.25, 0.5)),
                        (0.25, 0.5, 0.4)),
    'resnet50_us': (dict(width_mult_range=(0.05, 0.125), width_mult_list=(0.05, 0.125)),
                    (0.05, 0.125, 0.1)),
    'wideresnet28_10_us': (dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                                width_mult_list=(0.5, 1.0)), (0.5, 1.0, 0.8)),
}
WRN = 'wideresnet28_10_us'
HYBRID = [None, {}, dict(static_alloc=True, static_shape=True)]
STATIC = HYBRID[::2]


def small(name=WRN, ctx=None, **settings):
    """A small network whose parameters and statistics are all different."""
    mx.random.seed(5)
    net = igcnet.get_model(name, classes=4, **{**SMALL[name][0], **settings})
    net.initialize(ctx=ctx)
    for path, parameter in net._collect_params_with_prefix().items():
        if path.rsplit('.', 1)[1] in ('gamma', 'running_var'):
            parameter.set_data(mx.nd.random.uniform(0.8, 1.2, parameter.shape))
        elif path.rsplit('.', 1)[1] in ('beta', 'running_mean', 'bias'):
            parameter.set_data(mx.nd.random.normal(0, 0.1, parameter.shape))
    return net


def images(count=4, size=64, seed=0):
    return mx.nd.array(np.random.RandomState(seed).randn(count, 3, size, size))


def values(net):
    return {path: parameter.data().asnumpy()
            for path, parameter in net._collect_params_with_prefix().items()}


def gradients(net):
    return {path: parameter.grad().asnumpy()
            for path, parameter in net._collect_params_with_prefix().items()
            if parameter.grad_req != 'null'}


def backward(net, x, **width):
    """One pass of which the gradients are interesting; its logits."""
    with autograd.record():
        logits = net(x, **width)
        loss = (logits * mx.nd.arange(4)).sum() + (logits ** 2).sum()
    loss.backward()
    return logits.asnumpy()


def close(left, right, tolerance=2e-4):
    assert left.shape == right.shape
    assert np.abs(left - right).max() <= tolerance * max(1e-3, np.abs(right).max())


def count_traces(net):
    """A list that grows by the width whenever the network is traced."""
    traces = []

    def note(block, inputs):
        if isinstance(inputs[0], mx.sym.Symbol):
            traces.append(net.width)

    net.features.register_forward_pre_hook(note)
    return traces
