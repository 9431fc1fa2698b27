"""Draw the IGC unit with L=2 partitions of M=3 channels to igc-unit.png (``make figures``)."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch, Polygon

PARTITIONS, CHANNELS = 2, 3                      # L and M
SHADES = [['#b3d9f0', '#74b6e4', '#3d8fd1'],     # one row per partition, one shade per channel
          ['#fdd9a8', '#fbb064', '#f08a32']]
INK, PALE_INK, PANEL, PANEL_EDGE = '#24292f', '#57606a', '#f3f4f6', '#c9d1d9'
SIDE, STEP = 0.62, 0.80                          # a channel's box, and the distance of two
STRAND = 0.05                                    # distance of the two colours of a line
COLUMNS = [0.0, 2.7, 5.3, 8.0, 10.6]             # x of the five states of the channels
X_RANGE, Y_RANGE = (-0.9, 11.5), (-3.8, 4.2)


def shuffle(order, groups):
    """Where the channel shuffle with `groups` groups takes each of its outputs from."""
    length = len(order) // groups
    return [order[i * length + j] for j in range(length) for i in range(groups)]


def heights(groups):
    """y of each position, from the top, with a gap between the groups."""
    total = PARTITIONS * CHANNELS
    gap = 1.1 / (groups - 1)
    y = [-STEP * i - gap * (i // (total // groups)) for i in range(total)]
    return np.array(y) - (y[0] + y[-1]) / 2


def colours(channel, mixed):
    """One colour for each partition that has entered the channel."""
    partition, number = divmod(channel, CHANNELS)
    return [row[number] for row in (SHADES if mixed else SHADES[partition:partition + 1])]


def draw_channel(axes, x, y, channel, mixed):
    """A box with the channel's number; a diagonal parts the colours of two partitions."""
    left, bottom, shades = x - SIDE / 2, y - SIDE / 2, colours(channel, mixed)
    style = dict(boxstyle='round,pad=0,rounding_size=0.12', linewidth=1.2)
    box = FancyBboxPatch((left, bottom), SIDE, SIDE, facecolor=shades[0], edgecolor='none',
                         zorder=3, **style)
    axes.add_patch(box)
    corners = [(left, bottom), (left + SIDE, bottom), (left + SIDE, bottom + SIDE)]
    half = axes.add_patch(Polygon(corners, facecolor=shades[-1], edgecolor='none', zorder=3))
    half.set_clip_path(box)
    axes.add_patch(FancyBboxPatch((left, bottom), SIDE, SIDE, facecolor='none', edgecolor=INK,
                                  zorder=4, **style))
    axes.text(x, y - 0.01, str(channel), ha='center', va='center', color=INK, fontsize=14,
              fontweight='bold', zorder=5)


def draw_line(axes, start, end, colour, bend, offset=0.0, **style):
    """A line, straight (bend 0) or leaving and arriving horizontally; `offset` to its left."""
    (x0, y0), (x1, y1) = start, end
    shift = bend * (x1 - x0)
    control = np.array([(x0, y0), (x0 + shift, y0), (x1 - shift, y1), (x1, y1)])
    t = np.linspace(0, 1, 80)[:, None]
    curve = ((1 - t) ** 3 * control[0] + 3 * t * (1 - t) ** 2 * control[1]
             + 3 * t ** 2 * (1 - t) * control[2] + t ** 3 * control[3])
    along = np.gradient(curve, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    curve += offset * across / np.linalg.norm(across, axis=1, keepdims=True)
    # Rounded, or a level line of many points is drawn with tiny steps.
    axes.plot(*curve.round(6).T, color=colour, solid_capstyle='round', **style)


def draw_convolution(axes, left, right, order, groups, mixed):
    """Panels of a group convolution: every channel of a group meets every other of it."""
    y, length = heights(groups), len(order) // groups
    for start in range(0, len(order), length):
        top, bottom = y[start] + 0.5, y[start + length - 1] - 0.5
        axes.add_patch(FancyBboxPatch(
            (COLUMNS[left] - 0.52, bottom), COLUMNS[right] - COLUMNS[left] + 1.04, top - bottom,
            boxstyle='round,pad=0,rounding_size=0.2', facecolor=PANEL, edgecolor=PANEL_EDGE,
            linewidth=1.2, zorder=0))
        for i in range(start, start + length):
            for j in range(start, start + length):
                draw_line(axes, (COLUMNS[left] + SIDE / 2, y[i]),
                          (COLUMNS[right] - SIDE / 2, y[j]), colours(order[i], False)[0], 0,
                          linewidth=2.0, alpha=0.85, zorder=1)
    for i, channel in enumerate(order):
        draw_channel(axes, COLUMNS[left], y[i], channel, False)
        draw_channel(axes, COLUMNS[right], y[i], channel, mixed)


def draw_shuffle(axes, left, right, before, after, groups_before, groups_after, mixed):
    start, end = heights(groups_before), heights(groups_after)
    for i, channel in enumerate(after):
        source = before.index(channel)
        x0, x1 = COLUMNS[left] + SIDE / 2 + 0.02, COLUMNS[right] - SIDE / 2 - 0.02
        draw_line(axes, (x0, start[source]), (x1, end[i]), 'white', 0.5, linewidth=7.5, zorder=2)
        shades = colours(channel, mixed)
        for number, shade in enumerate(shades):  # one strand beside the other
            draw_line(axes, (x0, start[source]), (x1, end[i]), shade, 0.5,
                      STRAND * ((len(shades) - 1) / 2 - number), linewidth=3.4, zorder=2)


def label(axes, x, title, detail):
    axes.text(x, 3.62, title, ha='center', va='bottom', fontsize=13.5, fontweight='bold',
              color=INK)
    axes.text(x, 3.54, detail, ha='center', va='top', fontsize=11, color=PALE_INK,
              linespacing=1.35)


def draw(path):
    total = PARTITIONS * CHANNELS
    given = list(range(total))
    mixed_order = shuffle(given, PARTITIONS)
    assert shuffle(mixed_order, CHANNELS) == given  # the second shuffle undoes the first

    plt.rcParams['font.family'] = 'DejaVu Sans'
    figure = plt.figure(figsize=(X_RANGE[1] - X_RANGE[0], Y_RANGE[1] - Y_RANGE[0]),
                        facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1))
    draw_convolution(axes, 0, 1, given, PARTITIONS, False)
    draw_shuffle(axes, 1, 2, given, mixed_order, PARTITIONS, CHANNELS, False)
    draw_convolution(axes, 2, 3, mixed_order, CHANNELS, True)
    draw_shuffle(axes, 3, 4, mixed_order, given, CHANNELS, PARTITIONS, True)
    for y, channel in zip(heights(PARTITIONS), given):
        draw_channel(axes, COLUMNS[4], y, channel, True)
    between = [(COLUMNS[i] + COLUMNS[i + 1]) / 2 for i in range(4)]
    label(axes, between[0], 'primary group convolution',
          '3×3, in L = %d partitions\nof M = %d channels' % (PARTITIONS, CHANNELS))
    label(axes, between[1], 'shuffle', 'k = L = %d' % PARTITIONS)
    label(axes, between[2], 'secondary group convolution',
          '1×1, in M = %d groups with one\nchannel of every partition' % CHANNELS)
    label(axes, between[3], 'shuffle back', 'k = M = %d' % CHANNELS)
    axes.text((COLUMNS[0] + COLUMNS[4]) / 2, -3.45, 'Colours: the partitions that a channel '
              'depends on; after both convolutions, all of them.', ha='center', va='center',
              fontsize=12, color=PALE_INK)
    axes.set_xlim(*X_RANGE)
    axes.set_ylim(*Y_RANGE)
    axes.set_axis_off()
    figure.savefig(path, dpi=150, facecolor='white', metadata={'Software': None})
    plt.close(figure)


if __name__ == '__main__':
    draw(Path(__file__).resolve().parent / 'igc-unit.png')
