"""Scores against values worked out by hand."""

import math

import numpy as np
import pytest

from igcnet.train.metrics import Scores, score, softmax


def test_scores_by_hand():
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]))
    scores = score(logits, np.array([2.0, 1.0]))
    assert scores.count == 2 and scores.top1 == 1 and scores.top5 == 2
    assert scores.loss == pytest.approx(-math.log(0.7) - math.log(0.3))


def test_top5_counts_ranks_and_ties_like_argmax():
    logits = np.arange(8, dtype=np.float32)[None].repeat(8, axis=0)
    scores = score(logits, np.arange(8))
    assert (scores.top1, scores.top5) == (1, 5)
    tie = np.zeros((3, 3), np.float32)
    assert score(tie, np.arange(3)).top1 == 1 == (tie.argmax(axis=1) == np.arange(3)).sum()


def test_sums_are_exact_for_uneven_batches():
    draw = np.random.RandomState(0)
    logits, labels = draw.normal(size=(23, 7)), draw.randint(7, size=23)
    whole = score(logits, labels)
    parts = sum((score(logits[i:i + 5], labels[i:i + 5]) for i in range(0, 23, 5)), Scores())
    assert parts.loss == pytest.approx(whole.loss)
    assert (parts.count, parts.top1, parts.top5) == (whole.count, whole.top1, whole.top5)
    assert parts.means()['top1'] == whole.top1 / 23


def test_extreme_logits():
    assert score(np.array([[1000.0, -1000.0]]), np.array([1])).loss == pytest.approx(
        -math.log(np.finfo(np.float32).eps))
    broken = score(np.array([[np.nan, 0.0]]), np.array([0]))
    assert math.isnan(broken.loss) and broken.top1 == 0
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4]])), 0.5)


def test_no_images_is_no_division_by_zero():
    assert Scores().means() == {'loss': 0, 'top1': 0, 'top5': 0}
