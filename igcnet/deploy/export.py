"""Exported networks: a symbol file, its parameters, and a manifest that travels with them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import igcnet
from igcnet.convert import checkpoint_arrays, to_graph, write_graph, write_ndarrays
from igcnet.errors import CheckpointError
from igcnet.files import PathLike, read_json, sha256, write_json
from igcnet.registry import Preprocessing

MANIFEST_FORMAT = 'igcnet exported network'
MANIFEST_VERSION = 1


def export(net, prefix: PathLike, preprocessing: Preprocessing, network: str,
           settings: Dict[str, Any], classes: Optional[List[str]] = None,
           figures: Optional[Dict[str, float]] = None) -> Tuple[Path, Path, Path]:
    """Write ``<prefix>-symbol.json``, ``-0000.params`` and ``-manifest.json``.

    The graph has stock operators only and ends in the logits, so that any MXNet 1.x loads it
    (``SymbolBlock.imports``).

    Parameters
    ----------
    preprocessing : Preprocessing
        What an image must go through before it is the network's input.
    network, settings
        Name and overrides with which `igcnet.get_model` builds the network.
    classes : list of str, optional
        Class names by number.
    figures : dict, optional
        Measured numbers to keep with it, such as ``{'val_top1': 0.93}``.

    Returns
    -------
    tuple of Path
        The three files.
    """
    symbol, params, manifest = exported_paths(prefix)
    graph = to_graph(net, head=False)
    write_ndarrays(params, checkpoint_arrays(net, graph))
    write_graph(symbol, graph)
    facts = manifest_facts(preprocessing, network, settings, net.input_size, classes, figures)
    write_manifest(manifest, facts, (symbol, params))
    return symbol, params, manifest


def manifest_facts(preprocessing: Preprocessing, network: str, settings: Dict[str, Any],
                   input_size: int, classes: Optional[List[str]] = None,
                   figures: Optional[Dict[str, float]] = None) -> Dict[str, Any]:
    """What a manifest says, but for the checksums; see `export`."""
    return {
        'format': MANIFEST_FORMAT, 'version': MANIFEST_VERSION,
        'igcnet': igcnet.__version__, 'network': network, 'settings': settings,
        'input': {'name': 'data', 'shape': ['N', 3, input_size, input_size],
                  'colour_order': 'RGB'},
        'preprocessing': asdict(preprocessing), 'classes': classes, 'figures': figures or {}}


def write_manifest(path: Path, facts: Dict[str, Any], files: Sequence[Path]) -> None:
    """Write a manifest with the checksums of the files that it travels with."""
    write_json(path, {**facts, 'sha256': {file.name: sha256(file) for file in files}})


def exported_paths(prefix: PathLike) -> Tuple[Path, Path, Path]:
    """The three files of an exported network."""
    text = os.fspath(prefix)
    return Path(text + '-symbol.json'), Path(text + '-0000.params'), Path(text + '-manifest.json')


def read_manifest(symbol: PathLike, params: Optional[PathLike] = None) -> Optional[Dict[str, Any]]:
    """The manifest beside a symbol file, or None when there is none.

    Raises
    ------
    CheckpointError
        The manifest is damaged, or the symbol or parameter file has another checksum.
    """
    symbol = Path(symbol)
    if not symbol.name.endswith('-symbol.json'):
        return None
    path = symbol.with_name(symbol.name[:-len('-symbol.json')] + '-manifest.json')
    if not path.is_file():
        return None
    return checked_manifest(path, [symbol] + ([Path(params)] if params else []))


def checked_manifest(path: Path, files: Sequence[Path]) -> Dict[str, Any]:
    """The manifest at `path`; those of `files` that it names must have its checksums.

    Raises
    ------
    CheckpointError
        The manifest is damaged, or a file has another checksum.
    """
    manifest = read_json(path, 'manifest', CheckpointError)
    if not isinstance(manifest, dict) or not isinstance(manifest.get('sha256'), dict):
        raise CheckpointError('%s: not the manifest of a network' % path)
    for file in files:
        expected = manifest['sha256'].get(file.name)
        if expected is not None and sha256(file, CheckpointError) != expected:
            raise CheckpointError('%s: its checksum is not the one in %s; the file was changed '
                                  'or belongs to another manifest' % (file, path.name))
    return manifest


def preprocessing_from(values: Any, where: str) -> Preprocessing:
    """A `Preprocessing` from plain values of a manifest or checkpoint, each one checked."""
    try:
        number = (int, float)
        result = Preprocessing(
            int(values['input_size']), tuple(map(float, values['mean'])),
            tuple(map(float, values['std'])),
            None if values.get('resize_shorter') is None else int(values['resize_shorter']),
            str(values['interpolation']))
        if not (len(result.mean) == len(result.std) == 3 and min(result.std) > 0
                and result.input_size > 0 and isinstance(values['input_size'], number)):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError('%s: the preprocessing is damaged: it needs input_size, three mean '
                              'and three positive std values, resize_shorter and interpolation'
                              % where) from None
    return result
