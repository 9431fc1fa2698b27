"""Accuracy of a trained network; the same as ``igcnet evaluate``."""

import sys
from pathlib import Path

# Search the repository instead of this folder, whose profile.py would otherwise be taken for
# the standard library's, which cProfile imports.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from igcnet.cli.evaluate import main

if __name__ == '__main__':
    sys.exit(main())
