"""Running statistics of BN for one width and resolution, exact over some training batches.

A width of a slimmable network that was sampled in training has no running statistics of its own,
and those of a listed width are of one resolution. MutualNet therefore computes them anew before
every evaluation (its ``ComputeBN``): the mean over some batches of training images of their
means and *unbiased* variances, every batch normalised by its own statistics on the way.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any, Iterable, Iterator, Optional

import mxnet as mx
import numpy as np

from igcnet.data.reader import TrainReader
from igcnet.errors import UsageError
from igcnet.layers import SlimmableNetwork
from igcnet.layers.resolution import at_resolution, check_resolution
from igcnet.layers.slimmable_network import Statistics

# The original is asked for 8 batches and takes one more.
ORIGINAL_BATCHES = 9


def calibrate(net: SlimmableNetwork, batches: Iterable[Any], width: Optional[float] = None,
              resolution: Optional[int] = None) -> Statistics:
    """Compute the running statistics of one width anew and put them into the network.

    Parameters
    ----------
    net : SlimmableNetwork
        The first of its devices computes; all get the statistics. Other widths keep theirs, but
        for BN layers with one set of statistics for every width (the last of MobileNet v2).
    batches : iterable of numpy.ndarray or NDArray
        Normalised images (N, 3, H, W); each batch counts the same, whatever its size.
    width : float, optional
        The present width by default. One without running statistics gets some.
    resolution : int, optional
        Resize the images to it.

    Returns
    -------
    dict
        Mean and variance by BN layer, as ``net.running_statistics(width)``.

    Raises
    ------
    UsageError
        No batch, a width outside the range, or a resolution that leaves nothing of the image.
    """
    width = net.width if width is None else width
    found = mean_statistics(net, batches, width, resolution)
    if not net.has_statistics(width):
        net.add_statistics(width)
    net.set_statistics(found, width)
    return found


def mean_statistics(net: SlimmableNetwork, batches: Iterable[Any], width: float,
                    resolution: Optional[int] = None) -> Statistics:
    """What `calibrate` puts into the network, which stays as it is; UsageError without a batch."""
    if resolution is not None:
        check_resolution(net, resolution)
    context = net.output.weight.list_ctx()[0]
    count, total = 0, {}
    for images in batches:
        x = at_resolution(_on_device(images, context, net.output.weight.dtype), resolution)
        for name, pair in net.batch_statistics(x, width).items():
            total[name] = pair if name not in total else tuple(
                old + new for old, new in zip(total[name], pair))
        # Without it the queue would hold the images of all batches.
        mx.nd.waitall()
        count += 1
    if not count:
        raise UsageError('calibration of width %g: there is not one batch of images' % width)
    return {name: tuple(value / count for value in pair) for name, pair in total.items()}


def first_batches(reader: TrainReader, count: int = ORIGINAL_BATCHES,
                  epoch: int = 0) -> Iterator[np.ndarray]:
    """The images of the first `count` batches of an epoch, or of all if it has fewer.

    They are shuffled and augmented as in training, and the same ones at every call.
    """
    with closing(reader.epoch(epoch)) as batches:
        for images, _ in islice(batches, count):
            yield images


def _on_device(images, context: mx.Context, dtype) -> mx.nd.NDArray:
    if isinstance(images, mx.nd.NDArray):
        return images.as_in_context(context).astype(dtype, copy=False)
    return mx.nd.array(images, ctx=context, dtype=dtype)
