"""`tunewright check` on the command line: its table, its JSON, its page, its exit status."""

import csv
import io

import pytest


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "tickets.csv"
    rows = [(f"please send the invoice number {n} again to us", "invoice") for n in range(30)]
    rows += [(f"my login number {n} does not work any more", "login") for n in range(30)]
    rows[4] = ("the cafÃ© did not get it â€“ don’t wait, write to jo@example.org", "invoice")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_every_finding_names_file_line_and_row(tunewright, tickets):
    ended = tunewright("check", tickets)
    assert ended.status == 0, ended.err
    assert "mojibake" in ended.out and "tickets.csv:6" in ended.out
    document = tunewright("check", tickets, "--json").document
    assert document["fit"] is True
    for finding in document["findings"]:
        assert len(finding["rows"]) == len(finding["places"]) == finding["count"]
    by_kind = {finding["kind"]: finding for finding in document["findings"]}
    assert by_kind["mojibake"]["places"] == ["tickets.csv:6"]
    assert by_kind["personal_data_email"]["places"] == ["tickets.csv:6"]
    assert "jo@example.org" not in ended.out
    assert document["learnability"]["scores"]["tfidf_linear"]["value"] > 0.8
    assert document["vocabulary"]["train_words"] > 10


def test_strict_closes_on_a_warning(tunewright, tickets):
    assert tunewright("check", tickets, "--strict").status == 1


def test_page_is_written_once(tunewright, tickets, tmp_path):
    page = tmp_path / "check.html"
    assert tunewright("check", tickets, "--html", page).status == 0
    text = page.read_text()
    assert "tickets.csv:6" in text.replace("<wbr>", "") and "http" not in text.split("</style>")[1]
    again = tunewright("check", tickets, "--html", page)
    assert again.status == 2 and "exists already" in again.err
    assert tunewright("check", tickets, "--html", page, "--force").status == 0


def test_what_cannot_be_read_is_a_mistake(tunewright, tmp_path):
    assert tunewright("check", tmp_path / "none.csv").status == 2
    (tmp_path / "r.yaml").write_text("data: {trian: x.csv}\n")
    ended = tunewright("check", tmp_path / "r.yaml")
    assert ended.status == 2 and "train" in ended.err


def test_a_recipe_and_overrides(tunewright, tickets, tmp_path):
    (tmp_path / "r.yaml").write_text("task: classify\ndata: {train: tickets.csv}\n")
    assert tunewright("check", tmp_path / "r.yaml", "--set", "data.test=0.2", "--json").status == 0


def test_write_redact_and_undo(tunewright, tickets, tmp_path):
    before = tickets.read_bytes()
    clean = tmp_path / "clean" / "tickets.csv"
    ended = tunewright("check", tickets, "--write", clean, "--redact", "--json")
    assert ended.status == 0, ended.err
    assert ended.document["written"]["changed"] == 1
    assert "jo@example.org" not in clean.read_text() and "<EMAIL_1>" in clean.read_text()
    assert tickets.read_bytes() == before
    assert tunewright("check", clean, "--undo").status == 0
    assert clean.read_bytes() == before
    assert tunewright("check", tickets, "--redact").status == 2


def test_a_review_stops_and_goes_on(tunewright, tickets, tmp_path, monkeypatch):
    def answers(text):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    answers("nonsense\nr logon\nr login\nq\n")
    ended = tunewright("check", tickets, "--review", "--json")
    assert ended.status == 0, ended.err
    assert ended.document["relabel"] == 1 and "did you mean login" in ended.err
    answers("")
    again = tunewright("check", tickets, "--review", "--json").document
    assert again["before"] == 1 and again["left"] == ended.document["left"]
    answers("d\n" * 200)
    assert tunewright("check", tickets, "--review", "--json").document["left"] == 0
    clean = tmp_path / "c.csv"
    written = tunewright("check", tickets, "--write", clean, "--json").document["written"]
    assert written["dropped"] + written["changed"] >= 1
    assert "café" not in clean.read_text()
