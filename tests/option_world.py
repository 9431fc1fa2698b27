"""Small files of every kind that the commands read, for the experiments of `option_effects`."""

import json

import mxnet as mx
import numpy as np
from networks import trained_looking
from pictures import file_bytes, make_tree, picture
from synthetic import noise, write_records

import igcnet
from igcnet.convert import read_ndarrays, save_original, write_ndarrays
from igcnet.convert.torch_convert import family_of, save_torch
from igcnet.deploy import export
from igcnet.registry import get_spec

CLASSES = ['circle', 'square', 'star']
# The networks of the words in `option_effects`: name, settings, and its two parameter files.
NETWORKS = [
    ('resnet_igc', dict(depth=8, primary_partition=2, secondary_partition=2, classes=3),
     ('net', 'net2')),
    ('dydensenet', dict(stages='1-1-1', growth='4-8-8', classes=3, heads=2, squeeze_rate=4),
     ('dynamic', 'dynamic2')),
    ('wideresnet28_10_us', dict(depth=10, widen_factor=1, width_mult_range=(0.5, 1.0),
                                width_mult_list=(0.5, 1.0), classes=4),
     ('slimmable', 'slimmable2'))]


def make_world(w):
    """Fill the folder `w` with records, image folders, and networks in all layouts."""
    for seed, (name, count) in enumerate((('train', 16), ('test', 8), ('other', 8))):
        labels = np.arange(count) % 3
        images = noise(count, seed=seed)
        for image, label in zip(images, labels):
            image[:, :, label] //= 4
        write_records(w / name, images, labels.astype(float), classes=CLASSES)
    (w / 'copy').mkdir()
    for name in ('train', 'test'):
        write_records(w / 'copy' / name, noise(16, seed=9), np.arange(16) % 3.0, classes=CLASSES)
    make_tree(w / 'tree', ['cat', 'dog'], 4)
    (w / 'tree' / 'dog' / '9.png').write_bytes(file_bytes(picture(), 'PNG'))
    for folder in ('a/deep', 'b'):
        make_tree(w / 'nested', [folder], 2)
    (w / 'hosts').write_text('127.0.0.1\n')
    for network, settings, files in NETWORKS:
        net = trained_looking(igcnet.get_model(network, **settings))
        for name in files:
            net.save_parameters(str(w / (name + '.params')))
            if network == 'dydensenet':
                save_torch(net, family_of(get_spec(network)), w / (name + '.pt'))
            if name == 'net':
                save_original(net, str(w / 'old'), 7)
                export(net, w / 'new', get_spec(network).preprocessing, network, settings, CLASSES)
            if name == 'dynamic':
                make_case(w / 'originals', net, settings)
            for parameter in net.collect_params().values():
                parameter.set_data(parameter.data() * 1.25)
    arrays = read_ndarrays(w / 'dynamic.params')
    arrays.pop('output.bias')
    write_ndarrays(w / 'part.params', arrays)


def make_case(folder, net, settings):
    """A case of `igcnet.deploy.originals` whose logits are off by a thousandth."""
    folder.mkdir()
    save_torch(net, family_of(get_spec('dydensenet')), folder / 'a.pt')
    (folder / 'a.json').write_text(json.dumps({
        'system': 'dgc', 'network': 'dydensenet', 'config': settings, 'num_classes': 3,
        'checkpoint': 'a.pt'}))
    x = np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32)
    np.savez(str(folder / 'a.npz'), x=x, logits=net(mx.nd.array(x)).asnumpy() + np.float32(1e-3))
