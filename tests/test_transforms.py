"""Evaluation geometry and normalisation, against Pillow, torchvision's rules and plain loops."""

import cv2
import numpy as np
import PIL.Image
import pytest
from synthetic import noise, smooth

from igcnet.data.images import decode_image
from igcnet.data.transforms import Normalisation, ResizeCrop, resize_aligned
from igcnet.errors import DataError, UsageError
from igcnet.registry import Preprocessing


def one(transform, image):
    """The transformed image, back in (H, W, 3)."""
    pixels = transform(image[None])
    assert pixels.dtype == np.uint8
    return pixels[0].transpose(1, 2, 0)


def torchvision(image, resize, crop):
    """What Resize and CenterCrop of torchvision do to a Pillow image, by their published rule."""
    picture = PIL.Image.fromarray(image)
    width, height = picture.size
    short, long = sorted((width, height))
    if short != resize:
        longer = int(resize * long / short)
        size = (resize, longer) if width <= height else (longer, resize)
        picture = picture.resize(size, PIL.Image.BILINEAR)
    width, height = picture.size
    top, left = int(round((height - crop) / 2.0)), int(round((width - crop) / 2.0))
    return np.asarray(picture.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize('height, width', [
    (300, 400), (401, 300), (123, 500), (256, 317), (317, 256), (256, 259), (90, 71), (256, 256)])
def test_pil_bilinear_equals_torchvision(height, width):
    image = noise(1, height, width)[0]
    ours = one(ResizeCrop(224, 256, 'pil-bilinear'), image)
    assert np.array_equal(ours, torchvision(image, 256, 224))


def test_crop_offset_at_a_half_is_even_for_pil_and_floored_for_opencv():
    # 256 - 224 = 32 vertically; 33, 35 horizontally: 16.5 -> 16 and 17.5 -> 18, floored 16, 17.
    for width, pil, opencv in [(257, 16, 16), (259, 18, 17)]:
        image = noise(1, 256, width)[0]
        for interpolation, left in [('pil-bilinear', pil), ('bilinear', opencv)]:
            crop = one(ResizeCrop(224, 256, interpolation), image)
            assert np.array_equal(crop, image[16:240, left:left + 224]), (width, interpolation)


@pytest.mark.parametrize('interpolation, shrinking, growing', [
    ('area', cv2.INTER_AREA, cv2.INTER_CUBIC),
    ('bilinear', cv2.INTER_LINEAR, cv2.INTER_LINEAR),
    ('cubic', cv2.INTER_CUBIC, cv2.INTER_CUBIC)])
def test_opencv_interpolations(interpolation, shrinking, growing):
    transform = ResizeCrop(40, 64, interpolation)
    large, small = noise(1, 100, 151)[0], noise(1, 33, 21)[0]
    shrunk = cv2.resize(large, (64 * 151 // 100, 64), interpolation=shrinking)
    grown = cv2.resize(small, (64, 64 * 33 // 21), interpolation=growing)
    assert np.array_equal(one(transform, large), shrunk[12:52, 28:68])
    assert np.array_equal(one(transform, small), grown[30:70, 12:52])


def test_without_resize_the_centre_is_cut_out_and_small_images_are_enlarged():
    transform = ResizeCrop(32)
    image = noise(1, 37, 40)[0]
    assert np.array_equal(one(transform, image), image[2:34, 4:36])
    tiny = noise(1, 16, 20)[0]
    assert np.array_equal(one(transform, tiny),
                          cv2.resize(tiny, (40, 32), interpolation=cv2.INTER_CUBIC)[:, 4:36])


def test_many_images_at_once_equal_each_alone():
    images, transform = noise(5, 50, 70), ResizeCrop(32, 40, 'pil-bilinear')
    together = transform(images)
    for number in range(5):
        assert np.array_equal(together[number], transform(images[number:number + 1])[0])


def test_geometry_of_a_named_configuration():
    settings = Preprocessing(224, (0,) * 3, (1,) * 3, 256, 'cubic')
    assert ResizeCrop.of(settings) == ResizeCrop(224, 256, 'cubic')


def test_photographs_are_decoded_and_cropped_as_pillow_does(shared_fixtures):
    folder = shared_fixtures('menet')
    crops = np.load(folder / 'menet128_g4_images.npz')['crops_uint8_first4']
    rows = (folder / 'images' / 'labels.tsv').read_text().splitlines()
    files = [row.split('\t')[0] for row in rows if '.JPEG' in row][:4]
    transform = ResizeCrop(224, 256, 'pil-bilinear')
    for name, crop in zip(files, crops):
        image = decode_image((folder / 'images' / name).read_bytes(), name)
        assert np.array_equal(one(transform, image), crop)
        # Their shorter side is 256 already; another one makes Pillow resize.
        assert np.array_equal(one(ResizeCrop(160, 200, 'pil-bilinear'), image),
                              torchvision(image, 200, 160))


def test_normalisation_values():
    mean, std = (125.307, 122.950, 113.865), (62.993, 62.089, 66.705)
    pixels = noise(2, 4, 5).transpose(0, 3, 1, 2)
    out = np.empty(pixels.shape, np.float32)
    Normalisation(mean, std)(pixels, out)
    for channel in range(3):
        exact = (pixels[:, channel].astype(np.float64) - mean[channel]) / std[channel]
        assert np.abs(out[:, channel] - exact).max() < 1e-6
    Normalisation((0, 0, 0), (1, 1, 1))(pixels, out)
    assert np.array_equal(out, pixels)


def test_normalisation_rounds_twice_in_float32_whatever_the_batch():
    mean, std = (125.307, 122.950, 113.865), (62.993, 62.089, 66.705)
    pixels = noise(9, 32, 32).transpose(0, 3, 1, 2)
    mean_32, scale_32 = (np.array(values, np.float32).reshape(3, 1, 1)
                         for values in (mean, [1 / value for value in std]))
    for count in (1, 2, 9):
        out = np.empty((count, 3, 32, 32), np.float32)
        Normalisation(mean, std)(pixels[:count], out)
        assert np.array_equal(out, (pixels[:count].astype(np.float32) - mean_32) * scale_32)


def test_extreme_aspect_ratio_is_refused_before_memory_is_asked_for():
    transform = ResizeCrop(224, 256)
    transform.check(10, 1000)
    with pytest.raises(DataError, match='1001x10 pixels, one side more than 100 times'):
        transform.check(10, 1001)


@pytest.mark.parametrize('settings, message', [
    (dict(size=0), 'size=0'),
    (dict(size=2.5), 'size=2.5'),
    (dict(size=224, resize_shorter=200), 'resize_shorter=200: must be at least the crop size'),
    (dict(size=224, interpolation='lanczos'), 'interpolation=.lanczos.: must be one of area')])
def test_values_are_checked(settings, message):
    with pytest.raises(UsageError, match=message):
        ResizeCrop(**settings)


@pytest.mark.parametrize('mean, std, message', [
    ((1, 2), (1, 1, 1), 'mean='),
    ((1, 2, 'x'), (1, 1, 1), 'mean='),
    ((1, 2, float('nan')), (1, 1, 1), 'mean='),
    ((1, 2, 3), (1, 0, 1), 'std=.*positive'),
    ((1, 2, 3), 5, 'std=')])
def test_normalisation_is_checked(mean, std, message):
    with pytest.raises(UsageError, match=message):
        Normalisation(mean, std)


def test_unknown_option_is_a_type_error():
    with pytest.raises(TypeError):
        ResizeCrop(224, scale=0.5)


def test_smooth_images_agree_between_interpolations():
    # A guard against swapped width and height: all methods must show the same picture.
    image = smooth(300, 420)
    crops = [one(ResizeCrop(128, 200, name), image).astype(int)
             for name in ('area', 'bilinear', 'cubic', 'pil-bilinear')]
    for crop in crops[1:]:
        assert np.abs(crop - crops[0]).mean() < 3


def plain_aligned(image, size):
    """Bilinear with aligned corners, one output pixel after the other, in double precision."""
    height, width = image.shape[1:]
    out = np.empty((len(image), size, size))
    for y in range(size):
        for x in range(size):
            row, column = y * (height - 1) / max(size - 1, 1), x * (width - 1) / max(size - 1, 1)
            top, left = int(row), int(column)
            down, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = row - top, column - left
            out[:, y, x] = ((1 - a) * ((1 - b) * image[:, top, left] + b * image[:, top, right])
                            + a * ((1 - b) * image[:, down, left] + b * image[:, down, right]))
    return out


@pytest.mark.parametrize('size', [1, 20, 24, 28, 32, 40])
def test_aligned_resizing(size):
    import mxnet as mx
    images = np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32)
    out = np.empty((2, 3, size, size), np.float32)
    resize_aligned(images, size, out)
    # Places are computed in single precision, as by MXNet and PyTorch.
    for image, pixels in zip(images, out):
        assert np.abs(pixels - plain_aligned(image, size)).max() < 4e-5
    if size > 1:
        theirs = mx.nd.contrib.BilinearResize2D(mx.nd.array(images), height=size, width=size)
        assert np.abs(out - theirs.asnumpy()).max() < 2e-6
    assert size != 32 or np.array_equal(out, images)
