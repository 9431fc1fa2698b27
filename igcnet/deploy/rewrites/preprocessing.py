"""The preparation of an image as part of the graph."""

from __future__ import annotations

import numpy as np

from igcnet.convert.original import INPUT
from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import attributes_of, bias_of, is_plain_convolution, store
from igcnet.errors import UsageError
from igcnet.registry import Preprocessing


def add_preprocessing(model: Model, preprocessing: Preprocessing) -> Model:
    """Let the graph take pixels from 0 to 255 in RGB order, in place of a normalised image.

    The mean is subtracted in the graph, because the convolutions pad what is left with zeros.
    The division goes into the weights of the first convolution where that is all that reads the
    image.

    Raises
    ------
    UsageError
        The network's input does not have three channels.
    """
    if model.image_shape[0] != len(preprocessing.mean):
        raise UsageError('the preprocessing is for %d channels, the network has %d'
                         % (len(preprocessing.mean), model.image_shape[0]))
    editor = Editor(model)
    data = next(index for index, node in enumerate(editor.nodes)
                if node.is_variable and node.name == INPUT)
    readers = editor.consumers()[data]
    mean = editor.add_parameter(INPUT + '_mean', np.reshape(preprocessing.mean, (1, -1, 1, 1)))
    centred = editor.add('broadcast_sub', INPUT + '_centred', {}, [data, mean])
    editor.replace(data, centred, but=(centred,))
    std = np.array(preprocessing.std, np.float64)
    first = readers[0]
    if readers == [first] and editor.nodes[first].op == 'Convolution' \
            and is_plain_convolution(editor, first) \
            and attributes_of(editor, first)['num_group'] == 1:
        store(editor, first, editor.value(first, 1) / std[:, None, None], bias_of(editor, first))
        return editor.finish()
    scale = editor.add_parameter(INPUT + '_scale', np.reshape(1 / std, (1, -1, 1, 1)))
    scaled = editor.add('broadcast_mul', INPUT + '_scaled', {}, [centred, scale])
    editor.replace(centred, scaled, but=(scaled,))
    return editor.finish()
