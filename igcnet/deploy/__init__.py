"""Taking a trained network out of training."""

from igcnet.deploy.adaptive import AdaptiveModel
from igcnet.deploy.export import export, read_manifest

__all__ = ['AdaptiveModel', 'export', 'read_manifest']
