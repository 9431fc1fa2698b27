"""Counting on small networks whose numbers are known by hand, and the table of networks."""

import csv
import io

import mxnet as mx
import pytest
from conftest import REPO, needs_checkout
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo import vision

import igcnet
from igcnet.deploy.released import summaries
from igcnet.errors import IgcnetError, UsageError
from igcnet.layers import BatchNorm, Conv2D, Dense, Flatten, Pool2D, named_sequential
from igcnet.profiling import count_macs, count_parameters, format_csv, format_table, profile
from igcnet.profiling.table import (
    BEGIN,
    END,
    network_row,
    networks_markdown,
    replace_section,
    update_file,
)
from igcnet.registry import list_models


def one_layer(layer, shape):
    """(parameters, multiply-adds, output shape) of a network of one layer."""
    net = nn.HybridSequential()
    net.add(layer)
    counted = profile(net, shape)
    assert counted.macs == count_macs(net, shape)
    return counted.parameters, counted.macs, counted.layers[-1].output_shape


@pytest.mark.parametrize('layer, shape, expected', [
    (nn.Conv2D(16, 3, padding=1, use_bias=False, in_channels=8), (1, 8, 10, 12),
     (16 * 8 * 9, 16 * 8 * 9 * 120, (1, 16, 10, 12))),
    # A bias is a parameter and no multiply-add.
    (nn.Conv2D(16, 3, padding=1, in_channels=8), (1, 8, 10, 12),
     (16 * 8 * 9 + 16, 16 * 8 * 9 * 120, (1, 16, 10, 12))),
    # Every image of the batch counts.
    (nn.Conv2D(16, 1, strides=2, groups=4, use_bias=False, in_channels=8), (3, 8, 9, 9),
     (16 * 2, 3 * 16 * 2 * 25, (3, 16, 5, 5))),
    # Depthwise.
    (nn.Conv2D(8, 3, groups=8, use_bias=False, in_channels=8), (1, 8, 6, 6),
     (8 * 9, 8 * 9 * 16, (1, 8, 4, 4))),
    # Dilation changes the map, not the kernel.
    (nn.Conv2D(4, 3, dilation=2, use_bias=False, in_channels=2), (1, 2, 9, 9),
     (4 * 2 * 9, 4 * 2 * 9 * 25, (1, 4, 5, 5))),
    (nn.Conv1D(4, 5, use_bias=False, in_channels=3), (2, 3, 20),
     (4 * 3 * 5, 2 * 4 * 3 * 5 * 16, (2, 4, 16))),
    (nn.Conv3D(4, 2, use_bias=False, in_channels=3), (1, 3, 4, 4, 4),
     (4 * 3 * 8, 4 * 3 * 8 * 27, (1, 4, 3, 3, 3))),
    # Each input value meets one kernel of its group.
    (nn.Conv2DTranspose(6, 4, strides=2, padding=1, groups=2, use_bias=False, in_channels=8),
     (1, 8, 5, 5), (8 * 3 * 16, 8 * 3 * 16 * 25, (1, 6, 10, 10))),
    (nn.Dense(10, in_units=48), (2, 3, 4, 4), (490, 2 * 480, (2, 10))),
    (nn.Dense(10, in_units=4, flatten=False, use_bias=False), (2, 3, 5, 4),
     (40, 2 * 3 * 5 * 40, (2, 3, 5, 10))),
    (nn.BatchNorm(in_channels=6), (1, 6, 4, 4), (12, 0, (1, 6, 4, 4))),
    (nn.PReLU(), (1, 6, 4, 4), (1, 0, (1, 6, 4, 4))),
    (nn.MaxPool2D(2), (1, 6, 4, 4), (0, 0, (1, 6, 2, 2)))])
def test_one_layer(layer, shape, expected):
    assert one_layer(layer, shape) == expected


def small_net():
    return named_sequential(
        conv=Conv2D('conv', 3, 8, 3, padding=1), bn=BatchNorm('bn', 8),
        pool=Pool2D('pool', 'avg', 8), flatten=Flatten('flatten'), fc=Dense('fc', 8, 5))


def test_layers():
    """Every operator in order, with gamma and beta at their own layer; nothing initialised."""
    counted = profile(small_net(), (1, 3, 8, 8))
    assert [tuple(layer) for layer in counted.layers] == [
        ('conv', 'Convolution', (1, 8, 8, 8), 216, 0, 216 * 64),
        ('bn', 'BatchNorm', (1, 8, 8, 8), 16, 16, 0),
        ('pool', 'Pooling', (1, 8, 1, 1), 0, 0, 0),
        ('flatten', 'Flatten', (1, 8), 0, 0, 0),
        ('fc', 'FullyConnected', (1, 5), 45, 0, 40)]
    assert counted.split() == {'conv': 216, 'bn': 16, 'fc': 45, 'other': 0, 'aux': 16}
    assert (counted.parameters, counted.auxiliary, counted.macs) == (277, 16, 216 * 64 + 40)
    assert [layer.name for layer in counted.rows()] == ['conv', 'bn', 'fc']
    assert counted.rows(every_operator=True) == counted.layers


def test_state_of_the_network_does_not_matter():
    """Initialised, hybridised and used: the same counts, and it still computes."""
    net = small_net()
    before = profile(net, (1, 3, 8, 8))
    net.initialize()
    net.hybridize()
    data = mx.nd.ones((2, 3, 8, 8))
    out = net(data).asnumpy()
    assert profile(net, (1, 3, 8, 8)) == before
    assert (net(data).asnumpy() == out).all()


def test_frozen_parameters_are_not_trainable():
    net = small_net()
    net.conv.weight.grad_req = 'null'
    assert count_parameters(net) == profile(net, (1, 3, 8, 8)).parameters == 277 - 216
    assert profile(net, (1, 3, 8, 8)).auxiliary == 16 + 216


def test_sizes_that_follow_from_the_input():
    """Gluon layers without in_channels: the profile infers them, count_parameters cannot."""
    net = nn.HybridSequential(prefix='')
    net.add(nn.Conv2D(4, 3, prefix='first_'), nn.Dense(2, prefix='last_'))
    assert profile(net, (1, 3, 6, 6)).parameters == 4 * 27 + 4 + 4 * 16 * 2 + 2
    with pytest.raises(UsageError, match='first_weight: the size is unknown'):
        count_parameters(net)


@pytest.mark.parametrize('name, parameters, macs', [
    ('alexnet', 61100840, 714188480), ('resnet18_v1', 11689512, 1814073344)])
def test_known_networks(name, parameters, macs):
    counted = profile(vision.get_model(name), (1, 3, 224, 224))
    assert (counted.parameters, counted.macs) == (parameters, macs)


class Sliced(HybridBlock):
    """Uses half of the input channels of its weight, and the same convolution twice."""

    def __init__(self):
        super().__init__(prefix='')
        self.weight = self.params.get('sliced_weight', shape=(4, 8, 1, 1))
        self.scale = self.params.get_constant('sliced_scale', mx.nd.ones((1, 1, 1, 1)))
        self.shared = nn.Conv2D(4, 1, use_bias=False, in_channels=4, prefix='shared_')
        self.unused = nn.Dense(3, in_units=7, use_bias=False, prefix='unused_')

    def hybrid_forward(self, F, x, weight, scale):
        half = F.broadcast_mul(F.slice_axis(weight, axis=1, begin=0, end=4), scale)
        x = F.Convolution(x, half, kernel=(1, 1), num_filter=4, no_bias=True, name='narrow')
        x = self.shared(self.shared(x))
        return x, [F.relu(x)]


def test_computed_and_shared_weights():
    net = Sliced()
    counted = profile(net, (1, 4, 5, 5))
    rows = [(layer.operator, layer.parameters, layer.auxiliary, layer.macs)
            for layer in counted.layers]
    # The whole weight (and its constant factor) is a parameter, the slice is what multiplies;
    # the shared convolution has its weight at the first use and works twice.
    assert rows == [('Convolution', 32, 1, 16 * 25), ('Convolution', 16, 0, 16 * 25),
                    ('Convolution', 0, 0, 16 * 25), ('relu', 0, 0, 0)]
    assert count_parameters(net) == counted.parameters + 21  # the layer that no data reaches


@pytest.mark.parametrize('shape, message', [
    ((1, 3, 40, 40), 'input 1x3x40x40 does not fit the network: fc_score: .*; '
                     'it is made for images of 32x32'),
    ((1, 3, 8, 8), r'global_pool: kernel size \(8\) exceeds input'),
    ((1, 1, 32, 32), 'input 1x1x32x32 does not fit the network: g0_conv: '),
    ((3, 32, 32), 'input 3x32x32 does not fit'),
    ((1, 3, 0, 32), 'every extent'),
    ((1, 3, 2 ** 31, 32), 'every extent'),
    ((), 'every extent')])
def test_input_that_does_not_fit(shape, message, capfd):
    with pytest.raises(UsageError, match=message) as caught:
        profile(igcnet.get_model('plain'), shape)
    assert '\n' not in str(caught.value) and 'src/' not in str(caught.value)
    assert capfd.readouterr() == ('', '')


def test_format_table():
    lines = format_table(profile(small_net(), (1, 3, 8, 8))).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ['conv', 'Convolution', '1x8x8x8', '216', '13,824'], ['bn', 'BatchNorm', '1x8x8x8',
                                                              '16', '-'],
        ['fc', 'FullyConnected', '1x5', '45', '40']]
    assert lines[5].split() == ['total', '277', '13,864']
    assert {len(line) for line in lines[:6]} == {len(lines[0])}
    assert 'conv 216 + bn 16 + fc 45' in '\n'.join(lines)
    every = format_table(profile(small_net(), (1, 3, 8, 8)), every_operator=True)
    assert len(every.splitlines()) == len(lines) + 2 and 'pool ' in every


def test_format_csv():
    rows = list(csv.DictReader(io.StringIO(format_csv(profile(small_net(), (1, 3, 8, 8))))))
    assert rows[0] == {'name': 'conv', 'operator': 'Convolution', 'output_shape': '1x8x8x8',
                       'parameters': '216', 'auxiliary': '0', 'macs': '13824'}
    assert [row['name'] for row in rows] == ['conv', 'bn', 'fc']


# The table of networks


def test_network_row():
    row = network_row('resnet_c69_imagenet')
    assert (row.family, row.input_size) == ('igc', 224)
    assert (row.parameters, row.macs) == (13542457, 2098611264)
    assert row.figures == ['11.333 M', '2,100 M', '30.58 %', '10.77 %']
    assert network_row('plain').figures == ['-'] * 4
    assert row.as_dict()['published']['top1_error'] == 30.58
    assert network_row('plain').as_dict()['published'] is None


def test_networks_markdown():
    text = networks_markdown(['igc_l4m32_imagenet', 'plain'])
    table = [[cell.strip() for cell in line.strip('|').split('|')]
             for line in text.splitlines() if line.startswith('|')]
    assert {len(row) for row in table} == {9}
    assert table[2][:8] == ['`igc_l4m32_imagenet`', '224', '12,251,240', '1,944,641,536',
                            '11.205 M', '1,900 M', '30.77 %', '10.99 %']
    assert table[3][:4] == ['`plain`', '32', '269,722', '40,551,040']
    assert text.count('### igc\n') == 1
    assert 'hellozting/InterleavedGroupConvolutions (ImageNet)' in text
    assert 'Published: ' not in networks_markdown(['plain'])
    noted = networks_markdown(['plain', 'resnet'], {'plain': 'top-1 90 %'})
    assert noted.count('released weights') == 1
    assert '; released weights: top-1 90 % |' in noted


@needs_checkout
def test_readme_is_in_step():
    """`make tables` writes it."""
    text = (REPO / 'README.md').read_text(encoding='utf-8')
    assert replace_section(text, networks_markdown(list_models(), summaries()),
                           'README.md') == text


def test_update_file(tmp_path):
    path = tmp_path / 'page.md'
    path.write_text('before\n%s\nold\n%s\nafter\n' % (BEGIN, END))
    assert update_file(path, ['plain'])
    assert path.read_text() == 'before\n%s\n%s\n%s\nafter\n' % (
        BEGIN, networks_markdown(['plain']), END)
    assert not update_file(path, ['plain'])


@pytest.mark.parametrize('text', ['', BEGIN, END, END + BEGIN, BEGIN + END + END,
                                  BEGIN + BEGIN + END])
def test_markers_missing_or_doubled(text, tmp_path):
    path = tmp_path / 'page.md'
    path.write_text(text)
    with pytest.raises(IgcnetError, match='page.md: needs the lines'):
        update_file(path, ['plain'])
    assert path.read_text() == text
    with pytest.raises(IgcnetError, match='none.md: cannot read it'):
        update_file(tmp_path / 'none.md', ['plain'])
