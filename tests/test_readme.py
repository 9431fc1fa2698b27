"""The README's commands and code are real."""

import importlib
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from conftest import REPO, needs_checkout

from igcnet.cli.main import COMMANDS
from igcnet.cli.network_options import network_from
from igcnet.errors import UsageError
from igcnet.train.recipes import load_recipe

pytestmark = needs_checkout
PAGES = [REPO / 'README.md', REPO / 'CONTRIBUTING.md', *sorted((REPO / 'docs').rglob('*.md'))]


def blocks(language):
    """(page, text) of every fenced block in `language`."""
    for page in PAGES:
        if not page.is_file():  # the installed package is tested
            continue
        for found in re.finditer(r'^( *)```(\w*)\n(.*?)^\1```', page.read_text(encoding='utf-8'),
                                 re.M | re.S):
            if found.group(2) == language:
                yield page.name, textwrap.dedent(found.group(3))


def commands():
    """Every call of one of our commands in a shell block of any page."""
    for language in ('bash', ''):
        for page, text in blocks(language):
            for line in text.replace('\\\n', ' ').splitlines():
                if line.startswith(('python tools/', 'igcnet ')):
                    words = shlex.split(line, comments=True)
                    yield page, Path(words[1]).stem, words[2:]


def parser_of(command):
    return importlib.import_module('igcnet.cli.' + command).build_parser()


def test_there_are_commands_for_every_tool():
    named = {name for _, name, _ in commands()}
    assert {'im2rec_pack', 'train', 'evaluate', 'predict', 'list', 'profile'} <= named


@pytest.mark.parametrize('page, name, argv', list(commands()), ids=lambda v: str(v)[:50])
def test_command_parses(page, name, argv):
    assert name in COMMANDS, '%s: `igcnet %s` does not exist' % (page, name)
    assert (REPO / 'tools' / (name + '.py')).is_file() or name == 'list'
    parser = parser_of(name)
    if '...' not in argv:
        try:
            parser.parse_args(argv)
        except UsageError as problem:
            pytest.fail('%s: %s' % (page, problem))


@pytest.mark.parametrize('page', sorted({page for page, _ in blocks('python')}))
def test_code_runs(page, tmp_path, monkeypatch):
    """The Python blocks of a page, one after the other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'demo').mkdir()
    names = {}
    for found, code in blocks('python'):
        if found == page:
            exec(compile(code, page, 'exec'), names)  # our own documentation


@pytest.fixture
def runner(monkeypatch):
    """docs/commands/run.py, which `make check-docs` starts."""
    monkeypatch.syspath_prepend(str(REPO / 'docs' / 'commands'))
    return importlib.import_module('run')


def test_table_of_stand_ins_fits_the_pages(runner):
    """Each line of it is for a command that is there, and what it makes of one parses."""
    table, ran = runner.Table(), 0
    for page in runner.pages():
        for command in runner.commands(page):
            if table.reason(command):
                continue
            ran += 1
            for part in re.split(' && |\n', table.instead(command)):
                if part.strip().startswith(('igcnet ', 'python tools/')):
                    words = shlex.split(part)
                    name = Path(words[1]).stem
                    if name in COMMANDS:
                        importlib.import_module('igcnet.cli.' + name).build_parser().parse_args(
                            words[2:])
    assert ran > 80
    assert table.unused([page.relative_to(REPO).as_posix() for page in runner.pages()]) == []


def test_commands_are_found_whole(runner, tmp_path, monkeypatch):
    page = tmp_path / 'page.md'
    page.write_text('See `igcnet list` and `igcnet train --x 1`.\n\n```bash\na \\\n    b  # why\n\n'
                    'for i in 1 2; do\n    c $i\ndone\n```\n\n```\npython tools/x.py\nshown\n```\n')
    monkeypatch.setattr(runner, 'REPOSITORY', tmp_path)
    assert [(found.text, found.in_sentence) for found in runner.commands(page)] == [
        ('igcnet train --x 1', True), ('a b', False), ('for i in 1 2; do\n    c $i\ndone', False),
        ('python tools/x.py', False)]


def test_a_command_that_fails_is_reported(runner, tmp_path, monkeypatch, capsys):
    page, table = tmp_path / 'page.md', tmp_path / 'table.yaml'
    page.write_text('```bash\ntrue\nfalse\nmissing\n```\n')
    table.write_text('packages: {}\npage.md: {left out: {missing: no reason}, instead: {x: y}}\n')
    monkeypatch.setattr(runner, 'REPOSITORY', tmp_path)
    table = runner.Table(table)
    failed = runner.run_page(page, table, tmp_path)
    assert len(failed) == 1 and failed[0].startswith('page.md: false')
    assert table.unused(['page.md']) == ['page.md: x']
    out = capsys.readouterr().out
    assert 'ran       true' in out and 'left out  missing  (no reason)' in out


def table_rows(page):
    """(left cell, right cell) of the tables with two columns of a page."""
    for line in (REPO / 'docs' / page).read_text(encoding='utf-8').splitlines():
        cells = re.findall(r'(?<=\|)[^|]+(?=\|)', line)
        if len(cells) == 2:
            yield cells


def test_commands_in_the_tables_parse():
    """Ours, and those of the originals that are said to have the same options."""
    ours = same = 0
    for theirs, mine in table_rows('from-the-originals.md'):
        for command in re.findall(r'`python tools/([^`]*)`', mine):
            tool, *argv = shlex.split(command)
            if '...' not in argv:
                found = parser_of(Path(tool).stem).parse_args(argv)
                if getattr(found, 'network', None):
                    network_from(found)
                if getattr(found, 'recipe', None):
                    load_recipe(found.recipe)
                ours += 1
        if 'with the same options' in mine:
            argv = shlex.split(re.findall(r'`(.*?)`', theirs)[0].replace('<dir>', 'data'))[1:]
            network_from(parser_of('train').parse_args(argv))
            same += 1
    assert ours > 12 and same == 2


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r'\]\(([^)#]+?)\)', page.read_text(encoding='utf-8')):
            if '://' not in target:
                assert (page.parent / target).exists(), '%s: %s' % (page.name, target)


def test_make_targets_of_the_readme_exist():
    makefile = (REPO / 'Makefile').read_text()
    targets = re.findall(r'(?:^|`)make ([\w-]+)', (REPO / 'README.md').read_text(), re.M)
    assert {'demo', 'test'} <= set(targets)
    for target in targets:
        assert re.search(r'^%s:' % target, makefile, re.M), target
