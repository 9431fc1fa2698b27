"""The recipes of the DGC original."""

import math

import pytest

from igcnet.train.recipes import load_recipe, overrides, recipe_names


@pytest.mark.parametrize('name, epochs, batch, augmentation', (
    ('dgc-cifar10', 300, 64, 'dgc-cifar'), ('dgc-cifar100', 300, 64, 'dgc-cifar'),
    ('dgc-imagenet-densenet', 120, 256, 'dgc-imagenet'),
    ('dgc-imagenet-resnet18', 120, 256, 'dgc-imagenet')))
def test_recipes_by_value(name, epochs, batch, augmentation):
    recipe = load_recipe(name)
    assert (recipe.num_epochs, recipe.batch_size, recipe.lr) == (epochs, batch, 0.1)
    assert (recipe.momentum, recipe.wd, recipe.decay) == (0.9, 1e-4, 'all')
    assert (recipe.method, recipe.augmentation) == ('dgc', augmentation)
    assert recipe.method_settings == {'group_lasso_lambda': 1e-5}
    rate = recipe.make_schedule(50000, 782)
    for epoch, step in ((0, 0), (100, 17), (epochs - 1, 781)):
        progress = (epoch * 782 + step) / (epochs * 782)
        assert rate(epoch * 782 + step + 1) == pytest.approx(
            0.05 * (1 + math.cos(math.pi * progress)), rel=1e-9, abs=1e-15)


def test_every_recipe_of_the_family_is_checked():
    assert sum(name.startswith('dgc-') for name in recipe_names()) == 4


@pytest.mark.parametrize('name, words, drops', (
    ('dgc-cifar10', ['schedule=steps-torch', 'lr_steps=0.5,0.75'],
     {149: 0, 150: 1, 224: 1, 225: 2}),
    ('dgc-imagenet-densenet', ['schedule=steps-torch', 'lr_epoch_step=30'],
     {29: 0, 30: 1, 60: 2, 119: 3})))
def test_the_multistep_schedules_of_the_original(name, words, drops):
    """As the page says: ``--set`` with these words."""
    recipe = load_recipe(name)
    recipe = recipe.override(**overrides(recipe, words, '--set'))
    rate = recipe.make_schedule(50000, 100)
    for epoch, count in drops.items():
        for step in (1, 100):
            assert rate(100 * epoch + step) == pytest.approx(0.1 * 0.1 ** count)
