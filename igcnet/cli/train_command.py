"""The command line that trains a run again, out of the run's settings."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Dict, Tuple

from igcnet.cli.network_options import option

DECIDED_ABOVE = ('network', 'recipe', 'network_settings', 'dataset')
# Where things lie on one machine, and what is logged and kept: nothing that decides the network.
LEFT_OUT = ('data_dir', 'log_dir', 'exp_name', 'model_prefix', 'log_iters', 'checkpoint_epochs',
            'checkpoint_steps', 'checkpoint_seconds', 'keep')
# Values of the recipe that have an option of their own; all others go to --set.
RECIPE_OPTIONS = ('num_epochs', 'batch_size', 'lr', 'lr_factor', 'lr_steps', 'lr_epoch_step',
                  'aug_type', 'augmentation')
FILES = ('load_model', 'pretrained')
TEACHER_FILE = 'teacher_params'


def train_command(settings: Any) -> str:
    """``igcnet train ...`` for the settings of a run, with what differs from the defaults.

    Folders are left out, and files are named without theirs: where the data and the runs lie is
    no part of the result. By default the data are in ``data/<dataset>``.

    Parameters
    ----------
    settings : igcnet.train.settings.RunSettings
    """
    from igcnet.train.settings import RunSettings

    words = ['igcnet', 'train', '--network', settings.network]
    for name, value in settings.network_settings.items():
        if name != 'classes' or value != _known_classes(settings.dataset):
            words += [option(name), _word(value)]
    words += ['--dataset', settings.dataset]
    recipe, changes = recipe_changes(settings)
    words += ['--recipe', recipe]
    for key in RECIPE_OPTIONS:
        words += [option(key), changes.pop(key)] if key in changes else []
    words += ['--set', *('%s=%s' % item for item in changes.items())] if changes else []
    base = RunSettings(settings.network, settings.recipe)
    for known in fields(settings):
        value = getattr(settings, known.name)
        if known.name in DECIDED_ABOVE + LEFT_OUT or value == getattr(base, known.name):
            continue
        if known.name in FILES and value is not True:
            value = Path(value).name
        words += [option(known.name)] if value is True else [option(known.name), _word(value)]
    return ' '.join(map(shlex.quote, words))


def recipe_changes(settings: Any) -> Tuple[str, Dict[str, str]]:
    """The recipe of the package that a run was begun with, or that is nearest to the run's own,
    and the values that differ from it, as ``--set`` takes them."""
    from igcnet.train.run_data import with_augmentation

    named = _named_recipe(settings.recipe)
    base = with_augmentation(replace(settings, recipe=named)).recipe
    changes: Dict[str, str] = {}
    for known in fields(named):
        name, value = known.name, getattr(settings.recipe, known.name)
        default = getattr(base, name)
        if name == 'name' or value == default or value in (None, ()):
            continue  # what is empty gives way to another key, such as lr_steps to lr_epoch_step
        if isinstance(value, dict):
            changes.update(('%s.%s' % (name, key), _word(entry))
                           for key, entry in _without_folder(value).items()
                           if key not in default or default[key] != entry)
        else:
            changes[name] = _word(value)
    return named.name, changes


def _known_classes(dataset: str) -> Any:
    from igcnet.data.datasets import DATA_SETS
    return DATA_SETS[dataset].classes if dataset in DATA_SETS else None


def _named_recipe(recipe):
    """The recipe of the package that `recipe` was begun with, or else is nearest to."""
    from igcnet.train.recipes import load_recipe, recipe_names
    names = recipe_names()
    if recipe.name in names:
        return load_recipe(recipe.name)
    return min(map(load_recipe, names), key=lambda other: sum(
        getattr(recipe, known.name) != getattr(other, known.name) for known in fields(recipe)))


def _without_folder(table: Dict[str, Any]) -> Dict[str, Any]:
    if TEACHER_FILE not in table:
        return table
    return {**table, TEACHER_FILE: Path(table[TEACHER_FILE]).name}


def _word(value: Any) -> str:
    """A value as the options take it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ','.join(map(_word, value))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
