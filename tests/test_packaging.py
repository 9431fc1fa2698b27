"""What stands beside the code: citation, changelog, licence."""

import re

import yaml
from conftest import REPO

import igcnet


def test_citation_names_the_version_and_the_five_papers():
    citation = yaml.safe_load((REPO / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == igcnet.__version__
    assert citation['license'] == 'Apache-2.0'
    papers = {paper['url'].rsplit('/', 1)[1] for paper in citation['references']}
    assert papers == {'1707.02725', '1806.00178', '1803.09127', '1909.12978', '2007.04242'}


def test_changelog_begins_with_the_version():
    headings = re.findall(r'^## (\S+)', (REPO / 'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert headings[0] == igcnet.__version__
