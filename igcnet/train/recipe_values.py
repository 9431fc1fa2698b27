"""Values of a recipe from files and command lines, each checked for its type."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Sequence

from igcnet.errors import UsageError

_WANTED = {'int': 'a whole number', 'float': 'a number', 'str': 'a word',
           'Tuple': 'a list of numbers', 'Dict': 'a table of names and values'}


def check_value(value: Any, kind: str, where: str) -> Any:
    """`value` as the type that a field of the recipe is annotated with.

    Parameters
    ----------
    kind : str
        Such as 'Optional[int]'.
    where : str
        What the message begins with.

    Raises
    ------
    UsageError
        It is of another type.
    """
    if kind.startswith('Optional['):
        if value is None:
            return None
        kind = kind[len('Optional['):-1]
    if kind == 'float':
        value = _number(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == 'int' and isinstance(value, int) and is_number:
        return value
    if kind == 'float' and is_number:
        return float(value)
    if kind == 'str' and isinstance(value, str):
        return value
    if kind.startswith('Tuple') and isinstance(value, (list, tuple)):
        return tuple(check_value(item, 'float', where) for item in value)
    if kind.startswith('Dict') and isinstance(value, dict) and all(
            isinstance(key, str) for key in value):
        item = kind[:-1].split(', ')[1]
        return value if item == 'Any' else {
            key: check_value(each, item, '%s.%s' % (where, key)) for key, each in value.items()}
    raise UsageError('%s=%r: must be %s' % (where, value, _WANTED[kind.split('[')[0]]))


def check_settings(field: str, owner: str, known: Mapping[str, Any],
                   given: Mapping[str, Any]) -> Dict[str, Any]:
    """`given` on top of the defaults in `known`; each value must be like its default.

    Parameters
    ----------
    field, owner : str
        For the message: the recipe's key, and what has these settings.

    Raises
    ------
    UsageError
        An unknown name, or a value of another type than the default's.
    """
    for key, value in given.items():
        if key not in known:
            raise UsageError('%s: %s has no setting %r; it has %s' % (
                field, owner, key, ', '.join(known) or 'none'))
        if not _same_kind(value, known[key]):
            raise UsageError('%s: %s=%r: must be like %r' % (field, key, value, known[key]))
    return {**known, **given}


def parse_overrides(pairs: Sequence[str], types: Mapping[str, str],
                    tables: Mapping[str, Mapping[str, Any]], option: str) -> Dict[str, Any]:
    """Values of ``KEY=VALUE`` words, such as ``lr=0.05`` and ``method_settings.temperature=4``.

    Parameters
    ----------
    pairs : sequence of str
        The words.
    types : mapping
        Key -> annotated type.
    tables : mapping
        Present value of each key that is a table; a dotted key changes one entry of it.
    option : str
        For the message.

    Raises
    ------
    UsageError
        A word that is no pair, an unknown key, a key twice, or a value of another type.
    """
    values: Dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition('=')
        where = '%s %s' % (option, key)
        name, dot, entry = key.partition('.')
        if not equals:
            raise UsageError('%s %s: must be KEY=VALUE, such as lr=0.05' % (option, pair))
        if name not in types:
            raise UsageError('%s: a recipe has no key %r; it has %s'
                             % (where, name, ', '.join(sorted(types))))
        value = _parse(text, where)
        if dot:
            if name not in tables:
                raise UsageError('%s: %s is a single value, not a table' % (where, name))
            table = values.setdefault(name, dict(tables[name]))
            if not isinstance(table, dict):
                raise UsageError('%s: given twice' % where)
            table[entry] = _numbers(value) if isinstance(value, str) else value
            continue
        if name in values:
            raise UsageError('%s: given twice' % where)
        if types[name].startswith('Tuple') and not isinstance(value, list):
            value = [_number(word) for word in text.split(',')]
        values[name] = value
    return {key: check_value(value, re.sub(r'Optional\[(.*)\]', r'\1', types[key]),
                             '%s %s' % (option, key)) for key, value in values.items()}


def _parse(text: str, where: str) -> Any:
    import yaml
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError('%s=%s: cannot be read as a value' % (where, text)) from None


def _number(value: Any) -> Any:
    """A number for text that is one: YAML 1.1 takes 1e-4 for text, because it has no point."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _numbers(text: str) -> Any:
    """A number, or a list of numbers for text with commas; any other text as it is."""
    words = [_number(word) for word in text.split(',')]
    if any(isinstance(word, str) for word in words):
        return text
    return words if len(words) > 1 else words[0]


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(
            isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
    return type(value) is type(default)
