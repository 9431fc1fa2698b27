"""How far an NDArray is from the original's array."""

import numpy as np


def maximum_difference(made, expected):
    made = made.asnumpy()
    assert made.shape == expected.shape
    return np.abs(made - expected).max()


def relative_difference(made, expected):
    made = made.asnumpy()
    assert made.shape == expected.shape
    return np.linalg.norm(made - expected) / np.linalg.norm(expected)
