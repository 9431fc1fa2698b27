"""Weights to start from, out of files of any layout."""

import mxnet as mx
import numpy as np
import pytest
from small_networks import SMALL, random_network, refused, values

import igcnet
from igcnet.convert import save_original, write_ndarrays
from igcnet.convert.torch_convert import family_of, save_torch
from igcnet.registry import get_spec
from igcnet.train.pretrained import load_weights

CPU = [mx.cpu()]


def fresh(name, **settings):
    net = igcnet.get_model(name, **settings)
    net.initialize()
    return net


def assert_features_are(net, source):
    before, found = values(source), values(net)
    for name, array in found.items():
        if name.startswith(('fc_', 'classifier_')):
            assert array.shape != before[name].shape
        else:
            np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize('layout', ['original', 'gluon'])
def test_a_new_classifier_on_the_features_of_a_params_file(tmp_path, layout):
    source = random_network(classes=7, **SMALL)
    if layout == 'original':
        save_original(source, str(tmp_path / 'net'), 1)
        path = tmp_path / 'net-0001.params'
    else:
        path = tmp_path / 'net.params'
        source.save_parameters(str(path))
    net = fresh('resnet_igc', classes=3, **SMALL)
    kept = net.output.weight.data().asnumpy()
    load_weights(net, get_spec('resnet_igc'), path, CPU, new_classifier=True)
    assert_features_are(net, source)
    np.testing.assert_array_equal(net.output.weight.data().asnumpy(), kept)
    refused(lambda: load_weights(net, get_spec('resnet_igc'), path, CPU), 'fc_weight', '(7, ',
            '(3, ')


def test_a_classifier_of_the_same_size_is_new_as_well(tmp_path):
    source = random_network(**SMALL)
    save_original(source, str(tmp_path / 'net'), 1)
    net = fresh('resnet_igc', **SMALL)
    kept = net.output.weight.data().asnumpy()
    load_weights(net, get_spec('resnet_igc'), tmp_path / 'net-0001.params', CPU, True)
    np.testing.assert_array_equal(net.output.weight.data().asnumpy(), kept)


def test_a_file_without_classifier_will_do(tmp_path):
    source = random_network(**SMALL)
    path = tmp_path / 'net.params'
    write_ndarrays(path, {k: v for k, v in values(source).items() if not k.startswith('fc_')})
    net = fresh('resnet_igc', classes=3, **SMALL)
    load_weights(net, get_spec('resnet_igc'), path, CPU, new_classifier=True)
    assert_features_are(net, source)


def test_all_but_the_classifier_must_match(tmp_path):
    spec, net = get_spec('resnet_igc'), fresh('resnet_igc', classes=3, **SMALL)
    before = values(net)
    path = tmp_path / 'net.params'
    whole = values(random_network(**SMALL))
    for change, words in ((lambda a: a.pop('g0_conv_weight'), ('1 missing', 'g0_conv_weight')),
                          (lambda a: a.update(x=np.ones(2)), ('1 unexpected', 'x')),
                          (lambda a: a.update(g0_conv_weight=np.ones((3, 3, 3, 3))),
                           ('1 of another shape', 'g0_conv_weight'))):
        arrays = dict(whole)
        change(arrays)
        write_ndarrays(path, arrays)
        refused(lambda: load_weights(net, spec, path, CPU, new_classifier=True), *words)
    for name, array in values(net).items():
        np.testing.assert_array_equal(array, before[name])


def test_checkpoints_of_pytorch_originals(tmp_path):
    spec = get_spec('mobilenet')
    source = random_network('mobilenet', width_mul=0.25, classes=7)
    path = tmp_path / 'mobilenet.pth.tar'
    save_torch(source, family_of(spec), path)
    same = fresh('mobilenet', width_mul=0.25, classes=7)
    load_weights(same, spec, path, CPU)
    for name, array in values(same).items():
        np.testing.assert_array_equal(array, values(source)[name])
    net = fresh('mobilenet', width_mul=0.25, classes=3)
    kept = net.output.weight.data().asnumpy()
    load_weights(net, spec, path, CPU, new_classifier=True)
    assert_features_are(net, source)
    np.testing.assert_array_equal(net.output.weight.data().asnumpy(), kept)
    refused(lambda: load_weights(net, spec, path, CPU), 'mobilenet.pth.tar')
    wider = fresh('mobilenet', width_mul=0.5, classes=3)
    refused(lambda: load_weights(wider, spec, path, CPU, new_classifier=True), 'another shape')
    other = fresh('shallow_mobilenet', width_mul=0.25, classes=3)
    refused(lambda: load_weights(other, get_spec('shallow_mobilenet'), path, CPU,
                                 new_classifier=True), 'mobilenet.pth.tar')


def test_rubbish_is_refused(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'no checkpoint at all')
    refused(lambda: load_weights(fresh('mobilenet', width_mul=0.25), get_spec('mobilenet'), path,
                                 CPU), str(path))
    refused(lambda: load_weights(fresh('resnet_igc', **SMALL), get_spec('resnet_igc'), path, CPU),
            str(path), 'no .params file')
