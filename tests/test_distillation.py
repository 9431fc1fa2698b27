"""Distillation, against plain NumPy."""

import mxnet as mx
import numpy as np
import pytest
from small_networks import SMALL, random_network

from igcnet.convert import save_original
from igcnet.errors import CheckpointError, UsageError
from igcnet.train.distillation import Distillation
from igcnet.train.methods import METHODS, Place, find_method
from igcnet.train.metrics import softmax
from igcnet.train.recipes import Recipe
from igcnet.train.targets import soften

RECIPE = Recipe('test', num_epochs=1, batch_size=6, lr=0.1, method='distillation')


@pytest.fixture
def teacher(tmp_path):
    """A teacher and the file with its weights."""
    net = random_network('resnet', seed=7, depth=8, primary_partition=4, secondary_partition=1)
    save_original(net, str(tmp_path / 'teacher'), 1)
    return net, str(tmp_path / 'teacher-0001.params')


def settings(path, **more):
    return {'teacher': 'resnet', 'teacher_params': path,
            'teacher_settings': dict(depth=8, primary_partition=4, secondary_partition=1), **more}


def batch():
    draw = np.random.RandomState(3)
    return (draw.normal(size=(6, 3, 32, 32)).astype(np.float32),
            draw.randint(10, size=6).astype(np.float32))


def cross_entropy(target, logits):
    return -(target * np.log(softmax(logits.astype(np.float64)))).sum(axis=1)


@pytest.mark.parametrize('temperature, hard_weight', [(4.0, 0.5), (1.0, 0.25), (2.0, 0), (3.0, 1)])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_loss_by_value(teacher, temperature, hard_weight, smoothing):
    other, path = teacher
    recipe = RECIPE.override(label_smoothing=smoothing, method_settings=settings(
        path, temperature=temperature, hard_weight=hard_weight))
    net = random_network(**SMALL)
    images, labels = batch()
    outcome = Distillation(net, recipe, 0, 1).gradients(Place(0, 0), images, labels, [mx.cpu()])
    logits = outcome.outputs[0].asnumpy()
    soft = softmax(other(mx.nd.array(images)).asnumpy().astype(np.float64) / temperature)
    _, hard = soften(images, labels, 10, recipe, (0, 0, 0))
    expected = hard_weight * cross_entropy(hard, logits) + (
        1 - hard_weight) * temperature ** 2 * cross_entropy(soft, logits / temperature)
    np.testing.assert_allclose(outcome.losses[0].asnumpy(), expected, rtol=1e-4)
    assert np.abs(net.output.weight.grad().asnumpy()).max() > 1e-3


def test_teacher_stays_as_it_is_and_two_devices_agree(teacher):
    _, path = teacher
    recipe = RECIPE.override(method_settings=settings(path))
    images, labels = batch()
    images, labels = np.concatenate([images, images]), np.concatenate([labels, labels])
    found = []
    for contexts in ([mx.cpu()], [mx.cpu(0), mx.cpu(1)]):
        net = random_network(**SMALL)
        net.collect_params().reset_ctx(contexts)
        method = Distillation(net, recipe, 0, 1)
        before = {n: p.data(mx.cpu(0)).asnumpy()
                  for n, p in method.teacher.collect_params().items()}
        outcome = method.gradients(Place(0, 0), images, labels, contexts)
        for name, parameter in method.teacher.collect_params().items():
            np.testing.assert_array_equal(parameter.data(mx.cpu(0)).asnumpy(), before[name])
        found.append(np.concatenate([loss.asnumpy() for loss in outcome.losses]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)


def test_mixed_images_are_what_the_teacher_sees(teacher):
    other, path = teacher
    recipe = RECIPE.override(cutmix_alpha=1.0, method_settings=settings(path, hard_weight=0))
    net = random_network(**SMALL)
    images, labels = batch()
    outcome = Distillation(net, recipe, 0, 1).gradients(Place(0, 0), images, labels, [mx.cpu()])
    pasted, _ = soften(images, labels, 10, recipe, (0, 0, 0))
    assert np.abs(pasted - images).max() > 0
    soft = softmax(other(mx.nd.array(pasted)).asnumpy().astype(np.float64) / 4)
    expected = 16 * cross_entropy(soft, outcome.outputs[0].asnumpy() / 4)
    np.testing.assert_allclose(outcome.losses[0].asnumpy(), expected, rtol=1e-4)


@pytest.mark.parametrize('changes, message', [
    (dict(teacher=''), '--teacher NETWORK is missing'),
    (dict(teacher_params=''), '--teacher-params FILE is missing'),
    (dict(temperature=0.0), 'temperature=0: must be greater'),
    (dict(hard_weight=1.5), 'hard_weight=1.5: must be from 0 to 1'),
    (dict(teacher='resnets'), 'did you mean'),
    (dict(teacher_settings={'dept': 8}), 'teacher_settings: resnet has no setting dept'),
    (dict(teacher_settings={'classes': 3}), 'it has 3 classes, the network has 10'),
])
def test_wrong_settings(teacher, changes, message):
    recipe = RECIPE.override(method_settings={**settings(teacher[1]), **changes})
    with pytest.raises(UsageError, match=message):
        Distillation(random_network(**SMALL), recipe, 0, 1)


def test_weights_of_another_network_are_refused(teacher):
    recipe = RECIPE.override(method_settings={**settings(teacher[1]), 'teacher_settings': {}})
    with pytest.raises(CheckpointError, match='does not fit the network'):
        Distillation(random_network(**SMALL), recipe, 0, 1)


def test_is_registered():
    assert find_method('distillation') is METHODS['distillation'] is Distillation
