"""Images in another size, on the device, as MutualNet makes them."""

from __future__ import annotations

from typing import Any, Optional

import mxnet as mx

from igcnet.errors import UsageError

# A number from a file must not make images of any size.
LARGEST_RESOLUTION = 4096


def at_resolution(x: mx.nd.NDArray, resolution: Optional[int]) -> mx.nd.NDArray:
    """`x` (N, C, H, W) resized to (N, C, resolution, resolution); None leaves it as it is.

    Bilinear with aligned corners and no filter against aliasing, as
    `igcnet.data.transforms.resize_aligned`.
    """
    if resolution is None or x.shape[2:] == (resolution, resolution):
        return x
    return mx.nd.contrib.BilinearResize2D(x, height=resolution, width=resolution)


def check_resolution(net: Any, resolution: int) -> None:
    """Refuse a resolution at which a network does not work.

    Parameters
    ----------
    net : igcnet.layers.Network

    Raises
    ------
    UsageError
        Less than one pixel would be left of the last feature map, the network works for images
        of one size only, or it is larger than anybody's images.
    """
    if net.fixed_input_size and resolution != net.input_size:
        raise UsageError('resolution %s: the network takes images of %dx%d only'
                         % (resolution, net.input_size, net.input_size))
    stride = net.stages[-1].stride
    if resolution < stride:
        raise UsageError('resolution %s: the network divides it by %d, so its last feature map '
                         'would be empty; take at least %d' % (resolution, stride, stride))
    if resolution > LARGEST_RESOLUTION:
        raise UsageError('resolution %d: take at most %d' % (resolution, LARGEST_RESOLUTION))
