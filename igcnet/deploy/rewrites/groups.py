"""Convolutions put together: neighbouring groups, successive convolutions, channels to blocks."""

from __future__ import annotations

from typing import Callable

import numpy as np

from igcnet.deploy.model import Editor, Model
from igcnet.deploy.rewrites.kernels import (
    EMPTY,
    Kernel,
    attributes_of,
    is_plain_convolution,
    is_pointwise,
)
from igcnet.deploy.rewrites.regions import find_region, rename_channels
from igcnet.layers.lowering import VECTOR, merge_factor


def merge_groups(model: Model, chosen: Callable[[str], bool]) -> Model:
    """Compute neighbouring groups as one where theirs do not fill whole vector blocks.

    See `igcnet.layers.lowering`; channel-wise convolutions stay.

    Parameters
    ----------
    chosen : callable
        Whether to do it, of the name of a convolution.
    """
    editor = Editor(model)
    for index in editor.find('Convolution'):
        if not is_plain_convolution(editor, index) or not chosen(editor.nodes[index].name):
            continue
        groups = attributes_of(editor, index)['num_group']
        channels, inputs = editor.value(index, 1).shape[:2]
        factor = merge_factor(groups, inputs * groups, channels)
        if factor > 1:
            Kernel.of(editor, index).store(editor, index, groups // factor)
    return editor.finish()


def join_convolutions(model: Model, chosen: Callable[[str], bool]) -> Model:
    """Compute a convolution and the 1x1 convolution that alone follows it as one.

    Parameters
    ----------
    chosen : callable
        Whether to do it, of the name of the first convolution.
    """
    editor = Editor(model)
    for index in editor.find('Convolution'):
        if not (is_plain_convolution(editor, index) and is_pointwise(editor, index)):
            continue
        first = editor.source(index)
        if not (editor.nodes[first].op == 'Convolution' and is_plain_convolution(editor, first)
                and chosen(editor.nodes[first].name)
                and editor.consumers()[first] == [index]):
            continue
        one, other = Kernel.of(editor, first), Kernel.of(editor, index)
        mixing = other.weight[:, :, 0, 0].astype(np.float64)
        Kernel(np.einsum('om,mikl->oikl', mixing, one.weight, optimize=True),
               other.used.astype(np.float32) @ one.used.astype(np.float32) > 0,
               other.bias + mixing @ one.bias).store(editor, first)
        editor.replace(index, first)
    return editor.finish()


def pad_channels(model: Model, chosen: Callable[[str], bool]) -> Model:
    """Give maps between ungrouped convolutions channels of zeros up to whole vector blocks.

    Parameters
    ----------
    chosen : callable
        Whether to do it, of the name of a convolution that writes such maps.
    """
    editor = Editor(model)
    for index in editor.find('Convolution'):
        if not is_plain_convolution(editor, index) or not chosen(editor.nodes[index].name):
            continue
        region = find_region(editor, index, editor.consumers())
        if region is None or index not in region.writers or any(
                attributes_of(editor, border).get('num_group', 1) > 1
                for border in region.writers + region.readers):
            continue
        channels = len(editor.value(index, 1))
        if channels % VECTOR:
            rename_channels(editor, region, [*range(channels), *[EMPTY] * (-channels % VECTOR)])
    return editor.finish()
