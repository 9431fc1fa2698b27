"""What is published: the wheel, the source distribution, and what stands beside the code."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import REPO, needs_checkout

import igcnet

BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


pytestmark = needs_checkout


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    """(files under version control, files of the source distribution, the wheel as `ZipFile`)."""
    if not (REPO / '.git').exists():
        pytest.skip('needs a clone: git knows which files belong to it')
    pytest.importorskip('setuptools', minversion='70.1')  # older ones build no wheels alone
    copy = tmp_path_factory.mktemp('checkout')
    listed = subprocess.run(['git', 'ls-files'], cwd=str(REPO), text=True, capture_output=True)
    if listed.returncode:
        pytest.skip('git does not list the files: %s' % listed.stderr.strip())
    files = set(listed.stdout.splitlines())
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(REPO / name), str(copy / name))
    # Without a compiler the wheel has no operator library, and is built in two seconds.
    subprocess.run([sys.executable, '-W', 'ignore', '-c', BUILD], cwd=str(copy), check=True,
                   env={**os.environ, 'CXX': 'no-compiler'}, stdout=subprocess.DEVNULL)
    archive, = (copy / 'dist').glob('*.tar.gz')
    with tarfile.open(str(archive)) as tar:
        source = {name.partition('/')[2] for name in (m.name for m in tar if m.isfile())}
    wheel, = (copy / 'dist').glob('*.whl')
    with zipfile.ZipFile(str(wheel)) as opened:
        yield files, source, opened


def test_source_distribution_is_the_checkout(distributions):
    """Nothing is missing (`make test` works in it), and nothing else has slipped in."""
    files, source, _ = distributions
    made = {name for name in source if name.startswith('igcnet.egg-info/')}
    assert source - made - {'PKG-INFO', 'setup.cfg'} == files


def test_wheel_is_the_package(distributions):
    """Every file of the package is installed, recipes and C++ sources too, and nothing else."""
    files, _, wheel = distributions
    package = {name for name in files if name.startswith('igcnet/')}
    about = {name for name in wheel.namelist() if name.startswith('igcnet-')}
    assert set(wheel.namelist()) - about == package
    assert {Path(name).suffix for name in package} >= {'.py', '.yaml', '.cc', '.h'}


def test_what_the_wheel_says(distributions):
    _, _, wheel = distributions
    folder = 'igcnet-%s.dist-info' % igcnet.__version__
    texts = {name: wheel.read('%s/%s' % (folder, name)).decode('utf-8')
             for name in ('WHEEL', 'METADATA', 'entry_points.txt')}
    assert 'igcnet = igcnet.cli.main:main' in texts['entry_points.txt']
    assert 'Tag: py3-none-any' in texts['WHEEL'], 'it holds no library, so it is for any machine'
    assert re.search(r'^Requires-Python: .*>=3\.8', texts['METADATA'], re.M)
    assert any(name.endswith('/LICENSE') for name in wheel.namelist())


def test_lower_ends_of_all_ranges_are_tried(distributions):
    """`make check-lowest` installs what .ci/lowest.txt says, so that must be what we promise."""
    requirements = pytest.importorskip('packaging.requirements')
    _, _, wheel = distributions
    metadata = wheel.read('igcnet-%s.dist-info/METADATA' % igcnet.__version__).decode('utf-8')
    tried = dict(re.findall(r'^(\S+)==(\S+)$', (REPO / '.ci' / 'lowest.txt').read_text(), re.M))
    promised = {}
    for line in re.findall(r'^Requires-Dist: (.*)$', metadata, re.M):
        requirement = requirements.Requirement(line)
        low, = (part.version for part in requirement.specifier if part.operator in ('>=', '=='))
        promised[requirement.name] = low
    # The builds for GPUs cannot be run here, and PyTorch's has one version that was tried.
    expected = {name: low for name, low in promised.items()
                if not name.startswith(('nvidia-', 'mxnet')) and name != 'torch'}
    assert tried == expected


def test_citation_names_the_version_and_the_five_papers():
    citation = yaml.safe_load((REPO / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == igcnet.__version__
    assert citation['license'] == 'Apache-2.0'
    papers = {paper['url'].rsplit('/', 1)[1] for paper in citation['references']}
    assert papers == {'1707.02725', '1806.00178', '1803.09127', '1909.12978', '2007.04242'}


def test_changelog_begins_with_the_version():
    headings = re.findall(r'^## (\S+)', (REPO / 'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert headings[0] == igcnet.__version__
