"""Query tables: the rule, the published figures, the files, and the model that uses a table."""

import csv
import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from slimmable_cases import SMALL, WRN, close, images, small
from test_models_slimmable import EXPECTED

import igcnet
from igcnet.data.reader import EvalBatch
from igcnet.deploy import AdaptiveModel
from igcnet.deploy.query_table import (
    Pair,
    QueryTable,
    blank_network,
    read_statistics,
    read_table,
    statistics_path,
    weights_checksum,
    write_table,
)
from igcnet.errors import CheckpointError, UsageError
from igcnet.layers.resolution import at_resolution
from igcnet.registry import get_spec
from igcnet.train.calibrate import calibrate
from igcnet.train.grid import Latency, counts, measure, open_table, plot_frontier, remaining

SETTINGS = dict(SMALL[WRN][0], classes=4)
PREPROCESSING = get_spec(WRN).preprocessing
PAIRS = [(width, resolution) for width in (1.0, 0.8, 0.5) for resolution in (32, 20)]


def pair(macs, top1, milliseconds=1.0, width=1.0, resolution=32):
    return Pair(width, resolution, macs, 10, milliseconds, 100, top1, 1.0, 0.5, 'none')


def table_of(*pairs):
    return QueryTable(WRN, SETTINGS, 'none', PREPROCESSING, None, {}, list(pairs))


# The rule


def test_best_is_the_most_accurate_within_the_budget():
    rows = [pair(100, 0.5), pair(200, 0.7), pair(300, 0.6), pair(400, 0.8)]
    table = table_of(*rows[::-1])
    assert table.best(macs=100) == rows[0] and table.best(macs=199.5) == rows[0]
    assert table.best(macs=350) == rows[1] and table.best(macs=1e9) == rows[3]
    with pytest.raises(UsageError, match='budget of 99 macs: too small; .* take 100 macs'):
        table.best(macs=99)
    for wrong in ({}, {'macs': None}, {'flops': 3}):
        with pytest.raises(UsageError, match='give macs or milliseconds'):
            table.best(**wrong)
    with pytest.raises(UsageError, match='there are none'):
        table_of().best(macs=1)


def test_ties_go_to_the_cheaper():
    cheap, dear, slow = pair(100, 0.5), pair(200, 0.5), pair(100, 0.5, 2.0)
    assert table_of(dear, slow, cheap).best(macs=300) == cheap


def test_two_budgets_at_once():
    rows = [pair(100, 0.5, 9), pair(200, 0.4, 5), pair(300, 0.9, 4)]
    assert table_of(*rows).best(macs=250, milliseconds=6) == rows[1]


def test_frontier_rises_in_cost_and_accuracy():
    draw = np.random.RandomState(0)
    rows = [pair(int(macs), float(top1), float(ms)) for macs, top1, ms in zip(
        draw.randint(1, 50, 80), draw.randint(0, 30, 80) / 30, draw.rand(80))]
    table = table_of(*rows)
    for cost in ('macs', 'milliseconds'):
        front = table.frontier(cost)
        steps = [(getattr(row, cost), row.top1) for row in front]
        assert len(front) >= 3
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in zip(steps, steps[1:]))
        for row in rows:  # none is better than the one that its own budget selects
            assert table.best(**{cost: getattr(row, cost)}).top1 >= row.top1


@pytest.mark.parametrize('name', EXPECTED['published_mflops'])
def test_counts_are_the_published_ones(name):
    """Every row of the original's two query tables, within a million."""
    blank = igcnet.get_model(name)
    for published, width, size in EXPECTED['published_mflops'][name]:
        macs, parameters = counts(blank, width, size)
        assert abs(macs / 1e6 - published) < 1
        row = [row for row in EXPECTED['sub_networks'] if (row['name'], row['width']) == (
            name, width)]
        if row and row[0]['parameters']:
            assert parameters == row[0]['parameters']


# Measuring


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A network, its table, and the images that it was measured on."""
    folder = tmp_path_factory.mktemp('table')
    net = small()
    net.save_parameters(str(folder / 'net.params'))
    net.hybridize(static_alloc=True)
    batches = [images(size=32, seed=seed).asnumpy() for seed in (1, 2)]
    labels = np.array([0, 1, 2, 3], np.float32)
    validation = [EvalBatch(batch, labels, np.arange(4)) for batch in batches]
    wanted = QueryTable(WRN, SETTINGS, weights_checksum(net), PREPROCESSING, list('abcd'),
                        {'calibration': {'batches': 2}})
    blank = blank_network(WRN, SETTINGS, 'test')
    seen = []

    def run(prefix, pairs=PAIRS):
        table = open_table(prefix, replace(wanted, pairs=[]))
        return measure(net, blank, table, prefix, remaining(table, prefix, pairs),
                       lambda: batches, validation, [mx.cpu()], Latency(1, 2),
                       on_pair=lambda row: seen.append(row.name))

    run(folder / 'table')
    return folder, net, batches, validation, run, seen


def test_rows_are_what_calibration_and_evaluation_give(world):
    folder, net, batches, validation, _, _ = world
    table = read_table(folder / 'table.json')
    assert [(row.width, row.resolution) for row in table.pairs] == PAIRS
    for row in table.pairs:
        calibrate(net, batches, row.width, row.resolution)
        logits = [net(at_resolution(mx.nd.array(batch.images), row.resolution),
                      width=row.width).asnumpy() for batch in validation]
        right = sum((part.argmax(1) == np.arange(4)).sum() for part in logits)
        assert row.top1 == right / 8 and row.images == 8 and row.milliseconds > 0
        stored = read_statistics(folder / 'table.json', row)
        for layer, values in net.running_statistics(row.width).items():
            for mine, theirs in zip(values, stored[layer]):
                np.testing.assert_array_equal(mine.asnumpy(), theirs.asnumpy())
    rows = list(csv.DictReader((folder / 'table.csv').open()))
    assert [(float(row['width']), int(row['resolution'])) for row in rows] == PAIRS
    for cost in ('macs', 'milliseconds'):
        marked = {(float(row['width']), int(row['resolution'])) for row in rows
                  if row['frontier_' + cost] == '1'}
        assert marked == {(p.width, p.resolution) for p in table.frontier(cost)}


def test_an_interrupted_measurement_goes_on(world, tmp_path):
    folder, _, _, _, run, seen = world
    before = len(seen)
    run(tmp_path / 'new', PAIRS[:2])
    (statistics_path(tmp_path / 'new.json', '1.0-20')).unlink()
    run(tmp_path / 'new', PAIRS)
    assert seen[before:] == ['1.0-32', '1.0-20', '1.0-20', '0.8-32', '0.8-20', '0.5-32', '0.5-20']
    one, other = (read_table(path) for path in (folder / 'table.json', tmp_path / 'new.json'))
    assert [replace(p, milliseconds=0) for p in sorted(one.pairs, key=repr)] == [
        replace(p, milliseconds=0) for p in sorted(other.pairs, key=repr)]


@pytest.mark.parametrize('change, message', [
    (dict(weights='other'), r'begun with other weights \(checksum\)'),
    (dict(made_with={'calibration': {'batches': 3}}), 'begun with other calibration'),
    (dict(settings={}), 'begun with other settings'), (dict(classes=None), 'other classes')])
def test_a_table_of_something_else_is_not_continued(world, change, message):
    folder = world[0]
    with pytest.raises(CheckpointError, match=message):
        open_table(folder / 'table', replace(read_table(folder / 'table.json'), **change))


def test_impossible_pairs_stop_before_anything_is_measured(world, tmp_path):
    run, seen = world[4], len(world[5])
    for wrong, message in (((0.3, 32), 'width 0.3: this network takes widths from 0.5 to 1'),
                           ((1.0, 3), 'resolution 3: .*empty')):
        with pytest.raises(UsageError, match=message):
            run(tmp_path / 'table', [PAIRS[0], wrong])
    assert len(world[5]) == seen and not (tmp_path / 'table.json').exists()


def test_logits_that_are_not_finite(world, tmp_path):
    _, net, batches, _, run, _ = world
    bias = net.output.bias.data().copy()
    net.output.bias.set_data(bias * float('nan'))
    with pytest.raises(CheckpointError, match='width 1 at resolution 32: the logits are not fin'):
        run(tmp_path / 'table', PAIRS[:1])
    net.output.bias.set_data(bias)


def test_plot(world, tmp_path):
    table = read_table(world[0] / 'table.json')
    assert plot_frontier(table, tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


# Using


@pytest.mark.parametrize('size', [32, 40])
def test_the_model_runs_every_pair(world, size):
    """With the statistics of the pair, whatever ran before it; no weight is loaded again."""
    folder, net, batches, _, _, _ = world
    model = AdaptiveModel(folder / 'net.params', folder / 'table.json')
    x = images(size=size, seed=9)
    weight = model._net.features.conv.weight.data()
    for width, resolution in [*PAIRS, *PAIRS[::-1]]:
        row = model.use(width, resolution)
        assert (row.width, row.resolution) == (width, resolution) and model.pair == row
        calibrate(net, batches, width, resolution)
        close(model(x.asnumpy()).asnumpy(),
              net(at_resolution(x, resolution), width=width).asnumpy(), 1e-5)
    assert model._net.features.conv.weight.data() is weight
    assert model._net.graphs.made == 3  # one for each width
    with pytest.raises(UsageError, match='width 0.9 at resolution 32: not in the table'):
        model.use(0.9, 32)


def test_the_model_selects_by_budget(world):
    folder = world[0]
    model = AdaptiveModel(folder / 'net.params', folder / 'table.json')
    table = model.table
    assert model.pair.top1 == max(row.top1 for row in table.pairs)
    for row in table.pairs:
        assert model.select(macs=row.macs) == table.best(macs=row.macs) == model.pair
        assert model.select(milliseconds=row.milliseconds).milliseconds <= row.milliseconds
    kept = model.pair
    with pytest.raises(UsageError, match='too small'):
        model.select(macs=10)
    assert model.pair == kept


def test_statistics_common_to_all_widths_follow_the_pair(tmp_path):
    """The last BN of MobileNet v2 has one set, of which each pair needs its own values."""
    name = 'mobilenet_v2_us'
    net, x = small(name), images()
    net.save_parameters(str(tmp_path / 'net.params'))
    settings = dict(SMALL[name][0], classes=4)
    table = QueryTable(name, settings, weights_checksum(net), get_spec(name).preprocessing, None,
                       {})
    validation = [EvalBatch(x.asnumpy(), np.zeros(4, np.float32), np.arange(4))]
    measure(net, blank_network(name, settings, ''), table, tmp_path / 't',
            [(0.25, 64), (0.5, 32)], lambda: [x], validation, [mx.cpu()], Latency(1, 1))
    model = AdaptiveModel(tmp_path / 'net.params', tmp_path / 't.json')
    for width, resolution in ((0.25, 64), (0.5, 32), (0.25, 64)):
        model.use(width, resolution)
        calibrate(net, [x], width, resolution)
        close(model(x).asnumpy(), net(at_resolution(x, resolution), width=width).asnumpy(), 1e-5)


def test_files_that_do_not_belong_together(world, tmp_path):
    folder = world[0]
    other = small()
    other.output.bias.set_data(other.output.bias.data() + 1)
    other.save_parameters(str(tmp_path / 'other.params'))
    with pytest.raises(CheckpointError, match='table.json: .*made for other weights than those in'
                                              '.*other.params'):
        AdaptiveModel(tmp_path / 'other.params', folder / 'table.json')
    calibrate(other, [images(size=32)], 0.5)  # statistics are no weights
    assert weights_checksum(other) != weights_checksum(small())
    table = read_table(folder / 'table.json')
    write_table(table, tmp_path / 'alone')
    with pytest.raises(CheckpointError, match='1.0-32.params: cannot read'):
        AdaptiveModel(folder / 'net.params', tmp_path / 'alone.json')
    for name in ('1.0-32', '1.0-20'):
        path = statistics_path(tmp_path / 'alone.json', name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(statistics_path(folder / 'table.json', '1.0-32').read_bytes())
    with pytest.raises(CheckpointError, match='1.0-20.params: its checksum is not the one'):
        AdaptiveModel(folder / 'net.params', tmp_path / 'alone.json')


@pytest.mark.parametrize('change, message', [
    (dict(format='other'), 'not a query table'), (dict(version=2), 'not a query table'),
    (dict(pairs=[{}]), 'not a query table'), (dict(pairs=7), 'not a query table'),
    (dict(pairs=[]), 'no pairs yet'), (dict(weights=3), 'not a query table'),
    (dict(network='nothing'), 'unknown network'), (dict(classes='ab'), 'not a query table'),
    (dict(network='resnet_igc', settings={}), 'has one width only'),
    (dict(settings={'depth': 'x'}), 'do not work'), (dict(settings={'deep': 1}), 'do not work'),
    (dict(preprocessing={}), 'preprocessing is damaged')])
def test_damaged_tables_are_one_line(world, tmp_path, change, message):
    folder = world[0]
    values = json.loads((folder / 'table.json').read_text())
    (tmp_path / 'bad.json').write_text(json.dumps({**values, **change}))
    with pytest.raises((CheckpointError, UsageError), match=message) as caught:
        AdaptiveModel(folder / 'net.params', tmp_path / 'bad.json')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('change, message', [
    (dict(width=0.3), 'width 0.3: this network takes widths from 0.5 to 1'),
    (dict(resolution=2), 'resolution 2: .*empty'), (dict(width=float('nan')), 'not a query table'),
    (dict(macs=1.5), 'not a query table'), (dict(top1=True), 'not a query table'),
    (dict(milliseconds=-1.0), 'not a query table'), (dict(macs=10 ** 400), 'not a query table'),
    (dict(resolution=10 ** 6), 'take at most 4096')])
def test_damaged_pairs_are_one_line(world, tmp_path, change, message):
    folder = world[0]
    values = json.loads((folder / 'table.json').read_text())
    name = '%(width)r-%(resolution)d' % {**values['pairs'][0], **change}
    values['pairs'] = [{**values['pairs'][0], **change}]
    (tmp_path / 'bad.json').write_text(json.dumps(values))
    path = statistics_path(tmp_path / 'bad.json', name)
    path.parent.mkdir()
    path.write_bytes(statistics_path(folder / 'table.json', '1.0-32').read_bytes())
    with pytest.raises(CheckpointError, match=message) as caught:
        AdaptiveModel(folder / 'net.params', tmp_path / 'bad.json')
    assert '\n' not in str(caught.value)
