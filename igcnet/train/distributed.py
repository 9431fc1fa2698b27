"""Several processes that train one network: what they tell each other, on MXNet's servers.

With ``dist_sync`` the servers only add: every worker pushes its gradients, pulls their sum and
makes the same update of its own copy. So the optimiser lives in the workers, as in a run of one
process, and its state, the schedule and a changed rate are exact. Push and pull are separate
requests, because after MXNet 1.9.1's combined one (``pushpull``, which ``gluon.Trainer`` uses) the
workers do not always have the sum.

With ``dist_async`` the servers update the weights with each gradient when it comes
(`igcnet.train.server_rule`).
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from igcnet.errors import UsageError
from igcnet.launch.worker import KEPT, RANK_VARIABLE, in_a_job
from igcnet.train.distributed_trainer import AsynchronousTrainer, SynchronousTrainer
from igcnet.train.metrics import Scores
from igcnet.train.server_rule import MESSAGES, ServerRule
from igcnet.train.statistics import WorkersStatistics
from igcnet.train.workers import ALONE, Alone, as_scores

SYNC_STORES = ('dist_sync', 'dist_device_sync')
STORES = SYNC_STORES + ('dist_async',)
# Keys of the store, beside the parameters': of `gather`, of `broadcast`, and of two questions.
ROWS_KEY, ROWS_BITS_KEY, CHUNK_KEY, CHUNK_BITS_KEY, AGREE_KEY, GOOD_KEY = range(
    MESSAGES, MESSAGES + 6)
# Numbers in one message of `Workers.gather`, and bytes in one of `Workers.broadcast`.
NUMBERS, BYTES = 64, 1 << 18
# With dist_async: steps between two meetings, at which a request to stop is heard.
MEETING_STEPS = 10


class Workers(Alone):
    """One of several workers.

    Parameters
    ----------
    store : mxnet.kvstore.KVStore
        A distributed store.
    rank : int
        This worker's number. (The store's own depends on who came first.)
    """

    def __init__(self, store, rank: int):
        self.store, self.rank, self.size = store, rank, store.num_workers
        self.asynchronous = store.type == 'dist_async'
        self._threshold: Optional[float] = None
        # What a 1 is sent as: compressed, nothing else arrives as it was sent.
        self._unit = 1.0
        self._asked: Optional[mx.nd.NDArray] = None
        self._buffers: Dict[int, mx.nd.NDArray] = {}
        self._posted: Dict[int, np.ndarray] = {}
        self._calls = self._taken = 0
        if self.asynchronous:
            self.updates_per_step = self.size
            self.send_rule(ServerRule())

    def store_name(self, asked):
        return self.store.type

    @property
    def servers(self) -> int:
        """Number of servers."""
        return int(os.environ['DMLC_NUM_SERVER'])

    @property
    def compressing(self) -> bool:
        """Whether gradients are exchanged in 2 bits."""
        return self._threshold is not None

    def trainer(self, parameters, rule, kv_store):
        kind = AsynchronousTrainer if self.asynchronous else SynchronousTrainer
        return kind(self, parameters, rule)

    def new_keys(self, count: int) -> List[int]:
        """Keys of the store for so many parameters; the servers never forget one."""
        self._taken += count
        return list(range(self._taken - count, self._taken))

    def send_rule(self, rule: mx.optimizer.Optimizer) -> None:
        """Let the servers update by `rule` from now on."""
        self.meet()
        if self.rank == 0:
            self.store.set_optimizer(rule)
        self.meet()

    def compress_to(self, threshold):
        if self.asynchronous:
            raise UsageError('--gc-type 2bit: goes with --kv-store %s' % ' or '.join(SYNC_STORES))
        self._threshold = threshold

    def start_compressing(self) -> None:
        """From now on what is pushed is compressed, if it is to be at all."""
        if self.compressing:
            self.meet()
            self.store.set_gradient_compression({'type': '2bit', 'threshold': self._threshold})
            # A number arrives as a whole threshold or not at all.
            self._unit = self._threshold
            self.meet()

    def broadcast(self, data):
        length = int(self.gather([len(data)])[0, 0])
        received = []
        for begin in range(0, length, BYTES):
            message = np.zeros(BYTES, np.uint8)
            if self.rank == 0:
                part = np.frombuffer(data[begin:begin + BYTES], np.uint8)
                message[:len(part)] = part
            received.append(self._sum_bytes((CHUNK_KEY, CHUNK_BITS_KEY), message))
        return b''.join(part.tobytes() for part in received)[:length]

    def gather(self, numbers):
        numbers = np.asarray(numbers, np.float64)
        columns = [self._gather(numbers[begin:begin + NUMBERS])
                   for begin in range(0, len(numbers), NUMBERS)]
        return np.concatenate(columns, axis=1)

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        """Each worker fills its own row. As bytes, because the servers round float64."""
        message = np.zeros((self.size, NUMBERS))
        message[self.rank, :len(numbers)] = numbers
        received = self._sum_bytes((ROWS_KEY, ROWS_BITS_KEY), message.view(np.uint8).ravel())
        return received.view(np.float64).reshape(self.size, NUMBERS)[:, :len(numbers)]

    def _sum_bytes(self, keys: Tuple[int, int], message: np.ndarray) -> np.ndarray:
        """The sum of the workers' bytes, of which at most one worker's is not 0 at each place.

        Of the two keys the second is for bits, where only whole thresholds arrive.
        """
        if self._unit == 1:
            return self._post(keys[0], message.astype(np.float32)).astype(np.uint8)
        bits = np.unpackbits(message) * np.float32(self._unit)
        return np.packbits(self._post(keys[1], bits) > self._unit / 2)

    def total(self, *scores):
        rows = self.gather([number for each in scores for number in each])
        return [sum(map(as_scores, part), Scores())
                for part in np.split(rows, len(scores), axis=1)]

    def all_scores(self, scores):
        return self.gather(scores).ravel().tolist()

    def all_good(self, finite, losses, limit):
        if self.asynchronous:
            return finite
        cpu = mx.cpu()
        good = [flag.as_in_context(cpu) for flag in finite]
        for loss in losses:
            total = loss.as_in_context(cpu).sum().reshape(1)
            good.append(mx.nd.multi_all_finite(total, num_arrays=1))
        if limit is not None:
            mean = sum(loss.as_in_context(cpu).sum() for loss in losses) / sum(map(len, losses))
            good.append((mean <= limit).reshape(1))
        bad = sum(1 - flag.astype('float32') for flag in good)
        return [self._sum_later(GOOD_KEY, bad * self._unit) == 0]

    def agree(self, *questions):
        if self.asynchronous:
            self._calls += 1
            if self._calls % MEETING_STEPS:
                return [False] * len(questions)
            return self.gather(questions).any(axis=0).tolist()
        # What was asked in the step before is answered by now, or nearly.
        asked, self._asked = self._asked, self._sum_later(
            AGREE_KEY, mx.nd.array(questions) * self._unit)
        answers = [False] * len(questions) if asked is None else (asked.asnumpy() > 0).tolist()
        if any(answers):
            self._asked = None  # asked again before this answer was there
        return answers

    def stateful(self, net):
        return {'statistics': WorkersStatistics(self, net)}

    def fetch(self, trainer):
        trainer.fetch()

    def synchronise(self, net, trainer):
        trainer.fetch()
        self.average_statistics(net)

    def average_statistics(self, net):
        WorkersStatistics(self, net).average()

    @contextlib.contextmanager
    def shared_folder(self, path):
        packed = io.BytesIO()
        if self.rank == 0:
            with tarfile.open(fileobj=packed, mode='w') as archive:
                for file in sorted(Path(path).iterdir()):
                    archive.add(str(file), file.name)
        files = self.broadcast(packed.getvalue())
        if self.rank == 0:
            yield Path(path)
            return
        with tempfile.TemporaryDirectory(prefix='igcnet-') as folder:
            with tarfile.open(fileobj=io.BytesIO(files)) as archive:
                for member in archive:
                    (Path(folder) / Path(member.name).name).write_bytes(
                        archive.extractfile(member).read())
            yield Path(folder)

    def _sum_later(self, key: int, array: mx.nd.NDArray) -> mx.nd.NDArray:
        """The sum of the workers' arrays, which may still be on its way."""
        # Always through the same array: its uses are what keeps this pull before the next push.
        buffer = self._buffer(key, array)
        buffer[:] = array
        self.store.push(key, buffer)
        self.store.pull(key, buffer)
        return buffer.copy()

    def _post(self, key: int, message: np.ndarray) -> np.ndarray:
        """The sum of the workers' messages of this kind."""
        if not self.asynchronous:
            return self._sum_later(key, mx.nd.array(message)).asnumpy()
        # The servers add each message to what they have: what changed is sent.
        array = mx.nd.array(message - self._posted.get(key, 0))
        self._posted[key] = message
        self._buffer(key, array)
        self.store.push(key, array)
        self.meet()
        self.store.pull(key, array)
        received = array.asnumpy()
        self.meet()
        return received

    def _buffer(self, key: int, like: mx.nd.NDArray) -> mx.nd.NDArray:
        if key not in self._buffers:
            self._buffers[key] = mx.nd.zeros_like(like)
            self.store.init(key, self._buffers[key])
        return self._buffers[key]

    def meet(self) -> None:
        """Wait until every worker is here and all its requests are answered."""
        mx.nd.waitall()
        self.store._barrier()


def connect(kv_store: Optional[str]) -> Alone:
    """The workers of this run.

    Parameters
    ----------
    kv_store : str, optional
        The store that was asked for; default: 'dist_sync' for a worker of a job.

    Raises
    ------
    UsageError
        A distributed store outside a job, or another store in one.
    """
    if not in_a_job():
        if kv_store in STORES:
            raise UsageError('--kv-store %s: this process is not part of a distributed job; start '
                             'one with: python tools/launch.py -n WORKERS python tools/train.py ...'
                             % kv_store)
        return ALONE
    kv_store = kv_store or STORES[0]
    if kv_store not in STORES:
        raise UsageError('--kv-store %s: the workers of a distributed job need one of %s'
                         % (kv_store, ', '.join(STORES)))
    store = mx.kv.create(kv_store)
    workers = Workers(store, int(os.environ.get(RANK_VARIABLE, store.rank)))
    ranks = workers.gather([workers.rank])[:, 0].astype(int).tolist()
    if sorted(ranks) != list(range(workers.size)):
        raise UsageError('%s=%d: the workers must have the numbers 0 to %d, each once'
                         % (RANK_VARIABLE, workers.rank, workers.size - 1))
    KEPT.append(workers)
    return workers


def start_alike(net: gluon.HybridBlock, workers: Alone) -> None:
    """Give every worker the parameters of worker 0; before the first forward pass."""
    if workers.size == 1:
        return
    packed = io.BytesIO()
    if workers.rank == 0:
        np.savez(packed, **{name: parameter.list_data()[0].asnumpy()
                            for name, parameter in net.collect_params().items()})
    with np.load(io.BytesIO(workers.broadcast(packed.getvalue()))) as arrays:
        for name, parameter in net.collect_params().items():
            parameter.set_data(mx.nd.array(arrays[name], dtype=arrays[name].dtype))
    mx.nd.waitall()
