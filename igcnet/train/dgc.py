"""The training method of dynamic group convolution.

Source: Su et al. (ECCV 2020, arXiv 2007.04242); zhuogege1943/dgc (now hellozhuo/dgc). The loss is
the cross-entropy plus ``group_lasso_lambda`` times the sum over the layers of the mean saliency,
and before each step the layers are told how many channels to drop.
"""

from __future__ import annotations

from mxnet import autograd

from igcnet.errors import UsageError
from igcnet.layers.lowering import on_gpu
from igcnet.train.methods import METHODS, Outcome, Plain, on_devices


class DynamicGroups(Plain):
    """Cross-entropy and group lasso, with the original's schedule of inactive channels.

    Without dynamic group convolutions in the network it is `Plain`, so that baselines train by
    the same recipes.

    Raises
    ------
    UsageError
        A negative factor, or another lowering than 'stock' on a GPU.
    """

    SCALES_LOSS = True
    SETTINGS = {'group_lasso_lambda': 1e-5}

    def __init__(self, net, recipe, seed, steps_per_epoch):
        super().__init__(net, recipe, seed, steps_per_epoch)
        if not self.settings['group_lasso_lambda'] >= 0:
            raise UsageError('method_settings: group_lasso_lambda=%g: must be at least 0'
                             % self.settings['group_lasso_lambda'])
        self.steps = recipe.num_epochs * steps_per_epoch
        self.layers = getattr(net, 'dynamic_layers', [])
        if not self.layers:
            return
        if on_gpu(net) and any(layer.lowering != 'stock' for layer in self.layers):
            raise UsageError("--lowering: dynamic group convolutions on a GPU have 'stock' alone")
        self.block = net.with_lasso()

    def gradients(self, place, images, labels, contexts):
        if not self.layers:
            return super().gradients(place, images, labels, contexts)
        progress = (place.epoch * self.steps_per_epoch + place.step) / self.steps
        for layer in self.layers:
            layer.set_progress(progress)
        images, targets = self.targets(place, images, labels)
        data, target = on_devices(contexts, images, targets)
        outputs, losses = [], []
        with autograd.record():
            for x, t in zip(data, target):
                logits, lasso = self.block(x)
                outputs.append(logits)
                losses.append(self.loss(logits, t)
                              + self.settings['group_lasso_lambda'] * lasso.sum(axis=1))
        self.backward(losses)
        return Outcome(place, labels, outputs, losses)


METHODS['dgc'] = DynamicGroups
