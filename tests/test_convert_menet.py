"""Key maps and outputs of MENet, ShuffleNet and MobileNet against the original's checkpoints."""

import csv
import importlib
import json

import mxnet as mx
import numpy as np
import pytest
from comparing import maximum_difference

import igcnet
from igcnet.convert.torch_file import read_torch

CASES = ('menet128_g4_pretrained', 'menet48_small_g3', 'menet64_module_g2', 'shufflenet_0.5x_g3',
         'mobilenet_0.25x')
TOLERANCE = 1e-4  # rounding noise is up to 4e-5, the smallest structural mistake 3.5e-2


class Original:
    """One case of the original: its configuration, checkpoint and stored arrays."""

    def __init__(self, folder, case):
        facts = json.loads((folder / (case + '.json')).read_text())
        self.settings = dict(facts['config'])
        network = self.settings.pop('name')
        if network.startswith('shufflenet_group_'):
            self.settings['groups'] = int(network[len('shufflenet_group_'):])
            network = 'shufflenet'
        self.network = network
        self.family = importlib.import_module('igcnet.convert.families.' + network)
        self.file = read_torch(folder / facts['checkpoint']).value
        self.arrays = dict(np.load(folder / (case + '.npz')))

    def state_dict(self):
        """Without the prefix, as NumPy arrays."""
        wrapper = self.family.WRAPPER
        entries = self.file[wrapper['state_dict']]
        prefix = next(p for p in sorted(wrapper['prefixes'], key=len, reverse=True)
                      if all(key.startswith(p) for key in entries))
        return {key[len(prefix):]: value for key, value in entries.items()}

    def net(self):
        """Our network with the original's parameters."""
        net = igcnet.get_model(self.network, **self.settings)
        net.initialize()
        names, values = self.family.torch_names(net), self.state_dict()
        for path, parameter in net._collect_params_with_prefix().items():
            assert parameter.shape == values[names[path]].shape
            parameter.set_data(mx.nd.array(values[names[path]]))
        return net


@pytest.fixture(params=CASES)
def original(request, shared_fixtures):
    return Original(shared_fixtures('menet'), request.param)


def node_of(stored):
    """Our node that computes a stored array: ``stage_1_1_b0`` is the output of the unit."""
    name = stored[:-len('_b0')] if stored.endswith('_b0') else stored
    if name.startswith('gate_'):
        return name[len('gate_'):] + '_s_gate'
    if name.startswith('stage_'):
        return name + '_relu'
    return {'init': 'init_pool', 'pooled': 'flatten', 'logits': 'classifier'}.get(name, name)


def block_of(net, stored):
    """Our block that computes a stored array."""
    name = stored[:-len('_b0')] if stored.endswith('_b0') else stored
    if name.startswith('gate_'):
        return getattr(net.features, name[len('gate_'):]).s_gate
    return {'pooled': net.features, 'logits': net}.get(name) or getattr(net.features, name)


def test_outputs(original):
    """Every stored array from the imperative network, and the logits from the hybridised one."""
    net, arrays, made = original.net(), original.arrays, {}
    x = mx.nd.array(arrays.pop('x'))
    assert len(arrays) >= 4
    hooks = [block_of(net, stored).register_forward_hook(
        lambda block, inputs, output, stored=stored: made.update({stored: output}))
        for stored in arrays]
    net(x)
    for hook in hooks:
        hook.detach()
    for stored, expected in arrays.items():
        assert maximum_difference(made[stored][:len(expected)], expected) < TOLERANCE, stored
    net.hybridize(static_alloc=True, static_shape=True)
    for _ in range(2):  # the second pass uses the memory of the first
        assert maximum_difference(net(x), arrays['logits']) < TOLERANCE


def test_exported_outputs(original, tmp_path):
    """Every stored array from the exported graph, read back and cut there."""
    net, arrays = original.net(), original.arrays
    x = mx.nd.array(arrays.pop('x'))
    net.hybridize(static_alloc=True, static_shape=True)
    net(x)
    net.export(str(tmp_path / 'net'))
    internals = mx.sym.load(str(tmp_path / 'net-symbol.json')).get_internals()
    graph = mx.gluon.SymbolBlock(
        mx.sym.Group([internals[node_of(stored) + '_output'] for stored in arrays]),
        mx.sym.var('data'))
    graph.collect_params().load(str(tmp_path / 'net-0000.params'), ignore_extra=True)
    graph.hybridize(static_alloc=True, static_shape=True)
    for (stored, expected), made in zip(arrays.items(), graph(x)):
        assert maximum_difference(made[:len(expected)], expected) < TOLERANCE, stored


def test_state_dict_comes_back(original):
    """Keys, order, types and bits of what would be written are those of the file."""
    net, expected = original.net(), original.state_dict()
    parameters = net._collect_params_with_prefix()
    names = original.family.torch_names(net)
    assert list(names) == list(parameters)
    written = {names[path]: parameters[path].data().asnumpy() for path in parameters}
    counters = {key for key in expected
                if key.rsplit('.', 1)[1] in original.family.WRAPPER['ignored']}
    assert list(written) == [key for key in expected if key not in counters]
    extras = original.family.torch_extras(net)
    assert set(extras) == counters
    written.update(extras)
    for key, value in expected.items():
        assert written[key].dtype == value.dtype and written[key].shape == value.shape
        assert written[key].tobytes() == value.tobytes(), key


def test_wrapper_names_every_entry(original):
    wrapper = original.family.WRAPPER
    assert set(original.file) <= {wrapper['state_dict'], *wrapper['others']}
    if 'optimizer' not in original.file:  # not a training checkpoint
        assert set(original.file) == {wrapper['state_dict'], *wrapper['written']}


def test_names_follow_rules():
    """Every kind of parameter, and nothing twice."""
    from igcnet.convert.families.menet import torch_names
    names = torch_names(igcnet.get_model('menet108_8x1_g3'))
    assert len(names) == len(set(names.values())) == 487
    assert names['features.init.bn.running_var'] == 'features.init.bn.running_var'
    assert names['features.stage_2_8.s_bn_evolve.gamma'] == 'features.stage_2_8.s_bn_evolve.weight'
    assert names['features.stage_1_1.bn_expand.beta'] == 'features.stage_1_1.bn_expand.bias'
    assert names['features.stage_3_1.s_conv.weight'] == 'features.stage_3_1.s_conv.weight'
    assert names['output.bias'] == 'classifier.bias'
    assert len(torch_names(igcnet.get_model('shufflenet_2x_g3'))) == 247
    assert len(torch_names(igcnet.get_model('mobilenet_1x'))) == 137


def centre_crop(path, preprocessing):
    """The original's evaluation: PIL's bilinear resize, then the centre, uint8 (H, W, 3).

    The long side is cut to a whole number, the offset of the crop rounded half to even.
    """
    image = pytest.importorskip('PIL.Image').open(path).convert('RGB')
    shorter, size = preprocessing.resize_shorter, preprocessing.input_size
    width, height = (shorter * side // min(image.size) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), 2)  # 2: bilinear
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image)[top:top + size, left:left + size]


def test_published_checkpoint_on_photographs(shared_fixtures):
    """The real 128-MENet: the original's arg-max on every photograph, and its accuracy."""
    folder = shared_fixtures('menet')
    original = Original(folder, 'menet128_g4_images')
    arrays = original.arrays
    with open(folder / 'images' / 'labels.tsv', newline='') as lines:
        rows = list(csv.DictReader(lines, delimiter='\t'))
    labels = np.array([int(row['class_index']) for row in rows])
    assert len(rows) == 100 and np.array_equal(labels, arrays['labels'])

    preprocessing = igcnet.get_spec('menet128_8x1_g4').preprocessing
    crops = np.stack([centre_crop(folder / 'images' / row['file'], preprocessing)
                      for row in rows])
    np.testing.assert_array_equal(crops[:4], arrays['crops_uint8_first4'])
    x = (crops - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    net = original.net()
    net.hybridize(static_alloc=True, static_shape=True)
    logits = np.concatenate([net(mx.nd.array(batch.transpose(0, 3, 1, 2))).asnumpy()
                             for batch in np.split(x, 4)])
    assert np.array_equal(logits.argmax(1), arrays['logits'].argmax(1))
    assert np.abs(logits - arrays['logits']).max() < TOLERANCE
    best = logits.argsort(1)[:, ::-1]
    assert np.sum(best[:, 0] == labels) == 66
    assert np.sum(best[:, :5] == labels[:, None]) == 85
