"""Decoding: right pixels for every form, one clear line for every fault."""

import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest
from pictures import file_bytes, picture

from igcnet.data.images import (
    MAX_PIXELS,
    center_crop_square,
    check_image,
    decode_bgr,
    decode_image,
    encode_image,
    image_format,
    resize_short_side,
)
from igcnet.errors import DataError


@pytest.mark.parametrize('kind, options, error', [
    ('PNG', {}, 0), ('BMP', {}, 0), ('TIFF', {}, 0), ('PPM', {}, 0),
    ('JPEG', {'quality': 95}, 4), ('JPEG', {'progressive': True, 'quality': 95}, 4),
    ('JPEG', {'quality': 95, 'mode': 'CMYK'}, 4), ('WEBP', {'quality': 95}, 6),
    ('PNG', {'mode': 'RGBA'}, 0), ('PNG', {'mode': 'P'}, 20), ('BMP', {'mode': 'P'}, 20),
])
def test_decodes_to_rgb(kind, options, error):
    image = picture()
    data = file_bytes(image, kind, **options)
    decoded = decode_image(data, 'x')
    assert decoded.shape == (48, 64, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).mean() <= error
    # Reading and packing have OpenCV write either order; the values are the same.
    assert np.array_equal(decoded, decode_bgr(data, 'x')[..., ::-1])


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP'])
def test_tiny_images(kind):
    for height, width in ((1, 1), (1, 9), (7, 3), (2, 2000)):
        data = file_bytes(picture(height, width), kind)
        assert check_image(data, 'x') == image_format(data)
        assert decode_image(data, 'x').shape == (height, width, 3)


def test_turned_upright_as_exif_says():
    image = picture()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    data = file_bytes(image, 'JPEG', quality=95, exif=exif)
    decoded = decode_image(data, 'x').astype(int)
    assert np.abs(decoded - np.rot90(image, -1)).mean() < 4
    assert decode_image(data, 'x', -1).shape == image.shape


def test_color_modes():
    image = picture()
    grey = PIL.Image.fromarray(image).convert('L')
    data = file_bytes(np.asarray(grey), 'PNG')
    assert decode_image(data, 'x').shape == (48, 64, 3)
    assert np.array_equal(decode_image(data, 'x', 0), np.asarray(grey))
    assert np.array_equal(decode_image(data, 'x', -1), np.asarray(grey))
    alpha = np.dstack([image, np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)])
    assert np.array_equal(decode_image(file_bytes(alpha, 'PNG'), 'x', -1), alpha)


def test_sixteen_bits_become_eight():
    deep = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    data = cv2.imencode('.png', deep)[1].tobytes()
    assert np.array_equal(decode_image(data, 'x', -1), (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize('data, message', [
    (b'', r'a\.jpg: the file is empty'),
    (b'<html>not found', r"a\.jpg: not an image in a known format \(it starts with b'<html>"),
    (b'\xff\xd8\xff', 'a.jpg: truncated JPEG'),
    (b'\xff\xd8\xff\xe0\0\x10JFIF', 'a.jpg: truncated JPEG'),
    (b'\xff\xd8\xff\xda\0\x08' + b'\0' * 20, 'JPEG file without a frame header'),
    (b'\x89PNG\r\n\x1a\n', 'truncated PNG'),
    (b'BM' + b'\0' * 50, 'a.jpg'),
    (b'GIF89a' + b'\0' * 50, 'a.jpg'),
    (b'II*\0' + b'\xff' * 50, 'a.jpg'),
])
def test_broken_images(data, message):
    with pytest.raises(DataError, match=message) as caught:
        decode_image(data, 'a.jpg')
    assert '\n' not in str(caught.value)


def test_gif_is_named():
    with pytest.raises(DataError, match='a GIF, which is not decoded; convert it'):
        decode_image(file_bytes(picture(), 'GIF'), 'x')


@pytest.mark.parametrize('kind, options', [
    ('JPEG', {}), ('JPEG', {'progressive': True}), ('PNG', {}), ('BMP', {}), ('TIFF', {}),
    ('WEBP', {})])
def test_every_truncation_is_found(kind, options):
    data = file_bytes(picture(), kind, **options)
    check_image(data, 'x')
    for size in range(0, len(data) - 1, max(1, len(data) // 40)):
        with pytest.raises(DataError, match='^x: '):
            decode_image(data[:size], 'x')
        with pytest.raises(DataError, match='^x: '):
            check_image(data[:size], 'x')


def test_end_marker_of_a_thumbnail_is_not_the_end():
    thumbnail = file_bytes(picture(8, 8), 'JPEG')
    body = file_bytes(picture(), 'JPEG')
    data = body[:2] + b'\xff\xe1' + struct.pack('>H', len(thumbnail) + 2) + thumbnail + body[2:]
    assert decode_image(data, 'x').shape == (48, 64, 3)
    assert decode_image(data + b'trailing', 'x').shape == (48, 64, 3)
    with pytest.raises(DataError, match='truncated JPEG'):
        decode_image(data[:len(thumbnail) + 400], 'x')


def test_png_checksum():
    data = bytearray(file_bytes(picture(), 'PNG'))
    data[len(data) // 2] ^= 4
    with pytest.raises(DataError, match="chunk 'IDAT' has a wrong checksum"):
        decode_image(bytes(data), 'x')


def test_announced_size_is_not_allocated():
    """A hundred bytes that announce a hundred thousand pixels a side."""
    side = 100000
    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    png = b'\x89PNG\r\n\x1a\n'
    for kind, body in ((b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')):
        png += struct.pack('>I', len(body)) + kind + body
        png += struct.pack('>I', zlib.crc32(kind + body))
    jpeg = bytearray(file_bytes(picture(), 'JPEG'))
    at = jpeg.index(b'\xff\xc0') + 5
    jpeg[at:at + 4] = struct.pack('>HH', 65000, 65000)
    bmp = bytearray(file_bytes(picture(), 'BMP'))
    bmp[18:26] = struct.pack('<ii', side, side)
    for data in (png, bytes(jpeg), bytes(bmp)):
        with pytest.raises(DataError, match='at most %d pixels|cannot be read' % MAX_PIXELS):
            decode_image(data, 'x')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP'])
def test_mutations_decode_or_are_refused(kind):
    random = np.random.RandomState(3)
    data = file_bytes(picture(), kind)
    refused = 0
    for trial in range(200):
        mutant = bytearray(data)
        limit = len(mutant) if trial % 2 else min(len(mutant), 400)
        for _ in range(random.randint(1, 6)):
            mutant[random.randint(limit)] = random.randint(256)
        try:
            image = decode_image(bytes(mutant), 'x')
            assert image.ndim == 3 and image.shape[2] == 3
        except DataError as problem:
            assert str(problem).startswith('x: ') and '\n' not in str(problem)
            refused += 1
    assert refused > 5


def test_encode():
    image = picture()
    assert np.array_equal(decode_image(encode_image(image, '.png'), 'x'), image)
    good, bad = encode_image(image, '.jpg', 95), encode_image(image, '.jpg', 10)
    assert image_format(good) == 'JPEG' and len(bad) < len(good)
    assert encode_image(image) == good
    assert np.abs(decode_image(good, 'x').astype(int) - image).mean() < 4


def test_center_crop():
    image = picture(10, 17)
    assert np.array_equal(center_crop_square(image), image[:, 3:13])
    assert np.array_equal(center_crop_square(image.transpose(1, 0, 2)),
                          image.transpose(1, 0, 2)[3:13])


def test_resize_short_side():
    image = picture(30, 47)
    assert resize_short_side(image, 20).shape == (20, 31, 3)
    assert resize_short_side(image.transpose(1, 0, 2).copy(), 20).shape == (31, 20, 3)
    assert np.array_equal(resize_short_side(image, 30), image)
    assert np.array_equal(resize_short_side(image, 20), cv2.resize(image, (31, 20)))
    assert np.array_equal(resize_short_side(image, 20, 'cubic'),
                          cv2.resize(image, (31, 20), interpolation=cv2.INTER_CUBIC))
