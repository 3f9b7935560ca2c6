"""A study by the real command: its best, killed and resumed, by two processes, in two databases."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from planted_rows import make_values
from postgres_server import running_postgres
from tunewright.config import Knob, make_recipe
from tunewright.decide.curves import Goal, Point
from tunewright.decide.search import TrialRow
from tunewright.errors import RecipeError, RunError
from tunewright.journal import silence
from tunewright.searching import _clip, _Study, importance, search

SPACE = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "training.batch_size": {"choices": [8, 16, 32]},
}


def make_search(folder, *, trials=4, rate=1e-5, **section):
    values = make_values(folder, num_rows=400)
    values["training"].update(learning_rate=rate, num_epochs=3)
    values["search"] = {"trials": trials, "space": SPACE, **section}
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def made(place):
    return search(make_recipe(make_search(place)), place / "s", silence())


def test_a_planted_bad_rate_is_left_behind(made, place):
    assert len(made.rows) == 4 and made.test_touched == 0
    assert made.rows[0].params["training.learning_rate"] == pytest.approx(1e-5)
    assert made.best is not None and made.best.params["training.learning_rate"] > 1e-4
    assert made.range_test is not None and made.range_test.low < made.range_test.high
    text = (place / "s" / "recipe.yaml").read_text()
    assert "of a search" in text
    document = json.loads((place / "s" / "search.json").read_text())
    assert document["best"]["number"] == made.best.number
    assert "<svg" in (place / "s" / "search.html").read_text()


def test_a_finished_study_runs_nothing_more(made, place):
    lines = (place / "s" / "trials.jsonl").read_text()
    again = search(make_recipe(make_search(place)), place / "s", silence())
    assert (place / "s" / "trials.jsonl").read_text() == lines
    assert again.best == made.best


def test_the_test_split_is_touched_once_and_counted(tmp_path):
    values = make_search(tmp_path, trials=1, rate=1e-3)
    values["data"]["test"] = 0.2
    values["evaluation"] = {"baselines": ["majority"]}
    recipe = make_recipe(values)
    report = search(recipe, tmp_path / "s", silence(), range_test=False, judge=True)
    assert report.test_touched == 1
    assert (tmp_path / "s" / "best" / "report.json").exists()
    again = search(recipe, tmp_path / "s", silence(), range_test=False, judge=True)
    assert again.test_touched == 1
    document = json.loads((tmp_path / "s" / "search.json").read_text())
    assert document["test_touched"] == 1


def test_the_budget_ends_it(place, tmp_path):
    report = search(make_recipe(make_search(place, trials=50)), tmp_path / "s", silence(),
                    minutes=0.0, range_test=False)  # fmt: skip
    assert report.rows == () and report.best is None
    with pytest.raises(RecipeError, match="usd-per-hour"):
        values = {**make_search(place), "budget": {"usd": 1.0}}
        search(make_recipe(values), tmp_path / "t", silence())


def test_a_storage_that_cannot_be_opened_is_one_line(place, tmp_path):
    values = make_search(place, storage="sqlite:////nowhere/at/all.db")
    with pytest.raises(RunError, match="cannot be opened"):
        search(make_recipe(values), tmp_path / "s", silence())


def start(recipe, folder, *more):
    program = [sys.executable, "-m", "tunewright.cli.main"]
    code = "from tunewright.cli.main import main; main()"
    program = [sys.executable, "-c", code]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*program, "search", str(recipe), "--dir", str(folder), "--json", *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def keys(folder):
    path = folder / "trials.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["key"] for line in lines]


@pytest.mark.slow
def test_killed_at_any_moment_no_trial_is_lost_or_run_twice(place, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(make_search(place, trials=5, rate=1e-3)))
    folder = tmp_path / "s"
    for lines in (1, 3):
        process = start(recipe, folder, "--no-range-test")
        while len(keys(folder)) < lines and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(recipe, folder, "--no-range-test")
    document = json.loads(process.communicate(timeout=240)[0])
    numbers = [row["number"] for row in document["trials"]]
    assert numbers == list(range(5))
    assert {row["state"] for row in document["trials"]} <= {"complete", "pruned"}
    assert len(keys(folder)) == len(set(keys(folder)))


@pytest.mark.slow
def test_two_processes_share_one_study(place, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(make_search(place, trials=6, rate=1e-3)))
    folder = tmp_path / "s"
    both = [start(recipe, folder, "--no-range-test") for _ in range(2)]
    documents = [json.loads(process.communicate(timeout=240)[0]) for process in both]
    last = max(documents, key=lambda item: len(item["trials"]))
    assert [row["number"] for row in last["trials"]] == list(range(6))
    assert len(keys(folder)) == len(set(keys(folder)))


@pytest.fixture
def postgres():
    """The address of a PostgreSQL of this test's own, on loopback; skips where there is none."""
    with running_postgres() as url:
        yield url


@pytest.mark.slow
def test_two_processes_share_a_study_in_postgresql(postgres, place, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(make_search(place, trials=4, rate=1e-3)))
    both = [
        start(recipe, tmp_path / name, "--no-range-test", "--storage", postgres)
        for name in ("a", "b")  # folders of their own, as on two machines
    ]
    documents = [json.loads(process.communicate(timeout=280)[0]) for process in both]
    last = max(documents, key=lambda item: len(item["trials"]))
    assert [row["number"] for row in last["trials"]] == list(range(4))
    known = [set(keys(tmp_path / name)) for name in ("a", "b")]
    assert not known[0] & known[1]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_two_processes_that_begin_together_draw_apart(place, tmp_path, sampler):
    recipe = make_recipe(make_search(place, rate=1e-3, sampler=sampler))
    (tmp_path / "s").mkdir()
    here, there = (_Study(recipe, recipe.search, tmp_path / "s", silence()) for _ in range(2))
    there.token = "another-machine:1:"
    here.begin()
    here.study.tell(here.claim(), 0.5)  # the recipe's own settings, which nobody draws
    drawn = [study.claim().user_attrs["asked"] for study in (there, here)]
    assert drawn[0]["training.learning_rate"] != drawn[1]["training.learning_rate"]


def test_values_are_brought_into_the_space():
    ranged = Knob(low=1e-5, high=1e-3, log=True)
    assert _clip(ranged, 1.0) == 1e-3 and _clip(ranged, 1e-4) == 1e-4
    assert _clip(Knob(choices=(8, 16, 32)), 20) == 16
    assert _clip(Knob(choices=("linear", "cosine")), "auto") == "linear"
    assert _clip(Knob(low=1, high=9, whole=True), 3.6) == 4


def test_the_knob_that_matters_is_told():
    space = {"training.learning_rate": Knob(low=1e-5, high=1e-2, log=True),
             "training.batch_size": Knob(choices=(8, 16, 32))}  # fmt: skip
    rows = []
    for i in range(12):
        rate = 10 ** (-5 + 3 * i / 11)
        params = {"training.learning_rate": rate, "training.batch_size": (8, 16, 32)[i % 3]}
        score = 0.9 - 0.1 * abs(i - 8)
        rows.append(TrialRow(i, "complete", params, (Point(100, score),), score, 1.0))
    shares = importance(rows, space, Goal("accuracy", 1.0, True), 100)
    assert shares["training.learning_rate"] > shares["training.batch_size"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importance(rows[:2], space, Goal("accuracy", 1.0, True), 100) == {}
