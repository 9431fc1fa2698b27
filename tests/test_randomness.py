"""Counter-based random numbers: known values, statistics, independence of the call's shape."""

import numpy as np
import pytest

from igcnet.data.randomness import ORDER, permutation, random_bits, uniforms
from igcnet.errors import UsageError

MASK = (1 << 64) - 1


class SplitMix64:
    """The published generator, in plain integers."""

    def __init__(self, state):
        self.state = state

    def next(self):
        self.state = self.state + 0x9E3779B97F4A7C15 & MASK
        z = self.state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31


def plain_bits(stream, seed, epoch, number, draws):
    state = 0
    for word in (stream, seed, epoch, number):
        state = SplitMix64(state ^ word).next()
    generator = SplitMix64(state)
    return [generator.next() for _ in range(draws)]


def test_the_reference_generator_gives_the_published_sequence():
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(5)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
        4593380528125082431, 16408922859458223821]


@pytest.mark.parametrize('seed, epoch, number', [(0, 0, 0), (7, 3, 49999), (MASK, 399, 1281166)])
def test_bits_are_splitmix64_started_at_the_mixed_key(seed, epoch, number):
    expected = plain_bits(ORDER, seed, epoch, number, 6)
    assert random_bits(ORDER, seed, epoch, [number], 6).tolist() == [expected]


def test_values_that_must_never_change():
    expected = [b / 2.0 ** 64 for b in plain_bits(1, 42, 5, 1000, 3)]
    assert np.allclose(uniforms(42, 5, [1000], 3), [expected], rtol=0, atol=1e-15)
    assert uniforms(42, 5, [1000], 1)[0, 0] == 0.6057274024590377
    assert permutation(1, 0, 10).tolist() == [6, 5, 0, 1, 9, 8, 4, 7, 3, 2]


def test_a_record_has_the_same_numbers_in_any_company():
    together = uniforms(3, 1, np.arange(100), 8)
    assert np.array_equal(uniforms(3, 1, [17, 99, 4], 8), together[[17, 99, 4]])
    assert np.array_equal(uniforms(3, 1, np.arange(100), 2), together[:, :2])
    assert uniforms(3, 1, [], 8).shape == (0, 8)
    assert uniforms(3, 1, np.arange(5), 0).shape == (5, 0)


def test_uniform_mean_variance_and_range():
    values = uniforms(9, 2, np.arange(50000), 8)
    assert values.min() >= 0 and values.max() < 1
    # Standard errors for 50,000 values: 0.0013 and 0.00033.
    assert np.abs(values.mean(0) - 0.5).max() < 0.006
    assert np.abs(values.var(0) - 1 / 12).max() < 0.0015
    counts = np.histogram(values, 100, (0, 1))[0]
    expected = values.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi-square, 99 degrees


def test_no_correlation_between_draws_epochs_seeds_and_neighbours():
    numbers = np.arange(20000)
    base = uniforms(5, 10, numbers, 4)
    others = [base[:, 1], base[:, 3], uniforms(5, 11, numbers, 1)[:, 0],
              uniforms(6, 10, numbers, 1)[:, 0], np.roll(base[:, 0], 1), np.roll(base[:, 0], 10),
              uniforms(5, 10, numbers, 1, stream=ORDER)[:, 0],
              # The mixed key must not treat (seed, epoch) and (epoch, seed) alike.
              uniforms(10, 5, numbers, 1)[:, 0]]
    for other in others:
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 5 / np.sqrt(len(numbers))


@pytest.mark.parametrize('count', [0, 1, 2, 1000])
def test_permutation_is_complete_and_new_in_each_epoch(count):
    orders = [permutation(4, epoch, count) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(count))
    if count == 1000:
        for one, other in [(0, 1), (1, 2), (0, 2)]:
            assert (orders[one] == orders[other]).sum() < 10
            assert abs(np.corrcoef(orders[one], orders[other])[0, 1]) < 0.15
        assert np.array_equal(permutation(4, 1, count), orders[1])


def test_first_places_are_even_over_seeds():
    first = np.bincount([permutation(seed, 0, 8)[0] for seed in range(4000)], minlength=8)
    assert ((first - 500) ** 2 / 500).sum() < 24.3  # chi-square, 7 degrees, 0.1 %


@pytest.mark.parametrize('seed', [-1, 1 << 64, 0.5, None])
def test_seed_is_checked(seed):
    with pytest.raises(UsageError, match='seed='):
        uniforms(seed, 0, [0], 1)
