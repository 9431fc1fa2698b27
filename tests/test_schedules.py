"""Learning rates at their break points."""

import math
import pickle

import numpy as np
import pytest

from igcnet._gluoncv import import_gluoncv
from igcnet.errors import UsageError
from igcnet.train.recipes import Recipe, load_recipe
from igcnet.train.schedules import Cosine, EpochFactor, MultiFactor, Polynomial, Warmup

SCHEDULES = [MultiFactor(0.1, 0.5, [3, 7]), EpochFactor(0.1, 0.5, [1, 2.5], 4), Cosine(0.1, 19),
             Cosine(0.1, 20, 2), Polynomial(0.1, 20, 2), Warmup(4, Cosine(0.1, 16), True)]


def recipe(**values):
    return Recipe('test', **{**dict(num_epochs=10, batch_size=8, lr=0.4), **values})


def rates(schedule, *updates):
    return [schedule(n) for n in updates]


def test_multi_factor_drops_after_the_threshold():
    schedule = MultiFactor(0.1, 0.1, [10, 20])
    found = {n: schedule(n) for n in (1, 10, 11, 20, 21, 1000)}
    assert found == pytest.approx({1: .1, 10: .1, 11: .01, 20: .01, 21: .001, 1000: .001})


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: type(s).__name__)
def test_schedules_are_pure_functions_of_the_update_and_can_be_sent(schedule):
    forward = [schedule(n) for n in range(1, 25)]
    backward = [schedule(n) for n in range(24, 0, -1)]
    assert forward == backward[::-1]
    assert [pickle.loads(pickle.dumps(schedule))(n) for n in range(1, 25)] == forward
    assert len(set(forward)) > 2


def test_epoch_factor_drops_at_the_first_update_of_an_epoch():
    schedule = EpochFactor(1.0, 0.1, [2, 4.5], 10)
    assert rates(schedule, 1, 20, 21, 50, 51) == pytest.approx([1, 1, .1, .1, .01])


def test_cosine_equals_gluoncv():
    utils = import_gluoncv('gluoncv.utils')
    theirs = utils.LRScheduler('cosine', 0.4, 0, niters=25)
    ours = recipe(num_epochs=5, schedule='cosine').make_schedule(40, 5)
    for n in range(1, 40):
        assert ours(n) == pytest.approx(theirs(n - 1), abs=1e-15)
    assert ours(25) == 0 and ours(1) == 0.4
    assert ours(13) == pytest.approx(0.2)


def test_cosine_of_dgc_never_reaches_zero():
    # lr = 0.5 * base * (1 + cos(pi * p)), p = (epoch * batches + i) / (epochs * batches)
    schedule = recipe(num_epochs=3, lr=0.1, schedule='cosine-torch').make_schedule(50, 7)
    for epoch in range(3):
        for i in range(7):
            p = (epoch * 7 + i) / 21
            assert schedule(epoch * 7 + i + 1) == pytest.approx(
                0.5 * 0.1 * (1 + math.cos(math.pi * p)), rel=1e-12)
    assert schedule(21) > 0


def test_cosine_of_mutualnet_uses_the_first_rate_twice():
    # Iterations from 0: j = 0 for the first two, then i - 1. MobileNets: 1252 * 250 iterations.
    schedule = recipe(num_epochs=250, lr=0.5, batch_size=1024,
                      schedule='cosine-torch-1.0').make_schedule(1281167, 1252)
    total = 313000

    def original(i):
        return 0.5 / 2 * (1 + math.cos(math.pi * max(0, i - 1) / total))
    for i in (0, 1, 2, 3, 156499, 156500, 156501, total - 2, total - 1):
        assert schedule(i + 1) == pytest.approx(original(i), rel=1e-9)
    assert schedule(1) == schedule(2) == 0.5 > schedule(3)


def test_polynomial():
    schedule = recipe(num_epochs=2, lr=1.0, schedule='poly', lr_power=2.0).make_schedule(40, 5)
    assert rates(schedule, 1, 5, 10, 11) == pytest.approx([.81, .25, 0, 0])


@pytest.mark.parametrize('kind, after', [
    ('cosine', [0.4, 0]), ('steps', [0.04, 0.04]), ('steps-torch', [0.04, 0.04])])
def test_warm_up_rises_to_the_base_rate(kind, after):
    schedule = recipe(schedule=kind, warmup_epochs=2, num_epochs=10, lr_steps=(2,)).make_schedule(
        40, 5)
    assert rates(schedule, 1, 4, 10) == pytest.approx([0, 0.4 * 3 / 9, 0.4])
    assert rates(schedule, 11, 50) == pytest.approx(after)


def test_warm_up_does_not_move_the_drops():
    plain = recipe(lr_steps=(4, 6))
    schedules = [r.make_schedule(44, 6) for r in (plain, plain.override(warmup_epochs=1))]
    assert rates(schedules[0], *range(7, 60)) == rates(schedules[1], *range(7, 60))
    assert schedules[1](20) == 0.4 and schedules[1](21) == pytest.approx(0.04)  # 44 // 8 * 4


@pytest.mark.parametrize('kind', ['cosine', 'cosine-torch', 'cosine-torch-1.0', 'poly', 'steps',
                                  'steps-torch'])
@pytest.mark.parametrize('warmup', [0, 1e-9])
def test_shortest_runs_have_a_rate(kind, warmup):
    schedule = recipe(num_epochs=1, schedule=kind, warmup_epochs=warmup).make_schedule(1, 1)
    assert schedule(1) == pytest.approx(0.4 if kind != 'poly' else 0)


def test_original_cifar_thresholds_count_whole_batches():
    # 50000 // 64 = 781 updates an epoch for the schedule, although an epoch has 782 batches.
    schedule = load_recipe('igc-cifar').make_schedule(50000, 782)
    assert schedule.steps == [781 * 200, 781 * 300, 781 * 350]
    assert schedule(781 * 200) == pytest.approx(0.1)
    assert schedule(781 * 200 + 1) == pytest.approx(0.01)


def test_original_svhn_and_imagenet_thresholds():
    svhn = load_recipe('igc-svhn').make_schedule(604388, 9444)
    assert svhn.steps == [9443 * 20, 9443 * 30, 9443 * 35]
    imagenet = load_recipe('igc-imagenet').make_schedule(1281167, 5005)
    assert imagenet.steps == [5004 * 30, 5004 * 60, 5004 * 90]
    other = load_recipe('igc-imagenet-train-model').make_schedule(1281167, 20019)
    assert other.steps == [20018 * 50, 20018 * 75, 20018 * 87]


def test_igcv3_imagenet_drops_every_epoch_by_mxnets_count():
    size = 1281167 // 96  # 13345, although an epoch has 13346 batches
    schedule = load_recipe('igcv3-imagenet').make_schedule(1281167, 13346)
    assert len(schedule.steps) == 479
    for epoch in (1, 2, 300, 479):
        assert schedule(size * epoch) == pytest.approx(0.045 * 0.98 ** (epoch - 1))
        assert schedule(size * epoch + 1) == pytest.approx(0.045 * 0.98 ** epoch)


def test_igcv3_cifar_drops_every_epoch_exactly():
    batches = 321  # 50000 images in batches of 156, the last one short
    schedule = load_recipe('igcv3-cifar100').make_schedule(50000, batches)
    for epoch in (0, 1, 2, 400, 799):
        for n in (epoch * batches + 1, (epoch + 1) * batches):
            assert schedule(n) == pytest.approx(0.1 * 0.98 ** epoch)


def test_menet_drops_where_its_scheduler_was_meant_to():
    batches = 5005
    schedule = load_recipe('menet-sgd-120-nesterov').make_schedule(1281167, batches)
    for epoch in (0, 29, 30, 59, 60, 89, 90, 119):  # a scheduler of today drops at 29, 59, 89
        for n in (epoch * batches + 1, (epoch + 1) * batches):
            assert schedule(n) == pytest.approx(0.1 * 0.1 ** (epoch // 30))
    rmsprop = load_recipe('menet-rmsprop').make_schedule(1281167, batches)
    for epoch in (0, 1, 2, 3, 98, 99):
        assert rmsprop(epoch * batches + 1) == pytest.approx(0.045 * 0.94 ** (epoch // 2))


@pytest.mark.parametrize('epochs', [5, 300])
def test_multistep_of_dgc_starts_at_the_first_epoch_not_below_the_fraction(epochs):
    schedule = recipe(num_epochs=epochs, lr=0.1, schedule='steps-torch',
                      lr_steps=(0.5, 0.75)).make_schedule(50000, 10)
    for epoch in range(epochs):
        factor = 1 if epoch < 0.5 * epochs else 0.1 if epoch < 0.75 * epochs else 0.01
        assert schedule(epoch * 10 + 1) == pytest.approx(0.1 * factor), epoch


def test_torch_schedulers_give_the_same_rates():
    torch = pytest.importorskip('torch')
    weight = torch.nn.Parameter(torch.zeros(1))
    batches, epochs = 3, 8
    total = batches * epochs
    cases = [
        (recipe(num_epochs=epochs, schedule='steps-torch', lr_steps=(2, 5)), True,
         lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5], 0.1)),
        (recipe(num_epochs=epochs, schedule='steps-torch', lr_epoch_step=1, lr_factor=0.9), True,
         lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        (recipe(num_epochs=epochs, schedule='cosine-torch'), False,
         lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total))]
    for ours, each_epoch, make in cases:
        optimizer = torch.optim.SGD([weight], lr=0.4)
        theirs, found = make(optimizer), []
        for step in range(total):
            found.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            if not each_epoch or step % batches == batches - 1:
                theirs.step()
        schedule = ours.make_schedule(24, batches)
        np.testing.assert_allclose([schedule(n + 1) for n in range(total)], found, rtol=1e-9)


def test_modern_recipe_warms_up_for_a_share_of_the_epochs():
    schedule = load_recipe('modern').override(num_epochs=20).make_schedule(640, 10)
    assert max(schedule(n) for n in range(1, 201)) == schedule(10) == pytest.approx(0.1)
    assert schedule(9) < 0.1 and schedule(12) < 0.1


def test_the_rate_scales_with_the_batch_when_asked():
    for batch, rate in ((256, 0.1), (64, 0.025), (1024, 0.4)):
        scaled = recipe(lr=0.1, batch_size=batch, lr_per=256)
        assert scaled.rate == pytest.approx(rate)
        assert scaled.make_schedule(2048, 8)(1) == pytest.approx(rate)
    assert recipe(lr=0.1, batch_size=64).rate == 0.1
    with pytest.raises(UsageError, match='lr_per=-1'):
        recipe(lr_per=-1)
