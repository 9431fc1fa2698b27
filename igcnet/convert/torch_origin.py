"""What a PyTorch file held besides a network's parameters, kept for the way back.

The parameters of a converted file go to ``<prefix>-0000.params``. Everything else - names and
order of the keys, numbers of batches, epoch, best accuracy, optimiser, container - goes to
``<prefix>-origin.pt`` beside it, itself a file that ``torch.load`` reads. It names the parameters
that it belongs to by their checksum.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from igcnet.convert.torch_file import LEGACY, ZIP, read_torch
from igcnet.convert.torch_state import replace_state
from igcnet.convert.torch_writer import write_torch
from igcnet.errors import CheckpointError
from igcnet.files import PathLike

FORMAT, VERSION = 'igcnet origin of converted parameters', 1
PARAMS = re.compile(r'-\d{4}\.params$')
# Tensors that share a storage are written out. A factor that no optimiser needs.
MOST_KEPT = 16
SMALL = 64 << 20


@dataclass
class Origin:
    """Everything of a file but the parameters that the network has taken over.

    Parameters
    ----------
    container : str
        'legacy' or 'zip'.
    place : tuple
        Keys that lead to the state_dict.
    prefix : str
        What the keys of parameters begin with.
    keys : list of str
        All keys of the state_dict, in their order.
    element_types : dict
        By key, NumPy's name of the element type of parameters that are not float32.
    kept : dict
        By key, the entries of the state_dict that the network did not take.
    around : Any
        The file's value with None in the place of the state_dict.
    metadata : dict or None
        The state_dict's attribute ``_metadata``.
    ordered : bool
        Whether the state_dict is an OrderedDict.
    """

    container: str
    place: Tuple[Any, ...]
    prefix: str
    keys: List[str]
    element_types: Dict[str, str]
    kept: Dict[str, Any]
    around: Any
    metadata: Any
    ordered: bool

    def restore(self, values: Mapping[str, np.ndarray]) -> Tuple[Any, List[str]]:
        """The file's value with `values`, by key without the prefix, and the keys in it.

        Raises
        ------
        CheckpointError
            They are the parameters of another network.
        """
        ours = {self.prefix + name: value for name, value in values.items()}
        for key, name in self.element_types.items():
            if key in ours:
                ours[key] = ours[key].astype(name)
        keys = list(OrderedDict.fromkeys([*self.keys, *ours]))
        lost = [key for key in keys if key not in ours and key not in self.kept]
        if lost:
            raise CheckpointError('the origin is of another network: its %r and %d more have no '
                                  'parameter here' % (lost[0], len(lost) - 1))
        state = (OrderedDict if self.ordered else dict)(
            (key, ours[key] if key in ours else self.kept[key]) for key in keys)
        if self.metadata is not None and self.ordered:
            state._metadata = self.metadata
        return replace_state(self.around, self.place, state), keys


def origin_path(params: PathLike) -> Path:
    """``<prefix>-origin.pt`` for ``<prefix>-0000.params``."""
    return Path(PARAMS.sub('', os.fspath(params)) + '-origin.pt')


def write_origin(path: PathLike, origin: Origin, params_sha256: str, source_size: int) -> None:
    """Write what `read_origin` reads, atomically.

    Parameters
    ----------
    params_sha256 : str
        Checksum of the parameter file.
    source_size : int
        Bytes of the file that it comes from, which bound what may be kept.

    Raises
    ------
    CheckpointError
        The file has much more to keep than it is long, by tensors that share their storages.
    """
    size = sum(array.nbytes for array in _arrays([origin.kept, origin.around]))
    if size > MOST_KEPT * source_size + SMALL:
        raise CheckpointError('%s: refused: written out, what the file holds beside the parameters '
                              'would take %d bytes' % (path, size))
    write_torch(path, {'format': FORMAT, 'version': VERSION, 'params_sha256': params_sha256,
                       **{field.name: getattr(origin, field.name) for field in fields(Origin)}})


def read_origin(path: PathLike) -> Tuple[Origin, str]:
    """An `Origin`, and the checksum of the parameters that it belongs to.

    Raises
    ------
    CheckpointError
        Missing, damaged or something else.
    """
    value = read_torch(path).value
    if not isinstance(value, dict) or value.get('format') != FORMAT or (
            value.get('version') != VERSION):
        raise CheckpointError('%s: not the origin of converted parameters of version %d'
                              % (path, VERSION))
    try:
        origin = Origin(**{field.name: value[field.name] for field in fields(Origin)})
        checksum = value['params_sha256']
        sound = (origin.container in (LEGACY, ZIP) and isinstance(checksum, str)
                 and isinstance(origin.prefix, str) and isinstance(origin.kept, dict)
                 and all(isinstance(key, str) for key in origin.keys)
                 and all(np.dtype(name).kind in 'fiub' for name in origin.element_types.values())
                 and isinstance(origin.metadata, (dict, type(None))))
        around = origin.around
        for key in origin.place:
            around = around[key]
        if not sound or around is not None:
            raise ValueError
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError('%s: damaged: its entries are missing or of the wrong type'
                              % path) from None
    return origin, checksum


def _arrays(value: Any) -> Iterator[np.ndarray]:
    """Every array in plain values."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _arrays(part)
