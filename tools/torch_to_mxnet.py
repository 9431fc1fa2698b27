"""An original's checkpoint as a network of ours; the same as ``igcnet torch_to_mxnet``."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # The repository instead of this folder, whose profile.py would hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from igcnet.cli.torch_to_mxnet import main
    sys.exit(main())
