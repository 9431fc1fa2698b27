"""What became of the entries of a PyTorch file: data and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, NamedTuple, Tuple

import numpy as np

NAMES_SHOWN, LONGEST_SHOWN = 12, 120


class Entry(NamedTuple):
    """One entry of a state_dict and the parameter that it belongs to."""

    key: str
    path: str
    shape: Tuple[int, ...]
    expected: Tuple[int, ...]


@dataclass
class Report:
    """What became of the entries of a file.

    Parameters
    ----------
    source : str
        The file.
    container, place, prefix : str
        How the parameters were in it.
    converted : list of Entry
        Entries that are parameters of the network now.
    kept : list of str
        Known entries without a place in the network, such as ``num_batches_tracked``.
    unused : list of str
        Entries that nothing explains.
    missing : list of str
        Keys that the network needs and the file lacks.
    misshapen : list of Entry
        Entries of another shape than the network's.
    beside : list of str
        What the file holds beside the state_dict.
    """

    source: str
    container: str
    place: str
    prefix: str
    converted: List[Entry] = field(default_factory=list)
    kept: List[str] = field(default_factory=list)
    unused: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    misshapen: List[Entry] = field(default_factory=list)
    beside: List[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every entry is explained and every parameter has its entry."""
        return not (self.unused or self.missing or self.misshapen)

    def faults(self) -> str:
        """What is not explained, in one line."""
        return '; '.join('%d %s (%s%s)' % (len(names), word, ', '.join(names[:3]),
                                           ', ...' if len(names) > 3 else '')
                         for word, names in self._named() if names)

    def _named(self) -> List[Tuple[str, List[str]]]:
        """The kinds of fault with the entries that have it."""
        shapes = ['%s: %s in the file, %s in the network'
                  % (shown(entry.key), entry.shape, entry.expected) for entry in self.misshapen]
        return [('unused', list(map(shown, self.unused))),
                ('missing', list(map(shown, self.missing))), ('of another shape', shapes)]

    def table(self, every_entry: bool = False) -> str:
        """The report as text; with `every_entry` the converted ones by name."""
        lines = ['%s: %s container, parameters in %s%s' % (
            self.source, self.container, self.place,
            ', keys begin with %s' % shown(repr(self.prefix)) if self.prefix else '')]
        lines.append('converted         %5d  %s numbers' % (
            len(self.converted), format(sum(int(np.prod(entry.shape, dtype=np.int64))
                                            for entry in self.converted), ',')))
        if every_entry:
            width = max([len(shown(entry.key)) for entry in self.converted], default=0)
            lines += ['    %s  %s  %s' % (shown(entry.key).ljust(width), entry.path, entry.shape)
                      for entry in self.converted]
        kinds = sorted({shown(key.rpartition('.')[2]) for key in self.kept})
        lines.append('kept aside        %5d  %s' % (len(self.kept), ', '.join(kinds)))
        for word, names in self._named():
            lines.append('%-16s  %5d' % (word, len(names)))
            lines += ['    ' + name for name in names[:None if every_entry else NAMES_SHOWN]]
            if len(names) > NAMES_SHOWN and not every_entry:
                lines.append('    ... and %d more' % (len(names) - NAMES_SHOWN))
        lines.append('beside them       %5d  %s' % (len(self.beside),
                                                    ', '.join(map(shown, self.beside))))
        return '\n'.join(line.rstrip() for line in lines)


def shown(key: str) -> str:
    """A key of a file for people: control characters would reach their terminal."""
    key = key if len(key) <= LONGEST_SHOWN else key[:LONGEST_SHOWN - 3] + '...'
    return key if key.isprintable() else repr(key)
