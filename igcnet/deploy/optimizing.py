"""`optimize`: a trained network as the fastest model that computes the same."""

from __future__ import annotations

from typing import Callable, Iterable, List, NamedTuple, Optional

import numpy as np
from mxnet.gluon import HybridBlock

from igcnet.deploy.calibration import channel_sizes
from igcnet.deploy.choosing import Choice, cached_choice, describe
from igcnet.deploy.compiling import compile_model, summary
from igcnet.deploy.int8 import ungrouped
from igcnet.deploy.mixed_precision import INT8_TOLERANCE, EightBits, in_eight_bits
from igcnet.deploy.model import Model
from igcnet.deploy.rewrites.batch_norm import fold_batch_norms
from igcnet.deploy.rewrites.equalising import equalise_channels
from igcnet.deploy.rewrites.preprocessing import add_preprocessing
from igcnet.deploy.rewrites.training_parts import remove_training_parts
from igcnet.deploy.runners import MXNET_INT8, NATIVE, RUNNERS, runners_of
from igcnet.deploy.runtimes import Runner, mxnet_runner
from igcnet.deploy.strategies import Strategy, plan_steps, stages_of
from igcnet.deploy.verify import random_images
from igcnet.errors import CheckpointError
from igcnet.registry import Preprocessing

# Largest difference of the logits that a rewriting may make, as a part of the largest logit.
TOLERANCE = 1e-4
MEASURED, STOCK = 'measured', 'stock'


class Step(NamedTuple):
    """What one rewriting did, for ``--explain``.

    Parameters
    ----------
    name : str
        Of the rewriting.
    before, after : Model
        What it was given and what it made.
    difference : float
        Largest difference of the logits, as a part of the largest logit.
    """

    name: str
    before: Model
    after: Model
    difference: float

    def text(self) -> str:
        """For people: which operators became fewer or more, where, and the multiply-adds."""
        before, after = self.before.operators(), self.after.operators()
        changes = ['%d %s' % (after.get(op, 0) - before.get(op, 0), op)
                   for op in sorted({*before, *after}) if before.get(op, 0) != after.get(op, 0)]
        changed = self.changed()
        where = '%d nodes%s' % (len(changed), ' (%s ... %s)' % (changed[0], changed[-1])
                                if len(changed) > 2 else ' (%s)' % ', '.join(changed))
        return '%s: %s; %s; %.1f -> %.1f million multiply-adds; difference %.1g' % (
            self.name, where, ', '.join(changes) or 'same operators', self.before.macs() / 1e6,
            self.after.macs() / 1e6, self.difference)

    def changed(self) -> List[str]:
        """Names of the nodes that are gone, new, or have other attributes, inputs or weights."""
        one, other = _described(self.before), _described(self.after)
        return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


class Optimized(NamedTuple):
    """A rewritten network.

    Parameters
    ----------
    model : Model
        The graph and its arrays; see `igcnet.deploy.optimized_files` and `to_onnx`.
    target : str
        The runtime it was made for.
    choice : Choice
        The strategy of each stage, and how it is run.
    steps : list of Step
        What was done.
    eight_bits : EightBits, optional
        In eight bits: the ranges of the maps, and the layers that are not.
    """

    model: Model
    target: str
    choice: Choice
    steps: List[Step]
    eight_bits: Optional[EightBits] = None

    def runner(self) -> Runner:
        """A function from images (N, channels, height, width) to logits, run by the target."""
        make = RUNNERS[self.choice.runner]
        if self.eight_bits is None:
            return make(self.model)
        return make(self.model, self.eight_bits.ranges, self.eight_bits.in_float)

    def explain(self) -> str:
        """What each rewriting did, one per line."""
        lines = [step.text() for step in self.steps if step.changed()]
        if self.eight_bits is not None:
            lines += self.eight_bits.explain()
        plan = self.choice.plan
        lines.append('stages: %s; run by %s' % ('left as they are' if not plan else
                                                describe(plan), self.choice.runner))
        if self.choice.runner == NATIVE:
            lines.append('the engine: %s' % summary(compile_model(self.model)))
        return '\n'.join(lines)


def optimize(net: HybridBlock, target: str = 'mxnet', input_size: Optional[int] = None,
             batch_size: int = 1, strategy: str = MEASURED,
             preprocessing: Optional[Preprocessing] = None,
             calibration: Optional[Iterable[np.ndarray]] = None,
             tolerance: float = INT8_TOLERANCE, fresh: bool = False,
             report: Callable[[str], None] = lambda line: None) -> Optimized:
    """Rewrite a network for inference on a CPU.

    BN is folded into convolutions, training parts go, shuffles and narrow groups are rewritten
    where that is faster. Each rewriting is exact and checked on random images.

    Parameters
    ----------
    net : HybridBlock
        With parameters; of several widths, the result of its ``cut``.
    target : str
        'mxnet', which includes our inference engine where it is built; 'mxnet-alone', for
        machines without it; 'native', the engine; or 'onnxruntime'.
    input_size : int, optional
        Height and width of the images, which become fixed.
    batch_size : int
        The batch size to be fast at; any other works.
    strategy : str
        'measured' takes for each stage what is fastest on this machine, never anything slower
        than the network as it is; measured once and then remembered (see
        `igcnet.deploy.choosing`). 'stock' leaves the network as it is. Otherwise one strategy
        for all stages, see `igcnet.deploy.strategies.Strategy`.
    preprocessing : Preprocessing, optional
        Let the model take pixels from 0 to 255 and prepare them itself.
    calibration : iterable of array, optional
        Batches of images, prepared as the model takes them: compute convolutions in eight bits,
        with the ranges that maps have on these. No longer exact; see `igcnet.deploy.int8`.
    tolerance : float
        In eight bits: layers stay in float32 until the error of the logits on these images, as a
        part of the logits (`igcnet.deploy.mixed_precision.logits_error`), is no larger.
    fresh : bool
        Measure again, whatever is remembered.
    report : callable
        Gets a line for each comparison of the measurement.

    Raises
    ------
    UsageError
        An unknown target or strategy, or images that do not fit.
    CheckpointError
        A rewriting changed the outputs, which happens when the network computes infinities.
    """
    int8 = calibration is not None
    usual, *_ = runners_of(target, int8)
    uniform = None if strategy in (MEASURED, STOCK) else Strategy.parse(strategy)
    stock = Model.of(net, input_size)
    chain = _Chain(stock)
    chain.do('training parts left out', remove_training_parts)
    chain.do('batch normalisation folded', fold_batch_norms)
    if strategy == MEASURED:
        choice = cached_choice(stock, chain.model, target, batch_size, int8, fresh, report)
    else:
        choice = Choice(uniform and dict.fromkeys(stages_of(chain.model), uniform),
                        usual, 1.0)
    if choice.plan is None:
        chain = _Chain(stock)
    for name, rewrite in plan_steps(choice.plan or {}):
        chain.do(name, rewrite)
    if choice.runner == NATIVE:
        chain.compare('the engine', RUNNERS[NATIVE](chain.model))
    if preprocessing is not None:
        chain.model, chain.logits = add_preprocessing(chain.model, preprocessing), None
    eight_bits = None
    if calibration is not None:
        batches = list(calibration)
        if choice.runner == MXNET_INT8:
            chain.do('groups made one for eight bits', ungrouped)
        sizes = channel_sizes(chain.model, batches)
        chain.do('channels equalised', lambda model: equalise_channels(model, sizes))
        chain.model, eight_bits = in_eight_bits(
            chain.model, choice.runner, batches, tolerance)
    return Optimized(chain.model, target, choice, chain.steps, eight_bits)


def require_same(before: np.ndarray, after: np.ndarray, what: str) -> float:
    """The largest difference of the logits `before` and `after`, as a part of the largest logit.

    `what` is compared, for the message.

    Raises
    ------
    CheckpointError
        It is above `TOLERANCE`, or the largest logit of an image is another one (of two that
        differ by less than the tolerance either may be).
    """
    scale = float(np.abs(before).max()) or 1.0
    difference = float(np.abs(after - before).max()) / scale
    best = np.take_along_axis(before, after.argmax(axis=1)[:, None], axis=1)[:, 0]
    if not (difference <= TOLERANCE and (before.max(axis=1) - best <= TOLERANCE * scale).all()):
        raise CheckpointError('%s: the logits change by %.3g of the largest, more than %g'
                              % (what, difference, TOLERANCE))
    return difference


class _Chain:
    """Rewritings one after the other, each compared with the model before it."""

    def __init__(self, model: Model):
        self.model = model
        self.steps: List[Step] = []
        self.images = random_images(2, model.image_shape[-1], 0)
        self.logits: Optional[np.ndarray] = None

    def do(self, name: str, rewrite: Callable[[Model], Model]) -> None:
        before, after = self.model, rewrite(self.model)
        difference = 0.0
        if _described(before) != _described(after):
            difference = self.compare(name, mxnet_runner(after, fused=False))
        self.model = after
        self.steps.append(Step(name, before, after, difference))

    def compare(self, name: str, run: Runner) -> float:
        if self.logits is None:
            self.logits = mxnet_runner(self.model, fused=False)(self.images)
        logits = run(self.images)
        difference = require_same(self.logits, logits, name)
        self.logits = logits
        return difference


def _described(model: Model) -> dict:
    """What every node computes from what, by name."""
    nodes = model.graph.nodes
    return {node.name: (node.op, node.attributes, tuple(
        (nodes[source].name, model.arrays[nodes[source].name].tobytes())
        if nodes[source].name in model.arrays else (nodes[source].name, output)
        for source, output in node.inputs)) for node in nodes if not node.is_variable}
