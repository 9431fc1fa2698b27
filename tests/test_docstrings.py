"""Public names are documented as numpy does it, and public functions say their types."""

import ast
import importlib
import inspect
import re

import pytest
from conftest import PACKAGE
from mxnet.gluon import HybridBlock

MODULES = sorted(PACKAGE.rglob('*.py'))
# Words that mean the same wherever they stand in this project.
WORDS = {'self', 'cls', 'argv', 'path', 'folder', 'prefix', 'net', 'name', 'network', 'family',
         'classes', 'seed', 'epoch', 'step', 'steps_per_epoch', 'batch_size', 'input_size',
         'resolution', 'width', 'images', 'labels', 'contexts', 'context', 'ctx', 'channels',
         'in_channels', 'kernel_size', 'threads', 'rounds', 'source', 'allow_missing',
         'show_progress', 'kwargs', 'F', 'names', 'logits', 'batch_sizes', 'target', 'int8',
         'report'}
# Not typed yet: what they take and give is MXNet's.
UNTYPED = {'get_model', 'export'}
MANY = 2
# A docstring that leaves its parameters to another: "As `x`, ...", "Parameters are those of `x`".
ELSEWHERE = re.compile(r'^As `|Parameters[^.]* of\s+`')
REFUSING = re.compile(r'UsageError|[Rr]efuse')
SECTION = re.compile(r'^(\w[\w ]*)\n-{3,} *$', re.M)


def public(node, inside=''):
    """(dotted name, node) of the public classes, functions and methods below `node`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith('_'):
            yield inside + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, inside + child.name + '.')


def sections(docstring):
    """{name of the section: its text}; what stands before the first is ''."""
    parts = SECTION.split(docstring or '')
    return {'': parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def described(text):
    """Names that a Parameters or Attributes section describes: ``a, b : int`` are two."""
    found = []
    for line in text.split('\n'):
        if re.match(r'[\w*]', line):
            found += [word.strip().lstrip('*') for word in line.split(' : ')[0].split(',')]
    return found


def parameters(node):
    """The arguments of a function, without self."""
    every = node.args
    names = [each for each in (*every.posonlyargs, *every.args, every.vararg, *every.kwonlyargs,
                               every.kwarg) if each is not None]
    return [each for each in names if each.arg not in ('self', 'cls')]


def init_of(node):
    return next((child for child in node.body if isinstance(child, ast.FunctionDef)
                 and child.name == '__init__'), None)


def fields(node):
    """Names that a class without ``__init__`` is made of: those of a NamedTuple or dataclass."""
    return [child.target.id for child in node.body if isinstance(child, ast.AnnAssign)]


def self_evident(parameter):
    """Whether the name is one of `WORDS`, or the type is a class that says it."""
    kind = getattr(parameter, 'annotation', None)
    kind = getattr(kind, 'attr', getattr(kind, 'id', ''))
    return parameter.arg in WORDS or kind[:1].isupper() and kind not in ('Any', 'PathLike')


def faults(name, node):
    """What the docstring of a public name lacks."""
    docstring = ast.get_docstring(node)
    if not docstring:
        return ['no docstring']
    found, parts = [], sections(docstring)
    listed = described(parts.get('Parameters', ''))
    if isinstance(node, ast.ClassDef):
        init = init_of(node)
        known = ([each.arg for each in parameters(init)] if init else []) + fields(node)
        wanted = parameters(init) if init else []
    else:
        wanted = parameters(node)
        known = [each.arg for each in wanted]
    if listed and known:
        found += ['documents %r, which is no parameter' % each for each in listed
                  if each not in known]
    wanted = [each.arg for each in wanted if not self_evident(each)]
    if len(wanted) > MANY and not ELSEWHERE.search(docstring):
        found += ['does not say what %s is' % each for each in wanted
                  if not re.search(r'\b%s\b' % re.escape(each), docstring)]
    if isinstance(node, ast.FunctionDef):
        raised = {getattr(getattr(each.exc, 'func', each.exc), 'id', None)
                  for each in ast.walk(node) if isinstance(each, ast.Raise) and each.exc}
        if 'UsageError' in raised and not REFUSING.search(docstring):
            found.append('raises UsageError without saying so')
    return found


def untyped(node):
    """What a public function does not say about its types."""
    missing = [each.arg for each in parameters(node) if each.annotation is None]
    if node.name in UNTYPED:
        return []
    return (['no type for ' + ', '.join(missing)] if missing else []) + (
        ['no return type'] if node.returns is None else [])


@pytest.mark.parametrize('path', [path for path in MODULES if path.parent.name == 'layers'],
                         ids=lambda path: path.stem)
def test_layers_say_their_shapes(path):
    module = importlib.import_module('igcnet.layers.' + path.stem)
    silent = [name for name, kind in vars(module).items()
              if isinstance(kind, type) and issubclass(kind, HybridBlock)
              and kind.__module__ == module.__name__ and not name.startswith('_')
              and {'forward', 'hybrid_forward'} & set(vars(kind))
              and not re.search(r'Inputs: .*Outputs: ', inspect.getdoc(kind), re.S)]
    assert silent == []


def overrides(module, name):
    """Whether a method takes the place of a base's, where it is documented and typed."""
    if '.' not in name:
        return False
    owner, _, method = name.rpartition('.')
    for part in owner.split('.'):
        module = getattr(module, part)
    return any(hasattr(base, method) for base in module.__bases__)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert ast.get_docstring(tree)
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    module = importlib.import_module('.'.join(parts[:-1] if parts[-1] == '__init__' else parts))
    found, attributes = [], set()
    for name, node in public(tree):
        if isinstance(node, ast.ClassDef):
            attributes |= {'%s.%s' % (name, each) for each in described(
                sections(ast.get_docstring(node)).get('Attributes', ''))}
        if name not in attributes and not overrides(module, name):
            wrong = faults(name, node) + (untyped(node) if isinstance(node, ast.FunctionDef)
                                          else [])
            found += ['%s (line %d): %s' % (name, node.lineno, fault) for fault in wrong]
    assert found == []
