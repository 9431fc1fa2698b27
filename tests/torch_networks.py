"""Small networks of every family that has an original in PyTorch."""

import mxnet as mx
import numpy as np
from small_networks import random_network

import igcnet
from igcnet.convert.torch_convert import family_of

# One small network for each family that has an original in PyTorch.
SMALL = {
    'menet': dict(block_channels=(24, 48, 96), block_layers=(1, 1, 1), init_c=6,
                  side_channels=(2, 2, 2), groups=3, classes=5),
    'shufflenet': dict(groups=3, init_mul=0.5, width_mul=0.25, block_layers=(1, 1, 1), classes=5),
    'mobilenet': dict(width_mul=0.125, classes=5),
    'igcv3': dict(width=0.25, classes=5), 'mobilenetv2': dict(width=0.25, classes=5),
    'mobilenet_v1_us': dict(width_mult_range=(0.25, 0.5), width_mult_list=(0.25, 0.5), classes=5),
    'mobilenet_v2_us': dict(width_mult_range=(0.25, 0.5), width_mult_list=(0.5,), classes=5),
    'resnet50_us': dict(width_mult_range=(0.05, 0.1), width_mult_list=(0.05, 0.1), classes=5),
    'wideresnet28_10_us': dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                               width_mult_list=(0.5, 1.0), classes=5),
    'dydensenet': dict(stages='2-1', growth='8-8', classes=5), 'dyresnet18': dict(classes=5),
    'densenet': dict(stages='2-1', growth='8-8', classes=5), 'resnet18': dict(classes=5),
}


def small(name='mobilenet', seed=0):
    """A small network with random values and the key map of its family."""
    return random_network(name, seed, **SMALL[name]), family_of(igcnet.get_spec(name))


def trained_like(name, settings):
    """A network whose values stay in range: the original's initialisation, other statistics."""
    net = igcnet.get_model(name, **settings)
    mx.random.seed(0)
    net.initialize()
    rng = np.random.RandomState(0)
    for path, parameter in net._collect_params_with_prefix().items():
        if path.endswith(('running_mean', 'beta')):
            parameter.set_data(mx.nd.array(0.2 * rng.randn(*parameter.shape)))
        elif path.endswith(('running_var', 'gamma')):
            parameter.set_data(mx.nd.array(0.8 + 0.4 * rng.rand(*parameter.shape)))
        elif path.endswith('inactive_channels'):
            parameter.set_data(mx.nd.array([4]))
        elif 'headconv' in path and 'weight' in path:  # saliencies multiply from layer to layer
            parameter.set_data(0.3 * parameter.data())
    return net


def values_by_path(net):
    return {path: parameter.data().asnumpy()
            for path, parameter in net._collect_params_with_prefix().items()}


def assert_same(net, other, paths=None):
    mine, theirs = values_by_path(net), values_by_path(other)
    for path in paths or mine:
        assert mine[path].tobytes() == theirs[path].tobytes(), path


def fresh(name, **changes):
    return igcnet.get_model(name, **{**SMALL[name], **changes})
