"""Small synthetic images and record files for the tests of the readers."""

import json

import cv2
import numpy as np

from igcnet.data.images import encode_image
from igcnet.data.records import RecordPaths, frame, pack_record


def noise(count, height=32, width=32, seed=0):
    """`count` different images of noise, uint8 (count, height, width, 3)."""
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3)).astype(np.uint8)


def smooth(height, width, seed=0):
    """One image without sharp edges, so that interpolations of it nearly agree."""
    small = noise(1, height // 16 + 2, width // 16 + 2, seed)[0]
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def write_train_and_test(folder, train, test, classes=3):
    """Record files ``train`` and ``test`` with so many images of noise; returns `folder`."""
    for name, count in (('train', train), ('test', test)):
        write_records(folder / name, noise(count, seed=count), np.arange(count) % float(classes))
    return folder


def write_records(prefix, images, labels, index=True, classes=None, names=None):
    """A lossless record file of `images` (or encoded bytes); returns the path of the ``.rec``."""
    paths = RecordPaths.of(prefix)
    lines, content = [], b''
    for number, (image, label) in enumerate(zip(images, labels)):
        data = image if isinstance(image, bytes) else encode_image(image, '.png', 1)
        lines.append('%d\t%d\n' % (number, len(content)))
        content += frame(pack_record(label, number, data))
    paths.rec.write_bytes(content)
    if index:
        paths.idx.write_text(''.join(lines))
    if classes is not None:
        paths.manifest.write_text(json.dumps({'classes': classes}))
    if names is not None:
        paths.lst.write_text(''.join('%d\t%f\t%s\n' % row for row in zip(
            range(len(names)), labels, names)))
    return paths.rec
