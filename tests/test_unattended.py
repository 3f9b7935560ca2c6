"""Rounds of `auto` on a tiny model: mistakes are told, waiting has a reason, rows are learned once,
a tuning that was cut off goes on.
"""

from __future__ import annotations

import json
import random
import threading
from contextlib import closing
from dataclasses import replace

import pytest
from tests.model_zoo import make_tiny

from tunewright.cli.main import run
from tunewright.database.engine import open_database, sqlite_url
from tunewright.journal import silence
from tunewright.records import Request
from tunewright.releases.board import list_releases
from tunewright.unattended.account import excess_errors
from tunewright.unattended.rounds import Keeper, asked_of, keep_going, new_rows, one_round

TOPICS = {
    "delivery": ["where is my parcel", "the parcel has not come", "when does my order arrive"],
    "card": ["my card was refused", "the card does not work", "unblock my card please"],
}
NEW = ["is there a pool in the hotel", "book a table for breakfast", "do you have a sauna"]


def known_rows(count: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    labels = [rng.choice(list(TOPICS)) for _ in range(count)]
    return [(f"{rng.choice(TOPICS[name])} {rng.randrange(100, 1000)}", name) for name in labels]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A release in production, made of a tiny classifier, and its server's folder."""
    folder = tmp_path_factory.mktemp("auto")
    lines = "".join(f"{text},{label}\n" for text, label in known_rows(400, 1))
    (folder / "rows.csv").write_text("text,label\n" + lines)
    recipe = {
        "base_model": str(make_tiny("bert", folder / "bert")),
        "data": {"train": str(folder / "rows.csv"), "validation": 0.2, "test": 0.4},
        "training": {"max_steps": 20, "num_threads": 1, "precision": "fp32"},
        "evaluation": {"baselines": ["majority"]},
        "watch": {"batch_size": 20},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    assert run(["train", str(folder / "recipe.yaml"), "--run-dir", str(folder / "support")]) == 0
    words = ["release", "promote", str(folder / "support"), "--server", str(folder / "server")]
    assert run(words) == 0
    return folder


def write_traffic(folder, *, new: int, labelled: bool, begin: int = 0):
    rng = random.Random(begin + 3)
    rows = known_rows(200, 5 + begin) + [
        (f"{rng.choice(NEW)} {rng.randrange(100, 1000)}", "hotel") for _ in range(new)
    ]
    place = folder / "traffic"
    place.mkdir(exist_ok=True)
    with open(place / f"traffic-{begin:04d}.jsonl", "w") as file:
        for number, (text, label) in enumerate(rows):
            line = {"id": f"r{begin}-{number}", "time_s": 4e9 + begin + number, "input": text,
                    "release": "support@1"}  # fmt: skip
            file.write(json.dumps({**line, "label": label} if labelled else line) + "\n")
    return place


COSTS = ("business.cost_per_error_usd=1", "retune.retune_usd=30", "retune.margin=0.2",
         "retune.canary_share=0", "retune.cooldown_hours=0")  # fmt: skip


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(shop, capsys):
    server = ["--server", str(shop / "server")]
    traffic = str(write_traffic(shop, new=0, labelled=False))
    for words, part in (
        (["auto", "support", "--traffic", str(shop / "none")], "no such log"),
        (["auto", "other", "--traffic", traffic, "--once"], "nothing is in production"),
        (["auto", "sup/port", "--traffic", traffic, "--once"], "release name"),
        (["auto", "support", "--traffic", traffic, "--once"], "cost_per_error_usd"),
    ):
        capsys.readouterr()
        assert run([*words, *server]) == 2
        said = capsys.readouterr().err
        assert part in said
        assert "Traceback" not in said


@pytest.mark.slow
def test_waits_tunes_promotes_and_learns_each_row_once(shop, monkeypatch):
    with closing(open_database(sqlite_url(shop / "server" / "server.sqlite"))) as database:
        write_traffic(shop, new=0, labelled=False)
        keeper = Keeper("support", shop / "traffic", database, shop / "server" / "auto" / "support",
                        overrides=COSTS)  # fmt: skip
        calm = one_round(keeper, silence())
        assert (calm.what, calm.alerts) == ("waiting", 0)
        write_traffic(shop, new=140, labelled=False, begin=1000)
        unlabelled = one_round(keeper, silence())
        assert unlabelled.what == "waiting"
        assert unlabelled.alerts == 1
        assert "review.jsonl" in unlabelled.says[0]
        write_traffic(shop, new=140, labelled=True, begin=1000)

        def cut_off(*args, **named):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("tunewright.unattended.rounds.retune", cut_off)
            with pytest.raises(KeyboardInterrupt):
                one_round(keeper, silence())
        done = one_round(keeper, silence())
        assert done.what == "promoted", done.says
        assert done.release == "support@2"
        stages = {r.id: r.stage for r in list_releases(database, "support")}
        assert stages == {"support@1": "archived", "support@2": "production"}
        (first,) = [r for r in list_releases(database, "support") if r.stage == "production"]
        assert first.lineage["retuned"]["parent"].endswith("support")
        again = one_round(keeper, silence())
        assert "no traffic of this version yet" in again.says[0]
        events = [json.loads(line)["event"] for line in keeper.story.read_text().splitlines()]
        assert events == ["alarm", "tuning", "promoted"]
        state = json.loads(keeper.memory.read_text())
        assert len(state["used"]) == 340
        assert state["pending"] is None


def test_what_goes_wrong_is_told_once_and_rounds_go_on(tmp_path):
    with closing(open_database(sqlite_url(tmp_path / "x.sqlite"))) as database:
        keeper = Keeper("none", tmp_path, database, tmp_path / "auto")
        stop, rounds = threading.Event(), []

        def tell(done):
            rounds.append(done.what)
            if len(rounds) == 3:
                stop.set()

        assert keep_going(keeper, silence(), every_s=0.01, stop=stop, tell=tell) == 3
        assert rounds == ["failed"] * 3
        assert len(keeper.story.read_text().splitlines()) == 1


def test_corrections_are_no_sample():
    """100 of 1,000 requests have a label: of a sample a tenth is wrong; or only what was wrong."""
    sample = [Request(f"{n}", 0, "x", "a", label="a" if n >= 10 else "b") for n in range(100)]
    assert excess_errors(sample, 1000, 0.05) == pytest.approx(50)
    named = [replace(r, label="b") for r in sample]
    assert excess_errors(named, 1000, 0.05) == pytest.approx(50)


def test_only_requests_of_this_release_count():
    made = [Request("a", 9.0, "x", release="support@1"), Request("b", 9.0, "y", label="l"),
            Request("c", 9.0, "z", release="other", label="l"),
            Request("d", 9.0, "z", release="support@2", label="l")]  # fmt: skip
    assert [r.id for r in new_rows(made, "support", {"used": ["b"]})] == ["d"]

    class First:
        id, changed_at = "support@1", 5

    assert [r.id for r in asked_of(made, First())] == ["a"]
    assert [r.id for r in asked_of(made[1:2], First())] == ["b"]
