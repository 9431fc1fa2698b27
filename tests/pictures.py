"""Synthetic pictures and trees of them, for the tests of packing and reading."""

import io
import tarfile

import cv2
import numpy as np
import PIL.Image


def picture(height=48, width=64, seed=0):
    """A smooth RGB picture, which JPEG keeps almost as it is."""
    small = np.random.RandomState(seed).randint(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def file_bytes(image, kind='JPEG', mode=None, **options):
    """The content of an image file."""
    stream = io.BytesIO()
    image = PIL.Image.fromarray(image)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def make_tree(root, folders, per_folder=4, kind='JPEG'):
    """Folders of small pictures, all of them different; returns `root`."""
    seed = 0
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(per_folder):
            name = '%d.%s' % (number, {'JPEG': 'jpg', 'PNG': 'png'}[kind])
            (root / folder / name).write_bytes(file_bytes(picture(20 + number, 30, seed), kind))
            seed += 1
    return root


def make_tar(path, root, mode='w:gz', top='.'):
    """An archive of the tree below `root`; its names start with `top`."""
    with tarfile.open(str(path), mode) as archive:
        archive.add(str(root), top)
    return path
