"""Names in the ShuffleNet checkpoints of clavichord93/MENet: by the rules of its MENet."""

from igcnet.convert.families.menet import WRAPPER, torch_extras, torch_names

__all__ = ['WRAPPER', 'torch_extras', 'torch_names']
