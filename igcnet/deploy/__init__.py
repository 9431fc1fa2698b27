"""Taking a trained network out of training."""

from igcnet.deploy.export import export, read_manifest
from igcnet.deploy.image_network import ImageNetwork

__all__ = ['ImageNetwork', 'export', 'read_manifest']
