"""Importing GluonCV whether PyTorch is installed or not.

GluonCV 0.10.5 refuses to be imported beside torch 2.x, although the parts used here never
touch it. It asks in its module ``gluoncv.check``; a stand-in that knows no torch takes the
module's place while GluonCV is imported.
"""

import importlib
import sys
import types


def import_gluoncv(module: str = 'gluoncv') -> types.ModuleType:
    """Import `module` of GluonCV (``'gluoncv.utils'``) and return it."""
    if 'gluoncv' not in sys.modules:
        check = types.ModuleType('gluoncv.check')

        def no_torch(*versions):
            raise ImportError('igcnet uses the MXNet side of GluonCV only')

        check._require_pytorch_version = no_torch
        check._require_mxnet_version = check._deprecate_python2 = lambda *versions: None
        sys.modules['gluoncv.check'] = check
    return importlib.import_module(module)
