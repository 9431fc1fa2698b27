"""Fetching published files: resumed, checked, and helpful without a network."""

import hashlib
import http.server
import threading

import pytest
from pictures import make_tar
from test_arrays import write_cifar
from test_svhn import write_part

from igcnet.cli.im2rec_pack import main
from igcnet.data import downloading
from igcnet.data.downloading import PUBLISHED, Published, download
from igcnet.data.records import RecordFile
from igcnet.errors import DataError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` by name, and CONTENT; behind /cut it ends half-way, behind /plain it knows no
    ranges."""

    ranges = []
    files = {}

    def do_GET(self):  # noqa: N802 (the base class's name)
        start, content = 0, self.files.get(self.path.rpartition('/')[2], CONTENT)
        asked = self.headers.get('Range')
        self.ranges.append(asked)
        if asked and not self.path.startswith('/plain'):
            start = int(asked[len('bytes='):-1])
        if self.path.startswith('/none'):
            self.send_error(404)
            return
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if self.path.startswith('/cut') else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """Address of a server on this machine, which ends with the test."""
    Server.ranges, Server.files = [], {}
    with http.server.HTTPServer(('127.0.0.1', 0), Server) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield 'http://127.0.0.1:%d' % listening.server_port
        finally:
            listening.shutdown()
            thread.join()


def test_whole_file_and_again(server, tmp_path):
    file = Published('f.bin', (server + '/f.bin',), MD5)
    for _ in range(2):
        assert download([file], tmp_path / 'new') == [tmp_path / 'new' / 'f.bin']
        assert (tmp_path / 'new' / 'f.bin').read_bytes() == CONTENT
    assert Server.ranges == [None]  # the second time nothing is asked for
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['f.bin']


@pytest.mark.parametrize('rest', ['', 'plain/'])
def test_interrupted_download_goes_on(server, tmp_path, rest):
    with pytest.raises(DataError, match='the connection ended after 512000 of 1024000 bytes'):
        download([Published('f.bin', (server + '/cut',), MD5)], tmp_path)
    assert (tmp_path / 'f.bin.part').stat().st_size == 512000
    download([Published('f.bin', (server + '/' + rest,), MD5)], tmp_path)
    assert (tmp_path / 'f.bin').read_bytes() == CONTENT
    assert Server.ranges == [None, 'bytes=512000-']


def test_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / 'f.bin.part').write_bytes(CONTENT)
    download([Published('f.bin', (server + '/f',), MD5)], tmp_path)
    assert (tmp_path / 'f.bin').read_bytes() == CONTENT


def test_second_address(server, tmp_path):
    download([Published('f.bin', (server + '/none', server + '/f'), MD5)], tmp_path)
    assert (tmp_path / 'f.bin').read_bytes() == CONTENT


def test_wrong_content(server, tmp_path):
    file = Published('f.bin', (server + '/f',), '0' * 32)
    with pytest.raises(DataError, match='the MD5 of what it gave is not 0000'):
        download([file], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'f.bin').write_bytes(b'mine')
    with pytest.raises(DataError, match='remove it if it is not yours'):
        download([file], tmp_path)
    assert (tmp_path / 'f.bin').read_bytes() == b'mine'


def published_files(folder, dataset):
    """Small files in the form of the published ones, by name."""
    if dataset == 'svhn':
        for seed, part in enumerate(('train', 'test', 'extra')):
            write_part(folder, part, 12, seed)
    else:
        write_cifar(folder / 'files' / 'cifar', dataset, 'python')
        make_tar(folder / PUBLISHED[dataset][0].name, folder / 'files', 'w:gz')
    return {file.name: (folder / file.name).read_bytes() for file in PUBLISHED[dataset]}


@pytest.mark.parametrize('dataset, train, test', [('cifar10', 30, 6), ('cifar100', 6, 6),
                                                  ('svhn', 24, 12)])
def test_the_command_fetches_goes_on_and_packs(server, tmp_path, monkeypatch, capsys, dataset,
                                               train, test):
    Server.files = published_files(tmp_path / 'published', dataset)
    command = [str(tmp_path / 'c'), '--dataset', dataset, '--download', '--num-thread', '1']

    def served_from(folder):
        monkeypatch.setitem(downloading.PUBLISHED, dataset, [
            Published(name, ('%s/%s/%s' % (server, folder, name),), hashlib.md5(data).hexdigest())
            for name, data in Server.files.items()])

    served_from('cut')
    assert main(command) == 1
    assert 'the connection ended after' in capsys.readouterr().err
    kept, = (tmp_path / 'c' / 'download').iterdir()
    served_from('files')
    assert main(command) == 0
    assert Server.ranges[:2] == [None, 'bytes=%d-' % (len(Server.files[kept.stem]) // 2)]
    assert {path.name: path.read_bytes() for path in kept.parent.iterdir()} == Server.files
    assert [len(RecordFile(tmp_path / 'c' / part)) for part in ('train', 'test')] == [train, test]
    asked = len(Server.ranges)
    assert main(command) == 0 and len(Server.ranges) == asked == 1 + len(Server.files)


def test_offline_says_where_to_put_the_file(tmp_path, capsys, monkeypatch):
    file = PUBLISHED['cifar10'][0]._replace(urls=('http://127.0.0.1:1/cifar-10-python.tar.gz',))
    monkeypatch.setitem(downloading.PUBLISHED, 'cifar10', [file])
    assert main([str(tmp_path / 'c'), '--dataset', 'cifar10', '--download']) == 1
    error = capsys.readouterr().err
    place = tmp_path / 'c' / 'download' / 'cifar-10-python.tar.gz'
    assert 'fetch it elsewhere and put it at %s' % place in error and error.count('\n') == 1


@pytest.mark.parametrize('arguments, message', [
    (['x', 'images', '--download'], '--download goes with --dataset'),
    (['x', '--dataset', 'digits', '--download'], '--download: digits come with scikit-learn'),
])
def test_mistakes(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
