"""The presets of the PyTorch originals and of IGCV3, against literal computations and Pillow."""

import math

import numpy as np
import PIL.Image
import pytest
from synthetic import noise, smooth

from igcnet.data.augment import PRESETS, find_augmentation
from igcnet.data.colour import Coloured, normal
from igcnet.data.crops import CropMirror
from igcnet.data.randomness import uniforms
from igcnet.data.resized_crops import RandomResizedCrop, ResizeRandomCrop
from igcnet.data.warp import WarpCrop
from igcnet.errors import DataError, UsageError

FILL = (125, 123, 114)
SHAPES = [(300, 400), (400, 300), (64, 64), (40, 300), (300, 40)]


# Crops of photographs ----------------------------------------------------------------------------

def literal_box(height, width, u, area, shapes):
    """torchvision's drawing of a crop, version by version, as its sources have it."""
    for number in range(10):
        one, two, three = u[3 + 3 * number:6 + 3 * number]
        target = (area[0] + one * (area[1] - area[0])) * (width * height)
        if shapes == 'log-uniform':
            low, high = math.log(0.75), math.log(4 / 3)
            ratio = math.exp(low + two * (high - low))
        else:
            ratio = 0.75 + two * (4 / 3 - 0.75)
        w = int(round(math.sqrt(target * ratio)))
        h = int(round(math.sqrt(target / ratio)))
        fits_range = shapes == 'swapped' or 0.75 <= h / w <= 4 / 3
        if three < 0.5 and fits_range and shapes != 'log-uniform':
            w, h = h, w
        if w <= width and h <= height:
            return int(u[0] * (height - h + 1)), int(u[1] * (width - w + 1)), h, w
    if shapes == 'log-uniform' and width / height < 0.75:
        w, h = width, int(round(width / 0.75))
    elif shapes == 'log-uniform' and width / height > 4 / 3:
        w, h = int(round(height * (4 / 3))), height
    elif shapes == 'log-uniform':
        w, h = width, height
    else:
        w = h = min(width, height)
    return (height - h) // 2, (width - w) // 2, h, w


PHOTOGRAPHS = {
    'menet-more-aggressive': ((0.08, 1.0), 'swapped'), 'menet-aggressive': ((0.36, 1.0), 'swapped'),
    'menet-less-aggressive': ((0.64, 1.0), 'swapped'), 'dgc-imagenet': ((0.08, 1), 'log-uniform'),
    'mutualnet-basic': ((0.08, 1.0), 'swapped-in-range'),
    'mutualnet-mobile': ((0.25, 1.0), 'swapped-in-range')}


@pytest.mark.parametrize('name', PHOTOGRAPHS)
@pytest.mark.parametrize('height, width', SHAPES)
def test_crops_are_drawn_as_by_torchvision(name, height, width):
    augmentation = find_augmentation(name, 32, FILL)
    crop = augmentation.crop if isinstance(augmentation, Coloured) else augmentation
    boxes = set()
    for u in uniforms(1, 2, range(300), 33):
        box = crop.box(height, width, u)
        assert box == literal_box(height, width, u, *PHOTOGRAPHS[name])
        assert 0 <= box[0] <= height - box[2] and 0 <= box[1] <= width - box[3]
        boxes.add(box)
    # In an image of 40x300 nothing large fits: the last resort is the only crop.
    assert len(boxes) > 250 if min(height, width) > 40 else boxes


def test_the_ways_to_draw_shapes_differ():
    u = uniforms(1, 0, range(4000), 33)
    boxes = {shapes: np.array([RandomResizedCrop(8, shapes=shapes).box(500, 500, one)
                               for one in u]) for shapes in
             ('swapped', 'swapped-in-range', 'log-uniform')}
    ratios = {shapes: boxes[shapes][:, 3] / boxes[shapes][:, 2] for shapes in boxes}
    # The mean of the logarithm: uniform ratios lean to wide crops, exchanged sides are even.
    assert abs(np.log(ratios['swapped']).mean()) < 0.01
    assert abs(np.log(ratios['log-uniform']).mean()) < 0.01
    assert (boxes['swapped'] != boxes['log-uniform']).any(1).mean() > 0.9
    assert min(ratios['log-uniform']) > 0.74 and max(ratios['log-uniform']) < 1.35


@pytest.mark.parametrize('name', ['menet-more-aggressive', 'dgc-imagenet'])
def test_pixels_of_resized_crops_are_pillows(name):
    image = smooth(90, 120, 1)
    augmentation = find_augmentation(name, 48, FILL)
    for u in uniforms(4, 0, range(8), 33):
        top, left, height, width = augmentation.box(90, 120, u)
        exact = PIL.Image.fromarray(image).crop((left, top, left + width, top + height)).resize(
            (48, 48), PIL.Image.BILINEAR)
        if u[2] < 0.5:
            exact = exact.transpose(PIL.Image.FLIP_LEFT_RIGHT)
        pixels = augmentation(image[None], u[None])[0]
        assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(exact))


@pytest.mark.parametrize('height, width', [(300, 400), (400, 301), (256, 300), (100, 50)])
def test_conservative_resizes_then_crops(height, width):
    image = smooth(height, width, 2)
    short = min(height, width)
    size = [256 if side == short else int(256 * side / short) for side in (width, height)]
    whole = PIL.Image.fromarray(image).resize(size, PIL.Image.BILINEAR)
    for u in uniforms(0, 0, range(4), 3):
        top, left = int(u[0] * (size[1] - 223)), int(u[1] * (size[0] - 223))
        exact = np.asarray(whole)[top:top + 224, left:left + 224]
        pixels = find_augmentation('menet-conservative', 224, FILL)(image[None], u[None])[0]
        assert np.array_equal(pixels.transpose(1, 2, 0), exact[:, ::-1] if u[2] < 0.5 else exact)
    with pytest.raises(DataError, match='more than 100 times'):
        find_augmentation('menet-conservative', 224, FILL).check(2, 201)


# Colours -----------------------------------------------------------------------------------------

def grey_of(image):
    red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def blend(base, image, factor):
    mixed = base.astype(np.float32) + np.float32(factor) * (image.astype(np.float32) - base)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def literal_jitter(image, u, jitter):
    """Brightness, contrast, saturation by plain formulas, hue by Pillow's colour space."""
    for change in np.argsort(u[4:8]):
        value = (2 * u[change] - 1) * jitter[change]
        if not jitter[change]:
            continue
        if change == 0:
            image = blend(np.zeros(image.shape, np.int64), image, 1 + value)
        elif change == 1:
            mean = int(grey_of(image).mean() + 0.5)
            image = blend(np.full(image.shape, mean), image, 1 + value)
        elif change == 2:
            image = blend(np.stack([grey_of(image)] * 3, -1), image, 1 + value)
        else:
            hsv = np.array(PIL.Image.fromarray(image).convert('HSV'))
            hsv[..., 0] = (hsv[..., 0].astype(int) + int(value * 255)) % 256
            image = np.asarray(PIL.Image.fromarray(hsv, 'HSV').convert('RGB'))
    return image


def literal_lighting(image, u, deviation):
    values = (0.2175, 0.0188, 0.0045)
    vectors = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
    draws = [deviation * z for z in (*normal(u[0], u[1]), normal(u[2], u[3])[0])]
    out = image.astype(float)
    for channel in range(3):
        out[..., channel] += sum(vectors[channel][n] * draws[n] * values[n] for n in range(3))
    return np.clip(out, 0, 255).astype(np.uint8)


MENET, IGCV3, MUTUALNET = (0.1,) * 4, (0.3, 0.3, 0.3, 0), (0.4, 0.4, 0.4, 0)


@pytest.mark.parametrize('name, plain, jitter, lighting', [
    *[('menet-%s-with-color-jitter' % name, 'menet-' + name, MENET, 0)
      for name in ('more-aggressive', 'aggressive', 'less-aggressive', 'conservative')],
    ('igcv3-cifar100', 'igcv3-cifar10', IGCV3, 0)])
def test_jitter_comes_after_the_crop(name, plain, jitter, lighting):
    images = np.stack([smooth(60, 70, seed) for seed in range(6)])
    with_colour, without = find_augmentation(name, 32, FILL), find_augmentation(plain, 32, FILL)
    assert with_colour.draws == without.draws + 8
    randoms = uniforms(1, 0, range(6), with_colour.draws)
    crops = without(images, randoms[:, :without.draws])
    for u, crop, pixels in zip(randoms, crops, with_colour(images, randoms)):
        exact = literal_jitter(crop.transpose(1, 2, 0), u[without.draws:], jitter)
        assert np.array_equal(pixels.transpose(1, 2, 0), exact)
        assert not np.array_equal(pixels, crop)


@pytest.mark.parametrize('name', ['mutualnet-basic', 'mutualnet-mobile'])
def test_mutualnet_jitters_then_lights(name):
    augmentation = find_augmentation(name, 40, FILL)
    assert augmentation.draws == 33 + 8 + 4
    images = np.stack([smooth(80, 70, seed) for seed in range(8)])
    randoms = uniforms(1, 0, range(8), 45)
    darker = 0
    for u, crop, pixels in zip(randoms, augmentation.crop(images, randoms[:, :33]),
                               augmentation(images, randoms)):
        jittered = literal_jitter(crop.transpose(1, 2, 0), u[33:41], MUTUALNET)
        exact = literal_lighting(jittered, u[41:], 0.1)
        assert np.array_equal(pixels.transpose(1, 2, 0), exact)
        darker += (jittered.astype(int) - exact == 1).any(axis=(0, 1)).sum()
        assert set(np.unique(jittered.astype(int) - exact)) <= {0, 1}
    assert 4 < darker < 20  # of 24 channels: those with a negative increment


def test_the_changes_come_in_every_order_and_strengths_fill_their_range():
    u = uniforms(0, 0, range(6000), 8)
    orders, counts = np.unique(np.argsort(u[:, 4:], axis=1), axis=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 190 and counts.max() < 310
    image = np.full((1, 8, 8, 3), 100, np.uint8)
    brightness = Coloured(CropMirror(8, random=False), (0.4, 0, 0, 0))
    values = brightness(np.repeat(image, 500, 0), u[:500])[:, 0, 0, 0]
    assert values.min() == 60 and values.max() == 139


def test_normal_numbers_are_normal():
    u = uniforms(0, 0, range(20000), 2)
    values = np.array([normal(*pair) for pair in u])
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.02
    assert abs((np.abs(values) < 1.96).mean() - 0.95) < 0.005
    assert normal(0.0, 0.3) == (0, 0)


# Small images and IGCV3 --------------------------------------------------------------------------

@pytest.mark.parametrize('name, mode', [
    ('mutualnet-cifar', 'reflect'), ('dgc-cifar', 'constant'),
    ('igcv3-cifar10', 'constant')])
def test_small_images_are_padded_by_black_or_their_reflection(name, mode):
    images, randoms = noise(20), uniforms(3, 1, range(20), 3)
    crops = find_augmentation(name, 32, FILL)(images, randoms)
    for image, u, pixels in zip(images, randoms, crops):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode)
        top, left = int(u[0] * 9), int(u[1] * 9)
        crop = padded[top:top + 32, left:left + 32]
        assert np.array_equal(pixels.transpose(1, 2, 0), crop[:, ::-1] if u[2] < 0.5 else crop)


def test_reflection_needs_enough_pixels():
    find_augmentation('mutualnet-cifar', 8, FILL).check(5, 5)
    with pytest.raises(DataError, match='5x4 pixels, too few to reflect 4'):
        find_augmentation('mutualnet-cifar', 8, FILL).check(4, 5)


def test_igcv3_on_imagenet_is_mxnets_augmenter_at_level_2():
    # Level 2: random crop, mirror, hue 36, saturation 50, lightness 50; no change of the aspect.
    train = find_augmentation('igcv3-imagenet', 224, FILL)
    assert train == WarpCrop(224, (127,) * 3, 0.533, 1.0, 0.0, 36, 50, 50, canvas=224)
    validation = find_augmentation('igcv3-imagenet-validation', 224, FILL)
    image = smooth(480, 600)
    # 480 * 0.533 = 255.84: a canvas of 255 instead of the 256 of IGC, so another centre.
    igc = find_augmentation('igc-imagenet-validation', 224, (127,) * 3)
    nothing = np.empty((1, 0))
    assert validation.draws == 0
    assert not np.array_equal(validation(image[None], nothing), igc(image[None], nothing))


# All ---------------------------------------------------------------------------------------------

def test_every_original_has_its_presets():
    names = set(PRESETS)
    assert len([name for name in names if name.startswith('menet-')]) == 8
    assert {'igc-0', 'igc-1', 'igc-2', 'igc-imagenet-0', 'igc-imagenet-1', 'mutualnet-basic',
            'mutualnet-mobile', 'mutualnet-cifar', 'dgc-cifar', 'dgc-imagenet', 'igcv3-cifar10',
            'igcv3-cifar100', 'igcv3-imagenet'} < names


@pytest.mark.parametrize('name', sorted(PRESETS))
def test_a_batch_equals_its_images_one_by_one(name):
    images = np.stack([smooth(300, 320, seed) for seed in range(4)])
    augmentation = find_augmentation(name, 32, FILL)
    randoms = uniforms(2, 7, range(4), augmentation.draws)
    augmentation.check(300, 320)
    together = augmentation(images, randoms)
    assert together.shape == (4, 3, 32, 32) and together.dtype == np.uint8
    for number in range(4):
        one = slice(number, number + 1)
        assert np.array_equal(together[one], augmentation(images[one], randoms[one]))
    assert len({pixels.tobytes() for pixels in together}) == 4


@pytest.mark.parametrize('make, message', [
    (lambda: RandomResizedCrop(32, (0.0, 1.0)), r'area=\(0.0, 1.0\)'),
    (lambda: RandomResizedCrop(32, (0.5, 1.1)), 'area='),
    (lambda: RandomResizedCrop(32, shapes='square'), "shapes='square': must be 'swapped' or"),
    (lambda: RandomResizedCrop(0), 'size=0'),
    (lambda: ResizeRandomCrop(224, 200), 'resize_shorter=200: must be at least'),
    (lambda: CropMirror(32, border='wrap'), "border='wrap': must be 'fill' or 'reflect'"),
    (lambda: Coloured(CropMirror(32), (0.1, 0.1, 0.1)), 'jitter=.*four numbers'),
    (lambda: Coloured(CropMirror(32), (0.1, 0.1, 0.1, 0.6)), 'jitter='),
    (lambda: Coloured(CropMirror(32), lighting=-1), 'lighting=-1')])
def test_values_are_checked(make, message):
    with pytest.raises(UsageError, match=message):
        make()
