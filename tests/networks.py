"""Networks for the tests of the models."""

import mxnet as mx


def trained_looking(net):
    """`net` with parameters as after some training: no statistic is 0 or 1."""
    mx.random.seed(3)
    net.initialize()
    for key, parameter in net.collect_params().items():
        if key.endswith('_moving_var'):
            parameter.set_data(mx.nd.random.uniform(0.5, 2, shape=parameter.shape))
        elif key.endswith(('_moving_mean', '_beta', '_bias')):
            parameter.set_data(mx.nd.random.normal(0, 0.1, shape=parameter.shape))
    return net
