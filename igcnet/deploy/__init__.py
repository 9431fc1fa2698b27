"""Taking a trained network out of training."""

from igcnet.deploy.adaptive import AdaptiveModel
from igcnet.deploy.export import export, read_manifest
from igcnet.deploy.image_network import ImageNetwork
from igcnet.deploy.model import Model
from igcnet.deploy.onnx_form import to_onnx
from igcnet.deploy.optimizing import Optimized, optimize

__all__ = ['AdaptiveModel', 'ImageNetwork', 'Model', 'Optimized', 'export', 'optimize',
           'read_manifest', 'to_onnx']
