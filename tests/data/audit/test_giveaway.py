import random
from dataclasses import replace

from data.audit.audit_rows import make_material, make_rows, make_texts
from tunewright.data.audit.giveaway import find_giveaways, find_known_answers, find_prompts_alike


def labelled(count=300):
    return make_rows(make_texts(count), [("spam", "ham", "egg")[i % 3] for i in range(count)])


def with_column(rows, name, make):
    return tuple(replace(row, columns=((name, make(i, row)),)) for i, row in enumerate(rows))


def test_a_column_that_settles_the_label():
    rng = random.Random(1)
    rows = labelled()
    codes = {"spam": "S1", "ham": "H1", "egg": "E1"}
    (found,) = find_giveaways(
        make_material(with_column(rows, "code", lambda i, row: codes[row.output]))
    )
    assert found.kind == "giveaway_column" and "'code'" in found.message
    numbers = {"spam": 1.0, "ham": 5.0, "egg": 9.0}
    noisy = with_column(rows, "score", lambda i, row: numbers[row.output] + rng.random())
    assert find_giveaways(make_material(noisy))[0].details["share"] == 1.0
    assert not find_giveaways(make_material(with_column(rows, "x", lambda i, row: rng.random())))
    assert not find_giveaways(make_material(with_column(rows, "x", lambda i, row: None)))
    # right in 80 % of the rows: useful, and no giveaway
    mixed = with_column(rows, "hint", lambda i, row: row.output if i % 5 else "?")
    assert not find_giveaways(make_material(mixed))


def test_a_column_that_settles_a_number():
    rows = tuple(replace(row, output=float(i)) for i, row in enumerate(labelled()))
    leaky = with_column(rows, "total", lambda i, row: 3 * row.output + 1)
    (found,) = find_giveaways(make_material(leaky, task="regress"))
    assert found.details["column"] == "total" and found.details["share"] > 0.99
    rng = random.Random(2)
    honest = with_column(rows, "total", lambda i, row: row.output + rng.gauss(0, 60))
    assert not find_giveaways(make_material(honest, task="regress"))


def test_labels_named_in_the_text():
    rows = tuple(replace(row, input=f"[{row.output}] {row.input}") for row in labelled())
    (found,) = find_giveaways(make_material(rows))
    assert found.kind == "giveaway_text" and len(found.rows) == 300
    assert not find_giveaways(make_material(labelled()))


def test_prompts_alike_and_shared_beginnings():
    texts = make_texts(100)
    (same,) = find_prompts_alike(
        make_material(make_rows(["Answer!"] * 60 + texts[:40]), task="generate")
    )
    assert same.kind == "prompts_alike" and len(same.rows) == 60
    prefix = (
        "You are a helpful assistant of a shop for shoes. Answer briefly and kindly, in English. "
        * 2
    )
    (found,) = find_prompts_alike(
        make_material(make_rows([prefix + text for text in texts]), task="generate")
    )
    assert found.kind == "shared_beginning" and found.details["characters"] >= len(prefix)
    assert not find_prompts_alike(make_material(make_rows(texts), task="generate"))


def test_answers_that_training_holds():
    texts = make_texts(60)
    commands = [f"ls -{i % 20}" for i in range(60)]
    train, test = (
        make_rows(texts[:40], commands[:40]),
        make_rows(texts[40:], commands[40:], "test.csv"),
    )
    (found,) = find_known_answers(make_material(train, test, task="generate"))
    assert len(found.rows) == 20 and found.counterparts[0] == "train.csv:2"
    assert "data.group" in found.message
    own = make_rows(texts[40:], [f"mv {i}" for i in range(20)], "test.csv")
    assert not find_known_answers(make_material(train, own, task="generate"))
    assert not find_known_answers(make_material(train, test))
