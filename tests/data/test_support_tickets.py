"""The embedded support tickets are what their README and dirt.jsonl say."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections import Counter
from typing import Any

import pytest

from tunewright.data.embedded import embedded_folder

FOLDER = embedded_folder("support-tickets")
FIELDS = ["id", "text", "intent", "product", "channel"]

# How many of each kind were planted; README.md has the same table.
PLANTED = {
    "exact_duplicate": 15,
    "normalised_duplicate": 8,
    "near_duplicate": 20,
    "wrong_label_confusable": 20,
    "wrong_label_random": 10,
    "conflicting_label": 1,
    "leak_exact": 6,
    "leak_normalised": 6,
    "leak_near": 6,
    "personal_data_email": 6,
    "personal_data_phone": 6,
    "personal_data_card": 4,
    "personal_data_iban": 4,
    "personal_data_ip": 2,
    "personal_data_key": 2,
    "mojibake": 2,
    "html_remnants": 2,
}

# Only forms that are reserved for documentation, tests and fiction.
RESERVED = {
    "personal_data_email": r"[a-z0-9.-]+@example\.(com|org)",
    "personal_data_phone": r"(\(\d{3}\) )?555-01\d\d|\+44 20 7946 0\d{3}",
    "personal_data_card": r"4111([ -]?1111){3}|5555([ -]?5555){2}[ -]?4444",
    "personal_data_iban": r"DE89 ?3704 ?0044 ?0532 ?0130 ?00|GB29 ?NWBK ?6016 ?1331 ?9268 ?19",
    "personal_data_ip": r"(192\.0\.2|203\.0\.113)\.\d{1,3}",
    "personal_data_key": r"sk_test_[A-Z_]+\d{4}",
}
PHONE_LIKE = re.compile(r"\d(?:[ ().-]{0,2}\d){6,}")


def read_rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TRAIN, TEST = read_rows("train.csv"), read_rows("test.csv")
ROWS = {row["id"]: row for row in TRAIN + TEST}
FILE_OF = {
    row["id"]: name for name, rows in (("train.csv", TRAIN), ("test.csv", TEST)) for row in rows
}
DIRT: list[dict[str, Any]] = [
    json.loads(line) for line in (FOLDER / "dirt.jsonl").read_text(encoding="utf-8").splitlines()
]
ADDED = {entry["id"] for entry in DIRT if not entry["kind"].startswith("wrong_label")}
ORGANIC = [row for row in ROWS.values() if row["id"] not in ADDED]


def entries(*prefixes: str) -> list[dict[str, Any]]:
    return [entry for entry in DIRT if entry["kind"].startswith(prefixes)]


def letters_and_digits(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def content(row: dict[str, str]) -> list[str]:
    return [row[field] for field in FIELDS[1:]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def test_counts() -> None:
    assert (len(TRAIN), len(TEST)) == (1734, 552)
    assert len(ROWS) == len(TRAIN) + len(TEST)  # no id twice
    assert len(ORGANIC) == 2196
    assert sorted(ROWS) == [f"T{number:04d}" for number in range(1, 2287)]


def test_ordinary_rows_are_split_by_a_hash_of_their_text() -> None:
    ordinary: dict[str, list[dict[str, str]]] = {}
    for row in ROWS.values():
        if row["id"] > "T1422":
            ordinary.setdefault(row["intent"], []).append(row)
    assert len(ordinary) == 18
    for rows in ordinary.values():
        rows.sort(key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())
        assert [FILE_OF[row["id"]] for row in rows] == ["test.csv"] * 15 + ["train.csv"] * 33


def test_columns_hold_what_the_readme_says() -> None:
    for row in ROWS.values():
        assert list(row) == FIELDS
        assert row["text"] == row["text"].strip() != ""
        assert row["product"] in {"brightledger", "tapstone", "none"}
        assert row["channel"] in {"email", "chat", "form", "social"}
    assert any("\n" in row["text"] for row in TRAIN)


def test_intents_are_many_and_stratified() -> None:
    true = {entry["id"]: entry["true_intent"] for entry in entries("wrong_label")}
    organic = Counter(true.get(row["id"], row["intent"]) for row in ORGANIC)
    assert len(organic) == 18
    assert set(organic.values()) == {122}
    assert set(Counter(row["intent"] for row in TEST).values()) == {30, 31}
    assert min(Counter(row["intent"] for row in TRAIN).values()) >= 80


def test_every_kind_was_planted_as_often_as_documented() -> None:
    assert Counter(entry["kind"] for entry in DIRT) == PLANTED
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {
        kind: int(n) for kind, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", readme, re.M)
    } == PLANTED
    labels = {row["intent"] for row in ROWS.values()}
    assert labels <= set(re.findall(r"^\| `(\w+)` \| [a-z]", readme, re.M))


def test_every_entry_points_at_rows_that_exist() -> None:
    assert len({entry["id"] for entry in DIRT}) == len(DIRT)  # one kind of dirt on one row
    for entry in DIRT:
        assert FILE_OF[entry["id"]] == entry["file"] == "train.csv"
        assert entry["note"]
        if entry["of"] is not None:
            expected = "test.csv" if entry["kind"].startswith("leak") else "train.csv"
            assert FILE_OF[entry["of"]] == expected
            assert entry["of"] not in {other["id"] for other in DIRT}


@pytest.mark.parametrize("kind", ["exact_duplicate", "leak_exact"])
def test_exact_copies_are_equal(kind: str) -> None:
    for entry in entries(kind):
        assert content(ROWS[entry["id"]]) == content(ROWS[entry["of"]])


@pytest.mark.parametrize("kind", ["normalised_duplicate", "leak_normalised"])
def test_normalised_copies_differ_in_case_space_and_punctuation_only(kind: str) -> None:
    for entry in entries(kind):
        copy, original = ROWS[entry["id"]], ROWS[entry["of"]]
        assert copy["text"] != original["text"]
        assert letters_and_digits(copy["text"]) == letters_and_digits(original["text"])
        assert copy["intent"] == original["intent"]


@pytest.mark.parametrize("kind", ["near_duplicate", "leak_near"])
def test_near_copies_are_close_but_not_equal(kind: str) -> None:
    for entry in entries(kind):
        copy, original = ROWS[entry["id"]], ROWS[entry["of"]]
        a, b = letters_and_digits(copy["text"]), letters_and_digits(original["text"])
        assert a != b
        assert difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() > 0.6, entry
        assert copy["intent"] == original["intent"]


def test_no_other_texts_are_equal() -> None:
    planted = {entry["id"] for entry in DIRT if entry["of"] is not None}
    texts = Counter(letters_and_digits(r["text"]) for r in ROWS.values() if r["id"] not in planted)
    assert [text for text, count in texts.items() if count > 1] == []


def test_wrong_labels_differ_from_the_true_ones() -> None:
    labels = {row["intent"] for row in TEST}
    for entry in entries("wrong_label"):
        assert entry["true_intent"] in labels
        assert ROWS[entry["id"]]["intent"] in labels - {entry["true_intent"]}


def test_one_text_has_two_labels() -> None:
    (entry,) = entries("conflicting_label")
    copy, original = ROWS[entry["id"]], ROWS[entry["of"]]
    assert copy["text"] == original["text"]
    assert original["intent"] == entry["true_intent"] != copy["intent"]


@pytest.mark.parametrize("kind", RESERVED)
def test_personal_data_has_reserved_forms_only(kind: str) -> None:
    for entry in entries(kind):
        text = ROWS[entry["id"]]["text"]
        assert entry["values"]
        for value in entry["values"]:
            assert re.fullmatch(RESERVED[kind], value), value
            assert value in text
            text = text.replace(value, "")
        assert "@" not in text
        assert not PHONE_LIKE.search(text)


def test_mojibake_can_be_undone() -> None:
    for entry in entries("mojibake"):
        text = ROWS[entry["id"]]["text"]
        assert "â€" in text
        assert "â€" not in text.encode("cp1252").decode("utf-8")


def test_html_remnants_are_there() -> None:
    for entry in entries("html_remnants"):
        text = ROWS[entry["id"]]["text"]
        assert "<br>" in text and "&nbsp;" in text
    assert not [row["id"] for row in ORGANIC if re.search(r"<\w+>|&\w+;|â€", row["text"])]


def test_organic_rows_hold_no_address_and_no_number_like_a_telephones() -> None:
    assert not [row["text"] for row in ORGANIC if "@" in row["text"]]
    assert not [row["text"] for row in ORGANIC if PHONE_LIKE.search(row["text"])]


def test_openings_vary() -> None:
    openings = Counter(" ".join(words(row["text"])[:2]) for row in ROWS.values())
    opening, count = openings.most_common(1)[0]
    assert count <= 0.015 * len(ROWS), opening


def test_lengths_spread() -> None:
    lengths = [len(row["text"].split()) for row in ROWS.values()]
    assert min(lengths) <= 3
    assert max(lengths) >= 60
    for intent in {row["intent"] for row in TEST}:
        own = [len(row["text"].split()) for row in ROWS.values() if row["intent"] == intent]
        assert min(own) <= 5 and max(own) >= 40, intent
