"""No option without effect: every option of every command changes what the command does.

The table `option_effects.EFFECTS` holds for each option a small experiment, or the test that shows
what it does. A new option fails here until there is one.
"""

import argparse
import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

import mxnet as mx
import pytest
from command_calls import Seen
from option_effects import EFFECTS, USUAL, Changes, Elsewhere, Refused, SameAs
from option_world import make_world
from setting_effects import SETTINGS

from igcnet.cli import main as console
from igcnet.cli import record_commands
from igcnet.cli.network_options import SETTINGS as NETWORK_SETTINGS
from igcnet.cli.network_options import _StoreSetting, add_network_options, network_from, option
from igcnet.registry import get_model

TESTS = Path(__file__).resolve().parent


def parsers():
    """(command, parser) of every command, with those of its own commands."""
    def below(name, parser):
        groups = [action for action in parser._actions
                  if isinstance(action, argparse._SubParsersAction)]
        for group in groups:
            for word, inner in group.choices.items():
                yield from below('%s %s' % (name, word), inner)
        if not groups:
            yield name, parser
    for name in console.COMMANDS:
        yield from below(name, importlib.import_module('igcnet.cli.' + name).build_parser())
    for name in record_commands.COMMANDS:
        yield 'im2rec_pack ' + name, record_commands.command_parser(name)


PARSERS = dict(parsers())


def options(parser, settings=False):
    """The longest name of each option; settings of networks are apart."""
    return [max(action.option_strings, key=len) for action in parser._actions
            if action.option_strings and not isinstance(action, argparse._HelpAction)
            and isinstance(action, _StoreSetting) == settings]


@pytest.fixture(scope='module')
def call(tmp_path_factory):
    """Function that calls a command with some words, once, and gives what is `Seen` of it."""
    world = tmp_path_factory.mktemp('world')
    make_world(world)
    known = {}

    def run(words, number=0):
        words = words.replace('{w}', str(world))
        if (words, number) not in known:
            known[words, number] = Seen(tmp_path_factory.mktemp('call'), words)
        return known[words, number]
    return run


def usual(command, words='', instead=None):
    """A command with its usual words, or others `instead`, and `words` where such go."""
    template = USUAL[command] if instead is None else instead
    if '{}' not in template:
        template += ' {}'
    return '%s %s' % (command, template.replace('{}', words))


# The rule


CASES = [(command, name) for command, parser in PARSERS.items() for name in options(parser)]
WITH_NETWORKS = [command for command, parser in PARSERS.items() if options(parser, True)]


def test_the_tables_name_every_option_and_no_other():
    assert set(EFFECTS) == set(USUAL) == set(PARSERS)
    for command, parser in PARSERS.items():
        assert set(EFFECTS[command]) == set(options(parser)), command
    assert set(SETTINGS) == set(NETWORK_SETTINGS)


@pytest.mark.parametrize('command', PARSERS)
def test_every_option_says_what_it_is(command):
    silent = [action.dest for action in PARSERS[command]._actions
              if not re.search(r'\w', re.sub(r'\(default: .*\)', '', action.help or ''))]
    assert silent == []


@pytest.mark.parametrize('command, name', CASES, ids=map(' '.join, CASES))
def test_option(call, command, name):
    proofs = EFFECTS[command][name]
    for proof in proofs if isinstance(proofs, list) else [proofs]:
        PROVE[type(proof)](call, command, name, proof)


def prove_change(call, command, name, proof):
    words = usual(command, proof.base, proof.instead)
    without, control = call(words), call(words, 1)
    given = call(usual(command, '%s %s' % (proof.base, proof.words), proof.instead))
    if proof.seen != 'code':
        for each in (without, control, given):
            assert each.code == 0, each.error
    assert without[proof.seen] == control[proof.seen], 'differs by itself'
    assert without[proof.seen] != given[proof.seen], 'the same with %s' % proof.words


def prove_refusal(call, command, name, proof):
    words = usual(command, proof.base, proof.instead)
    assert call(words).code == 0, call(words).error
    refused = call(usual(command, '%s %s' % (proof.base, proof.words), proof.instead))
    assert refused.code and refused.error.startswith('error: '), refused.error
    assert proof.message in refused.error


def prove_elsewhere(call, command, name, proof):
    file, test = proof.test.split('::')
    source = source_of(TESTS / file, test)
    spellings = spellings_of(PARSERS[command], name)
    assert any(spelling in source for spelling in spellings), \
        '%s does not mention %s' % (proof.test, name)
    assert 'assert' in source


def prove_sameness(call, command, name, proof):
    mine, theirs = ({key: value for key, value in vars(action_of(PARSERS[each], name)).items()
                     if key != 'container'} for each in (command, proof.command))
    assert mine == theirs
    for each in (command, proof.command):
        module = importlib.import_module('igcnet.cli.' + each.split()[0])
        assert proof.function + '(' in inspect.getsource(module)


PROVE = {Changes: prove_change, Refused: prove_refusal, SameAs: prove_sameness,
         Elsewhere: prove_elsewhere}


def action_of(parser, name):
    action, = (action for action in parser._actions if name in action.option_strings)
    return action


def spellings_of(parser, name):
    """How a test may name an option: each of its names as a word, or a keyword argument."""
    action = action_of(parser, name)
    return ["'%s'" % word for word in action.option_strings] + [action.dest + '=']


def source_of(path, test):
    """The text of a test, and of what it uses of its own module."""
    text = path.read_text(encoding='utf-8')
    parts = {}
    for node in ast.parse(text).body:
        names = [node.name] if isinstance(node, ast.FunctionDef) else [
            target.id for target in getattr(node, 'targets', ()) if isinstance(target, ast.Name)]
        begin = min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', ()))])
        parts.update(dict.fromkeys(names, '\n'.join(
            text.split('\n')[begin - 1:node.end_lineno])))
    assert test in parts, '%s: has no test %s' % (path.name, test)
    own = parts.pop(test)
    return own + ''.join(part for name, part in parts.items() if re.search(r'\b%s\b' % name, own))


# Settings of networks


@pytest.mark.parametrize('command', WITH_NETWORKS)
def test_a_setting_reaches_the_network(call, command):
    """Files are of the usual number of classes; without a file the counts differ."""
    without, given = call(usual(command)), call(usual(command, '--num-classes 9'))
    assert without.code == 0, without.error
    if given.code:
        assert re.search('does not fit|3 classes, but the network has 9', given.error), given.error
    else:
        assert given['out'] != without['out']


@pytest.mark.parametrize('setting', NETWORK_SETTINGS)
def test_setting(call, setting):
    proof = SETTINGS[setting]
    if isinstance(proof, Changes):
        prove_change(call, 'profile', option(setting), proof)
    else:
        network, words = network_of(setting)
        assert traits(network, *words) != traits(network, *words, option(setting), proof[1])


def network_of(setting):
    """Name of the network on which a setting is tried, and the words beside it."""
    network, _, base = SETTINGS[setting]
    return network, [word for word in base.split() if word not in ('--network', network)]


def test_a_network_made_again_is_the_same():
    for setting in ('depth', 'init_mode', 'divisor', 'gate_factor'):
        network, words = network_of(setting)
        assert traits(network, *words) == traits.__wrapped__(network, *words)


@functools.lru_cache(maxsize=None)
def traits(network, *words):
    """What a network is: its graph, its parameters, and what these are at the beginning."""
    parser = argparse.ArgumentParser()
    add_network_options(parser)
    spec, overrides = network_from(parser.parse_args(['--network', network, *words]))
    net = get_model(spec.name, **overrides)
    shapes = {name: parameter.shape for name, parameter in net.collect_params().items()}
    graph = net(mx.sym.var('data')).tojson()
    low, high = getattr(net, 'width_range', (None, None))
    between = low and (low, high, net.channel_counts(0.7 * low + 0.3 * high))
    mx.random.seed(1)
    net.initialize()
    dynamic = getattr(net, 'dynamic_layers', ())
    for layer in dynamic:
        layer.set_progress(1.0)
    inactive = [layer.inactive for layer in dynamic]
    first = next(iter(net.collect_params().values())).data().asnumpy().tobytes()
    return graph, shapes, between, inactive, first
