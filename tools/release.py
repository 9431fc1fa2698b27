"""A run as released weights; the same as ``igcnet release``."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # The repository instead of this folder, whose profile.py would hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from igcnet.cli.release import main
    sys.exit(main())
