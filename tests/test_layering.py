"""Who may import whom, read from the source of every module."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest
from conftest import PACKAGE, REPO, needs_checkout

MODULES = sorted(PACKAGE.rglob('*.py'))
TOOLS = sorted((REPO / 'tools').glob('*.py'))

BASE = {'errors', 'files', 'machine', 'progress', '_backend', '_gluoncv', 'native'}
NETWORKS = BASE | {'layers', 'models', 'registry'}
# Part of the package -> the parts that it may import. Functions may in addition import what
# LATE lists. The registry's ModelSpec is what model tables are made of, so the models import it
# and it loads them when it is first asked.
MAY_IMPORT = {
    '': {'_backend'},
    'errors': set(),
    'machine': set(),
    'files': BASE,
    '_backend': BASE,
    '_gluoncv': set(),
    'progress': set(),
    'native': {'errors', 'files', 'machine', 'native'},
    'layers': BASE | {'layers'},
    'models': BASE | {'layers', 'models', 'registry'},
    'registry': BASE,
    'data': NETWORKS | {'data'},
    'profiling': NETWORKS | {'profiling'},
    'convert': NETWORKS | {'convert'},
    'deploy': NETWORKS | {'convert', 'deploy', 'profiling'},
    # A run reads records, keeps its checkpoints as parameter files and ends in an export.
    'train': NETWORKS | {'convert', 'data', 'deploy', 'launch', 'profiling', 'train'},
    'launch': BASE | {'launch'},
}
LATE = {'': {'registry'}, 'registry': {'models', 'convert', 'deploy'}}

# Packages that are slow, optional or heavy; `gluoncv` also needs care beside torch 2.
INSIDE_FUNCTIONS_ONLY = {'torch', 'onnx', 'onnxruntime', 'gluoncv', 'matplotlib', 'tensorboardX',
                         'tensorboard', 'yaml'}


class Import(NamedTuple):
    module: str
    line: int
    in_function: bool


def imports_of(tree: ast.AST, in_function: bool = False) -> Iterator[Import]:
    """Every import below a node. ``from igcnet import x`` and the attribute ``igcnet.x`` both
    count as ``igcnet.x``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'line %d: a relative import' % node.lineno
            if node.module == 'igcnet':
                for name in node.names:
                    yield Import('igcnet.' + name.name, node.lineno, in_function)
            else:
                yield Import(node.module, node.lineno, in_function)
        elif (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
              and node.value.id == 'igcnet'):
            yield Import('igcnet.' + node.attr, node.lineno, in_function)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports_of(node, in_function or inside)


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


def part_of(path: Path) -> str:
    """'layers' for igcnet/layers/basic.py, 'files' for igcnet/files.py, '' for __init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return '' if first == '__init__.py' else first.replace('.py', '')


def breaches(path: Path, tree: ast.AST) -> list:
    """Imports of a module of the package against the direction."""
    part = part_of(path)
    if part in ('cli', '__main__'):
        return []
    assert part in MAY_IMPORT, '%s: say in MAY_IMPORT what it may import' % path
    found = []
    for name, line, in_function in imports_of(tree):
        pieces = name.split('.')
        if pieces[0] != 'igcnet' or name in ('igcnet', 'igcnet.__version__'):
            continue
        # What is no part of the package (get_model, say) is offered by igcnet itself.
        target = pieces[1] if len(pieces) > 1 and pieces[1] in (*MAY_IMPORT, 'cli') else ''
        allowed = MAY_IMPORT[part] | (LATE.get(part, set()) if in_function else set())
        if target not in allowed:
            found.append('%s:%d imports %s' % (path.relative_to(PACKAGE.parent), line, name))
    return found


def early(tree: ast.AST, packages) -> list:
    """Imports of `packages` that run when the module is imported."""
    return ['line %d: %s' % (line, name) for name, line, in_function in imports_of(tree)
            if not in_function and name.split('.')[0] in packages]


def test_there_is_something_to_check():
    assert {'', 'errors', 'layers', 'models', 'registry', 'cli'} <= {part_of(m) for m in MODULES}


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module(path):
    tree = parse(path)
    assert breaches(path, tree) == []
    assert early(tree, INSIDE_FUNCTIONS_ONLY) == []
    if part_of(path) == 'cli':  # --help is quick, and threads are set before MXNet is there
        assert early(tree, {'mxnet'}) == []


@pytest.mark.parametrize('where, source, found', [
    ('layers/x.py', 'from igcnet.models import igc', True),
    ('layers/x.py', 'def f():\n    import igcnet.registry', True),
    ('layers/x.py', 'from igcnet import models', True),
    ('layers/x.py', 'from igcnet.errors import UsageError', False),
    ('registry.py', 'from igcnet.convert import load_parameters', True),
    ('registry.py', 'def f():\n    from igcnet.convert import load_parameters', False),
    ('models/x.py', 'class A:\n    from igcnet.data import records', True),
    ('data/x.py', 'from igcnet.train import loop', True),
    ('train/x.py', 'from igcnet.data.records import Record', False),
    ('train/x.py', 'if True:\n    from igcnet.cli.common import run', True),
    ('profiling/x.py', 'from igcnet import get_model', True),
    ('profiling/x.py', 'from igcnet import __version__', False),
    ('data/x.py', 'import igcnet\nversion = igcnet.__version__', False),
    ('data/x.py', 'import igcnet\nnet = igcnet.get_model("plain")', True),
    ('data/x.py', 'import igcnet.errors\nigcnet.train.loop.run()', True)])
def test_the_rule_itself(where, source, found):
    assert bool(breaches(PACKAGE / where, ast.parse(source))) == found


@pytest.mark.parametrize('source, found', [
    ('import torch.nn', True), ('from matplotlib import pyplot', True),
    ('try:\n    import yaml\nexcept ImportError:\n    yaml = None', True),
    ('def f():\n    import torch', False), ('class A:\n    import onnx', True),
    ('import torchlight', False)])
def test_the_optional_rule_itself(source, found):
    assert bool(early(ast.parse(source), INSIDE_FUNCTIONS_ONLY)) == found


@needs_checkout
def test_there_are_tools():
    assert len(TOOLS) >= 2


@pytest.mark.parametrize('path', TOOLS, ids=lambda path: path.name)
def test_tool(path):
    """Importing a tool does nothing; running it searches the repository, not tools/, first."""
    source, tree = path.read_text(encoding='utf-8'), parse(path)
    assert isinstance(tree.body[-1], ast.If)
    before, guard, after = source.partition("if __name__ == '__main__':\n")
    assert guard and 'igcnet' not in {name.split('.')[0] for name, _, in_function
                                      in imports_of(ast.parse(before)) if not in_function}
    lines = [line.strip() for line in after.splitlines() if not line.strip().startswith('#')]
    assert lines[0].startswith('sys.path[0] = str(')
    assert source.count('\n') < 40, 'a tool is a few lines that call the package'


@needs_checkout
def test_the_architecture_page_has_the_parts_of_the_package():
    page = (REPO / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    named = set(re.findall(r'^  (\S+?)/? ', page.split('```')[1], re.M))
    there = {path.name for path in PACKAGE.iterdir() if path.suffix == '.py' or path.is_dir()}
    assert named | {'weights'} == (there | {'weights'}) - {'__pycache__'}


def test_import_igcnet_is_light():
    """The package itself must not pay for MXNet, nor any optional package."""
    script = ('import sys, igcnet\nprint(sorted({"mxnet", "numpy", "cv2", *%r} & set(sys.modules)))'
              % sorted(INSIDE_FUNCTIONS_ONLY))
    done = subprocess.run([sys.executable, '-c', script], capture_output=True,
                          text=True, check=True)
    assert done.stdout == '[]\n'


def test_networks_do_not_need_optional_packages():
    # MXNet itself imports onnx where it is installed.
    script = ('import sys, mxnet\nbefore = set(sys.modules)\nimport igcnet\n'
              'igcnet.get_model("resnet_igc")\nimport igcnet.profiling\n'
              'print(sorted(set(%r) & (set(sys.modules) - before)))'
              % sorted(INSIDE_FUNCTIONS_ONLY))
    done = subprocess.run([sys.executable, '-c', script], capture_output=True,
                          text=True, check=True)
    assert done.stdout == '[]\n'
