"""Atomic writing: a reader sees the old content or the new, and nothing stays behind."""

import errno
import json
import os
import stat

import pytest

from igcnet import files
from igcnet.errors import CheckpointError, IgcnetError
from igcnet.files import atomic_path, explain_os_errors, read_json, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_file_appears_whole(tmp_path):
    path = tmp_path / 'weights.params'
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary != path
        temporary.write_bytes(b'half')
        assert not path.exists()
        temporary.write_bytes(b'whole')
    assert path.read_bytes() == b'whole' and names(tmp_path) == ['weights.params']


def test_old_content_until_the_end(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with atomic_path(str(path)) as temporary:
        temporary.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new' and names(tmp_path) == ['a.txt']


@pytest.mark.parametrize('failure', [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_content(failure, tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(failure), atomic_path(path) as temporary:
        temporary.write_text('half')
        raise failure
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_folders_are_made(tmp_path):
    write_text(tmp_path / 'a' / 'b' / 'c.txt', 'é\n')
    assert (tmp_path / 'a' / 'b' / 'c.txt').read_bytes() == 'é\n'.encode()


def test_permissions_follow_the_umask(tmp_path):
    """As for any new file, not the private mode of temporary files."""
    before = os.umask(0o027)
    try:
        write_text(tmp_path / 'a.txt', '')
        assert os.umask(0o027) == 0o027  # it is as we set it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a.txt').stat().st_mode) == 0o640


def test_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(files, 'sync_file', lambda path: calls.append('content'))
    monkeypatch.setattr(files, 'sync_folder', lambda path: calls.append('folder'))
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda *a: (calls.append('rename'), replace(*a)))
    write_text(tmp_path / 'a.txt', 'x')
    assert calls == ['content', 'rename', 'folder']


@pytest.mark.parametrize('number, words', [
    (errno.ENOSPC, 'no space left'), (errno.EDQUOT, 'no space left'),
    (errno.EACCES, 'not writable'), (errno.EROFS, 'not writable'),
    (errno.EISDIR, os.strerror(errno.EISDIR))])
def test_system_errors_become_one_line(number, words, tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(IgcnetError) as caught, atomic_path(path) as temporary:
        temporary.write_text('half')
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert message.startswith('%s: cannot write: ' % path) and words in message
    assert '\n' not in message and isinstance(caught.value.__cause__, OSError)
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / 'a').write_text('')
    with pytest.raises(IgcnetError, match='b.txt: cannot write: '):
        write_text(tmp_path / 'a' / 'b.txt', '')


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / 'a.txt').mkdir()
    with pytest.raises(IgcnetError, match='a.txt: cannot write: '):
        write_text(tmp_path / 'a.txt', '')
    assert names(tmp_path) == ['a.txt']


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0,
                    reason='root may write everywhere')
def test_folder_that_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(IgcnetError, match='not writable; choose a folder'):
            write_text(tmp_path / 'a.txt', '')
    finally:
        tmp_path.chmod(0o700)


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), explain_os_errors('x'):
        1 / 0  # noqa: B018


def test_json_round_trip(tmp_path):
    value = {'classes': ['Straße', 'b'], 'counts': [1, 2.5, None]}
    write_json(tmp_path / 'a.json', value)
    assert read_json(tmp_path / 'a.json', 'manifest') == value
    text = (tmp_path / 'a.json').read_text(encoding='utf-8')
    assert text == json.dumps(value, indent=2, ensure_ascii=False) + '\n' and 'Straße' in text


@pytest.mark.parametrize('content', [b'', b'{"a": ', b'\xff\xfe', b'[' * 100000])
def test_damaged_json(content, tmp_path):
    path = tmp_path / 'net-symbol.json'
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(path, 'symbol file', CheckpointError)
    message = str(caught.value)
    assert message.startswith('%s: not a symbol file: ' % path) and '\n' not in message


def test_missing_json(tmp_path):
    with pytest.raises(IgcnetError, match=r'none.json: cannot read this manifest \(No such file'):
        read_json(tmp_path / 'none.json', 'manifest')
