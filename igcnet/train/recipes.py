"""Training recipes: named YAML files whose every value can be overridden."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from igcnet.errors import UsageError
from igcnet.train.recipe_values import check_value, parse_overrides

FOLDER = Path(__file__).resolve().parent / 'recipes'

_AT_LEAST = {'num_epochs': 1, 'batch_size': 1, 'warmup_epochs': 0, 'lr_epoch_step': 0, 'lr_per': 0,
             'lr_power': 0, 'wd': 0, 'mixup_alpha': 0, 'cutmix_alpha': 0, 'lr_factor': 0,
             'clip_norm': 0, 'clip_value': 0, 'accumulate': 1}
_BELOW_ONE = ('momentum', 'label_smoothing', 'ema_decay')
_CHOICES = {
    'schedule': ('steps', 'steps-torch', 'cosine', 'cosine-torch', 'cosine-torch-1.0', 'poly'),
    'decay': ('all', 'weights', 'weights-and-gamma', 'weights-not-depthwise'),
    'aug_type': (None, 0, 1, 2)}
# Two keys for one thing: what is said by either replaces the other.
_INSTEAD = {'lr_steps': 'lr_epoch_step', 'lr_epoch_step': 'lr_steps',
            'aug_type': 'augmentation', 'augmentation': 'aug_type'}


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
        Base learning rate, for that total batch, or for `lr_per` images.
    lr_per : int
        Scale the rate linearly with the batch: the base rate is ``lr * batch_size / lr_per``.
        0: it is `lr`.
    schedule : str
        'steps': times `lr_factor` at each of `lr_steps`, by MXNet's count of updates;
        'steps-torch': the same at the start of an epoch, by PyTorch's; 'cosine': half a cosine to
        0, reached by the last update; 'cosine-torch', 'cosine-torch-1.0': by the counts of
        PyTorch; 'poly': a power of the rest. See `igcnet.train.schedules`.
    lr_steps : tuple of float
        Epochs of the drops; values below 1 are fractions of `num_epochs`.
    lr_epoch_step : int
        Instead of `lr_steps`: a drop every so many epochs, before the last. 0: not used.
    lr_power : float
        Of 'poly'.
    warmup_epochs : float
        Linear rise from 0 at the start; below 1 a fraction of `num_epochs`.
    optimizer : str
        Name in `igcnet.train.optimizer.RULES`.
    optimizer_settings : dict
        What the optimiser leaves open beside `momentum` and `wd`.
    momentum, wd : float
        Of the optimiser; weight decay is added to the gradient.
    decay : str
        'all': weight decay on every parameter, BN and biases included; 'weights': on the weights
        of convolutions and fully connected layers only; 'weights-and-gamma': on BN scales as
        well, MXNet's Module; 'weights-not-depthwise': on neither BN, biases nor depthwise
        convolutions.
    wd_mult, lr_mult : dict of str to float
        Multipliers of decay and rate for the parameters whose names match a pattern such as
        ``*_gamma``; the last pattern that matches decides, and decides instead of `decay`.
    init : str, optional
        Name in `igcnet.layers.init.INITIALIZERS`; None: the network's own.
    label_smoothing : float
        Part of the target spread over all classes.
    mixup_alpha, cutmix_alpha : float
        Parameters of the Beta distributions of mixup and cutmix; 0: none. With both, each batch
        has one of them, at random.
    clip_norm : float
        Limit of the norm of all gradients together; 0: none.
    clip_value : float
        Limit of each value of the gradient; 0: none.
    accumulate : int
        Parts in which a batch is computed, one after the other, before the one update of them
        all: the same update in less memory.
    ema_decay : float
        Part that an exponential moving average of the weights keeps at each update; 0: none.
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
    lr_per: int = 0
    schedule: str = 'steps'
    lr_factor: float = 0.1
    lr_steps: Tuple[float, ...] = ()
    lr_epoch_step: int = 0
    lr_power: float = 1.0
    warmup_epochs: float = 0
    optimizer: str = 'nesterov'
    optimizer_settings: Dict[str, Any] = field(default_factory=dict)
    momentum: float = 0.9
    wd: float = 1e-4
    decay: str = 'all'
    wd_mult: Dict[str, float] = field(default_factory=dict)
    lr_mult: Dict[str, float] = field(default_factory=dict)
    init: Optional[str] = None
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    clip_norm: float = 0.0
    clip_value: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.0
    aug_type: Optional[int] = None
    augmentation: Optional[str] = None
    method: str = 'plain'
    method_settings: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for key, low in _AT_LEAST.items():
            if not getattr(self, key) >= low:
                raise UsageError('%s=%s: must be at least %s' % (key, getattr(self, key), low))
        if not self.lr > 0:
            raise UsageError('lr=%s: must be greater than 0' % self.lr)
        for key in _BELOW_ONE:
            if not 0 <= getattr(self, key) < 1:
                raise UsageError('%s=%s: must be at least 0 and below 1'
                                 % (key, getattr(self, key)))
        for key, values in _CHOICES.items():
            if getattr(self, key) not in values:
                raise UsageError('%s=%s: must be one of %s'
                                 % (key, getattr(self, key), ', '.join(map(str, values))))
        for key in ('wd_mult', 'lr_mult'):
            for pattern, factor in getattr(self, key).items():
                if not factor >= 0:
                    raise UsageError('%s.%s=%s: must be at least 0' % (key, pattern, factor))
        if self.aug_type is not None and self.augmentation is not None:
            raise UsageError('aug_type=%d, augmentation=%s: give one of them'
                             % (self.aug_type, self.augmentation))
        if any(step <= 0 for step in self.lr_steps):
            raise UsageError('lr_steps=%s: epochs must be greater than 0' % (self.lr_steps,))
        if 1 <= self.warmup_epochs >= self.num_epochs:
            raise UsageError('warmup_epochs=%g: must be below num_epochs=%d'
                             % (self.warmup_epochs, self.num_epochs))

    @property
    def rate(self) -> float:
        """The base learning rate, scaled with the batch if the recipe says so."""
        return self.lr * self.batch_size / self.lr_per if self.lr_per else self.lr

    def drop_epochs(self) -> List[float]:
        """Epochs at which the rate drops, of the schedules with steps.

        Fractions of all epochs are rounded down for 'steps', as the IGC original does.
        """
        if self.lr_epoch_step:
            return [float(e) for e in range(self.lr_epoch_step, self.num_epochs,
                                            self.lr_epoch_step)]
        rounded = float if self.schedule == 'steps-torch' else lambda epoch: float(int(epoch))
        return [rounded(step * self.num_epochs) if step < 1 else step for step in self.lr_steps]

    def make_schedule(self, num_examples: int, steps_per_epoch: int) -> Callable[[int], float]:
        """The rate as a function of the update number, see `igcnet.train.schedules`."""
        from igcnet.train.schedules import make_schedule
        return make_schedule(self, num_examples, steps_per_epoch)

    def override(self, **values: Any) -> Recipe:
        """A copy with those of `values` that are not None.

        `lr_steps` and `lr_epoch_step` replace each other, `aug_type` and `augmentation` as well.
        """
        given = {key: value for key, value in values.items() if value is not None}
        defaults = {f.name: f.default for f in fields(Recipe)}
        given = {**{other: defaults[other] for key, other in _INSTEAD.items()
                    if key in given}, **given}
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
    values, path = _read(name, ())
    return recipe_from_dict(values, path.stem, str(path))


def _read(name: str, above: Sequence[Path]) -> Tuple[Dict[str, Any], Path]:
    """Values of a recipe file on top of those of its ``base``, and its path."""
    import yaml
    path = FOLDER / (name + '.yaml')
    if not path.is_file():
        path = (above[-1].parent if above else Path()) / name
    if path in above:
        raise UsageError('%s: its bases come back to itself' % path)
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError:
        raise UsageError('recipe %r: neither one of %s nor a readable file'
                         % (name, ', '.join(recipe_names()))) from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise UsageError('%s: not a recipe: the YAML is damaged (%s)'
                         % (path, str(problem).split('\n')[0])) from None
    if isinstance(values, dict) and 'base' in values:
        base, _ = _read(str(values.pop('base')), (*above, path))
        if not isinstance(base, dict):
            raise UsageError('%s: its base is not a recipe' % path)
        values = {**{key: value for key, value in base.items()
                     if _INSTEAD.get(key) not in values}, **values}
    return values, path


def recipe_from_dict(values: Any, name: str, where: str) -> Recipe:
    """A recipe from plain values; UsageError for an unknown key or a value of another type."""
    types = recipe_types()
    if not isinstance(values, dict):
        raise UsageError('%s: a recipe must be a table of keys and values' % where)
    clean = {'name': name}
    for key, value in values.items():
        if key == 'name':
            continue
        if key not in types:
            raise UsageError('%s: a recipe has no key %r; it has %s'
                             % (where, key, ', '.join(types)))
        clean[key] = check_value(value, types[key], '%s: %s' % (where, key))
    missing = [key for key in ('num_epochs', 'batch_size', 'lr') if key not in clean]
    if missing:
        raise UsageError('%s: the recipe lacks %s' % (where, ', '.join(missing)))
    return Recipe(**clean)


def recipe_types() -> Dict[str, str]:
    """The annotated type of each key that a recipe file can have."""
    return {f.name: f.type for f in fields(Recipe) if f.name != 'name'}


def overrides(recipe: Recipe, pairs: Sequence[str], option: str) -> Dict[str, Any]:
    """Values for `Recipe.override` from words ``KEY=VALUE``; `option` is for messages."""
    types = recipe_types()
    tables = {key: getattr(recipe, key) for key, kind in types.items() if kind.startswith('Dict')}
    return parse_overrides(pairs, types, tables, option)


def default_recipe(dataset: Optional[str]) -> str:
    """Name of the IGC original's recipe for a data set."""
    return {'svhn': 'igc-svhn', 'imagenet': 'igc-imagenet'}.get(dataset or '', 'igc-cifar')
