import random
from dataclasses import replace

import numpy as np
import pytest

from data.audit.audit_rows import make_material, make_rows
from data.audit.test_triggers import LABELS, topical
from tunewright.data.audit.folds import folds_by_text, label_numbers, out_of_fold, temper
from tunewright.data.audit.label_errors import (
    doubtful_rows,
    estimate_errors,
    find_label_errors,
    rank_labels,
)
from tunewright.data.audit.noise import fit_noise


def flipped(count=800, share=0.1, seed=3):
    rng = random.Random(seed)
    rows = [list(row) for row in topical(count)]
    wrong = rng.sample(range(count), int(share * count))
    for i in wrong:
        rows[i][1] = rng.choice([label for label in LABELS if label != rows[i][1]])
    return make_rows([text for text, _ in rows], [label for _, label in rows]), wrong


def test_flipped_labels_are_found_and_their_rate_estimated():
    rows, wrong = flipped()
    (found,) = find_label_errors(make_material(rows))
    planted = {f"train.csv:{i + 2}" for i in wrong}
    hits = len(planted & set(found.places))
    assert hits >= 0.9 * len(planted) and hits >= 0.85 * len(found.places)
    assert abs(found.details["estimated_rate"] - 0.1) < 0.02
    assert list(found.scores) == sorted(found.scores, reverse=True) and not found.dropped
    truth = dict(
        zip((row.place for row in rows), (label for _, label in topical(800)), strict=True)
    )
    named = [
        (truth[p], s) for p, s in zip(found.places, found.suggestions, strict=True) if p in planted
    ]
    assert np.mean([a == b for a, b in named]) > 0.9


def test_clean_labels_raise_next_to_nothing():
    rows = make_rows(*zip(*topical(2000), strict=True))
    found = find_label_errors(make_material(rows))
    assert sum(len(item.rows) for item in found) <= 20


def test_too_few_rows_or_labels_say_nothing():
    rows, _ = flipped(48)
    assert not find_label_errors(make_material(rows))
    assert not find_label_errors(
        make_material(tuple(replace(row, output="a") for row in flipped()[0]))
    )
    assert not find_label_errors(make_material(flipped()[0], task="generate"))


def test_no_copy_answers_for_its_twin():
    rows = make_rows(["Same text", "same  text!", "other", "more"] * 5, ["a", "b", "a", "b"] * 5)
    labels, names = label_numbers(rows)
    assert names == ["a", "b"]
    folds = folds_by_text(rows, labels, 5, 1)
    assert len({folds[i] for i in range(20) if i % 4 < 2}) == 1


def test_embeddings_join_in():
    rows, wrong = flipped(400)
    _, truth = zip(*topical(400), strict=True)
    middles = np.random.default_rng(1).normal(size=(len(LABELS), 24))
    states = {
        row.input: middles[LABELS.index(label)] + np.random.default_rng(i).normal(size=24)
        for i, (row, label) in enumerate(zip(rows, truth, strict=True))
    }
    embed = lambda texts: np.array([states[t] for t in texts], dtype=np.float32)  # noqa: E731
    both = out_of_fold(make_material(rows, embed=embed), rows)
    alone = out_of_fold(make_material(rows), rows)
    labels = np.array([LABELS.index(label) for label in truth])
    right = np.ones(400, bool)
    right[wrong] = False
    assert (both.argmax(1) == labels)[right].mean() > (alone.argmax(1) == labels)[right].mean()
    assert both.sum(axis=1) == pytest.approx(1)


def test_estimate_of_perfect_probabilities_is_the_truth():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 5, 1000)
    given = true.copy()
    given[:150] = (given[:150] + 1) % 5
    probabilities = np.full((1000, 5), 0.01)
    probabilities[np.arange(1000), true] = 0.96
    assert estimate_errors(probabilities, given) == pytest.approx(150, abs=3)
    order, lead = rank_labels(probabilities, given)
    assert set(order[:150]) == set(range(150)) and (lead[:150] > 0).all() and (lead[150:] < 0).all()


def test_temper_fits_the_labels():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 500)
    scores = rng.normal(size=(500, 3)) * 3
    scores[np.arange(500), labels] += 3
    found = temper(scores, labels)
    assert found.sum(axis=1) == pytest.approx(1)
    agree = found.max(axis=1).mean()
    assert agree == pytest.approx((found.argmax(axis=1) == labels).mean(), abs=0.05)


def test_noise_is_told_from_hardness():
    rng = np.random.default_rng(1)
    hard = rng.dirichlet(np.full(6, 0.4), 4000)
    honest = np.array([rng.choice(6, p=row) for row in hard])
    assert fit_noise(hard, honest).rate < 0.01
    wrong = rng.random(4000) < 0.1
    anywhere = np.where(wrong, rng.integers(0, 6, 4000), honest)
    found = fit_noise(hard, anywhere)
    assert abs(found.anywhere - 0.1) < 0.03 and found.second < 0.02
    assert found.wrong[wrong & (anywhere != honest)].mean() > 3 * found.wrong[~wrong].mean()
    second = np.where(wrong, np.argsort(-hard, axis=1)[:, 1], honest)
    assert abs(fit_noise(hard, second).second - 0.1) < 0.03


def test_hard_classes_alone_name_next_to_no_rows():
    rng = np.random.default_rng(2)
    hard = rng.dirichlet(np.full(8, 0.3), 2000)
    honest = np.array([rng.choice(8, p=row) for row in hard])
    chosen, lead, rate = doubtful_rows(hard, honest)
    # The confident joint alone would name 856 of the 2,000.
    assert estimate_errors(hard, honest) > 400 and len(chosen) <= 20 and rate < 0.04
