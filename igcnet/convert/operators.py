"""The operators that igcnet accepts in symbol files, and what their attributes mean.

A symbol file names operators of the MXNet library, and some of those take raw pointers or run
code; others divide by an attribute and end the process when it is zero. So only operators that
image networks need are let through, with attributes of known names, types and ranges. Types and
defaults come from the library itself (``mx.operator.get_operator_arguments``).
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from mxnet.operator import get_operator_arguments

ALLOWED = frozenset('''
    Activation BatchNorm BlockGrad Cast Concat Convolution Dropout Flatten FullyConnected
    L2Normalization LRN LeakyReLU Pooling Reorder Reshape SliceChannel SoftmaxActivation
    SoftmaxOutput SwapAxis _copy _div_scalar _minus_scalar _mul_scalar _plus_scalar _rminus_scalar
    add_n broadcast_add broadcast_div broadcast_greater broadcast_mul broadcast_sub clip dot
    elemwise_add elemwise_div elemwise_mul elemwise_sub expand_dims hard_sigmoid log_softmax mean
    ones_like relu reshape_like sigmoid slice_axis softmax sort squeeze stack sum take tanh
    transpose zeros_like'''.split())

# Names in older files, and names under which MXNet knows the same operator.
ALIASES = {
    '_Plus': 'elemwise_add', '_plus': 'elemwise_add', '_add': 'elemwise_add',
    '_Minus': 'elemwise_sub', '_minus': 'elemwise_sub', '_sub': 'elemwise_sub',
    '_Mul': 'elemwise_mul', '_mul': 'elemwise_mul', '_Div': 'elemwise_div', '_div': 'elemwise_div',
    '_PlusScalar': '_plus_scalar', '_MinusScalar': '_minus_scalar',
    '_RMinusScalar': '_rminus_scalar', '_MulScalar': '_mul_scalar', '_DivScalar': '_div_scalar',
    'ElementWiseSum': 'add_n', 'Softmax': 'SoftmaxOutput', 'concat': 'Concat', 'split':
    'SliceChannel', 'flatten': 'Flatten', 'reshape': 'Reshape', 'swapaxes': 'SwapAxis',
    'cast': 'Cast', 'identity': '_copy', 'broadcast_plus': 'broadcast_add',
    'broadcast_minus': 'broadcast_sub',
}

# Settings of the machinery, which change no value.
WITHOUT_EFFECT = frozenset(['workspace', 'cudnn_off', 'cudnn_tune', 'num_args'])
# Attributes a user could give any node before MXNet 0.9; also as a suffix (weight_lr_mult).
USER_ATTRIBUTES = re.compile(r'(.+_)?(ctx_group|lr_mult|wd_mult|force_mirroring|mirror_stage)')

POSITIVE = frozenset(['kernel', 'stride', 'dilate', 'num_filter', 'num_group', 'num_hidden',
                      'num_outputs', 'num_args', 'branch_factor', 'nsize'])
AXES = frozenset(['axis', 'axes', 'dim', 'dim1', 'dim2'])
LARGEST = 2 ** 31 - 1
LARGEST_WINDOW = 1024  # kernel, stride, dilation, padding
MOST_AXES = 8
MOST_OUTPUTS = 1024

REQUIRED = object()


class Attribute(NamedTuple):
    """Type and default of one attribute."""

    kind: str  # 'int', 'float', 'bool', 'shape' or 'choice'
    default: Any
    may_be_none: bool = False
    choices: Tuple[str, ...] = ()


class Operator(NamedTuple):
    """Inputs and attributes of one operator; `inputs` is None where their number varies."""

    inputs: Optional[Tuple[str, ...]]
    attributes: Mapping[str, Attribute]


_COUNT = Attribute('int', REQUIRED)
REORDER = Operator(('data',), {'branch_factor': _COUNT, 'workspace': Attribute('int', 1024)})


@functools.lru_cache(maxsize=None)
def get_operator(op: str) -> Operator:
    """Inputs and attributes of an allowed operator, by its present name."""
    if op == 'Reorder':
        return REORDER
    inputs, attributes, varies = [], {}, False
    arguments = get_operator_arguments(op)
    for name, text in zip(arguments.names, arguments.types):
        if text == 'NDArray-or-Symbol':
            inputs.append(name)
        elif text == 'NDArray-or-Symbol[]':
            varies = True
            attributes['num_args'] = _COUNT  # add_n does not list it
        else:
            attributes[name] = _attribute(text)
    return Operator(None if varies else tuple(inputs), attributes)


def _attribute(text: str) -> Attribute:
    """Read MXNet's description, such as ``int (non-negative), optional, default=1``."""
    choices = ()
    if text.startswith('{'):
        kind, (listing, settings) = 'choice', text[1:].split('}', 1)
        choices = tuple(re.findall("'([^']*)'", listing))
        may_be_none = 'None' in listing.split(', ')
    else:
        kind, _, settings = text.partition(',')
        may_be_none = kind.endswith(' or None')
        kind = {'int': 'int', 'long': 'int', 'float': 'float', 'double': 'float',
                'boolean': 'bool', 'Shape(tuple)': 'shape', 'Shape': 'shape'}[kind.split()[0]]
    attribute = Attribute(kind, REQUIRED, may_be_none, choices)
    match = re.search(r"default='?([^']*)'?$", settings)
    return attribute._replace(default=_value(attribute, match.group(1))) if match else attribute


def _value(attribute: Attribute, text: str) -> Any:
    """The value that `text` stands for; ValueError if it is of another type."""
    text = text.strip()
    if text == 'None' and attribute.may_be_none:
        return None
    if attribute.kind == 'bool':
        return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if attribute.kind == 'choice':
        if text not in attribute.choices:
            raise ValueError
        return text
    if attribute.kind == 'float':
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    if attribute.kind == 'int':
        return _whole_number(text)
    if text[:1] + text[-1:] in ('()', '[]'):
        text = text[1:-1].strip()
        if not text:
            return ()
    parts = text.split(',')
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()  # (8,)
    return tuple(_whole_number(part) for part in parts)


def _whole_number(text: str) -> int:
    match = re.fullmatch(r'\s*([+-]?[0-9]{1,10})L?\s*', text)  # Python 2 wrote 3L
    number = int(match.group(1)) if match else LARGEST + 1
    if abs(number) > LARGEST:
        raise ValueError
    return number


def canonical_name(op: str) -> Optional[str]:
    """The present name of operator `op`; None when igcnet does not accept it."""
    op = ALIASES.get(op, op)
    return op if op in ALLOWED else None


def parse_attributes(op: str, texts: Mapping[str, str]) -> Dict[str, Any]:
    """Check the attributes of a node and give their values.

    Hidden ones (``__...__``) and the users' own of old files (`USER_ATTRIBUTES`) are left out.

    Raises
    ------
    ValueError
        An attribute that `op` does not have, is missing, or has a value that cannot work.
    """
    known, values = get_operator(op).attributes, {}
    for key, text in texts.items():
        if key in known:
            try:
                values[key] = _value(known[key], text)
            except (ValueError, KeyError):
                raise ValueError('%s=%s cannot work' % (key, _shorten(text))) from None
        elif not (key.startswith('__') or USER_ATTRIBUTES.fullmatch(key)):
            raise ValueError('it has no attribute %s' % _shorten(key))
    for key, attribute in known.items():
        if attribute.default is REQUIRED and key not in values:
            raise ValueError('its attribute %s is missing' % key)
    _check_ranges(op, values)
    return values


def _check_ranges(op: str, values: Mapping[str, Any]) -> None:
    """Values with which MXNet would end the process or ask for absurd amounts of memory."""
    def numbers(key):
        value = values.get(key)
        return value if isinstance(value, tuple) else () if value is None else (value,)

    def require(condition, key):
        if not condition:
            raise ValueError('%s=%s cannot work' % (key, _shorten(str(values[key]))))

    for key in values:
        require(key not in POSITIVE or all(number >= 1 for number in numbers(key)), key)
        require(key not in AXES or all(abs(axis) <= MOST_AXES for axis in numbers(key)), key)
        if key in ('kernel', 'stride', 'dilate', 'pad'):
            require(all(0 <= number <= LARGEST_WINDOW for number in numbers(key)), key)
            require(len(values[key]) in (0, len(numbers('kernel'))), key)
    if op == 'Convolution':
        require(values['num_filter'] % values.get('num_group', 1) == 0, 'num_group')
    for key in AXES & set(values):  # MXNet dies of an axis that is named twice
        require(len(set(numbers(key))) == len(numbers(key)), key)
    if values.get('axes') and op == 'transpose':
        require(sorted(numbers('axes')) == list(range(len(numbers('axes')))), 'axes')
    if op == 'SliceChannel':
        require(values['num_outputs'] <= MOST_OUTPUTS, 'num_outputs')
    if op == 'Reshape':
        codes = numbers('shape')
        require(all(code >= -4 for code in codes), 'shape')
        for place, code in enumerate(codes):
            parts = codes[place + 1:place + 3]
            require(code != -4 or (len(parts) == 2 and max(parts) >= 1 and
                                   all(part == -1 or part >= 1 for part in parts)), 'shape')


def effective_attributes(op: str, values: Mapping[str, Any]) -> Dict[str, Any]:
    """Everything that decides what a node computes: `values` with the defaults filled in.

    Floats are rounded to float32, in which MXNet keeps most of them; attributes that have no
    effect in this combination are left out.
    """
    known = get_operator(op).attributes
    full = {key: values.get(key, attribute.default) for key, attribute in known.items()
            if key not in WITHOUT_EFFECT}
    if full.get('layout', '') is None:
        full['layout'] = {1: 'NCW', 2: 'NCHW', 3: 'NCDHW'}.get(len(full['kernel']))
    if op == 'Pooling' and full['global_pool']:
        for key in ('kernel', 'stride', 'pad', 'pooling_convention', 'count_include_pad'):
            del full[key]
    for key, default in (('stride', 1), ('dilate', 1), ('pad', 0)):
        if full.get(key) == ():
            full[key] = (default,) * len(full['kernel'])
    if full.get('count_include_pad', '') is None:
        full['count_include_pad'] = True
    return {key: float(str(np.float32(value))) if isinstance(value, float) else value
            for key, value in full.items()}


def input_count(op: str, values: Mapping[str, Any]) -> int:
    """Number of inputs of a node with these attributes."""
    inputs = get_operator(op).inputs
    if inputs is None:
        return values['num_args']
    if 'no_bias' in get_operator(op).attributes:
        return len(inputs) - bool(values.get('no_bias', False))
    if op == 'LeakyReLU':
        return 2 if values.get('act_type') == 'prelu' else 1
    if op == 'softmax':
        return 2 if values.get('use_length') else 1
    return len(inputs)


def output_counts(op: str, values: Mapping[str, Any]) -> Tuple[int, int]:
    """Number of outputs that other nodes can use, and of all outputs, as MXNet 1.9.1 counts."""
    if op == 'SliceChannel':
        return values['num_outputs'], values['num_outputs']
    if op == 'BatchNorm':
        return (3 if values.get('output_mean_var') else 1), 3
    if op == 'LeakyReLU' and values.get('act_type') == 'rrelu':
        return 2, 2
    keeps_workspace = op in ('Dropout', 'L2Normalization', 'LRN') or (
        op == 'Pooling' and values.get('pool_type', 'max') == 'max')
    return 1, 2 if keeps_workspace else 1


def _shorten(text: str) -> str:
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 60 else text[:57] + '...'
