"""The inference engine: every kind of step as numpy computes it, whatever the shape."""


import numpy as np
import program_numpy
import pytest
from random_programs import Drawing

from igcnet.deploy.engine import Engine
from igcnet.errors import IgcnetError
from igcnet.native import library


def _missing():
    try:
        library.load_engine()
    except IgcnetError as problem:
        return str(problem)
    return None


needs_engine = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))

# height, width, gaps and strides of the sizes
SHAPES = [(9, 7, (1,), (1,)), (8, 8, (0, 1), (1, 2)), (33, 17, (2, 1, 1), (1, 2, 3)),
          (13, 40, (3, 0), (2, 2)), (5, 5, (1, 0), (2, 3)), (1, 1, (0,), (1,)),
          (14, 14, (1, 1), (1, 2)), (20, 66, (1,), (1,))]


def images_for(program, count, seed=0):
    return np.random.RandomState(seed).normal(
        size=(count, *program.image_shape)).astype(np.float32)


def assert_as_numpy(program, batch=2, threads=1):
    images = images_for(program, batch)
    expected = program_numpy.run(program, images)
    found = Engine(program, threads).run(images)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    return found


@needs_engine
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('seed', range(4))
def test_random_programs(shape, seed):
    program = Drawing(seed, *shape).program(hidden=33 * (seed % 2))
    assert_as_numpy(program, batch=1 + seed % 3, threads=1 + seed % 2)
