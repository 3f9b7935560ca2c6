"""An account with twelve jobs moves home: files, results, recipes, recorded answers; each trains."""

import json

import pytest
from tests.model_zoo import make_tiny
from tests.providers.openai_emulator import dumps

from tunewright.cli.main import run
from tunewright.config import read_recipe
from tunewright.errors import Interrupted, ProviderError, Refusal, UserError
from tunewright.journal import Journal, silence
from tunewright.migrating import migrate_openai
from tunewright.pipeline import train
from tunewright.providers.openai import open_openai

TOPICS = ("delivery", "card", "account")


def chat_rows(count, start=0):
    for number in range(start, start + count):
        topic = TOPICS[number % 3]
        yield {"messages": [{"role": "user", "content": f"question {number} about my {topic}"},
                            {"role": "assistant", "content": f"about {topic}"}]}  # fmt: skip


def pair_rows(count):
    for row in chat_rows(count):
        ask, answer = row["messages"]
        yield {"input": {"messages": [ask]}, "preferred_output": [answer],
               "non_preferred_output": [{"role": "assistant", "content": "no idea"}]}  # fmt: skip


def completion_rows(count):
    for row in chat_rows(count):
        ask, answer = row["messages"]
        yield {"prompt": f"{ask['content']} ->", "completion": f" {answer['content']}"}


def fill(account):
    """Twelve jobs: chat with and without validation, preferences, completions, one that failed."""
    held = account.add_file("held.jsonl", dumps(chat_rows(12, start=500)))["id"]
    account.add_file("never-used.jsonl", dumps(chat_rows(20)))
    for number in range(12):
        kind = "dpo" if number in (3, 7) else "supervised"
        made = pair_rows(30) if kind == "dpo" else chat_rows(30 + number)
        if number == 5:
            made = completion_rows(30)
        file = account.add_file(f"rows {number}.jsonl", dumps(made))["id"]
        numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}
        job = account.add_job(
            {"model": "gpt-4o-mini-2024-07-18", "training_file": file, "seed": number,
             "validation_file": held if number % 2 and kind != "dpo" and number != 5 else None,
             "method": {"type": kind, kind: {"hyperparameters": numbers}}}
        )  # fmt: skip
        kept = account.jobs[job["id"]]
        kept["_walk"] = []
        if number == 9:
            account.error = {"code": "x", "message": "it failed", "param": None}
            account.step(kept, "failed")
        elif number == 5:
            kept["status"] = "succeeded"  # its model is gone
        else:
            account.step(kept, "succeeded")
            result = account.add_file("step_metrics.csv", b"step,train_loss\n1,2.0\n",
                                      purpose="fine-tune-results")  # fmt: skip
            kept["result_files"] = [result["id"]]


def move(folder, **options):
    options.setdefault("consent", lambda told, usd: True)
    return migrate_openai(open_openai(None, patience_s=2), folder, silence(), **options)


def test_twelve_jobs_become_twelve_recipes(account, openai_url, tmp_path):
    fill(account)
    moved, inventory = move(tmp_path / "m")
    assert len(moved) == 12 == len(list((tmp_path / "m" / "recipes").glob("*.yaml")))
    assert all(m.recipe and not m.note and m.num_rows for m in moved)
    # ten models still answer; each was asked its recipe's own test rows
    assert sum(m.recorded > 0 for m in moved) == 10 and account.num_asked == sum(
        m.recorded for m in moved
    )
    assert len(list((tmp_path / "m" / "results").iterdir())) == 10
    unused = [f for f in inventory["files"] if not f["used"] and f["purpose"] == "fine-tune"]
    assert [f["name"] for f in unused] == ["never-used.jsonl"]
    for made in moved:
        recipe = read_recipe(made.recipe)
        number = recipe.training.seed
        assert recipe.objective == ("dpo" if number in (3, 7) else "supervised")
        assert recipe.task == ("generate" if number == 5 else None if number in (3, 7) else "chat")
        assert recipe.training.num_epochs == 2
        text = made.recipe.read_text()
        assert ("has seen these test rows" in text) == isinstance(recipe.data.test, float)
        assert "learning_rate_multiplier" in text  # not carried, and the reason stands there
        beside = bool(made.recorded) and recipe.objective == "supervised"
        assert bool(recipe.evaluation.beside) == beside


def test_a_second_call_fetches_asks_and_replaces_nothing(account, openai_url, tmp_path):
    fill(account)
    first, _ = move(tmp_path / "m")
    mine = first[0].recipe
    mine.write_text(mine.read_text() + "# mine\n")
    asked, fetched = account.num_asked, account.faults.count("GET", "/content")
    second, _ = move(tmp_path / "m")
    assert [m.score for m in second] == [m.score for m in first]
    assert account.num_asked == asked and account.faults.count("GET", "/content") == fetched
    assert mine.read_text().endswith("# mine\n")


def test_nothing_is_asked_without_a_yes_and_what_is_gone_is_told(account, openai_url, tmp_path,
                                                                 monkeypatch):  # fmt: skip
    fill(account)
    gone = next(iter(account.jobs.values()))
    del account.content[gone["training_file"]], account.files[gone["training_file"]]
    moved, _ = move(tmp_path / "a", record=False)
    assert account.num_asked == 0
    assert [m.note for m in moved if m.note] == ["its training file is gone"]
    import tunewright.providers.openai as module

    monkeypatch.setattr(module, "is_loopback", lambda url: False)
    prices = lambda name, why: 1.0  # noqa: E731
    with pytest.raises(Refusal, match="asking 9 old models"):
        move(tmp_path / "b", consent=lambda told, usd: False, ask=prices)
    assert account.num_asked == 0


def test_a_download_that_breaks_off_goes_on_where_it_was(account, openai_url, tmp_path):
    fill(account)
    account.faults.order("GET", "/content", status=503, times=10**6)
    provider = open_openai(None, patience_s=0.1)
    with pytest.raises(Interrupted, match="does not answer"):
        migrate_openai(provider, tmp_path / "m", silence(), consent=lambda told, usd: True)
    account.faults.ordered.clear()
    account.faults.order("GET", "/content", lost=True, times=3)
    patient = open_openai(None, patience_s=30, sleep=lambda seconds: None)
    moved, _ = migrate_openai(patient, tmp_path / "m", silence(), record=False, consent=None)
    assert sum(bool(m.recipe) for m in moved) == 12


def test_half_a_file_is_not_kept(account, openai_url, tmp_path):
    fill(account)
    file = next(iter(account.jobs.values()))["training_file"]
    whole = account.content[file]
    account.content[file] = b"<html>please log in</html>"
    moved, _ = move(tmp_path / "m", record=False)
    assert [m.note for m in moved if m.note] == ["its training file is gone"]
    assert not list((tmp_path / "m" / "files").glob(f"{file}*"))
    account.content[file] = whole
    assert all(m.recipe for m in move(tmp_path / "m", record=False)[0])


def test_files_of_others_are_left_alone(account, openai_url, tmp_path):
    fill(account)
    (tmp_path / "inventory.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="not written by migrate"):
        move(tmp_path)
    assert json.loads((tmp_path / "inventory.json").read_text()) == {"mine": 1}
    assert not account.faults.requests
    next(iter(account.jobs.values()))["id"] = "../../evil"
    with pytest.raises(ProviderError, match="no file can have"):
        move(tmp_path / "m", record=False)
    assert not (tmp_path / "evil.json").exists()


def test_a_bad_key_is_one_line(account, openai_url, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-000000")
    with pytest.raises(ProviderError, match="OPENAI_API_KEY is not accepted"):
        move(tmp_path / "m")


def test_the_command(account, openai_url, tmp_path, capsys):
    fill(account)
    assert run(["migrate", "openai", "--out", str(tmp_path / "m"), "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["moved"]) == 12 and len(document["tuned_models"]) == 10
    assert run(["migrate", "azure"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_of_the_twelve_trains_beside_the_old_model(account, openai_url, tmp_path):
    fill(account)
    base = make_tiny("llama", tmp_path / "tiny")
    moved, _ = move(tmp_path / "m", base_model=str(base))
    for made in moved:
        recipe = read_recipe(
            made.recipe, ["training.max_steps=2", "training.num_threads=1", "evaluation.baselines=[]",
                          "evaluation.max_new_tokens=8", "training.max_length=96"],
        )  # fmt: skip
        report = train(recipe, tmp_path / "runs" / made.job, Journal())
        systems = {r.system for r in report.results}
        assert "tuned" in systems, made.job
        if made.recorded and recipe.objective == "supervised":
            assert {c.b for c in report.comparisons} >= {"old_model"}, made.job
