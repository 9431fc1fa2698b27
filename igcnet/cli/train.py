"""``igcnet train``: train a network on record files."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import (
    EXIT_INTERRUPTED,
    Parser,
    colour,
    numbers,
    positive_float,
    positive_int,
    run,
    seed,
    while_importing,
    words,
)
from igcnet.cli.network_options import add_network_options, network_from
from igcnet.errors import UsageError
from igcnet.launch.worker import as_worker, in_a_job

DATA_SETS = ('cifar10', 'cifar100', 'svhn', 'imagenet', 'digits', 'records')


def build_parser() -> Parser:
    """The parser; options that are not given stay out of the result."""
    parser = Parser(prog='igcnet train', argument_default=argparse.SUPPRESS,
                    formatter_class=argparse.HelpFormatter,
                    description='Train a network on record files made by im2rec_pack. Options '
                                'have the names of the IGC original. Without --gpus it trains on '
                                'the CPU.')
    add_network_options(parser, required=False)

    data = parser.add_argument_group('data')
    data.add_argument('--dataset', choices=DATA_SETS,
                      help="data set, for its mean, deviation and augmentation; 'records': any "
                           'other record files (default: cifar10)')
    data.add_argument('--data-dir', metavar='FOLDER',
                      help='folder of the record files (default: data/<dataset>)')
    data.add_argument('--train-dataset', metavar='FILE',
                      help='record file in it, to train on (default: train.rec)')
    data.add_argument('--val-dataset', metavar='FILE',
                      help='record file in it, for the validation (default: test.rec)')
    data.add_argument('--num-examples', type=positive_int, metavar='N',
                      help='training images that an epoch counts as when the drops of the learning '
                           'rate are placed (default: those of the record file)')
    data.add_argument('--data-shape', type=positive_int, metavar='N',
                      help='height and width of the input, with --dataset records (default: 32)')
    data.add_argument('--mean-rgb', type=colour, metavar='R,G,B',
                      help="mean, 0..255 (default: the data set's)")
    data.add_argument('--std-rgb', type=colour, metavar='R,G,B',
                      help="deviation, 0..255 (default: the data set's)")
    data.add_argument('--fb-mean', action='store_true',
                      help="Facebook's mean and deviation, with --dataset imagenet")
    data.add_argument('--on-bad', choices=('error', 'skip'),
                      help='an unreadable image stops the run, or is skipped and counted '
                           '(default: error)')
    data.add_argument('--decode-threads', type=positive_int, metavar='N',
                      help='threads that decode and augment (default: one for each core)')
    data.add_argument('--test-io', action='store_true',
                      help='only read an epoch, without the network, and print images/s')

    recipe = parser.add_argument_group('recipe', 'every value of the recipe can be overridden')
    recipe.add_argument('--recipe', metavar='NAME|FILE',
                        help="name of a recipe of the package, such as igc-cifar, "
                             'menet-sgd-120-nesterov or modern (docs/training.md has them all), '
                             "or a YAML file (default: the IGC original's for the data set)")
    recipe.add_argument('--set', nargs='+', action='extend', metavar='KEY=VALUE', dest='pairs',
                        help='any values of the recipe: optimizer=sgd wd=4e-5 lr_steps=30,60 '
                             'method_settings.NAME=VALUE')
    recipe.add_argument('--num-epochs', type=positive_int, metavar='N',
                        help='epochs of the whole run')
    recipe.add_argument('--batch-size', type=positive_int, metavar='N',
                        help='total over all devices of all workers')
    recipe.add_argument('--lr', type=float, metavar='RATE', help='learning rate at the beginning')
    recipe.add_argument('--lr-factor', type=float, metavar='F',
                        help='the learning rate is multiplied by it at each drop')
    recipe.add_argument('--lr-steps', type=numbers, metavar='E,E,...', help='epochs of the drops')
    recipe.add_argument('--lr-epoch-step', type=positive_int, metavar='N',
                        help='a drop every N epochs, instead of --lr-steps')
    recipe.add_argument('--aug-type', type=int, choices=(0, 1, 2),
                        help='0 none, 1 standard, 2 crop and mirror without padding')
    recipe.add_argument('--augmentation', metavar='NAME',
                        help='any preset of `igcnet augment --list`, instead of --aug-type')

    weights = parser.add_argument_group('weights to start from')
    weights.add_argument('--load-model', metavar='FILE',
                         help='all weights: a .params file in any layout, or a checkpoint of the '
                              'PyTorch original')
    weights.add_argument('--pretrained', nargs='?', const=True, metavar='FILE',
                         help='the same for fine-tuning: all but the classifier, which is new; '
                              'without a FILE the released weights of the network '
                              '(docs/pretrained.md), which also decide its other settings')
    weights.add_argument('--freeze', type=words, metavar='PATTERN,...',
                         help="parameters that stay as they are: 'g0_*,g1_*'; BN of which scale "
                              'and shift are frozen keeps its running statistics as well')
    weights.add_argument('--teacher', metavar='NETWORK',
                         help='distillation: learn from this network, too; '
                              '--set method_settings.temperature=4 method_settings.hard_weight=0.5')
    weights.add_argument('--teacher-params', metavar='FILE', help='its weights')

    device = parser.add_argument_group('devices')
    device.add_argument('--gpus', metavar='N,N,...', help='GPU numbers, such as 0,1')
    device.add_argument('--cpus', type=positive_int, metavar='N',
                        help='train data parallel on N CPU contexts (default: 1)')
    device.add_argument('--sync-bn', action='store_true',
                        help='batch normalisation with the statistics of all devices together '
                             "instead of each device's own (slower)")
    device.add_argument('--kv-store', metavar='NAME',
                        help="'device' sums gradients on the devices, 'local' on the CPU "
                             '(default: device); in a job of `igcnet launch`: dist_sync (the '
                             'default there), dist_device_sync or dist_async')
    device.add_argument('--gc-type', choices=('none', '2bit'),
                        help='compress the gradients that the workers of a job exchange '
                             '(default: none)')
    device.add_argument('--gc-threshold', type=positive_float, metavar='T',
                        help='what 2bit sends for a gradient of at least so much (default: 0.5)')
    device.add_argument('--lowering', choices=('stock', 'blocked', 'native', 'auto'),
                        help="how grouped convolutions and shuffles are computed: 'blocked' is the "
                             'same function in whole vector blocks, faster on a CPU when groups '
                             "are narrow; 'native' is C++ for CPUs (python -m "
                             "igcnet.native.build); 'auto' is the fastest for each layer "
                             '(default: stock)')
    device.add_argument('--tune', action='store_true',
                        help='measure all lowerings on this network and batch first, and take the '
                             'fastest; measured once, and remembered for this machine')
    device.add_argument('--precision', choices=('float32', 'bfloat16', 'float16'),
                        help='bfloat16 on the CPU or float16 on GPUs, by MXNet\'s AMP; weights '
                             'stay float32 (default: float32)')
    device.add_argument('--threads', type=positive_int, metavar='N',
                        help='threads of the CPU kernels (default: with --resume RUN those of the '
                             'run; else OMP_NUM_THREADS, or all physical cores)')
    device.add_argument('--deterministic', action='store_true',
                        help='only GPU kernels that give the same bits each time, and a refusal '
                             'to resume where another processor, number of threads or version '
                             'would give others; CPU kernels give the same bits anyway')

    output = parser.add_argument_group('run')
    output.add_argument('--log-dir', metavar='FOLDER',
                        help='folder below which each run gets one (default: ./snapshot/)')
    output.add_argument('--exp-name', metavar='NAME', help='part of the run folder (default: exp)')
    output.add_argument('--log-iters', type=positive_int, metavar='N',
                        help='steps between log lines (default: 50)')
    output.add_argument('--checkpoint-epochs', type=positive_int, metavar='N',
                        help='epochs between checkpoints (default: an eighth of all)')
    output.add_argument('--checkpoint-steps', type=positive_int, metavar='N',
                        help='steps of an epoch between checkpoints as well (default: none)')
    output.add_argument('--checkpoint-seconds', type=positive_float, metavar='S',
                        help='seconds after which a checkpoint is due in any case (default: 600)')
    output.add_argument('--keep', type=keep, metavar='N',
                        help='newest checkpoints that are kept, beside the one with the best '
                             'validation accuracy; all: every one (default: 3)')
    output.add_argument('--on-nan', choices=('stop', 'rollback'),
                        help='what a loss, gradient or weight that is not finite does: end the '
                             'run, or go back to the last checkpoint and on with half the '
                             'learning rate, up to 5 times (default: stop)')
    output.add_argument('--loss-limit', type=positive_float, metavar='LOSS',
                        help='a loss of a step above it counts as one that is not finite '
                             '(default: none)')
    output.add_argument('--test-batch-size', type=positive_int, metavar='N',
                        help="batch of the validation (default: the data set's)")
    output.add_argument('--rand-seed', type=seed, metavar='N',
                        help='decides weights, order and augmentation (default: from the clock)')
    output.add_argument('--resume', nargs='?', const='', metavar='RUN',
                        help='go on from the newest checkpoint of the run in this folder, or of '
                             'the newest run of this configuration; options that are given again '
                             'replace those of the run')
    output.add_argument('--load-epoch', type=positive_int, metavar='N',
                        help='go on after epoch N: from that checkpoint of the run, or with '
                             "--model-prefix from the weights in the original's layout")
    output.add_argument('--model-prefix', metavar='PREFIX',
                        help="also write each checkpoint in the original's layout, as "
                             'PREFIXweights/NAME/NAME-symbol.json and -NNNN.params')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return as_worker(lambda: run(_main, argv))


def _main(argv: Optional[List[str]]) -> int:
    from igcnet.train.settings import read_settings
    given = vars(build_parser().parse_args(argv))
    test_io = given.pop('test_io', False)
    resume, epoch = given.pop('resume', None), given.pop('load_epoch', None)
    from_original = epoch is not None and 'model_prefix' in given
    if from_original and resume is not None:
        raise UsageError('--resume goes on from a run, --load-epoch with --model-prefix from '
                         'weights alone: give one of them')
    # Before MXNet is imported.
    given['threads'] = set_threads(given.get('threads') or
                                   (read_settings(resume).threads
                                    if resume and not in_a_job() else 0))
    with while_importing():
        from igcnet.train import run as training
        from igcnet.train.distributed import connect
        from igcnet.train.pretrained import with_released
        from igcnet.train.run_data import test_io as read_only
        from igcnet.train.run_data import with_augmentation
        from igcnet.train.run_folder import newest_run_folder
        from igcnet.train.stopping import Interrupted

    workers = connect(given.get('kv_store'))
    folder = settings = None
    if workers.rank > 0:
        pass  # worker 0 has the run's folder, and tells what is to be done
    elif resume or ((resume == '' or epoch is not None) and not from_original):
        folder = Path(resume) if resume else newest_run_folder(
            with_released(with_augmentation(_settings(given))))
        settings = _changed(read_settings(folder), given)
    else:
        settings = _settings(given)
    settings = training.share_settings(workers, settings)
    if test_io:
        for number, rate in enumerate(read_only(settings, workers), 1):
            print('epoch %d%s: %s' % (number, ', from memory' if number > 1 else '', rate))
        return 0
    try:
        training.train(settings, folder, epoch or 0, workers)
    except Interrupted as stop:
        if workers.rank > 0:
            return EXIT_INTERRUPTED
        path = Path(str(stop))
        print('interrupted; wrote %s; go on with:\n  %s --resume %s' % (
            path, _program(), shlex.quote(str(path.parent.parent))), file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _settings(given: Dict[str, Any]):
    """The settings of a new run."""
    from igcnet.train.recipes import default_recipe, load_recipe
    from igcnet.train.settings import RunSettings
    if 'network' not in given:
        raise UsageError('--network NAME is missing (`igcnet list` shows the names)')
    dataset = given.get('dataset')
    recipe = load_recipe(given.get('recipe') or default_recipe(dataset))
    return _changed(RunSettings(given['network'], recipe), given)


def _changed(settings, given: Dict[str, Any]):
    """`settings` with the options that were given."""
    from igcnet.train.devices import KV_STORES
    from igcnet.train.distributed import STORES
    from igcnet.train.recipes import Recipe, load_recipe
    from igcnet.train.settings import RunSettings
    values = dict(given)
    if 'recipe' in values and load_recipe(values['recipe']).name != settings.recipe.name:
        raise UsageError('--recipe %s: the run was begun with %s'
                         % (values['recipe'], settings.recipe.name))
    values.pop('recipe', None)
    network = values.setdefault('network', settings.network)
    if network != settings.network:
        raise UsageError('--network %s: the run in the folder trains %s'
                         % (network, settings.network))
    values.update(_overrides(settings.recipe, values))
    values.update(_teacher(settings.recipe, values))
    _, values['network_settings'] = network_from(argparse.Namespace(
        network=network, network_settings=values.get('network_settings', {})))
    if values.get('kv_store', 'device') not in KV_STORES + STORES:
        raise UsageError('--kv-store %s: must be one of %s'
                         % (values['kv_store'], ', '.join(KV_STORES + STORES)))
    if 'load_model' in values and 'pretrained' in values:
        raise UsageError('--load-model and --pretrained exclude each other')
    if values.get('fb_mean') and values.get('dataset', settings.dataset) != 'imagenet':
        raise UsageError('--fb-mean goes with --dataset imagenet only')
    if 'gc_threshold' in values and values.get('gc_type', settings.gc_type) != '2bit':
        raise UsageError('--gc-threshold goes with --gc-type 2bit')
    if values.get('tune') and 'lowering' in values:
        raise UsageError('--tune chooses the lowering: leave --lowering out')
    if 'lowering' in values:
        values['tune'] = False  # of the run that is resumed
    if 'lr_epoch_step' in values and 'lr_steps' in values:
        raise UsageError('--lr-steps and --lr-epoch-step exclude each other')
    if 'aug_type' in values and 'augmentation' in values:
        raise UsageError('--aug-type and --augmentation exclude each other')
    known = {f.name for f in fields(RunSettings)} | {f.name for f in fields(Recipe)}
    assert set(values) <= known, set(values) - known
    return settings.changed(**values)


def _overrides(recipe, given: Dict[str, Any]) -> Dict[str, Any]:
    """The values of ``--set``, which is taken out of `given`."""
    from igcnet.train.recipes import overrides
    values = overrides(recipe, given.pop('pairs', ()), '--set')
    twice = sorted(set(values) & set(given))
    if twice:
        raise UsageError('--set %s: --%s says it already'
                         % (twice[0], twice[0].replace('_', '-')))
    return values


def _teacher(recipe, given: Dict[str, Any]) -> Dict[str, Any]:
    """The recipe's method with ``--teacher`` and ``--teacher-params``, taken out of `given`."""
    asked = {key: given.pop(key) for key in ('teacher', 'teacher_params') if key in given}
    if not asked:
        return {}
    method = given.get('method', recipe.method)
    if method not in ('plain', 'distillation'):
        raise UsageError('--teacher: the method %s has no teacher' % method)
    present = given.get('method_settings', recipe.method_settings)
    return {'method': 'distillation', 'method_settings': {**present, **asked}}


def keep(text: str) -> int:
    """An argparse type: a number of checkpoints; 'all' is 0."""
    return 0 if text == 'all' else positive_int(text)


def _program() -> str:
    return {'igcnet': 'igcnet train', '__main__.py': 'python -m igcnet train'}.get(
        Path(sys.argv[0]).name, 'python tools/train.py')
