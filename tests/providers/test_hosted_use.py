"""A hosted run in use: evaluated on other data, talked to, watched, tuned again at its provider."""

import json
import random

import pytest
from tests.providers.conftest import TOPICS, write_rows
from tests.providers.local_server import words
from tests.providers.test_hosted_openai import paid

from tunewright.cli.main import run as command
from tunewright.config import dump_recipe, make_recipe
from tunewright.errors import RecipeError
from tunewright.hosted_use import open_hosted
from tunewright.store import RunFolder

MODEL = "gpt-4.1-nano-2025-04-14"
PRICES = (
    "train_tokens: {gpt-4.1-nano: 1.5}\n"
    "input_tokens: {'ft:gpt-4.1-nano': 0.2, gpt-4.1-nano: 0.1}\n"
    "output_tokens: {'ft:gpt-4.1-nano': 0.8, gpt-4.1-nano: 0.4}\n"
)


@pytest.fixture
def hosted(account, openai_url, tmp_path, capsys):
    """A finished run at the emulated account: 240 rows, 72 of them for the test."""
    recipe = make_recipe({
        "provider": "openai", "base_model": MODEL,
        "data": {"train": str(write_rows(tmp_path, count=240)), "validation": 0.1, "test": 0.3},
        "evaluation": {"baselines": ["majority"]}, "hosted": {"poll_s": 0.01, "patience_s": 3},
        "watch": {"batch_size": 10, "rules_off": ["flood"]},  # these rows are all alike
    })  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert (
        command(["train", str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / "one")]) == 0
    )
    capsys.readouterr()
    account.faults.requests.clear()
    return tmp_path / "one"


def write_log(path, *, count, text, answer, label=None):
    rng = random.Random(5)
    lines = []
    for number in range(count):
        topic = TOPICS[number % 3]
        line = {"id": f"r{number}", "time": 1000 + number, "client": f"c{number % 7}",
                "input": text(number, topic, rng), "answer": answer(topic)}  # fmt: skip
        if label:
            line["label"] = label(topic)
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path


def usual(number, topic, rng):
    return f"ask{rng.randrange(240)} my {topic} case{rng.random():.6f}"


def strange(number, topic, rng):
    return f"the hotel pool {number} was closed and breakfast eggs {rng.random():.3f} were cold"


@pytest.mark.slow
def test_watched_by_its_log_alone_and_nothing_is_asked(account, hosted, tmp_path, capsys):
    quiet = write_log(tmp_path / "quiet.jsonl", count=200, text=usual, answer=lambda t: f"{t}.")
    assert command(["watch", str(hosted), "--log", str(quiet), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == "QUIET", told["alerts"]
    assert told["num_requests"] == 200
    assert told["reference"]["rows"] == 72 and told["reference"]["accuracy"] == 1.0
    loud = write_log(tmp_path / "loud.jsonl", count=200, text=strange, answer=lambda t: t)
    assert command(["watch", str(hosted), "--log", str(loud), "--json", "--gate"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == "ALARM" and "hotel" in json.dumps(told["alerts"][0]["rows"])
    assert account.faults.count("POST", "/chat/completions") == 0


def test_tuned_again_at_the_same_provider(account, hosted, tmp_path, capsys):
    """New questions about a new topic, logged with wrong answers and labelled by people."""
    new = tmp_path / "new.jsonl"
    rows = [
        {"id": f"n{i}", "input": f"the loan {i} of mine", "answer": "card", "label": "loan"}
        for i in range(60)
    ]
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = ["retune", str(hosted), "--new", str(new), "--run-dir", str(tmp_path / "two"), "--json"]
    assert command([*again, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["error_new"] == 1.0 and not account.faults.count("POST", "/")
    assert command(again) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["update"]["promoted"] and len(account.jobs) == 2
    job = list(account.jobs.values())[1]
    sent = account.content[job["training_file"]].decode()
    assert "loan" in sent and "delivery" in sent and job["model"] == MODEL
    folder = RunFolder(tmp_path / "two")
    assert folder.report_html.exists() and (folder.path / "lineage.json").exists()
    assert told["update"]["matrix"][1] == [1.0, 1.0]


def test_a_retune_that_was_stopped_goes_on_with_its_job(account, hosted, tmp_path, capsys):
    new = write_log(tmp_path / "new.jsonl", count=60, text=usual, answer=lambda t: "card",
                    label=lambda t: t)  # fmt: skip
    again = ["retune", str(hosted), "--new", str(new), "--run-dir", str(tmp_path / "two"),
             "--set", "hosted.patience_s=0.1"]  # fmt: skip
    account.faults.order("GET", "/events", status=503, times=10**6)
    assert command(again) == 3
    assert "--resume" in capsys.readouterr().err
    account.faults.ordered.clear()
    assert command(again) == 2  # a folder that is taken is told, and no second job is made
    assert command([*again, "--resume", "--json"]) in (0, 1)
    assert len(account.jobs) == 2 and (tmp_path / "two" / "lineage.json").exists()


def test_from_the_tuned_weights_there(account, hosted, tmp_path, capsys):
    new = write_log(tmp_path / "new.jsonl", count=60, text=usual, answer=lambda t: "card",
                    label=lambda t: t)  # fmt: skip
    command(["retune", str(hosted), "--new", str(new), "--run-dir", str(tmp_path / "two"),
             "--set", "retune.strategy=continue"])  # fmt: skip
    jobs = list(account.jobs.values())
    assert jobs[1]["model"] == jobs[0]["fine_tuned_model"]


def test_other_data_is_judged_there_and_paid_once(account, hosted, tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    data = write_rows(tmp_path / "other", count=30, seed=8)
    paid(None, monkeypatch)
    asked = ["evaluate", str(hosted), "--data", str(data), "--json"]
    assert command(asked) == 2  # nobody agreed
    capsys.readouterr()
    assert account.faults.count("POST", "/chat/completions") == 0
    assert command([*asked, "--yes"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"][0]["metrics"]["accuracy"]["value"] == 1.0
    assert account.faults.count("POST", "/chat/completions") == 30
    assert command([*asked, "--yes"]) == 0
    assert account.faults.count("POST", "/chat/completions") == 30


def test_nobody_there_means_nothing_is_asked(account, hosted, tmp_path, monkeypatch):
    from tunewright.records import Example

    paid(None, monkeypatch)
    with pytest.raises(RecipeError, match="set budget.usd"):
        open_hosted(str(hosted)).predict(
            [Example("x", "x", "something never asked", "card")], system="tuned", split="new"
        )
    assert account.faults.count("POST", "/chat/completions") == 0


def test_talked_to(account, hosted, capsys):
    assert command(["chat", str(hosted), "--message", "ask my card please", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reply"] == "card" and told["answer"]["prediction"] == "card"


@pytest.mark.parametrize("verb", [["export", "{run}", "--to", "merged"], ["serve", "{run}"]])
def test_what_needs_weights_says_where_they_are(hosted, verb, capsys):
    assert command([part.format(run=hosted) for part in verb]) == 2
    said = capsys.readouterr().err
    assert "stays at openai" in said and len(said.strip().splitlines()) == 1


def test_the_dashboard_shows_a_hosted_run_and_its_worth(account, openai_url, tmp_path, capsys):
    from starlette.testclient import TestClient

    from tunewright.api.app import make_app
    from tunewright.hosting import Hosting

    recipe = make_recipe({
        "provider": "openai", "base_model": MODEL,
        "data": {"train": str(write_rows(tmp_path)), "validation": 0.1, "test": 0.3},
        "evaluation": {"baselines": ["majority"]}, "hosted": {"poll_s": 0.01},
        "business": {"requests_per_month": [500, 1000, 1500], "cost_per_error_usd": 0.5,
                     "people_hours": 10, "usd_per_hour": 60},
    })  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    run_dir = tmp_path / "runs" / "there"
    assert command(["train", str(tmp_path / "recipe.yaml"), "--run-dir", str(run_dir)]) == 0
    with TestClient(
        make_app(Hosting([]), runs=[tmp_path / "runs"]), base_url="http://127.0.0.1"
    ) as web:
        page = web.get("/runs/there")
        assert page.status_code == 200 and "Worth" in page.text and "tornado" in page.text
        assert "Requests a month" in page.text and "/runs/there/benefit" in page.text
        sliders = web.get("/runs/there/benefit")
        assert sliders.status_code == 200 and 'type="range"' in sliders.text
        (run_dir / "benefit.html").write_text("<p>as the command wrote it</p>")
        assert "as the command wrote it" in web.get("/runs/there/benefit").text
        assert web.get("/runs/nobody/benefit").status_code == 404


def test_spacing_makes_no_other_question(hosted):
    asker = open_hosted(str(hosted))
    text = next(iter(asker.at.known))
    assert words(text)
    from tunewright.records import Example

    row = Example("x", "x", f"  {text.replace(' ', '   ')} ", None)
    assert asker.predict([row], system="tuned", split="new")[0].prediction in TOPICS
