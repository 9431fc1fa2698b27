"""Cases of the MutualNet original: its checkpoints and stored arrays."""

import json

import mxnet as mx
import numpy as np

import igcnet
from igcnet.convert.families import slimmable
from igcnet.convert.torch_file import read_torch

NAMES = {'mobilenet_v1': 'mobilenet_v1_us', 'mobilenet_v2': 'mobilenet_v2_us',
         'resnet': 'resnet50_us', 'wideresnet': 'wideresnet28_10_us'}
STEPS = ('trainstep_mobilenet_v1_c10', 'trainstep_wideresnet10_1_c10')


class Original:
    """One case of the original: its configuration, checkpoint and stored arrays."""

    def __init__(self, folder, case):
        self.facts = json.loads((folder / (case + '.json')).read_text())
        config, self.name = self.facts['config'], NAMES[self.facts['network']]
        settings = igcnet.get_spec(self.name).settings()
        self.settings = {key: config[key] for key in settings if key in config}
        self.settings['classes'] = config['num_classes']
        self.file = read_torch(folder / self.facts['checkpoint']).value
        self.arrays = dict(np.load(folder / (case + '.npz')))

    def state_dict(self):
        """Without the prefix, as NumPy arrays."""
        entries = self.file[slimmable.WRAPPER['state_dict']]
        prefix = slimmable.WRAPPER['prefixes'][0]
        assert all(key.startswith(prefix) for key in entries)
        return {key[len(prefix):]: value for key, value in entries.items()}

    def net(self, hybrid=None, **settings):
        """Our network with the original's parameters."""
        net = igcnet.get_model(self.name, **{**self.settings, **settings})
        net.initialize()
        names, stored = slimmable.torch_names(net), self.state_dict()
        for path, parameter in net._collect_params_with_prefix().items():
            assert parameter.shape == stored[names[path]].shape, path
            parameter.set_data(mx.nd.array(stored[names[path]]))
        if hybrid is not None:
            net.hybridize(**hybrid)
        return net

    def parameters(self, net):
        """Our parameters by the original's key with its prefix."""
        names = slimmable.torch_names(net)
        return {'module.' + names[path]: parameter
                for path, parameter in net._collect_params_with_prefix().items()}

    def cases(self, kind):
        """(key, width, resolution) of the stored arrays whose key begins so."""
        for key in self.arrays:
            if key.startswith(kind):
                _, width, size = key.rsplit('_', 2)
                yield key, float(width[1:]), int(size[1:])

    def selected(self, kind):
        """(key of a parameter, stored array) of the arrays ``<kind>:<key>``."""
        found = [(key.split(':', 1)[1], array) for key, array in self.arrays.items()
                 if key.startswith(kind + ':')]
        assert found
        return found


def resize(x, size):
    x = mx.nd.array(x)
    return x if size == x.shape[2] else mx.nd.contrib.BilinearResize2D(x, height=size, width=size)
