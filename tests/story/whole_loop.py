"""The whole loop with real commands: `serve`, `auto` and users who ask, while the world changes.

banking77 with the embedded base. The model knows some intents; at a known moment others appear in
the traffic. Users send feedback for part of the answers. Nobody does anything else.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunewright.asking import open_asker
from tunewright.records import Example

NAME = "support"
SETTINGS = {
    "base_model": "embedded:minilm",
    "data": {"validation": 0.1, "test": 0.25, "columns": {"input": "text", "output": "category"}},
    "training": {"num_threads": 1},
    "evaluation": {"baselines": ["majority"]},
    "business": {"cost_per_error_usd": 1.0},
    "retune": {
        "retune_usd": 250.0, "cooldown_hours": 0.0, "least_rows": 100, "margin": 0.05,
        "canary_share": 0.2, "canary_requests": 40,
    },
}  # fmt: skip
"""The margin is five points, for 300 test rows cannot rule out less. Tuning again costs as much as
250 errors, so that some hundred new rows have labels by then."""


@dataclass
class World:
    """Rows by what they are for. new_share: of the requests once the world has changed."""

    train: list[tuple[str, str]]
    known_traffic: list[tuple[str, str]]
    new_traffic: list[tuple[str, str]]
    everything: list[tuple[str, str]]
    known_test: list[tuple[str, str]]
    new_test: list[tuple[str, str]]
    new_share: float = 0.4


def make_world(data: Path, *, num_known: int, num_new: int, seed: int) -> World:
    """100 rows a known class are trained and judged on, the rest of them and all of the new classes
    are traffic; the set's own test file scores the end.
    """
    rng = random.Random(seed)
    sides: dict[str, dict[str, list[tuple[str, str]]]] = {"train": {}, "test": {}}
    for side, table in sides.items():
        with open(data / "banking77" / f"{side}.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                pair = (row["text"].strip(), row["category"])
                table.setdefault(row["category"], []).append(pair)
    names = [name for name in sorted(sides["train"]) if len(sides["train"][name]) >= 120]
    rng.shuffle(names)
    known, new = names[:num_known], names[num_known : num_known + num_new]
    for name in (*known, *new):
        rng.shuffle(sides["train"][name])

    def rows(side: str, labels: list[str], begin: int = 0, end: int | None = None) -> list[Any]:
        return [row for name in labels for row in sides[side][name][begin:end]]

    return World(
        train=rows("train", known, 0, 100),
        known_traffic=rows("train", known, 100),
        new_traffic=rows("train", new),
        everything=[*rows("train", known), *rows("train", new)],
        known_test=rows("test", known),
        new_test=rows("test", new),
    )


@dataclass
class Users:
    """Who asks: one after the other, at most `per_s` a second, and labels a share of the answers."""

    url: str
    world: World
    per_s: float = 20.0
    labelled: float = 0.6
    liar: float = 0.0
    """Share of the clients' requests whose label one client flips."""
    changed: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    failed: list[str] = field(default_factory=list)
    answers: list[tuple[float, str, bool, bool]] = field(default_factory=list)
    """(when, release, about something new, right)."""

    def run(self, seed: int = 3) -> None:
        rng = random.Random(seed)
        for number in itertools.count():
            if self.stop.is_set():
                return
            begun = time.monotonic()
            new = self.changed.is_set() and rng.random() < self.world.new_share
            text, label = rng.choice(self.world.new_traffic if new else self.world.known_traffic)
            self.asked += 1
            try:
                self._ask(number, text, label, new, rng.random() < self.labelled)
            except Exception as error:  # whatever it is, a user saw a request fail
                self.failed.append(f"{type(error).__name__}: {error}")
            time.sleep(max(0.0, 1 / self.per_s - (time.monotonic() - begun)))

    def _ask(self, number: int, text: str, label: str, new: bool, tells: bool) -> None:
        body = {"model": NAME, "input": [text], "user": f"user {number % 20}"}
        release, said = post(f"{self.url}/classify", body)
        right = said["data"][0]["label"] == label
        self.answers.append((time.time(), release, new, right))
        if tells:
            post(f"{self.url}/feedback", {"request_id": f"{said['id']}-0", "label": label})


def post(url: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the release that answered, the answer)."""
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.headers.get("x-tunewright-release", ""), json.load(answer)


def write_rows(rows: list[tuple[str, str]], path: Path) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows(rows)
    return path


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tunewright", *words]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TUNEWRIGHT_SERVER": str(folder / "server"), "OMP_NUM_THREADS": "1"}


def tune(folder: Path, name: str, rows: list[tuple[str, str]], more: dict[str, Any]) -> Path:
    """A run by `tunewright train`."""
    recipe = {**SETTINGS, **more}
    recipe["data"] = {**SETTINGS["data"], "train": str(write_rows(rows, folder / f"{name}.csv"))}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run = folder / "runs" / name
    finish(folder, "train", str(path), "--run-dir", str(run))
    return run


def finish(folder: Path, *words: str) -> str:
    """Run a command to its end; its output, and an error that tells what it said."""
    done = subprocess.run(
        command(folder, *words), cwd=folder, env=environment(folder), text=True,
        capture_output=True, timeout=1200,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def going(folder: Path, name: str, *words: str):
    """A command that goes on; ended with SIGINT. Gives its log file."""
    log = folder / f"{name}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            command(folder, *words), cwd=folder, env=environment(folder), stderr=file, stdout=file
        )
    try:
        yield log, process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def address_in(log: Path, process: Any) -> str:
    for _ in range(600):
        for line in log.read_text().splitlines():
            if line.startswith("OPENAI_BASE_URL="):
                return line.partition("=")[2]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def read_story(folder: Path) -> list[dict[str, Any]]:
    path = folder / "server" / "auto" / NAME / "story.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def accuracy(run: Path, world: World) -> float:
    """Share of right answers on rows nobody saw, mixed as the new traffic is."""
    asker = open_asker(str(run))
    shares = []
    for rows in (world.known_test, world.new_test):
        examples = [Example(f"{n}", "test", text, label) for n, (text, label) in enumerate(rows)]
        said = asker.predict(examples, system="tuned", split="test")
        shares.append(sum(p.prediction == p.reference for p in said) / len(said))
    return (1 - world.new_share) * shares[0] + world.new_share * shares[1]


def play(
    folder: Path, data: Path, *, num_known: int = 10, num_new: int = 3, seed: int = 17,
    quiet_requests: int = 600, after_requests: int = 300, patience_s: float = 900.0,
) -> dict[str, Any]:  # fmt: skip
    """The whole story; what happened, with figures."""
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(data, num_known=num_known, num_new=num_new, seed=seed)
    first = tune(folder, NAME, world.train, {})
    finish(folder, "release", "promote", str(first), "--name", NAME)
    with going(folder, "serve", "serve", "--port", "0", "--capture", "traffic", "--no-worker") as (
        log, process,
    ):  # fmt: skip
        users = Users(address_in(log, process), world)
        thread = threading.Thread(target=users.run, daemon=True)
        thread.start()
        _until(lambda: users.asked >= 50, patience_s)
        with going(folder, "auto", "auto", NAME, "--traffic", "traffic", "--every-s", "2") as (
            told, keeper,
        ):  # fmt: skip
            _until(lambda: users.asked >= quiet_requests, patience_s)
            alarms_before = sum(line["event"] == "alarm" for line in read_story(folder))
            users.changed.set()
            changed_at = time.time()

            def settled() -> bool:
                assert keeper.poll() is None, told.read_text()[-3000:]
                return any(line["event"] == "promoted" for line in read_story(folder))

            _until(settled, patience_s)
            promoted_at, at = time.time(), users.asked
            _until(lambda: users.asked >= at + after_requests, patience_s)
        users.stop.set()
        thread.join(90)
    story = read_story(folder)
    run = folder / "runs" / next(s["run"] for s in story if s["event"] == "promoted")
    joint = tune(folder, "everything", world.everything, {})
    return {
        **_figures(users, story, changed_at, promoted_at),
        "alarms_before_the_change": alarms_before,
        "accuracy_before": accuracy(first, world),
        "accuracy_after": accuracy(run, world),
        "accuracy_of_training_on_everything": accuracy(joint, world),
        "story": story,
    }


def _figures(
    users: Users, story: list[dict[str, Any]], changed_at: float, promoted_at: float
) -> dict[str, Any]:
    alarm = next((s["at"] for s in story if s["event"] == "alarm" and s["at"] >= changed_at), None)
    during = [right for at, _, _, right in users.answers if changed_at <= at < promoted_at]
    after = [right for at, _, _, right in users.answers if at >= promoted_at + 2]
    between = None if alarm is None else sum(changed_at <= a[0] < alarm for a in users.answers)
    return {
        "requests": users.asked,
        "failed": users.failed,
        "answered_by": dict(Counter(release for _, release, _, _ in users.answers)),
        "seconds_to_alarm": None if alarm is None else alarm - changed_at,
        "requests_to_alarm": between,
        "seconds_to_promotion": promoted_at - changed_at,
        "live_accuracy_during": sum(during) / max(1, len(during)),
        "live_accuracy_after": sum(after) / max(1, len(after)),
    }


def _until(what: Any, patience_s: float) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < patience_s, "it took too long"
        time.sleep(0.2)
