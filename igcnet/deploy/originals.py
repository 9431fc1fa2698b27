"""Networks of the originals with their outputs, converted both ways and compared.

A case is three files in one folder: ``<case>.json`` with the facts, among them ``system``,
``network``, ``config`` (the original's own configuration) and ``checkpoint``; the checkpoint; and
``<case>.npz`` with ``x`` and ``logits`` (see `igcnet.deploy.verify`).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from igcnet.convert import read_graph, read_ndarrays, recognise
from igcnet.convert.parameters import parameter_name
from igcnet.convert.torch_file import read_torch
from igcnet.deploy.conversion import Converted, fitting_origin, to_mxnet, to_torch
from igcnet.deploy.verify import Comparison, against_outputs, holds_logits
from igcnet.errors import CheckpointError, IgcnetError
from igcnet.files import PathLike, read_json
from igcnet.registry import get_spec

HEADINGS = ('case', 'network', 'checkpoint', 'converted', 'logits', 'arg-max', 'way back')
SLIMMABLE = {'mobilenet_v1': 'mobilenet_v1_us', 'mobilenet_v2': 'mobilenet_v2_us',
             'resnet': 'resnet50_us', 'wideresnet': 'wideresnet28_10_us'}
IDENTICAL = 'same bits'


class Row(NamedTuple):
    """One line of the table; texts, and whether everything is as it should be."""

    cells: Tuple[str, ...]
    sound: bool


def find_cases(folder: PathLike) -> List[Path]:
    """The ``.json`` files of all cases below `folder`, sorted.

    Raises
    ------
    CheckpointError
        There is none.
    """
    found = [path for path in sorted(Path(folder).rglob('*.json'))
             if not path.name.endswith(('-symbol.json', '-manifest.json'))
             and isinstance(_facts(path), dict) and 'checkpoint' in _facts(path)]
    if not found:
        raise CheckpointError('%s: no case of an original is below this folder' % folder)
    return found


def our_settings(facts: Dict[str, Any], folder: Path) -> Optional[Tuple[str, Dict[str, Any]]]:
    """Name and settings of our network for an original's configuration; None for a lone layer."""
    system, network, config = facts['system'], facts['network'], dict(facts['config'])
    config['classes'] = facts['num_classes']
    symbol = facts.get('symbol')
    if system == 'igc':
        return recognise(read_graph(folder / symbol))
    if network == 'DynamicMultiHeadConv':
        return None
    if system == 'mutualnet':
        network = SLIMMABLE[network]
        config['cifar10_rows'] = config.get('dataset') == 'cifar10'
    elif network.startswith('shufflenet_group_'):
        network, config['groups'] = 'shufflenet', int(network[len('shufflenet_group_'):])
    elif system == 'igcv3':
        if not isinstance(facts['checkpoint'], str):  # a symbol and a parameter file
            network += '_mxnet'
        config['width'] = config.get('width_multiplier', config.get('multiplier'))
    elif system == 'dgc':
        config['form'] = 'imagenet' if config.get('data') == 'imagenet' else 'cifar'
    known = get_spec(network).settings()
    return network, {key: value for key, value in config.items() if key in known}


def compare_case(path: Path, scratch: Path, tolerance: float) -> Row:
    """Convert one case there and back in the folder `scratch`."""
    try:
        facts = _facts(path)
        checkpoint = facts['checkpoint']
        source = path.parent / (checkpoint if isinstance(checkpoint, str) else checkpoint[-1])
        ours = our_settings(facts, path.parent)
        if ours is None:
            return Row((path.stem, '-', source.name, 'a layer, no network', '', '', ''), True)
        spec, settings = get_spec(ours[0]), ours[1]
        converted = to_mxnet(spec, settings, source, scratch / path.stem)
        back = _way_back(converted, spec, settings, source, scratch / (path.stem + '.pt'))
        outputs = path.with_suffix('.npz')
        found: List[Comparison] = []
        if outputs.is_file() and holds_logits(outputs):
            net = converted.load(spec, settings)
            net.hybridize(static_alloc=True, static_shape=True)
            found = list(against_outputs(net, outputs))
    except IgcnetError as problem:
        return Row((path.stem, '', '', 'error: %s' % problem, '', '', ''), False)
    worst = max((comparison.difference for comparison in found), default=0.0)
    agreeing = sum(comparison.agreeing for comparison in found)
    images = sum(comparison.images for comparison in found)
    count = len(converted.report.converted if converted.report else read_ndarrays(source))
    container = converted.report.container if converted.report else 'MXNet'
    return Row((path.stem, spec.name, '%s (%s)' % (source.name, container), '%d' % count,
                '%.2g' % worst if found else '-', '%d/%d' % (agreeing, images) if found else '-',
                back), worst <= tolerance and agreeing == images and back == IDENTICAL)


def compare_all(folder: PathLike, scratch: PathLike, tolerance: float) -> Iterator[Row]:
    """One `Row` for each case below `folder`, as they are done."""
    for path in find_cases(folder):
        yield compare_case(path, Path(scratch), tolerance)


def format_rows(rows: List[Row]) -> str:
    """The table as text."""
    lines = [HEADINGS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines if not line[3].startswith('error'))
              for column in range(len(HEADINGS))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in lines)


def differences(first: Any, second: Any, place: str = '') -> Iterator[str]:
    """Where two plain values differ: types, keys and their order, element types, bits.

    `place` is where `first` and `second` stand in larger values.
    """
    if type(first) is not type(second):
        yield '%s: %s and %s' % (place, type(first).__name__, type(second).__name__)
    elif isinstance(first, np.ndarray):
        if (first.dtype, first.shape, first.tobytes()) != (second.dtype, second.shape,
                                                           second.tobytes()):
            yield '%s: another array' % place
    elif isinstance(first, dict):
        if list(first) != list(second):
            yield '%s: other keys, or another order' % place
        for key in first:
            if key in second:
                yield from differences(first[key], second[key], '%s/%s' % (place, key))
        if isinstance(first, OrderedDict):
            yield from differences(getattr(first, '_metadata', None),
                                   getattr(second, '_metadata', None), place + '/_metadata')
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            yield '%s: another length' % place
        for number, (left, right) in enumerate(zip(first, second)):
            yield from differences(left, right, '%s/%d' % (place, number))
    elif repr(first) != repr(second):
        yield '%s: %r and %r' % (place, first, second)


def _way_back(converted: Converted, spec: Any, settings: Dict[str, Any], source: Path,
              target: Path) -> str:
    """Compare the source with what is written back from the converted files."""
    if converted.report is None:
        first, second = ({parameter_name(key): array
                          for key, array in sorted(read_ndarrays(path).items())}
                         for path in (source, converted.params))
    else:
        to_torch(spec, settings, converted.params, target, fitting_origin(converted.params))
        first, second = read_torch(source), read_torch(target)
        first = first._replace(container=first.container.replace('tar', 'legacy'))
    found = list(differences(first, second))
    return IDENTICAL if not found else '%d differences (%s, ...)' % (len(found), found[0])


def _facts(path: Path) -> Any:
    return read_json(path, 'description of a case', CheckpointError)
