"""What is known about the data sets of the originals, and what a record says of its own.

Source of the numbers, where not said otherwise: `train_model.py` and `train_imagenet.py` of
hellozting/InterleavedGroupConvolutions. Pixels are RGB in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from igcnet.data.records import RecordFile
from igcnet.data.transforms import check_colour
from igcnet.errors import DataError, UsageError
from igcnet.registry import Preprocessing

Colour = Tuple[float, float, float]


_SMALL_IMAGES = MappingProxyType({kind: 'igc-%d' % kind for kind in range(3)})


@dataclass(frozen=True)
class DataSet:
    """Facts about one data set.

    Parameters
    ----------
    name : str
        As in ``--dataset``.
    classes, num_examples : int
        Number of classes and of training images.
    mean, std : tuple of float
        RGB, in units of 0..255: input = (pixel - mean) / std.
    data_shape : int
        Height and width of the input.
    resize_shorter : int, optional
        Shorter side of a validation image before its centre crop.
    augmentations : mapping
        ``--aug-type`` -> name in `igcnet.data.augment.PRESETS`.
    aug_type : int
        The one used when neither the recipe nor the user chooses.
    test_batch : int
        Default batch size of the evaluation.
    test_batch_raised : bool
        Whether a larger training batch raises it.
    """

    name: str
    classes: int
    num_examples: int
    mean: Colour
    std: Colour
    data_shape: int = 32
    resize_shorter: Optional[int] = None
    augmentations: Mapping[int, str] = field(default_factory=lambda: _SMALL_IMAGES)
    aug_type: int = 1
    test_batch: int = 400
    test_batch_raised: bool = True

    @property
    def fill(self) -> Tuple[int, int, int]:
        """Colour of borders: the mean, rounded for each channel."""
        return tuple(int(round(value)) for value in self.mean)

    def test_batch_size(self, batch_size: int) -> int:
        """Batch size of the evaluation beside a training batch of `batch_size`."""
        return max(self.test_batch, batch_size) if self.test_batch_raised else self.test_batch

    def augmentation(self, aug_type: Optional[int] = None) -> str:
        """Name of the preset for ``--aug-type``; None means the data set's own type, and UsageError
        that there is none of this type."""
        kind = self.aug_type if aug_type is None else aug_type
        if kind not in self.augmentations:
            raise UsageError('aug_type=%r: %s has the types %s'
                             % (kind, self.name, ', '.join(map(str, sorted(self.augmentations)))))
        return self.augmentations[kind]

    def preprocessing(self) -> Preprocessing:
        """What validation and evaluation do with an image, wherever it comes from."""
        return Preprocessing(self.data_shape, self.mean, self.std, self.resize_shorter, 'bilinear')


_IMAGENET = DataSet(
    'imagenet', 1000, 1281167, (123.370, 112.757, 99.406), (68.998, 66.093, 68.292), 224,
    # The original reads records with the shorter side at 480 and shrinks them by 0.533 with
    # OpenCV's bilinear map (whatever inter_method says): 255.84 pixels.
    256,
    # 0 and 1 are the augmentations of train_imagenet.py, 2 is that of train_model.py.
    MappingProxyType({0: 'igc-imagenet-0', 1: 'igc-imagenet-1', 2: 'igc-2'}), test_batch=200)

DATA_SETS: Dict[str, DataSet] = {data_set.name: data_set for data_set in [
    DataSet('cifar10', 10, 50000, (125.307, 122.950, 113.865), (62.993, 62.089, 66.705)),
    DataSet('cifar100', 100, 50000, (129.304, 124.070, 112.434), (68.170, 65.392, 70.418),
            test_batch_raised=False),
    DataSet('svhn', 10, 604388, (111.609, 113.161, 120.565), (50.498, 51.259, 50.244),
            aug_type=0, test_batch=280),
    _IMAGENET,
    # The numbers of train_imagenet.py --fb-mean.
    replace(_IMAGENET, name='imagenet_fb', mean=(123.675, 116.280, 103.530),
            std=(58.395, 57.12, 57.375)),
    # scikit-learn's digits as the packer enlarges and splits them; mean and deviation are those
    # of the training part. Like svhn's, these images are neither shifted nor mirrored.
    DataSet('digits', 10, 1438, (77.947,) * 3, (82.546,) * 3, aug_type=0),
]}

# What train_model.py starts from before it knows the data set.
UNKNOWN_MEAN, UNKNOWN_STD = (127.0,) * 3, (60.0,) * 3


def find_dataset(name: str) -> DataSet:
    """The data set called `name`.

    Raises
    ------
    UsageError
        Unknown name; the message lists all.
    """
    if name not in DATA_SETS:
        raise UsageError('unknown data set %r: known are %s; leave the option out for other '
                         'records' % (name, ', '.join(sorted(DATA_SETS))))
    return DATA_SETS[name]


def describe_records(records: RecordFile, mean: Optional[Sequence[float]] = None,
                     std: Optional[Sequence[float]] = None, data_shape: int = 32,
                     classes: Optional[int] = None) -> DataSet:
    """Facts about a record file of the user's own.

    Parameters
    ----------
    records : RecordFile
        The training images.
    mean, std : sequence of three floats, optional
        RGB, in units of 0..255; 127 and 60 without them, as in the original.
    data_shape : int
        Height and width of the input.
    classes : int, optional
        Number of classes; else that of the manifest, else the largest label plus one.

    Raises
    ------
    DataError
        Labels that are not class numbers, or that disagree with `classes`.
    """
    if classes is None and records.classes is None:
        classes = int(_class_numbers(records).max()) + 1
    elif classes is None:
        classes = len(records.classes)
    check_labels(records, classes)
    return DataSet(records.paths.rec.stem, classes, len(records),
                   UNKNOWN_MEAN if mean is None else check_colour('mean', mean),
                   UNKNOWN_STD if std is None else check_colour('std', std), data_shape)


def check_labels(records: RecordFile, classes: int, option: str = '--num-classes') -> None:
    """Make sure that a network of `classes` outputs can learn the labels of `records`.

    Parameters
    ----------
    option : str
        What the user sets the number of classes with, for the message.

    Raises
    ------
    DataError
        The manifest names another number of classes, or a label is none of 0 .. classes-1.
    """
    names: Optional[List[str]] = records.classes
    if names is not None and len(names) != classes:
        raise DataError('%s: the manifest names %d classes, but the network has %d; give %s %d or '
                        'the record that belongs to the network'
                        % (records.paths.rec, len(names), classes, option, len(names)))
    largest = int(_class_numbers(records).max())
    if largest >= classes:
        raise DataError('%s: the labels go up to %d, so they need at least %d classes, but the '
                        'network has %d; give %s %d'
                        % (records.paths.rec, largest, largest + 1, classes, option, largest + 1))


def _class_numbers(records: RecordFile) -> np.ndarray:
    labels = records.labels()
    with np.errstate(invalid='ignore'):
        wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels)) & (labels < 1e6)))
    if len(wrong):
        raise DataError('%s: its label is %g; a class number is a whole number from 0'
                        % (records.where(int(wrong[0])), labels[wrong[0]]))
    return labels
