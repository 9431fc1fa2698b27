"""Draw each augmentation preset to augment-<name>.jpg (``make figures``).

The photographs are those that come with scikit-learn; presets of small images see a 32x32 part
of them.
"""

import sys
from pathlib import Path

import cv2
import sklearn.datasets

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from igcnet.data.augment import PRESETS, find_augmentation
from igcnet.data.preview import preview, write_picture

FILL = (124, 116, 104)
SMALL = ('igc-0', 'igc-1', 'igc-2', 'igcv3-cifar10', 'igcv3-cifar100', 'mutualnet-cifar',
         'dgc-cifar')
TILE, TIMES = 80, 5


def main():
    photograph = sklearn.datasets.load_sample_image('china.jpg')
    # Records of ImageNet have the shorter side at 480.
    height, width = photograph.shape[:2]
    large = cv2.resize(photograph, (480 * width // height, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(photograph[60:360, 60:360], (32, 32), interpolation=cv2.INTER_AREA)
    for name in sorted(PRESETS):
        image, size = (small, 32) if name in SMALL else (large, 224)
        grid = preview([image], find_augmentation(name, size, FILL), TIMES, seed=1, tile=TILE)
        write_picture(Path(__file__).parent / ('augment-%s.jpg' % name), grid)


if __name__ == '__main__':
    main()
