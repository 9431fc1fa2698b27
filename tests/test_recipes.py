"""Recipes: reading, checking, overriding."""


import pytest
import yaml
from conftest import REPO, needs_checkout

from igcnet.data.augment import PRESETS
from igcnet.errors import UsageError
from igcnet.layers.init import INITIALIZERS, find_initializer
from igcnet.train.methods import METHODS, find_method
from igcnet.train.optimizer import RULES, find_rule, make_optimizer
from igcnet.train.recipes import (
    Recipe,
    default_recipe,
    load_recipe,
    overrides,
    recipe_from_dict,
    recipe_names,
    recipe_types,
)


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
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nschedule: linear\n', 'one of steps, steps-torch'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nschedule: cosine\nwarmup_epochs: 3\n', 'below'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nmomentum: 1\n', 'below 1'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_steps: [0]\n', 'greater than 0'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_steps: 5\n', 'list of numbers'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nschedule: steps\nwarmup_epochs: 3\n', 'below'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nwd_mult: {a: b}\n', "wd_mult.a='b': must be a n"),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nlr_mult: {a: -1}\n', 'lr_mult.a=-1.0: must be at'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nwd_mult: 1\n', 'a table of names'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\naccumulate: 0\n', 'at least 1'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nema_decay: 1\n', 'below 1'),
    ('num_epochs: 3\nbatch_size: 8\nlr: 1\nclip_norm: -1\n', 'at least 0'),
    ('base: nothing\n', "'nothing': neither one of"), ('base: bad.yaml\n', 'come back to itself'),
    ('base: [1]\n', 'neither'),
    ('- 1\n', 'table of keys'), ('a: [', 'damaged'), (3000 * '[', 'damaged'),
    ('!!python/object:os.system {}', 'damaged'),
])
def test_bad_files_are_one_line(tmp_path, text, message):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name, values', [
    ('igcv3-cifar10', dict(num_epochs=800, batch_size=156, lr=0.1, optimizer='sgd', momentum=0.9,
                           wd=5e-4, decay='all', augmentation='igcv3-cifar10', init='igcv3')),
    ('igcv3-cifar100', dict(num_epochs=800, batch_size=156, lr=0.1, optimizer='sgd', wd=5e-4,
                            augmentation='igcv3-cifar100')),
    ('igcv3-imagenet', dict(num_epochs=480, batch_size=96, lr=0.045, optimizer='sgd-mxnet',
                            wd=4e-5, decay='weights-and-gamma', augmentation='igcv3-imagenet',
                            init='igcv3-mxnet')),
    ('menet-sgd-120-nesterov', dict(num_epochs=120, batch_size=256, lr=0.1, optimizer='nesterov',
                                    momentum=0.9, wd=4e-5, decay='all',
                                    augmentation='menet-aggressive')),
    ('menet-sgd-120-no-nesterov', dict(num_epochs=120, optimizer='sgd', wd=4e-5)),
    ('menet-sgd-90-nesterov', dict(num_epochs=90, optimizer='nesterov', lr_epoch_step=30)),
    ('menet-sgd-90-no-nesterov', dict(num_epochs=90, optimizer='sgd', lr_factor=0.1)),
    ('menet-rmsprop', dict(num_epochs=100, lr=0.045, optimizer='rmsprop', momentum=0.9, wd=4e-5,
                           lr_factor=0.94, lr_epoch_step=2,
                           optimizer_settings={'alpha': 0.9, 'epsilon': 1.0, 'centered': False})),
    ('igc-imagenet-train-model', dict(num_epochs=100, batch_size=64, aug_type=2, wd=1e-4)),
])
def test_recipes_of_the_originals_by_value(name, values):
    recipe = load_recipe(name)
    assert {key: getattr(recipe, key) for key in values} == values


@pytest.mark.parametrize('name', recipe_names())
def test_every_recipe_has_what_it_names(name):
    recipe = load_recipe(name)
    rule, settings = find_rule(recipe)
    assert make_optimizer(recipe, None).wd == recipe.wd
    assert recipe.make_schedule(50000, 782)(1) >= 0
    if recipe.augmentation is not None:
        assert recipe.augmentation in PRESETS
    if recipe.init is not None:
        find_initializer(recipe.init)
    # What a run writes down reads back as the same recipe.
    assert recipe_from_dict(yaml.safe_load(yaml.safe_dump(recipe.as_dict())), name, '') == recipe


def test_a_base_gives_what_a_file_does_not(tmp_path):
    (tmp_path / 'first.yaml').write_text('base: igc-imagenet\nlr: 0.05\nlr_steps: [3]\n')
    (tmp_path / 'second.yaml').write_text(
        'base: first.yaml\nnum_epochs: 9\naugmentation: dgc-imagenet\n')
    recipe = load_recipe(str(tmp_path / 'second.yaml'))
    assert (recipe.name, recipe.num_epochs, recipe.lr, recipe.batch_size) == ('second', 9, .05, 256)
    assert recipe.drop_epochs() == [3] and recipe.aug_type is None


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('base: igc-cifar\nwd: 4e-5\n')  # YAML 1.1 takes it for text
    assert load_recipe(str(path)).wd == 4e-5


def test_overrides_from_words():
    recipe = load_recipe('menet-rmsprop').override(method_settings={'a': 1, 'b': 2})
    values = overrides(recipe, [
        'lr=1e-3', 'num_epochs=7', 'lr_steps=2,0.5', 'decay=weights', 'wd_mult.*_gamma=0.5',
        'method_settings.b=3', 'method_settings.c=1,2.5', 'method_settings.d=yes',
        'method_settings.e=word', 'optimizer_settings.epsilon=1e-2'], '--set')
    assert values == {
        'lr': 1e-3, 'num_epochs': 7, 'lr_steps': (2.0, 0.5), 'decay': 'weights',
        'wd_mult': {'*_gamma': 0.5},
        'method_settings': {'a': 1, 'b': 3, 'c': [1.0, 2.5], 'd': True, 'e': 'word'},
        'optimizer_settings': {'alpha': 0.9, 'epsilon': 1e-2, 'centered': False}}
    changed = recipe.override(**values)
    assert changed.lr_epoch_step == 0 and changed.drop_epochs() == [2, 3.5]
    assert overrides(recipe, ['lr_steps=[4]'], '--set') == {'lr_steps': (4.0,)}
    assert overrides(recipe, ['lr_steps=4'], '--set') == {'lr_steps': (4.0,)}
    assert changed.override(lr_epoch_step=3).lr_steps == ()


@pytest.mark.parametrize('pair, message', [
    ('lr', 'must be KEY=VALUE'), ('learning=1', "no key 'learning'"), ('name=x', "no key 'name'"),
    ('lr=fast', 'must be a number'), ('num_epochs=1.5', 'whole number'), ('lr=[', 'cannot be read'),
    ('lr=2020-13-45', 'cannot be read'), ('lr=' + 3000 * '[', 'cannot be read'),
    ('lr.x=1', 'not a table'), ('decay=1', 'must be a word'), ('wd_mult.a=b', 'must be a number'),
    ('init=null', 'must be a word'), ('lr_steps=a', 'must be a number'),
    ('method_settings=1', 'a table of names')])
def test_wrong_words_are_one_line(pair, message):
    with pytest.raises(UsageError, match=message) as caught:
        overrides(load_recipe('igc-cifar'), [pair], '--set')
    assert str(caught.value).startswith('--set ') and '\n' not in str(caught.value)
    for pairs in (['lr=1', 'lr=2'], ['wd_mult=1', 'wd_mult.a=1'], ['wd_mult.a=1', 'wd_mult={}']):
        with pytest.raises(UsageError, match='given twice'):
            overrides(load_recipe('igc-cifar'), pairs, '--set')


@needs_checkout
def test_the_page_on_training_names_everything():
    page = (REPO / 'docs' / 'training.md').read_text(encoding='utf-8')
    find_method('plain')  # loads all
    wanted = [*recipe_names(), *recipe_types(), *RULES, *INITIALIZERS, *METHODS,
              *(name for rule in RULES.values() for name in rule.SETTINGS)]
    assert [name for name in wanted if '`%s`' % name not in page] == []


def test_unknown_name_lists_the_recipes():
    with pytest.raises(UsageError, match='igc-cifar, .*, menet-rmsprop, .*modern'):
        load_recipe('no-such-recipe')
