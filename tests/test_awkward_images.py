"""Every awkward kind of image file is packed rightly, or skipped with a reason."""

import io
import struct
import subprocess
import time

import cv2
import numpy as np
import PIL.Image
import pytest
from conftest import IGCNET
from pictures import file_bytes, make_tree, picture

from igcnet.cli.im2rec_pack import main
from igcnet.data.images import decode_image
from igcnet.data.records import RecordFile
from igcnet.data.writing import record_writer

COLOUR = picture(40, 60, 3)
ALPHA = np.dstack([COLOUR, np.full((40, 60), 7, np.uint8)])
OTHER = PIL.Image.fromarray(picture(40, 60, 4))
GREY_16 = (np.arange(40 * 60, dtype=np.uint16) * 27).reshape(40, 60)
TURNED = np.ascontiguousarray(COLOUR.transpose(1, 0, 2)[:, ::-1])  # by a quarter, clockwise


def exif(orientation):
    """The EXIF block of a camera that was held so."""
    return b'Exif\0\0II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, orientation, 0, 0)


def png_16():
    return cv2.imencode('.png', GREY_16)[1].tobytes()


PACKED = {
    'cmyk.jpg': (lambda: file_bytes(COLOUR, mode='CMYK', quality=95), COLOUR),
    'alpha.png': (lambda: file_bytes(ALPHA, 'PNG'), COLOUR),
    '16bit.png': (png_16, np.repeat((GREY_16 >> 8).astype(np.uint8)[..., None], 3, 2)),
    'rotated.jpg': (lambda: file_bytes(COLOUR, quality=95, exif=exif(6)), TURNED),
    'grey.jpg': (lambda: file_bytes(COLOUR[..., 0], quality=95),
                 np.repeat(COLOUR[..., :1], 3, 2)),
    'palette.png': (lambda: file_bytes(COLOUR // 64 * 64, 'PNG', mode='P'), None),
    'png_called.jpg': (lambda: file_bytes(COLOUR, 'PNG'), COLOUR),
    'jpeg_called.png': (lambda: file_bytes(COLOUR, quality=95), COLOUR),
    'UPPER.JPG': (lambda: file_bytes(COLOUR, quality=95), COLOUR),
    # The first picture of an animation, which is what every reader without animations shows.
    'animated.png': (lambda: file_bytes(COLOUR, 'PNG', save_all=True, append_images=[OTHER]),
                     COLOUR),
    'tail.jpg': (lambda: file_bytes(COLOUR, quality=95) + b'\0' * 100, COLOUR),
}
SKIPPED = {
    'empty.jpg': (lambda: b'', 'the file is empty (0 bytes)'),
    'text.jpg': (lambda: b'<html>404</html>', 'not an image in a known format'),
    'cut.jpg': (lambda: file_bytes(COLOUR)[:900], 'truncated JPEG file'),
    'cut.png': (lambda: file_bytes(COLOUR, 'PNG')[:900], 'truncated PNG file'),
    'hole.jpg': (lambda: file_bytes(COLOUR)[:900] + b'\xff\xd9', 'premature end'),
    'animated.jpg': (lambda: file_bytes(COLOUR, 'GIF', save_all=True, append_images=[OTHER]),
                     'a GIF, which is not decoded; convert it to PNG'),
    'bomb.png': (lambda: file_bytes(COLOUR, 'PNG')[:16] + struct.pack('>II', 60000, 60000)
                 + file_bytes(COLOUR, 'PNG')[24:], 'checksum: damaged'),
    'link.jpg': (None, 'cannot be read (No such file or directory)'),
    'loop.jpg': (None, 'cannot be read (Too many levels of symbolic links)'),
}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp('awkward') / 'images', ['b'], 1)
    (root / 'a').mkdir()
    for name, (content, _) in [*PACKED.items(), *SKIPPED.items()]:
        if content:
            (root / 'a' / name).write_bytes(content())
    (root / 'a' / 'link.jpg').symlink_to('nowhere')
    (root / 'a' / 'loop.jpg').symlink_to('loop.jpg')
    return root


@pytest.fixture(scope='module', params=['pass-through', 'encoded'])
def packed(request, tree, tmp_path_factory):
    """Images by name and reasons by name, as packing leaves them."""
    prefix = tmp_path_factory.mktemp('out') / 'x'
    how = ['--pass-through'] if request.param == 'pass-through' else ['--encoding', '.png']
    assert main([str(prefix), str(tree), '--max-bad', str(len(SKIPPED)), *how]) == 0
    records = RecordFile(prefix)
    names = records.source_names()
    images = {names[int(key)]: records.read(place).image
              for place, key in enumerate(records.keys)}
    report = (prefix.parent / 'x-skipped.txt').read_text().splitlines()
    return images, dict(line.split('\t') for line in report)


@pytest.mark.parametrize('name', sorted(PACKED))
def test_packed(packed, name):
    image = decode_image(packed[0]['a/' + name], name)
    expected = PACKED[name][1]
    if expected is None:
        expected = np.asarray(PIL.Image.open(io.BytesIO(PACKED[name][0]())).convert('RGB'))
    assert image.shape == expected.shape
    # JPEG and the way to CMYK and back lose a little.
    assert np.abs(image.astype(int) - expected).mean() < 6


@pytest.mark.parametrize('name', sorted(SKIPPED))
def test_skipped_with_a_reason(packed, name):
    assert 'a/' + name not in packed[0]
    assert SKIPPED[name][1] in packed[1]['a/' + name]


def test_nothing_else_is_skipped(packed):
    assert len(packed[1]) == len(SKIPPED) and len(packed[0]) == len(PACKED) + 1


def test_unlabelled_images_beside_class_folders(tmp_path, capsys):
    root = make_tree(tmp_path / 'images', ['a', 'b'], 1)
    (root / 'stray.jpg').write_bytes(file_bytes(COLOUR))
    assert main([str(tmp_path / 'x'), str(root)]) == 1
    assert '1 images lie beside the class folders (such as stray.jpg)' in capsys.readouterr().err


def test_a_killed_pack_is_cleaned_up_and_restarts(tmp_path):
    root = make_tree(tmp_path / 'images', ['cat', 'dog'], 200)
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [*IGCNET, 'im2rec_pack', str(out / 'x'), str(root), '--resize', '1500',
         '--num-thread', '1'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out.is_dir() and len(list(out.iterdir())) == 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    left = sorted(out.iterdir())
    assert [path.name.rsplit('.', 1)[0] for path in left] == ['.x-manifest.json', '.x.idx',
                                                             '.x.lst', '.x.rec']
    foreign = [out / '.x.rec.mine', out / '.y.rec.abcdefgh', out / 'x.rec.abcdefgh']
    for path in foreign:
        path.write_bytes(b'')
    assert main([str(out / 'x'), str(root), '--num-thread', '1']) == 0
    assert len(RecordFile(out / 'x')) == 400
    expected = ['x-manifest.json', 'x.idx', 'x.lst', 'x.rec']
    assert sorted(path.name for path in out.iterdir()) == sorted(
        expected + [path.name for path in foreign])


def test_a_writer_at_work_keeps_its_files(tmp_path):
    with record_writer(tmp_path / 'x') as first:
        first.finish()  # closed, but not renamed yet
        with record_writer(tmp_path / 'x'):
            assert len(list(tmp_path.iterdir())) == 8
    assert len(list(tmp_path.iterdir())) == 4
