"""Programs of planes with awkward shapes, drawn at random."""

import numpy as np

from igcnet.deploy.program import (
    CLAMP,
    NOTHING,
    SIGMOID,
    Convolution,
    Dense,
    Enter,
    Group,
    Largest,
    Mean,
    Program,
    Size,
    Split,
)


class Drawing:
    """Steps over planes; `full` are the slots of the present size that hold something."""

    def __init__(self, seed, height, width, gaps, strides, slots=24, channels=3):
        self.random = np.random.RandomState(seed)
        self.slots, self.steps, self.sizes = slots, [], []
        self.image_shape = (channels, height, width)
        for number, (gap, stride) in enumerate(zip(gaps, strides)):
            height, width = -(-height // stride), -(-width // stride)
            gap = min(gap, height, width)
            self.sizes.append(Size(height, width, gap, slots))
            self.phases(number, stride)
            for _ in range(3):
                self.convolution()
            self.windows()
            if self.random.rand() < 0.5:
                self.largest()
            self.in_place()

    def program(self, classes=10, hidden=0):
        """Ends in one or two dense layers."""
        steps, width = [Mean(len(self.sizes) - 1, self.ints(self.full))], len(self.full)
        for outputs in [hidden] * (hidden > 0) + [classes]:
            steps.append(Dense(self.floats(outputs, width), self.floats(outputs),
                               *((0.0, 6.0) if outputs == hidden else ())))
            width = outputs
        return Program(self.image_shape, classes, self.sizes, self.steps + steps)

    def phases(self, number, stride):
        """Some phases of the image or of the planes before become the first planes."""
        sources = self.full if number else range(self.image_shape[0])
        found = [(source, row, column) for source in sources for row in range(stride)
                 for column in range(stride)]
        self.random.shuffle(found)
        found = found[:self.slots // 3]
        self.full = self.random.permutation(self.slots)[:len(found)].tolist()
        table = self.ints([(*phase, slot) for phase, slot in zip(found, self.full)])
        self.steps.append(Split(number - 1, number, stride, table) if number
                          else Enter(number, stride, table))

    def convolution(self):
        """Some groups write every free slot."""
        free = [slot for slot in range(self.slots) if slot not in self.full]
        self.random.shuffle(free)
        groups = []
        while len(free):
            outs, free = np.split(free, [min(len(free), self.random.randint(1, 10))])
            groups.append(self.group(outs, self.sources(self.random.randint(1, 20))))
        sigmoid = self.random.rand() < 0.3
        self.steps.append(Convolution(len(self.sizes) - 1, groups, SIGMOID if sigmoid else CLAMP,
                                      *self.bounds()))
        self.full = [int(out) for group in groups for out in group.outs]

    def group(self, outs, sources):
        """Weights so small that numbers keep their size."""
        scale = 1 / np.sqrt(len(sources))
        return Group(self.ints(sources), self.floats(len(outs), len(sources), scale=scale),
                     self.floats(len(outs)), self.ints(outs), self.some(len(outs)),
                     self.some(len(outs)))

    def windows(self):
        """Groups of one to three outputs read windows of one to three planes, taps in any order."""
        gap = self.sizes[-1].gap
        free = [slot for slot in range(self.slots) if slot not in self.full]
        groups = []
        while len(free):
            outs, free = np.split(free, [min(len(free), self.random.randint(1, 4))])
            rows, columns = self.random.randint(0, gap + 1, 2)
            slots = self.random.choice(self.full, min(len(outs), len(self.full)), replace=False)
            taps = [(slot, y, x) for slot in slots for y in range(-rows, rows + 1)
                    for x in range(-columns, columns + 1)]
            self.random.shuffle(taps)
            groups.append(self.group(outs, taps))
        self.steps.append(Convolution(len(self.sizes) - 1, groups, CLAMP, *self.bounds()))
        self.full = [int(out) for group in groups for out in group.outs]

    def in_place(self, low=-np.inf):
        """Every full plane becomes a sum of up to four, where it is."""
        groups, slots = [], list(self.full)
        while len(slots):
            some, slots = np.split(slots, [min(len(slots), self.random.randint(1, 5))])
            itself = self.random.rand(2, len(some)) < 0.3
            groups.append(Group(
                self.ints([(slot, 0, 0) for slot in some]),
                self.floats(len(some), len(some), scale=0.25), self.floats(len(some)),
                self.ints(some),
                *(self.ints(np.where(own, some, NOTHING)) for own in itself)))
        self.steps.append(Convolution(len(self.sizes) - 1, groups, CLAMP, low, 2.0))

    def largest(self):
        """A pool behind a ReLU: of planes that are not negative."""
        half = len(self.full) // 2
        read, outs = self.full[:half], self.full[half:]
        self.full = read
        self.in_place(low=0.0)
        count = self.random.randint(1, 6)
        sources = [self.sources(count) for _ in outs]
        self.steps.append(Largest(len(self.sizes) - 1, self.ints(sources), self.ints(outs)))
        self.full = read + outs

    def sources(self, count):
        """Full slots with offsets."""
        gap = self.sizes[-1].gap
        return np.stack([self.random.choice(self.full, count),
                         *self.random.randint(-gap, gap + 1, (2, count))], axis=1)

    def some(self, count):
        """For each output a full slot or nothing."""
        return self.ints([self.random.choice(self.full) if self.random.rand() < 0.3 else NOTHING
                          for _ in range(count)])

    def bounds(self):
        return [(-np.inf, np.inf), (-2.0, 2.0), (0.0, 6.0)][self.random.randint(3)]

    def floats(self, *shape, scale=1.0):
        return self.random.normal(scale=scale, size=shape).astype(np.float32)

    @staticmethod
    def ints(values):
        return np.array(values, np.int32)
