"""Run every command of the pages (``make check-docs``).

The commands of README.md and docs/ are run one after the other, in the order of the pages, in a
copy of the repository. `table.yaml` beside this file says what stands in for data and checkpoints
that a clone does not have, where sizes are cut down, and which commands are left out and why.
Each command is reported as run or left out; one that fails fails the whole.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import util
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TABLE = Path(__file__).resolve().with_name('table.yaml')
# What is a command where a block does not say that it holds shell lines, or inside a sentence.
OURS = ('python tools/', 'python benchmarks/', 'python -m igcnet', 'igcnet ', 'make ')
PARTS = ('.ci', 'benchmarks', 'docs', 'igcnet', 'symbols', 'tests', 'tools')
NOT_COPIED = shutil.ignore_patterns('__pycache__', '*.so', 'api')


class Command(NamedTuple):
    """A command as it stands on a page, in one line unless it is a loop."""

    page: str
    text: str
    in_sentence: bool = False


def pages() -> List[Path]:
    """The pages in the order in which a reader meets them."""
    return [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').rglob('*.md'))]


def whole(lines: List[str]) -> Iterator[str]:
    """Commands of a block, each with all its lines: continued ones, and loops."""
    command = ''
    for line in '\n'.join(lines).replace('\\\n', ' ').splitlines():
        line = re.sub(r'\s+#\s.*', '', line)
        if not command and (not line.strip() or line.startswith('#')):
            continue
        command += re.sub(r'(?<=\S) +', ' ', line) + '\n'
        if subprocess.run(['bash', '-n', '-c', command], stderr=subprocess.DEVNULL).returncode == 0:
            yield command.rstrip('\n')
            command = ''
    if command:
        yield command.rstrip('\n')


def commands(page: Path) -> Iterator[Command]:
    """Commands of a page, first to last: those in blocks, and whole ones inside a sentence."""
    name = page.relative_to(REPOSITORY).as_posix()
    text = page.read_text(encoding='utf-8')
    pattern = r'^( *)```(\w*)\n(?P<block>.*?)^\1```|`(?P<inline>[^`\n]+)`'
    for found in re.finditer(pattern, text, re.M | re.S):
        if found.group('block') is None:
            inline = found.group('inline')
            if inline.startswith(OURS) and (' --' in inline or inline.startswith(
                    ('make ', 'python -m', 'python benchmarks/'))):
                yield Command(name, inline, True)
        elif found.group(2) in ('bash', ''):
            for command in whole(found.group('block').splitlines()):
                if found.group(2) == 'bash' or command.startswith(OURS):
                    yield Command(name, command)


class Table:
    """The declared stand-ins, which of them were needed, and the commands that are done."""

    def __init__(self, path: Path = TABLE):
        import yaml
        with open(str(path), encoding='utf-8') as file:
            self.pages: Dict[str, dict] = yaml.safe_load(file)
        self.used = set()
        self.seen = set()

    def before(self, page: str) -> str:
        """Shell lines that make what the commands of a page need."""
        return self.pages.get(page, {}).get('before', '')

    def instead(self, command: Command) -> str:
        """The command with its sizes cut down."""
        text = command.text
        for page in (command.page, 'every page'):
            for old, new in self.pages.get(page, {}).get('instead', {}).items():
                changed = re.sub(old, new, text, flags=re.S)
                if changed != text:
                    self.used.add((page, old))
                text = changed
        return text

    def reason(self, command: Command) -> str:
        """Why a command is left out; empty if it is not."""
        for page in (command.page, 'every page'):
            for pattern, reason in self.pages.get(page, {}).get('left out', {}).items():
                if re.search(pattern, command.text, re.S):
                    self.used.add((page, pattern))
                    return reason
        for package, options in self.pages['packages'].items():
            if util.find_spec(package) is None and re.search(options, command.text):
                self.instead(command)  # what stands in for it is needed all the same
                return '%s is not installed' % package
        return ''

    def unused(self, names: List[str]) -> List[str]:
        """Lines of the table for `names` that fitted no command: the page has changed."""
        return ['%s: %s' % (page, pattern) for page in names for kind in ('instead', 'left out')
                for pattern in self.pages.get(page, {}).get(kind, {})
                if (page, pattern) not in self.used]


def copy_repository(target: Path) -> None:
    """What a user has after a clone and ``make venv``."""
    for name in PARTS:
        shutil.copytree(str(REPOSITORY / name), str(target / name), ignore=NOT_COPIED)
    for path in REPOSITORY.iterdir():
        if path.is_file() and path.name != '.git':
            shutil.copy(str(path), str(target / path.name))
    (target / '.venv').mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != 'installed':
            (target / '.venv' / path.name).symlink_to(path)
    (target / '.venv' / 'installed').touch()  # make has nothing to install


def shell(text: str, folder: Path) -> subprocess.CompletedProcess:
    """Run shell lines in `folder`; the result holds everything they said."""
    environment = {**os.environ, 'PYTHONPATH': str(folder), 'PYTHONWARNINGS': 'ignore',
                   'PATH': '%s:%s' % (folder / '.venv' / 'bin', os.environ['PATH'])}
    return subprocess.run(['bash', '-e', '-c', text], cwd=str(folder), env=environment, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def run_page(page: Path, table: Table, folder: Path) -> List[str]:
    """Run a page; returns what failed, with the end of what it said."""
    failed = []
    name = page.relative_to(REPOSITORY).as_posix()
    found = list(commands(page))
    if found:
        print('== %s' % name, flush=True)
        done = shell(table.before(name), folder)
        if done.returncode:
            return ['%s: its stand-ins cannot be made\n%s' % (name, done.stdout[-3000:])]
    for command in found:
        if command.in_sentence and command.text in table.seen:
            continue
        table.seen.add(command.text)
        title = ' '.join(command.text.split())
        reason = table.reason(command)
        if reason:
            print('left out  %s  (%s)' % (title, reason), flush=True)
            continue
        begun = time.monotonic()
        done = shell(table.instead(command), folder)
        word = 'FAILED' if done.returncode else 'ran'
        print('%-9s %s  (%.0f s)' % (word, title, time.monotonic() - begun), flush=True)
        if done.returncode:
            failed.append('%s: %s\n    as: %s\n%s' % (name, title, table.instead(command),
                                                     done.stdout[-3000:]))
            print(failed[-1], flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('pages', nargs='*', metavar='PAGE',
                        help='such as README.md or docs/speed.md (default: all); some pages go on '
                             'from what README.md made')
    parser.add_argument('--work', type=Path, metavar='DIR', help='keep the copy there')
    args = parser.parse_args()
    chosen = [page for page in pages() if not args.pages or page.relative_to(
        REPOSITORY).as_posix() in args.pages]
    table, failed = Table(), []
    with tempfile.TemporaryDirectory(prefix='igcnet-docs-') as scratch:
        folder = (args.work or Path(scratch)).resolve()
        if not (folder / 'tools').is_dir():
            folder.mkdir(exist_ok=True)
            copy_repository(folder)
        for page in chosen:
            failed += run_page(page, table, folder)
    failed += ['table.yaml, no longer needed: %s' % line for line in table.unused(
        [page.relative_to(REPOSITORY).as_posix() for page in chosen])]
    print('\n'.join(['', *failed, '%d failed' % len(failed)]))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
