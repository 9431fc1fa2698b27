"""Freed memory stays with the process: the next image of the same size costs no page faults."""

import os
import subprocess
import sys

import pytest

from igcnet.data.memory import keep_freed_memory

# Two blocks at a time, so that what is freed is not only at the end of the heap.
CODE = """
import resource, sys
import numpy as np
from igcnet.data.memory import keep_freed_memory
kept = keep_freed_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        first, second = (np.ones(800000, np.uint8) for _ in range(2))
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(kept, faults(100))
"""


def in_a_process(**settings):
    done = subprocess.run([sys.executable, '-c', CODE], env={**os.environ, **settings},
                          capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == 'True', int(faults)


@pytest.mark.skipif(not sys.platform.startswith('linux') or not keep_freed_memory(),
                    reason='the C library of this system is not glibc, or is set otherwise')
def test_pages_are_kept_unless_the_environment_says_otherwise():
    assert in_a_process() == (True, pytest.approx(0, abs=200))
    kept, faults = in_a_process(MALLOC_TRIM_THRESHOLD_='131072')
    assert not kept and faults > 2000
