"""Taking a trained network out of training."""

from igcnet.deploy.adaptive import AdaptiveModel
from igcnet.deploy.export import export, read_manifest
from igcnet.deploy.image_network import ImageNetwork

__all__ = ['AdaptiveModel', 'ImageNetwork', 'export', 'read_manifest']
