"""TrainReader beside MXNet's ImageRecordIter and PyTorch's DataLoader, in one interleaved run.

    python benchmarks/reader.py [--photographs FOLDER] [--rounds N]

Every measurement is a process of its own; the rivals take turns in each round, and the medians
are compared. Two numbers are printed for each: images per second, which depends on how many cores
are free, and microseconds of processor time per image over all its processes and threads, which
hardly does. PyTorch's rows are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPO)

from igcnet.data.augment import find_augmentation
from igcnet.data.datasets import find_dataset
from igcnet.data.images import encode_image
from igcnet.data.processes import usable_cores
from igcnet.data.reader import TrainReader
from igcnet.data.records import RecordFile, RecordPaths, frame, pack_record
from igcnet.data.scanning import EXTENSIONS

# name -> size of the crop, padding, batch, images, preset, data set whose mean and deviation serve
WORKS = {'cifar': (32, 4, 128, 20000, 'igc-1', 'cifar10'),
         'photographs': (224, 0, 64, 1000, 'igc-2', 'imagenet')}
OURS = {'cifar': ('TrainReader, first epoch', 'TrainReader, streaming', 'TrainReader, in memory'),
        'photographs': ('TrainReader, streaming',)}
# Pixels that are decoded beforehand are the best PyTorch can do with CIFAR; a folder or a record
# of JPEGs, as ours is, has to be decoded at each visit.
TORCH = {'cifar': ('DataLoader, PIL', 'DataLoader, cv2', 'DataLoader on pixels, PIL',
                   'DataLoader on pixels, cv2'),
         'photographs': ('DataLoader, PIL', 'DataLoader, cv2')}
GOALS = {('cifar', 'ImageRecordIter'): 0.95, ('photographs', 'ImageRecordIter'): 0.95,
         ('cifar', 'DataLoader,'): 8.0, ('photographs', 'DataLoader,'): 1.8,
         ('cifar', 'DataLoader on pixels'): 8.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--photographs', metavar='FOLDER',
                        help='JPEG files of at least 224x224 (default: synthetic pictures)')
    parser.add_argument('--rounds', type=int, default=3, metavar='N')
    parser.add_argument('--work', choices=sorted(WORKS), action='append')
    parser.add_argument('--measure', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for work in args.work or sorted(WORKS):
            compare(work, Path(folder), args)


def compare(work, folder, args):
    """Print a table of one work."""
    records = folder / (work + '.rec')
    write_records(records, work, args.photographs)
    rivals = [*OURS[work], 'ImageRecordIter']
    if importlib.util.find_spec('torch'):
        rivals += TORCH[work]
    else:
        print('PyTorch is not installed: its DataLoader is left out')
    found = {rival: [] for rival in rivals}
    for _ in range(args.rounds):
        for rival in rivals:
            found[rival].append(in_a_process(work, rival, records))
    medians = {rival: np.median(rows, axis=0) for rival, rows in found.items()}
    print('%s: crops of %d, batches of %d, %d cores, medians of %d rounds'
          % (work, WORKS[work][0], WORKS[work][2], usable_cores(), args.rounds))
    print('  %-26s %12s %16s' % ('', 'images/s', 'CPU us/image'))
    for rival, (speed, cpu) in medians.items():
        print('  %-26s %12.0f %16.1f' % (rival, speed, cpu))
    for kind, names in (('ImageRecordIter', OURS[work]), ('DataLoader,', OURS[work]),
                        ('DataLoader on pixels', OURS[work][-1:])):
        theirs = [medians[rival] for rival in rivals if rival.startswith(kind)]
        for rival in names if theirs else ():
            speed, cpu = medians[rival]
            print('  %s : best %s = %.2f in images/s (goal %.2f), %.2f in CPU time' % (
                rival, kind.rstrip(','), speed / max(row[0] for row in theirs), GOALS[work, kind],
                min(row[1] for row in theirs) / cpu))
    print(flush=True)


def in_a_process(work, rival, records):
    """Images per second, and processor time in microseconds per image."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', __file__, '--measure', work, rival, str(records)],
        stdout=subprocess.PIPE, check=True, timeout=600,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)})
    return json.loads(done.stdout)


def measure(work, rival, records):
    """One rival in this process."""
    if rival.startswith('TrainReader'):
        epochs, skip = ours(work, rival, records)
    elif rival.startswith('ImageRecordIter'):
        epochs, skip = image_record_iter(work, records), 1
    else:
        epochs, skip = data_loader(work, rival, records), 1
    images, begin, cpu = 0, time.perf_counter(), cpu_seconds()
    for number, batches in enumerate(epochs):
        count = sum(batches)
        if number < skip:
            begin, cpu = time.perf_counter(), cpu_seconds()
        else:
            images += count
    seconds = time.perf_counter() - begin
    return images / seconds, 1e6 * (cpu_seconds() - cpu) / images


def cpu_seconds():
    """Of this process and of all children that live or have lived."""
    total = sum(os.times()[:4])
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            words = path.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if int(words[1]) == os.getpid():
            total += (int(words[11]) + int(words[12])) / os.sysconf('SC_CLK_TCK')
    return total


def ours(work, rival, records):
    """Numbers of images of each batch, epoch by epoch; and how many epochs are warming up."""
    size, _, batch, _, preset, name = WORKS[work]
    facts = find_dataset(name)
    limit = 0 if 'streaming' in rival else 512 << 20
    reader = TrainReader(records, batch, find_augmentation(preset, size, facts.fill), 0,
                         mean=facts.mean, std=facts.std, memory_limit=limit)
    epochs = 1 if 'first' in rival else 9 if 'memory' in rival else 3
    return ((len(labels) for _, labels in reader.epoch(number)) for number in range(epochs)), \
        0 if 'first' in rival else 1


def image_record_iter(work, records):
    """As `ours`, for MXNet's own reader, with as many threads as it will take."""
    import mxnet as mx
    size, pad, batch, _, _, name = WORKS[work]
    facts = find_dataset(name)
    paths = RecordPaths.of(records)
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(paths.rec), path_imgidx=str(paths.idx), data_shape=(3, size, size),
        batch_size=batch, shuffle=True, pad=pad, fill_value=facts.fill[0], rand_crop=True,
        rand_mirror=True, preprocess_threads=usable_cores(),
        **dict(zip(('mean_r', 'mean_g', 'mean_b', 'std_r', 'std_g', 'std_b'),
                   facts.mean + facts.std)))
    for _ in range(4):
        yield (len(data.data[0].asnumpy()) for data in iterator)
        iterator.reset()


def data_loader(work, rival, records):
    """As `ours`, for PyTorch: as many workers as cores, which stay alive between the epochs."""
    from torch.utils.data import DataLoader
    pictures = Pictures(work, rival.endswith('PIL'), 'pixels' in rival, records)
    loader = DataLoader(pictures, WORKS[work][2], shuffle=True, num_workers=usable_cores(),
                        persistent_workers=True)
    for _ in range(3):
        yield (len(labels) for _, labels in loader)


class Pictures:
    """A PyTorch data set with everything in memory, as JPEGs or as pixels."""

    def __init__(self, work, pillow, decoded, records):
        import torch
        self.size, self.pad, _, _, _, name = WORKS[work]
        self.pillow, self.decoded = pillow, decoded
        source = RecordFile(records)
        self.items = [source.read_image(position) for position in range(len(source))]
        if self.decoded:
            self.items = [(label, cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1].copy())
                          for label, data in self.items]
        facts = find_dataset(name)
        self.mean = torch.tensor(facts.mean).view(3, 1, 1)
        self.std = torch.tensor(facts.std).view(3, 1, 1)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        import torch
        label, data = self.items[number]
        image = self.by_pillow(data) if self.pillow else self.by_opencv(data)
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(torch.float32)
        return pixels.sub_(self.mean).div_(self.std), label

    def by_pillow(self, data):
        import io

        from PIL import Image, ImageOps
        image = Image.fromarray(data) if self.decoded else \
            Image.open(io.BytesIO(data)).convert('RGB')
        if self.pad:
            image = ImageOps.expand(image, self.pad)
        top, left = self.corner(image.height, image.width)
        image = image.crop((left, top, left + self.size, top + self.size))
        if np.random.rand() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        return np.array(image)

    def by_opencv(self, data):
        cv2.setNumThreads(0)
        image = data if self.decoded else cv2.imdecode(np.frombuffer(data, np.uint8), 1)
        if self.pad:
            image = cv2.copyMakeBorder(image, *[self.pad] * 4, cv2.BORDER_CONSTANT)
        top, left = self.corner(*image.shape[:2])
        image = image[top:top + self.size, left:left + self.size]
        if np.random.rand() < 0.5:
            image = cv2.flip(image, 1)
        return image if self.decoded else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def corner(self, height, width):
        return (np.random.randint(height - self.size + 1),
                np.random.randint(width - self.size + 1))


def write_records(path, work, folder):
    """JPEG images at quality 95: parts of the photographs, or synthetic ones."""
    count = WORKS[work][3]
    files = sorted(file for file in Path(folder).iterdir()
                   if file.suffix.lower() in EXTENSIONS) if folder else []
    if files:
        encoded = [file.read_bytes() for file in files]
    else:
        encoded = [encode_image(synthetic(number)) for number in range(60)]
    if work == 'cifar':
        draw = np.random.RandomState(0)
        pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in encoded]
        encoded = []
        for number in range(count):
            image = pictures[number % len(pictures)]
            top, left = (draw.randint(side - 63) for side in image.shape[:2])
            encoded.append(encode_image(cv2.resize(
                image[top:top + 64, left:left + 64], (32, 32), interpolation=cv2.INTER_AREA)))
    offset, lines = 0, []
    with open(path, 'wb') as file:
        for number in range(count):
            data = frame(pack_record(float(number % 10), number, encoded[number % len(encoded)]))
            lines.append('%d\t%d\n' % (number, offset))
            offset += file.write(data)
    RecordPaths.of(path).idx.write_text(''.join(lines))


def synthetic(seed):
    """400x400 pixels with detail at every scale, about as hard to decode as a photograph."""
    draw = np.random.RandomState(seed)
    image = np.zeros((400, 400, 3), np.float32)
    for cells in (4, 10, 25, 50, 100, 200):
        layer = draw.randn(cells, cells, 3).astype(np.float32)
        image += cv2.resize(layer, (400, 400), interpolation=cv2.INTER_CUBIC) / cells ** 0.5
    low, high = image.min(), image.max()
    return ((image - low) / (high - low) * 255).astype(np.uint8)


if __name__ == '__main__':
    main()
