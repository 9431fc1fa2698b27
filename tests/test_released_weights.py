"""The weights that come with the package: manifests, checksums, and what they compute."""

import math
import shlex
import tarfile

import mxnet as mx
import numpy as np
import pytest
from conftest import SHARED

import igcnet
from igcnet.cli import train
from igcnet.data.images import decode_image
from igcnet.deploy.released import FOLDER, MANIFEST, PARAMS, find_release, releases
from igcnet.deploy.verify import random_images
from igcnet.profiling import count_parameters

ARCHIVE = SHARED / 'data' / 'cifar10-jpeg.tar.gz'
EACH = 20                # test images of each class
LARGEST = 8e6            # bytes of all files together: the package stays small
every_release = pytest.mark.parametrize('release', releases(), ids=lambda release: release.name)


def test_the_folder_holds_releases_only():
    expected = {release.name + ending for release in releases() for ending in (MANIFEST, PARAMS)}
    found = list(FOLDER.iterdir()) if FOLDER.is_dir() else []
    assert {path.name for path in found} == expected
    assert sum(path.stat().st_size for path in found) < LARGEST


@every_release
def test_manifest(release):
    """Nothing is missing, and the network is found by its name and settings."""
    assert find_release(release.network, release.settings).params == release.params
    assert len(set(release.classes)) == len(release.classes) == release.settings['classes']
    assert {'epoch', 'update', 'val_top1', 'val_top5', 'val_loss', 'val_count'} <= set(
        release.figures)
    assert 1 / len(release.classes) < release.figures['val_top1'] <= 1
    training = release.training
    assert release.figures['epoch'] <= training['recipe']['num_epochs']
    assert {'igcnet', 'mxnet', 'numpy', 'threads'} <= set(training['environment'])
    words = shlex.split(training['command'])
    assert words[:2] == ['igcnet', 'train'] and '/' not in training['command']
    given = train.build_parser().parse_args(words[2:])
    assert given.rand_seed == training['seed']
    assert given.network == release.network and given.dataset == training['data_set']


@every_release
def test_it_loads_and_computes_what_it_did(release):
    net = release.load()
    assert count_parameters(net) == release.training['parameters']
    images = random_images(len(release.check_logits), release.preprocessing.input_size, seed=0)
    logits = net(mx.nd.array(images)).asnumpy()
    np.testing.assert_allclose(logits, release.check_logits, atol=1e-3)
    plain = igcnet.get_model(release.network, **release.settings)
    plain.load_parameters(str(release.params))
    np.testing.assert_array_equal(plain(mx.nd.array(images)).asnumpy(), logits)


@pytest.fixture(scope='module')
def cifar10():
    """The first test images of each class by the name of the class, (N, 32, 32, 3)."""
    if not ARCHIVE.is_file():
        pytest.skip('CIFAR-10 is not on this machine (looked for %s; IGCNET_SHARED names another '
                    'place)' % ARCHIVE)
    found = {}
    with tarfile.open(str(ARCHIVE), 'r|gz') as archive:
        for member in archive:
            part, _, rest = member.name.partition('/')
            name, _, file = rest.partition('/')
            if part == 'test' and file and len(found.setdefault(name, [])) < EACH:
                found[name].append(decode_image(archive.extractfile(member).read(), member.name))
    return found


@every_release
def test_it_recognises_what_it_has_recorded(release, cifar10):
    """On a few test images, as often as on all, as far as so few can tell (five deviations)."""
    if release.training['data_set'] != 'cifar10':
        pytest.skip('trained on %s' % release.training['data_set'])
    images = np.concatenate([cifar10[name] for name in release.classes])
    labels = np.repeat(np.arange(len(release.classes)), EACH)
    preprocessing = release.preprocessing
    prepared = ((images - np.array(preprocessing.mean)) / np.array(preprocessing.std)).transpose(
        0, 3, 1, 2)
    right = (release.load()(mx.nd.array(prepared)).asnumpy().argmax(1) == labels).mean()
    recorded = release.figures['val_top1']
    assert abs(right - recorded) < 5 * math.sqrt(recorded * (1 - recorded) / len(labels))
