import numpy as np
import pytest

from data.audit.audit_rows import make_material, make_rows, make_texts
from data.audit.test_triggers import topical
from tunewright.data.audit.choose import equal_shares, rank_unlabelled, select_subset
from tunewright.data.audit.trial import run_trial
from tunewright.errors import DataError


def rows_of(pairs, name="train.csv"):
    return make_rows([text for text, _ in pairs], [label for _, label in pairs], name)


def test_equal_shares_use_up_small_classes_first():
    assert equal_shares(np.array([100, 2, 50]), 30).tolist() == [14, 2, 14]
    assert equal_shares(np.array([3, 2]), 99).tolist() == [3, 2]


def test_a_subset_covers_every_class_and_is_compared_with_chance():
    pairs = topical(900)
    # one class in ten thousand words of chatter: half of all rows carry label a
    skewed = [(t, label) for i, (t, label) in enumerate(pairs) if label == "a" or i % 3 == 0]
    found = select_subset(
        make_material(rows_of(skewed), rows_of(topical(200, seed=9), "test.csv")),
        most=64,
        repeats=6,
    )
    counts = np.unique([row.output for row in found.rows], return_counts=True)[1]
    assert (
        len(found.rows) == 64 == len({row.id for row in found.rows})
        and counts.max() - counts.min() <= 1
    )
    assert found.trial is not None and found.trial.num_repeats == 6
    assert found.trial.verdict in found.message and 0 < found.trial.random < 1


def test_written_answers_can_be_selected_too():
    texts, answers = make_texts(120), make_texts(120, words_each=4, seed=5)
    found = select_subset(
        make_material(make_rows(texts, answers), task="generate"), most=20, repeats=4
    )
    assert len(found.rows) == 20 and found.trial.verdict == "no better than random"
    with pytest.raises(DataError, match="give a number below it"):
        select_subset(make_material(make_rows(texts, answers), task="generate"), most=120)


def test_rows_to_label_next_are_doubtful_and_spread():
    known = rows_of(topical(400))
    sure = [(text, None) for text, _ in topical(100, seed=2)]
    unclear = [(text, None) for text in make_texts(100, seed=77)]
    asked = rows_of(sure + unclear, "new.csv")
    found = rank_unlabelled(make_material(known), asked, most=30, repeats=4)
    assert len(found.rows) == 30 and list(found.scores) == sorted(found.scores, reverse=True)
    numbers = [int(row.id.rpartition("-")[2]) for row in found.rows]
    assert np.mean([number >= 100 for number in numbers]) > 0.6
    assert found.trial is not None and "random" in found.message
    with pytest.raises(DataError):
        rank_unlabelled(make_material(known), [], most=3)


def test_without_labels_coverage_alone_ranks():
    found = rank_unlabelled(
        make_material(make_rows(make_texts(5))), make_rows(make_texts(50), name="n"), most=5
    )
    assert len(found.rows) == 5 and found.trial is None


def right(known, held):
    return np.isin(held % 10, known % 10).astype(float)


def test_a_trial_knows_better_same_and_worse():
    def covering(pool, repeat):
        return pool[np.unique(pool % 10, return_index=True)[1]]

    def narrow(pool, repeat):
        return pool[pool % 10 == 3][:10]

    def chance(pool, repeat):
        return np.random.default_rng([99, repeat]).choice(pool, 10, replace=False)

    verdicts = [run_trial(way, right, 1000, 10).verdict for way in (covering, narrow, chance)]
    assert verdicts == ["better than random", "worse than random", "no better than random"]
    fixed = run_trial(covering, right, 1000, 10, judged=np.arange(900, 1000))
    assert fixed.verdict == "better than random" and "10 chosen rows" in fixed.sentence()


def test_a_trial_of_chance_against_chance_rarely_claims_anything():
    def chance(seed):
        return lambda pool, repeat: np.random.default_rng([seed, repeat]).choice(
            pool, 10, replace=False
        )

    claims = [run_trial(chance(s), right, 500, 10, seed=s).verdict for s in range(40)]
    assert sum(claim != "no better than random" for claim in claims) <= 4
