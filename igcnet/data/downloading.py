"""The published files of data sets, fetched once and checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from igcnet.data.svhn import FILES
from igcnet.errors import DataError
from igcnet.files import PathLike, explain_os_errors, sync_file
from igcnet.progress import Progress

_BLOCK = 1 << 18
_TIMEOUT = 30.0


class Published(NamedTuple):
    """One file: its name, where it is, its MD5 (which says that it is whole, not who made it)."""

    name: str
    urls: Sequence[str]
    md5: str


def _cifar(name: str, md5: str) -> List[Published]:
    return [Published(name, ('https://www.cs.toronto.edu/~kriz/' + name,
                             'https://cave.cs.toronto.edu/kriz/' + name), md5)]


PUBLISHED: Dict[str, List[Published]] = {
    'cifar10': _cifar('cifar-10-python.tar.gz', 'c58f30108f718f92721af3b95e74349a'),
    'cifar100': _cifar('cifar-100-python.tar.gz', 'eb9058c3a382ffc7106e4002c42a8d85'),
    'svhn': [Published(FILES[part], ('http://ufldl.stanford.edu/housenumbers/' + FILES[part],), md5)
             for part, md5 in (('train', 'e26dedcc434d2e4c54c9b2d4a06d8373'),
                               ('test', 'eb5a983be6a315427106f1b164d9cef3'),
                               ('extra', 'a93ce644f1a588dc4d68dda5feec44a7'))],
}


def download(files: Sequence[Published], folder: PathLike, show_progress: bool = False
             ) -> List[Path]:
    """Make sure that `files` are in `folder`, whole.

    A file that is there and has the right checksum is not fetched again. Half a file stays as
    ``<name>.part``, and the next call goes on behind it.

    Raises
    ------
    DataError
        No connection, an error of the server, or another file than expected; the message says
        which file to fetch by hand and where to put it.
    IgcnetError
        The folder cannot be written.
    """
    folder, paths = Path(folder), []
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / file.name
        paths.append(path)
        if path.is_file():
            if _md5(path) == file.md5:
                continue
            raise DataError('%s: its MD5 is not %s; remove it if it is not yours, and it is '
                            'fetched again' % (path, file.md5))
        part = folder / (file.name + '.part')
        problems = []
        for url in file.urls:
            try:
                _fetch(url, part, show_progress)
            # OSError: no connection, or an error of the server; the others: a reply that is none.
            except (OSError, http.client.HTTPException, ValueError) as problem:
                problems.append('%s: %s' % (url, getattr(problem, 'reason', None) or problem))
                continue
            if _md5(part) == file.md5:
                break
            problems.append('%s: the MD5 of what it gave is not %s' % (url, file.md5))
            part.unlink()
        else:
            raise DataError('%s cannot be downloaded (%s); try again to go on, or fetch it '
                            'elsewhere and put it at %s' % (file.name, '; '.join(problems), path))
        sync_file(part)
        os.replace(str(part), str(path))
    return paths


def _fetch(url: str, part: Path, show_progress: bool) -> None:
    """Append what is missing to `part`; it is complete afterwards."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={'Range': 'bytes=%d-' % have} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code == 416 and have:  # nothing is missing; the checksum decides
            return
        raise
    with reply, contextlib.ExitStack() as stack:
        if have and reply.status != 206:  # the server starts from the beginning
            have = 0
        length = int(reply.headers.get('Content-Length') or 0)
        progress = stack.enter_context(Progress(have + length, 'downloading ' + part.stem, 'bytes',
                                                enabled=show_progress))
        progress.advance(have)
        with explain_os_errors(part):
            file = stack.enter_context(open(part, 'ab' if have else 'wb'))
        received = 0
        while True:
            block = reply.read(_BLOCK)
            if not block:
                break
            with explain_os_errors(part):
                file.write(block)
            received += len(block)
            progress.advance(len(block))
        if received < length:
            raise ConnectionError('the connection ended after %d of %d bytes'
                                  % (have + received, have + length))


def _md5(path: Path) -> str:
    checksum = hashlib.md5()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(_BLOCK), b''):
            checksum.update(block)
    return checksum.hexdigest()
