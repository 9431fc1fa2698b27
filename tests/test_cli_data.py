"""`igcnet data bench`: numbers of every preset, from records and from memory."""

import re

import pytest
from synthetic import noise, smooth, write_records

from igcnet.cli import data as cli
from igcnet.data.augment import PRESETS, find_augmentation
from igcnet.data.benchmark import Rate, preset_rates, timed_epoch
from igcnet.data.reader import TrainReader
from igcnet.data.records import RecordFile


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp('records') / 'small', noise(20), range(20))


def test_a_line_for_every_preset(small, capsys):
    assert cli.main(['bench', str(small), '--seconds', '0.01', '--batch-size', '4']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('20 images, crops of 32x32, batches of 4')
    width = max(map(len, PRESETS))
    rows = {line[:width].strip(): line[width:].split() for line in lines[2:]}
    assert set(rows) == {'one thread: read', 'one thread: decoded', *PRESETS}
    for name, numbers in rows.items():
        assert len(numbers) == 1 + (name in PRESETS)
        assert all(float(number.replace(',', '')) > 20 for number in numbers), (name, numbers)


def test_images_of_several_sizes_have_no_number_from_memory(tmp_path, capsys):
    path = write_records(tmp_path / 'a', [smooth(40, 50 + n) for n in range(6)], range(6))
    rates = preset_rates(RecordFile(path), 'igc-2', 32, 2, seconds=0.01)
    assert rates.decoding.images >= 2 and rates.from_memory is None
    assert cli.main(['bench', str(path), '--preset', 'igc-2', '--seconds', '0.01']) == 0
    assert re.search(r'^igc-2 +[\d,]+ *$', capsys.readouterr().out, re.M)


def test_a_preset_that_cannot_work_says_why(small, capsys):
    assert cli.main(['bench', str(small), '--size', '64', '--preset', 'igc-1', '--preset',
                     'dgc-imagenet', '--seconds', '0.01']) == 0
    out = capsys.readouterr().out
    assert re.search(r'^igc-1: .*record 0 .* too few for a crop of 64x64', out, re.M)
    assert re.search(r'^dgc-imagenet +[\d,]+ +[\d,]+$', out, re.M)


def test_rates_count_every_image_of_an_epoch(small):
    reader = TrainReader(small, 8, find_augmentation('igc-1', 32, (0, 0, 0)), 0)
    rate = timed_epoch(reader, 0)
    assert rate.images == 24 and reader.in_memory
    assert str(Rate(24, 0.5)) == '24 images in 0.50 s, 48 images/s'


@pytest.mark.parametrize('options, code, message', [
    ([], 2, 'COMMAND'), (['bench'], 2, 'RECORDS'), (['bench', 'RECORDS', '--seconds', '0'], 2, '0'),
    (['bench', 'RECORDS', '--preset', 'igc-9'], 2, 'igc-9'),
    (['bench', '/nonexistent/a.rec'], 1, '/nonexistent/a.rec')])
def test_mistakes_are_one_line(small, capsys, options, code, message):
    assert cli.main([word.replace('RECORDS', str(small)) if word == 'RECORDS' else word
                     for word in options]) == code
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and message in error
