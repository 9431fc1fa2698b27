"""The option ``--verify`` of the commands that convert."""

from __future__ import annotations

import argparse
from typing import Any, Dict

from igcnet.cli.common import Parser

RANDOM = ''


def add_verify_options(parser: Parser) -> None:
    """Add ``--verify [FILE]`` and ``--tolerance``."""
    group = parser.add_argument_group('verification')
    group.add_argument(
        '--verify', nargs='?', const=RANDOM, metavar='FILE',
        help='compare logits: with the arrays x and logits in a .npz file of the original; or, '
             'without a file, on random input with the same graph computed by PyTorch, which '
             'must be installed (this shows faults of the parameters and of the operators, not '
             'of the graph)')
    group.add_argument('--tolerance', type=tolerance, default=1e-3, metavar='NUMBER',
                       help='fail when logits differ by more')


def tolerance(text: str) -> float:
    """An argparse type: a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError('%r is not a number of at least 0' % text)
    return value


def verify(args: argparse.Namespace, net: Any, spec: Any, values: Dict[str, Any]) -> int:
    """Do what the options say and print what was found.

    Parameters
    ----------
    net : HybridBlock
        The converted network.
    values : dict
        Parameters as they stand in the PyTorch file, by name.

    Returns
    -------
    int
        0

    Raises
    ------
    CheckpointError
        Logits differ by more than the tolerance.
    """
    if args.verify is None:
        return 0
    from igcnet.deploy.verify import against_outputs, against_twin, require

    found = (against_twin(net, spec.preprocessing.input_size, values)
             if args.verify == RANDOM else against_outputs(net, args.verify))
    for comparison in found:
        print('compared with %s' % comparison.text())
        require(comparison, args.tolerance)
    return 0
