"""What a run writes while it goes, and how it is continued."""

import os
import subprocess
import sys

import pytest

from igcnet.errors import IgcnetError
from igcnet.train.runlog import RunLog, read_metrics


def test_metrics_and_timing_are_apart(tmp_path):
    log = RunLog(tmp_path)
    log.metrics('train', 3, loss=0.5)
    log.timing('train', 3, images_per_second=100.0)
    assert log.history == b'{"event": "train", "update": 3, "loss": 0.5}\n'
    assert (tmp_path / 'timing.jsonl').read_text() == (
        '{"event": "train", "update": 3, "images_per_second": 100.0}\n')


def test_going_on_drops_the_metrics_that_come_again_and_keeps_the_rest(tmp_path):
    log = RunLog(tmp_path)
    log.metrics('train', 1, loss=0.5)
    history = log.history
    for update in (2, 3):
        log.metrics('train', update, loss=0.25)
        log.timing('train', update)
        log.line('update %d' % update)
    # Killed in the middle of a line: nothing is closed.
    for name in ('log.txt', 'timing.jsonl', 'metrics.jsonl'):
        with open(tmp_path / name, 'ab') as file:
            file.write(b'half a')
    again = RunLog(tmp_path, history)
    again.line('resumed')
    again.timing('train', 2)
    assert [m['update'] for m in read_metrics(tmp_path)] == [1]
    lines = (tmp_path / 'log.txt').read_text().splitlines()
    assert lines[1].endswith('update 3') and lines[2] == 'half a'
    assert lines[3].endswith('resumed') and len(lines) == 4
    assert (tmp_path / 'timing.jsonl').read_text().splitlines()[2:] == [
        'half a', '{"event": "train", "update": 2}']
    again.metrics('train', 2, loss=0.25)
    again.rewind(history)
    again.metrics('rollback', 1, rollbacks=1)
    assert [m['event'] for m in read_metrics(tmp_path)] == ['train', 'rollback']
    assert b'\0' not in again.history


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
@pytest.mark.parametrize('name, write', [
    ('log.txt', lambda log: log.line('x')),
    ('timing.jsonl', lambda log: log.timing('train', 1, seconds=1.0))])
def test_a_full_disk_is_one_line(tmp_path, name, write):
    (tmp_path / name).symlink_to('/dev/full')
    log = RunLog(tmp_path)
    with pytest.raises(IgcnetError, match='%s: cannot write: no space left' % name):
        write(log)
    log.close()  # has nothing to add to that


def test_tensorboard_gets_the_numbers_at_once_and_without_torch(tmp_path):
    pytest.importorskip('tensorboardX')
    script = (
        'import sys\n'
        'from pathlib import Path\n'
        'from igcnet.train.runlog import RunLog\n'
        'log = RunLog(sys.argv[1])\n'
        'log.open_tensorboard(7)\n'
        'log.metrics("train", 8, loss=0.5, step=3)\n'
        'log.timing("epoch", 8, seconds=2.0)\n'
        'log.close()\n'
        'assert "torch" not in sys.modules\n')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', script, str(tmp_path)], check=True)
    from tensorboardX.proto.event_pb2 import Event
    file, = tmp_path.glob('events.out.tfevents.*')
    content, events = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], 'little')
        events.append(Event.FromString(content[12:12 + length]))
        content = content[16 + length:]
    assert events[1].step == 7 and events[1].session_log.status
    assert [(e.summary.value[0].tag, e.summary.value[0].simple_value, e.step)
            for e in events[2:]] == [('train/loss', 0.5, 8), ('epoch/seconds', 2.0, 8)]
