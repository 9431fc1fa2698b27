"""Checks of constructor arguments, with the option and its value in the message."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Sequence, Tuple

from igcnet.errors import UsageError


def check_positive(name: str, value: int) -> int:
    """`value`; UsageError if it is not a whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise UsageError('%s=%r: must be a whole number of at least 1' % (name, value))
    return int(value)


def check_multiplier(name: str, value: float) -> float:
    """`value`; UsageError if it is not a finite number above 0."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise UsageError('%s=%r: must be a number above 0' % (name, value))
    return value


def check_stages(name: str, values: Sequence[int], stages: int,
                 smallest: int = 1) -> Tuple[int, ...]:
    """`values`; UsageError if they are not one whole number of at least `smallest` for each of so
    many `stages`."""
    if (not isinstance(values, Sequence) or len(values) != stages
            or not all(isinstance(v, Integral) and v >= smallest for v in values)):
        raise UsageError('%s=%r: must be %d whole numbers of at least %d, one for each stage'
                         % (name, values, stages, smallest))
    return tuple(int(value) for value in values)
