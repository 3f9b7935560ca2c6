"""The data section of the page: what the card holds is what it shows."""

from report_fixture import LABELS, make_card
from tunewright.data.card import make_card as make_real_card
from tunewright.data.prepare import prepare
from tunewright.journal import silence
from tunewright.report.data import make_data_section
from tunewright.sections import DataSection
from tunewright.store import to_plain


def test_card_of_the_fixture_is_shown_whole():
    shown = make_data_section(make_card(LABELS, ""))
    assert shown["counts"][0] == ("train", "9,403", "")
    assert len(shown["labels"]["rows"]) == 77
    assert shown["labels"]["splits"] == ["train", "validation", "test"]
    first = [row["counts"][0][0] for row in shown["labels"]["rows"]]
    assert first == sorted(first, reverse=True)
    assert [item["severity"] for item in shown["findings"]] == ["warn", "info"]
    assert len(shown["findings"][0]["places"]) == 8 and shown["findings"][0]["more"] == 12
    assert len(shown["dropped"]) == 25 and shown["dropped"][0] == ("a.csv:0", "leak")


def test_card_of_real_rows_is_understood(tmp_path):
    rows = [f"question number {i} about {w},{w}" for i in range(60) for w in ("cards", "loans")]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join([*rows, ",cards"]) + "\n")
    prepared = prepare(DataSection(train=str(tmp_path / "rows.csv")), None, silence())
    lengths = {side: [5, 6, 9] for side in ("train", "validation", "test")}
    shown = make_data_section(to_plain(make_real_card(prepared, lengths)))
    sizes = {name: int(size) for name, size, _ in shown["counts"]}
    assert sizes == {s: len(getattr(prepared.splits, s)) for s in ("train", "validation", "test")}
    assert {row["label"] for row in shown["labels"]["rows"]} == {"cards", "loans"}
    assert sum(row["counts"][0][0] for row in shown["labels"]["rows"]) == sizes["train"]
    assert [item["title"] for item in shown["figures"]][0] == "Tokens a row, train"
    assert ("tokens a row, test", ["5", "6", "6.670", "9", "9", "20"]) in shown["lengths"]["rows"]
    assert len(shown["dropped"]) == sum(len(f.rows) for f in prepared.findings if f.dropped) > 0


def test_no_card_is_no_section():
    for card in (None, {}, [], "card", 3):
        assert make_data_section(card) is None
    odd = {"splits": {"train": 3}, "findings": {"a": 1}, "dropped": "x", "labels": 4, "new": [1, 2]}
    assert make_data_section(odd)["other"] == [("new", "1, 2")]
