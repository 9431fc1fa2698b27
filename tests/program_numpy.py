"""Programs of planes computed by numpy, slowly and plainly: what the engine is compared with."""

import numpy as np

from igcnet.deploy.program import NOTHING, SIGMOID, Convolution, Dense, Enter, Largest, Mean, Split


def run(program, images):
    """Logits (N, classes) in float64 of images (N, channels, height, width)."""
    maps = [np.full((size.slots, len(images), size.height, size.width), np.nan)
            for size in program.sizes]
    vector = None
    for step in program.steps:
        if isinstance(step, (Enter, Split)):
            planes = np.swapaxes(images, 0, 1) if isinstance(step, Enter) else maps[step.source]
            for channel, row, column, slot in step.table:
                maps[step.size][slot] = _phase(planes[channel], row, column, step.stride,
                                               program.sizes[step.size])
        elif isinstance(step, Convolution):
            _convolution(step, maps[step.size], program.sizes[step.size].gap)
        elif isinstance(step, Largest):
            gap = program.sizes[step.size].gap
            maps[step.size][step.outs] = [
                np.max([_shifted(maps[step.size], source, gap) for source in sources], axis=0)
                for sources in step.sources]
        elif isinstance(step, Mean):
            vector = maps[step.size][step.slots].mean(axis=(2, 3)).T
        elif isinstance(step, Dense):
            vector = np.clip(vector @ step.weight.T.astype(float) + step.bias,
                             step.low, step.high)
    return vector


def _convolution(step, planes, gap):
    written = {}
    for group in step.groups:
        sources = np.stack([_shifted(planes, source, gap) for source in group.sources])
        sums = np.tensordot(group.weight.astype(float), sources, 1)
        for out, total, bias, add, factor in zip(group.outs, sums, group.bias, group.adds,
                                                 group.factors):
            total = total + bias + (0 if add == NOTHING else planes[add])
            total = 1 / (1 + np.exp(-total)) if step.activation == SIGMOID \
                else np.clip(total, step.low, step.high)
            assert out not in written, 'slot %d is written twice' % out
            written[out] = total * (1 if factor == NOTHING else planes[factor])
    for out, plane in written.items():
        planes[out] = plane


def _shifted(planes, source, gap):
    slot, down, right = source
    assert max(abs(down), abs(right)) <= gap, 'an offset leaves the gap'
    padded = np.pad(planes[slot], ((0, 0), (gap, gap), (gap, gap)))
    height, width = planes.shape[2:]
    return padded[:, gap + down:gap + down + height, gap + right:gap + right + width]


def _phase(plane, row, column, stride, size):
    found = np.zeros((len(plane), size.height, size.width))
    part = plane[:, row::stride, column::stride][:, :size.height, :size.width]
    found[:, :part.shape[1], :part.shape[2]] = part
    return found
