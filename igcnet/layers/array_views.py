"""What NumPy operators inside MXNet's graphs share: the memory of their arrays."""

from __future__ import annotations

import ctypes

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call


def view(array: mx.nd.NDArray) -> np.ndarray:
    """The memory of a CPU array, without a copy."""
    array.wait_to_read()
    pointer = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    kind = np.dtype(array.dtype)
    size = int(np.prod(array.shape)) * kind.itemsize
    memory = (ctypes.c_char * size).from_address(pointer.value)
    return np.frombuffer(memory, kind).reshape(array.shape)


class Result:
    """Memory for a result: MXNet's own, unless it must be added to what is there.

    Parameters
    ----------
    array : NDArray
        Where the result belongs.
    request : str
        MXNet's 'write', 'inplace', 'add' or 'null'.
    """

    def __init__(self, array: mx.nd.NDArray, request: str):
        self._target, self._adds = view(array), request == 'add'
        in_place = request in ('write', 'inplace')
        self.array = self._target if in_place else np.empty_like(self._target)

    def hand_over(self) -> None:
        """Add the result if that was asked for; to be called when it is complete."""
        if self._adds:
            self._target += self.array
