"""``python -m igcnet COMMAND ...``, where the console command ``igcnet`` is not on the path."""

import sys

from igcnet.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
