"""The inference engine: every kind of step as numpy computes it, whatever the shape."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import program_numpy
import pytest
from random_programs import Drawing

from igcnet.deploy.engine import Engine
from igcnet.deploy.program import (
    NOTHING,
    SIGMOID,
    Convolution,
    Dense,
    Enter,
    Group,
    Largest,
    Mean,
    Program,
    Size,
    Split,
)
from igcnet.errors import IgcnetError, UsageError
from igcnet.native import library

needs_engine = pytest.mark.skipif(library.engine_missing() is not None,
                                  reason=str(library.engine_missing()))

# height, width, gaps and strides of the sizes
SHAPES = [(9, 7, (1,), (1,)), (8, 8, (0, 1), (1, 2)), (33, 17, (2, 1, 1), (1, 2, 3)),
          (13, 40, (3, 0), (2, 4)), (5, 5, (1, 0), (2, 3)), (1, 1, (0,), (1,)),
          (14, 14, (1, 1), (1, 2)), (20, 66, (1,), (1,)), (67, 131, (1,), (4,))]


def images_for(program, count, seed=0):
    return np.random.RandomState(seed).normal(
        size=(count, *program.image_shape)).astype(np.float32)


def ints(*values):
    return np.array(values, np.int32)


SMALL = Size(6, 5, 1, 8)


def plain(size=SMALL, steps=(), slots=(0,), classes=2, image=(3, 6, 5)):
    """A program that reads the image into slots 0 to 2 and ends in one dense layer."""
    weight = np.ones((classes, len(slots)), np.float32)
    return Program(image, classes, [size], [
        Enter(0, 1, ints(*[(c, 0, 0, c) for c in range(3)])), *steps, Mean(0, ints(*slots)),
        Dense(weight, np.zeros(classes, np.float32))])


def group(sources, outs, adds=None, factors=None, weight=1.0):
    nothing = np.full(len(outs), NOTHING, np.int32)
    return Group(ints(*sources), np.full((len(outs), len(sources)), weight, np.float32),
                 np.zeros(len(outs), np.float32), ints(*outs),
                 nothing if adds is None else ints(*adds),
                 nothing if factors is None else ints(*factors))


@needs_engine
@pytest.mark.parametrize('vectors', ['avx512', 'avx2', 'baseline'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_random_programs(shape, vectors, monkeypatch):
    monkeypatch.setenv('IGCNET_NATIVE', vectors)
    for seed in range(4):
        program = Drawing(seed, *shape).program(hidden=33 * (seed % 2))
        images = images_for(program, 1 + seed)
        expected = program_numpy.run(program, images)
        engine = Engine(program, threads=1 + seed % 2)
        found = engine.run(images)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.isfinite(expected).all()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        if engine.kernels() != vectors:
            pytest.skip('this processor has no %s' % vectors)


@needs_engine
@pytest.mark.parametrize('shape', SHAPES[:5], ids=str)
def test_bits_depend_neither_on_threads_nor_on_the_batch(shape):
    program = Drawing(7, *shape).program()
    images = images_for(program, 5)
    expected = Engine(program, threads=1).run(images)
    for threads in (1, 2, 3):
        engine = Engine(program, threads)
        for count in (1, 2, 5, 3):
            np.testing.assert_array_equal(engine.run(images[:count]), expected[:count])


@needs_engine
def test_every_number_of_outputs_and_sources():
    """Tiles of all heights, whole and as the rest of a group."""
    random = np.random.RandomState(0)
    for outs in [*range(1, 14), 25]:
        sources = ints(*[(c, y, x) for c in range(3) for y in (-1, 0, 1) for x in (-1, 0, 1)])
        some = sources[random.permutation(len(sources))[:1 + outs % len(sources)]]
        given = dataclasses.replace(
            group(some, range(3, 3 + outs)),
            weight=random.normal(size=(outs, len(some))).astype(np.float32))
        program = plain(Size(9, 21, 1, 3 + outs), [Convolution(0, [given])],
                        slots=range(3, 3 + outs), image=(3, 9, 21))
        images = images_for(program, 2)
        expected = program_numpy.run(program, images)
        found = Engine(program, 1).run(images)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@needs_engine
def test_sigmoid_is_as_exact_as_its_numbers():
    x = np.concatenate([np.linspace(-100, 100, 2001), [-1e30, -1e-30, 1e-30, 1e30]])
    program = plain(Size(1, 1, 0, 4), [Convolution(0, [group([(0, 0, 0)], [3])], SIGMOID)],
                    slots=(3,), classes=1, image=(3, 1, 1))
    images = np.zeros((len(x), 3, 1, 1), np.float32)
    images[:, 0, 0, 0] = x
    with np.errstate(over='ignore'):
        expected = 1 / (1 + np.exp(-images[:, 0, 0, 0].astype(float)))
    assert np.abs(Engine(program, 1).run(images)[:, 0] - expected).max() < 1e-6


@needs_engine
@pytest.mark.parametrize('activation', [{}, {'low': 0.0}, {'activation': SIGMOID}], ids=str)
def test_what_is_no_number_is_not_hidden(activation):
    program = plain(steps=[Convolution(0, [group([(0, 0, 0)], [3])], **activation)], slots=(3,))
    images = images_for(program, 1)
    images[0, 0, 2, 3] = np.nan
    assert np.isnan(Engine(program, 1).run(images)).all()


@needs_engine
def test_profile_has_each_step():
    program = Drawing(1, 14, 14, (1,), (1,)).program()
    for threads in (1, 2):
        seconds = Engine(program, threads).profile(images_for(program, 3), repeats=3)
        assert len(seconds) == len(program.steps)
        assert all(0 <= each < 60 for each in seconds) and sum(seconds) > 0


@needs_engine
def test_calls_from_several_threads_take_turns():
    program = Drawing(2, 14, 14, (1,), (1,)).program()
    engine, images = Engine(program, 2), images_for(program, 8)
    expected, wrong = engine.run(images), []

    def call(place):
        for _ in range(20):
            if not np.array_equal(engine.run(images[place:place + 2]), expected[place:place + 2]):
                wrong.append(place)
    callers = [threading.Thread(target=call, args=(place,)) for place in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@needs_engine
def test_a_forked_process_computes_too():
    script = '''
import os, numpy as np
from test_engine import Drawing, Engine, images_for
program = Drawing(2, 14, 14, (1,), (1,)).program()
engine, images = Engine(program, 2), images_for(program, 3)
expected = engine.run(images)
child = os.fork()
if not child:
    same = np.array_equal(engine.run(images), expected)
    del engine
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(engine.run(images), expected)
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', script], check=True, timeout=120,
                   cwd=str(library.PACKAGE.parent.parent / 'tests'))


@needs_engine
def test_it_needs_no_mxnet():
    script = ('import sys; from igcnet.native.library import load_engine; load_engine(); '
              'sys.exit("mxnet" in sys.modules)')
    subprocess.run([sys.executable, '-c', script], check=True, timeout=60)


def test_without_the_library_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(library, 'PACKAGE', tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    library.load_engine.cache_clear()
    try:
        with pytest.raises(IgcnetError, match='the inference engine is not built: python -m'):
            Engine(plain())
    finally:
        library.load_engine.cache_clear()


@needs_engine
def test_images_of_another_form_are_refused():
    engine = Engine(plain(), 1)
    right = images_for(engine.program, 2)
    for wrong in (right[:0], right[0], right[:, :2], right.astype(float), right.tolist()):
        with pytest.raises(UsageError, match='float32'):
            engine.run(wrong)
    np.testing.assert_array_equal(engine.run(right[:, :, :, ::-1][:, :, :, ::-1]),
                                  engine.run(right))
    for threads in (0, 65):
        with pytest.raises(UsageError, match='threads'):
            Engine(plain(), threads)


def convolution(*groups, **settings):
    return plain(steps=[Convolution(0, list(groups), **settings)])


WRONG = {
    'slot 8 is not below 8': convolution(group([(0, 0, 0)], [8])),
    'slot -2 is not below': convolution(group([(0, 0, 0)], [3], adds=[-2])),
    'slot 9 is not below': convolution(group([(9, 0, 0)], [3])),
    'an offset leaves the gap of 1': convolution(group([(0, 0, 2)], [3])),
    'slot 5 of size 0 is read before': convolution(group([(5, 0, 0)], [3])),
    'slot 3 is written twice': convolution(group([(0, 0, 0)], [3]), group([(1, 0, 0)], [3])),
    'group 1 reads what another': convolution(group([(0, 0, 0)], [1]), group([(1, 0, 0)], [3])),
    'group 0 reads what it writes': convolution(group([(0, 0, 1)], [0])),
    'group 0 adds, or multiplies': convolution(group([(0, 0, 0)], [1, 3], factors=[2, 1])),
    'no groups': convolution(),
    'activation': convolution(group([(0, 0, 0)], [3]), activation='tanh'),
    'values between 1': convolution(group([(0, 0, 0)], [3]), low=1.0, high=0.0),
    'weight is float64': convolution(dataclasses.replace(
        group([(0, 0, 0)], [3]), weight=np.ones((1, 1)))),
    'weight is float32 (1, 1), not a float32 array of shape (1, 2)': convolution(
        dataclasses.replace(group([(0, 0, 0), (1, 0, 0)], [3]),
                            weight=np.ones((1, 1), np.float32))),
    'size 1 is not between': plain(steps=[Convolution(1, [group([(0, 0, 0)], [3])])]),
    'channel 3 is not below 3': plain(steps=[Enter(0, 1, ints((3, 0, 0, 3)))]),
    'first row -1 is not below': plain(steps=[Enter(0, 1, ints((0, -1, 0, 3)))]),
    'stride 0 is not between': plain(steps=[Enter(0, 0, ints((0, 0, 0, 3)))]),
    'planes of the same size': plain(steps=[Split(0, 0, 1, ints((0, 0, 0, 3)))]),
    'writes a slot that it reads': plain(steps=[Largest(0, ints([(0, 0, 0)]), ints(0))]),
    'no step of a program': plain(steps=['relu']),
    'only Dense follows': plain(steps=[Mean(0, ints(0))]),
    'there is no vector': plain(steps=[Dense(np.ones((2, 2), np.float32), np.ones(2))]),
    'gap 7 is not between': plain(Size(6, 5, 7, 8)),
    'height 0 is not between': plain(Size(0, 5, 0, 8)),
    '2 logits for 3 classes': dataclasses.replace(plain(), classes=3),
    'no Dense': dataclasses.replace(plain(), steps=plain().steps[:-1]),
}


@pytest.mark.parametrize('problem', WRONG)
def test_a_program_that_leaves_its_planes_is_refused(problem):
    with pytest.raises(IgcnetError) as caught:
        Engine(WRONG[problem], 1)
    assert problem in str(caught.value) and '\n' not in str(caught.value)


@needs_engine
def test_too_much_memory_is_an_error():
    with pytest.raises(IgcnetError, match='not enough memory'):
        Engine(plain(Size(1 << 16, 1 << 16, 0, 8)), 1)
