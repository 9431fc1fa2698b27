"""Images out of records, with their bytes and classes."""

import re

import numpy as np
import pytest
from synthetic import noise, write_records

from igcnet.cli.im2rec_pack import main
from igcnet.data.extracting import extract_images
from igcnet.data.images import decode_image
from igcnet.data.records import RecordFile
from igcnet.data.sources import open_source


def test_pixels_and_classes_come_back(tmp_path):
    images, labels = noise(7), np.arange(7) % 3
    path = write_records(tmp_path / 'a', images, labels.astype(float), classes=['x', 'y', 'z'])
    files = extract_images(RecordFile(path), tmp_path / 'out')
    assert [f.parent.name for f in files] == ['xyz'[k] for k in labels]
    for file, image in zip(files, images):
        np.testing.assert_array_equal(decode_image(file.read_bytes(), str(file)), image)
    source = open_source(tmp_path / 'out')
    assert source.classes == ['x', 'y', 'z'] and sorted(source.labels) == sorted(labels)


def test_command(tmp_path, capsys):
    write_records(tmp_path / 'a', noise(5), np.zeros(5))
    assert main(['extract', str(tmp_path / 'a'), str(tmp_path / 'out'), '--first', '2']) == 0
    assert sorted(p.name for p in (tmp_path / 'out' / '0').iterdir()) == ['0.png', '1.png']
    assert 'wrote 2 images' in capsys.readouterr().out


@pytest.mark.parametrize('classes, image, label, message', [
    (['../evil'], None, 0.0, 'cannot be a folder'), (['a'], b'no image', 0.0, 'record 0'),
    (None, None, float('nan'), 'no class number')])
def test_hostile_records_are_one_line(tmp_path, capsys, classes, image, label, message):
    images = noise(1) if image is None else [image]
    write_records(tmp_path / 'a', images, [label], classes=classes)
    assert main(['extract', str(tmp_path / 'a'), str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and re.search(message, error), error
    assert not list(tmp_path.rglob('*evil*'))
