"""Encoded images to arrays and back: every fault is one line, no fault is a crash.

Arrays are uint8 (H, W, 3) in RGB order unless a function says otherwise. OpenCV decodes and
encodes, so that pixels equal those of MXNet's im2rec and of its readers.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from typing import Optional, Tuple

import cv2
import numpy as np

from igcnet.data.transforms import resize
from igcnet.errors import DataError

# A file of a few hundred bytes can announce an image of gigabytes; photographs stay far below.
MAX_PIXELS = 1 << 27
ENCODINGS = ('.jpg', '.png')
DEFAULT_QUALITY = {'.jpg': 95, '.png': 9}
QUALITY_RANGE = {'.jpg': (1, 100), '.png': (1, 9)}

_SIGNATURES = (
    ('JPEG', re.compile(rb'\xff\xd8\xff')),
    ('PNG', re.compile(rb'\x89PNG\r\n\x1a\n')),
    ('BMP', re.compile(rb'BM')),
    ('TIFF', re.compile(rb'II[*+]\0|MM\0[*+]')),
    ('WebP', re.compile(rb'RIFF....WEBP', re.S)),
    ('GIF', re.compile(rb'GIF8[79]a')),
    ('PNM', re.compile(rb'P[1-6]\s')),
)
_JPEG_END = b'\xff\xd9'
# A marker is FF and a byte other than 00 (an FF in the data), D0-D7 (restarts) and FF (padding).
_JPEG_MARKER = re.compile(rb'\xff+([^\x00\xd0-\xd7\xff])')
_JPEG_SIZES = frozenset(range(0xc0, 0xd0)) - {0xc4, 0xc8, 0xcc}
_PNG_CHUNK = struct.Struct('>I4s')


def decode_image(data: bytes, where: str, color: int = 1) -> np.ndarray:
    """Decode one image.

    Parameters
    ----------
    data : bytes
        Content of an image file.
    where : str, or any object with a text
        Name of the image (file, or record file and position), for the message.
    color : {1, 0, -1}
        1: RGB, (H, W, 3), transparency dropped; 0: grey, (H, W); -1: as stored, (H, W), or
        (H, W, 3) RGB or (H, W, 4) RGBA. Samples of 16 bits become 8 bits.

    Returns
    -------
    numpy.ndarray
        uint8, turned upright when EXIF says so (not with ``color=-1``).

    Raises
    ------
    DataError
        Empty, unknown format, truncated, damaged, or larger than `MAX_PIXELS`.
    """
    if color == 1:
        check_structure(data, where)
        return _decode(data, where, cv2.IMREAD_COLOR_RGB)
    return swap_red_blue(decode_bgr(data, where, color))


def decode_bgr(data: bytes, where: str, color: int = 1) -> np.ndarray:
    """As `decode_image`, in OpenCV's own channel order: BGR or BGRA."""
    check_structure(data, where)
    image = _decode(data, where, color)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError('%s: samples of type %s; store the image with 8 or 16 bits'
                        % (where, image.dtype))
    return image


def check_image(data: bytes, where: str) -> str:
    """Check that `data` decodes without keeping the pixels; return the format's name.

    Reads all compressed data, a JPEG's at an eighth of the size, which is several times faster
    than `decode_image`.
    """
    kind = check_structure(data, where)
    # OpenCV shrinks other formats after decoding, and fails when a side becomes 0.
    _decode(data, where, cv2.IMREAD_REDUCED_GRAYSCALE_8 if kind == 'JPEG' else 0)
    return kind


def _decode(data: bytes, where: str, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as problem:
        raise DataError('%s: cannot be decoded (%s)' % (where, problem.err or problem)) from None
    if image is None:
        kind = image_format(data)
        if kind == 'GIF':
            raise DataError('%s: a GIF, which is not decoded; convert it to PNG' % where)
        raise DataError('%s: damaged %s data, cannot be decoded' % (where, kind))
    return image


def image_format(data: bytes) -> Optional[str]:
    """Name of the format by its first bytes, or None."""
    for name, pattern in _SIGNATURES:
        if pattern.match(data):
            return name
    return None


def check_structure(data: bytes, where: str) -> str:
    """Check what needs no decoding: format, size in pixels, completeness; return the format.

    OpenCV decodes a JPEG that was cut off without a word in some versions, and allocates what
    the header announces, so both are looked at before.
    """
    if not data:
        raise DataError('%s: the file is empty (0 bytes)' % where)
    kind = image_format(data)
    if kind is None:
        raise DataError('%s: not an image in a known format (it starts with %r)'
                        % (where, data[:12]))
    try:
        if kind == 'JPEG':
            width, height = _jpeg_size(data)
        elif kind == 'PNG':
            width, height = _png_size(data)
        else:
            width, height = _size_by_pillow(data)
    except (IndexError, struct.error):
        raise DataError('%s: truncated %s file' % (where, kind)) from None
    except ValueError as problem:
        raise DataError('%s: %s %s' % (where, kind, problem)) from None
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError('%s: its header announces %d x %d pixels; at most %d pixels in all are '
                        'accepted' % (where, width, height, MAX_PIXELS))
    return kind


def _jpeg_size(data: bytes) -> Tuple[int, int]:
    """Width and height; IndexError when the end-of-image marker is missing."""
    at, size = 2, None
    while size is None:
        while data[at] == 0xff:
            at += 1
        marker = data[at]
        if data[at - 1] != 0xff or marker in (0xda, 0xd9):
            raise ValueError('file without a frame header: damaged')
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from('>HH', data, at + 4)
            size = width, height
        at += 1 + (data[at + 1] << 8 | data[at + 2])
    # Files that end in the marker are complete; others may have bytes behind it, and only a
    # walk over the segments tells it from an FF D9 in a segment (an embedded thumbnail has one).
    if not data.endswith(_JPEG_END):
        while True:
            found = _JPEG_MARKER.search(data, at)
            if found is None:
                raise IndexError
            at = found.end()
            if found.group(1) == b'\xd9':
                break
            at += data[at] << 8 | data[at + 1]
    return size


def _png_size(data: bytes) -> Tuple[int, int]:
    """Width and height; ValueError for a wrong checksum, struct.error when it is cut off."""
    size, at, kind = (0, 0), 8, b''
    while kind != b'IEND':
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        end = at + 8 + length
        checksum, = struct.unpack_from('>I', data, end)
        if zlib.crc32(memoryview(data)[at + 4:end]) != checksum:
            raise ValueError('chunk %r has a wrong checksum: damaged' % kind.decode('latin-1'))
        if kind == b'IHDR':
            size = struct.unpack_from('>II', data, at + 8)
        at = end + 4
    return size


def _size_by_pillow(data: bytes) -> Tuple[int, int]:
    import PIL.Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with PIL.Image.open(io.BytesIO(data)) as image:
                return image.size
    # Pillow's readers of rare formats raise many types for a damaged header.
    except Exception as problem:
        raise ValueError('header cannot be read (%s)' % type(problem).__name__) from None


def encode_image(image: np.ndarray, encoding: str = '.jpg',
                 quality: Optional[int] = None) -> bytes:
    """Encode `image`, an RGB, RGBA or grey uint8 array; the inverse of `decode_image`.

    Parameters
    ----------
    encoding : {'.jpg', '.png'}
        PNG is lossless.
    quality : int or None
        JPEG quality 1 to 100 (95), or PNG compression 1 to 9 (9).
    """
    return encode_bgr(swap_red_blue(image), encoding, quality)


def encode_bgr(image: np.ndarray, encoding: str = '.jpg', quality: Optional[int] = None) -> bytes:
    """As `encode_image`, for an array in OpenCV's order BGR or BGRA."""
    flag = cv2.IMWRITE_JPEG_QUALITY if encoding == '.jpg' else cv2.IMWRITE_PNG_COMPRESSION
    value = DEFAULT_QUALITY[encoding] if quality is None else quality
    done, data = cv2.imencode(encoding, image, [flag, value])
    if not done:
        raise DataError('an array of shape %s cannot be encoded as %s' % (image.shape, encoding))
    return data.tobytes()


def swap_red_blue(image: np.ndarray) -> np.ndarray:
    """RGB to BGR and back; grey stays."""
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)


def center_crop_square(image: np.ndarray) -> np.ndarray:
    """The largest square around the centre, as im2rec's ``--center-crop`` takes it."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top:top + side, left:left + side]


def resize_short_side(image: np.ndarray, size: int,
                      interpolation: str = 'bilinear') -> np.ndarray:
    """Scale `image` so that its shorter side becomes `size`, as im2rec's ``--resize`` does.

    The longer side is rounded down. `interpolation` is one of
    `igcnet.data.transforms.INTERPOLATIONS`; im2rec's is 'bilinear'.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    return resize(image, width * size // short, height * size // short, interpolation)
