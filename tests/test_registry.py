"""Named configurations: look-up, overrides, and the messages for mistakes."""

import pytest

import igcnet
from igcnet import registry
from igcnet.errors import UsageError
from igcnet.layers import Network
from igcnet.registry import ModelSpec, Preprocessing

SIZE_8 = Preprocessing(8, (0, 0, 0), (1, 1, 1))


def test_every_name_builds_a_network():
    for name in igcnet.list_models():
        spec, net = igcnet.get_spec(name), igcnet.get_model(name)
        assert isinstance(net, Network)
        assert net.classes == spec.settings()['classes']
        assert net.input_size == spec.preprocessing.input_size
        assert len(spec.preprocessing.mean) == len(spec.preprocessing.std) == 3


def test_list_models():
    names = igcnet.list_models()
    assert names == sorted(names) and 'plain_igc' in names
    assert igcnet.list_models('plain') == ['plain']
    chosen = igcnet.list_models('resnet_igc*')
    assert 'resnet_igc_d20l24m2' in chosen
    assert chosen == [name for name in names if name.startswith('resnet_igc')]
    assert igcnet.list_models('nothing*') == []


def test_get_spec():
    spec = igcnet.get_spec('resnet_igc_d38l24m2')
    assert (spec.name, spec.family) == ('resnet_igc_d38l24m2', 'igc')
    assert spec.settings() == {'depth': 38, 'primary_partition': 24, 'secondary_partition': 2,
                               'classes': 10}


def test_settings_are_the_constructor_s_defaults_and_the_configuration():
    def constructor(depth: int = 3, width: float = 1.0, classes: int = 10):
        raise AssertionError

    spec = ModelSpec('x', 'test', constructor, SIZE_8, dict(width=0.5))
    assert spec.settings() == {'depth': 3, 'width': 0.5, 'classes': 10}


def test_overrides():
    """An override beats the configuration; without an override the configuration holds."""
    assert igcnet.get_model('resnet_c69_imagenet').stages[0].channels == 69
    net = igcnet.get_model('resnet_c69_imagenet', primary_partition=6, classes=7)
    assert (net.stages[0].channels, net.classes) == (6, 7)


def test_unknown_keyword():
    with pytest.raises(TypeError) as caught:
        igcnet.get_model('plain', doubling='primary', dpeth=8)
    assert str(caught.value) == ('plain has no setting doubling, dpeth; it has classes, depth, '
                                 'primary_partition, secondary_partition')


@pytest.mark.parametrize('name, near', [('plain_ig', 'plain_igc'), ('resnet-igc', 'resnet_igc'),
                                        ('resnet_c64', 'resnet_c64_imagenet')])
def test_unknown_name_lists_near_names(name, near):
    for call in (igcnet.get_model, igcnet.get_spec):
        with pytest.raises(UsageError, match='did you mean ') as caught:
            call(name)
        message = str(caught.value)
        assert message.startswith('unknown network %r' % name) and near in message
        assert '\n' not in message


def test_unknown_name_like_none():
    with pytest.raises(UsageError, match='see `igcnet list`'):
        igcnet.get_model('zzzzzz')


def test_a_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(registry, '_SPECS', {})
    spec = ModelSpec('x', 'test', dict, SIZE_8)
    registry.register([spec])
    with pytest.raises(ValueError, match='x is registered twice'):
        registry.register([spec])


def test_package_names():
    assert {'get_model', 'get_spec', 'list_models', '__version__'} <= set(dir(igcnet))
    with pytest.raises(AttributeError, match='get_modle'):
        igcnet.get_modle  # noqa: B018
