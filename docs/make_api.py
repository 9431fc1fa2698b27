"""Write the API pages into docs/api/ (``make docs``)."""

import pkgutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OUTPUT = REPOSITORY / 'docs' / 'api'


def modules():
    """Every public module of the package; the commands document themselves by --help."""
    import igcnet
    names = [found.name for found in pkgutil.walk_packages(igcnet.__path__, 'igcnet.')]
    return ['igcnet'] + [name for name in names if not name.startswith('igcnet.cli')
                         and not any(part.startswith('_') for part in name.split('.'))]


def main() -> int:
    import pdoc
    pdoc.render.configure(docformat='numpy', show_source=False)
    pdoc.pdoc(*modules(), output_directory=OUTPUT)
    print('wrote %s' % (OUTPUT / 'index.html').relative_to(REPOSITORY))
    return 0


if __name__ == '__main__':
    sys.path[0] = str(REPOSITORY)
    sys.exit(main())
