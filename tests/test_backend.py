"""Which MXNet wheel is there: messages, preloading of CUDA libraries, number of threads."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE

from igcnet import _backend


class Distribution:
    """What importlib.metadata tells of an installed package."""

    def __init__(self, name):
        self.metadata = {'Name': name}


@pytest.fixture
def wheels(monkeypatch):
    """Function that sets the names of the installed distributions."""
    def install(*names):
        monkeypatch.setattr(_backend.metadata, 'distributions',
                            lambda: [Distribution(name) for name in names])
    return install


@pytest.fixture
def not_imported(monkeypatch):
    """As in a process that has not imported MXNet yet; the list of preloadings."""
    calls = []
    monkeypatch.delitem(sys.modules, 'mxnet', raising=False)
    monkeypatch.setattr(_backend, 'preload_cuda_libraries', lambda: calls.append('preloaded'))
    return calls


@pytest.mark.parametrize('installed, expected', [
    (['numpy', 'mxnet'], ['mxnet']), (['mxnet-cu112', 'pip'], ['mxnet-cu112']),
    (['MXNet_cu112'], ['mxnet-cu112']), (['mxnet', 'mxnet-cu112'], ['mxnet', 'mxnet-cu112']),
    (['mxnet', 'mxnet'], ['mxnet']), (['mxnet-tools', None, 'mxnetx'], [])])
def test_installed_wheels(installed, expected, wheels):
    wheels(*installed)
    assert _backend.installed_wheels() == expected


def test_the_real_metadata():
    """In the environment of these tests there is exactly one."""
    assert len(_backend.installed_wheels()) == 1


def test_cpu_wheel(wheels, not_imported):
    wheels('mxnet')
    _backend.require_one_mxnet()
    assert not_imported == []


def test_gpu_wheel_is_preloaded_once(wheels, not_imported, monkeypatch):
    wheels('mxnet-cu112')
    _backend.require_one_mxnet()
    assert not_imported == ['preloaded']
    monkeypatch.setitem(sys.modules, 'mxnet', ctypes)  # any module: MXNet is loaded already
    _backend.require_one_mxnet()
    assert not_imported == ['preloaded']


def test_no_wheel(wheels, not_imported, monkeypatch):
    wheels('numpy')
    monkeypatch.setattr(_backend.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError) as caught:
        _backend.require_one_mxnet()
    message = str(caught.value)
    assert '\n' not in message
    assert "'.[cpu]'" in message and "'.[cu112]'" in message and 'finds none' in message


def test_mxnet_from_source_has_no_metadata(wheels, not_imported, monkeypatch):
    wheels('numpy')
    monkeypatch.setattr(_backend.util, 'find_spec', lambda name: object())
    _backend.require_one_mxnet()
    assert not_imported == []


def test_both_wheels(wheels, not_imported):
    wheels('mxnet-cu112', 'mxnet')
    with pytest.raises(ImportError) as caught:
        _backend.require_one_mxnet()
    message = str(caught.value)
    assert '\n' not in message
    assert message.startswith('mxnet and mxnet-cu112 are installed over each other')
    assert 'pip uninstall -y mxnet mxnet-cu112, then ' in message
    assert not_imported == []


def test_import_igcnet_tells(tmp_path):
    """The check runs when the package is imported: here beside a second wheel's metadata."""
    for name in ('mxnet', 'mxnet_cu112'):
        folder = tmp_path / ('%s-1.9.1.dist-info' % name)
        folder.mkdir()
        (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: %s\nVersion: 1.9.1\n'
                                         % name.replace('_', '-'))
    done = subprocess.run([sys.executable, '-c', 'import igcnet'], capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': '%s:%s' % (tmp_path, PACKAGE.parent)})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('ImportError: mxnet and mxnet-cu112 are')


# CUDA libraries


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site-packages folder with some of the NVIDIA wheels' libraries, alone on sys.path."""
    for folder, soname in (('cudnn', 'libcudnn.so.8'), ('cublas', 'libcublas.so.11'),
                           ('cublas', 'libcublasLt.so.11'), ('cublas', 'libother.so'),
                           ('cuda_runtime', 'libcudart.so.11.0')):
        path = tmp_path / 'nvidia' / folder / 'lib' / soname
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'not a library')
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'empty'), str(tmp_path)])
    return tmp_path / 'nvidia'


def test_preloading(site, monkeypatch):
    """In the order of need, visible to what is loaded later; what is absent is left out."""
    loaded = []
    monkeypatch.setattr(_backend.ctypes, 'CDLL', lambda path, mode: loaded.append((path, mode)))
    result = _backend.preload_cuda_libraries()
    assert result == [str(site / path) for path in (
        'cuda_runtime/lib/libcudart.so.11.0', 'cublas/lib/libcublasLt.so.11',
        'cublas/lib/libcublas.so.11', 'cudnn/lib/libcudnn.so.8')]
    assert loaded == [(path, ctypes.RTLD_GLOBAL) for path in result]


def test_each_library_is_loaded_once(site, monkeypatch, tmp_path):
    """The first folder of sys.path that has it."""
    second = tmp_path / 'second' / 'nvidia' / 'cudnn' / 'lib'
    second.mkdir(parents=True)
    (second / 'libcudnn.so.8').write_bytes(b'')
    sys.path.append(str(tmp_path / 'second'))
    monkeypatch.setattr(_backend.ctypes, 'CDLL', lambda path, mode: None)
    assert [path for path in _backend.preload_cuda_libraries() if 'cudnn' in path] == [
        str(site / 'cudnn' / 'lib' / 'libcudnn.so.8')]


def test_damaged_library(site):
    with pytest.raises(ImportError) as caught:
        _backend.preload_cuda_libraries()
    message = str(caught.value)
    assert message.startswith(str(site / 'cuda_runtime' / 'lib' / 'libcudart.so.11.0'))
    assert 'reinstall' in message and 'cu112' in message and '\n' not in message


def test_real_library_becomes_global(tmp_path):
    """A library that needs a symbol of an earlier one finds it."""
    compiler = next((name for name in ('cc', 'gcc') if subprocess.run(
        ['which', name], capture_output=True).returncode == 0), None)
    if compiler is None:
        pytest.skip('no C compiler on this machine')
    for folder, soname, source in (
            ('cuda_runtime', 'libcudart.so.11.0', 'int igcnet_test_value(void) { return 42; }'),
            ('cudnn', 'libcudnn.so.8', 'int igcnet_test_value(void);\n'
             'int igcnet_test_call(void) { return igcnet_test_value() + 1; }')):
        path = tmp_path / 'nvidia' / folder / 'lib' / soname
        path.parent.mkdir(parents=True)
        subprocess.run([compiler, '-shared', '-fPIC', '-x', 'c', '-', '-o', str(path)],
                       input=source, text=True, check=True)
    script = ('import ctypes, sys; from igcnet import _backend; '
              'sys.path.append(%r); last = _backend.preload_cuda_libraries()[-1]; '
              'print(ctypes.CDLL(last).igcnet_test_call())' % str(tmp_path))
    done = subprocess.run([sys.executable, '-c', script], capture_output=True,
                          text=True, check=True)
    assert done.stdout == '43\n'


# Threads


@pytest.fixture
def environment(monkeypatch):
    """An environment without OMP_NUM_THREADS that is put back afterwards."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr(_backend, 'physical_cores', lambda: 6)
    return monkeypatch


def test_threads_given(environment):
    environment.setenv('OMP_NUM_THREADS', '3')
    assert _backend.set_threads(2) == 2
    assert os.environ['OMP_NUM_THREADS'] == '2'


@pytest.mark.parametrize('value, expected', [('3', 3), ('', 6), ('0', 6), ('many', 6), ('-2', 6)])
def test_threads_of_the_environment(value, expected, environment):
    environment.setenv('OMP_NUM_THREADS', value)
    assert _backend.set_threads() == expected
    assert os.environ['OMP_NUM_THREADS'] == str(expected)


def test_threads_by_default(environment):
    assert _backend.set_threads() == 6
    assert os.environ['OMP_NUM_THREADS'] == '6'


def test_waiting_threads_give_up_early_unless_the_user_says_otherwise(environment):
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'):
        environment.setenv(name, '')
        environment.delenv(name)
    _backend.set_threads(2)
    assert os.environ['GOMP_SPINCOUNT'] == '10000'
    environment.setenv('GOMP_SPINCOUNT', '7')
    _backend.set_threads(2)
    assert os.environ['GOMP_SPINCOUNT'] == '7'
    environment.delenv('GOMP_SPINCOUNT')
    environment.setenv('OMP_WAIT_POLICY', 'active')
    _backend.set_threads(2)
    assert 'GOMP_SPINCOUNT' not in os.environ


CPUINFO = ''.join('processor\t: %d\nphysical id\t: %d\ncore id\t\t: %d\n\n' % item for item in [
    (0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 0, 0), (5, 0, 1), (6, 1, 0), (7, 1, 1)])


@pytest.mark.parametrize('usable, text, cores', [
    (range(8), CPUINFO, 4), ([0, 4], CPUINFO, 1), ([0, 1, 2], CPUINFO, 3), ([5], CPUINFO, 1),
    # Machines without core numbers, or without a readable list.
    ([0, 1], 'processor : 0\n\nprocessor : 1\n\n', 2), ([0, 1, 2], '', 3), ([0, 1, 2], None, 3)])
def test_physical_cores(usable, text, cores, monkeypatch):
    def read_text(path):
        if text is None:
            raise PermissionError
        return text

    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(usable), raising=False)
    monkeypatch.setattr(Path, 'read_text', read_text)
    assert _backend.physical_cores() == cores


def test_physical_cores_elsewhere(monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    assert _backend.physical_cores() == 1
