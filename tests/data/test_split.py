import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunewright.data.clean import normalise, notice_duplicates, number_ids
from tunewright.data.examples import content_id
from tunewright.data.split import assign_sides, choose_rows, remove_leaks, split_examples
from tunewright.errors import DataError
from tunewright.records import Example, Span
from tunewright.sections import DataSection

SHARES = {"validation": 0.1, "test": 0.1}


def make(text, output="x", group=None, place="d:1"):
    example = Example(id="", place=place, input=text, output=output, group=group)
    return Example(id=content_id(example), place=place, input=text, output=output, group=group)


def rows_by_class(sizes):
    return [make(f"text {label} {i}", label) for label, size in sizes.items() for i in range(size)]


def sides_of(examples, seed=17, shares=None):
    return dict(
        zip((e.id for e in examples), assign_sides(examples, shares or SHARES, seed), strict=True)
    )


texts = st.text(alphabet="aAbB .!é", max_size=4)
rows = st.lists(
    st.tuples(texts, st.sampled_from("xyz"), st.one_of(st.none(), st.sampled_from("ghij"))),
    min_size=3,
    max_size=60,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows, st.randoms(use_true_random=False), st.integers(0, 5))
def test_no_text_or_group_on_two_sides_and_order_plays_no_part(raw, shuffler, seed):
    examples = number_ids(make(text, label, group) for text, label, group in raw)
    try:
        sides = assign_sides(examples, SHARES, seed)
    except DataError as error:
        assert "different rows or groups" in str(error)
        return
    for key in (lambda e: normalise(e.input), lambda e: e.group):
        seen: dict[str, str] = {}
        for example, side in zip(examples, sides, strict=True):
            if key(example) is not None:
                assert seen.setdefault(key(example), side) == side
    shuffled = list(examples)
    shuffler.shuffle(shuffled)
    again = assign_sides(shuffled, SHARES, seed)
    before = {e.id: s for e, s in zip(examples, sides, strict=True)}
    assert before == {e.id: s for e, s in zip(shuffled, again, strict=True)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 9))
def test_shares_are_met_within_a_row_or_two_in_every_class(sizes, seed):
    examples = rows_by_class({f"c{i}": size for i, size in enumerate(sizes)})
    if len(examples) < 3:
        return
    sides = assign_sides(examples, SHARES, seed)
    counts = Counter((e.output, s) for e, s in zip(examples, sides, strict=True))
    for number, size in enumerate(sizes):
        for side, share in SHARES.items():
            assert abs(counts[f"c{number}", side] - share * size) <= 2
        if size >= 2:
            assert counts[f"c{number}", "train"] >= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdef"), max_size=3), min_size=5, max_size=80))
def test_several_labels_a_row_keep_each_label_in_training(labels):
    examples = [make(f"row number {i}", tuple(sorted(names))) for i, names in enumerate(labels)]
    sides = assign_sides(examples, SHARES, 17)
    # One row of each label stays in training; what is left can be held back.
    if len(examples) - len({label for names in labels for label in names}) >= 4:
        assert {"train", "validation", "test"} == set(sides)
    for label in "abcdef":
        held = [s for e, s in zip(examples, sides, strict=True) if label in e.output]
        assert not held or "train" in held


def test_large_groups_are_balanced_whole():
    draw = random.Random(3)
    examples = [
        make(f"text {i}", "ab"[draw.random() < 0.3], f"g{draw.randrange(60)}") for i in range(1200)
    ]
    sides = assign_sides(examples, SHARES, 17)
    sizes = Counter(sides)
    assert abs(sizes["test"] - 120) <= 25 and abs(sizes["validation"] - 120) <= 25
    share = Counter(s for e, s in zip(examples, sides, strict=True) if e.output == "b")
    assert abs(share["test"] / sizes["test"] - share["train"] / sizes["train"]) < 0.1


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    examples = rows_by_class({"a": 50, "b": 50})
    assert sides_of(examples) == sides_of(examples)
    assert sides_of(examples, seed=1) != sides_of(examples, seed=2)


def test_numbers_are_stratified_by_quantile():
    examples = [make(f"row {i}", float(i)) for i in range(1000)]
    sides = assign_sides(examples, SHARES, 17)
    held = sorted(e.output for e, s in zip(examples, sides, strict=True) if s == "test")
    assert len(held) == 100
    assert all(9 <= sum(low <= v < low + 100 for v in held) <= 11 for low in range(0, 1000, 100))


def test_spans_are_stratified_by_label():
    names = ["DATE"] * 50 + ["RARE"] * 10
    examples = [make(f"row number {i}", (Span(0, 3, name),)) for i, name in enumerate(names)]
    sides = assign_sides(examples, SHARES, 17)
    assert sum(s == "test" for s in sides[50:]) == 1


def test_too_few_rows_are_refused_with_a_remedy():
    with pytest.raises(
        DataError, match="only 2 different rows or groups for train and validation and test"
    ):
        assign_sides([make("a"), make("A!"), make("b")], SHARES, 17)
    with pytest.raises(DataError, match="leave some for training"):
        assign_sides(rows_by_class({"a": 9}), {"validation": 0.5, "test": 0.5}, 17)


def test_three_rows_fill_three_sides():
    assert sorted(assign_sides(rows_by_class({"a": 3}), SHARES, 17)) == [
        "test",
        "train",
        "validation",
    ]


def test_no_shares_leave_everything_in_training():
    splits = split_examples(rows_by_class({"a": 5}), DataSection(validation=0.0, test=0.0))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 0, 0)


def test_rows_that_stand_in_the_test_file_leave_training():
    held = [make("Where is my card?", "a", place="t:1"), make("other", "b", "g1", place="t:2")]
    train = [
        make("where is MY card", "a", place="d:1"),
        make("something", "a", "g1", place="d:2"),
        *(make(f"own text {i}", "ab"[i % 2], place=f"d:{i}") for i in range(3, 40)),
    ]
    splits = split_examples(train, DataSection(), test=held)
    assert splits.test == tuple(held)
    ids = {e.id for e in (*splits.train, *splits.validation)}
    assert train[0].id not in ids and train[1].id not in ids and len(ids) == 37
    leaks = {f.kind: f for f in splits.findings if f.dropped}
    assert leaks["leak_text"].places == ("d:1",) and leaks["leak_text"].counterparts == ("t:1",)
    assert leaks["leak_group"].places == ("d:2",)


def test_test_file_wins_over_validation_file_and_both_over_training():
    same = [make("same text", "a", place=f"f:{i}") for i in range(3)]
    own = rows_by_class({"a": 4, "b": 4})
    splits = split_examples(
        [same[0], *own],
        DataSection(),
        validation=[same[1], make("v only", "a")],
        test=[same[2], make("t only", "b")],
    )
    assert len(splits.test) == 2
    assert [e.input for e in splits.validation] == ["v only"]
    assert len(splits.train) == 8


def test_training_that_stands_in_test_altogether_is_refused():
    with pytest.raises(DataError, match="every training row stands in the test or validation file"):
        split_examples([make("a")], DataSection(), test=[make("A!")])


def test_tiny_classes_are_reported():
    splits = split_examples(rows_by_class({"big": 60, "tiny": 2}), DataSection())
    kinds = {finding.kind: finding.message for finding in splits.findings}
    assert "tiny (" in kinds["tiny_class"]
    assert "label_not_judged" in kinds


def test_max_rows_chooses_by_content():
    examples = rows_by_class({"a": 50})
    chosen = choose_rows(examples, 10, 17)
    assert {e.id for e in chosen} == {e.id for e in choose_rows(examples[::-1], 10, 17)}
    assert len(chosen) == 10


def test_normalised_text():
    assert normalise("Where is  my CARD?!") == normalise("where is my card")
    assert normalise("ﬁne ①") == normalise("Fine 1")
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("काम") != normalise("कम")
    assert normalise("!!!") != normalise("???")
    assert normalise("!!!") == normalise("!!!")


REAL = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data here; set TUNEWRIGHT_DATA")
def test_sms_copies_stand_on_one_side_and_banking_leaks_are_found():
    from tunewright.data.columns import find_layout, make_example
    from tunewright.data.formats import read_rows

    def read(name):
        found = list(read_rows(str(REAL / name)))
        layout = find_layout(found, DataSection(), None)
        return number_ids(make_example(place, row, layout, DataSection()) for place, row in found)

    sms = read("sms_spam/SMSSpamCollection")
    assert len(sms) - len({e.input for e in sms}) == 403
    counts = {f.kind: f for f in notice_duplicates(sms)}
    assert len(counts["duplicate_exact"].rows) == 403
    equal = counts["duplicate_text"].details
    assert (equal["exact"], equal["words"], equal["letters"]) == (403, 444, 446)
    keys = [normalise(e.input) for e in sms]
    assert len(keys) - len(set(keys)) >= 444
    sides = assign_sides(sms, SHARES, 17)
    assert len(set(zip(keys, sides, strict=True))) == len(set(keys))
    train, test = read("banking77/train.csv"), read("banking77/test.csv")
    findings = []
    kept = remove_leaks(train, test, "training", "test", findings)
    exact, looser = findings
    assert (exact.kind, looser.kind) == ("leak_exact", "leak_text") and len(exact.rows) == 6
    assert len(train) - len(kept) == len(exact.rows) + len(looser.rows) == 29
    assert exact.details == {"but_for_case": 6, "words": 25, "letters": 29, "rows": 10003}

    # the weaker reading, in which spaces still part words, is covered too
    def words(text):
        return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())

    pairs = {words(e.input) for e in train} & {words(e.input) for e in test}
    assert len(pairs) == 25
    assert not {words(e.input) for e in kept} & {words(e.input) for e in test}
    folded = {e.input.strip().casefold() for e in train} & {
        e.input.strip().casefold() for e in test
    }
    assert len(folded) == 6


def test_files_split_by_row_are_told():
    train = [make(f"meaning {i % 50}", "a", place=f"d:{i}") for i in range(300)]
    held = [make(f"meaning {i}", "a", place=f"t:{i}") for i in range(30)]
    findings = []
    assert len(remove_leaks(train, held, "training", "test", findings)) == 120
    told = next(f for f in findings if f.kind == "split_by_row")
    assert "180 of 300 training rows" in told.message and "data.group" in told.message
