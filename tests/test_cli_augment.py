"""`igcnet augment`: the list of presets and the pictures."""

import re

import cv2
import numpy as np
import pytest
from synthetic import noise, smooth, write_records

from igcnet.cli import augment as cli
from igcnet.data.augment import PRESETS, find_augmentation
from igcnet.data.images import encode_image
from igcnet.data.preview import GAP, preview
from igcnet.data.randomness import uniforms


def test_list_names_every_preset_with_its_settings(capsys):
    assert cli.main(['--list', '--size', '48']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(PRESETS)
    assert 'area=(0.36, 1.0)' in next(line for line in lines if 'menet-aggressive ' in line)
    assert all('size=48' in line for line in lines)


def test_a_grid_has_the_image_and_its_augmentations():
    images = [smooth(60, 90, 1), smooth(40, 40, 2)]
    augmentation = find_augmentation('menet-aggressive', 30, (0, 0, 0))
    grid = preview(images, augmentation, times=3, seed=5)
    step = 30 + GAP
    assert grid.shape == (30 + step, 30 + 3 * step, 3)
    for number, image in enumerate(images):
        row = grid[number * step:number * step + 30]
        for epoch in range(3):
            exact = augmentation(image[None], uniforms(5, epoch, [number], 33))[0]
            left = (epoch + 1) * step
            assert np.array_equal(row[:, left:left + 30], exact.transpose(1, 2, 0))
            assert (row[:, left - GAP:left] == 255).all()
    # 90x60 in a square of 30: 20 rows, white above and below.
    assert (grid[:5, :30] == 255).all() and (grid[25:30, :30] == 255).all()
    assert np.abs(grid[5:25, :30].astype(int) - cv2.resize(
        images[0], (30, 20), interpolation=cv2.INTER_AREA)).max() == 0


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_every_preset_has_a_picture(tmp_path, name):
    image = tmp_path / 'image.png'
    image.write_bytes(encode_image(smooth(60, 90), '.png'))
    assert cli.main(['--preview', str(tmp_path / 'grid.png'), '--preset', name, '--size', '24',
                     '--times', '2', str(image)]) == 0
    assert cv2.imread(str(tmp_path / 'grid.png')).shape == (24, 3 * 24 + 2 * GAP, 3)


def test_a_picture_is_written_from_files_and_from_records(tmp_path, capsys):
    files = []
    for number in range(3):
        files.append(str(tmp_path / ('%d.png' % number)))
        (tmp_path / ('%d.png' % number)).write_bytes(encode_image(noise(3)[number], '.png'))
    assert cli.main(['--preview', str(tmp_path / 'grid.png'), '--preset', 'igc-1', *files]) == 0
    grid = cv2.imread(str(tmp_path / 'grid.png'))
    assert grid.shape == (3 * 32 + 2 * GAP, 7 * 32 + 6 * GAP, 3)
    assert np.array_equal(grid[:32, :32, ::-1], noise(3)[0])
    assert 'igc-1, 3 images, 6 times each' in capsys.readouterr().out
    records = write_records(tmp_path / 'a', noise(3), range(3))
    assert cli.main(['--preview', str(tmp_path / 'other.png'), '--preset', 'igc-1',
                     str(records)]) == 0
    assert np.array_equal(grid, cv2.imread(str(tmp_path / 'other.png')))
    assert cli.main(['--preview', str(tmp_path / 'seed.jpg'), '--preset', 'igc-1', '--first', '2',
                     '--times', '2', '--rand-seed', '1', str(records)]) == 0
    assert cv2.imread(str(tmp_path / 'seed.jpg')).shape == (2 * 32 + GAP, 3 * 32 + 2 * GAP, 3)


@pytest.mark.parametrize('options, code, message', [
    ([], 2, '--list --preview'),
    (['--list', '--preview', 'a.png'], 2, 'not allowed with'),
    (['--preview', 'a.png', 'IMAGE'], 2, '--preset NAME is missing'),
    (['--preview', 'a.png', '--preset', 'igc-1'], 2, 'no images'),
    (['--preview', 'a.png', '--preset', 'igc-9', 'IMAGE'], 2, "'igc-9': must be one of"),
    (['--preview', 'a.gif', '--preset', 'igc-1', 'IMAGE'], 2, 'must end in .png or .jpg'),
    (['--preview', 'a.png', '--preset', 'igc-1', '--size', '99', 'IMAGE'], 1, 'too few for a crop'),
    (['--preview', 'a.png', '--preset', 'igc-1', 'missing.png'], 1, 'missing.png: no such image'),
    (['--preview', 'a.png', '--preset', 'igc-1', '--fill', '1,2', 'IMAGE'], 2, 'three numbers')])
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, options, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'image.png').write_bytes(encode_image(noise(1)[0], '.png'))
    assert cli.main([word.replace('IMAGE', 'image.png') for word in options]) == code
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert re.search(message, error), error
    assert not list(tmp_path.glob('a.*'))
