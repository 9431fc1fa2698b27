"""Comparing the speed of several ways to compute the same, fairly on a busy machine."""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Mapping

import numpy as np

from igcnet._backend import default_threads

# Between two runners the threads of one stop waiting actively for more work.
PAUSE = 0.002


def interleaved(runners: Mapping[str, Callable[[np.ndarray], object]], images: np.ndarray,
                rounds: int = 5, seconds: float = 0.05,
                clock: Callable[[], float] = time.perf_counter) -> Dict[str, List[float]]:
    """Seconds of a call of each runner; the runners take turns, after one call each to warm up.

    Parameters
    ----------
    rounds : int
        Turns of each runner.
    seconds : float
        Length of a turn, at least one call; the fastest call of a turn counts.
    clock : callable
        Gives the time in seconds.

    Returns
    -------
    dict
        One number for each turn, by the runner's name.
    """
    found: Dict[str, List[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner(images)
    for _ in range(rounds):
        for name, runner in runners.items():
            time.sleep(PAUSE)
            start, calls = time.perf_counter(), []
            while not calls or time.perf_counter() - start < seconds:
                before = clock()
                runner(images)
                calls.append(clock() - before)
            found[name].append(min(calls))
    return found


def compare(one: Callable[[np.ndarray], object], other: Callable[[np.ndarray], object],
            images: np.ndarray, rounds: int = 6) -> float:
    """Time of `one` divided by that of `other`, the fastest calls of both.

    One thread is measured in time of the processor, which other programs do not lengthen.
    """
    clock = time.process_time if default_threads() == 1 else time.perf_counter
    times = interleaved({'one': one, 'other': other}, images, rounds, 0.02, clock)
    return min(times['one']) / min(times['other'])
