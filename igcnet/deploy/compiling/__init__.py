"""The compiler: from a network's graph to the program of the inference engine.

The graph becomes a draft (`lowering`), in which every plane is written once and shuffles,
concatenations and strides have vanished into the numbers of planes; what follows a convolution is
computed with it (`fusing`); convolutions that only strides read are computed phase by phase
(`phases`), wide maps that are soon read part by part (`parts`); at the end planes get slots
(`slots`).
"""

from __future__ import annotations

from igcnet.deploy.compiling.fusing import fuse
from igcnet.deploy.compiling.lowering import lower
from igcnet.deploy.compiling.parts import split_into_parts
from igcnet.deploy.compiling.phases import move_phases_up
from igcnet.deploy.compiling.slots import place
from igcnet.deploy.model import Model
from igcnet.deploy.program import Program

__all__ = ['compile_model', 'summary']


def compile_model(model: Model) -> Program:
    """The program that computes a network.

    Parameters
    ----------
    model : Model
        Best with BN folded and training parts left out.

    Raises
    ------
    UsageError
        A node has no native form; the message names it.
    """
    draft = lower(model)
    fuse(draft)
    move_phases_up(draft)
    split_into_parts(draft)
    return place(draft)


def summary(program: Program) -> str:
    """A program in a line: its steps, and the planes of one image with their megabytes."""
    kinds = [type(step).__name__ for step in program.steps]
    steps = ', '.join('%d %s' % (kinds.count(kind), kind) for kind in dict.fromkeys(kinds))
    planes = ', '.join('%d of %dx%d with gaps of %d' % (
        size.slots, size.height, size.width, size.gap) for size in program.sizes)
    pixels = sum(size.slots * size.height * size.width for size in program.sizes)
    return '%d steps (%s); planes: %s; %.1f MB' % (len(kinds), steps, planes, 4e-6 * pixels)
