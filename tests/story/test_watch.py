"""`watch` from a trained run to alarm, page and review rows; the log asks about something new."""

from __future__ import annotations

import json
import random

import pytest
from tests.model_zoo import make_tiny

from tunewright.cli.main import run

TOPICS = {
    "delivery": ["where is my parcel", "the parcel has not come", "when does my order arrive"],
    "card": ["my card was refused", "the card does not work", "unblock my card please"],
}
NEW = ["is there a pool in the hotel", "book a table for breakfast", "do you have a sauna"]


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        label = rng.choice(list(TOPICS))
        made.append((f"{rng.choice(TOPICS[label])} {rng.randrange(100, 1000)}", label))
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    lines = "".join(f"{text},{label}\n" for text, label in rows(300, 1))
    (folder / "rows.csv").write_text("text,label\n" + lines)
    recipe = {
        "base_model": str(make_tiny("bert", folder / "bert")),
        "data": {"train": str(folder / "rows.csv"), "validation": 0.2, "test": 0.2},
        "training": {"max_steps": 20, "num_threads": 1, "precision": "fp32"},
        "evaluation": {"baselines": []},
        "business": {"cost_per_error_usd": 2.0},
        "watch": {"batch_size": 20},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    assert run(["train", str(folder / "recipe.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder


@pytest.mark.slow
def test_quiet_then_alarm(trained, capsys):
    rng = random.Random(3)
    calm = [{"id": f"a{n}", "time_s": n, "input": text} for n, (text, _) in enumerate(rows(200, 5))]
    new = [{"id": f"b{n}", "time_s": 300 + n, "input": f"{rng.choice(NEW)} {rng.randrange(100, 1000)}"}
           for n in range(100)]  # fmt: skip
    log = trained / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in calm))
    capsys.readouterr()
    assert run(["watch", str(trained / "run"), "--log", str(log), "--json", "--gate"]) == 0
    quiet = json.loads(capsys.readouterr().out)
    assert (quiet["answer"], quiet["num_batches"], quiet["waiting"]) == ("QUIET", 10, 0)
    log.write_text("".join(json.dumps(line) + "\n" for line in [*calm, *new]))
    assert run(["watch", str(trained / "run"), "--replay", str(log), "--json"]) == 0
    assert not (trained / "run" / "watch" / "alerts.jsonl").exists()
    capsys.readouterr()
    assert run(["watch", str(trained / "run"), "--log", str(log), "--json", "--gate"]) == 1
    alarm = json.loads(capsys.readouterr().out)
    assert alarm["answer"] == "ALARM"
    first = alarm["alerts"][0]
    assert first["batch"] >= 10
    assert first["cost_usd"] is not None
    assert any(row["id"].startswith("b") for row in first["rows"])
    assert alarm["review"]
    page = (trained / "run" / "watch" / "watch.html").read_text()
    assert "Alarm in batch" in page
    assert "Content-Security-Policy" in page
    assert run(["watch", str(trained / "run"), "--log", str(log)]) == 0
    assert "ALARM" in capsys.readouterr().out


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(trained, capsys):
    (trained / "bad.jsonl").write_text('{"foo": 1}\n')
    folder = str(trained / "run")
    for words, part in (
        (["watch", folder, "--log", str(trained / "none.jsonl")], "no such log"),
        (["watch", folder, "--log", str(trained / "bad.jsonl")], "bad.jsonl:1"),
        (["watch", folder, "--set", "watch.rules_off=[nope]"], "no rule nope"),
        (["watch", folder, "--set", "watch.webhook=ftp://x"], "not a webhook"),
    ):
        capsys.readouterr()
        assert run(words) == 2
        assert part in capsys.readouterr().err


@pytest.mark.slow
def test_tuned_again_on_what_is_new(trained, capsys):
    """A new kind of request is learned; the gate speaks; the old run stays as it was."""
    rng = random.Random(9)
    texts = [(f"{rng.choice(NEW)} {rng.randrange(100, 1000)}", "hotel") for _ in range(150)] + rows(
        60, 11
    )
    new = trained / "new.jsonl"
    new.write_text("".join(
        json.dumps({"id": f"n{n}", "input": text, "label": label}) + "\n"
        for n, (text, label) in enumerate(texts)
    ))  # fmt: skip
    run_dir, again = trained / "run", trained / "again"
    before = sorted(path.name for path in run_dir.iterdir())
    words = ["retune", str(run_dir), "--new", str(new), "--json"]
    costs = ["--set", "retune.retune_usd=50", "--set", "retune.margin=0.2"]
    capsys.readouterr()
    assert run([*words, *costs, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["now"] is True
    assert plan["error_new"] > plan["error_usual"]
    assert plan["rows"]["held_out"]["update 1"] > 10
    assert sorted(path.name for path in run_dir.iterdir()) == before
    capsys.readouterr()
    assert run([*words, *costs, "--run-dir", str(again)]) in (0, 1)
    told = json.loads(capsys.readouterr().out)["update"]
    assert told["new_task"]["gain"] > 0.3
    assert told["promoted"] == told["gate"]["open"]
    assert json.loads((again / "lineage.json").read_text())["names"] == ["first", "update 1"]


@pytest.mark.slow
def test_an_adapter_is_continued_twice(trained, capsys):
    """Labels grow with every update; replay is drawn from all old rows, not from what was replayed."""
    folder = trained / "lora"
    folder.mkdir()
    recipe = json.loads((trained / "recipe.yaml").read_text())
    recipe |= {"adapter": {"method": "lora", "r": 4}, "retune": {"strategy": "continue"}}
    recipe["training"]["max_steps"] = 40
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    assert run(["train", str(folder / "recipe.yaml"), "--run-dir", str(folder / "1")]) == 0
    rng, pools = random.Random(5), []
    kinds = {"hotel": NEW, "weather": ["will it rain tomorrow", "how warm is it", "is it windy"]}
    for number, (label, texts) in enumerate(kinds.items(), 1):
        new = folder / f"{label}.jsonl"
        new.write_text("".join(
            json.dumps({"input": f"{rng.choice(texts)} {rng.randrange(100, 1000)}", "label": label})
            + "\n" for _ in range(120)
        ))  # fmt: skip
        capsys.readouterr()
        words = ["retune", str(folder / str(number)), "--new", str(new), "--json"]
        assert run([*words, "--run-dir", str(folder / str(number + 1))]) in (0, 1)
        told = json.loads(capsys.readouterr().out)
        assert told["strategy"] == "continue"
        assert told["update"]["new_task"]["gain"] > 0.3
        pools.append(told["rows"]["old"])
        model = json.loads((folder / str(number + 1) / "model" / "tunewright.json").read_text())
        assert label in model["labels"]
        assert {"delivery", "card"} <= set(model["labels"])
    names = json.loads((folder / "3" / "lineage.json").read_text())["names"]
    assert names == ["first", "update 1", "update 2"]
    pool = (folder / "3" / "pool.jsonl").read_text().splitlines()
    assert {json.loads(line)["output"] for line in pool} == {"delivery", "card", *kinds}
    assert pools[1] > pools[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ("retune.strategy=ewc",),
    ("retune.strategy=merge",),
    ("retune.strategy=merge", "retune.merge=ties", "adapter.method=lora", "adapter.r=4"),
], ids=["ewc", "merge", "merge-lora-ties"])  # fmt: skip
def test_other_strategies_learn_what_is_new(trained, capsys, tmp_path, words):
    """Weights held, or two models merged: the new kind is known, the old ones stay."""
    rng = random.Random(7)
    new = tmp_path / "new.jsonl"
    new.write_text("".join(
        json.dumps({"input": f"{rng.choice(NEW)} {rng.randrange(100, 1000)}", "label": "hotel"})
        + "\n" for _ in range(120)
    ))  # fmt: skip
    more = [part for word in words for part in ("--set", word)]
    capsys.readouterr()
    command = [
        "retune",
        str(trained / "run"),
        "--new",
        str(new),
        "--run-dir",
        str(tmp_path / "again"),
    ]
    assert run([*command, *more, "--set", "retune.margin=0.3", "--json"]) in (0, 1)
    told = json.loads(capsys.readouterr().out)["update"]
    assert told["new_task"]["new"] > 0.8
    assert told["gate"]["tasks"][0]["new"] > 0.7
    assert (tmp_path / "again" / "report.json").exists()
