"""The original's augmentations, against plain loops and MXNet's own augmenter."""

import cv2
import numpy as np
import pytest
from synthetic import noise, smooth, write_records

from igcnet.data.augment import PRESETS, find_augmentation
from igcnet.data.crops import CropMirror
from igcnet.data.randomness import uniforms
from igcnet.data.warp import WarpCrop
from igcnet.errors import DataError, UsageError

FILL = (125.307, 122.950, 113.865)
COLOUR = (125, 123, 114)


def plain_crop(image, u, size, pad):
    """Type 1 and 2 for one image, pixel by pixel. `u`: top, left, mirror."""
    height, width = image.shape[:2]
    top = int(u[0] * (height + 2 * pad - size + 1))
    left = int(u[1] * (width + 2 * pad - size + 1))
    out = np.empty((3, size, size), np.uint8)
    for y in range(size):
        for x in range(size):
            column = size - 1 - x if u[2] < 0.5 else x
            row, column = y + top - pad, column + left - pad
            inside = 0 <= row < height and 0 <= column < width
            out[:, y, x] = image[row, column] if inside else COLOUR
    return out


@pytest.mark.parametrize('count', [1, 12, 40])
@pytest.mark.parametrize('preset, pad, height, width', [
    ('igc-1', 4, 32, 32), ('igc-1', 4, 28, 40), ('igc-2', 0, 32, 32), ('igc-2', 0, 40, 36)])
def test_small_images_equal_a_plain_loop(preset, pad, height, width, count):
    images, randoms = noise(count, height, width), uniforms(3, 1, np.arange(count), 3)
    pixels = find_augmentation(preset, 32, FILL)(images, randoms)
    assert pixels.shape == (count, 3, 32, 32) and pixels.dtype == np.uint8
    for image, u, one in zip(images, randoms, pixels):
        assert np.array_equal(one, plain_crop(image, u, 32, pad))


def test_type_0_is_the_image_itself_or_its_centre():
    augmentation = find_augmentation('igc-0', 32, FILL)
    nothing = np.empty((3, 0))
    images = noise(3)
    assert augmentation.draws == 0
    assert np.array_equal(augmentation(images, nothing), images.transpose(0, 3, 1, 2))
    images = noise(3, 37, 34)
    assert np.array_equal(augmentation(images, nothing),
                          images[:, 2:34, 1:33].transpose(0, 3, 1, 2))


def test_all_81_offsets_and_both_directions_are_evenly_taken():
    augmentation = find_augmentation('igc-1', 32, (0, 0, 0))
    count = 8100
    # The image says where each of its pixels was: red is the row, green the column.
    rows, columns = np.mgrid[:32, :32]
    image = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    images = np.broadcast_to(image, (count, 32, 32, 3))
    pixels = augmentation(images, uniforms(0, 0, np.arange(count), 3)).astype(int)
    centre = pixels[:, :, 16, 16]
    mirrored = pixels[:, 1, 16, 17] < centre[:, 1]
    assert abs(mirrored.mean() - 0.5) < 0.03
    top = centre[:, 0] - 12
    left = np.where(mirrored, centre[:, 1] - 11, centre[:, 1] - 12)
    counts = np.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81
    assert ((counts - 100) ** 2 / 100).sum() < 125  # chi-square, 80 degrees, 0.1 %


def test_fill_is_the_mean_rounded_for_each_channel():
    corner = uniforms(0, 0, [0], 3) * 0  # offset 0, 0, mirrored: the border is at top and right
    pixels = find_augmentation('igc-1', 32, FILL)(np.zeros((1, 32, 32, 3), np.uint8), corner)[0]
    border = np.ones((32, 32), bool)
    border[4:, :28] = False
    for channel, value in enumerate(COLOUR):
        assert (pixels[channel] == np.where(border, value, 0)).all()


# ImageNet ----------------------------------------------------------------------------------------

def literal_warp(image, scale, ratio, canvas, fill):
    """The affine step of the original in floating point, one output pixel after the other."""
    height, width = image.shape[:2]
    x_factor = 2 * scale / (1 + ratio)
    y_factor = ratio * x_factor
    new_width, new_height = max(canvas, scale * width), max(canvas, scale * height)
    x_start = (new_width - x_factor * width) / 2
    y_start = (new_height - y_factor * height) / 2
    columns = (np.arange(int(new_width)) - x_start) / x_factor
    rows = (np.arange(int(new_height)) - y_start) / y_factor
    framed = np.full((height + 2, width + 2, 3), fill, float)
    framed[1:-1, 1:-1] = image
    out = np.empty((len(rows), len(columns), 3))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            if not (-1 <= x < width and -1 <= y < height):
                out[i, j] = fill
                continue
            left, top = int(np.floor(x)), int(np.floor(y))
            a, b = x - left, y - top
            patch = framed[top + 1:top + 3, left + 1:left + 3]
            out[i, j] = ((1 - b) * ((1 - a) * patch[0, 0] + a * patch[0, 1])
                         + b * ((1 - a) * patch[1, 0] + a * patch[1, 1]))
    return out


def literal_imagenet(image, u, settings):
    """Sections 1 to 4 of `WarpCrop` for one image, with the warp from outside."""
    scale = settings.min_scale + u[0] * (settings.max_scale - settings.min_scale)
    ratio = 1 - settings.aspect + 2 * settings.aspect * u[1]
    warped = literal_warp(image, scale, ratio, settings.canvas, settings.fill)
    top = int(u[2] * (warped.shape[0] - settings.size + 1))
    left = int(u[3] * (warped.shape[1] - settings.size + 1))
    crop = warped[top:top + settings.size, left:left + settings.size]
    crop = np.clip(np.round(crop), 0, 255).astype(np.uint8)
    if settings.hue:
        hls = cv2.cvtColor(crop, cv2.COLOR_RGB2HLS).astype(int)
        for channel, (limit, top_value, column) in enumerate([
                (settings.hue, 180, 4), (settings.lightness, 255, 5),
                (settings.saturation, 255, 6)]):
            offset = int(u[column] * 2 * limit - limit)
            hls[..., channel] = np.minimum(np.maximum(hls[..., channel] + offset, 0), top_value)
        crop = cv2.cvtColor(hls.astype(np.uint8), cv2.COLOR_HLS2RGB)
    if u[7] < 0.5:
        crop = crop[:, ::-1]
    return crop.transpose(2, 0, 1)


@pytest.mark.parametrize('height, width, number', [
    (120, 160, 0), (160, 120, 1), (130, 130, 2), (60, 100, 3)])
def test_imagenet_equals_a_literal_computation(height, width, number):
    # A quarter of the original's sizes: crop 56, canvas 64, records with shorter side 120.
    settings = WarpCrop(56, FILL, canvas=64)
    image = smooth(height, width, number)
    randoms = uniforms(8, 0, [number], 8)
    pixels = settings(image[None], randoms)
    assert pixels.shape == (1, 3, 56, 56) and pixels.dtype == np.uint8
    expected = literal_imagenet(image, randoms[0], settings)
    difference = np.abs(pixels[0].astype(int) - expected)
    # One step of 8 bits before the colour shift may become several after it.
    assert difference.mean() < 1.0 and np.percentile(difference, 99) <= 6


@pytest.mark.parametrize('scale', [0.533, 0.8, 1.0])
def test_warp_without_colour_equals_a_literal_computation_to_two_steps(scale):
    settings = WarpCrop(56, FILL, scale, scale, 0.25, 0, 0, 0, canvas=64)
    image = smooth(140, 120, 9)
    for u in uniforms(1, 0, np.arange(3), 8):
        pixels = settings(image[None], u[None])[0].astype(int)
        assert np.abs(pixels - literal_imagenet(image, u, settings)).max() <= 2


def mxnet_pixels(path, count, size, **options):
    import mxnet as mx
    iterator = mx.io.ImageRecordIter(path_imgrec=str(path), data_shape=(3, size, size),
                                     batch_size=count, inter_method=9, **options)
    return iterator.next().data[0].asnumpy()


SHAPES = [(480, 640), (640, 480), (481, 500), (300, 375), (200, 210), (100, 300)]


@pytest.mark.parametrize('scale', [0.533, 0.75, 1.0])
def test_warp_equals_that_of_mxnet_bit_for_bit(tmp_path, scale):
    # MXNet knows only one fill value for all channels, and no random numbers of ours: the
    # centre crop at a fixed scale is what can be compared.
    images = [smooth(height, width, height) for height, width in SHAPES]
    path = write_records(tmp_path / 'a', images, [0.0] * len(images))
    theirs = mxnet_pixels(path, len(images), 224, min_random_scale=scale, max_random_scale=scale,
                          min_img_size=256, fill_value=77)
    ours = WarpCrop(224, (77, 77, 77), min_scale=scale, random=False)
    for image, pixels in zip(images, theirs):
        assert np.array_equal(ours(image[None], np.empty((1, 0)))[0], pixels)


def test_aspect_equals_that_of_mxnet_bit_for_bit(tmp_path):
    images = [smooth(height, width, width) for height, width in SHAPES]
    path = write_records(tmp_path / 'a', images, [0.0] * len(images))
    theirs = mxnet_pixels(path, len(images), 224, min_random_scale=0.6, max_random_scale=0.6,
                          min_aspect_ratio=1.2, max_aspect_ratio=1.2, min_img_size=256,
                          fill_value=77)
    # r = 1 + 0.2 is the end of our range, and the middle crop that of the random number 1/2.
    settings = WarpCrop(224, (77, 77, 77), 0.6, 0.6, 0.2, 0, 0, 0)
    for image, pixels in zip(images, theirs):
        canvas = [max(256, int(np.float32(0.6) * side)) - 224 for side in image.shape[:2]]
        middle = [(rest // 2 + 0.5) / (rest + 1) for rest in canvas]
        u = np.array([[0, 1.0, middle[0], middle[1], 0, 0, 0, 0.9]])
        assert np.array_equal(settings(image[None], u)[0], pixels)


def test_small_images_have_a_border_of_the_fill_colour_on_the_canvas():
    # 200x240 at scale 0.533 is 106.6x127.9, centred on 256x256; the crop takes the centre.
    image = np.zeros((200, 240, 3), np.uint8)
    pixels = WarpCrop(224, FILL, random=False)(image[None], np.empty((1, 0)))[0]
    for channel, value in enumerate(COLOUR):
        border = np.ones((224, 224), bool)
        border[57:-57, 46:-46] = False
        assert (pixels[channel][border] == value).all()
        assert (pixels[channel, 61:-61, 50:-50] == 0).all()


def test_480_at_scale_0533_fills_256_and_at_1_stays():
    image = smooth(480, 480)
    centre = WarpCrop(224, FILL, min_scale=1.0, random=False)(image[None], np.empty((1, 0)))[0]
    assert np.array_equal(centre, image[128:352, 128:352].transpose(2, 0, 1))
    small = find_augmentation('igc-imagenet-validation', 224, FILL)(image[None], np.empty((1, 0)))
    # 255.84 of 256: the picture reaches the crop's edges, no fill colour in it.
    shrunk = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)[16:240, 16:240]
    assert np.abs(small[0].transpose(1, 2, 0).astype(int) - shrunk).mean() < 4


def test_type_0_on_imagenet_only_crops_and_mirrors_at_the_smallest_scale():
    settings = find_augmentation('igc-imagenet-0', 224, FILL)
    validation = find_augmentation('igc-imagenet-validation', 224, FILL)
    image = smooth(480, 480)
    middle = [0.123, 0.987, 16.5 / 33, 16.5 / 33, 0.2, 0.3, 0.4]
    centre = validation(image[None], np.empty((1, 0)))[0]
    assert np.array_equal(settings(image[None], np.array([middle + [0.5]]))[0], centre)
    assert np.array_equal(settings(image[None], np.array([middle + [0.49]]))[0],
                          centre[:, :, ::-1])


@pytest.mark.parametrize('column, channel, u, offset', [
    (4, 0, 0.0, -36), (4, 0, 0.75, 18), (5, 1, 0.0, -50), (5, 1, 0.999, 49), (6, 2, 0.25, -25),
    (6, 2, 0.51, 1), (6, 2, 0.505, 0), (6, 2, 0.495, 0)])
def test_colour_offsets_are_whole_clipped_and_of_one_channel(column, channel, u, offset):
    settings = WarpCrop(32, FILL, 1.0, 1.0, 0.0, canvas=32)
    image = noise(1)[0]
    randoms = np.full((1, 8), 0.5)
    unchanged = settings(image[None], randoms)[0].transpose(1, 2, 0)
    hls = cv2.cvtColor(image, cv2.COLOR_RGB2HLS)
    assert np.array_equal(unchanged, cv2.cvtColor(hls, cv2.COLOR_HLS2RGB))
    randoms[0, column] = u
    changed = settings(image[None], randoms)[0].transpose(1, 2, 0)
    shifted = hls.astype(int)
    shifted[..., channel] += offset
    assert (np.clip(shifted, 0, (180, 255, 255)) != shifted).any() == (offset != 0)
    expected = np.clip(shifted, 0, (180, 255, 255)).astype(np.uint8)
    assert np.array_equal(changed, cv2.cvtColor(expected, cv2.COLOR_HLS2RGB))


def test_a_batch_equals_its_images_one_by_one():
    images = np.stack([smooth(90, 120, seed) for seed in range(6)])
    randoms = uniforms(2, 7, range(6), 8)
    settings = WarpCrop(56, FILL, canvas=64)
    together = settings(images, randoms)
    for number in range(6):
        alone = settings(images[number:number + 1], randoms[number:number + 1])[0]
        assert np.array_equal(together[number], alone)
    assert len({pixels.tobytes() for pixels in together}) == 6


def test_images_too_small_for_the_crop_are_named():
    augmentation = find_augmentation('igc-1', 32, FILL)
    augmentation.check(24, 24)
    with pytest.raises(DataError, match='30x23 pixels, too few for a crop of 32x32.*--resize 32'):
        augmentation.check(23, 30)


@pytest.mark.parametrize('make, message', [
    (lambda: find_augmentation('igc-3', 32, FILL), "'igc-3': must be one of dgc-cifar, .*igc-0"),
    (lambda: find_augmentation('igc-1', 0, FILL), 'size=0'),
    (lambda: find_augmentation('igc-1', 32, (1, 2, 256)), 'fill=.*between 0 and 255'),
    (lambda: find_augmentation('igc-1', 32, (1, 2)), 'fill=.*three numbers'),
    (lambda: CropMirror(32, pad=-1), 'pad=-1'),
    (lambda: WarpCrop(224, min_scale=1.2), 'min_scale=1.2, max_scale=1.0'),
    (lambda: WarpCrop(224, aspect=1.0), 'aspect=1.0'),
    (lambda: WarpCrop(224, hue=-1), 'hue, lightness, saturation'),
    (lambda: WarpCrop(300), 'canvas=256: must be at least the crop size, 300')])
def test_values_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_unknown_settings_are_type_errors(name):
    with pytest.raises(TypeError):
        find_augmentation(name, 32, FILL, fill_value_r=3)
