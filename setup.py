"""Package declaration. The MXNet wheel is an extra, because the CPU and the GPU wheel own the
same folder and exactly one of them must be installed: ``.[cpu]`` or ``.[cu112]``."""

import re
import sys
import types
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
# The package itself cannot be imported without MXNet; these modules of it can.
PACKAGE = types.ModuleType('igcnet')
PACKAGE.__path__ = [str(HERE / 'igcnet')]
sys.modules['igcnet'] = PACKAGE

from igcnet.errors import IgcnetError  # noqa: E402
from igcnet.native import build as native  # noqa: E402

VERSION = re.search(r"^__version__ = '(.+)'$",
                    (HERE / 'igcnet' / '__init__.py').read_text(encoding='utf-8'), re.M).group(1)
LIBRARIES = {'igcnet.native.%s' % library.stem: library
             for library in (native.OPERATORS, native.ENGINE)}


class BuildNative(build_ext):
    """Builds the libraries in C++; an installation never fails for it."""

    def build_extension(self, ext):
        try:
            native.build(LIBRARIES[ext.name], Path(self.get_ext_fullpath(ext.name)))
        except IgcnetError as problem:
            self.warn('%s (later: %s)' % (problem, native.HOW_TO_BUILD))


def libraries():
    """The libraries that can be built; without any the wheel is for every machine."""
    found = []
    for name, library in LIBRARIES.items():
        try:
            native.find_compiler()
            if library == native.OPERATORS:
                native.mxnet_folder()
            found.append(Extension(name, [], optional=True))
        except IgcnetError as problem:
            print('without %s: %s (later: %s)' % (library.title, problem, native.HOW_TO_BUILD))
    return found


setup(
    name='igcnet',
    version=VERSION,
    description='Efficient group-convolution networks in MXNet Gluon: Interleaved Group '
                'Convolutions and their family',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['igcnet', 'igcnet.*']),
    package_data={'igcnet': ['train/recipes/*.yaml', 'native/engine/*', 'native/src/*',
                             'weights/*']},
    ext_modules=libraries(),
    cmdclass={'build_ext': BuildNative},
    python_requires='>=3.8,<3.12',
    install_requires=[
        'numpy>=1.23.5,<1.24',  # MXNet 1.9.1 uses np.bool, which 1.24 removed
        'gluoncv==0.10.5.post0',
        'opencv-python>=4.11.0.86,<4.12',  # older: BGR only; newer: numpy 2
        'matplotlib>=3.6',
        'pillow>=9.3',
        'pyyaml>=6.0',
        'scipy>=1.9.2',
        'tqdm>=4.64',
    ],
    extras_require={
        'cpu': ['mxnet==1.9.1'],
        'cu112': [
            'mxnet-cu112==1.9.1',
            'nvidia-cublas-cu11>=11.10,<12',
            'nvidia-cuda-nvrtc-cu11>=11.7,<12',
            'nvidia-cuda-runtime-cu11>=11.7,<12',
            'nvidia-cudnn-cu11>=8.5,<9',
            'nvidia-cufft-cu11>=10.7,<11',
            'nvidia-curand-cu11>=10.2,<11',
            'nvidia-cusolver-cu11>=11.4,<12',
            'nvidia-cusparse-cu11>=11.7,<12',
            'nvidia-nccl-cu11>=2.13,<3',
            'nvidia-nvtx-cu11>=11.7,<12',
        ],
        'torch': ['torch>=2.13'],
        'onnx': ['onnx>=1.16,<1.19', 'onnxruntime>=1.18.1'],
        'tensorboard': ['tensorboardX>=2.6'],
        'dev': ['build>=1', 'pytest>=7', 'pytest-xdist>=3.0.2', 'ruff>=0.9',
                'scikit-learn>=1.3,<1.8', 'setuptools>=70.1', 'tensorboardX>=2.6'],
    },
    entry_points={'console_scripts': ['igcnet=igcnet.cli.main:main']},
    classifiers=[
        'Programming Language :: Python :: 3.8',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
