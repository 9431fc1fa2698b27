"""Key maps, outputs, gradients and statistics against the original's checkpoints."""

import mxnet as mx
import numpy as np
import pytest
from comparing import maximum_difference, relative_difference
from mxnet import autograd
from slimmable_originals import (
    STEPS,
    Original,
    resize,
)

import igcnet
from igcnet.convert.families import slimmable

FORWARD = ('mobilenet_v1_c10', 'mobilenet_v2_c10', 'resnet50_narrow_c10', 'wideresnet10_1_c10')
HYBRID = [None, {}, dict(static_alloc=True, static_shape=True)]
TOLERANCE = 1e-4


def block_of(net, module):
    """Our block for the original's module: ``features.7``, ``conv1``, ``block2``."""
    if module.startswith('features.'):
        number = int(module.split('.')[1])
        return getattr(net.features, 'block%d' % number if number else 'stem')
    return {'conv1': net.features.conv}.get(module) or getattr(
        net.features, module.replace('block', 'stage'))


# Keys


@pytest.fixture(params=FORWARD + STEPS)
def original(request, shared_fixtures):
    return Original(shared_fixtures('mutualnet'), request.param)


def test_state_dict_comes_back(original):
    """Keys, types and bits of what would be written are those of the file; the trained ones,
    which the original also matches by position, in its order."""
    net, expected = original.net(), original.state_dict()
    parameters, names = net._collect_params_with_prefix(), slimmable.torch_names(net)
    assert list(names) == list(parameters) and len(set(names.values())) == len(names)
    written = {names[path]: parameters[path].data().asnumpy() for path in parameters}
    extras = slimmable.torch_extras(net)
    assert {key.rsplit('.', 1)[1] for key in extras} == set(slimmable.WRAPPER['ignored'])
    assert not set(extras) & set(written)
    assert list(written) == [key for key in expected if key not in extras]
    written.update(extras)
    assert set(written) == set(expected)
    for key, value in expected.items():
        assert written[key].dtype == value.dtype and written[key].shape == value.shape
        assert written[key].tobytes() == value.tobytes(), key


def test_wrapper(original):
    """What stands beside the parameters in a file before the first step, to the last number."""
    wrapper = slimmable.WRAPPER
    others = slimmable.torch_others(original.net())
    assert set(original.file) == {wrapper['state_dict'], *wrapper['written']}
    assert set(others) == set(wrapper['written']) <= set(wrapper['others'])
    assert others == {key: original.file[key] for key in others}


def test_names_follow_rules():
    """Every kind of layer, and the blocks without expansion or with another number."""
    names = slimmable.torch_names(igcnet.get_model('mobilenet_v2_us'))
    for ours, theirs in {
            'stem.conv.weight': '0.0.weight', 'stem.bn.gamma': '0.1.weight',
            'stem.bn.statistics.2.running_mean': '0.1.bn.2.running_mean',
            'block1.body.depthwise.weight': '1.body.0.weight',
            'block1.body.project_bn.beta': '1.body.4.bias',
            'block2.body.expand.weight': '2.body.0.weight',
            'block17.body.project_bn.statistics.0.running_var': '17.body.7.bn.0.running_var',
            'tail.conv.weight': '18.0.weight',
            'tail.bn.statistics.every_width.running_mean': '18.1.running_mean'}.items():
        assert names['features.' + ours] == 'features.' + theirs
    assert names['output.bias'] == 'classifier.0.bias'
    quirk = slimmable.torch_names(igcnet.get_model('mobilenet_v2_us', cifar10_rows=True))
    assert quirk['features.tail.bn.gamma'] == 'features.17.1.weight'
    deep = slimmable.torch_names(igcnet.get_model('resnet50_us', depth=101))
    assert deep['features.block33.body.conv2.weight'] == 'features.33.body.3.weight'
    assert deep['features.block31.shortcut.bn.gamma'] == 'features.31.shortcut.1.weight'
    wide = slimmable.torch_names(igcnet.get_model('wideresnet28_10_us'))
    assert wide['features.stage2.block1.shortcut.weight'] == 'block2.layer.0.convShortcut.weight'
    assert wide['features.bn.statistics.1.running_var'] == 'bn1.bn.1.running_var'


# Inference


@pytest.mark.parametrize('case', FORWARD)
@pytest.mark.parametrize('hybrid', HYBRID)
def test_logits(case, hybrid, shared_fixtures):
    """At every width and resolution."""
    original = Original(shared_fixtures('mutualnet'), case)
    net, cases = original.net(hybrid), list(original.cases('logits'))
    assert len(cases) >= 6
    for key, width, size in cases:
        logits = net(resize(original.arrays['x'], size), width=width)
        assert maximum_difference(logits, original.arrays[key]) < TOLERANCE, key


@pytest.mark.parametrize('case', FORWARD)
def test_intermediate_arrays(case, shared_fixtures):
    """Features before the classifier, and outputs of single modules."""
    original = Original(shared_fixtures('mutualnet'), case)
    net, arrays, seen = original.net(), original.arrays, 0
    for key, width, size in [*original.cases('pooled'), *original.cases('act')]:
        made = []
        module = key.rsplit('_', 2)[0][len('act_'):]
        block = net.features if key.startswith('pooled') else block_of(net, module)
        hook = block.register_forward_hook(lambda block, inputs, y, made=made: made.append(y))
        net(resize(arrays['x'], size), width=width)
        hook.detach()
        tolerance = TOLERANCE * max(1, np.abs(arrays[key]).max() / 10)
        assert maximum_difference(made[0], arrays[key]) < tolerance, key
        seen += 1
    assert seen >= 8
    for key in arrays:
        if key.startswith('x_r'):
            assert maximum_difference(resize(arrays['x'], int(key[3:])), arrays[key]) < 1e-6


@pytest.mark.parametrize('case', FORWARD)
def test_sub_networks_cut_out_and_exported(case, shared_fixtures, tmp_path):
    original = Original(shared_fixtures('mutualnet'), case)
    net, cases = original.net(), list(original.cases('logits'))
    smallest = min(size for _, _, size in cases)
    for key, width, size in cases:
        if size != smallest:
            continue
        x = resize(original.arrays['x'], size)
        assert maximum_difference(net.cut(width)(x), original.arrays[key]) < TOLERANCE, key
        net.set_width(width)
        net.export(str(tmp_path / 'net'))
        again = mx.gluon.SymbolBlock.imports(
            str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params'))
        assert maximum_difference(again(x), original.arrays[key]) < TOLERANCE, key


# Training


@pytest.mark.parametrize('case', STEPS)
@pytest.mark.parametrize('hybrid', HYBRID)
def test_training_step(case, hybrid, shared_fixtures):
    """Four passes at four widths and sizes: logits, losses, gradients as they add up, running
    statistics, the weights after the step, and statistics after passes without a recording."""
    original = Original(shared_fixtures('mutualnet'), case)
    net, arrays, facts = original.net(hybrid), original.arrays, original.facts
    trained = [p for p in net.collect_params().values() if p.grad_req != 'null']
    for parameter in trained:
        parameter.grad_req = 'add'
    net.collect_params().zero_grad()
    parameters = original.parameters(net)
    for step, part in enumerate(facts['draws']['sub_networks_in_run_order']):
        with autograd.record():
            logits = net(resize(arrays['x'], part['resolution']), width=part['width'])
            scores = mx.nd.log_softmax(logits, axis=1)
            if step == 0:
                loss = -mx.nd.pick(scores, mx.nd.array(arrays['labels'])).mean()
                teacher = mx.nd.log_softmax(logits.detach(), axis=1)
            else:
                loss = (teacher.exp() * (teacher - scores)).sum(axis=1).mean()
        loss.backward()
        assert maximum_difference(logits, arrays['logits_%d' % step]) < TOLERANCE
        assert abs(loss.asscalar() - arrays['losses'][step]) < 1e-5
        if step < 3:
            for key, gradient in original.selected('gradstep%d' % step):
                assert relative_difference(parameters[key].grad(), gradient) < 1e-4
    for key, gradient in original.selected('grad'):
        assert relative_difference(parameters[key].grad(), gradient) < 1e-4, key
    for key, statistics in original.selected('bn'):
        assert relative_difference(parameters[key].data(), statistics) < 1e-5, key

    rule = facts['optimizer']
    for parameter in trained:
        decays = rule['weight_decay_applies_to'] == 'every parameter' or (
            len(parameter.shape) in (2, 4) and parameter.shape[1] != 1)
        decay = rule['weight_decay'] if decays else 0
        update = parameter.grad() + decay * parameter.data()
        parameter.set_data(parameter.data() - rule['lr'] * (1 + rule['momentum']) * update)
    for key, weight in original.selected('after'):
        assert relative_difference(parameters[key].data(), weight) < 1e-4, key

    with autograd.train_mode():
        for width in sorted(net.listed_widths, reverse=True):
            net(mx.nd.array(arrays['x']), width=width)
    for key, statistics in original.selected('bnlog'):
        assert relative_difference(parameters[key].data(), statistics) < 1e-4, key
