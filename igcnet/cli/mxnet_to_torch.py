"""``igcnet mxnet_to_torch``: parameters of ours as a checkpoint of the PyTorch original."""

from __future__ import annotations

from typing import List, Optional

from igcnet._backend import set_threads
from igcnet.cli.common import Parser, run
from igcnet.cli.network_options import add_network_options, network_from
from igcnet.cli.verification import add_verify_options, verify


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog='igcnet mxnet_to_torch',
        description="Write a network's parameters as a checkpoint that loads in its PyTorch "
                    "original with strict=True. PyTorch is not needed.")
    add_network_options(parser)
    files = parser.add_argument_group('files')
    files.add_argument('--input', required=True, metavar='FILE',
                       help='parameter file, such as PREFIX-0000.params or the net.params of a '
                            'checkpoint')
    files.add_argument('--output', required=True, metavar='FILE', help='checkpoint to write')
    files.add_argument('--origin', metavar='FILE',
                       help="take what is no parameter (epoch, optimiser, ...) from here, or "
                            "'none' for that of a new network (default: PREFIX-origin.pt, if it "
                            'belongs to the parameters)')
    files.add_argument('--container', choices=('legacy', 'zip'),
                       help="'zip' as torch.save since 1.6, 'legacy' as before, which every "
                            "version reads (default: as the origin, else as the original's)")
    parser.add_argument('--allow-missing', action='store_true',
                        help='accept a parameter file that lacks parameters, which get initial '
                             'values, or has others')
    add_verify_options(parser)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    set_threads(0)
    from igcnet.convert.torch_convert import family_of, load_torch
    from igcnet.convert.torch_origin import origin_path
    from igcnet.deploy.conversion import fitting_origin, to_torch
    from igcnet.registry import get_model

    spec, settings = network_from(args)
    origin = args.origin
    if origin is None:
        origin = fitting_origin(args.input)
        beside = origin_path(args.input)
        if origin is None and beside.is_file():
            print('%s belongs to other parameters and is not used' % beside)
    elif origin == 'none':
        origin = None
    entries = to_torch(spec, settings, args.input, args.output, origin, args.container,
                       args.allow_missing)
    print('wrote %s: %d entries%s' % (args.output, entries, '' if origin is None else
                                      ', the rest as in %s' % origin))
    if args.verify is None:
        return 0
    net = get_model(spec.name, **settings)
    values = load_torch(net, family_of(spec), args.output, args.allow_missing).values
    parameters = net._collect_params_with_prefix()
    return verify(args, net, spec,
                  {parameters[path].name: value for path, value in values.items()})
