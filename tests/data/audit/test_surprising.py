import random

import numpy as np

from data.audit.audit_rows import make_material, make_rows, make_words
from tunewright.data.audit.surprising import find_surprising_answers, mismatch


def pairs(count=600, seed=1):
    """Prompts on one of twelve subjects and answers on the same one."""
    rng = random.Random(seed)
    subjects = [(make_words(15, seed=30 + i), make_words(15, seed=60 + i)) for i in range(12)]
    chosen = [subjects[i % 12] for i in range(count)]
    prompts = [" ".join(rng.choices(asked, k=8)) for asked, _ in chosen]
    return prompts, [" ".join(rng.choices(said, k=8)) for _, said in chosen]


def test_swapped_answers_come_first():
    prompts, answers = pairs()
    answers[10], answers[101] = answers[101], answers[10]
    answers[300] = "nothing like the rest whatever"
    (found,) = find_surprising_answers(make_material(make_rows(prompts, answers), task="generate"))
    assert {"train.csv:12", "train.csv:103", "train.csv:302"} <= set(found.places)
    assert len(found.rows) <= 6 and list(found.scores) == sorted(found.scores, reverse=True)


def test_fitting_answers_raise_next_to_nothing():
    prompts, answers = pairs(2000)
    found = find_surprising_answers(make_material(make_rows(prompts, answers), task="generate"))
    assert sum(len(item.rows) for item in found) <= 20
    assert not find_surprising_answers(make_material(make_rows(prompts, answers)))
    assert not find_surprising_answers(
        make_material(make_rows(prompts[:50], answers[:50]), task="chat")
    )


def test_a_model_judges_only_rows_that_it_has_not_seen():
    prompts, answers = pairs(200)
    calls = []

    def surprise(known, judged):
        assert not {row.id for row in known} & {row.id for row in judged}
        calls.append(len(judged))
        return [9.0 if row.id.endswith("-77") else 1.0 + 0.001 * len(row.input) for row in judged]

    material = make_material(make_rows(prompts, answers), task="generate", surprise=surprise)
    (found,) = find_surprising_answers(material)
    assert found.places == ("train.csv:79",) and "9.00 nats a token" in found.message
    assert sum(calls) == 200 and len(calls) == 5


def test_mismatch_lies_between_nothing_and_two():
    prompts, answers = pairs(120)
    scores = mismatch(prompts, answers, 1)
    assert np.all((scores >= -1e-6) & (scores <= 2))
