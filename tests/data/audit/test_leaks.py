import random

import numpy as np
import pytest

from data.audit.audit_rows import make_material, make_rows, make_texts
from tunewright.data.audit.closeness import closeness, edits, split_words
from tunewright.data.audit.leaks import find_near_leaks, most_alike
from tunewright.records import Prediction


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [("card", "card", 0), ("card", "crad", 1), ("card", "car", 1), ("card", "cards", 1), ("card", "bird", 2),
     ("environment", "xenvironmenz", 2), ("abc", "xyz", 3), ("", "ab", 2), ("a", "abcd", 3)],
)  # fmt: skip
def test_edits(first, second, wanted):
    assert edits(first, second) == edits(second, first) == wanted


def one(first, second):
    return float(closeness([first], [second], np.array([[0, 0]]))[0])


def test_closeness_of_single_changes():
    text = "where can i find the card that you sent me"
    assert one(text, text.upper()) == 1.0
    assert one("hello there " + text, text) == pytest.approx(1 - 1.0 / 12**0.5)
    assert one(text.replace("find ", ""), text) == pytest.approx(1 - 1.0 / 10**0.5)
    assert one(text.replace("find", "fnid"), text) == pytest.approx(1 - 0.15 / 10**0.5)
    # "lose" for "find" leaves one word out and puts another in, at the least.
    assert one(text.replace("find", "lose"), text) == pytest.approx(1 - 2.0 / 10**0.5)
    assert one("something else", text) == 0.0


def test_closeness_is_symmetric_whatever_the_lengths():
    texts = make_texts(40, words_each=6) + ["", "x"] + make_texts(3, words_each=30)
    changed = [text[:3] + text[4:] for text in texts]
    pairs = np.array([(i, j) for i in range(len(texts)) for j in range(len(texts))])
    there, back = closeness(texts, changed, pairs), closeness(changed, texts, pairs[:, ::-1])
    assert there == pytest.approx(back, abs=1e-6)
    assert np.all((there >= 0) & (there <= 1))


def test_scripts_without_spaces_are_compared_sign_by_sign():
    assert split_words("猫が 好き") == ["猫", "が", "好", "き"]
    assert one("私は猫がとても好きです", "私は猫が好きです") == pytest.approx(1 - 1.6 / 11**0.5)


def leaky():
    texts = make_texts(400, seed=8)
    rng = random.Random(1)
    held = texts[:60]
    words = [text.split() for text in held]
    dropped = [" ".join(w[:k] + w[k + 1 :]) for w in words[:20] for k in [rng.randrange(12)]]
    greeted = [f"Hello there, {text}" for text in held[20:40]]
    slipped = [text[:14] + "q" + text[15:] for text in held[40:60]]
    train = make_rows(texts[60:] + dropped + greeted + slipped)
    return make_material(train, make_rows(held, name="test.csv"))


def test_planted_leaks_stand_on_the_review_list_with_their_twins():
    (found,) = find_near_leaks(leaky())
    assert found.kind == "near_leak" and not found.dropped
    pairs = dict(zip(found.places, found.counterparts, strict=True))
    wanted = {f"train.csv:{342 + i}": f"test.csv:{2 + i}" for i in range(60)}
    assert len(set(wanted.items()) & set(pairs.items())) >= 54
    assert len(pairs) <= 61
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_scores_with_and_without_suspects():
    material = leaky()
    guessed = [
        Prediction(row.id, "test", "tuned", row.input, "a", "a" if i < 40 else "b")
        for i, row in enumerate(material.test)
    ]
    (found,) = find_near_leaks(
        make_material(material.train, material.test, predictions={"tuned": guessed})
    )
    score = found.details["scores"]["tuned"]
    assert score["all"] == pytest.approx(40 / 60)
    assert "with them" in found.message and score["num_suspects"] >= 54


def test_unlike_splits_raise_nothing():
    texts = make_texts(3000, seed=9)
    assert not find_near_leaks(
        make_material(make_rows(texts[:2000]), make_rows(texts[2000:], name="test.csv"))
    )
    assert not find_near_leaks(
        make_material(make_rows(["a b"]), make_rows(["", "??"], name="test.csv"))
    )


def test_meaning_alone_can_be_a_leak():
    texts = make_texts(20)
    states = {text: np.eye(20, dtype=np.float32)[i % 10] for i, text in enumerate(texts)}
    material = make_material(
        make_rows(texts[:10]), make_rows(texts[10:], name="test.csv"),
        embed=lambda asked: np.stack([states[text] for text in asked]),
    )  # fmt: skip
    (found,) = find_near_leaks(material)
    assert (
        len(found.rows) == 10
        and found.places[0] == "train.csv:2"
        and found.counterparts[0] == "test.csv:2"
    )


def test_each_held_row_keeps_its_most_alike_partners():
    owners = np.repeat([3, 7, 9], [150, 2, 120])
    agreement = np.concatenate([np.linspace(0.3, 0.9, 150), [0.1, 0.5], np.linspace(0.9, 0.3, 120)])
    kept = most_alike(owners, agreement)
    assert np.bincount(owners[kept]).tolist() == [0, 0, 0, 100, 0, 0, 0, 1, 0, 100]
    assert agreement[kept[owners[kept] == 3]].min() == agreement[50] and 150 not in kept
