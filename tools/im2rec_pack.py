#!/usr/bin/env python3
"""Pack images into MXNet records: see ``igcnet.cli.im2rec_pack``."""

import sys

from igcnet.cli.im2rec_pack import main

if __name__ == '__main__':
    sys.exit(main())
