"""Reports as JSON and back, and the three files of a run."""

import dataclasses
import json
import math
import os

import pytest

from report_fixture import (
    REPORTS,
    classify_report,
    regress_report,
    shuffled_report,
)
from tunewright.errors import RunError
from tunewright.report.files import make_report_json, read_report, write_report
from tunewright.store import RunFolder

CONTRACT = [
    "task",
    "base_model",
    "results",
    "comparisons",
    "forgetting",
    "cost",
    "verdict",
    "because",
]


@pytest.mark.parametrize("name", REPORTS)
def test_report_survives_writing_and_reading(tmp_path, name):
    report = REPORTS[name]()
    write_report(RunFolder(tmp_path), report)
    again = read_report(tmp_path)
    assert make_report_json(again) == make_report_json(report)
    assert again.comparisons == report.comparisons
    assert again.cost == report.cost
    assert read_report(RunFolder(tmp_path)).verdict == report.verdict
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_report_json_keeps_the_contract():
    document = make_report_json(classify_report())
    assert list(document)[: len(CONTRACT)] == CONTRACT
    first = document["results"][0]
    assert list(first) == ["system", "split", "n", "metrics"]
    accuracy = first["metrics"]["accuracy"]
    assert list(accuracy) == ["value", "ci95"] and len(accuracy["ci95"]) == 2
    assert list(document["comparisons"][0]) == (
        [
            "a",
            "b",
            "metric",
            "delta",
            "ci95",
            "p_value",
            "test",
            "n",
            "minimum_detectable",
            "verdict",
        ]
    )
    assert list(document["cost"]) == ["seconds", "tokens", "peak_memory_bytes", "energy_kwh", "usd"]
    assert document["cost"]["seconds"] == {"forecast": 520.0, "measured": 488.2}
    json.dumps(document, allow_nan=False)


def test_figures_that_are_not_finite_become_null_and_return_as_nan(tmp_path):
    write_report(RunFolder(tmp_path), regress_report())
    document = json.loads((tmp_path / "report.json").read_text())
    mean = next(item for item in document["results"] if item["system"] == "mean")
    assert mean["metrics"]["spearman"]["value"] is None
    again = next(item for item in read_report(tmp_path).results if item.system == "mean")
    assert math.isnan(again.metrics["spearman"].value)


def test_long_runs_keep_report_json_small():
    steps = [{"step": i, "loss": 1.0} for i in range(1, 50_001)]
    report = dataclasses.replace(shuffled_report(), details={"steps": steps})
    kept = make_report_json(report)["details"]["steps"]
    assert len(kept) <= 2000 and kept[-1] == steps[-1]
    short = dataclasses.replace(shuffled_report(), details={"steps": steps[:2000]})
    assert make_report_json(short)["details"]["steps"] == steps[:2000]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "{\"verdict\": \"ship\"}", "null", "not json",
     json.dumps(make_report_json(shuffled_report()) | {"verdict": "perhaps"}),
     json.dumps(make_report_json(shuffled_report()) | {"results": [1]}),
     json.dumps(make_report_json(shuffled_report()) | {"cost": None})],
)  # fmt: skip
def test_what_is_no_report_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(RunError) as caught:
        read_report(tmp_path / "report.json")
    assert "report.json" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_report_is_named(tmp_path):
    with pytest.raises(RunError, match=r"report\.json: missing"):
        read_report(tmp_path)


def test_a_folder_that_cannot_be_written_keeps_the_old_report(tmp_path):
    write_report(RunFolder(tmp_path), shuffled_report())
    before = (tmp_path / "report.json").read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError):
        write_report(RunFolder(tmp_path), classify_report())
    # report.json says that a run is finished, so it changes last or not at all.
    assert (tmp_path / "report.json").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
