"""Whether a converted network computes what it should."""

from __future__ import annotations

import contextlib
import re
import zipfile
from typing import Dict, Iterator, Mapping, NamedTuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.convert import to_graph
from igcnet.convert.torch_twin import run_twin
from igcnet.errors import CheckpointError
from igcnet.files import PathLike

# Stored outputs: ``logits`` of ``x``, or those of a network of several widths on ``x`` in
# several resolutions.
LOGITS = re.compile(r'logits(?:_w([\d.]+)_r(\d+))?')
INPUT = 'x'


class Comparison(NamedTuple):
    """Two sets of logits.

    Parameters
    ----------
    name : str
        Of the stored array, or 'PyTorch'.
    difference : float
        Largest absolute difference.
    agreeing, images : int
        Images with the same largest logit, and all images.
    """

    name: str
    difference: float
    agreeing: int
    images: int

    def text(self) -> str:
        """For people."""
        return '%s: max abs difference %.3g, arg-max agrees for %d of %d' % self


def against_outputs(net: HybridBlock, path: PathLike) -> Iterator[Comparison]:
    """Compare `net` with outputs of the original in a ``.npz`` file.

    The file holds the input ``x`` (N, 3, H, W) and ``logits`` (N, classes); or, for a network
    with several widths, ``logits_w<width>_r<size>`` of `x` resized to that size (bilinear,
    corners aligned). Other arrays are passed over.

    Raises
    ------
    CheckpointError
        The file is damaged or lacks these arrays, or their shapes do not fit.
    """
    arrays = _read(path)
    images = arrays.pop(INPUT)
    for name, expected in arrays.items():
        match = LOGITS.fullmatch(name)
        try:
            x = mx.nd.array(images, dtype='float32')
            if match.group(1) is not None:
                size = int(match.group(2))
                if size != x.shape[2]:
                    x = mx.nd.contrib.BilinearResize2D(x, height=size, width=size)
                net.set_width(float(match.group(1)))
            ours = net(x).asnumpy()
        except (mx.MXNetError, ValueError, AttributeError) as problem:
            raise CheckpointError('%s: the network cannot run on x for %s (%s)'
                                  % (path, name, str(problem).strip().split('\n')[-1])) from None
        yield compare(name, ours, expected, path)


def against_twin(net: HybridBlock, size: int, values: Mapping[str, np.ndarray],
                 seed: int = 0) -> Iterator[Comparison]:
    """Compare `net` on random input with the same graph computed by PyTorch.

    See `igcnet.convert.torch_twin` for what this shows and what it does not. A network with
    several widths is compared at each that has running statistics.

    Parameters
    ----------
    size : int
        Height and width of the input, two images; see `random_images`.
    values : mapping
        Parameters for PyTorch, by name, as the original's file holds them; those that it lacks
        are taken from `net`.
    """
    x = random_images(2, size, seed)
    own = {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}
    for width in getattr(net, 'listed_widths', (None,)):
        if width is not None:
            net.set_width(width)
        name = 'PyTorch' if width is None else 'PyTorch at width %g' % width
        expected = run_twin(to_graph(net, head=False), {**own, **values, 'data': x})
        yield compare(name, net(mx.nd.array(x)).asnumpy(), expected, name)


def random_images(count: int, size: int, seed: int) -> np.ndarray:
    """Coarse coloured patterns with some noise (count, 3, size, size), mean 0, deviation near 1/2.

    White noise is nothing that a trained network has ever seen: the saliencies of dynamic group
    convolution multiply from layer to layer and overflow.
    """
    generator = np.random.RandomState(seed)
    pattern = mx.nd.array(generator.standard_normal((count, 3, 6, 6)))
    smooth = mx.nd.contrib.BilinearResize2D(pattern, height=size, width=size).asnumpy()
    return (smooth + 0.1 * generator.standard_normal(smooth.shape)).astype(np.float32)


def compare(name: str, ours: np.ndarray, expected: np.ndarray, source: PathLike) -> Comparison:
    """Compare two arrays of logits (N, classes)."""
    if ours.shape != expected.shape or ours.ndim != 2:
        raise CheckpointError('%s: %s has the shape %s, the network gives %s'
                              % (source, name, expected.shape, ours.shape))
    if not np.isfinite(expected).all():
        raise CheckpointError('%s: %s has values that are not finite' % (source, name))
    difference = np.abs(ours - expected.astype(np.float64)).max()
    agreeing = int(np.sum(ours.argmax(axis=1) == expected.argmax(axis=1)))
    return Comparison(name, float(difference), agreeing, len(ours))


def require(comparison: Comparison, tolerance: float) -> None:
    """Refuse a difference above `tolerance`, and one that is no number (a `CheckpointError`)."""
    if not comparison.difference <= tolerance:
        raise CheckpointError('%s: the difference %.3g is above the tolerance %g'
                              % (comparison.name, comparison.difference, tolerance))


def holds_logits(path: PathLike) -> bool:
    """Whether a ``.npz`` file holds inputs and logits."""
    with _opened(path) as file:
        return INPUT in file.files and any(map(LOGITS.fullmatch, file.files))


def _read(path: PathLike) -> Dict[str, np.ndarray]:
    """The input and the logits in a ``.npz`` file."""
    with _opened(path) as file:
        names = [name for name in file.files if name == INPUT or LOGITS.fullmatch(name)]
        if INPUT not in names or len(names) < 2:
            raise ValueError("it needs the arrays 'x' and 'logits'")
        return {name: file[name] for name in names}


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        file = np.load(str(path), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError('another kind of file')
        with file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise CheckpointError('%s: cannot read inputs and outputs from this .npz file (%s)'
                              % (path, str(problem).split('\n')[0])) from None
