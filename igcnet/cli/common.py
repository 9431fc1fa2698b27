"""What all commands share: argument conventions and the way errors leave the program."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import warnings
from typing import Callable, Iterator, List, Optional, Tuple

from igcnet.errors import IgcnetError, UsageError

EXIT_INTERRUPTED = 130
MOST_WIDTHS = 1000


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something: not None, and not the False of a switch."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults and raises `UsageError` instead of leaving."""

    def __init__(self, **settings):
        settings.setdefault('formatter_class', _HelpFormatter)
        settings.setdefault('allow_abbrev', False)
        super().__init__(**settings)

    def error(self, message):
        raise UsageError('%s (see %s --help)' % (message, self.prog))


def run(command: Callable[[Optional[List[str]]], int], argv: Optional[List[str]] = None) -> int:
    """Call `command`; a user's mistake becomes one line on stderr and an exit code."""
    # MXNet 1.9.1 uses names that numpy and the standard library have deprecated since.
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # As Ctrl-C, so that temporary files and worker processes are cleared away.
            signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command(argv) or 0
        sys.stdout.flush()  # a full disk or closed pipe shows here, not after our last line
        return code
    except IgcnetError as problem:
        print('error: %s' % ' '.join(str(problem).split('\n')), file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has what it wanted.
        _discard_unwritable_output()
        return 0
    except OSError as problem:
        print('error: %s' % problem, file=sys.stderr)
        _discard_unwritable_output()
        return IgcnetError.exit_code


@contextlib.contextmanager
def while_importing() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once.

    While modules are imported a KeyboardInterrupt may be raised where Python drops it, and the
    command would go on. Nothing is there yet that had to be cleared away.
    """
    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(ValueError):  # not the main thread
                    old[number] = signal.signal(number, _leave)
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _leave(number, frame):
    os.write(2, b'interrupted\n')
    os._exit(EXIT_INTERRUPTED)


def _discard_unwritable_output() -> None:
    """What stdout could not write must not fail a second time when Python closes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError('%r is not a whole number of at least 1' % text)
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError('%r is not a number greater than 0' % text)
    return value


def numbers(text: str) -> Tuple[float, ...]:
    """An argparse type: numbers with commas between them."""
    try:
        return tuple(float(word) for word in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError('%r is not a list of numbers, such as 100,150'
                                         % text) from None


def words(text: str) -> Tuple[str, ...]:
    """An argparse type: words with commas between them."""
    return tuple(filter(None, text.split(',')))


def colour(text: str) -> Tuple[float, ...]:
    """An argparse type: three numbers, for red, green and blue."""
    values = numbers(text)
    if len(values) != 3:
        raise argparse.ArgumentTypeError('%r: must be three numbers, for red, green and blue'
                                         % text)
    return values


def seed(text: str) -> int:
    """An argparse type: a seed of the random numbers, MXNet's included."""
    if not (text.isdigit() and int(text) < 2 ** 31):
        raise argparse.ArgumentTypeError('%r is not a whole number from 0 to 2147483647' % text)
    return int(text)


def widths(text: str) -> Tuple[float, ...]:
    """An argparse type: widths with commas between them, or ``first:last:step``."""
    try:
        parts = [float(word) for word in text.split(':' if ':' in text else ',')]
    except ValueError:
        parts = []
    if ':' in text and len(parts) == 3:
        first, last, step = parts
        count = (last - first) / step + 1e-6 if step > 0 else -1
        parts = [round(first + step * number, 9) for number in range(int(count) + 1)] \
            if 0 <= count < MOST_WIDTHS else []
    elif ':' in text:
        parts = []
    if not parts or not all(0 < width < math.inf for width in parts):
        raise argparse.ArgumentTypeError('%r: must be widths such as 0.25,0.5,1.0, or the first, '
                                         'the last and the step between them, such as '
                                         '0.25:1.0:0.05' % text)
    return tuple(dict.fromkeys(parts))


def resolutions(text: str) -> Tuple[int, ...]:
    """An argparse type: whole numbers of at least 1 with commas between them."""
    return tuple(dict.fromkeys(positive_int(word) for word in text.split(',')))
