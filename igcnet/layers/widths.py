"""The width of a slimmable network: which widths it takes, and the channels that follow.

A slimmable network holds the weights of its widest form; the sub-network of width w uses the
first channels of every layer. Sources: Yang et al.: MutualNet (arXiv 1909.12978), and Yu and
Huang: Universally Slimmable Networks (arXiv 1903.05134); taoyang1122/MutualNet.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from numbers import Real
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from igcnet.errors import UsageError

Scratch = Callable[[int, str], Tuple[Any, Any]]


def round_channels(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, or the next one if that is over 10 % less.

    At least 1 is kept before the second rule, so with a divisor of 8 a value between 10/9 and 4
    gives 9: a quirk of the original.
    """
    count = max(1, int(value + divisor / 2) // divisor * divisor)
    return count + divisor if count < 0.9 * value else count


class Channels(NamedTuple):
    """Channels of one side of a layer.

    Parameters
    ----------
    base : int
        Their number at width 1.
    ratio : float
        What is rounded is ``base / ratio`` times the width; the result is multiplied by `ratio`
        again. A bottleneck of a quarter of its block has 0.25.
    slim : bool
        False: `base` channels at every width (the image, a fixed last convolution).
    """

    base: int
    ratio: float = 1
    slim: bool = True

    def at(self, width: float, divisor: int) -> int:
        """Their number at `width`."""
        if not self.slim:
            return self.base
        return int(round_channels(self.base * width / self.ratio, divisor) * self.ratio)


class TrainingPass:
    """One pass in training mode, in which every BN normalises by the batch.

    Parameters
    ----------
    scratch : callable
        Given a channel count and element type, a mean and a variance that the BN operator may
        call its running statistics.
    """

    def __init__(self, scratch: Scratch):
        self.scratch = scratch
        # (BN layer, mean of the batch, unbiased variance of the batch) in the order of the graph
        self.statistics: List[Tuple[Any, Any, Any]] = []


class Widths:
    """The widths that a network takes and the present one; all its layers share this object.

    Parameters
    ----------
    width_mult_range : (float, float)
        The narrowest and the widest, which is the width of the stored weights.
    width_mult_list : sequence of float
        Widths that have running statistics of BN, in the order of the original's checkpoints.
    divisor : int
        See `round_channels`.

    Attributes
    ----------
    current : float
        The present width.
    training_pass : TrainingPass or None
        The pass under way, if it is one in training mode.

    Raises
    ------
    UsageError
        Values that cannot work.
    """

    def __init__(self, width_mult_range: Sequence[float], width_mult_list: Sequence[float],
                 divisor: int):
        if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
            raise UsageError('divisor=%r: must be a whole number of at least 1' % (divisor,))
        if not _are_numbers(width_mult_range) or len(width_mult_range) != 2 or not (
                0 < width_mult_range[0] <= width_mult_range[1] < math.inf):
            raise UsageError('width_mult_range=%r: must be the narrowest and the widest width, '
                             'such as [0.25, 1.0]' % (width_mult_range,))
        if not _are_numbers(width_mult_list):
            raise UsageError('width_mult_list=%r: must be widths, such as [0.25, 1.0]'
                             % (width_mult_list,))
        self.low, self.high = (float(width) for width in width_mult_range)
        self.divisor = divisor
        # Every kind of channel count that the network has, with the first layer that has it.
        self._sides: Dict[Channels, str] = {}
        self.listed: List[float] = []
        for width in width_mult_list:
            self.add(width)
        self.current = self.high
        self.training_pass: Optional[TrainingPass] = None

    def use(self, layer: str, *sides: Channels) -> Tuple[int, ...]:
        """Note that `layer` has these sides; their stored sizes."""
        for side in sides:
            self._sides.setdefault(side, layer)
        for width in (self.low, *self.listed):
            self.shape(width)
        return tuple(side.at(self.high, self.divisor) for side in sides)

    def count(self, side: Channels) -> int:
        """Channels of a side at the present width."""
        return side.at(self.current, self.divisor)

    def shape(self, width: float) -> Tuple[int, ...]:
        """The different channel counts of the network at `width`: what tells one sub-network
        from another.

        Raises
        ------
        UsageError
            Rounding gives a layer more channels than it has.
        """
        counts = tuple(side.at(width, self.divisor) for side in self._sides)
        for count, (side, layer) in zip(counts, self._sides.items()):
            available = side.at(self.high, self.divisor)
            if count > available:
                raise UsageError('width %g: %s would have %d channels, but only %d at the widest, '
                                 '%g; take another width' % (width, layer, count, available,
                                                             self.high))
        return counts

    def resolve(self, width: float) -> float:
        """`width`, after a check; a number that differs from a listed width or from an end of
        the range by rounding only becomes that one.

        Raises
        ------
        UsageError
            No width of this network.
        """
        if _are_numbers([width]):
            for known in (*self.listed, self.low, self.high):
                if math.isclose(width, known, rel_tol=1e-9):
                    return known
            if self.low < width < self.high:
                self.shape(width)
                return float(width)
        raise UsageError('width %s: this network takes widths from %g to %g'
                         % (width, self.low, self.high))

    def add(self, width: float) -> int:
        """List a width; its position. Refuses one outside the range, or there already."""
        width = self.resolve(width)
        if width in self.listed:
            raise UsageError('width %g: is listed twice' % width)
        self.listed.append(width)
        return len(self.listed) - 1

    def position(self, width: Optional[float] = None) -> Optional[int]:
        """Position of a width (the present one) in the list; None when it is not there."""
        width = self.current if width is None else width
        return self.listed.index(width) if width in self.listed else None

    def require_statistics(self, width: Optional[float] = None) -> int:
        """`position` of a width that has running statistics.

        Raises
        ------
        UsageError
            It has none.
        """
        position = self.position(width)
        if position is None:
            width = self.current if width is None else width
            raise UsageError('width %g: has no BN statistics (widths that have: %s); '
                             'add_statistics(%g) makes room for them, then calibrate'
                             % (width, ', '.join('%g' % listed for listed in self.listed)
                                or 'none', width))
        return position

    @contextmanager
    def at(self, width: Optional[float]) -> Iterator[None]:
        """Another width inside the ``with`` block; None: the present one."""
        previous = self.current
        if width is not None:
            self.current = self.resolve(width)
        try:
            yield
        finally:
            self.current = previous

    @contextmanager
    def training(self, scratch: Scratch) -> Iterator[TrainingPass]:
        """A `TrainingPass` inside the ``with`` block."""
        self.training_pass = TrainingPass(scratch)
        try:
            yield self.training_pass
        finally:
            self.training_pass = None


def _are_numbers(values) -> bool:
    return isinstance(values, (list, tuple)) and all(
        isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        for value in values)
