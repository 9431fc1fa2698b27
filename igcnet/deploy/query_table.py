"""What a slimmable network costs and gives at every width and resolution; the best for a budget.

A table belongs to one set of weights, which it knows by their checksum, and is stored as
``<prefix>.json``. Beside it lie the same rows as ``<prefix>.csv`` and the calibrated running
statistics of each pair, ``<prefix>-statistics/<width>-<resolution>.params``.

The rule, after the README of taoyang1122/MutualNet, which selects by hand: for a budget take the
pair with the highest top-1 accuracy among those that cost no more; of equally accurate ones the
one that costs least. The pairs that some budget in multiply-adds selects are the *frontier* of
multiply-adds, along which cost and accuracy both rise; the frontier of milliseconds likewise.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional

import mxnet as mx
from mxnet.gluon import HybridBlock

from igcnet.convert import read_ndarrays, write_ndarrays
from igcnet.deploy.export import preprocessing_from
from igcnet.errors import CheckpointError, UsageError
from igcnet.files import PathLike, atomic_path, read_json, sha256, write_json
from igcnet.layers import SlimmableNetwork
from igcnet.layers.slimmable_network import Statistics
from igcnet.registry import Preprocessing, get_model, get_spec

FORMAT, VERSION = 'igcnet query table', 1
COSTS = ('macs', 'milliseconds')
FAMILY = 'slimmable'


@dataclass(frozen=True)
class Pair:
    """A width and a resolution, with what was counted and measured.

    Parameters
    ----------
    width : float
    resolution : int
        Height and width of the input.
    macs, parameters : int
        Multiply-adds for one image, and trainable parameters, of the sub-network alone.
    milliseconds : float
        Median time of one call.
    images : int
        Images evaluated.
    top1, top5 : float
        Accuracies, as fractions.
    loss : float
        Mean cross-entropy.
    statistics : str
        SHA-256 of the file with its running statistics.
    """

    width: float
    resolution: int
    macs: int
    parameters: int
    milliseconds: float
    images: int
    top1: float
    top5: float
    loss: float
    statistics: str

    @property
    def name(self) -> str:
        """As in file names: ``0.75-160``."""
        return '%r-%d' % (self.width, self.resolution)


@dataclass
class QueryTable:
    """The pairs of one network.

    Parameters
    ----------
    network, settings
        Name and overrides for `igcnet.get_model`.
    weights : str
        `weights_checksum` of the network.
    preprocessing : Preprocessing
        Of the images, before they are resized.
    classes : list of str or None
        Class names by number.
    made_with : dict
        What accuracy, statistics and time were measured with.
    pairs : list of Pair
    """

    network: str
    settings: Dict[str, Any]
    weights: str
    preprocessing: Preprocessing
    classes: Optional[List[str]]
    made_with: Dict[str, Any]
    pairs: List[Pair] = field(default_factory=list)

    def find(self, width: float, resolution: int) -> Optional[Pair]:
        """The pair of this width and resolution, or None."""
        for pair in self.pairs:
            if pair.resolution == resolution and math.isclose(pair.width, width, rel_tol=1e-9):
                return pair
        return None

    def best(self, **budgets: float) -> Pair:
        """The best pair for a budget: ``best(macs=150e6)``, ``best(milliseconds=20)``, or both.

        Raises
        ------
        UsageError
            No budget, an unknown kind, or one below the cheapest pair.
        """
        given = {kind: value for kind, value in budgets.items() if value is not None}
        if not given or set(given) - set(COSTS):
            raise UsageError('budget %s: give %s' % (', '.join(given) or 'missing',
                                                     ' or '.join(COSTS)))
        affordable = [pair for pair in self.pairs
                      if all(getattr(pair, kind) <= value for kind, value in given.items())]
        if not affordable:
            raise UsageError('budget of %s: too small; the cheapest pairs take %s' % (
                ' and '.join('%g %s' % (value, kind) for kind, value in given.items()),
                ' and '.join('%g %s' % (min(getattr(pair, kind) for pair in self.pairs), kind)
                             for kind in given) if self.pairs else 'nothing: there are none'))
        # Of equals the one that spends least of what is scarce.
        kinds = list(dict.fromkeys([*given, *COSTS]))
        return max(affordable, key=lambda pair: (pair.top1, *(-getattr(pair, kind)
                                                              for kind in kinds)))

    def frontier(self, cost: str) -> List[Pair]:
        """The pairs that budgets in `cost` select, the cheapest first."""
        costs = sorted({getattr(pair, cost) for pair in self.pairs})
        selected = [self.best(**{cost: value}) for value in costs]
        return list(dict.fromkeys(selected))

    def as_dict(self) -> Dict[str, Any]:
        """Plain values, for JSON."""
        return {'format': FORMAT, 'version': VERSION, **asdict(self),
                'frontiers': {cost: [pair.name for pair in self.frontier(cost)]
                              for cost in COSTS}}


def weights_checksum(net: HybridBlock) -> str:
    """SHA-256 over the trained parameters of `net`: names, shapes and values.

    Running statistics do not count: each pair has its own.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(net.collect_params().items()):
        if parameter.grad_req != 'null':
            value = parameter.data(parameter.list_ctx()[0]).asnumpy()
            digest.update(('%s %s %s\n' % (name, value.shape, value.dtype)).encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


# Files


def table_path(prefix: PathLike) -> Path:
    """``<prefix>.json``."""
    return Path('%s.json' % prefix)


def statistics_path(table: PathLike, pair_name: str) -> Path:
    """The file with the running statistics of a pair of the table in the JSON file `table`."""
    table = Path(table)
    return table.with_name(table.stem + '-statistics') / (pair_name + '.params')


def write_statistics(path: PathLike, statistics: Statistics) -> str:
    """Write the running statistics of one pair; the SHA-256 of the file."""
    write_ndarrays(path, {'%s:%s' % (layer, kind): value.asnumpy()
                          for layer, values in statistics.items()
                          for kind, value in zip(('mean', 'var'), values)})
    return sha256(path)


def read_statistics(table: PathLike, pair: Pair) -> Statistics:
    """The running statistics of a pair.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or not the one that the table was made with.
    """
    path = statistics_path(table, pair.name)
    if sha256(path, CheckpointError) != pair.statistics:
        raise CheckpointError('%s: its checksum is not the one in %s; the file was changed or '
                              'belongs to another table' % (path, table))
    arrays = read_ndarrays(path)
    layers = {key.rpartition(':')[0] for key in arrays}
    if {'%s:%s' % (layer, kind) for layer in layers for kind in ('mean', 'var')} != set(arrays):
        raise CheckpointError('%s: not the running statistics of a network' % path)
    return {layer: tuple(mx.nd.array(arrays['%s:%s' % (layer, kind)]) for kind in ('mean', 'var'))
            for layer in layers}


def write_table(table: QueryTable, prefix: PathLike) -> Path:
    """Write ``<prefix>.json`` and ``<prefix>.csv``; the path of the former."""
    path = table_path(prefix)
    on_frontier = {cost: table.frontier(cost) for cost in COSTS}
    columns = [f.name for f in fields(Pair) if f.name != 'statistics']
    with atomic_path('%s.csv' % prefix) as temporary, \
            open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *('frontier_%s' % cost for cost in COSTS)])
        for pair in sorted(table.pairs, key=lambda pair: (-pair.width, -pair.resolution)):
            writer.writerow([*(getattr(pair, column) for column in columns),
                             *(int(pair in on_frontier[cost]) for cost in COSTS)])
    write_json(path, table.as_dict())
    return path


def read_table(path: PathLike) -> QueryTable:
    """The table in a JSON file, every value checked.

    Raises
    ------
    CheckpointError
        Missing, damaged, or something else.
    """
    values = read_json(path, 'query table', CheckpointError)
    try:
        if values['format'] != FORMAT or values['version'] != VERSION:
            raise ValueError
        table = QueryTable(**{f.name: values[f.name] for f in fields(QueryTable)})
        table.preprocessing = preprocessing_from(table.preprocessing, str(path))
        table.pairs = [_checked_pair(row) for row in table.pairs]
        if not (isinstance(table.network, str) and isinstance(table.settings, dict)
                and isinstance(table.weights, str) and isinstance(table.made_with, dict)
                and (table.classes is None or isinstance(table.classes, list)
                     and all(isinstance(name, str) for name in table.classes))):
            raise ValueError
        if len({pair.name for pair in table.pairs}) != len(table.pairs):
            raise ValueError
    except (KeyError, OverflowError, TypeError, ValueError):
        raise CheckpointError('%s: not a query table of version %d: its fields are missing or of '
                              'the wrong type' % (path, VERSION)) from None
    return table


def _checked_pair(row: Dict[str, Any]) -> Pair:
    kinds = {'int': int, 'float': (int, float), 'str': str}
    values = {}
    for f in fields(Pair):
        value = row[f.name]
        if not isinstance(value, kinds[f.type]) or isinstance(value, bool):
            raise TypeError
        if f.type != 'str' and not (math.isfinite(value) and value >= 0):
            raise ValueError
        values[f.name] = float(value) if f.type == 'float' else value
    return Pair(**values)


def blank_network(network: str, settings: Dict[str, Any], source: PathLike) -> SlimmableNetwork:
    """The network of a table, not initialised.

    Raises
    ------
    CheckpointError
        The settings are not those of a network.
    UsageError
        The network has one width only.
    """
    if get_spec(network).family != FAMILY:
        raise UsageError('%s: %s has one width only; a query table is of a slimmable network '
                         '(igcnet list)' % (source, network))
    try:
        return get_model(network, **settings)
    except (ArithmeticError, TypeError, ValueError) as problem:
        raise CheckpointError('%s: these settings of %s do not work: %s'
                              % (source, network, str(problem).split('\n')[0])) from None


def check_weights(net: SlimmableNetwork, table: QueryTable, params: PathLike,
                  source: PathLike) -> None:
    """Refuse a table that was made for other weights.

    Raises
    ------
    CheckpointError
    """
    if weights_checksum(net) != table.weights:
        raise CheckpointError('%s: this table was made for other weights than those in %s; make '
                              'it anew with igcnet query_table' % (source, params))
