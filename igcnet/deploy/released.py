"""Released weights: trained networks that come with the package.

Each is a parameter file under Gluon's attribute names, ``<name>.params``, which
``net.load_parameters`` reads, and ``<name>-manifest.json``, which says what they belong to: the
network with its settings, class names, preprocessing, accuracy, how it was trained, and the
checksum of the parameter file. The manifest is that of `igcnet.deploy.export` with the fields of
`RELEASE_FORMAT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert import load_network, write_ndarrays
from igcnet.convert.parameters import Contexts
from igcnet.deploy.export import checked_manifest, preprocessing_from, write_manifest
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike
from igcnet.registry import Preprocessing, get_spec

FOLDER = Path(__file__).resolve().parent.parent / 'weights'
RELEASE_FORMAT = 'igcnet released weights'
MANIFEST, PARAMS = '-manifest.json', '.params'


class Release(NamedTuple):
    """What the manifest of released weights says.

    Parameters
    ----------
    params : Path
        The parameter file.
    network, settings
        Name and overrides for `igcnet.get_model`.
    classes : list of str
        Class names by number.
    preprocessing : Preprocessing
        For images of any size.
    figures : dict
        Measured after the training, such as ``val_top1`` on the validation images.
    training : dict
        Data set, command, seed, recipe and versions.
    check_logits : list of list of float
        What the network gives for the images of `igcnet.deploy.verify.random_images` with
        seed 0.
    """

    params: Path
    network: str
    settings: Dict[str, Any]
    classes: List[str]
    preprocessing: Preprocessing
    figures: Dict[str, float]
    training: Dict[str, Any]
    check_logits: List[List[float]]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.params.name[:-len(PARAMS)]

    def given(self) -> str:
        """The settings in which it differs from the named configuration, for people."""
        return ', '.join('%s=%s' % item for item in self.settings.items() if item[0] != 'classes')

    def accuracy(self) -> str:
        """Top-1 accuracy and data set, for people."""
        return 'top-1 %.2f %% on %s' % (100 * self.figures['val_top1'], self.training['data_set'])

    def summary(self) -> str:
        """Settings and accuracy, for people."""
        return ': '.join(filter(None, (self.given(), self.accuracy())))

    def verify(self) -> None:
        """Raise `CheckpointError` unless the parameter file has the manifest's checksum."""
        checked_manifest(manifest_path(self.params), [self.params])

    def load(self, ctx: Contexts = None) -> HybridBlock:
        """The network with its weights, on `ctx`.

        Raises
        ------
        CheckpointError
            The parameter file has another checksum, or the manifest's settings are damaged.
        """
        self.verify()
        try:
            return load_network(params=self.params, network=self.network, ctx=ctx,
                                **self.settings)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as problem:
            raise CheckpointError('%s: its settings make no %s (%s)' % (
                manifest_path(self.params), self.network, str(problem).split('\n')[0])) from None


def manifest_path(params: PathLike) -> Path:
    """The manifest beside a released parameter file."""
    params = Path(params)
    return params.with_name(params.name[:-len(PARAMS)] + MANIFEST)


def read_release(params: PathLike) -> Optional[Release]:
    """What the manifest beside a parameter file says; None without a manifest.

    The parameter file itself is not looked at; see `Release.load`.

    Raises
    ------
    CheckpointError
        The manifest is damaged.
    """
    params = Path(params)
    where = manifest_path(params) if params.suffix == PARAMS else None
    if where is None or not where.is_file():
        return None
    manifest = checked_manifest(where, [])
    training, figures = manifest.get('training'), manifest.get('figures')
    classes, logits = manifest.get('classes'), manifest.get('check_logits')
    sound = (
        manifest.get('format') == RELEASE_FORMAT and params.name in manifest['sha256']
        and isinstance(manifest.get('network'), str) and isinstance(manifest.get('settings'), dict)
        and isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        and isinstance(training, dict) and isinstance(training.get('data_set'), str)
        and isinstance(figures, dict) and all(map(_is_number, figures.values()))
        and 'val_top1' in figures
        and isinstance(logits, list) and all(isinstance(row, list) and all(map(_is_number, row))
                                             for row in logits))
    if not sound:
        raise CheckpointError('%s: not the manifest of released weights: fields are missing or of '
                              'the wrong type; `igcnet release` writes it' % where)
    return Release(params, manifest['network'], manifest['settings'], classes,
                   preprocessing_from(manifest.get('preprocessing'), str(where)), figures,
                   training, logits)


def releases(root: Optional[PathLike] = None) -> List[Release]:
    """The released weights in the folder `root`, by name; by default those of the package.

    Raises
    ------
    CheckpointError
        A manifest is damaged.
    UsageError
        `root` is no folder.
    """
    if root is not None and not Path(root).is_dir():
        raise UsageError('root=%s: not a folder of released weights' % root)
    folder = FOLDER if root is None else Path(root)
    found = [read_release(path.with_name(path.name[:-len(MANIFEST)] + PARAMS))
             for path in sorted(folder.glob('*' + MANIFEST))]
    return [release for release in found if release is not None]


def summaries() -> Dict[str, str]:
    """Name of each network with released weights in the package -> what they are, for people."""
    found: Dict[str, List[str]] = {}
    for release in releases():
        found.setdefault(release.network, []).append(release.summary())
    return {network: '; '.join(texts) for network, texts in found.items()}


def find_release(network: str, settings: Mapping[str, Any],
                 root: Optional[PathLike] = None) -> Release:
    """The released weights of a network.

    Parameters
    ----------
    settings : mapping
        What is asked of the network: the weights must be for these values. All other settings are
        those of the weights.
    root : path, optional
        Folder to look in; by default the package's own.

    Raises
    ------
    UsageError
        There are none, none for these settings, or several.
    CheckpointError
        A manifest is damaged.
    """
    everything = releases(root)
    own = [release for release in everything if release.network == network]
    if not own:
        names = sorted({release.network for release in everything})
        raise UsageError('%s: there are no released weights for it; there are for %s'
                         % (network, ', '.join(names) or 'no network'))
    asked = {key: _plain(value) for key, value in settings.items()}
    fitting = [release for release in own if asked.items() <= _all_settings(release).items()]
    if len(fitting) == 1:
        return fitting[0]
    told = '; '.join('%s (%s)' % (release.name, ', '.join(
        '%s=%s' % item for item in release.settings.items())) for release in fitting or own)
    if not fitting:
        raise UsageError('%s with %s: there are no released weights for these settings; there '
                         'are: %s' % (network, ', '.join('%s=%s' % item for item in
                                                         settings.items()), told))
    raise UsageError('%s: several released weights fit; choose by settings, or name the file: %s'
                     % (network, told))


def write_release(folder: PathLike, name: str, arrays: Mapping[str, np.ndarray],
                  facts: Dict[str, Any]) -> Tuple[Path, Path]:
    """Write released weights; the manifest, which makes them one, comes last.

    Parameters
    ----------
    arrays : mapping
        The parameters by their attribute names.
    facts : dict
        Of `igcnet.deploy.export.manifest_facts`, and the fields of `Release`.

    Returns
    -------
    tuple of Path
        The parameter file and the manifest.

    Raises
    ------
    UsageError
        There are weights of this name already.
    """
    params = Path(folder) / (name + PARAMS)
    manifest = manifest_path(params)
    if manifest.exists():
        raise UsageError('%s: exists already; remove it first, or choose another folder'
                         % manifest)
    write_ndarrays(params, arrays)
    write_manifest(manifest, {**facts, 'format': RELEASE_FORMAT}, (params,))
    return params, manifest


def _all_settings(release: Release) -> Dict[str, Any]:
    return {key: _plain(value) for key, value in
            {**get_spec(release.network).settings(), **release.settings}.items()}


def _plain(value: Any) -> Any:
    """Comparable whether it came from Python or from JSON."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
