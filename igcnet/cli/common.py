"""What all commands share: argument conventions and the way errors leave the program."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Callable, List, Optional

from igcnet.errors import IgcnetError, UsageError

EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults and raises `UsageError` instead of leaving."""

    def __init__(self, **settings):
        settings.setdefault('formatter_class', argparse.ArgumentDefaultsHelpFormatter)
        settings.setdefault('allow_abbrev', False)
        super().__init__(**settings)

    def error(self, message):
        raise UsageError('%s (see %s --help)' % (message, self.prog))


def run(command: Callable[[Optional[List[str]]], int], argv: Optional[List[str]] = None) -> int:
    """Call `command`; a user's mistake becomes one line on stderr and an exit code."""
    # MXNet 1.9.1 uses names that numpy and the standard library have deprecated since.
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    try:
        return command(argv) or 0
    except IgcnetError as problem:
        print('error: %s' % ' '.join(str(problem).split('\n')), file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has what it wanted.
        sys.stderr.close()
        return 0


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError('%r is not a whole number of at least 1' % text)
    return value
