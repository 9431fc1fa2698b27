"""The original's own checkpoints: our networks give their stored outputs and write them again."""

import json

import mxnet as mx
import numpy as np

from igcnet.convert import (
    differences,
    load_network,
    read_graph,
    recognise,
    save_original,
    to_symbol,
)

PUBLISHED_UNITS = dict(doubling='secondary', unit_name='conv')


def cases(folder):
    """(its description, name and settings of our network) for every stored case."""
    for path in sorted(folder.glob('*.npz')):
        case = json.loads(path.with_suffix('.json').read_text())
        if 'logits' in np.load(str(path)).files:
            settings = dict(case['config'])
            settings['classes'] = settings.pop('num_classes')
            name, published, _ = case['network'].partition(' (published layout')
            settings.update(PUBLISHED_UNITS if published else {})
            yield case, name, settings


def test_original_logits(shared_fixtures):
    folder, count = shared_fixtures('igc'), 0
    for case, name, settings in cases(folder):
        stored = np.load(str(folder / (case['case'] + '.npz')))
        x = mx.nd.array(stored['x'])
        symbol, params = folder / case['symbol'], folder / case['checkpoint']
        for net in (load_network(network=name, params=params, **settings),
                    load_network(symbol=symbol, params=params)):
            for hybridised in (False, True):
                net.hybridize(hybridised)
                found = net(x).asnumpy()
                assert np.abs(found - stored['logits']).max() < 1e-4, case['case']
        probability = mx.nd.softmax(net(x)).asnumpy()
        assert np.abs(probability - stored['prob']).max() < 1e-5, case['case']
        count += 1
    assert count >= 7


def test_original_activations(shared_fixtures, monkeypatch):
    # Otherwise MXNet adds in place and overwrites what is looked at here.
    monkeypatch.setenv('MXNET_SUBGRAPH_BACKEND', 'NONE')
    folder, count = shared_fixtures('igc'), 0
    for case, name, settings in cases(folder):
        stored = np.load(str(folder / (case['case'] + '.npz')))
        nodes = [node for node in case['outputs'] if node not in ('logits', 'prob')]
        net = load_network(network=name, params=folder / case['checkpoint'], **settings)
        internals = to_symbol(net).get_internals()
        outputs = mx.sym.Group([internals[node + '_output'] for node in nodes])
        arguments = {parameter.name: parameter.data() for parameter
                     in net.collect_params().values()}
        executor = outputs.bind(
            mx.cpu(), {'data': mx.nd.array(stored['x']), **{
                key: arguments[key] for key in outputs.list_arguments() if key != 'data'}},
            grad_req='null', aux_states={key: arguments[key] for key
                                         in outputs.list_auxiliary_states()})
        for node, found in zip(nodes, executor.forward(is_train=False)):
            assert np.abs(found.asnumpy() - stored[node]).max() < 1e-4, (case['case'], node)
            count += 1
    assert count >= 10


def test_original_files_are_written_again(shared_fixtures, tmp_path):
    """Loaded into our network and saved, a present-layout checkpoint is the same file."""
    folder, count = shared_fixtures('igc'), 0
    for case, name, settings in cases(folder):
        params = folder / case['checkpoint']
        net = load_network(network=name, params=params, **settings)
        symbol, again = save_original(net, tmp_path / case['checkpoint_prefix'],
                                      case['checkpoint_epoch'])
        assert again.name == case['checkpoint'] and symbol.name == case['symbol']
        theirs = json.loads((folder / case['symbol']).read_text())
        if 'pre-1.0' not in case['checkpoint_format']:
            assert again.read_bytes() == params.read_bytes(), case['case']
            written = json.loads(symbol.read_text())
            assert list(written) == list(theirs)
            for key in ('arg_nodes', 'node_row_ptr', 'heads', 'attrs'):
                assert written[key] == theirs[key]
        assert differences(read_graph(symbol), read_graph(folder / case['symbol'])) == []
        assert recognise(read_graph(symbol))[0] == name
        count += 1
    assert count >= 7
