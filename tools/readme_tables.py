"""Rewrite the generated table of networks in README.md (``make tables``)."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def rewrite(argv=None) -> int:
    """Bring the table in step with the registry, and say whether that changed anything."""
    from igcnet.deploy.released import summaries
    from igcnet.profiling.table import update_file
    from igcnet.registry import list_models

    changed = update_file(REPOSITORY / 'README.md', list_models(), summaries())
    print('README.md: %s' % ('table rewritten' if changed else 'in step already'))
    return 0


if __name__ == '__main__':
    # The repository instead of this folder, whose profile.py would hide the standard library's.
    sys.path[0] = str(REPOSITORY)
    from igcnet.cli.common import run
    sys.exit(run(rewrite))
