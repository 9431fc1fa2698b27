"""The table of networks, generated from the registry: exact counts beside published figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from igcnet.errors import IgcnetError
from igcnet.files import PathLike, write_text
from igcnet.profiling.counting import profile
from igcnet.registry import Published, get_model, get_spec, list_families

BEGIN = '<!-- networks:begin -->'
END = '<!-- networks:end -->'

NO_WEIGHTS: Mapping[str, str] = MappingProxyType({})
_COLUMNS = ('network', 'input', 'parameters', 'multiply-adds', 'published parameters',
            'published multiply-adds', 'top-1 error', 'top-5 error', 'note')
_ALIGNMENT = '| --- | --: | --: | --: | --: | --: | --: | --: | --- |'


class NetworkRow(NamedTuple):
    """One named configuration: our exact counts, what is published, and the accuracy of the
    weights that come with the package."""

    name: str
    family: str
    input_size: int
    parameters: int
    macs: int
    published: Optional[Published]
    summary: str
    weights: str = ''

    @property
    def figures(self) -> List[str]:
        """The published figures as printed words, '-' where there are none: parameters and
        multiply-adds in millions, top-1 and top-5 error in percent."""
        published = self.published or Published()
        return [_printed(published.params, 'M'), _printed(published.macs, 'M'),
                _printed(published.top1_error, '%'), _printed(published.top5_error, '%')]

    def as_dict(self) -> Dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**self._asdict(), 'published': self.published and asdict(self.published)}


def network_row(name: str, weights: Mapping[str, str] = NO_WEIGHTS) -> NetworkRow:
    """Count one named configuration at its own input size.

    Parameters
    ----------
    weights : mapping
        Name of a configuration -> what to say of its released weights, as
        `igcnet.deploy.released.summaries` gives it.
    """
    spec = get_spec(name)
    size = spec.preprocessing.input_size
    counted = profile(get_model(name), (1, 3, size, size))
    return NetworkRow(name, spec.family, size, counted.parameters, counted.macs, spec.published,
                      spec.summary, weights.get(name, ''))


def networks_markdown(names: Sequence[str], weights: Mapping[str, str] = NO_WEIGHTS) -> str:
    """Markdown tables of the given configurations, one for each family, with their sources."""
    rows = [network_row(name, weights) for name in names]
    lines = ['Parameters are the trainable ones; multiply-adds are those of convolutions and '
             'fully connected layers without bias, for one image. Both are exact. The published '
             'figures are as printed in their source, which may count in another way.']
    for family in list_families():
        members = [row for row in rows if row.family == family]
        if not members:
            continue
        lines += ['', '### %s' % family, '', _row(_COLUMNS), _ALIGNMENT]
        for row in members:
            note = '; '.join(filter(None, [row.summary, row.published and row.published.note,
                                           row.weights and 'released weights: ' + row.weights]))
            lines.append(_row(['`%s`' % row.name, '%d' % row.input_size,
                               '{:,}'.format(row.parameters), '{:,}'.format(row.macs),
                               *row.figures, note]))
        lines += _sources(members)
    return '\n'.join(lines)


def _sources(rows: Sequence[NetworkRow]) -> List[str]:
    """A line that says where the published figures are printed and what they were measured on."""
    found: Dict[str, List[str]] = {}
    for row in rows:
        if row.published:
            sets = found.setdefault(row.published.source, [])
            if row.published.data_set and row.published.data_set not in sets:
                sets.append(row.published.data_set)
    if not found:
        return []
    return ['', 'Published: %s.' % '; '.join(
        source + (' (%s)' % ', '.join(sorted(sets)) if sets else '')
        for source, sets in sorted(found.items()))]


def replace_section(text: str, section: str, path: PathLike) -> str:
    """`text` with `section` between the two marker comments.

    Raises
    ------
    IgcnetError
        When the markers are not there once each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise IgcnetError('%s: needs the lines %s and %s once each, in this order'
                          % (path, BEGIN, END))
    return '%s%s\n%s\n%s%s' % (before, BEGIN, section, END, after)


def update_file(path: PathLike, names: Sequence[str],
                weights: Mapping[str, str] = NO_WEIGHTS) -> bool:
    """Rewrite the table in a Markdown file; returns whether the file changed."""
    try:
        text = Path(path).read_text(encoding='utf-8')
    except OSError as problem:
        raise IgcnetError('%s: cannot read it (%s)' % (path, problem.strerror)) from None
    updated = replace_section(text, networks_markdown(names, weights), path)
    if updated != text:
        write_text(path, updated)
    return updated != text


def _row(cells: Sequence[str]) -> str:
    return '| %s |' % ' | '.join(cells)


def _printed(value: Optional[float], unit: str) -> str:
    if value is None:
        return '-'
    return '%s %s' % ('{:,}'.format(value), unit)
