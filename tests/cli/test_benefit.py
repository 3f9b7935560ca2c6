"""`tunewright benefit` on a run folder: answer, page, exit status, refusals."""

import pytest

from benefit_fixture import make_answers, save_run

PRICES = "device_hour: {this: 0.4}\n"
RECIPE = """\
task: classify
business: {requests_per_month: 100000, cost_per_error_usd: 0.5}
"""


@pytest.fixture
def run(tmp_path):
    save_run(tmp_path / "run", RECIPE, make_answers())
    (tmp_path / "prices.yaml").write_text(PRICES)
    return tmp_path / "run"


def test_go_with_page_and_figures(tunewright, run):
    ended = tunewright("benefit", run, "--prices", run.parent / "prices.yaml")
    assert ended.status == 0 and "GO" in ended.out
    for word in ("Net present value", "Break-even", "TF-IDF", "replaced", "device_hour of this"):
        assert word in ended.out
    page = (run / "benefit.html").read_text()
    assert "Content-Security-Policy" in page and "GO" in page


def test_stop_is_exit_1(tunewright, run):
    ended = tunewright(
        "benefit", run, "--prices", run.parent / "prices.yaml", "--json",
        "--set", "business.cost_per_error_usd=0.000001", "--set", "business.people_hours=100",
        "--set", "business.usd_per_hour=50",
    )  # fmt: skip
    assert ended.status == 1 and ended.document["verdict"] == "STOP"


def test_without_a_terminal_a_missing_price_is_refused(tunewright, run):
    ended = tunewright("benefit", run)
    assert ended.status == 2 and "device_hour" in ended.err and "prices file" in ended.err


def test_a_page_of_the_users_is_not_overwritten(tunewright, run, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    ended = tunewright(
        "benefit", run, "--prices", run.parent / "prices.yaml", "--page", tmp_path / "mine.html"
    )
    assert ended.status == 2 and (tmp_path / "mine.html").read_text() == "mine"


def test_an_unfinished_run_is_told(tunewright, run):
    (run / "report.json").unlink()
    ended = tunewright("benefit", run)
    assert ended.status == 2 and "finished run" in ended.err
