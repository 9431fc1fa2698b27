"""Distillation: a network learns from the labels and from another network's probabilities."""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd

from igcnet._gluoncv import import_gluoncv
from igcnet.errors import UsageError
from igcnet.registry import get_model, get_spec
from igcnet.train.methods import METHODS, Outcome, Plain, on_devices
from igcnet.train.pretrained import load_weights
from igcnet.train.targets import soft_targets


class Distillation(Plain):
    """GluonCV's loss for distillation::

        hard_weight * CE(labels, y) + (1 - hard_weight) * T^2 * CE(softmax(z / T), softmax(y / T))

    with y the logits of the network, z those of the teacher for the same images, and T the
    temperature. The teacher is in inference mode and is not trained. Smoothed and mixed labels
    are those of the recipe; the teacher sees the mixed images.

    Source: Hinton, Vinyals, Dean: Distilling the knowledge in a neural network (arXiv 1503.02531);
    ``gluoncv.loss.DistillationSoftmaxCrossEntropyLoss``.
    """

    SETTINGS = {'teacher': '', 'teacher_params': '', 'teacher_settings': {}, 'temperature': 4.0,
                'hard_weight': 0.5}

    def __init__(self, net, recipe, seed, steps_per_epoch):
        super().__init__(net, recipe, seed, steps_per_epoch)
        given = self.settings
        for key, option in (('teacher', '--teacher NETWORK'),
                            ('teacher_params', '--teacher-params FILE')):
            if not given[key]:
                raise UsageError('method=distillation: %s is missing' % option)
        if not given['temperature'] > 0:
            raise UsageError('method_settings: temperature=%g: must be greater than 0'
                             % given['temperature'])
        if not 0 <= given['hard_weight'] <= 1:
            raise UsageError('method_settings: hard_weight=%g: must be from 0 to 1'
                             % given['hard_weight'])
        try:
            self.teacher = get_model(given['teacher'], **{'classes': net.classes,
                                                          **given['teacher_settings']})
        except TypeError as problem:
            raise UsageError('method_settings: teacher_settings: %s' % problem) from None
        if self.teacher.classes != net.classes:
            raise UsageError('--teacher %s: it has %d classes, the network has %d'
                             % (given['teacher'], self.teacher.classes, net.classes))
        contexts = net.output.weight.list_ctx()
        self.teacher.initialize(mx.init.Zero(), ctx=contexts)
        load_weights(self.teacher, get_spec(given['teacher']), given['teacher_params'], contexts)
        self.teacher.cast(net.output.weight.dtype)
        self.teacher.hybridize(static_alloc=True, static_shape=True)
        self.loss = import_gluoncv('gluoncv.loss').DistillationSoftmaxCrossEntropyLoss(
            given['temperature'], given['hard_weight'], sparse_label=not soft_targets(recipe))
        self.loss.hybridize()

    def gradients(self, place, images, labels, contexts):
        if self.teacher.fixed_input_size and images.shape[2] != self.teacher.input_size:
            raise UsageError('--teacher %s: needs %dx%d images, these have %dx%d' % (
                self.settings['teacher'], self.teacher.input_size, self.teacher.input_size,
                *images.shape[2:]))
        images, targets = self.targets(place, images, labels)
        data, target = on_devices(contexts, images, targets)
        temperature = self.settings['temperature']
        soft = [mx.nd.softmax(self.teacher(x) / temperature) for x in data]
        with autograd.record():
            outputs = self.forward(data)
            losses = [self.loss(y, t, s) for y, t, s in zip(outputs, target, soft)]
        self.backward(losses)
        return Outcome(place, labels, outputs, losses)


METHODS['distillation'] = Distillation
