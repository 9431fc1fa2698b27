"""Writers killed or interrupted at any moment leave nothing half-written and nothing in the way."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from igcnet.data.lists import Item
from igcnet.data.planning import input_lists
from igcnet.data.records import RecordFile
from igcnet.data.writing import record_writer

# What changes something on the disk, or makes sure of it; a writer can end before any of these.
CALLS = ('open', 'dup', 'fsync', 'chmod', 'unlink', 'replace')
FILES = ['x-manifest.json', 'x.idx', 'x.lst', 'x.rec']


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)


def write(folder, version):
    """A data set of four records that tell their version."""
    with record_writer(Path(folder) / 'x', ['a', 'b'], {'source': {'kind': 'class-folders'}}
                       ) as writer:
        for key in range(4):
            writer.add(Item(key, float(key % 2), '%s/%d.jpg' % (version, key)),
                       b'%s %d' % (version.encode(), key))


def versions(folder):
    """The versions of the records that are there; each must be whole."""
    if not (folder / 'x.rec').exists():
        return set()
    records = RecordFile(folder / 'x')
    images = [records.read(place).image.decode() for place in range(len(records))]
    assert len(images) == 4 and {image[-1] for image in images} == set('0123')
    found = {image.split()[0] for image in images}
    for part in set(records.source_names().values()):
        assert part.split('/')[0] in found
    if records.manifest:
        assert records.manifest['records'] == 4
    return found


@contextlib.contextmanager
def ending_before_call(number, end):
    """Call `end` in place of the `number`-th call that could change something."""
    calls = [0]

    def counted(function):
        def call(*arguments, **settings):
            calls[0] += 1
            if calls[0] == number:
                end()
            return function(*arguments, **settings)
        return call
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield calls


def number_of_calls(folder):
    with ending_before_call(0, None) as calls:
        write(folder, 'new')
    return calls[0]


def check(folder, before):
    """Old or new, nothing in the way of the next writer, which leaves its four files only."""
    left = versions(folder)
    assert left in ({before} if before else set(), {'new'})
    # A list that is taken for the user's would be packed in place of the folders.
    assert input_lists(str(folder / 'x')) == []
    write(folder, 'next')
    assert versions(folder) == {'next'}
    assert sorted(path.name for path in folder.iterdir()) == FILES
    manifest = json.loads((folder / 'x-manifest.json').read_text())
    assert manifest['records_per_class'] == [2, 2]


@pytest.mark.parametrize('before', ['', 'old'])
def test_interrupted_before_every_call(tmp_path, before):
    def interrupt():
        raise KeyboardInterrupt

    ended = 0
    for number in range(1, number_of_calls(tmp_path / 'count') + 1):
        folder = tmp_path / str(number)
        if before:
            write(folder, before)
        with ending_before_call(number, interrupt), contextlib.suppress(KeyboardInterrupt):
            write(folder, 'new')
            ended -= 1
        ended += 1
        folder.mkdir(exist_ok=True)
        check(folder, before)
    assert ended == number > 30


def kill_before_every_call(root, before):
    """In a process of its own: write into folders 1, 2, ... and be killed a call later each."""
    root, os.fsync = Path(root), lambda descriptor: None
    for number in range(1, number_of_calls(root / '0') + 1):
        folder = root / str(number)
        folder.mkdir()
        if before:
            write(folder, before)
        child = os.fork()
        if not child:
            with ending_before_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                write(folder, 'new')
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize('before', ['', 'old'])
def test_killed_before_every_call(tmp_path, before):
    code = 'import sys; sys.path[:0] = %r; import test_writing as t; ' \
        't.kill_before_every_call(%r, %r)' % (sys.path, str(tmp_path), before)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 30
    for folder in folders:
        check(folder, before if folder.name != '0' else '')


def test_where_there_are_no_locks_nobodys_files_are_removed(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, 'no locks')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    (tmp_path / '.x.rec.abcdefgh').write_bytes(b'perhaps of a writer at work')
    write(tmp_path, 'new')
    assert versions(tmp_path) == {'new'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.x.rec.abcdefgh', *FILES]
