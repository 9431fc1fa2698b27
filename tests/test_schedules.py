"""Learning rates at their break points."""

import math

import pytest

from igcnet.train.recipes import load_recipe
from igcnet.train.schedules import MultiFactor, MutualNetCosine, WarmupCosine


def test_multi_factor_drops_after_the_threshold():
    schedule = MultiFactor(0.1, 0.1, [10, 20])
    rates = {n: schedule(n) for n in (1, 10, 11, 20, 21, 1000)}
    assert rates == pytest.approx({1: .1, 10: .1, 11: .01, 20: .01, 21: .001, 1000: .001})


def test_schedules_are_pure_functions_of_the_update():
    for schedule in (MultiFactor(0.1, 0.5, [3, 7]), WarmupCosine(0.1, 4, 20),
                     MutualNetCosine(0.1, 20)):
        forward = [schedule(n) for n in range(1, 22)]
        backward = [schedule(n) for n in range(21, 0, -1)]
        assert forward == backward[::-1]


def test_warmup_cosine_reaches_the_target_of_each_stage():
    schedule = WarmupCosine(0.4, 5, 25)
    assert schedule(1) == 0
    assert schedule(3) == pytest.approx(0.2)
    assert schedule(5) == pytest.approx(0.4)
    assert schedule(6) == pytest.approx(0.4)
    assert schedule(25) == pytest.approx(0)
    assert schedule(99) == pytest.approx(0)
    middle = (schedule(15) + schedule(16)) / 2
    assert middle == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize('warmup, total', [(0, 1), (1, 1), (0, 2), (1, 3)])
def test_shortest_runs_have_a_rate(warmup, total):
    schedule = WarmupCosine(0.1, warmup, total)
    assert schedule(1) == pytest.approx(0.1)


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


def test_modern_recipe_warms_up_for_a_share_of_the_epochs():
    recipe = load_recipe('modern').override(num_epochs=20)
    schedule = recipe.make_schedule(640, 10)
    assert max(schedule(n) for n in range(1, 201)) == schedule(10) == pytest.approx(0.1)
    assert schedule(9) < 0.1 and schedule(12) < 0.1


def test_cosine_of_mutualnet_uses_its_first_rate_twice():
    """As PyTorch 1.0's scheduler, whose counter starts at -1, steps after each update."""
    schedule = MutualNetCosine(0.4, 10)
    expected = [0.2 * (1 + math.cos(math.pi * j / 10)) for j in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8)]
    assert [schedule(n) for n in range(1, 11)] == pytest.approx(expected)
    assert schedule(2) == 0.4 and schedule(7) == pytest.approx(0.2) and schedule(10) > 0.03
    assert schedule(99) == pytest.approx(0)
    made = load_recipe('mutualnet-cifar').make_schedule(50000, 391)
    assert made.total == 78200 and made(1) == made(2) == 0.1
    assert load_recipe('mutualnet-imagenet').make_schedule(1281167, 1252).total == 313000
    assert load_recipe('mutualnet-imagenet-resnet').make_schedule(1281167, 2503).total == 300360
