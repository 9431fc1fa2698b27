"""Training methods: what one update does with a batch, from the images to the gradients.

A recipe names its method (``method: plain``) and may set what the method leaves open
(``method_settings``). The loop does the rest: it reads, calls the method, updates the weights,
logs and saves.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon.utils import split_and_load

from igcnet.data.reader import TrainReader
from igcnet.errors import UsageError
from igcnet.train.recipe_values import check_settings
from igcnet.train.recipes import Recipe
from igcnet.train.synchronised import Synchronised
from igcnet.train.targets import soft_targets, soften


class Place(NamedTuple):
    """Where in a run a step stands: its epoch and its number in the epoch, both from 0.

    Everything random in a step is a function of the run's seed and of this, so that a run can be
    resumed anywhere.
    """

    epoch: int
    step: int


class Outcome(NamedTuple):
    """One step whose numbers are still being computed, an entry for each device in each list.

    ``outputs`` are the logits (N, classes) that are scored, ``losses`` the values (N,) that were
    minimised.
    """

    place: Place
    labels: np.ndarray
    outputs: List[mx.nd.NDArray]
    losses: List[mx.nd.NDArray]


class Method:
    """Base class of the training methods; `Plain` shows what one looks like.

    Parameters
    ----------
    net : igcnet.layers.Network
        Initialised on all devices of the run.
    recipe : Recipe
    seed : int
        The run's.
    steps_per_epoch : int

    Attributes
    ----------
    SETTINGS : dict
        Name and default of everything that a recipe's ``method_settings`` can say; a given value
        must have the default's type.
    SCALES_LOSS : bool
        Whether all gradients come from `backward`, which float16 needs.
    loss_scale : float
        Factor of the gradients that `gradients` leaves.
    SYNCHRONISES : bool
        Whether all training passes go through `forward`.
    synchronised : Synchronised, optional
        Makes BN see the whole batch, see `igcnet.train.synchronised`.
    """

    SETTINGS: Dict[str, Any] = {}
    SCALES_LOSS = SYNCHRONISES = False
    loss_scale = 1.0
    synchronised: Optional[Synchronised] = None

    def __init__(self, net, recipe: Recipe, seed: int, steps_per_epoch: int):
        self.net, self.recipe, self.seed = net, recipe, seed
        self.steps_per_epoch = steps_per_epoch
        self.settings = method_settings(recipe)

    @classmethod
    def check_input(cls, recipe: Recipe, input_size: int) -> None:
        """Refuse settings that do not go with images of this height and width.

        Raises
        ------
        UsageError
            The method cannot use such images.
        """

    def gradients(self, place: Place, images: np.ndarray, labels: np.ndarray,
                  contexts: Sequence[mx.Context]) -> Outcome:
        """Leave in the parameters the gradient of the loss, summed over the batch.

        Parameters
        ----------
        images : numpy.ndarray, float32 (N, 3, H, W)
            What the reader gives.
        labels : numpy.ndarray, float32 (N,)
            Class numbers.
        contexts : list of Context
            The devices; each computes an equal part of the batch.
        """
        raise NotImplementedError

    def evaluations(self, reader: TrainReader, epoch: int) -> Iterator[str]:
        """Make the network ready to be evaluated after an epoch, once for each name yielded.

        The numbers of an evaluation are logged as ``val_<name>top1`` and so on; those of the
        name '' are the run's. When the iterator ends the network is as training needs it.

        Parameters
        ----------
        reader : TrainReader
            Of the training images.
        epoch : int
            The finished epoch, from 0.
        """
        yield ''

    def arrays(self) -> Dict[str, np.ndarray]:
        """What the method has learned or counted beside the network, for a checkpoint."""
        return {}

    def set_arrays(self, arrays: Dict[str, np.ndarray]) -> None:
        """Take up again what `arrays` gave."""

    def forward(self, data: Sequence[mx.nd.NDArray]) -> List[mx.nd.NDArray]:
        """The network's outputs for the part of each device, inside ``autograd.record()``."""
        if self.synchronised is not None:
            return self.synchronised(data)
        return [self.net(x) for x in data]

    def backward(self, losses: List[mx.nd.NDArray]) -> None:
        """The backward pass of `losses`, one on each device, times `loss_scale`."""
        heads = None if self.loss_scale == 1 else [
            mx.nd.full(loss.shape, self.loss_scale, loss.context, loss.dtype) for loss in losses]
        autograd.backward(losses, heads)


class Plain(Method):
    """Cross-entropy of the whole network, with the recipe's smoothing and mixing."""

    SCALES_LOSS = SYNCHRONISES = True

    def __init__(self, net, recipe, seed, steps_per_epoch):
        super().__init__(net, recipe, seed, steps_per_epoch)
        self.loss = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=not soft_targets(recipe))
        self.loss.hybridize()

    def targets(self, place: Place, images: Any, labels: Any) -> Tuple[Any, Any]:
        """Images and targets of a step: as they are, or smoothed and mixed."""
        if not soft_targets(self.recipe):
            return images, labels
        return soften(images, labels, self.net.classes, self.recipe, (self.seed, *place))

    def gradients(self, place, images, labels, contexts):
        images, targets = self.targets(place, images, labels)
        data, target = on_devices(contexts, images, targets)
        with autograd.record():
            outputs = self.forward(data)
            losses = [self.loss(y, t) for y, t in zip(outputs, target)]
        self.backward(losses)
        return Outcome(place, labels, outputs, losses)


METHODS: Dict[str, Type[Method]] = {'plain': Plain}


def find_method(name: str) -> Type[Method]:
    """The method of that name.

    Raises
    ------
    UsageError
        There is none; the message lists all.
    """
    _load_methods()
    if name not in METHODS:
        raise UsageError('method=%s: must be one of %s' % (name, ', '.join(METHODS)))
    return METHODS[name]


def _load_methods() -> None:
    # These modules import this one to register themselves.
    import igcnet.train.dgc  # noqa: F401
    import igcnet.train.distillation  # noqa: F401
    import igcnet.train.mutual  # noqa: F401


def method_settings(recipe: Recipe) -> Dict[str, Any]:
    """The settings of a recipe's method, each with its default where the recipe is silent.

    Raises
    ------
    UsageError
        Unknown method or setting, or a value of another type than the default's.
    """
    return check_settings('method_settings', 'method ' + recipe.method,
                          find_method(recipe.method).SETTINGS, recipe.method_settings)


def on_devices(contexts: Sequence[mx.Context], *arrays: np.ndarray) -> List[List[mx.nd.NDArray]]:
    """Each array in equal parts on the devices; on fewer devices if there are fewer images."""
    contexts = contexts[:max(1, min(len(contexts), len(arrays[0])))]
    return [split_and_load(mx.nd.array(array, dtype=array.dtype), contexts, even_split=False)
            for array in arrays]

