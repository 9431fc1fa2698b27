"""Mutual learning from width and resolution (MutualNet).

Source: Yang et al.: MutualNet: Adaptive ConvNet via Mutual Learning from Network Width and
Resolution (ECCV 2020, arXiv 1909.12978); taoyang1122/MutualNet.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple

from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock

from igcnet.data.randomness import uniforms
from igcnet.errors import UsageError
from igcnet.layers import SlimmableNetwork
from igcnet.layers.resolution import at_resolution, check_resolution
from igcnet.train.calibrate import calibrate, first_batches
from igcnet.train.methods import (
    METHODS,
    Method,
    Outcome,
    Place,
    method_settings,
    on_devices,
)
from igcnet.train.targets import soft_targets

# Of the random numbers: see `igcnet.data.randomness`.
STREAM = 3
# MobileNet v1 has 187 different sub-networks in the published range. A graph without memory of
# its own is small.
MOST_GRAPHS = 256
# Rounding can give a layer of very few channels more at a width between than at the widest.
CHECKED_WIDTHS = 200


class SubNetwork(NamedTuple):
    """A width and a resolution."""

    width: float
    resolution: int


class Divergence(HybridBlock):
    """Kullback-Leibler divergence of a softmax from the teacher's.

    Inputs: logits (N, classes), the teacher's logits (N, classes). Outputs: (N,), summed over
    the classes.
    """

    def hybrid_forward(self, F, logits, teacher):
        wanted = F.log_softmax(teacher, axis=1)
        return F.sum(F.exp(wanted) * (wanted - F.log_softmax(logits, axis=1)), axis=1)


class Mutual(Method):
    """The widest network learns the labels, narrower ones at other resolutions learn from it.

    One step, as in the original:

    1. the widest network on the images as they are, with cross-entropy;
    2. for some widths drawn from the whole range, and then the narrowest: the images at a
       resolution drawn for each, with the Kullback-Leibler divergence from the widest network's
       output of this very step, which is not differentiated.

    The gradients of all passes add up, for one update. Widths and resolutions are a function of
    the seed, the epoch and the step, so all devices and workers draw the same. The original
    resizes in the reader; here the device does it, to the resolutions drawn only.

    BN of a pass takes the statistics of its batch. A pass at a listed width moves its running
    statistics; before an evaluation they are calibrated (`igcnet.train.calibrate`).
    """

    SCALES_LOSS = True
    SETTINGS = {'resolutions': (224, 192, 160, 128), 'sampled_widths': 2}

    @classmethod
    def check_input(cls, recipe, input_size):
        largest = max(method_settings(recipe)['resolutions'], default=0)
        if largest > input_size:
            raise UsageError('method_settings: resolutions: %g is more than the %d of the images'
                             % (largest, input_size))

    def __init__(self, net, recipe, seed, steps_per_epoch):
        super().__init__(net, recipe, seed, steps_per_epoch)
        if not isinstance(net, SlimmableNetwork):
            raise UsageError('method=mutual: needs a slimmable network, such as mobilenet_v1_us '
                             '(igcnet list)')
        if soft_targets(recipe):
            raise UsageError('method=mutual: knows neither label_smoothing nor mixup_alpha nor '
                             'cutmix_alpha')
        self.resolutions_drawn = [_whole('resolutions', size, 1)
                                  for size in self.settings['resolutions']]
        self.sampled_widths = _whole('sampled_widths', self.settings['sampled_widths'], 0)
        if not self.resolutions_drawn:
            raise UsageError('method_settings: resolutions: there must be at least one')
        for resolution in self.resolutions_drawn:
            check_resolution(net, resolution)
        low, high = net.width_range
        if not net.has_statistics(high):
            raise UsageError('method=mutual: the widest width, %g, is validated; list it in '
                             'width_mult_list' % high)
        for number in range(CHECKED_WIDTHS):  # now rather than when such a width is drawn
            net.channel_counts(low + (high - low) * number / CHECKED_WIDTHS)
        net.graphs.limit = max(net.graphs.limit, MOST_GRAPHS)
        net.set_width(high)
        for parameter in net.collect_params().values():
            if parameter.grad_req != 'null':
                parameter.grad_req = 'add'
        self.cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
        self.divergence = Divergence()
        for loss in (self.cross_entropy, self.divergence):
            loss.hybridize()

    def draw(self, place: Place) -> List[SubNetwork]:
        """The sub-networks of a step after the widest one, in the order in which they run: from
        the widest to the narrowest of the range."""
        low, high = self.net.width_range
        numbers = uniforms(self.seed, place.epoch, [place.step], 2 * self.sampled_widths + 1,
                           STREAM)[0]
        widths = [low + (high - low) * number for number in numbers[:self.sampled_widths]]
        choices = self.resolutions_drawn
        return [SubNetwork(width, choices[int(len(choices) * number)]) for width, number in zip(
            [*sorted(widths, reverse=True), low], numbers[self.sampled_widths:])]

    def gradients(self, place, images, labels, contexts):
        data, target = on_devices(contexts, images, labels)
        self.net.collect_params().zero_grad()
        with autograd.record():
            outputs = [self.net(x) for x in data]
            losses = [self.cross_entropy(y, t) for y, t in zip(outputs, target)]
        self.backward(losses)
        teachers = [output.detach() for output in outputs]
        for width, resolution in self.draw(place):
            smaller = [at_resolution(x, resolution) for x in data]
            with autograd.record():
                parts = [self.divergence(self.net(x, width=width), teacher)
                         for x, teacher in zip(smaller, teachers)]
            self.backward(parts)
            losses = [total + part.detach() for total, part in zip(losses, parts)]
        return Outcome(place, labels, outputs, losses)

    def evaluations(self, reader, epoch) -> Iterator[str]:
        widest = self.net.width_range[1]
        try:
            # The widest comes last: of BN layers with one set of statistics it then has its own.
            for width in sorted(self.net.listed_widths):
                calibrate(self.net, first_batches(reader, epoch=epoch), width)
                self.net.set_width(width)
                yield '' if width == widest else 'width_%g_' % width
        finally:
            self.net.set_width(widest)


def _whole(name: str, value: float, least: int) -> int:
    if value != int(value) or value < least:
        raise UsageError('method_settings: %s=%r: must be a whole number of at least %d'
                         % (name, value, least))
    return int(value)


METHODS['mutual'] = Mutual
