"""Which MXNet wheel is installed, and what it needs before it can be imported.

``mxnet`` and ``mxnet-cu112`` unpack into the same folder, so exactly one of them may be
installed. The GPU wheel looks for CUDA libraries on the system path only; the NVIDIA wheels of
the extra ``cu112`` put them elsewhere, so they are loaded here, before ``import mxnet``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import metadata, util
from pathlib import Path
from typing import List

CPU_WHEEL = 'mxnet'
INSTALL_CPU = "pip install -c constraints.txt '.[cpu]'"
INSTALL_GPU = "pip install -c constraints.txt '.[cu112]'"

# In the order in which they need each other: (folder of the wheel, soname).
CUDA_LIBRARIES = (
    ('cuda_runtime', 'libcudart.so.11.0'),
    ('cuda_nvrtc', 'libnvrtc.so.11.2'),
    ('nvtx', 'libnvToolsExt.so.1'),
    ('cublas', 'libcublasLt.so.11'),
    ('cublas', 'libcublas.so.11'),
    ('cufft', 'libcufft.so.10'),
    ('curand', 'libcurand.so.10'),
    ('cusparse', 'libcusparse.so.11'),
    ('cusolver', 'libcusolver.so.11'),
    ('cudnn', 'libcudnn.so.8'),
    ('nccl', 'libnccl.so.2'),
)


def installed_wheels() -> List[str]:
    """Names of the installed distributions that own the folder ``mxnet/``."""
    names = (dist.metadata['Name'] or '' for dist in metadata.distributions())
    lowered = {name.lower().replace('_', '-') for name in names}
    return sorted(name for name in lowered if name == CPU_WHEEL or name.startswith('mxnet-cu'))


def require_one_mxnet() -> None:
    """Check that exactly one MXNet wheel is there, and load what the GPU wheel needs.

    Raises
    ------
    ImportError
        One line that says what to install or to remove.
    """
    wheels = installed_wheels()
    if not wheels:
        if util.find_spec('mxnet') is not None:  # built from source: no metadata to read
            return
        raise ImportError('igcnet needs MXNet and finds none: %s for a CPU, or %s for an NVIDIA GPU'
                          % (INSTALL_CPU, INSTALL_GPU))
    if len(wheels) > 1:
        raise ImportError(
            '%s are installed over each other in one folder: pip uninstall -y %s, then %s or %s'
            % (' and '.join(wheels), ' '.join(wheels), INSTALL_CPU, INSTALL_GPU))
    if wheels[0] != CPU_WHEEL and 'mxnet' not in sys.modules:
        preload_cuda_libraries()


def preload_cuda_libraries() -> List[str]:
    """Load the CUDA 11 libraries of the NVIDIA wheels into the process.

    A library that no wheel brings is left to the system's own search path.

    Returns
    -------
    list of str
        The paths that were loaded.
    """
    loaded = []
    for folder, soname in CUDA_LIBRARIES:
        for root in sys.path:
            path = Path(root or '.') / 'nvidia' / folder / 'lib' / soname
            if path.is_file():
                try:
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                except OSError as problem:
                    raise ImportError('%s: the CUDA library does not load (%s); reinstall the '
                                      'wheels of the extra cu112' % (path, problem)) from None
                loaded.append(str(path))
                break
    return loaded


def physical_cores() -> int:
    """Number of physical cores this process may use (at least 1)."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores, current = set(), {}
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines() + ['']
    except OSError:
        return len(usable)
    for line in lines:
        key, _, value = line.partition(':')
        if key.strip():
            current[key.strip()] = value.strip()
            continue
        if current.get('processor', '').isdigit() and int(current['processor']) in usable:
            cores.add((current.get('physical id', '0'),
                       current.get('core id', current['processor'])))
        current = {}
    return len(cores) or len(usable)


def default_threads() -> int:
    """``OMP_NUM_THREADS``, else every physical core."""
    given = os.environ.get('OMP_NUM_THREADS', '')
    return int(given) if given.isdigit() and int(given) > 0 else physical_cores()


def set_threads(count: int = 0) -> int:
    """Let MXNet compute with `count` threads (0: ``OMP_NUM_THREADS``, else every physical core).

    MXNet's own default is half of the logical CPUs, which wastes cores on machines without
    hyper-threading. Works only before the first ``import mxnet``, which is why the command
    line calls it first.
    """
    if count <= 0:
        count = default_threads()
    os.environ['OMP_NUM_THREADS'] = str(count)
    if 'OMP_WAIT_POLICY' not in os.environ:
        # GNU OpenMP's own value, 300,000, lets a thread that waits keep its core from the thread
        # it waits for: on a busy machine training then stands nearly still. On an idle one the
        # smaller value costs nothing.
        os.environ.setdefault('GOMP_SPINCOUNT', '10000')
    return count
