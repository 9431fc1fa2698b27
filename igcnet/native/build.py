"""Build the operators and the inference engine: ``python -m igcnet.native.build``.

It needs a C++ compiler (``CXX``, or g++ or clang++), for the operators one with OpenMP, and the
header ``lib_api.h`` and the source ``lib_api.cc`` that are in the MXNet wheel. On x86-64 the
kernels are compiled for three vector widths, of which a library chooses when it is loaded.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import util
from pathlib import Path
from typing import List, Optional, Tuple

from igcnet.errors import IgcnetError
from igcnet.files import atomic_path
from igcnet.machine import cache_folder
from igcnet.native.library import ENGINE, HOW_TO_BUILD, OPERATORS, PACKAGE, SOURCES, Library

__all__ = ['ENGINE', 'HOW_TO_BUILD', 'OPERATORS', 'build', 'find_compiler', 'main',
           'mxnet_folder']

FLAGS = ['-std=c++14', '-O3', '-fPIC', '-fno-math-errno']
KERNELS = 'kernels.cc'
THREADS = {OPERATORS: '-fopenmp', ENGINE: '-pthread'}
# Name of the table of kernels, its name for people, and what the compiler may use for it.
X86_BUILDS = (
    ('kAvx2', 'avx2', ['-mavx2', '-mfma']),
    ('kAvx512', 'avx512', ['-mavx512f', '-mavx512vl', '-mavx512dq', '-mavx512bw',
                           '-mprefer-vector-width=512']),
)


def mxnet_folder() -> Path:
    """The folder of the installed MXNet, found without importing it.

    Raises
    ------
    IgcnetError
        MXNet is not installed, or its wheel lacks the library interface.
    """
    found = util.find_spec('mxnet')
    folders = list(found.submodule_search_locations) if found is not None else []
    # Where pip builds in an environment of its own, the packages are still in the usual place.
    folders.append(str(Path(sysconfig.get_paths()['purelib']) / 'mxnet'))
    for folder in map(Path, folders):
        if (folder / 'include' / 'mxnet' / 'lib_api.h').is_file() and \
                (folder / 'src' / 'lib_api.cc').is_file():
            return folder
    raise IgcnetError('the operator library needs lib_api.h and lib_api.cc of MXNet 1.9, which '
                      'are not in %s' % folders[0])


def find_compiler() -> str:
    """The C++ compiler.

    Raises
    ------
    IgcnetError
        There is none.
    """
    names = [os.environ['CXX']] if os.environ.get('CXX') else ['g++', 'clang++', 'c++']
    for name in names:
        if shutil.which(name):
            return name
    raise IgcnetError('no C++ compiler (%s): install one, or set CXX' % ', '.join(names))


def build(library: Library, target: Optional[Path] = None) -> Path:
    """Compile a library.

    Parameters
    ----------
    library : Library
        `OPERATORS` or `ENGINE`.
    target : Path, optional
        The file to write; by default in the package, or in the user's cache where the package
        cannot be written.

    Returns
    -------
    Path
        The library.

    Raises
    ------
    IgcnetError
        No compiler, no MXNet (for the operators), or the compiler failed.
    """
    compiler = find_compiler()
    if target is None:
        folder = PACKAGE if os.access(str(PACKAGE), os.W_OK) else cache_folder()
        target = folder / (library.stem + '.so')
    units = _units_of_engine() if library == ENGINE else _units_of_operators(mxnet_folder())
    own = ['-DIGCNET_FINGERPRINT="%s"' % library.fingerprint()]
    with tempfile.TemporaryDirectory(prefix='igcnet-native-') as work:
        objects = []
        for number, (source, flags) in enumerate(units):
            objects.append(str(Path(work) / ('%d.o' % number)))
            _call([compiler, *FLAGS, THREADS[library], *own, *flags, '-c', str(source),
                   '-o', objects[-1]])
        with atomic_path(target) as temporary:
            _call([compiler, '-shared', THREADS[library], '-o', str(temporary), *objects])
    return target


def _units_of_operators(mxnet: Path) -> List[Tuple[Path, List[str]]]:
    """Sources of the operators, each with the flags it needs."""
    include = ['-I%s' % (mxnet / 'include'), '-I%s' % (mxnet / 'include' / 'mxnet')]
    folder = SOURCES / 'src'
    return _kernels(folder) + [
        (folder / 'lanes.cc', include), (folder / 'library.cc', include),
        (folder / 'operators.cc', include),
        # Rounds after every operation, as the operators that it stands for.
        (folder / 'optimizer.cc', [*include, '-ffp-contract=off']),
        (mxnet / 'src' / 'lib_api.cc', include)]


def _units_of_engine() -> List[Tuple[Path, List[str]]]:
    folder = SOURCES / 'engine'
    return _kernels(folder) + [(path, []) for path in sorted(folder.glob('*.cc'))
                               if path.name != KERNELS]


def _kernels(folder: Path) -> List[Tuple[Path, List[str]]]:
    """The kernels once for each vector width."""
    units: List[Tuple[Path, List[str]]] = [(folder / KERNELS, [])]
    if platform.machine().lower() in ('x86_64', 'amd64'):
        units += [(folder / KERNELS,
                   [*flags, '-DIGCNET_BUILD=%s' % table, '-DIGCNET_BUILD_NAME="%s"' % name])
                  for table, name, flags in X86_BUILDS]
    return units


def _call(command: List[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if 'error' in line.lower()]
        raise IgcnetError('%s failed: %s' % (' '.join(command), (lines or ['no message'])[0]))


def main() -> int:
    """Run ``python -m igcnet.native.build``; returns the exit code."""
    argparse.ArgumentParser(prog='python -m igcnet.native.build',
                            description=__doc__.split('\n')[0]).parse_args()
    for library in (ENGINE, OPERATORS):
        try:
            print('built %s' % build(library))
        except IgcnetError as problem:
            print('error: %s' % problem, file=sys.stderr)
            return problem.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
