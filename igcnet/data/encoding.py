"""How one image goes into a record: the options of im2rec, checked, and what they do."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

import cv2
import numpy as np

from igcnet.data.images import (
    DEFAULT_QUALITY,
    ENCODINGS,
    MAX_PIXELS,
    QUALITY_RANGE,
    center_crop_square,
    check_image,
    decode_bgr,
    encode_bgr,
    resize_short_side,
    swap_red_blue,
)
from igcnet.data.transforms import INTERPOLATIONS
from igcnet.data.trees import read_file
from igcnet.errors import DataError, UsageError

# What MXNet 1.9.1's reader decodes, and so what may be passed through.
READABLE_BY_MXNET = ('JPEG', 'PNG', 'BMP', 'TIFF')
MAX_SIDE = 65500  # the JPEG format's limit

# An image as the main process hands it over: path, encoded bytes, or RGB or grey array.
Source = Union[str, bytes, np.ndarray]


class Encoding(NamedTuple):
    """How images are stored in records; names and meanings are those of MXNet's im2rec.

    Attributes
    ----------
    pass_through : bool
        Keep the bytes of the file (they are decoded all the same, to check them).
    resize : int
        New length of the shorter side; 0 keeps the size.
    center_crop : bool
        Cut to a centred square before resizing.
    quality : int or None
        JPEG quality 1 to 100 (default 95) or PNG compression 1 to 9 (default 9).
    color : {1, 0, -1}
        Colour, grey, or as stored.
    encoding : {'.jpg', '.png'}
    interp : str
        How `resize` interpolates, one of `igcnet.data.transforms.INTERPOLATIONS`. im2rec's is
        'bilinear'.
    """

    pass_through: bool = False
    resize: int = 0
    center_crop: bool = False
    quality: Optional[int] = None
    color: int = 1
    encoding: str = '.jpg'
    interp: str = 'bilinear'

    def check(self) -> Encoding:
        """The same with the default quality filled in.

        Raises
        ------
        UsageError
            A value out of range, or a change of pixels together with ``pass_through``.
        """
        if self.encoding not in ENCODINGS:
            raise UsageError('--encoding %s: must be one of %s'
                             % (self.encoding, ' '.join(ENCODINGS)))
        if self.color not in (1, 0, -1):
            raise UsageError('--color %s: must be 1, 0 or -1' % self.color)
        if not 0 <= self.resize <= MAX_SIDE:
            raise UsageError('--resize %d: must be 1 to %d, or 0 to keep the size'
                             % (self.resize, MAX_SIDE))
        if self.interp not in INTERPOLATIONS:
            raise UsageError('--interp %s: must be one of %s'
                             % (self.interp, ' '.join(INTERPOLATIONS)))
        if self.interp != 'bilinear' and not self.resize:
            raise UsageError('--interp %s: nothing is resized; give --resize' % self.interp)
        low, high = QUALITY_RANGE[self.encoding]
        if self.quality is not None and not low <= self.quality <= high:
            raise UsageError('--quality %d: must be %d to %d for %s'
                             % (self.quality, low, high, self.encoding))
        if not self.pass_through:
            return self if self.quality else self._replace(quality=DEFAULT_QUALITY[self.encoding])
        if self != Encoding(pass_through=True):
            raise UsageError('--pass-through keeps the bytes of each file; leave out --resize, '
                             '--center-crop, --quality, --color, --encoding and --interp')
        return self

    def encode(self, source: Source, where: str) -> bytes:
        """The image as it goes into the record.

        Raises
        ------
        DataError
            The image is missing, damaged, or cannot be stored so.
        """
        if isinstance(source, str):
            source = read_file(source, where)
        if self.pass_through:
            kind = check_image(source, where)
            if kind not in READABLE_BY_MXNET:
                raise DataError('%s: a %s file, which MXNet cannot read from a record; without '
                                '--pass-through it is converted' % (where, kind))
            return source
        if isinstance(source, bytes):
            image = decode_bgr(source, where, self.color)
        else:
            image = swap_red_blue(source)
            if self.color == 0 and image.ndim == 3:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        try:
            if self.center_crop:
                image = center_crop_square(image)
            if self.resize:
                scale = self.resize / min(image.shape[:2])
                if image.shape[0] * image.shape[1] * scale ** 2 > MAX_PIXELS:
                    raise DataError('%s: --resize %d makes more than %d pixels of %d x %d'
                                    % (where, self.resize, MAX_PIXELS, *image.shape[1::-1]))
                image = resize_short_side(image, self.resize, self.interp)
            return encode_bgr(image, self.encoding, self.quality)
        except cv2.error as problem:
            raise DataError('%s: an image of shape %s cannot be stored so (%s)'
                            % (where, image.shape, problem.err)) from None
