"""Training recipes: named YAML files whose every value can be overridden."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from igcnet.errors import UsageError

FOLDER = Path(__file__).resolve().parent / 'recipes'


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    name : str
        Name of the file it came from.
    num_epochs, batch_size : int
        Length; total batch over all devices.
    lr : float
        Base learning rate, for that total batch.
    schedule : str
        'steps': times `lr_factor` at each of `lr_steps`; 'cosine': half a cosine to 0;
        'mutualnet-cosine': the same as MutualNet computes it, see `igcnet.train.schedules`.
    lr_steps : tuple of float
        Epochs of the drops; values below 1 are fractions of `num_epochs`, rounded down.
    lr_epoch_step : int
        Instead of `lr_steps`: a drop every so many epochs, before the last. 0: not used.
    warmup_epochs : float
        Linear rise from 0 at the start ('cosine' only); below 1 a fraction of `num_epochs`.
    momentum, wd : float
        Of the optimiser `Nesterov`.
    decay : str
        'all': weight decay on every parameter, as the original; 'weights': on the weights of
        convolutions and fully connected layers only, not on BN and biases;
        'weights-not-depthwise': nor on depthwise convolutions, as MutualNet on ImageNet.
    label_smoothing : float
        Part of the target spread over all classes.
    mixup_alpha : float
        Parameter of the Beta distribution of mixup; 0: none.
    aug_type : int, optional
        0 none, 1 standard, 2 crop and mirror without padding; see `igcnet.data.augment`. None:
        the data set's own.
    augmentation : str, optional
        Name of any preset of `igcnet.data.augment`, instead of `aug_type`.
    method : str
        What one update does with a batch, see `igcnet.train.methods`.
    method_settings : dict
        What the method leaves open.
    """

    name: str
    num_epochs: int
    batch_size: int
    lr: float
    schedule: str = 'steps'
    lr_factor: float = 0.1
    lr_steps: Tuple[float, ...] = ()
    lr_epoch_step: int = 0
    warmup_epochs: float = 0
    momentum: float = 0.9
    wd: float = 1e-4
    decay: str = 'all'
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    aug_type: Optional[int] = None
    augmentation: Optional[str] = None
    method: str = 'plain'
    method_settings: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        at_least = {'num_epochs': 1, 'batch_size': 1, 'warmup_epochs': 0, 'lr_epoch_step': 0,
                    'wd': 0, 'mixup_alpha': 0, 'lr_factor': 0}
        for key, low in at_least.items():
            if not getattr(self, key) >= low:
                raise UsageError('%s=%s: must be at least %s' % (key, getattr(self, key), low))
        if not self.lr > 0:
            raise UsageError('lr=%s: must be greater than 0' % self.lr)
        for key in ('momentum', 'label_smoothing'):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError('%s=%s: must be at least 0 and below 1'
                                 % (key, getattr(self, key)))
        choices = {'schedule': ('steps', 'cosine', 'mutualnet-cosine'),
                   'decay': ('all', 'weights', 'weights-not-depthwise'),
                   'aug_type': (None, 0, 1, 2)}
        for key, values in choices.items():
            if getattr(self, key) not in values:
                raise UsageError('%s=%s: must be one of %s'
                                 % (key, getattr(self, key), ', '.join(map(str, values))))
        if self.aug_type is not None and self.augmentation is not None:
            raise UsageError('aug_type=%d, augmentation=%s: give one of them'
                             % (self.aug_type, self.augmentation))
        if any(step <= 0 for step in self.lr_steps):
            raise UsageError('lr_steps=%s: epochs must be greater than 0' % (self.lr_steps,))
        if self.schedule == 'cosine' and 1 <= self.warmup_epochs >= self.num_epochs:
            raise UsageError('warmup_epochs=%g: must be below num_epochs=%d'
                             % (self.warmup_epochs, self.num_epochs))

    def drop_epochs(self) -> List[float]:
        """Epochs at which the rate drops ('steps' schedule)."""
        if self.lr_epoch_step:
            return [float(e) for e in range(self.lr_epoch_step, self.num_epochs,
                                            self.lr_epoch_step)]
        return [float(int(step * self.num_epochs)) if step < 1 else float(step)
                for step in self.lr_steps]

    def make_schedule(self, num_examples: int, steps_per_epoch: int):
        """The rate as a function of the update number, see `igcnet.train.schedules`."""
        from igcnet.train.schedules import MultiFactor, MutualNetCosine, WarmupCosine
        if self.schedule == 'steps':
            epoch_size = max(1, num_examples // self.batch_size)
            return MultiFactor(self.lr, self.lr_factor,
                               [int(epoch_size * epoch) for epoch in self.drop_epochs()])
        if self.schedule == 'mutualnet-cosine':
            return MutualNetCosine(self.lr, self.num_epochs * steps_per_epoch)
        warmup = self.warmup_epochs * (self.num_epochs if self.warmup_epochs < 1 else 1)
        return WarmupCosine(self.lr, round(warmup * steps_per_epoch),
                            self.num_epochs * steps_per_epoch)

    def override(self, **values: Any) -> Recipe:
        """A copy with those of `values` that are not None.

        `lr_steps` replaces `lr_epoch_step`; `aug_type` and `augmentation` replace each other.
        """
        given = {key: value for key, value in values.items() if value is not None}
        if 'lr_steps' in given:
            given = {'lr_epoch_step': 0, **given}
        if 'aug_type' in given or 'augmentation' in given:
            given = {'aug_type': None, 'augmentation': None, **given}
        return replace(self, **given)

    def as_dict(self) -> Dict[str, Any]:
        """Plain values, for `config.yaml`."""
        return {**asdict(self), 'lr_steps': list(self.lr_steps)}


def recipe_names() -> List[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob('*.yaml'))


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`, or the one in the YAML file of that name.

    Raises
    ------
    UsageError
        No such recipe, a damaged file, or a key or value that a recipe cannot have.
    """
    import yaml
    path = FOLDER / (name + '.yaml')
    if not path.is_file():
        path = Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError:
        raise UsageError('recipe %r: neither one of %s nor a readable file'
                         % (name, ', '.join(recipe_names()))) from None
    except (yaml.YAMLError, ValueError) as problem:
        raise UsageError('%s: not a recipe: the YAML is damaged (%s)'
                         % (path, str(problem).split('\n')[0])) from None
    return recipe_from_dict(values, path.stem, str(path))


def recipe_from_dict(values: Any, name: str, where: str) -> Recipe:
    """A recipe from plain values, each checked for its key and type."""
    types = {f.name: f.type for f in fields(Recipe)}
    if not isinstance(values, dict):
        raise UsageError('%s: a recipe must be a table of keys and values' % where)
    clean = {'name': name}
    for key, value in values.items():
        if key not in types or key == 'name':
            if key == 'name':
                continue
            raise UsageError('%s: a recipe has no key %r; it has %s'
                             % (where, key, ', '.join(k for k in types if k != 'name')))
        clean[key] = _checked(value, types[key], '%s: %s' % (where, key))
    missing = [key for key in ('num_epochs', 'batch_size', 'lr') if key not in clean]
    if missing:
        raise UsageError('%s: the recipe lacks %s' % (where, ', '.join(missing)))
    return Recipe(**clean)


def _checked(value: Any, kind: str, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind.startswith('Optional['):
        if value is None:
            return None
        kind = kind[len('Optional['):-1]
    if kind == 'int' and isinstance(value, int) and number:
        return value
    if kind == 'float' and number:
        return float(value)
    if kind == 'str' and isinstance(value, str):
        return value
    if kind.startswith('Tuple') and isinstance(value, (list, tuple)):
        return tuple(_checked(item, 'float', where) for item in value)
    if kind.startswith('Dict') and isinstance(value, dict) and all(
            isinstance(key, str) for key in value):
        return value
    wanted = {'int': 'a whole number', 'float': 'a number', 'str': 'a word',
              'Tuple': 'a list of numbers', 'Dict': 'a table of names and values'}
    raise UsageError('%s=%r: must be %s' % (where, value, wanted[kind.split('[')[0]]))


def default_recipe(dataset: Optional[str]) -> str:
    """Name of the IGC original's recipe for a data set."""
    return {'svhn': 'igc-svhn', 'imagenet': 'igc-imagenet'}.get(dataset or '', 'igc-cifar')
