"""Run a command as the workers of a distributed job; the same as ``igcnet launch``."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # The repository instead of this folder, whose profile.py would hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from igcnet.cli.launch import main
    sys.exit(main())
