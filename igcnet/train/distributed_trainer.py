"""Trainers whose gradients, or updates, come from several workers."""

from __future__ import annotations

import copy
from typing import Dict, List

import mxnet as mx
from mxnet import gluon

from igcnet.train.server_rule import EveryNth, ServerRule, flat, state_key


class _DistributedTrainer(gluon.Trainer):
    """What both kinds share.

    Parameters
    ----------
    workers : igcnet.train.distributed.Workers
    parameters : list of gluon.Parameter
        Those that are updated.
    rule : Optimizer
    """

    def __init__(self, workers, parameters: List[gluon.Parameter], rule: mx.optimizer.Optimizer):
        super().__init__(parameters, rule, kvstore=None, update_on_kvstore=False)
        self._workers, self._store = workers, workers.store
        self._keys = workers.new_keys(len(parameters))
        self._started = False

    def _allreduce_grads(self):
        if not self._started:
            self._started = True
            self._start()
        self._exchange()

    def _start(self) -> None:
        """Before the first exchange: all workers have the same weights."""
        self._store.init(self._keys, [p.list_data()[0] for p in self._params])

    def _push_gradients(self) -> None:
        self._store.push(self._keys, [p.list_grad() for p in self._params])

    def _pull_weights(self) -> None:
        self._store.pull(self._keys, [p.list_data() for p in self._params])


class SynchronousTrainer(_DistributedTrainer):
    """Updates with the gradients of all workers; all have the same weights after each step."""

    def _start(self):
        super()._start()
        self._workers.start_compressing()

    def _exchange(self):
        self._push_gradients()
        self._store.pull(self._keys, [p.list_grad() for p in self._params])

    def fetch(self) -> None:
        """The workers have everything."""


class AsynchronousTrainer(_DistributedTrainer):
    """Sends its gradients to servers that update the weights, and goes on with what they have.

    Each worker's gradient is an update of its own, so there are as many in a step as workers.
    """

    def _start(self):
        workers, rule = self._workers, self._optimizer
        super()._start()
        self._stride = -(-len(self._keys) // workers.servers) * workers.servers
        sent = copy.copy(rule)
        # Schedule and place are counted in steps, the servers count the updates of all workers.
        sent.begin_num_update = sent.num_update = rule.num_update * workers.size
        if rule.lr_scheduler is not None:
            sent.lr_scheduler = EveryNth(rule.lr_scheduler, workers.size)
        # The parameters do not go to the servers with the rule.
        sent.set_wd_mult({i: p.wd_mult for i, p in enumerate(self._params)})
        sent.set_lr_mult({i: p.lr_mult for i, p in enumerate(self._params)})
        workers.send_rule(ServerRule(sent, self._stride))
        states = self._states()
        if states:
            self._store.init(list(states), [mx.nd.zeros_like(a) for a in states.values()])
            if workers.rank == 0:
                self._store.push(list(states), list(states.values()))
        workers.meet()

    def _states(self) -> Dict[int, mx.nd.NDArray]:
        """This worker's copies of the rule's state by their keys, made where there are none."""
        states = self._updaters[0].states
        for index, parameter in enumerate(self._params):
            if index not in states:
                states[index] = self._optimizer.create_state_multi_precision(
                    index, parameter.list_data()[0])
        return {state_key(index, slot, self._stride): array for index in self._keys
                for slot, array in enumerate(flat(states[index]))}

    def _exchange(self):
        self._push_gradients()
        self._pull_weights()
        self._optimizer.num_update += 1

    def _update(self, ignore_stale_grad=False):
        """The servers do it."""

    def fetch(self) -> None:
        """Get the weights and the optimiser's state that the servers have now."""
        if not self._started:
            return
        self._workers.meet()
        self._pull_weights()
        states = self._states()
        if states:
            if self._workers.rank == 0:
                self._store.push(list(states), list(states.values()))
            self._workers.meet()
            self._store.pull(list(states), list(states.values()))
        self._workers.meet()
