"""Everything that defines a training run, and how it is written into its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike, write_text
from igcnet.train.recipes import Recipe, recipe_from_dict

CONFIG = 'config.yaml'


@dataclass(frozen=True)
class RunSettings:
    """A training run. Names are those of the command line's options.

    Parameters
    ----------
    network : str
        Name for `igcnet.get_model`.
    recipe : Recipe
        Optimiser, schedule, batch, epochs, augmentation.
    network_settings : dict
        Overrides for `igcnet.get_model`.
    dataset : str
        One of `igcnet.data.datasets.DATA_SETS`, or 'records' for any other record file.
    data_dir, train_dataset, val_dataset : str
        Folder of the records (default ``data/<dataset>``) and the two files in it.
    num_examples : int, optional
        Training images an epoch counts as, for the drops of the rate; default: the record's.
    data_shape : int, optional
        Height and width of the input, for 'records' only.
    mean_rgb, std_rgb : tuple of three floats, optional
        In units of 0..255; default: the data set's.
    fb_mean : bool
        Facebook's ImageNet mean and std.
    on_bad : str
        'error' or 'skip': what an unreadable image does, see `igcnet.data.reader`.
    decode_threads : int
        Threads that decode and augment; 0: one for each core.
    test_batch_size : int, optional
        Batch of the validation; default: the data set's.
    gpus : str
        GPU numbers, such as '0,1'; empty for the CPU.
    cpus : int
        Number of CPU contexts.
    sync_bn : bool
        Batch normalisation over all devices, see `igcnet.train.synchronised`.
    kv_store : str
        'device' or 'local'; in a distributed job one of `igcnet.train.distributed.STORES`.
    gc_type, gc_threshold : str, float
        'none' or '2bit': how the gradients of a distributed job are compressed.
    lowering : str
        'stock', 'blocked', 'native' or 'auto': how grouped convolutions are computed, see
        `igcnet.layers.lowering`.
    tune : bool
        Measure the lowerings first, once on each machine, and take the fastest.
    precision : str
        'float32', 'bfloat16' or 'float16', see `igcnet.train.precision`.
    rand_seed : int, optional
        Seed of weights, order and augmentation; default: from the clock, and written down.
    log_dir, exp_name : str
        The run's folder is ``<log_dir>/<dataset>/<network>/<name>_<exp_name><number>``.
    log_iters : int
        Steps between log lines.
    checkpoint_epochs : int, optional
        Epochs between checkpoints; default: an eighth of all.
    checkpoint_steps : int
        Steps of an epoch between checkpoints; 0: not by steps.
    checkpoint_seconds : float
        Seconds between checkpoints.
    keep : int
        Newest checkpoints that are kept, beside the best; 0: all.
    on_nan : str
        'stop' or 'rollback': what happens when the run diverges, see `igcnet.train.loop.Loop`.
    loss_limit : float, optional
        A mean loss of a step above it counts as diverged.
    threads : int
        Threads of the CPU kernels; 0: not written down. They decide the order of sums, and
        thereby the last bits.
    deterministic : bool
        Use only what gives the same bits each time, and resume only where it does.
    model_prefix : str, optional
        Also write each checkpoint in the original's layout, below this prefix.
    load_model : str, optional
        File with all weights to start from.
    pretrained : str or bool, optional
        File with the weights to start from, but for the classifier, which is new; True: the
        released weights of the network.
    freeze : tuple of str
        Patterns of the names of parameters that stay as they are, see
        `igcnet.train.parameter_groups.freeze`.
    """

    network: str
    recipe: Recipe
    network_settings: Dict[str, Any] = field(default_factory=dict)
    dataset: str = 'cifar10'
    data_dir: Optional[str] = None
    train_dataset: str = 'train.rec'
    val_dataset: str = 'test.rec'
    num_examples: Optional[int] = None
    data_shape: Optional[int] = None
    mean_rgb: Optional[Tuple[float, ...]] = None
    std_rgb: Optional[Tuple[float, ...]] = None
    fb_mean: bool = False
    on_bad: str = 'error'
    decode_threads: int = 0
    test_batch_size: Optional[int] = None
    gpus: str = ''
    cpus: int = 1
    sync_bn: bool = False
    kv_store: str = 'device'
    gc_type: str = 'none'
    gc_threshold: float = 0.5
    lowering: str = 'stock'
    tune: bool = False
    precision: str = 'float32'
    rand_seed: Optional[int] = None
    log_dir: str = './snapshot/'
    exp_name: str = 'exp'
    log_iters: int = 50
    checkpoint_epochs: Optional[int] = None
    checkpoint_steps: int = 0
    checkpoint_seconds: float = 600.0
    keep: int = 3
    on_nan: str = 'stop'
    loss_limit: Optional[float] = None
    threads: int = 0
    deterministic: bool = False
    model_prefix: Optional[str] = None
    load_model: Optional[str] = None
    pretrained: Union[str, bool, None] = None
    freeze: Tuple[str, ...] = ()

    @property
    def run_name(self) -> str:
        """The original's name of a run: ``plain_igc_d38L24M2``; other networks: all overrides.

        The number of classes follows from the data, so it is no part of the name.
        """
        from igcnet.registry import get_spec
        given = {k: v for k, v in self.network_settings.items() if k != 'classes'}
        settings = {**get_spec(self.network).settings(), **given}
        partitions = ('depth', 'primary_partition', 'secondary_partition')
        if self.network == get_spec(self.network).constructor.__name__ and all(
                key in settings for key in partitions):
            name = '%s_d%dL%dM%d' % ((self.network,) + tuple(settings[k] for k in partitions))
            given = {k: v for k, v in given.items() if k not in partitions}
        else:
            name = self.network
        return name + ''.join('_%s%s' % (key, _word(given[key])) for key in sorted(given))

    @property
    def folder_of_runs(self) -> Path:
        """The folder that holds all runs of this network on this data set."""
        suffix = '_noaug' if self.recipe.aug_type == 0 else ''
        return Path(self.log_dir) / (self.dataset + suffix) / self.network

    def changed(self, **values: Any) -> RunSettings:
        """A copy with other values; the recipe's values are changed by their own names."""
        own = {f.name for f in fields(self)}
        recipe = {f.name for f in fields(Recipe)} - own
        settings = {**self.network_settings, **values.pop('network_settings', {})}
        return replace(
            self, recipe=self.recipe.override(**{k: values.pop(k) for k in list(values)
                                                 if k in recipe}),
            network_settings=settings, **values)

    def write(self, folder: PathLike, **notes: Any) -> None:
        """Write ``config.yaml`` into `folder`, with `notes` (versions, counts) beside it."""
        write_text(Path(folder) / CONFIG, self.to_text(**notes))

    def to_text(self, **notes: Any) -> str:
        """The content of ``config.yaml``."""
        import yaml
        values = {**asdict(self), 'recipe': self.recipe.as_dict()}
        for key in ('mean_rgb', 'std_rgb', 'freeze'):
            values[key] = None if values[key] is None else list(values[key])
        return yaml.safe_dump({'run': values, 'notes': notes}, sort_keys=False)


def _word(value: Any) -> str:
    """A setting in a file name; several numbers, of which YAML makes a list, with hyphens."""
    return '-'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def read_settings(folder: PathLike) -> RunSettings:
    """The settings of the run in `folder`.

    Raises
    ------
    CheckpointError
        There is no run, or its ``config.yaml`` is damaged.
    """
    path = Path(folder) / CONFIG
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as problem:
        raise CheckpointError('%s: not the folder of a run (%s: %s)'
                              % (folder, CONFIG, problem.strerror)) from None
    except ValueError as problem:
        raise CheckpointError('%s: not the configuration of a run (%s)' % (path, problem)) from None
    return settings_from_text(text, path)


def settings_from_text(text: str, path: PathLike) -> RunSettings:
    """What `RunSettings.to_text` gave; `path` is named in errors.

    Raises
    ------
    CheckpointError
        The text is damaged.
    """
    import yaml
    try:
        values = yaml.safe_load(text)['run']
        recipe = values['recipe']
        recipe = recipe_from_dict(recipe, recipe['name'], str(path))
        for key in ('mean_rgb', 'std_rgb'):
            if values.get(key) is not None:
                values[key] = tuple(float(v) for v in values[key])
        values['freeze'] = tuple(str(v) for v in values.get('freeze', ()))
        return RunSettings(**{**values, 'recipe': recipe})
    except UsageError as problem:
        raise CheckpointError(str(problem)) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as problem:
        raise CheckpointError('%s: not the configuration of a run (%s)'
                              % (path, str(problem).split('\n')[0])) from None
