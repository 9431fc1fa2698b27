"""igcnet: efficient group-convolution networks in MXNet Gluon.

Interleaved Group Convolutions and their family as HybridBlocks whose graphs, names and
checkpoints are the originals'. Input is (N, 3, H, W) float32 in RGB order, normalised as the
preprocessing of the named configuration says (``igcnet.get_spec(name).preprocessing``).

>>> import igcnet
>>> net = igcnet.get_model('resnet_igc', depth=20, primary_partition=24, secondary_partition=2)
>>> net.initialize()
"""

from igcnet import _backend

__version__ = '0.1.0'
__all__ = ['get_model', 'get_spec', 'list_models', '__version__']

_backend.require_one_mxnet()


def __getattr__(name):
    # The registry pulls in mxnet, which takes seconds to import; tools that never build a
    # network (packing, --help) should not pay for it.
    if name in ('get_model', 'get_spec', 'list_models'):
        from igcnet import registry
        return getattr(registry, name)
    raise AttributeError('module %r has no attribute %r' % (__name__, name))


def __dir__():
    return sorted(list(globals()) + __all__)
