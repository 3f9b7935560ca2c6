"""Rows picked from many: traffic, what to label next, a subset; written as the source is."""

import csv
import random

import pytest

from tunewright.data.formats import read_rows

WORDS = {
    "invoice": [
        "invoice",
        "bill",
        "receipt",
        "copy",
        "vat",
        "tax",
        "amount",
        "paper",
        "pdf",
        "month",
    ],
    "login": [
        "password",
        "login",
        "account",
        "reset",
        "code",
        "email",
        "access",
        "locked",
        "user",
        "sign",
    ],
    "parcel": [
        "parcel",
        "delivery",
        "courier",
        "tracking",
        "late",
        "box",
        "shipped",
        "address",
        "door",
        "wait",
    ],
}


def sentences(label, number, seed):
    draw = random.Random(f"{label}{seed}")
    return [" ".join(draw.choices(WORDS[label], k=6)) for _ in range(number)]


def write(path, rows, names):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


@pytest.fixture
def tickets(tmp_path):
    rows = [(text, label) for label in ("invoice", "login") for text in sentences(label, 60, 1)]
    return write(tmp_path / "tickets.csv", rows, ("text", "label"))


def test_against_names_what_is_missing(tunewright, tickets, tmp_path):
    asked = [(text,) for text in sentences("login", 30, 2) + sentences("parcel", 30, 2)]
    traffic = write(tmp_path / "asked.csv", asked, ("question",))
    out = tmp_path / "lacking.csv"
    ended = tunewright("check", tickets, "--against", traffic, "--out", out, "--json")
    assert ended.status == 0, ended.err
    kinds = {item["kind"] for item in ended.document["findings"]}
    assert {"traffic_summary", "traffic_not_covered"} <= kinds
    lacking = [row["question"] for _, row in read_rows(str(out))]
    about = [text for text in lacking if set(text.split()) & set(WORDS["parcel"])]
    assert len(lacking) == ended.document["written"]["rows"] and len(about) > 0.8 * len(lacking)


def test_label_next_ranks_and_writes(tunewright, tickets, tmp_path):
    pool = write(tmp_path / "pool.csv", [(t,) for t in sentences("login", 40, 3)], ("text",))
    out = tmp_path / "next.csv"
    arguments = ("check", tickets, "--label-next", "8", "--pool", pool, "--out", out)
    document = tunewright(*arguments, "--json").document
    assert len(document["rows"]) == 8
    written = [row["text"] for _, row in read_rows(str(out))]
    assert sorted(written) == sorted(row["input"] for row in document["rows"])
    assert tunewright(*arguments).status == 2  # never overwrites unasked
    assert "--pool" in tunewright("check", tickets, "--label-next", "8").err


def test_label_next_from_rows_without_a_label(tunewright, tickets):
    with tickets.open("a", newline="") as file:
        csv.writer(file).writerows((text, "") for text in sentences("login", 10, 4))
    rows = tunewright("check", tickets, "--label-next", "3", "--json").document["rows"]
    assert [int(row["place"].split(":")[1]) > 121 for row in rows] == [True] * 3


def test_select_is_tried_against_chance(tunewright, tickets, tmp_path):
    out = tmp_path / "subset.csv"
    ended = tunewright("check", tickets, "--select", "20", "--out", out, "--json")
    assert ended.status == 0, ended.err
    assert "random" in ended.document["message"]
    labels = [row["label"] for _, row in read_rows(str(out))]
    assert len(labels) == 20 and 5 <= labels.count("login") <= 15
    assert tunewright("check", tickets, "--select", "20", "--against", tickets).status == 2
