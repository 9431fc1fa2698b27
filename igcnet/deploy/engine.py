"""The inference engine: computes a `Program` on CPUs. See docs/engine.md."""

from __future__ import annotations

import ctypes
from typing import Any, List, Optional, Tuple

import numpy as np

from igcnet._backend import default_threads
from igcnet.deploy.program import SIGMOID, Convolution, Dense, Enter, Largest, Mean, Program, Split
from igcnet.deploy.program_checks import check
from igcnet.errors import IgcnetError, UsageError
from igcnet.native.library import load_engine

NO_SIZE = -1  # where a step reads the image
MOST_THREADS = 64
NO_MEMORY = 'the inference engine: not enough memory for this network'


class _Group(ctypes.Structure):
    """GivenGroup of network.h."""

    _fields_ = [('sources', ctypes.c_int), ('outs', ctypes.c_int)] + [
        (name, ctypes.c_void_p)
        for name in ('source', 'weight', 'bias', 'out', 'add', 'factor')]


class Engine:
    """A program, ready to be computed.

    Parameters
    ----------
    program : Program
        What is computed.
    threads : int, optional
        Threads; by default ``OMP_NUM_THREADS``, else every physical core.

    Raises
    ------
    IgcnetError
        The engine is not built, the program reads or writes what is not there, or memory does
        not suffice.
    """

    def __init__(self, program: Program, threads: Optional[int] = None):
        threads = default_threads() if threads is None else threads
        if not 1 <= threads <= MOST_THREADS:
            raise UsageError('%d threads: between 1 and %d are possible' % (threads, MOST_THREADS))
        check(program)
        self._handle = None
        self._library = load_engine()
        self._library.igcnet_engine_new.restype = ctypes.c_void_p
        self.program = program
        self.threads = threads
        handle = self._library.igcnet_engine_new(threads, *map(int, program.image_shape),
                                                 int(program.classes))
        if not handle:
            raise IgcnetError(NO_MEMORY)
        self._handle = ctypes.c_void_p(handle)
        for size in program.sizes:
            self._call('size', *map(int, (size.height, size.width, size.gap, size.slots)))
        for step in program.steps:
            self._add(step)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of images.

        Several threads may call this at the same time; they are served one after the other.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, channels, height, width), N at least 1.

        Returns
        -------
        numpy.ndarray
            float32 (N, classes); the same bits for any N and any number of threads.

        Raises
        ------
        UsageError
            Another shape or type.
        IgcnetError
            Memory does not suffice.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.float32 or \
                images.ndim != 4 or images.shape[1:] != tuple(self.program.image_shape) or \
                not 1 <= len(images) < 1 << 20:
            raise UsageError('images: float32 (N, %d, %d, %d) are needed, not %s'
                             % (*self.program.image_shape,
                                '%s %r' % (images.dtype, images.shape)
                                if isinstance(images, np.ndarray) else type(images).__name__))
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), self.program.classes), np.float32)
        self._call('run', len(images), images, logits)
        return logits

    def profile(self, images: np.ndarray, repeats: int = 1) -> List[float]:
        """Seconds of each step of the program, as the first thread saw them, in one run.

        Parameters
        ----------
        images : numpy.ndarray
            As for `run`.
        repeats : int, optional
            How many runs are averaged.
        """
        self.run(images)
        seconds = np.empty(len(self.program.steps))
        self._call('timed', 1)
        try:
            for _ in range(repeats):
                self.run(images)
            self._library.igcnet_engine_times(self._handle, _pointer(seconds))
        finally:
            self._call('timed', 0)
        return (seconds / repeats).tolist()

    def kernels(self) -> str:
        """Which vectors it computes with: 'avx512', 'avx2' or 'baseline'."""
        function = self._library.igcnet_engine_kernels
        function.restype = ctypes.c_char_p
        return function().decode('ascii')

    def __del__(self):
        if getattr(self, '_handle', None):
            self._library.igcnet_engine_delete(self._handle)

    def _add(self, step: Any) -> None:
        if isinstance(step, (Enter, Split)):
            source = step.source if isinstance(step, Split) else NO_SIZE
            self._call('move', source, step.size, step.stride, len(step.table), step.table)
        elif isinstance(step, Convolution):
            groups, kept = _groups(step)  # `kept` lives until the library has copied it
            self._call('convolution', step.size, int(step.activation == SIGMOID),
                       float(step.low), float(step.high), len(groups), groups)
        elif isinstance(step, Largest):
            self._call('largest', step.size, *step.sources.shape[:2], step.sources, step.outs)
        elif isinstance(step, Mean):
            self._call('mean', step.size, len(step.slots), step.slots)
        elif isinstance(step, Dense):
            self._call('dense', *step.weight.shape, step.weight, step.bias, float(step.low),
                       float(step.high))

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library that may run out of memory."""
        kept = [np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
                for value in arguments]
        if getattr(self._library, 'igcnet_engine_' + name)(
                self._handle, *[_argument(value) for value in kept]):
            raise IgcnetError(NO_MEMORY)


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _pointer(value)
    return ctypes.c_float(value) if isinstance(value, float) else value


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _groups(step: Convolution) -> Tuple[Any, List[np.ndarray]]:
    """The groups for the library, and the arrays that they point into."""
    kept, groups = [], (_Group * len(step.groups))()
    for group, given in zip(step.groups, groups):
        given.sources, given.outs = len(group.sources), len(group.outs)
        for name, array in (('source', group.sources), ('weight', group.weight),
                            ('bias', group.bias), ('out', group.outs), ('add', group.adds),
                            ('factor', group.factors)):
            kept.append(np.ascontiguousarray(array))
            setattr(given, name, kept[-1].ctypes.data)
    return groups, kept
