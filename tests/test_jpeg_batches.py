"""One decode for many JPEGs decides as one decode for each."""

import os
import tempfile

import cv2
import numpy as np
import pytest
from pictures import file_bytes, picture

from igcnet.data import workers
from igcnet.data.images import check_image
from igcnet.data.jpeg_batches import sound_jpegs
from igcnet.errors import DataError


@pytest.fixture
def messages():
    """The decoders' messages, as in a worker process: in a file that replaces the error output."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        workers._messages = file
        try:
            yield workers.DecoderMessages()
        finally:
            workers._messages = None
            os.dup2(before, 2)
            os.close(before)


def is_sound_alone(data, messages):
    try:
        check_image(data, 'x')
    except DataError:
        messages.is_silent()
        return False
    return messages.is_silent()


@pytest.mark.parametrize('height, width, mode, options', [
    (32, 32, 'RGB', {}), (20, 30, 'RGB', {'subsampling': 0}), (33, 17, 'RGB', {'subsampling': 1}),
    (7, 50, 'L', {}), (32, 32, 'RGB', {'quality': 30}),
])
def test_sound_files_are_proven(messages, height, width, mode, options):
    images = [file_bytes(picture(height, width, seed), mode=mode, **options) for seed in range(40)]
    assert sound_jpegs(images, messages.is_silent) == [True] * 40


def test_what_is_not_of_one_kind_is_left_to_the_single_check(messages):
    common = [file_bytes(picture(32, 32, seed)) for seed in range(10)]
    others = [file_bytes(picture(32, 32), progressive=True), file_bytes(picture(32, 32), 'PNG'),
              file_bytes(picture(32, 32), mode='CMYK'), file_bytes(picture(48, 32)), b'',
              file_bytes(picture(32, 32), optimize=True), common[0] + b'tail']
    expected = [True] * 10 + [False] * len(others)
    assert sound_jpegs(common + others, messages.is_silent) == expected
    # The tail makes a file unusual, not wrong; alone it is decided.
    assert is_sound_alone(common[0] + b'tail', messages)


def test_damage_is_never_proven_sound(messages):
    """Two thousand damaged files, in batches with one of them and in batches of nothing else."""
    draw = np.random.RandomState(1)
    good = [file_bytes(picture(32, 32, seed)) for seed in range(20)]
    bad = []
    for number in range(2000):
        data = bytearray(good[number % 20])
        for _ in range(draw.randint(1, 4)):
            data[draw.randint(len(data))] = draw.randint(256)
        if number % 3 == 0:  # the end marker stays, data before it is missing
            at = draw.randint(len(data) - 2)
            del data[at:min(at + draw.randint(1, 60), len(data) - 2)]
        bad.append(bytes(data))
    alone = [is_sound_alone(data, messages) for data in bad]
    assert 200 < sum(alone) < 1800
    together = sound_jpegs(bad, messages.is_silent)
    assert not any(proven and not sound for proven, sound in zip(together, alone))
    # With good neighbours, a file that changes nothing for the decoder is proven, no other is.
    for number in range(0, 2000, 10):
        proven = sound_jpegs(good[:8] + [bad[number]] + good[8:], messages.is_silent)
        if proven[8]:
            assert alone[number], number


def test_pixels_of_the_joined_image_are_those_of_the_files(monkeypatch, messages):
    """The claim behind it: in the tall image each file is decoded as if it were alone."""
    images = [file_bytes(picture(32, 32, seed)) for seed in range(20)]
    decode, seen = cv2.imdecode, []
    monkeypatch.setattr(cv2, 'imdecode', lambda data, flags: seen.append(data) or decode(
        data, flags))
    assert all(sound_jpegs(images, messages.is_silent))
    monkeypatch.undo()
    whole = cv2.imdecode(seen[0], cv2.IMREAD_GRAYSCALE)
    expected = np.concatenate([cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
                               for data in images])
    assert len(seen) == 1 and np.array_equal(whole, expected)
