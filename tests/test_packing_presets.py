"""Presets: what is stored, and what the manifest says about it."""

import json

import pytest
from pictures import make_tree

from igcnet.cli.im2rec_pack import main
from igcnet.data.encoding import Encoding
from igcnet.data.images import decode_image
from igcnet.data.packing_presets import PRESETS
from igcnet.data.records import RecordFile


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_options_can_work(name):
    Encoding(**PRESETS[name].options).check()


def test_igc_imagenet(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 1)
    assert main([str(tmp_path / 'x'), str(root), '--preset', 'igc-imagenet',
                 '--num-thread', '1']) == 0
    options = json.loads((tmp_path / 'x-manifest.json').read_text())['options']
    assert (options['preset'], options['resize'], options['quality']) == ('igc-imagenet', 480, 95)
    assert 'its JPEG quality and interpolation are not known' in options['preset_note']
    assert min(decode_image(RecordFile(tmp_path / 'x').read(0).image, 'x').shape[:2]) == 480


def test_original_files_are_kept(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 1)
    assert main([str(tmp_path / 'x'), str(root), '--preset', 'menet-imagenet', '--no-shuffle',
                 '--num-thread', '1']) == 0
    assert RecordFile(tmp_path / 'x').read(0).image == (root / 'cat' / '0.jpg').read_bytes()


@pytest.mark.parametrize('arguments, message', [
    (['--preset', 'magic'], 'argument --preset: invalid choice'),
    (['--preset', 'igc-imagenet', '--resize', '256', '--quality', '80'],
     '--resize: --preset igc-imagenet sets how images are stored; leave out --resize --quality'),
    (['--preset', 'igc-imagenet', '--list'], '--preset: --list only writes lists'),
])
def test_mistakes(tmp_path, capsys, arguments, message):
    assert main([str(tmp_path / 'x'), str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
