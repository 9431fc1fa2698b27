"""Parts that matter in training only."""

from __future__ import annotations

from igcnet.deploy.model import Editor, Model

WITHOUT_EFFECT = ('Dropout', 'BlockGrad', '_copy')


def remove_training_parts(model: Model) -> Model:
    """Leave out dropout, gradient stops and identities."""
    editor = Editor(model)
    for index in editor.find(*WITHOUT_EFFECT):
        editor.replace(index, editor.source(index))
    return editor.finish()
