"""Which rewritings a part of a network gets.

Folding BN and leaving out training parts always pay. What pays for shuffles and narrow groups
depends on the runtime, the machine, the batch size and the shape, so it is chosen for each stage:
the layers whose maps have one size.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

from igcnet.deploy.model import Model
from igcnet.deploy.rewrites.groups import join_convolutions, merge_groups, pad_channels
from igcnet.deploy.rewrites.shuffles import absorb_shuffles
from igcnet.errors import UsageError

SHUFFLES = ('leave', 'free', 'duplicate', 'cheapest')
JOINS = ('', 'join1x1', 'join')


class Strategy(NamedTuple):
    """What is done to the layers of a stage.

    Parameters
    ----------
    shuffles : str
        Of `SHUFFLES`, see `igcnet.deploy.rewrites.shuffles.absorb_shuffles`.
    joins : str
        'join1x1': successive 1x1 convolutions become one; 'join': also a larger convolution and
        the 1x1 behind it; '': neither.
    merge : bool
        Neighbouring groups are merged to whole vector blocks.
    pad : bool
        Maps get channels of zeros up to whole vector blocks.
    """

    shuffles: str = 'free'
    joins: str = ''
    merge: bool = False
    pad: bool = False

    def text(self) -> str:
        """Its parts with + between them, such as 'cheapest+merge'."""
        return '+'.join(filter(None, (self.shuffles, self.joins, 'merge' * self.merge,
                                      'pad' * self.pad)))

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """The strategy that `text` stands for.

        Raises
        ------
        UsageError
            Unknown parts, or parts in another order.
        """
        parts = text.split('+')
        joins = [part for part in parts if part in JOINS]
        found = cls(parts[0], joins[0] if joins else '', 'merge' in parts, 'pad' in parts)
        if found.shuffles not in SHUFFLES or found.text() != text:
            raise UsageError('strategy %r: must be one of %s, then as wanted +join1x1 or +join, '
                             '+merge, +pad' % (text, ', '.join(SHUFFLES)))
        return found


# What is tried; every other combination can be asked for by name.
CANDIDATES = tuple(map(Strategy.parse, (
    'leave', 'free', 'free+merge', 'duplicate', 'duplicate+merge', 'cheapest', 'cheapest+merge',
    'cheapest+merge+pad', 'cheapest+join1x1+merge+pad', 'cheapest+join+merge+pad')))
PLAIN = CANDIDATES[0]
# The engine pays nothing for shuffles and groups, nor for weights that are 0.
FOR_ENGINE = tuple(strategy for strategy in CANDIDATES if strategy == PLAIN or strategy.joins)

# Stage -> strategy. A stage is called after the size of its maps: '56x56'.
Plan = Mapping[str, Strategy]
Step = Tuple[str, Callable[[Model], Model]]


def stages_of(model: Model) -> List[str]:
    """The stages that have shuffles or grouped convolutions, in the order of the network."""
    found = _stage_by_node(model)
    return list(dict.fromkeys(
        found[node.name] for node in model.graph.nodes
        if node.op == 'Reorder' or (node.op == 'Convolution'
                                    and node.attributes.get('num_group', 1) > 1)))


def plan_steps(plan: Plan) -> List[Step]:
    """The rewritings of a plan with their names, to be done one after the other."""
    def of(model: Model, choose: Callable[[Strategy], object], default: object) -> Callable:
        stages = _stage_by_node(model)
        return lambda name: choose(plan[stages[name]]) if stages[name] in plan else default

    def shuffles(model: Model) -> Model:
        return absorb_shuffles(model, of(model, lambda strategy: strategy.shuffles, 'leave'))

    def joins(model: Model) -> Model:
        pointwise = {node.name for node in model.graph.nodes
                     if node.op == 'Convolution' and set(node.attributes['kernel']) == {1}}
        wanted = of(model, lambda strategy: strategy.joins, '')
        return join_convolutions(model, lambda name: wanted(name) == 'join' or (
            wanted(name) == 'join1x1' and name in pointwise))

    def merges(model: Model) -> Model:
        return merge_groups(model, of(model, lambda strategy: strategy.merge, False))

    def pads(model: Model) -> Model:
        return pad_channels(model, of(model, lambda strategy: strategy.pad, False))

    return [('shuffles into convolutions', shuffles), ('successive convolutions joined', joins),
            ('groups merged', merges), ('channels padded', pads)]


def apply_plan(model: Model, plan: Plan) -> Model:
    """All steps of a plan, without a check."""
    for _, rewrite in plan_steps(plan):
        model = rewrite(model)
    return model


def _stage_by_node(model: Model) -> Dict[str, str]:
    return {name: 'x'.join('%d' % extent for extent in shape[2:])
            for name, shape in model.shapes().items()}
