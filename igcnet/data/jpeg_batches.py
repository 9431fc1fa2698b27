"""Checking many small JPEGs with one call of the decoder.

Setting a decoder up takes longer than decoding an image of 32x32 pixels. Files of one encoder have
equal headers (size, quantisation, Huffman tables), and a restart marker puts a decoder back into
its first state. So the coded data of many files, joined by restart markers behind one header, is
one valid JPEG, an image on top of the other, in which the decoder reads of every file the same
bits in the same state as alone. When it has nothing to say about the whole, it has nothing to say
about any part; when it has, each file is checked alone.
"""

from __future__ import annotations

import struct
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from igcnet.data.images import MAX_PIXELS

_END = b'\xff\xd9'
_RESTARTS = [bytes([0xff, 0xd0 + number]) for number in range(8)]
_MAX_HEIGHT = 65500  # libjpeg's limit
_FEWEST = 4
# Segments that stand between the start and the scan: tables, comments, application data.
_SEGMENTS = frozenset([0xdb, 0xc4, 0xfe, *range(0xe0, 0xf0)])


class _Header(NamedTuple):
    """What stands before the coded data of a baseline JPEG with one scan."""

    data: bytes
    frame_at: int    # where the frame segment starts
    scan_at: int     # where the scan segment starts
    height: int      # of the coded blocks, in pixels
    blocks: int      # number of minimum coded units of one image


def sound_jpegs(images: Sequence[bytes], is_silent: Callable[[], bool]) -> List[bool]:
    """For each image, True when it is certain to decode without fault; False when not known.

    Parameters
    ----------
    images : sequence of bytes
        Content of image files of any format.
    is_silent : function
        False when the decoder has complained since the last call.
    """
    groups: Dict[bytes, List[int]] = {}
    headers: Dict[bytes, _Header] = {}
    start, chosen = b'\0', []
    for place, image in enumerate(images):
        if not image.startswith(start):
            header = _header(image)
            if header is None:
                continue
            start = header.data
            headers[start] = header
            chosen = groups.setdefault(start, [])
        if image.endswith(_END):
            chosen.append(place)
    sound = [False] * len(images)
    for start, places in groups.items():
        header = headers[start]
        most = _MAX_HEIGHT // header.height
        for first in range(0, len(places), most):
            some = places[first:first + most]
            if len(some) >= _FEWEST and _decodes(header, [images[place] for place in some],
                                                 is_silent):
                for place in some:
                    sound[place] = True
    return sound


def _header(data: bytes) -> Optional[_Header]:
    """The header of a JPEG that can be joined with others, or None."""
    if data[:2] != b'\xff\xd8':
        return None
    at, frame_at = 2, 0
    try:
        while data[at] == 0xff and data[at + 1] in _SEGMENTS:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
        # Baseline only, and no restart interval, which would be another kind of segment.
        if data[at] != 0xff or data[at + 1] not in (0xc0, 0xc1):
            return None
        frame_at = at
        precision, height, width, components = struct.unpack_from('>BHHB', data, at + 4)
        factors = data[at + 11:at + 11 + 3 * components:3]
        at += 2 + (data[at + 2] << 8 | data[at + 3])
        while data[at] == 0xff and data[at + 1] in _SEGMENTS:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
        if data[at] != 0xff or data[at + 1] != 0xda:
            return None
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        one_scan = data[at + 4] == components and data[end - 3:end] == b'\0\x3f\0'
    except (IndexError, struct.error):
        return None
    if precision != 8 or components not in (1, 3) or not one_scan or not width or not height \
            or not all(1 <= side <= 4 for factor in factors for side in divmod(factor, 16)):
        return None
    # A single component is coded block by block, whatever its sampling factors.
    across, down = (1, 1) if components == 1 else (max(factor >> 4 for factor in factors),
                                                   max(factor & 15 for factor in factors))
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))
    if columns * rows > 0xffff or 8 * rows * down * _FEWEST > _MAX_HEIGHT \
            or width * height > MAX_PIXELS // _FEWEST:
        return None
    return _Header(data[:end], frame_at, at, 8 * rows * down, columns * rows)


def _decodes(header: _Header, images: Sequence[bytes], is_silent: Callable[[], bool]) -> bool:
    length = len(header.data)
    pieces = [header.data[:header.frame_at + 5],
              struct.pack('>H', header.height * len(images)),
              header.data[header.frame_at + 7:header.scan_at],
              struct.pack('>HHH', 0xffdd, 4, header.blocks),
              header.data[header.scan_at:]]
    for number, image in enumerate(images):
        pieces.append(image[length:-2])
        pieces.append(_RESTARTS[number % 8])
    pieces[-1] = b''
    scans = b''.join(pieces[5:])
    # In coded data a zero follows each FF; other markers would be taken for those put in.
    if scans.count(b'\xff') != scans.count(b'\xff\0') + len(images) - 1:
        return False
    is_silent()
    try:
        tall = cv2.imdecode(np.frombuffer(b''.join([*pieces[:5], scans, _END]), np.uint8),
                            cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:
        return False
    return tall is not None and is_silent()
