"""Recipes: reading, checking, overriding."""

import pytest

from igcnet.errors import UsageError
from igcnet.train.recipes import Recipe, default_recipe, load_recipe, recipe_names


@pytest.mark.parametrize('name', recipe_names())
def test_every_recipe_of_the_package_reads(name):
    assert load_recipe(name).name == name


def test_original_recipes_by_value():
    cifar = load_recipe('igc-cifar')
    assert (cifar.num_epochs, cifar.batch_size, cifar.lr, cifar.lr_factor) == (400, 64, 0.1, 0.1)
    assert (cifar.momentum, cifar.wd, cifar.decay, cifar.aug_type) == (0.9, 1e-4, 'all', None)
    assert cifar.drop_epochs() == [200, 300, 350]
    assert cifar.override(num_epochs=10).drop_epochs() == [5, 7, 8]
    imagenet = load_recipe('igc-imagenet')
    assert imagenet.aug_type == 1
    assert imagenet.drop_epochs() == [30, 60, 90]
    assert imagenet.override(num_epochs=90).drop_epochs() == [30, 60]


@pytest.mark.parametrize('dataset, recipe', [
    ('cifar10', 'igc-cifar'), ('cifar100', 'igc-cifar'), ('svhn', 'igc-svhn'),
    ('imagenet', 'igc-imagenet'), (None, 'igc-cifar')])
def test_default_recipe_of_a_data_set(dataset, recipe):
    assert default_recipe(dataset) == recipe


def test_override_keeps_what_is_not_given():
    recipe = load_recipe('igc-imagenet').override(lr=None, lr_steps=(10.0, 20.0))
    assert recipe.lr == 0.1
    assert recipe.drop_epochs() == [10, 20]


def test_own_file(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_steps: [1, 2]\n')
    assert load_recipe(str(path)) == Recipe('mine', 3, 8, 1.0, lr_steps=(1.0, 2.0))


@pytest.mark.parametrize('text, message', [
    ('num_epochs: 3\nbatch_size: 8\n', 'lacks lr'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlearning: 2\n', "no key 'learning'"),
    ('num_epochs: three\nbatch_size: 8\nlr: 1\n', 'whole number'),
    ('num_epochs: true\nbatch_size: 8\nlr: 1\n', 'whole number'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 0\n', 'greater than 0'),
    ('num_epochs: 3\nbatch_size: 8\nlr: .nan\n', 'greater than 0'),
    ('num_epochs: 3\nbatch_size: 0\nlr: 1\n', 'at least 1'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nschedule: poly\n', 'one of steps, cosine'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nschedule: cosine\nwarmup_epochs: 3\n', 'below'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nmomentum: 1\n', 'below 1'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_steps: [0]\n', 'greater than 0'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_steps: 5\n', 'list of numbers'),
    ('- 1\n', 'table of keys'), ('a: [', 'damaged'), ('!!python/object:os.system {}', 'damaged'),
])
def test_bad_files_are_one_line(tmp_path, text, message):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_unknown_name_lists_the_recipes():
    with pytest.raises(UsageError, match='igc-cifar, igc-imagenet, igc-svhn, modern'):
        load_recipe('no-such-recipe')
