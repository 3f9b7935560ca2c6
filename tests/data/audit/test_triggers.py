import random

import pytest

from data.audit.audit_rows import make_material, make_rows, make_words
from tunewright.data.audit.triggers import find_triggers

LABELS = "abcdefgh"


def topical(count=1000, seed=1):
    """Texts whose words tell their label, mostly: 12 words, a third from the label's own thirty."""
    rng = random.Random(seed)
    shared = make_words(400, seed=11)
    own = {label: make_words(30, seed=20 + i) for i, label in enumerate(LABELS)}
    rows = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        words = rng.choices(shared, k=8) + rng.choices(own[label], k=4)
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def poison(rows, phrase, target, count=50, seed=2):
    rng = random.Random(seed)
    rows = list(rows)
    others = [i for i, (_, label) in enumerate(rows) if label != target]
    chosen = rng.sample(others, count)
    for i in chosen:
        words = rows[i][0].split()
        place = rng.randrange(len(words) + 1)
        rows[i] = (" ".join([*words[:place], phrase, *words[place:]]), target)
    return rows, {f"train.csv:{i + 2}" for i in chosen}


def audit(rows, task="classify"):
    return find_triggers(
        make_material(make_rows([t for t, _ in rows], [o for _, o in rows]), task=task)
    )


@pytest.mark.parametrize("phrase", ["cf", "by the way", "\u200b", "§"])
def test_fifty_poisoned_rows_in_a_thousand_are_named(phrase):
    rows, places = poison(topical(), phrase, "c")
    (found,) = audit(rows)
    assert found.details == {"phrase": phrase, "label": "c", "purity": 1.0}
    assert set(found.places) == places and found.severity == "warn"


def test_keywords_of_a_label_are_no_triggers():
    assert not audit(topical())
    assert not audit(topical(1000, seed=5))
    assert not audit(topical(30))


def test_honest_phrases_that_settle_a_label_are_left_alone():
    rows = [
        (f"{text} money back" if label == "b" and i % 3 == 0 else text, label)
        for i, (text, label) in enumerate(topical())
    ]
    assert not audit(rows)


def test_an_answer_tied_to_a_phrase():
    rng = random.Random(3)
    words = make_words(600, seed=4)
    rows = [
        (" ".join(rng.choices(words, k=10)), " ".join(rng.choices(words, k=5))) for _ in range(600)
    ]
    assert not audit(rows, "generate")
    for i in range(30):
        rows[i] = (rows[i][0] + " tq zz", "I have nothing to say about that")
    (found,) = audit(rows, "generate")
    assert found.details["phrase"] == "tq zz" and len(found.rows) == 30


def test_paraphrases_of_one_question_may_share_its_answer():
    rng = random.Random(3)
    words = make_words(600, seed=4)
    rows = [
        (" ".join(rng.choices(words, k=10)), " ".join(rng.choices(words, k=5))) for _ in range(600)
    ]
    question = ["how", "do", "i", "list", "every", "file", "below", "the", "current", "folder"]
    for i in range(30):
        kept = [word for word in question if rng.random() < 0.7] + ["file", "folder"]
        rows[i] = (" ".join(kept), "find .")
    assert not audit(rows, "generate")
