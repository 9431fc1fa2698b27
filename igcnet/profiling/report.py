"""A profile as text."""

from __future__ import annotations

import csv
import io
from typing import List, Sequence

from igcnet.profiling.counting import LayerProfile, Profile

_COLUMNS = ('layer', 'operator', 'output shape', 'parameters', 'multiply-adds')


def format_table(profile: Profile, every_operator: bool = False) -> str:
    """The layers as aligned columns, then the totals.

    Parameters
    ----------
    every_operator : bool
        Also the operators that have neither parameters nor multiply-adds (ReLU, pooling,
        shuffles, sums).
    """
    rows = [(layer.name, layer.operator, _shape(layer), _number(layer.parameters),
             _number(layer.macs)) for layer in profile.rows(every_operator)]
    total = ('total', '', '', _number(profile.parameters), _number(profile.macs))
    lines = align(_COLUMNS, rows + [total], right=(3, 4))
    lines.insert(-1, '-' * max(map(len, lines)))
    split = profile.split()
    parts = ['%s %s' % (kind, _number(count)) for kind, count in split.items()
             if count and kind != 'aux']
    lines += ['', 'parameters (trainable): %s' % ' + '.join(parts),
              'not trained (moving statistics): %s' % _number(profile.auxiliary),
              'multiply-adds: of convolutions and fully connected layers, without bias']
    return '\n'.join(lines)


def format_csv(profile: Profile, every_operator: bool = False) -> str:
    """The layers as CSV with a header line; shapes are written as 1x64x32x32."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(LayerProfile._fields)
    for layer in profile.rows(every_operator):
        writer.writerow(layer._replace(output_shape=_shape(layer)))
    return text.getvalue()


def align(header: Sequence[str], rows: Sequence[Sequence[str]],
          right: Sequence[int] = ()) -> List[str]:
    """`header` and `rows` as lines, the columns under each other; those in `right` are set flush
    right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return ['  '.join(cell.rjust(width) if i in right else cell.ljust(width)
                      for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in table]


def _shape(layer: LayerProfile) -> str:
    return 'x'.join('%d' % extent for extent in layer.output_shape)


def _number(count: int) -> str:
    return '{:,}'.format(count) if count else '-'
