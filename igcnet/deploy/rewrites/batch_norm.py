"""Batch normalisation folded into the convolution beside it.

With its running statistics BN is ``scale * x + shift`` for each channel.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np

from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import (
    Kernel,
    attributes_of,
    bias_of,
    is_plain_convolution,
    store,
)
from igcnet.deploy.rewrites.shuffles import shuffle_order


def fold_batch_norms(model: Model) -> Model:
    """Fold every BN that follows or precedes a convolution or fully connected layer alone.

    A shuffle between the convolution and the BN behind it permutes the BN's parameters. A BN
    before a convolution is folded where that does not pad: padded zeros are not normalised. With
    a non-linearity between (pre-activation networks) BN stays.
    """
    editor = Editor(model)
    for index in editor.find('BatchNorm'):
        if not editor.nodes[index].attributes.get('output_mean_var') and all(
                source in editor.values for source, _ in editor.nodes[index].inputs[1:]):
            _into_writer(editor, index) or _into_reader(editor, index)
    return editor.finish()


def scale_and_shift(editor: Editor, index: int) -> Tuple[np.ndarray, np.ndarray]:
    """What a BN does to each channel, in float64."""
    a = attributes_of(editor, index)
    gamma, beta, mean, variance = (editor.value(index, place).astype(np.float64)
                                   for place in range(1, 5))
    scale = (1.0 if a['fix_gamma'] else gamma) / np.sqrt(variance + a['eps'])
    return scale, beta - mean * scale


def _into_writer(editor: Editor, index: int) -> bool:
    consumers = editor.consumers()
    scale, shift = scale_and_shift(editor, index)
    writer = editor.source(index)
    while len(consumers[writer]) == 1 and editor.nodes[writer].op == 'Reorder':
        inverse = np.argsort(shuffle_order(
            len(scale), editor.nodes[writer].attributes['branch_factor']))
        scale, shift = scale[inverse], shift[inverse]
        writer = editor.source(writer)
    if len(consumers[writer]) > 1 or not _is_weighted(editor, writer):
        return False
    weight, bias = editor.value(writer, 1), bias_of(editor, writer)
    rows = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    store(editor, writer, weight * rows, bias * scale + shift)
    editor.replace(index, editor.source(index))
    return True


def _into_reader(editor: Editor, index: int) -> bool:
    reader = _only_reader(editor, index)
    if reader is None:
        return False
    scale, shift = scale_and_shift(editor, index)
    if editor.nodes[reader].op == 'FullyConnected':
        weight = editor.value(reader, 1)
        if weight.shape[1] != len(scale):
            return False
        store(editor, reader, weight * scale, bias_of(editor, reader) + weight @ shift)
    else:
        kernel = Kernel.of(editor, reader)
        groups = attributes_of(editor, reader)['num_group']
        Kernel(kernel.weight * scale[:, None, None], kernel.used,
               kernel.bias + kernel.weight.sum((2, 3)) @ shift).store(editor, reader, groups)
    editor.replace(index, editor.source(index))
    return True


def _only_reader(editor: Editor, index: int) -> Optional[int]:
    """The one consumer, if it is a fully connected layer or a convolution without padding."""
    readers: List[int] = editor.consumers()[index]
    if len(readers) != 1 or readers[0] < 0 or not _is_weighted(editor, readers[0]):
        return None
    padding = attributes_of(editor, readers[0]).get('pad', ())
    return None if any(padding) or editor.source(readers[0]) != index else readers[0]


def _is_weighted(editor: Editor, index: int) -> bool:
    node = editor.nodes[index]
    if node.op == 'FullyConnected':
        return all(source in editor.values for source, _ in node.inputs[1:])
    return node.op == 'Convolution' and is_plain_convolution(editor, index)
