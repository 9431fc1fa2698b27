"""``igcnet launch``: run a command as the workers of a distributed job."""

from __future__ import annotations

import argparse
from typing import List, Optional

from igcnet.cli.common import Parser, positive_int, run
from igcnet.errors import UsageError
from igcnet.launch.hosts import read_hosts
from igcnet.launch.job import Job, Launcher


def build_parser() -> Parser:
    """The parser; everything behind the options is the workers' command."""
    parser = Parser(prog='igcnet launch',
                    usage='igcnet launch -n WORKERS [options] COMMAND ...',
                    description='Run COMMAND in several processes that train together, with the '
                                "scheduler and servers of MXNet's parameter server. Their output "
                                'is shown with role and number; all end when one fails.')
    parser.add_argument('-n', '--workers', type=positive_int, required=True, metavar='N',
                        help='number of workers')
    parser.add_argument('-s', '--servers', type=positive_int, default=1, metavar='N',
                        help='number of servers, which sum the gradients')
    parser.add_argument('-H', '--hostfile', metavar='FILE',
                        help='machines to run on, one on each line; worker and server i run on '
                             'the i-th, and begin again at the first')
    parser.add_argument('--launcher', choices=('local', 'ssh'),
                        help='local: all on this machine; ssh: on those of the host file '
                             '(default: ssh with a host file, else local)')
    parser.add_argument('--address', metavar='ADDRESS',
                        help="this machine's address, at which the others find the scheduler "
                             '(default: that of the way to the first host)')
    parser.add_argument('--port', type=int, default=0, metavar='N',
                        help="the scheduler's port; 0: a free one")
    parser.add_argument('--silence', type=float, default=Job.silence, metavar='SECONDS',
                        help='a machine that says nothing for so long counts as lost')
    parser.add_argument('--log-folder', metavar='FOLDER',
                        help="also write each process's lines to its own file there")
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='COMMAND',
                        help='program and arguments, such as: python tools/train.py ...')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    command = args.command[1:] if args.command[:1] == ['--'] else args.command
    if not command:
        raise UsageError('COMMAND is missing: igcnet launch -n 2 python tools/train.py ...')
    if not 0 <= args.port < 65536:
        raise UsageError('--port %d: must be from 0 to 65535' % args.port)
    if not args.silence >= 3:
        raise UsageError('--silence %g: must be at least 3 seconds' % args.silence)
    launcher = args.launcher or ('ssh' if args.hostfile else 'local')
    if (launcher == 'ssh') != bool(args.hostfile):
        raise UsageError('--launcher %s goes %s --hostfile' % (
            launcher, 'with' if launcher == 'ssh' else 'without'))
    hosts = read_hosts(args.hostfile) if args.hostfile else None
    return Launcher(Job(command, args.workers, args.servers, hosts, args.address, args.port,
                        args.silence, log_folder=args.log_folder)).run()
