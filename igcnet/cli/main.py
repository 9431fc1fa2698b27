"""The console command ``igcnet``: finds the sub-command and hands over to its module."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import List, Optional

from igcnet import __version__
from igcnet.cli.common import run
from igcnet.errors import UsageError

# Name -> one line of help. The module is igcnet.cli.<name> and is imported only when called.
COMMANDS = {
    'im2rec_pack': 'pack images into record files; verify, merge, split and extract these',
    'augment': 'the augmentation presets, and pictures of what they do',
    'data': 'how fast a record file is read, decoded and augmented',
    'train': 'train a network on record files',
    'launch': 'run a command as the workers of a distributed job',
    'evaluate': 'accuracy of a trained network on a record file or image folder',
    'predict': 'the most probable classes of images',
    'export': 'a trained network as the fastest files for inference on a CPU',
    'release': 'the network of a run as released weights, for --pretrained',
    'bench': 'speed of a network in our forms and in those of others',
    'dgc': 'what dynamic group convolutions choose, and their static form',
    'query_table': 'a slimmable network at every width and resolution; the best for each budget',
    'cut': 'one width of a slimmable network as an ordinary exported network',
    'torch_to_mxnet': "an original's checkpoint as a network of ours",
    'mxnet_to_torch': 'parameters of ours as a checkpoint of the PyTorch original',
    'compare_originals': 'all checkpoints of the originals below a folder, both ways',
    'list': 'names of the networks, with exact counts and published figures',
    'profile': 'layers of a network: output shapes, parameters, multiply-adds',
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run ``igcnet COMMAND ...``; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help'):
        print(_help())
        return 0 if argv else UsageError.exit_code
    if argv[0] == '--version':
        print('igcnet %s' % __version__)
        return 0
    name = argv[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
        raise UsageError('unknown command %r: %s' % (name, 'did you mean %s?' % ', '.join(near)
                                                     if near else 'see igcnet --help'))
    return importlib.import_module('igcnet.cli.' + name).main(argv[1:])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ['usage: igcnet COMMAND ...', '',
             'Interleaved Group Convolutions and their family in MXNet Gluon.', '', 'commands:']
    lines += ['  %s  %s' % (name.ljust(width), text) for name, text in COMMANDS.items()]
    return '\n'.join([*lines, '', 'igcnet COMMAND --help shows the options of a command; '
                      'igcnet --version the version.'])
