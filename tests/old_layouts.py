"""Writers of the file layouts of older MXNet, for tests that read them."""

import json
import struct

import numpy as np

from igcnet.convert import operators
from igcnet.convert.symbol_json import to_json

MAGICS = {'v1': 0xF993FAC8, 'v2': 0xF993FAC9, 'v3': 0xF993FACA}
CODES = {'float32': 0, 'float64': 1, 'float16': 2, 'uint8': 3, 'int32': 4, 'int8': 5, 'int64': 6,
         'bool': 7, 'int16': 8}


def ndarray_bytes(array, layout, code=None):
    """One array; `layout` is 'oldest', 'v1', 'v2' or 'v3'."""
    code = CODES[str(array.dtype)] if code is None else code
    header = b''
    if layout != 'oldest':
        header += struct.pack('<I', MAGICS[layout])
    if layout in ('v2', 'v3'):
        header += struct.pack('<i', 0)
    header += struct.pack('<I', array.ndim)
    header += struct.pack('<%d%s' % (array.ndim, 'I' if layout == 'oldest' else 'q'), *array.shape)
    return header + struct.pack('<iii', 1, 0, code) + array.tobytes()


def list_bytes(arrays, names):
    """A whole file from the bytes of its arrays and its names (text or bytes)."""
    content = struct.pack('<QQQ', 0x112, 0, len(arrays)) + b''.join(arrays)
    content += struct.pack('<Q', len(names))
    for name in names:
        name = name if isinstance(name, bytes) else name.encode()
        content += struct.pack('<Q', len(name)) + name
    return content


def write_params(path, arrays, layout):
    """A ``.params`` file in an old layout."""
    path.write_bytes(list_bytes([ndarray_bytes(np.asarray(array), layout)
                                 for array in arrays.values()], list(arrays)))


def _old_text(value):
    """As old runtimes on Windows printed a value: (3,3), 2e-005."""
    text = str(value).replace(', ', ',')
    mantissa, mark, exponent = text.partition('e-')
    return '%se-%03d' % (mantissa, int(exponent)) if mark and exponent.isdigit() else text


def symbol_08(graph):
    """`graph` as MXNet up to 0.8 wrote it: ``param`` with all defaults, BatchNorm without its
    statistics, ``_Plus``, short links."""
    auxiliary = set(graph.auxiliary())
    index, nodes = {}, []
    for number, node in enumerate(graph.nodes):
        if number in auxiliary:
            continue
        index[number] = len(nodes)
        parameters = {}
        if not node.is_variable:
            full = {key: attribute.default for key, attribute
                    in operators.get_operator(node.op).attributes.items()}
            if node.op == 'BatchNorm':
                full = {key: full[key] for key in ('eps', 'momentum', 'fix_gamma')}
            full.update(node.attributes)
            parameters = {key: _old_text(value) for key, value in full.items()
                          if value is not None and value != ()}
        nodes.append({'op': {'elemwise_add': '_Plus'}.get(node.op, node.op), 'param': parameters,
                      'name': node.name, 'backward_source_id': -1,
                      'inputs': [[index[source], output] for source, output in node.inputs
                                 if source not in auxiliary]})
    return {'nodes': nodes,
            'arg_nodes': [i for i, node in enumerate(nodes) if node['op'] == 'null'],
            'heads': [[index[source], output] for source, output in graph.heads]}


def symbol_09(graph):
    """`graph` as MXNet 0.9 wrote it: ``attr``, with settings of the user among the attributes."""
    value = json.loads(to_json(graph))
    for node in value['nodes']:
        if 'attrs' in node:
            node['attr'] = {**node.pop('attrs'), 'ctx_group': 'stage1', 'weight_lr_mult': '2'}
    del value['attrs']
    return value
