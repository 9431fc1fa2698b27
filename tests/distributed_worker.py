"""What each worker of the job in test_distributed.py does; its findings go into a folder."""

import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from loops import RECIPE, FakeReader, parameters, random_batches, silent, small_net
from slimmable_cases import small

from igcnet.data.reader import EvalBatch
from igcnet.train import checkpoint, distributed
from igcnet.train.loop import Loop, make_trainer
from igcnet.train.metrics import Scores
from igcnet.train.runlog import RunLog
from igcnet.train.workers import ALONE


def main(folder: Path) -> None:
    workers = distributed.connect('dist_sync')
    rank, size = workers.rank, workers.size
    found = {}

    numbers = np.random.RandomState(0).normal(size=(size, 150)) * 10.0 ** np.arange(150)
    found['gather'] = workers.gather(numbers[rank])
    data = bytes(range(256)) * 2000
    found['broadcast'] = np.frombuffer(workers.broadcast(data if rank == 0 else b''), np.uint8)
    total, second = workers.total(Scores(3, 0.1, 2, 3), Scores(rank, 0.5, rank, rank))
    found['total'] = np.array([total, second])
    found['own scores'] = np.array([workers.own_scores([1, .5, 1, 1, 2, .25, 2, 2]),
                                    workers.own_scores([1, .5, 1, 1])])
    # The answer to a step's question comes with the next step's, and is the same everywhere.
    asked = [(False, False), (rank == 1, False), (False, rank == 0), (False, False), (False, False)]
    found['agree'] = np.array([workers.agree(*each) for each in asked])
    own = folder / ('of %d' % rank)
    own.mkdir()
    (own / 'name').write_text('written by %d' % rank)
    with workers.shared_folder(own) as shared:
        found['shared'] = np.array((shared / 'name').read_text())

    for name, make in NETS.items():
        # Another start on every worker; worker 0's must win.
        net = train(make(1 + rank), workers, folder / ('%s%d' % (name, rank)), **HOW.get(name, {}))
        found.update(('%s:%s' % (name, key), arrays[0]) for key, arrays in parameters(net).items())
    found['checksums'] = np.array([short_run(workers, folder / ('short%d-%d' % (number, rank)))
                                   for number in range(SHORT_RUNS)])

    # From here on nothing but whole thresholds arrives.
    workers.compress_to(0.5)
    workers.start_compressing()
    found['compressed gather'] = workers.gather(numbers[rank])
    found['compressed broadcast'] = np.frombuffer(
        workers.broadcast(data if rank == 0 else b''), np.uint8)
    values = mx.nd.array([0.2, 0.6, -3.0, 0.2])
    workers.store.init(500, values)
    for step in range(3):
        result = mx.nd.zeros(4)
        workers.store.push(500, values.copy())
        workers.store.pull(500, result)
        found['compressed %d' % step] = result.asnumpy()
    net = train(NETS['plain'](1), workers, folder / ('compressed%d' % rank))
    found.update(('compressed:' + key, arrays[0]) for key, arrays in parameters(net).items())
    np.savez(folder / ('%d.npz' % rank), **found)


class NoNormalisation(mx.gluon.nn.HybridSequential):
    """A network that treats each image by itself."""

    classes = 10

    def __init__(self, seed, dtype):
        super().__init__(prefix='')
        mx.random.seed(seed)
        self.add(mx.gluon.nn.Conv2D(8, 3, 2, in_channels=3, activation='tanh', prefix='a_'),
                 mx.gluon.nn.Conv2D(16, 3, 2, in_channels=8, activation='tanh', prefix='b_'),
                 mx.gluon.nn.Flatten(prefix='c_'),
                 mx.gluon.nn.Dense(10, in_units=16 * 7 * 7, prefix='d_'))
        self.cast(dtype)
        self.initialize(mx.init.Xavier())
        self.hybridize(static_alloc=True, static_shape=True)


def slimmable(seed, contexts=None):
    """A small slimmable network."""
    net = small(ctx=contexts)
    net.output.bias.set_data(net.output.bias.data() + seed)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


NETS = {'normalised': lambda seed: small_net([mx.cpu()], seed, 'float64'),
        'plain': lambda seed: NoNormalisation(seed, 'float32'),
        'mutual': slimmable}
STEPS, SHORT_RUNS = 20, 15
MUTUAL = RECIPE.override(method='mutual', method_settings={'resolutions': [32, 20]})
HOW = {'mutual': dict(recipe=MUTUAL, steps=4, validated=True)}


def train(net, workers=ALONE, folder=None, steps=STEPS, contexts=None, recipe=RECIPE,
          validated=False):
    """Train `net`, each worker on its part of the batches, for an epoch; returns it."""
    distributed.start_alike(net, workers)
    dtype = next(iter(net.collect_params().values())).dtype
    size = RECIPE.batch_size // workers.size
    mine = slice(workers.rank * size, (workers.rank + 1) * size)
    batches = [(x[mine].astype(dtype), y[mine] % net.classes) for x, y in random_batches(steps)]
    recipe = recipe.override(num_epochs=1)
    validation = [EvalBatch(*batches[0], np.arange(size))] if validated else None
    trainer = make_trainer(net, recipe, recipe.make_schedule(steps * recipe.batch_size, steps),
                           'device', workers)
    state = checkpoint.State(checkpoint.Position(), 5, 'resnet_igc', {}, None, {})
    Loop(net, contexts or [mx.cpu()], trainer, recipe, FakeReader(batches), validation, state,
         RunLog(folder), workers=workers).run(silent)
    return net


def short_run(workers, folder) -> float:
    """A number that tells whether another run, or another worker, had the same weights."""
    net = train(NoNormalisation(1 + workers.rank, 'float32'), workers, folder, steps=2)
    return sum(float(np.abs(arrays[0].astype(np.float64)).sum())
               for arrays in parameters(net).values())


if __name__ == '__main__':
    main(Path(sys.argv[1]))
