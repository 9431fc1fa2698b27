"""``igcnet augment``: names of the augmentation presets, and pictures of what they do."""

from __future__ import annotations

import argparse
from typing import List, Optional

from igcnet.cli.common import Parser, colour, positive_int, run, seed
from igcnet.errors import UsageError

# The colour of ImageNet's mean.
GREY = (124, 116, 104)


def build_parser() -> Parser:
    """The command's parser."""
    parser = Parser(prog='igcnet augment', formatter_class=argparse.HelpFormatter,
                    description='Show the augmentation presets: their names and settings, or a '
                                'picture with a row for each image: the image itself, then what '
                                'successive epochs would make of it.')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--list', action='store_true', help='names and settings of all presets')
    what.add_argument('--preview', metavar='FILE', help='write a picture, FILE.png or FILE.jpg')
    parser.add_argument('images', nargs='*', metavar='IMAGES',
                        help='image files, or one folder or record file')
    parser.add_argument('--preset', metavar='NAME', help='the augmentation to show')
    parser.add_argument('--size', type=positive_int, metavar='N',
                        help='height and width of the crops (default: 224, or the shorter side of '
                             'the first image if that is smaller)')
    parser.add_argument('--fill', type=colour, default=GREY, metavar='R,G,B',
                        help='colour of borders, for presets that fill them (default: %s)'
                             % ','.join(map(str, GREY)))
    parser.add_argument('--times', type=positive_int, default=6, metavar='N',
                        help='pictures in a row (default: 6)')
    parser.add_argument('--first', type=positive_int, default=4, metavar='N',
                        help='use only the first N images (default: 4)')
    parser.add_argument('--rand-seed', type=seed, default=0, metavar='N',
                        help='decides what the augmentation draws (default: 0)')
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; returns the exit code."""
    return run(_main, argv)


def _main(argv: Optional[List[str]]) -> int:
    args = build_parser().parse_args(argv)
    from igcnet.data.augment import PRESETS, find_augmentation
    if args.list:
        width = max(map(len, PRESETS))
        for name in sorted(PRESETS):
            print('%s  %s' % (name.ljust(width), find_augmentation(
                name, args.size or 224, args.fill)))
        return 0
    if not args.preset:
        raise UsageError('--preset NAME is missing (igcnet augment --list shows the names)')
    if not args.images:
        raise UsageError('no images: name image files, or one folder or record file')
    from igcnet.data.images import decode_image
    from igcnet.data.preview import preview, write_picture
    from igcnet.data.sources import open_source
    source = open_source(args.images[0] if len(args.images) == 1 else args.images)
    images = [decode_image(source.read(position)[1], source.where(position))
              for position in range(min(args.first, len(source)))]
    size = args.size or min(224, *images[0].shape[:2])
    augmentation = find_augmentation(args.preset, size, args.fill)
    write_picture(args.preview, preview(images, augmentation, args.times, args.rand_seed))
    print('wrote %s: %s, %d images, %d times each'
          % (args.preview, args.preset, len(images), args.times))
    return 0
