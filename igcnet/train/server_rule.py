"""The optimiser as the servers of a ``dist_async`` job run it."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import mxnet as mx

# Keys of the store: parameters count from 0, the workers' own messages from here.
MESSAGES = 1 << 20


@mx.optimizer.register
class ServerRule(mx.optimizer.Optimizer):
    """What a server does with what it is sent under each key.

    - a parameter: updates it with the gradient, by `rule`;
    - one of the workers' messages: adds it to what is there;
    - an array of the rule's state for a parameter (`state_key`): the first time, takes it over;
      later, answers with its present value, whatever was sent.

    It is pickled on its way, as everything that MXNet sends to its servers.

    Parameters
    ----------
    rule : Optimizer, optional
        None: only messages are expected.
    stride : int
        The number of parameters, rounded up to a multiple of the number of servers, so that a
        parameter and its state come to the same server.
    """

    def __init__(self, rule: Optional[mx.optimizer.Optimizer] = None, stride: int = 1):
        super().__init__()
        self.rule, self.stride = rule, stride
        self.states: Dict[int, List[mx.nd.NDArray]] = {}
        self.given: Dict[int, Any] = {}

    def create_state(self, index, weight):
        if index >= self.stride:
            return None
        state = self.rule.create_state_multi_precision(index, weight)
        self.states[index] = flat(state)
        for slot, array in enumerate(self.states[index]):
            key = state_key(index, slot, self.stride)
            if key in self.given:
                array[:] = self.given.pop(key)
        return state

    def update(self, index, weight, grad, state):
        if index >= MESSAGES:
            weight += grad
        elif index >= self.stride:
            slot, parameter = divmod(index - self.stride, self.stride)
            if parameter in self.states:
                weight[:] = self.states[parameter][slot]
            else:
                self.given[index] = grad.copy()
        else:
            self.rule.update_multi_precision(index, weight, grad, state)


class EveryNth:
    """A schedule of the servers, where `count` updates are one step of `schedule`."""

    def __init__(self, schedule, count: int):
        self.schedule, self.count = schedule, count

    def __call__(self, update: int) -> float:
        return self.schedule(-(-update // self.count))


def state_key(parameter: int, slot: int, stride: int) -> int:
    """The key for array number `slot` of the rule's state for a parameter, of `stride` for each."""
    return parameter + (1 + slot) * stride


def flat(state: Any) -> List[mx.nd.NDArray]:
    """The arrays of an optimiser's state for one parameter: none, one, or tuples of them."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in flat(part)]
    return [state]
