"""The choice of a plan by measurement on this machine, kept in a file for the next time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from igcnet._backend import default_threads
from igcnet.deploy.model import Model
from igcnet.deploy.runners import NATIVE, RUNNERS, runners_of, stock_way, version_of
from igcnet.deploy.strategies import (
    CANDIDATES,
    FOR_ENGINE,
    PLAIN,
    Plan,
    Strategy,
    apply_plan,
    stages_of,
)
from igcnet.deploy.timing import compare
from igcnet.errors import IgcnetError, UsageError
from igcnet.files import read_json, write_json
from igcnet.machine import cache_folder, cpu_flags, cpu_model

# A challenger must be faster by this much, or noise would choose.
MARGIN = 0.98
# Strategies that are this much slower for the whole network are not tried for single stages.
HOPELESS = 1.5
# Forms with so many times the multiply-adds are not even timed.
MOST_WORK = 8


class Choice(NamedTuple):
    """What was chosen.

    Parameters
    ----------
    plan : Plan or None
        None: the network as it is, not even BN is folded.
    runner : str
        How it is run, see `igcnet.deploy.runners`.
    speedup : float
        Time of the network as it is, run in the target's stock way, divided by that of the
        choice; from the final comparison. At least 1 where the choice includes the stock way.
    """

    plan: Optional[Plan]
    runner: str
    speedup: float

    def as_dict(self) -> Dict:
        """Plain values, for JSON."""
        return {'plan': None if self.plan is None else {
            stage: strategy.text() for stage, strategy in self.plan.items()},
                'runner': self.runner, 'speedup': round(self.speedup, 3)}

    @classmethod
    def of(cls, values: Dict) -> Choice:
        """From plain values."""
        plan = values['plan']
        return cls(None if plan is None else {
            str(stage): Strategy.parse(text) for stage, text in plan.items()},
            str(values['runner']), float(values['speedup']))


def choose(stock: Model, folded: Model, target: str, batch_size: int, int8: bool = False,
           report: Callable[[str], None] = lambda line: None) -> Choice:
    """Measure and choose, stage by stage.

    First every strategy for the whole network, then for each stage those that were not
    hopeless, the rest staying at the best so far. At the end the choice and the stock form are
    compared once more: the choice must be faster, or the stock form is taken (unless eight bits
    or the engine are asked for). The engine is left out where it has no form of the network.

    Parameters
    ----------
    stock, folded : Model
        The network as it is, and with BN folded and training parts left out.
    target : str
        Of `igcnet.deploy.runners.TARGETS`.
    int8 : bool
        Among the eight-bit forms.
    report : callable
        Gets a line for each comparison.
    """
    contest = _Contest(stock, folded, target, batch_size, int8, report)
    stages = stages_of(folded)
    promising = []
    for strategy in CANDIDATES:
        runners = [name for name in contest.runners if strategy in _candidates(name)]
        if runners and contest.against_best(dict.fromkeys(stages, strategy), runners) < HOPELESS:
            promising.append(strategy)
    if len(stages) > 1:
        for stage in stages:
            for strategy in promising:
                if strategy in _candidates(contest.name):
                    contest.against_best({**contest.plan, stage: strategy}, [contest.name])
    return contest.final()


def _candidates(runner: str) -> Sequence[Strategy]:
    return FOR_ENGINE if runner == NATIVE else CANDIDATES


class _Contest:
    """The fastest plan so far, and challengers."""

    def __init__(self, stock: Model, folded: Model, target: str, batch_size: int,
                 int8: bool, report: Callable[[str], None]):
        self.stock, self.folded, self.target, self.report = stock, folded, target, report
        self.runners = runners_of(target, int8)
        self.images = np.random.RandomState(0).standard_normal(
            stock.batch_shape(batch_size)).astype(np.float32)
        self.plan: Plan = dict.fromkeys(stages_of(folded), PLAIN)
        self.name = self.runners[0]
        self.best = RUNNERS[self.name](folded)
        self.ratios: Dict[Tuple[str, str], float] = {}
        for name in self.runners[1:]:
            self._challenge(self.plan, folded, name)

    def against_best(self, plan: Plan, runners: Sequence[str]) -> float:
        """Time of a plan divided by that of the best one before it, by the fastest of the given
        runners."""
        model = apply_plan(self.folded, plan)
        if model.macs() > MOST_WORK * self.stock.macs():
            return float('inf')
        return min(self._challenge(plan, model, name) for name in runners)

    def _challenge(self, plan: Plan, model: Model, name: str) -> float:
        key = (model.form(), name)
        if key in self.ratios:
            return self.ratios[key]
        try:
            challenger = RUNNERS[name](model)
        except UsageError as problem:
            if name != NATIVE:
                raise
            self.report('left out: %s' % problem)
            if self.name != NATIVE:
                self.runners.remove(NATIVE)
            return float('inf')
        ratio = compare(challenger, self.best, self.images)
        self.ratios[key] = ratio
        self.report('%s by %s: %.2f times the time of the best so far'
                    % (describe(plan), name, ratio))
        if ratio < MARGIN:
            self.plan, self.name, self.best = plan, name, challenger
        return ratio

    def final(self) -> Choice:
        """The best plan, if it is faster than the stock form."""
        stock = stock_way(self.target)
        ratio = compare(self.best, RUNNERS[stock](self.stock), self.images, rounds=12)
        if ratio >= 1:
            self.report('the stock form is faster: %.2f' % ratio)
            if stock in self.runners:
                return Choice(None, stock, 1.0)
        return Choice(self.plan, self.name, 1 / ratio)


def describe(plan: Plan) -> str:
    """A plan in words."""
    strategies = {strategy.text() for strategy in plan.values()}
    if len(strategies) == 1:
        return strategies.pop()
    return ', '.join('%s: %s' % (stage, strategy.text()) for stage, strategy in plan.items())


def cached_choice(stock: Model, folded: Model, target: str, batch_size: int, int8: bool = False,
                  fresh: bool = False, report: Callable[[str], None] = lambda line: None) -> Choice:
    """`choose`, or what it chose for the same graph, runtime, processor, threads and batch size.

    Parameters
    ----------
    fresh : bool
        Measure again, whatever was chosen before.
    """
    path, key = cache_path(), _key(stock, target, batch_size, int8)
    known = _read(path)
    if key in known and not fresh:
        try:
            return Choice.of(known[key])
        except (KeyError, TypeError, ValueError, AttributeError, IgcnetError):
            report('%s: an entry is damaged and is measured again' % path)
    choice = choose(stock, folded, target, batch_size, int8, report)
    write_json(path, {**_read(path), key: choice.as_dict()})
    return choice


def cache_path() -> Path:
    """Where choices are kept: ``igcnet/plans.json`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return cache_folder() / 'plans.json'


def processor_name() -> str:
    """What the system calls its processor, with the vector instructions that decide most."""
    flags = cpu_flags()
    wide = [flag for flag in ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni') if flag in flags]
    return ' '.join([cpu_model(), *wide])


def _key(stock: Model, target: str, batch_size: int, int8: bool) -> str:
    facts: List = [stock.form(), [(name, version_of(name)) for name in runners_of(target, int8)],
                   stock_way(target), processor_name(), default_threads(), batch_size,
                   [strategy.text() for strategy in CANDIDATES]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path) -> Dict:
    try:
        known = read_json(path, 'file of plans')
    except IgcnetError:
        return {}
    return known if isinstance(known, dict) else {}
