"""The arguments that choose a network and its settings, shared by the commands.

    parser = Parser(prog='igcnet evaluate', description=...)
    add_network_options(parser)
    args = parser.parse_args(argv)
    spec, overrides = network_from(args)
    net = get_model(spec.name, **overrides)

The parser knows the settings of all networks by name, without importing MXNet, so that ``--help``
is quick and the number of threads can still be chosen. Which network has which setting, and its
type, is asked of the registry after parsing.
"""

from __future__ import annotations

import argparse
import collections.abc
import typing
from typing import Any, Dict, Tuple

from igcnet.cli.common import Parser
from igcnet.errors import UsageError

# Every setting of any network in the registry (a test compares them), with its help and the
# originals' other spellings of the option. A new family adds its settings here.
SETTINGS = {
    'depth': ('number of layers', ()),
    'primary_partition': ('L: groups of the 3x3 convolutions', ()),
    'secondary_partition': ('M: channels of one such group; the first stage has L*M channels', ()),
    'classes': ('number of classes', ('--num-classes',)),
    'doubling': ("which partition doubles from stage to stage: 'primary' or 'secondary'", ()),
    'unit_name': ("names of the layers: 'igc' as in the original's present script, 'conv' as in "
                  'its published files', ()),
    'width': ('width multiplier; evaluate, predict and cut run a slimmable network at it',
              ('--multiplier',)),
    'downsampling': ('total stride: 8 or 16 for small images, 32', ()),
    'dropout': ('part of the features dropped before the classifier in training', ()),
    'channel_rule': ('how channel counts are rounded after the multiplication', ()),
    'deep': ('IGCV3-D, with twice the blocks: true or false', ()),
    'expand_act': ('ReLU6 after the first 1x1 convolution of a block: true or false', ()),
    'output_shuffle': ('channel shuffle at the end of a block: true or false', ()),
    'script': ("the original's MXNet script: igcv3, igcv3_wider or igcv3_g2g4", ()),
    'first_expansion': ('1x1 convolution before the first 3x3 of the blocks: true or false', ()),
    'channels': ('channels of the first stage', ()),
    'layers': ('convolutions in a unit, the 3x3 included', ()),
    'branch_sizes': ('channels in a branch of each 1x1 convolution of a unit: 8,8', ()),
    'complementary': ("'strict': one path between any two channels, or 'loose'", ()),
    'block_channels': ('output channels of each stage: 108,216,432', ()),
    'block_layers': ('blocks of each stage after its first: 3,7,3', ()),
    'init_c': ('channels of the first convolution', ()),
    'side_channels': ('channels of the merge-and-evolve branch in each stage: 8,8,8', ()),
    'groups': ('groups of the 1x1 convolutions and of the channel shuffle', ()),
    'init_mul': ('width multiplier of the first convolution', ()),
    'width_mul': ('width multiplier of the stages', ()),
    'init_mode': ("what initialisation counts: 'fan_in' or 'fan_out'", ()),
    'width_mult_range': ('narrowest and widest width: 0.25,1.0', ()),
    'width_mult_list': ('widths with running statistics of their own: 0.25,0.5,1.0', ()),
    'divisor': ('what channel counts are rounded to', ()),
    'image_size': ('height and width of the largest images', ()),
    'cifar10_rows': ("the original's stages for CIFAR-10: true or false", ()),
    'widen_factor': ('width of a wide residual network', ()),
    'stages': ('layers of each dense block: 14-14-14', ()),
    'growth': ('channels that a layer adds in each dense block: 8-16-32', ()),
    'bottleneck': ('channels between the two convolutions of a layer, in multiples of the growth',
                   ()),
    'heads': ('heads of each dynamic group convolution', ()),
    'group_1x1': ('groups of the 1x1 convolutions of a dense block', ()),
    'group_3x3': ('groups of the 3x3 convolutions of a dense block', ()),
    'gate_factor': ('part of the channels that a head keeps in the end', ()),
    'selection': ("channels of a head: 'dynamic', or 'static' as `igcnet dgc freeze` chose them",
                  ()),
    'squeeze_rate': ('input channels for each hidden unit of a selector', ()),
    'form': ("first convolution and pooling: 'cifar' or 'imagenet'", ()),
    'dropoutrate': ('part of the channels dropped inside a block in training', ()),
}


def add_network_options(parser: Parser, positional: bool = False, required: bool = True) -> None:
    """Add ``--network NAME`` (or a positional NAME) and one option for each setting.

    The option of a setting is its name with hyphens: ``--primary-partition 24``.

    Parameters
    ----------
    positional : bool
        Take the name as ``NAME`` instead of ``--network NAME``.
    required : bool
        Whether ``--network`` has to be given.
    """
    group = parser.add_argument_group('network', 'the settings default to those of the named '
                                      'configuration; `igcnet list` shows the names')
    if positional:
        group.add_argument('network', metavar='NAME', help='name of a network')
    else:
        group.add_argument('--network', metavar='NAME', required=required,
                           help='name of a network')
    for setting, (text, spellings) in SETTINGS.items():
        group.add_argument(option(setting), *spellings, dest=setting, metavar='VALUE',
                           action=_StoreSetting, default=argparse.SUPPRESS, help=text)
    parser.set_defaults(network_settings={})


def network_from(args: argparse.Namespace) -> Tuple[Any, Dict[str, Any]]:
    """The configuration that was chosen, and the settings given for it.

    Returns
    -------
    (ModelSpec, dict)
        For ``get_model(spec.name, **overrides)``.

    Raises
    ------
    UsageError
        Unknown network, a setting that it does not have, or a value of another type.
    """
    from igcnet.registry import get_spec

    spec = get_spec(args.network)
    known = spec.settings()
    types = typing.get_type_hints(spec.constructor)
    overrides = {}
    for setting, text in args.network_settings.items():
        if setting not in known:
            raise UsageError('%s: %s has no such setting; it has %s'
                             % (option(setting), spec.name, ', '.join(map(option, known))))
        overrides[setting] = _value(option(setting), text, types[setting])
    return spec, overrides


def option(setting: str) -> str:
    """The option of a setting: ``--primary-partition`` for ``primary_partition``."""
    return '--' + setting.replace('_', '-')


class _StoreSetting(argparse.Action):
    """Collects the settings in ``network_settings``, away from the command's own options."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.network_settings = {**namespace.network_settings, self.dest: values}


def _value(name: str, text: str, kind: Any) -> Any:
    """`text` as the annotated type of a constructor's argument; tuples have commas."""
    if typing.get_origin(kind) is typing.Union:  # Optional[...]
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (tuple, collections.abc.Sequence):
        return tuple(_value(name, part, typing.get_args(kind)[0]) for part in text.split(','))
    if kind is bool:
        if text not in ('true', 'false'):
            raise UsageError("%s: %r is neither 'true' nor 'false'" % (name, text))
        return text == 'true'
    try:
        return kind(text)
    except ValueError:
        wanted = {int: 'a whole number', float: 'a number'}[kind]
        raise UsageError('%s: %r is not %s' % (name, text, wanted)) from None
