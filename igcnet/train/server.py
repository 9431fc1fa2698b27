"""Entry point of the scheduler and of the servers: ``python -m igcnet.train.server``.

MXNet makes a process with such a role into one in the midst of ``import mxnet``, where an
optimiser sent by the workers finds no ``mx.nd`` and fails without anybody noticing. So the role
is taken away until MXNet and the package are there completely.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings

from igcnet.errors import UsageError

ROLES = ('scheduler', 'server')


def main() -> int:
    """Serve until the workers have left; UsageError outside a distributed job."""
    role = os.environ.pop('DMLC_ROLE', '')
    if role not in ROLES:
        raise UsageError('DMLC_ROLE=%s: must be %s; igcnet launch starts this module by itself'
                         % (role, ' or '.join(ROLES)))
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from mxnet.kvstore import kvstore_server

    import igcnet.train.distributed  # noqa: F401  what the workers send can be unpickled
    os.environ['DMLC_ROLE'] = role
    kvstore_server._init_kvstore_server_module()  # leaves by sys.exit
    return 0


if __name__ == '__main__':
    sys.exit(main())
