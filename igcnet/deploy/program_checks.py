"""Whether a program can be computed: every place that it reads or writes is there.

The engine computes addresses from a program's numbers and checks none of them.
"""

from __future__ import annotations

from typing import Any, List, Optional, Set, Tuple

import numpy as np

from igcnet.deploy.program import (
    CLAMP,
    NOTHING,
    SIGMOID,
    Convolution,
    Dense,
    Enter,
    Group,
    Largest,
    Mean,
    Program,
    Size,
    Split,
)
from igcnet.errors import IgcnetError

MOST_IN_PLACE = 4   # outputs of a group that writes what it reads
MOST = 1 << 16      # pixels of a side, gap, stride
MOST_SLOTS = 1 << 24


def check(program: Program) -> None:
    """Refuse a program that would read or write beyond its planes, or whose result would depend
    on the order in which the outputs of a step are computed.

    Raises
    ------
    IgcnetError
        With the number of the step and what is wrong with it.
    """
    if len(program.image_shape) != 3:
        _refuse('the image', 'shape %r is not (channels, height, width)' % (program.image_shape,))
    for name, value in zip(('channels', 'height', 'width', 'classes'),
                           (*program.image_shape, program.classes)):
        _within('the image', name, value, 1, MOST_SLOTS)
    for number, size in enumerate(program.sizes):
        name = 'size %d' % number
        _within(name, 'height', size.height, 1, MOST)
        _within(name, 'width', size.width, 1, MOST)
        _within(name, 'gap', size.gap, 0, min(size.height, size.width, MOST))
        _within(name, 'slots', size.slots, 1, MOST_SLOTS)
    checks = _Checks(program)
    for number, step in enumerate(program.steps):
        checks.step('step %d (%s)' % (number, type(step).__name__), step)
    if checks.vector is None or not isinstance(program.steps[-1], Dense):
        _refuse('the last step', 'no Dense that writes the logits')
    if checks.vector != program.classes:
        _refuse('the last step', '%d logits for %d classes' % (checks.vector, program.classes))


class _Checks:
    """The steps in order."""

    def __init__(self, program: Program):
        self.program = program
        self.written: List[Set[int]] = [set() for _ in program.sizes]
        self.vector: Optional[int] = None  # length, once there is one

    def step(self, name: str, step: Any) -> None:
        if self.vector is not None and not isinstance(step, Dense):
            _refuse(name, 'only Dense follows a Mean')
        if isinstance(step, Dense):
            self._dense(name, step)
            return
        if not isinstance(step, (Enter, Split, Convolution, Largest, Mean)):
            _refuse(name, 'no step of a program')
        _within(name, 'size', step.size, 0, len(self.program.sizes) - 1)
        size = self.program.sizes[step.size]
        if isinstance(step, (Enter, Split)):
            self._phases(name, step)
        elif isinstance(step, Convolution):
            self._convolution(name, step, size)
        elif isinstance(step, Largest):
            _array(name, 'outs', step.outs, np.int32, (None,))
            _array(name, 'sources', step.sources, np.int32, (len(step.outs), None, 3))
            self._read_shifted(name, step.size, step.sources.reshape(-1, 3))
            if np.intersect1d(step.sources[..., 0], step.outs).size:
                _refuse(name, 'writes a slot that it reads')
            self._write(name, step.size, step.outs)
        else:
            _array(name, 'slots', step.slots, np.int32, (None,))
            self._read(name, step.size, step.slots)
            self.vector = len(step.slots)

    def _phases(self, name: str, step: Any) -> None:
        _array(name, 'table', step.table, np.int32, (None, 4))
        _within(name, 'stride', step.stride, 1, MOST)
        if isinstance(step, Split):
            _within(name, 'source', step.source, 0, len(self.program.sizes) - 1)
            if step.source == step.size:
                _refuse(name, 'reads and writes planes of the same size')
            self._read(name, step.source, step.table[:, 0])
        else:
            _all_within(name, 'channel', step.table[:, 0], self.program.image_shape[0])
        _all_within(name, 'first row', step.table[:, 1], MOST)
        _all_within(name, 'first column', step.table[:, 2], MOST)
        self._write(name, step.size, step.table[:, 3])

    def _convolution(self, name: str, step: Convolution, size: Size) -> None:
        if step.activation not in (CLAMP, SIGMOID):
            _refuse(name, 'activation %r is neither %s nor %s' % (step.activation, CLAMP, SIGMOID))
        _bounds(name, step)
        if not step.groups:
            _refuse(name, 'no groups')
        for group in step.groups:
            self._group(name, step.size, group)
        outs = np.concatenate([group.outs for group in step.groups])
        owner = np.full(size.slots, NOTHING)
        for number, group in enumerate(step.groups):
            owner[group.outs] = number
        for number, group in enumerate(step.groups):
            _order_matters_not(name, number, group, owner)
        self._write(name, step.size, outs)

    def _group(self, name: str, size: int, group: Group) -> None:
        _array(name, 'sources', group.sources, np.int32, (None, 3))
        _array(name, 'outs', group.outs, np.int32, (None,))
        outs = (len(group.outs),)
        _array(name, 'weight', group.weight, np.float32, (*outs, len(group.sources)))
        _array(name, 'bias', group.bias, np.float32, outs)
        _array(name, 'adds', group.adds, np.int32, outs)
        _array(name, 'factors', group.factors, np.int32, outs)
        self._read_shifted(name, size, group.sources)
        for slots in (group.adds, group.factors):
            self._read(name, size, slots[slots != NOTHING])
        _all_within(name, 'slot', group.outs, self.program.sizes[size].slots)

    def _dense(self, name: str, step: Dense) -> None:
        if self.vector is None:
            _refuse(name, 'there is no vector before a Mean')
        _array(name, 'weight', step.weight, np.float32, (None, self.vector))
        _array(name, 'bias', step.bias, np.float32, (len(step.weight),))
        _bounds(name, step)
        self.vector = len(step.weight)

    def _read_shifted(self, name: str, size: int, sources: np.ndarray) -> None:
        gap = self.program.sizes[size].gap
        if np.abs(sources[:, 1:].astype(np.int64)).max() > gap:
            _refuse(name, 'an offset leaves the gap of %d' % gap)
        self._read(name, size, sources[:, 0])

    def _read(self, name: str, size: int, slots: np.ndarray) -> None:
        _all_within(name, 'slot', slots, self.program.sizes[size].slots)
        missing = set(slots.tolist()) - self.written[size]
        if missing:
            _refuse(name, 'slot %d of size %d is read before it is written'
                    % (min(missing), size))

    def _write(self, name: str, size: int, slots: np.ndarray) -> None:
        _all_within(name, 'slot', slots, self.program.sizes[size].slots)
        found, counts = np.unique(slots, return_counts=True)
        if (counts > 1).any():
            _refuse(name, 'slot %d is written twice' % found[counts > 1][0])
        self.written[size].update(slots.tolist())


def _order_matters_not(name: str, number: int, group: Group, owner: np.ndarray) -> None:
    """`owner`: for each slot, which group of the step writes it."""
    writers = owner[group.sources[:, 0]]
    if ((writers != NOTHING) & (writers != number)).any():
        _refuse(name, 'group %d reads what another group writes' % number)
    if (writers == number).any() and (
            len(group.outs) > MOST_IN_PLACE or group.sources[writers == number, 1:].any()):
        _refuse(name, 'group %d reads what it writes with an offset, or has more than %d outputs'
                % (number, MOST_IN_PLACE))
    for slots in (group.adds, group.factors):
        used = slots != NOTHING
        used[used] = owner[slots[used]] != NOTHING
        if (slots[used] != group.outs[used]).any():
            _refuse(name, 'group %d adds, or multiplies by, what another output writes' % number)


def _bounds(name: str, step: Any) -> None:
    if not step.low <= step.high:
        _refuse(name, 'values between %s and %s' % (step.low, step.high))


def _array(name: str, what: str, array: Any, dtype: Any, shape: Tuple[Optional[int], ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != len(shape) or \
            any(n == 0 or n != (n if m is None else m) for n, m in zip(array.shape, shape)):
        _refuse(name, '%s is %s, not a %s array of shape (%s)' % (
            what, '%s %r' % (array.dtype, array.shape) if isinstance(array, np.ndarray)
            else type(array).__name__, np.dtype(dtype).name,
            ', '.join('at least 1' if m is None else str(m) for m in shape)))


def _all_within(name: str, what: str, values: np.ndarray, end: int) -> None:
    if values.size and not 0 <= values.min() <= values.max() < end:
        wrong = values[(values < 0) | (values >= end)][0]
        _refuse(name, '%s %d is not below %d' % (what, wrong, end))


def _within(name: str, what: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or \
            not least <= value <= most:
        _refuse(name, '%s %r is not between %d and %d' % (what, value, least, most))


def _refuse(name: str, problem: str) -> None:
    raise IgcnetError('program: %s: %s' % (name, problem))
