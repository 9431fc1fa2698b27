"""Random numbers that depend only on (seed, epoch, record): counter-based, without any state.

The augmentation of a record is therefore the same in any batch, order, thread or worker, and a
run can start again at any step. The generator is splitmix64 (Steele, Lea, Flood: Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014): a counter that grows by a constant,
passed through a mixing function. Each record has its own starting state, mixed from the stream,
seed, epoch and record number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Sequence

import numpy as np

from igcnet.errors import UsageError

# Numbers for different purposes come from different streams, so that they are independent.
AUGMENTATION, ORDER = 1, 2

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def check_seed(seed: int) -> int:
    """`seed` itself; UsageError if it is not a whole number of 64 bits."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise UsageError('seed=%r: must be a whole number from 0 to 2**64 - 1' % (seed,))
    return int(seed)


def random_bits(stream: int, seed: int, epoch: int, numbers: Sequence[int],
                draws: int) -> np.ndarray:
    """`draws` random words for each record number.

    Parameters
    ----------
    stream : int
        `AUGMENTATION`, `ORDER` or the caller's own small number.
    seed, epoch : int
        Not negative.
    numbers : sequence of int
        Record numbers, shape (n,).
    draws : int
        Words for each record.

    Returns
    -------
    numpy.ndarray
        uint64, shape (n, draws). Row i is the beginning of a splitmix64 sequence.
    """
    state = _absorb(_state(stream, check_seed(seed), epoch), numbers)
    counter = np.arange(1, draws + 1, dtype=np.uint64) * _INCREMENT
    return _mix(state[:, None] + counter)


def uniforms(seed: int, epoch: int, numbers: Sequence[int], draws: int,
             stream: int = AUGMENTATION) -> np.ndarray:
    """As `random_bits`, numbers in [0, 1): float64, shape (n, draws)."""
    # The upper 53 bits are what a float64 holds exactly.
    bits = random_bits(stream, seed, epoch, numbers, draws) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0 ** -53


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` records in one epoch: int64, every number below `count` once."""
    keys = random_bits(ORDER, seed, epoch, np.arange(count), 1)[:, 0]
    return np.argsort(keys, kind='stable')


@lru_cache(maxsize=64)
def _state(stream: int, seed: int, epoch: int) -> np.ndarray:
    """What all records of an epoch have in common; every batch asks for it."""
    state = np.zeros(1, np.uint64)
    for word in (stream, seed, epoch):
        state = _absorb(state, word)
    return state


def _absorb(state: np.ndarray, word) -> np.ndarray:
    return _mix((state ^ np.asarray(word, np.uint64)) + _INCREMENT)


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * _FACTORS[0]
    words = (words ^ (words >> np.uint64(27))) * _FACTORS[1]
    return words ^ (words >> np.uint64(31))
