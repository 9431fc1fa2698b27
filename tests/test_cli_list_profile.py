"""`igcnet`, `igcnet list`, `igcnet profile`, the options that choose a network, and the tools."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from typing import Optional, Tuple

import pytest
from conftest import PACKAGE, REPO, needs_checkout

import igcnet
from igcnet.cli import main as console
from igcnet.cli import network_options
from igcnet.cli.common import Parser
from igcnet.errors import UsageError
from igcnet.profiling import profile
from igcnet.registry import ModelSpec, Preprocessing, get_spec, list_models


def run(capsys, *argv):
    """(exit code, stdout, stderr) of ``igcnet argv``."""
    code = console.main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def python(*argv, folder='.', path=None):
    """A fresh Python in `folder`; `path` is the PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    if path is not None:
        environment['PYTHONPATH'] = str(path)
    return subprocess.run([sys.executable, *map(str, argv)], cwd=str(folder),
                          env=environment, capture_output=True, text=True)


# igcnet


def test_help_and_version(capsys):
    code, out, _ = run(capsys, '--help')
    assert code == 0
    assert all('\n  %s ' % name in out for name in console.COMMANDS)
    assert run(capsys, '--version') == (0, 'igcnet %s\n' % igcnet.__version__, '')
    code, out, _ = run(capsys)
    assert code == 2 and out.startswith('usage: igcnet COMMAND')


@pytest.mark.parametrize('name', console.COMMANDS)
def test_every_command_has_a_module(name, capsys):
    with pytest.raises(SystemExit) as left:
        console.main([name, '--help'])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith('usage: igcnet %s ' % name)


@pytest.mark.parametrize('name, hint', [('lst', 'did you mean list?'),
                                        ('profil', 'did you mean profile?'),
                                        ('zzz', 'see igcnet --help')])
def test_unknown_command(name, hint, capsys):
    assert run(capsys, name) == (2, '', 'error: unknown command %r: %s\n' % (name, hint))


@pytest.mark.parametrize('name', console.COMMANDS)
def test_help_does_not_import_mxnet(name):
    """Help stays quick, and the number of threads can still be set after parsing."""
    script = ("import sys\nfrom igcnet.cli.main import main\n"
              "try:\n    main([%r, '--help'])\nexcept SystemExit:\n    pass\n"
              "sys.exit('mxnet' in sys.modules)" % name)
    done = python('-c', script, path=PACKAGE.parent)
    assert (done.returncode, done.stderr) == (0, '')


# igcnet list


def test_list(capsys):
    code, out, _ = run(capsys, 'list')
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[1:]] == list_models()
    assert next(line for line in lines if line.startswith('igc_l100m2')).split() == [
        'igc_l100m2_imagenet', '224', '8,637,900', '1,264,780,800', '8.61', 'M', '1,300', 'M',
        '26.95', '%', '8.92', '%', '-']


def test_list_pattern(capsys):
    code, out, _ = run(capsys, 'list', 'resnet_c*')
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == [
        'resnet_c64_imagenet', 'resnet_c69_imagenet']
    code, out, err = run(capsys, 'list', 'vgg')
    assert (code, out) == (2, '')
    assert err == ("error: no network is called 'vgg'; a pattern such as '*vgg*' finds parts of "
                   'names\n')


def test_list_json(capsys):
    code, out, _ = run(capsys, 'list', 'plain_igc', '--json')
    assert code == 0 and json.loads(out) == [
        {'name': 'plain_igc', 'family': 'igc', 'input_size': 32, 'parameters': 317242,
         'macs': 57067392, 'published': None, 'summary': 'IGC units, no shortcuts', 'weights': ''}]


def test_list_markdown(capsys):
    code, out, _ = run(capsys, 'list', 'plain_igc', '--markdown')
    assert code == 0 and '| `plain_igc` | 32 | 317,242 | 57,067,392 | - |' in out
    assert run(capsys, 'list', '--json', '--markdown')[0] == 2


# igcnet profile


def test_profile(capsys):
    code, out, _ = run(capsys, 'profile', 'plain_igc')
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == ('plain_igc (depth=38, primary_partition=24, secondary_partition=2, '
                        'classes=10), input 32x32')
    assert lines[2].split() == ['g0_conv', 'Convolution', '1x48x32x32', '1,296', '1,327,104']
    assert ['total', '317,242', '57,067,392'] in [line.split() for line in lines]
    assert 'relu' not in out
    assert 'g0_relu ' in run(capsys, 'profile', 'plain_igc', '--all')[1]


def test_profile_settings(capsys):
    """Each setting reaches the network."""
    code, out, _ = run(capsys, 'profile', 'resnet_igc', '--depth', '8', '--primary-partition=4',
                       '--secondary-partition', '3', '--num-classes', '7', '--input-size', '64',
                       '--json', '--all')
    assert code == 0
    net = igcnet.get_model('resnet_igc', depth=8, primary_partition=4, secondary_partition=3,
                           classes=7)
    expected = profile(net, (1, 3, 64, 64))
    found = json.loads(out)
    assert found.pop('network') == 'resnet_igc'
    assert found.pop('settings') == {'depth': 8, 'primary_partition': 4,
                                     'secondary_partition': 3, 'classes': 7}
    assert found == json.loads(json.dumps(expected.as_dict(every_operator=True)))
    assert len(found['layers']) > len(expected.rows())


def test_profile_csv(capsys):
    code, out, _ = run(capsys, 'profile', 'resnet', '--csv')
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and sum(int(row['macs']) for row in rows) == 40813184
    assert sum(int(row['parameters']) for row in rows) == 272474


@pytest.mark.parametrize('argv, message', [
    (['plan'], "unknown network 'plan': did you mean plain, plain_igc?"),
    ([], 'the following arguments are required: NAME'),
    (['plain', '--depth', '21'], 'depth=21: a plain network needs a depth of 3n+2'),
    (['plain', '--depth', 'x'], "--depth: 'x' is not a whole number"),
    (['plain', '--depth', '2.5'], "--depth: '2.5' is not a whole number"),
    (['plain', '--doubling', 'primary'], '--doubling: plain has no such setting; it has --depth, '
     '--primary-partition, --secondary-partition, --classes'),
    (['plain', '--input-size', '40'], 'it is made for images of 32x32'),
    (['plain', '--input-size', '0'], "--input-size: '0' is not a whole number of at least 1"),
    (['plain', '--dep', '20'], 'unrecognized arguments: --dep'),
    (['plain', '--json', '--csv'], 'not allowed with argument --json')])
def test_profile_mistakes(argv, message, capsys):
    code, out, err = run(capsys, 'profile', *argv)
    assert (code, out) == (2, '')
    assert err.startswith('error: ') and err.count('\n') == 1 and message in err


# The options that choose a network


def parsed(*argv, **settings):
    parser = Parser(prog='test')
    network_options.add_network_options(parser, **settings)
    return parser.parse_args(argv)


def test_settings_are_those_of_the_registry():
    """A family that brings a new setting has to describe it in `SETTINGS`."""
    found = {setting for name in list_models() for setting in get_spec(name).settings()}
    assert set(network_options.SETTINGS) == found


def as_text(value):
    if isinstance(value, tuple):
        return ','.join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_of_every_network_can_be_given():
    for name in list_models():
        # None is the default only, it cannot be written.
        given = {key: value for key, value in get_spec(name).settings().items()
                 if value is not None}
        argv = ['--network', name]
        for setting, value in given.items():
            argv += [network_options.option(setting), as_text(value)]
        spec, overrides = network_options.network_from(parsed(*argv))
        assert spec.name == name
        assert overrides == given
        assert {k: type(v) for k, v in overrides.items()} == {
            k: type(v) for k, v in given.items()}


def test_settings_not_given_are_not_overridden():
    spec, overrides = network_options.network_from(parsed('--network', 'resnet_c69_imagenet'))
    assert (spec, overrides) == (get_spec('resnet_c69_imagenet'), {})


def test_network_is_required_or_not():
    with pytest.raises(UsageError, match='required: --network'):
        parsed()
    assert parsed(required=False).network is None
    assert parsed('plain', positional=True).network == 'plain'


def test_two_parsers_do_not_share_settings():
    parser = Parser(prog='test')
    network_options.add_network_options(parser)
    first = parser.parse_args(['--network', 'plain', '--depth', '8'])
    second = parser.parse_args(['--network', 'plain'])
    assert (first.network_settings, second.network_settings) == ({'depth': '8'}, {})


def test_types_of_settings(monkeypatch):
    def constructor(width: float = 1.0, groups: Optional[int] = None, swish: bool = False,
                    doubling: str = 'x', sizes: Optional[Tuple[int, ...]] = None):
        raise AssertionError

    spec = ModelSpec('new', 'test', constructor, Preprocessing(8, (0,) * 3, (1,) * 3))
    monkeypatch.setattr('igcnet.registry.get_spec', lambda name: spec)
    monkeypatch.setattr(network_options, 'SETTINGS', dict.fromkeys(spec.settings(), ('', ())))
    _, overrides = network_options.network_from(parsed(
        '--network', 'new', '--width', '1', '--groups', '3', '--swish', 'true',
        '--doubling', '5', '--sizes', '8,12'))
    assert overrides == {'width': 1.0, 'groups': 3, 'swish': True, 'doubling': '5',
                         'sizes': (8, 12)}
    assert type(overrides['width']) is float and overrides['swish'] is True
    for argv, message in ((['--width', 'wide'], "--width: 'wide' is not a number"),
                          (['--groups', '1.5'], "--groups: '1.5' is not a whole number"),
                          (['--swish', '1'], "--swish: '1' is neither 'true' nor 'false'"),
                          (['--sizes', '8,x'], "--sizes: 'x' is not a whole number")):
        with pytest.raises(UsageError, match=message):
            network_options.network_from(parsed('--network', 'new', *argv))


# tools/


@needs_checkout
def test_tool_runs_from_any_folder_without_installation(tmp_path):
    done = python(REPO / 'tools' / 'profile.py', 'resnet', '--csv', folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.splitlines()[-1] == 'fc,FullyConnected,1x10,650,0,640'


@needs_checkout
def test_tools_do_not_hide_the_standard_library(tmp_path):
    """cProfile imports `profile`: it must not find tools/profile.py."""
    assert python('-c', 'import cProfile', path=REPO / 'tools').returncode != 0
    idiom = (REPO / 'tools' / 'profile.py').read_text(encoding='utf-8')
    # The same first lines in a tool that then imports cProfile instead of its command.
    start, _, _ = idiom.partition('    from igcnet')
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'profile.py').write_text(idiom)
    (folder / 'other.py').write_text(start + "    import cProfile\n    cProfile.run('1 + 1')\n")
    done = python(folder / 'other.py')
    assert (done.returncode, done.stderr) == (0, '') and 'function calls' in done.stdout


@needs_checkout
def test_readme_tables_tool(tmp_path):
    """It rewrites the README.md beside its own folder to what the repository's README has."""
    tool = tmp_path / 'tools' / 'readme_tables.py'
    tool.parent.mkdir()
    shutil.copy(str(REPO / 'tools' / 'readme_tables.py'), str(tool))
    (tmp_path / 'igcnet').symlink_to(REPO / 'igcnet')
    readme = tmp_path / 'README.md'
    readme.write_text('<!-- networks:begin -->\n<!-- networks:end -->\n')
    done = python(tool)
    assert (done.returncode, done.stdout) == (0, 'README.md: table rewritten\n')
    assert readme.read_text().strip() in (REPO / 'README.md').read_text()


def help_into(output, unbuffered):
    """Start a process that prints a few lines to `output`."""
    script = "import sys; from igcnet.cli.main import main; sys.exit(main(['--help']))"
    return subprocess.Popen([sys.executable, '-c', script], stdout=output,
                            stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'PYTHONUNBUFFERED': unbuffered})


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_output_that_cannot_be_written(unbuffered):
    """One line on stderr, also when the output is still in Python's buffer at the end."""
    with open('/dev/full', 'w') as full:
        process = help_into(full, unbuffered)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (1, 'error: [Errno 28] No space left on device\n')


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_output_that_nobody_reads(unbuffered):
    """As in ``igcnet list | head -1``: no complaint."""
    process = help_into(subprocess.PIPE, unbuffered)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, '')
