"""How far a long loop is: a bar on a terminal, plain lines now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import Optional, TextIO

from tqdm import tqdm


class Progress:
    """Progress of one loop, with rate and time left, on stderr.

    On a terminal it is a tqdm bar. Elsewhere it is a line every `interval` seconds and one at
    the end, so that a log file stays readable.

    Parameters
    ----------
    total : int
        Number of units the loop will do.
    label : str
        What is going on ('packing train', 'epoch 3'), first on the line.
    unit : str
        Plural name of what is counted.
    interval : float
        Seconds between two lines when not on a terminal.
    stream : file, optional
        Default: ``sys.stderr``.
    enabled : bool
        False shows nothing, so that a caller needs no second code path.

    Examples
    --------
    >>> with Progress(len(batches), 'epoch 3', 'batches') as progress:
    ...     for batch in batches:
    ...         progress.advance(1, 'loss %.3f' % loss)
    """

    def __init__(self, total: int, label: str, unit: str = 'images', interval: float = 5.0,
                 stream: Optional[TextIO] = None, enabled: bool = True):
        self.total = total
        self.label = label
        self.unit = unit
        self.interval = interval
        self.done = 0
        self._note = ''
        self._enabled = enabled
        self._stream = sys.stderr if stream is None else stream
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if enabled and self._stream.isatty():
            self._bar = tqdm(total=total, desc=label, unit=' ' + unit, file=self._stream,
                             dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind, problem, trace):
        self.close(kind is None)

    def advance(self, count: int = 1, note: str = '') -> None:
        """Count `count` more units as done; `note` (such as the loss) is shown behind."""
        self.done += count
        self._note = note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._enabled and time.monotonic() - self._last_line >= self.interval:
            self._last_line = time.monotonic()
            rate = self.rate
            left = (self.total - self.done) / rate if rate else 0.0
            self._print('%s of %s %s, %s/s, %s left'
                        % (format_count(self.done), format_count(self.total), self.unit,
                           format_count(rate), format_seconds(left)))

    def write(self, line: str) -> None:
        """Print `line` without breaking the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def close(self, complete: bool = True) -> None:
        """Leave the bar as it stands, or print the last line of a `complete` loop."""
        if self._bar is not None:
            self._bar.close()
        elif self._enabled and complete:
            self._print('%s %s in %s, %s/s' % (format_count(self.done), self.unit,
                                               format_seconds(self.elapsed),
                                               format_count(self.rate)))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / self.elapsed if self.elapsed else 0.0

    def _print(self, text: str) -> None:
        note = ', ' + self._note if self._note else ''
        print('%s: %s%s' % (self.label, text, note), file=self._stream, flush=True)


def format_count(value: float) -> str:
    """A count or rate with thousands separated; small rates keep a decimal."""
    return '%.1f' % value if 0 < value < 10 and value != int(value) else '{:,.0f}'.format(value)


def format_seconds(seconds: float) -> str:
    """A duration as people say it: '8 s', '3 min 05 s', '1 h 02 min'."""
    whole = int(round(seconds))
    if whole < 60:
        return '%d s' % whole
    if whole < 3600:
        return '%d min %02d s' % divmod(whole, 60)
    return '%d h %02d min' % divmod(whole // 60, 60)
