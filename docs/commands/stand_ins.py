"""Small stand-ins for the data and checkpoints that the pages name (see table.yaml).

    python docs/commands/stand_ins.py records data/cifar10 --classes 10 --images 24
    python docs/commands/stand_ins.py pictures photos --classes 3 --images 4 --size 48
    python docs/commands/stand_ins.py weights mobilenet.params mobilenet_v1_us
    python docs/commands/stand_ins.py svhn files --images 20
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def image(number: int, label: int, size: int) -> np.ndarray:
    """Noise with the brightness of its class; (size, size, 3)."""
    noise = np.random.RandomState(number).randint(0, 60, (size, size, 3))
    return (noise + 20 * (label % 10)).astype(np.uint8)


def records(args: argparse.Namespace) -> None:
    """``train.rec`` and ``test.rec`` below a folder, the classes in turn."""
    from igcnet.data.images import encode_image
    from igcnet.data.lists import Item
    from igcnet.data.writing import record_writer
    for part, count in (('train', args.images), ('test', max(4, args.images // 4))):
        with record_writer(args.target / part,
                           classes=['class %d' % n for n in range(args.classes)]) as writer:
            for key in range(count):
                label = key % args.classes
                writer.add(Item(key, float(label), '%s %d' % (part, key)),
                           encode_image(image(key, label, args.size), '.png'))


def pictures(args: argparse.Namespace) -> None:
    """Class folders of JPEG pictures; without classes, flat and with a list of labels."""
    import cv2
    lines = []
    for number in range(args.images * max(args.classes, 1)):
        label = number // args.images if args.classes else number
        folder = args.target / ('class%d' % label if args.classes else '')
        folder.mkdir(parents=True, exist_ok=True)
        name = '%d.jpg' % number
        cv2.imwrite(str(folder / name), image(number, label, args.size))
        lines.append('%s\t%d\n' % (name, label))
    if args.labels:
        args.labels.write_text(''.join(lines))


def weights(args: argparse.Namespace) -> None:
    """A network's initial weights: ``.params``, or any other name as the PyTorch original."""
    import igcnet
    from igcnet.convert.torch_convert import family_of, save_torch
    settings = dict(setting.split('=') for setting in args.settings)
    net = igcnet.get_model(args.network, **{name: int(value) for name, value in settings.items()})
    net.initialize()
    if args.target.suffix == '.params':
        net.save_parameters(str(args.target))
    else:
        save_torch(net, family_of(igcnet.get_spec(args.network)), args.target)


def svhn(args: argparse.Namespace) -> None:
    """The three files of SVHN, with a few images each."""
    from scipy.io import savemat
    args.target.mkdir(parents=True, exist_ok=True)
    labels = np.arange(args.images) % 10 + 1
    images = np.stack([image(n, label, 32) for n, label in enumerate(labels)], axis=-1)
    for part in ('train', 'extra', 'test'):
        savemat(str(args.target / (part + '_32x32.mat')), {'X': images, 'y': labels[:, None]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('kind', choices=['records', 'pictures', 'weights', 'svhn'])
    parser.add_argument('target', type=Path)
    parser.add_argument('network', nargs='?')
    parser.add_argument('settings', nargs='*', metavar='NAME=NUMBER')
    parser.add_argument('--classes', type=int, default=0)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--size', type=int, default=32)
    parser.add_argument('--labels', type=Path)
    args = parser.parse_args()
    args.target.parent.mkdir(parents=True, exist_ok=True)
    globals()[args.kind](args)
    return 0


if __name__ == '__main__':
    sys.path[0] = str(REPOSITORY)
    sys.exit(main())
