"""Taking a trained network out of training."""

from igcnet.deploy.export import export, read_manifest

__all__ = ['export', 'read_manifest']
