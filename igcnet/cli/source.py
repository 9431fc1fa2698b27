"""Where a trained network comes from, shared by evaluate and predict."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from igcnet.cli.common import Parser, positive_int
from igcnet.cli.network_options import add_network_options, network_from, option
from igcnet.errors import DataError, UsageError

ONNX = '.onnx'


class TrainedNetwork(NamedTuple):
    """A network ready to run, and how its images must be prepared.

    Parameters
    ----------
    net : HybridBlock
        Gives logits (N, classes).
    preprocessing : Preprocessing or None
        None when nothing is known about it.
    classes : list of str or None
        Class names by number.
    description : str
        For people.
    network, settings
        Name and overrides for `igcnet.get_model`; None for a graph.
    """

    net: Any
    preprocessing: Any
    classes: Optional[List[str]]
    description: str
    network: Optional[str] = None
    settings: Optional[Dict[str, Any]] = None


def add_source_options(parser: Parser, graphs: bool = True) -> None:
    """Add the options that name a trained network and the devices to run it on.

    `graphs` as in `add_trained_options`.
    """
    add_trained_options(parser, graphs)
    device = parser.add_argument_group('devices')
    device.add_argument('--batch-size', type=positive_int, default=64, metavar='N',
                        help='images in a batch')
    device.add_argument('--gpus', metavar='N,N,...', default='', help='GPU numbers, such as 0,1')
    device.add_argument('--cpus', type=positive_int, default=1, metavar='N',
                        help='number of CPU contexts')
    add_threads_option(device)


def add_threads_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--threads``, the argument of `igcnet._backend.set_threads`."""
    parser.add_argument('--threads', type=positive_int, metavar='N',
                        help='threads of the CPU kernels (default: OMP_NUM_THREADS, or all '
                             'physical cores)')


def add_trained_options(parser: Parser, graphs: bool = True) -> None:
    """Add the options that name a trained network.

    Parameters
    ----------
    graphs : bool
        Whether the command takes a network that is known as a graph only. Otherwise it refuses
        ``--symbol``, which its help does not show, and says why.
    """
    add_network_options(parser, required=False)
    group = parser.add_argument_group(
        'trained network', 'one that comes with the package: --network NAME --pretrained; a '
        'checkpoint of ours: --params RUN, CHECKPOINT or FILE; one of a PyTorch original: '
        '--network NAME --params FILE' + (
            "; one in the MXNet original's layout, or an exported network: --symbol FILE --params "
            'FILE, or --params FILE.onnx' if graphs else ''))
    weights = group.add_mutually_exclusive_group(required=True)
    weights.add_argument('--params', metavar='PATH',
                         help='parameter file, checkpoint folder, folder of a run (its newest '
                              "checkpoint), or checkpoint of a PyTorch original; that one's code "
                              'is not executed')
    weights.add_argument('--pretrained', action='store_true',
                         help='the released weights of --network (`igcnet list` shows which have '
                              'them); settings that are not given are those of the weights')
    group.add_argument('--symbol', metavar='FILE',
                       help='symbol file of the graph, instead of --network' if graphs
                       else argparse.SUPPRESS)
    group.add_argument('--dataset', metavar='NAME',
                       help='take mean, deviation and input size from this data set (default: '
                            'what the checkpoint or its manifest says, else the named '
                            "configuration's)")


def load_source(args: argparse.Namespace, contexts: Sequence[Any],
                as_it_is: bool = False) -> TrainedNetwork:
    """The network that the options name, loaded on `contexts`.

    Parameters
    ----------
    as_it_is : bool
        Leave the graph of an exported network as it is in the file, where it would otherwise be
        put together for the runtime that it was made for.

    Raises
    ------
    UsageError, CheckpointError
        Options that do not go together, or files that do not fit.
    """
    if args.pretrained:
        found = _from_release(args, contexts)
    elif args.params.endswith(ONNX):
        if as_it_is:
            raise UsageError('--params %s: an ONNX file is written, not read, here; give the '
                             'network that it was made of' % args.params)
        found = _from_onnx(args)
    else:
        found = (_from_symbol(args, contexts, as_it_is) if args.symbol
                 else _from_network(args, contexts))
    if args.dataset:
        from igcnet.data.datasets import find_dataset
        found = found._replace(preprocessing=find_dataset(args.dataset).preprocessing())
    return found


def _from_symbol(args, contexts, as_it_is) -> TrainedNetwork:
    from igcnet.convert import load_network, read_graph, recognise
    from igcnet.deploy.export import preprocessing_from, read_manifest
    from igcnet.deploy.optimized_files import ready
    from igcnet.registry import get_spec
    if args.network:
        raise UsageError('--network %s: the graph is given by --symbol already; give one of them'
                         % args.network)
    net = load_network(symbol=args.symbol, params=args.params, ctx=contexts)
    manifest = read_manifest(args.symbol, args.params)
    if manifest is not None:
        preprocessing = preprocessing_from(manifest.get('preprocessing'), args.symbol)
        if not as_it_is and contexts[0].device_type == 'cpu':
            net = ready(net, manifest, preprocessing.input_size, args.symbol)
        return _described(net, preprocessing, manifest)
    known = recognise(read_graph(args.symbol))
    preprocessing = None if known is None else get_spec(known[0]).preprocessing
    return TrainedNetwork(net, preprocessing, None, args.symbol if known is None else '%s %s' % (
        known[0], ', '.join('%s=%s' % item for item in known[1].items())), *(known or ()))


def _from_release(args, contexts) -> TrainedNetwork:
    from igcnet.deploy.released import find_release
    if args.symbol or not args.network:
        raise UsageError('--pretrained: give it with --network NAME, and without --symbol')
    width = _width_to_run_at(args, args.network)
    spec, settings = network_from(args)
    return _released(find_release(spec.name, settings), contexts, width)


def _released(release, contexts, width: Optional[float]) -> TrainedNetwork:
    return _at_width(TrainedNetwork(
        release.load(contexts), release.preprocessing, release.classes,
        '%s, released weights %s' % (release.network, release.name), release.network,
        release.settings), width)


def _from_onnx(args) -> TrainedNetwork:
    from igcnet.deploy.export import preprocessing_from
    from igcnet.deploy.optimized_files import load_onnx
    if args.network or args.symbol:
        raise UsageError('--params %s: this is a whole network; leave out --network and --symbol'
                         % args.params)
    net = load_onnx(args.params)
    if net.manifest is None:
        return TrainedNetwork(net, None, None, args.params)
    return _described(net, preprocessing_from(net.manifest.get('preprocessing'), args.params),
                      net.manifest)


def _described(net: Any, preprocessing: Any, manifest: Dict[str, Any]) -> TrainedNetwork:
    name, settings = manifest.get('network'), manifest.get('settings')
    return TrainedNetwork(net, preprocessing, _names(manifest.get('classes')), '%s' % name,
                          name if isinstance(name, str) else None,
                          settings if isinstance(settings, dict) else None)


def _from_network(args, contexts) -> TrainedNetwork:
    from igcnet.convert import load_network
    from igcnet.convert.torch_convert import family_of, load_torch
    from igcnet.deploy.export import preprocessing_from
    from igcnet.deploy.released import read_release
    from igcnet.registry import get_model, get_spec
    from igcnet.train.checkpoint import STATE, WEIGHTS, read_state
    path = checkpoint_folder(Path(args.params))
    if path is None:
        release = None if args.network else read_release(args.params)
        if release is not None:
            width = _width_to_run_at(args, release.network)
            _refuse_settings(args, release.params, release.network)
            return _released(release, contexts, width)
        if not args.network:
            raise UsageError('--params %s: this is no checkpoint of ours, so the network must be '
                             'named too: --network NAME with its settings, or --symbol FILE'
                             % args.params)
        width = _width_to_run_at(args, args.network)
        spec, settings = network_from(args)
        if _is_torch_file(args.params):
            net = get_model(spec.name, **settings)
            load_torch(net, family_of(spec), args.params, ctx=contexts)
        else:
            net = load_network(params=args.params, network=spec.name, ctx=contexts, **settings)
        return _at_width(TrainedNetwork(net, spec.preprocessing, None, spec.name, spec.name,
                                        settings), width)
    state = read_state(path)
    name, settings = state.network, dict(state.settings)
    width = _width_to_run_at(args, name)
    if args.network:
        spec, given = network_from(args)
        if spec.name != name:
            raise UsageError('--network %s: the checkpoint %s is of %s' % (spec.name, path, name))
        settings.update(given)
    else:
        _refuse_settings(args, path, name)
    get_spec(name)
    net = load_network(params=str(path / WEIGHTS), network=name, ctx=contexts, **settings)
    return _at_width(TrainedNetwork(net, preprocessing_from(state.preprocessing,
                                                            str(path / STATE)),
                                    _names(state.classes), '%s, checkpoint %s' % (name, path),
                                    name, settings), width)


def _refuse_settings(args, path: Path, name: str) -> None:
    """Settings without ``--network`` beside a file that says what it is of."""
    for setting in args.network_settings:
        raise UsageError('%s: give --network NAME with it, or leave it out: %s is of %s'
                         % (option(setting), path, name))


def _is_torch_file(path: str) -> bool:
    """Whether a file begins as the archives or pickles of PyTorch do."""
    from igcnet.convert.torch_file import ZIP_START
    try:
        with open(path, 'rb') as file:
            start = file.read(4)
    except OSError:
        return False  # the reader of parameter files says what is wrong
    return start == ZIP_START or start[:1] == b'\x80'


def _width_to_run_at(args, network: str) -> Optional[float]:
    """Take ``--width`` out of the settings of a slimmable network, for which it is no setting
    but the width to run at."""
    from igcnet.registry import get_spec
    if 'width' not in args.network_settings or get_spec(network).family != 'slimmable':
        return None
    text = args.network_settings['width']
    args.network_settings = {key: value for key, value in args.network_settings.items()
                             if key != 'width'}
    try:
        return float(text)
    except ValueError:
        raise UsageError('--width: %r is not a number' % text) from None


def _at_width(found: TrainedNetwork, width: Optional[float]) -> TrainedNetwork:
    if width is None:
        return found
    found.net.set_width(width)
    return found._replace(description='%s at width %g' % (found.description, found.net.width))


@contextlib.contextmanager
def explain_sizes(source: str, found: TrainedNetwork) -> Iterator[None]:
    """One line for images of a size that the network does not take."""
    from mxnet.base import MXNetError
    try:
        yield
    except MXNetError as problem:
        reason = next((line for line in str(problem).split('\n') if 'rror' in line), 'no reason')
        raise DataError('%s: images of this size do not go through %s (%s)'
                        % (source, found.description, reason.strip())) from None


def checkpoint_folder(path: Path) -> Optional[Path]:
    """The checkpoint folder that `path` means (run, checkpoint or file), or None.

    Raises
    ------
    UsageError
        A folder that is neither.
    """
    from igcnet.train.checkpoint import STATE, checkpoints
    if path.is_dir():
        if (path / STATE).is_file():
            return path
        found = checkpoints(path / 'checkpoints') or checkpoints(path)
        if not found:
            raise UsageError('--params %s: this folder is neither a checkpoint nor a run with one'
                             % path)
        return found[-1]
    return path.parent if (path.parent / STATE).is_file() else None


def _names(values: Any) -> Optional[List[str]]:
    return [str(value) for value in values] if isinstance(values, list) else None
