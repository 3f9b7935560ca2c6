"""The commands as functions, tables as data."""

import json
from pathlib import Path

import pytest

from tunewright import notebook as tw
from tunewright.errors import DataError, RunError

ROWS = [
    {"text": f"{start} {thing} {end}", "label": label}
    for label, things in {
        "parcel": ("my parcel", "the delivery", "the package", "a shipment"),
        "money": ("my refund", "the invoice", "a payment", "the bill"),
    }.items()
    for thing in things
    for start in ("where is", "I ask about", "tell me about", "no news of", "what of")
    for end in ("please", "today", "at last", "now")
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_tables_of_every_kind_are_written_once():
    import datasets
    import pandas

    frame = pandas.DataFrame(ROWS)
    places = {tw.place_of(frame), tw.place_of(datasets.Dataset.from_list(ROWS)), tw.place_of(ROWS)}
    assert len(places) == 1
    lines = Path(places.pop()).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_cells_become_json():
    import numpy as np
    import pandas

    frame = pandas.DataFrame(
        {"text": ["a", None], "n": [1.5, np.nan], "when": pandas.to_datetime(["2026-01-02", None])}
    )
    rows = list(map(json.loads, Path(tw.place_of(frame)).read_text().splitlines()))
    assert rows == [
        {"text": "a", "n": 1.5, "when": "2026-01-02 00:00:00"},
        {"text": None, "n": None, "when": None},
    ]


@pytest.mark.parametrize("data", [3, [1, 2], [], object()])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(DataError, match="data: "):
        tw.place_of(data)


def test_check_finds_and_shows_itself():
    found = tw.check([*ROWS, ROWS[0]], task="classify")
    assert found.card["splits"] and not found.unfit
    assert "duplicate_exact" in {item.kind for item in found.findings}
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts"' in shown


@pytest.mark.slow
def test_a_run_from_rows_to_benefit():
    settings = {"training.num_epochs": 1, "evaluation.baselines": ["majority"]}
    run = tw.train(ROWS, "runs/first", task="classify", settings=settings)
    assert run.verdict in ("ship", "more data", "do not tune")
    assert {row["system"] for row in run.scores} >= {"tuned", "majority"}
    assert run.ask(["where is my parcel please"]) == ["parcel"]
    assert run.report.task == "classify" and "<iframe" in run._repr_html_()
    (answer,) = tw.compare("runs/first:tuned", "runs/first:majority")
    assert answer.verdict in ("better", "worse", "cannot tell")
    worth = tw.benefit(run, requests_per_month=1000, cost_per_error_usd=1.0, train_usd=1)
    assert worth["verdict"] in ("GO", "PILOT", "STOP")
    assert tw.evaluate(run, ROWS[:20]).results[0].n == 20


def test_a_folder_without_a_run_is_refused():
    with pytest.raises(RunError, match="no finished run"):
        tw.open_run("nowhere")
