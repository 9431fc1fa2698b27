"""Key map, outputs and training of the DGC networks against the original's checkpoints."""

import json

import mxnet as mx
import numpy as np
import pytest
from comparing import maximum_difference, relative_difference
from mxnet import autograd
from mxnet.gluon import SymbolBlock
from test_models_dgc import original_settings

import igcnet
from igcnet.convert.families.dgc import WRAPPER, torch_extras, torch_names, torch_others
from igcnet.convert.torch_file import read_torch
from igcnet.train.optimizer import Nesterov

CASES = ('dydensenet_c10_s4-4-4_h4_gf25', 'dydensenet_c100_s2-2-2_h4_gf50_mid',
         'dydensenet_in_s1-2-1-2-1_h4_gf25', 'dyresnet18_c10_h4_gf50')
RUNS = (('dydensenet_c10_s4-4-4_h4_gf25', 'trainA'), ('dydensenet_c10_s4-4-4_h4_gf25', 'trainB'),
        ('dyresnet18_c10_h4_gf50', 'trainA'))
TOLERANCE = 1e-4
# Of the logits, and relative, of gradients and of weights after a step. In dyresnet18 the
# rounding of float32 turns a few ReLUs over, which is a jump in the gradients of the layers before
# them; float64 differs from the stored float32 arrays by their own rounding, 1.4e-5.
TRAINING_TOLERANCES = {
    ('dydensenet', 'float32'): (1e-4, 1e-4), ('dydensenet', 'float64'): (1e-4, 1e-5),
    ('dyresnet18', 'float32'): (1e-3, 5e-3), ('dyresnet18', 'float64'): (1e-4, 5e-5)}


class Original:
    """One case of the original: its settings, checkpoint and stored arrays."""

    def __init__(self, folder, case):
        self.facts = json.loads((folder / (case + '.json')).read_text())
        self.file = read_torch(folder / self.facts['checkpoint']).value
        self.arrays = dict(np.load(folder / (case + '.npz')))

    def state_dict(self):
        """Without the prefix, as NumPy arrays."""
        prefix = WRAPPER['prefixes'][0]
        entries = self.file[WRAPPER['state_dict']]
        assert all(key.startswith(prefix) for key in entries)
        return {key[len(prefix):]: value for key, value in entries.items()}

    def net(self, dtype='float32'):
        """Our network with the original's parameters."""
        net = igcnet.get_model(self.facts['network'], **original_settings(self.facts))
        net.initialize()
        names, values = torch_names(net), self.state_dict()
        for path, parameter in net._collect_params_with_prefix().items():
            assert parameter.shape == values[names[path]].shape
            parameter.set_data(mx.nd.array(values[names[path]]))
        if dtype != 'float32':
            net.cast(dtype)
        return net


@pytest.fixture(params=CASES)
def original(request, shared_fixtures):
    return Original(shared_fixtures('dgc'), request.param)


@pytest.fixture(params=RUNS, ids=lambda parameters: '-'.join(parameters))
def training(request, shared_fixtures):
    """A case and the facts of one of its train runs."""
    case, name = request.param
    original = Original(shared_fixtures('dgc'), case)
    run, = (run for run in original.facts['train_runs'] if run['name'] == name)
    return original, run


def nodes_of(facts):
    """Our node that computes each stored array of a case."""
    first, last = (facts[key].replace('features.', '').replace('.', '_')
                   for key in ('dgc1', 'dgc_last'))
    nodes = {'dgc1_saliency': first + '_saliency', 'dgc1_gated_saliency': first + '_gated',
             'dgc1_active_mask': first + '_mask', 'dgc1_out': first,
             'dgc1_out_sample0_crop16': first,
             'dgc_last_saliency': last + '_saliency', 'pool_last_out': 'flatten',
             'avgpool_out': 'flatten', 'init_conv_out': 'init_conv',
             'denseblock_1_out': 'denseblock_1_denselayer_%d_concat'
                                 % facts['config'].get('stages', [0])[0],
             'layer1_0_out': 'layer1_0_relu2',
             'layer2_0_downsample_out': 'layer2_0_downsample_1_norm'}
    return {stored: node for stored, node in nodes.items() if stored in facts['outputs']}


# Evaluation


def test_logits(original):
    """Imperative and hybridised, with the stored inactive counts."""
    net, x = original.net(), mx.nd.array(original.arrays['x'])
    assert [layer.inactive for layer in net.dynamic_layers] == original.facts[
        'inactive_channels_in_checkpoint']
    assert maximum_difference(net(x), original.arrays['logits']) < TOLERANCE
    net.hybridize(static_alloc=True, static_shape=True)
    for _ in range(2):  # the second pass uses the memory of the first
        assert maximum_difference(net(x), original.arrays['logits']) < TOLERANCE


def test_exported(original, tmp_path):
    """The exported graph, cut at each stored array, gives it too."""
    net, arrays, facts = original.net(), original.arrays, original.facts
    x = mx.nd.array(arrays['x'])
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'net'))
    exported = mx.sym.load(str(tmp_path / 'net-symbol.json'))
    nodes = {**nodes_of(facts), 'logits': net.output.name}
    assert {stored for stored in arrays if not stored.startswith('train')} == {
        'x', 'dgc1_active_idx', 'lasso_per_layer_eval', *nodes}
    graph = SymbolBlock([exported.get_internals()[node + '_output'] for node in nodes.values()],
                        [mx.sym.var('data', dtype='float32')])
    graph.collect_params().load(str(tmp_path / 'net-0000.params'), ignore_extra=True)
    made = dict(zip(nodes, graph(x)))
    if 'dgc1_out_sample0_crop16' in made:
        made['dgc1_out_sample0_crop16'] = made['dgc1_out_sample0_crop16'][0, :, :16, :16]
    for stored, value in made.items():
        assert maximum_difference(value, arrays[stored]) < TOLERANCE, stored
    chosen = [[np.flatnonzero(row) for row in sample] for sample in
              made['dgc1_gated_saliency'].asnumpy()]
    for sample, rows in zip(arrays['dgc1_active_idx'], chosen):
        for stored, row in zip(sample, rows):
            assert stored[stored >= 0].tolist() == row.tolist()


def test_lasso_terms(original):
    net, x = original.net(), mx.nd.array(original.arrays['x'])
    logits, lasso = net.with_lasso()(x)
    assert maximum_difference(logits, original.arrays['logits']) < TOLERANCE
    assert maximum_difference(lasso.mean(axis=0),
                              original.arrays['lasso_per_layer_eval']) < TOLERANCE


# Training


@pytest.mark.parametrize('lowering', ('stock', 'blocked'))
@pytest.mark.parametrize('dtype', ('float32', 'float64'))
def test_train_step(training, dtype, lowering):
    """Counts, logits, losses, gradients, running statistics and weights after a step."""
    original, facts = training
    name = facts['name']
    logits_tolerance, tolerance = TRAINING_TOLERANCES[original.facts['network'], dtype]
    stored = {key[len(name) + 1:]: value for key, value in original.arrays.items()
              if key.startswith(name + '.')}
    net, before = original.net(dtype), original.state_dict()
    net.set_lowering(lowering)
    names = torch_names(net)
    parameters = {names[path]: p for path, p in net._collect_params_with_prefix().items()}
    net.set_progress(facts['progress'])
    assert [layer.inactive for layer in net.dynamic_layers] == facts['inactive_channels']
    block = net.with_lasso()
    block.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(original.arrays['train_x'], dtype=dtype)
    labels = mx.nd.array(original.arrays['train_labels'])
    with autograd.record():
        logits, lasso = block(x)
        entropy = mx.gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)
        loss = (entropy + facts['group_lasso_lambda'] * lasso.sum(axis=1)).mean()
    loss.backward()
    assert maximum_difference(logits, stored['logits']) < logits_tolerance
    assert maximum_difference(lasso.mean(axis=0), stored['lasso_per_layer']) < TOLERANCE
    assert abs(lasso.sum(axis=1).mean().asscalar() - stored['lasso']) < TOLERANCE
    assert abs(entropy.mean().asscalar() - stored['ce']) < TOLERANCE
    assert abs(loss.asscalar() - stored['total_loss']) < TOLERANCE

    gradients = {key: p.grad() for key, p in parameters.items() if p.grad_req != 'null'}
    norm = sum(float((g.astype('float64') ** 2).sum().asscalar()) for g in gradients.values())
    assert abs(norm ** 0.5 / stored['gradnorm_all'] - 1) < tolerance
    watched = [key[len('grad.'):] for key in stored if key.startswith('grad.')]
    assert len(watched) == 4
    for key in watched:
        assert relative_difference(gradients[key], stored['grad.' + key]) < tolerance, key

    norms = [key[len('running_mean.'):] for key in stored if key.startswith('running_mean.')]
    assert len(norms) >= 2
    for norm in norms:
        assert maximum_difference(parameters[norm + '.running_mean'].data(),
                                  stored['running_mean.' + norm]) < TOLERANCE
        # torch keeps the unbiased variance of the batch, MXNet the biased one.
        count = values_per_channel(net, norm, x.shape)
        old = 0.9 * before[norm + '.running_var']
        made = old + (parameters[norm + '.running_var'].data().asnumpy() - old) * (
            count / (count - 1))
        assert np.abs(made - stored['running_var.' + norm]).max() < TOLERANCE

    rule = Nesterov(momentum=facts['momentum'], learning_rate=facts['lr'],
                    wd=facts['weight_decay'])
    momenta = momentum_buffers(original)
    for index, key in enumerate(watched):
        weight = parameters[key].data()
        state = mx.nd.array(momenta.get(key, np.zeros(weight.shape)), dtype=dtype)
        rule.update(index, weight, gradients[key], state)
        assert relative_difference(weight, stored['after_step.' + key]) < tolerance, key


def values_per_channel(net, norm, shape):
    """How many values a BN, by its name in the original, averages over."""
    name = norm.replace('features.', '').replace('.', '_') + '_output'
    batch, _, height, width = net(mx.sym.var('data')).get_internals()[name].infer_shape(
        data=shape)[1][0]
    return batch * height * width


def momentum_buffers(original):
    """The optimiser's arrays by key; torch counts the parameters in the order of the module."""
    if 'optimizer' not in original.file:
        return {}
    buffers = ('running_mean', 'running_var', 'num_batches_tracked', '_inactive_channels')
    keys = [key for key in original.state_dict() if key.rsplit('.', 1)[1] not in buffers]
    state = original.file['optimizer']['state']
    assert len(state) == len(keys)
    return {key: state[index]['momentum_buffer'] for index, key in enumerate(keys)}


# Key map


def test_state_dict_comes_back(original):
    """Keys, order, types and bits of what would be written are those of the file."""
    net, expected = original.net(), original.state_dict()
    parameters = net._collect_params_with_prefix()
    names = torch_names(net)
    assert list(names) == list(parameters)
    written = {names[path]: parameters[path].data().asnumpy() for path in parameters}
    counters = {key for key in expected if key.rsplit('.', 1)[1] in WRAPPER['ignored']}
    assert list(written) == [key for key in expected if key not in counters]
    extras = torch_extras(net)
    assert set(extras) == counters
    for key, value in expected.items():
        made = extras[key] if key in counters else written[key]
        assert made.dtype == value.dtype and made.shape == value.shape
        assert key in counters or made.tobytes() == value.tobytes(), key


def test_wrapper_names_every_entry(original):
    assert set(original.file) <= {WRAPPER['state_dict'], *WRAPPER['others']}
    assert {WRAPPER['state_dict'], *WRAPPER['written']} <= set(original.file)
    written = torch_others(original.net())
    assert {key: type(original.file[key]) for key in WRAPPER['written']} == {
        key: type(value) for key, value in written.items()}


@pytest.mark.parametrize('name, count, examples', (
    ('dydensenet86_cifar10', 1184, {
        'features.init_conv.weight': 'features.init_conv.weight',
        'features.denseblock_3.denselayer_14.conv_1.inactive_channels':
            'features.denseblock_3.denselayer_14.conv_1._inactive_channels',
        'features.denseblock_1.denselayer_2.conv_2.norm.gamma':
            'features.denseblock_1.denselayer_2.conv_2.norm.weight',
        'features.bn_last.running_var': 'bn_last.running_var',
        'output.bias': 'classifier.bias'}),
    ('dydensenet_imagenet', 1016, {}),
    ('dyresnet18', 521, {
        'features.bn1.beta': 'bn1.bias',
        'features.layer3.0.downsample.0.headconv_3.fc2.bias':
            'layer3.0.downsample.0.headconv_3.fc2.bias',
        'features.layer3.0.downsample.1.norm.gamma': 'layer3.0.downsample.1.norm.weight',
        'output.weight': 'fc.weight'}),
    ('densenet86_cifar10', 512, {
        'features.denseblock_1.denselayer_1.conv_1.conv.weight':
            'features.denseblock_1.denselayer_1.conv_1.conv.weight',
        'features.norm_last.gamma': 'features.norm_last.weight'}),
    ('resnet18', 122, {
        'features.layer4.0.downsample.1.gamma': 'layer4.0.downsample.1.weight',
        'features.layer1.1.conv2.weight': 'layer1.1.conv2.weight'})))
def test_names_follow_rules(name, count, examples):
    """Every kind of parameter, nothing twice, and as many entries as in the original."""
    net = igcnet.get_model(name)
    names, extras = torch_names(net), torch_extras(net)
    assert len(names) == len(set(names.values()))
    assert len(names) + len(extras) == len(set(names.values()) | set(extras)) == count
    assert {path: names[path] for path in examples} == examples
