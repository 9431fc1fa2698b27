"""What a worker of a job knows of it without MXNet."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Callable, List

# The worker's number, as the launcher counts; the store's own depends on who came first.
RANK_VARIABLE = 'IGCNET_RANK'
# The connections of this process. One that is forgotten waits for the other workers first, so they
# are kept until the process ends well.
KEPT: List[Any] = []


def in_a_job() -> bool:
    """Whether this process is a worker of a distributed job."""
    return os.environ.get('DMLC_ROLE') == 'worker'


def as_worker(command: Callable[[], int]) -> int:
    """What `command` returns; a worker whose command fails ends there and then.

    An ordinary exit would wait for the other workers, who wait for this one.
    """
    if not in_a_job():
        return command()
    try:
        code = command()
    except Exception:
        traceback.print_exc()
        code = 1
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    KEPT.clear()
    return code
