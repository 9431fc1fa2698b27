"""Small graphs made by hand, and the outputs of models."""

import numpy as np

from igcnet.convert.symbol_json import Graph, Node
from igcnet.deploy.model import Model
from igcnet.deploy.runtimes import mxnet_runner


def images(model, count=2):
    return np.random.RandomState(0).standard_normal(
        model.batch_shape(count)).astype(np.float32)


def logits(model, x):
    return mxnet_runner(model, fused=False)(x)


def chain(*steps, channels=4, size=6, mean=True):
    """A model of successive nodes on ``data``, then (if `mean`) the mean over the map.

    A step is (op, attributes, parameters by name).
    """
    draw = np.random.RandomState(1)
    nodes, arrays = [Node('null', 'data')], {}
    last = 0
    for number, (op, attributes, shapes) in enumerate(steps):
        inputs = [last]
        for key, shape in shapes.items():
            name = 'n%d_%s' % (number, key)
            arrays[name] = draw.uniform(0.5, 1.5, shape).astype(np.float32)
            nodes.append(Node('null', name))
            inputs.append(len(nodes) - 1)
        nodes.append(Node(op, 'n%d' % number, attributes, tuple((i, 0) for i in inputs)))
        last = len(nodes) - 1
    if mean:
        nodes.append(Node('mean', 'logits', {'axis': (2, 3)}, ((last, 0),)))
    return Model(Graph(nodes, [(len(nodes) - 1, 0)]), arrays, (channels, size, size))


def conv(channels, inputs, kernel=1, groups=1, **more):
    attributes = dict(kernel=(kernel, kernel), num_filter=channels, num_group=groups,
                      no_bias=True, **more)
    return 'Convolution', attributes, {'weight': (channels, inputs // groups, kernel, kernel)}


def norm(channels, fix_gamma=False):
    return 'BatchNorm', dict(eps=1e-3, fix_gamma=fix_gamma), dict.fromkeys(
        ('gamma', 'beta', 'moving_mean', 'moving_var'), (channels,))
