"""Named configurations: what can be built, and what is published about it.

Each model file ends with a table of `ModelSpec`; this module gathers them. Names, README
tables and the exact-count tests all come from these tables.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from igcnet.errors import UsageError
from igcnet.files import PathLike


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Parameters
    ----------
    input_size : int
        Height and width after the crop.
    mean, std : tuple of float
        Per channel, in units of 0..255, RGB order: input = (pixel - mean) / std.
    resize_shorter : int, optional
        The shorter side of the image before the centre crop; None: no resizing unless the
        image is smaller than the crop.
    interpolation : str
        'area', 'bilinear' or 'cubic' (OpenCV), or 'pil-bilinear'.
    """

    input_size: int
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]
    resize_shorter: Optional[int] = None
    interpolation: str = 'bilinear'


@dataclass(frozen=True)
class Published:
    """Figures as printed in the source, in its units; None where it prints none.

    Parameters
    ----------
    params : float, optional
        Millions of parameters.
    macs : float, optional
        Millions of multiply-adds.
    top1_error, top5_error : float, optional
        Percent.
    data_set, source : str
        What the errors were measured on, and where they are printed.
    note : str
        Where the source departs from its own graph or from another convention.
    """

    params: Optional[float] = None
    macs: Optional[float] = None
    top1_error: Optional[float] = None
    top5_error: Optional[float] = None
    data_set: str = ''
    source: str = ''
    note: str = ''


@dataclass(frozen=True)
class ModelSpec:
    """One named configuration of a network.

    Parameters
    ----------
    name, family : str
        Name for `get_model`; the model family it belongs to.
    constructor : callable
        Called with `kwargs` and the user's overrides, returns a `Network`.
    kwargs : mapping
        Settings of this configuration.
    preprocessing : Preprocessing
        Of the data the network was made for.
    published : Published, optional
        Figures of the paper or the repository.
    summary : str
        One line for `igcnet list`.
    """

    name: str
    family: str
    constructor: Callable[..., Any]
    preprocessing: Preprocessing
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    published: Optional[Published] = None
    summary: str = ''

    def settings(self) -> Dict[str, Any]:
        """Every keyword of the constructor with the value it has in this configuration."""
        parameters = inspect.signature(self.constructor).parameters.values()
        return {**{p.name: p.default for p in parameters}, **self.kwargs}


_SPECS: Dict[str, ModelSpec] = {}


def register(specs: List[ModelSpec]) -> None:
    """Add the table of one family. A name can be taken once only."""
    for spec in specs:
        if spec.name in _SPECS:
            raise ValueError('the name %s is registered twice' % spec.name)
        _SPECS[spec.name] = spec


def get_spec(name: str) -> ModelSpec:
    """The configuration called `name`.

    Raises
    ------
    UsageError
        Unknown name; the message lists near names.
    """
    _load_families()
    if name not in _SPECS:
        near = difflib.get_close_matches(name, _SPECS, n=4, cutoff=0.5)
        hint = 'did you mean %s?' % ', '.join(near) if near else 'see `igcnet list`'
        raise UsageError('unknown network %r: %s' % (name, hint))
    return _SPECS[name]


def list_models(pattern: str = '*') -> List[str]:
    """Names of all configurations that match `pattern` (``resnet*``), sorted."""
    _load_families()
    return sorted(fnmatch.filter(_SPECS, pattern))


def list_families() -> List[str]:
    """Names of the model families, in the order in which they were registered."""
    _load_families()
    return list(dict.fromkeys(spec.family for spec in _SPECS.values()))


def get_model(name: str, pretrained: Union[bool, str, None] = None, ctx=None,
              root: Optional[PathLike] = None, **overrides):
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of `list_models()`.
    pretrained : bool or str, optional
        True: the released weights of this network, see `igcnet.deploy.released`; settings that
        are not given are those of the weights. Otherwise a parameter file to load:
        `save_parameters` names, or an original-layout checkpoint. Without it the network is not
        initialised.
    ctx : Context or list of Context, optional
        Where `pretrained` parameters go; the current context by default.
    root : path, optional
        With ``pretrained=True``: folder of released weights, instead of the package's own.
    **overrides
        Settings of the configuration, such as ``classes=100`` or ``depth=38``.

    Returns
    -------
    igcnet.layers.Network

    Raises
    ------
    UsageError
        Unknown name, a value that cannot work, or no released weights for these settings.
    CheckpointError
        The weights are damaged, or do not fit.
    TypeError
        An override that the network does not have.
    """
    spec = get_spec(name)
    known = spec.settings()
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise TypeError('%s has no setting %s; it has %s'
                        % (name, ', '.join(unknown), ', '.join(sorted(known))))
    if pretrained is True:
        from igcnet.deploy.released import find_release
        return find_release(name, overrides, root).load(ctx)
    if root is not None:
        raise UsageError('root=%s: goes with pretrained=True only' % root)
    net = spec.constructor(**{**spec.kwargs, **overrides})
    if pretrained not in (None, False):
        from igcnet.convert import load_parameters
        load_parameters(net, pretrained, ctx=ctx)
    return net


def _load_families() -> None:
    # The model files import this module to register themselves.
    import igcnet.models  # noqa: F401
