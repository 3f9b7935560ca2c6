"""The three stories, played unattended: `python bench/stories.py [fraud service code] [--small]`.

A story is its page in docs/tutorials: the rows are made, then every command that the page shows is
run, in order, in a folder that has `recipes/`. Exit status 0 and 1 (the answer is no) go on,
anything else ends the story. results/story_NAME.json keeps bars and figures, read off the files
that the commands left. With --small the rows are made up, trainings take a few steps, and nothing
is recorded: that is what the tests play.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import story_rows
from record import Bar, at_least, at_most, record

REPO = Path(__file__).parents[1]
DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or REPO.parent / "shared" / "data")
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHORT = ("training.max_steps=6", "training.num_threads=1", "evaluation.max_rows=24")
Figures = dict[str, Any]


def commands_of(page: Path) -> list[list[str]]:
    """What the page shows to be typed, line by line."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("tunewright ")]


def shortened(command: Sequence[str]) -> list[str]:
    """The command with a few steps instead of a training."""
    if command[1] not in ("train", "retune"):
        return list(command)
    short = [word for item in SHORT for word in ("--set", item)]
    return [*command, *(short if command[1] == "train" else short[:4])]


def play(name: str, folder: Path, *, small: bool, threads: str | None = None) -> list[Figures]:
    """Make the rows of a story in `folder` and run its page; what each command said and took.

    Raises RuntimeError with the last lines of a command that broke.
    """
    page, makers, _ = STORIES[name]
    shutil.copytree(REPO / "recipes", folder / "recipes", dirs_exist_ok=True)
    for make in makers:
        make(folder / "rows", DATA, small=small)
    if name != "fraud":
        story_rows.make_byte_model(folder / "models" / "bytes", small=small)
    told = []
    for command in commands_of(REPO / "docs" / "tutorials" / f"{page}.md"):
        words = shortened(command) if small else list(command)
        if threads and words[1] == "train":
            words += ["--set", f"training.num_threads={threads}"]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", "from tunewright.cli.main import main; main()", *words[1:]],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = round(time.perf_counter() - started, 1)
        if not small:
            print(f"{seconds:8.1f} s  {done.returncode}  {' '.join(command)}", flush=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(words)} ended in {done.returncode}: "
                               f"{done.stderr[-2000:]}")  # fmt: skip
        told.append({"command": " ".join(command), "status": done.returncode, "seconds": seconds,
                     "said": done.stdout[-4000:]})  # fmt: skip
    return told


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def results_of(run: Path) -> Figures:
    """Figures of every system with intervals, comparisons and verdict of a finished run."""
    report = read(run / "report.json")
    return {
        "verdict": report["verdict"],
        "because": report["because"],
        "primary_metric": report["primary_metric"],
        "results": {
            item["system"]: {
                name: [round(score["value"], 5), *(round(end, 5) for end in score["ci95"] or ())]
                for name, score in item["metrics"].items()
            }
            for item in report["results"]
        },
        "comparisons": report["comparisons"],
        "seconds": report["cost"]["seconds"]["measured"],
    }  # fmt: skip


def said_by(told: Sequence[Figures], start: str) -> list[str]:
    return [item["said"] for item in told if item["command"].startswith(f"tunewright {start}")]


def honest(found: Figures, rival: str) -> bool:
    """Better than the rival by the paired test, or a verdict that does not ship."""
    word = next((c["verdict"] for c in found["comparisons"] if c["b"] == rival), "missing")
    return word == "better" or (word != "missing" and found["verdict"] != "ship")


def value(found: Figures, metric: str, system: str = "tuned") -> float:
    return float(found["results"][system][metric][0])


def bars_of_fraud(folder: Path, told: Sequence[Figures]) -> tuple[list[Bar], Figures]:
    texts, payments = results_of(folder / "runs/fraud"), results_of(folder / "runs/payments")
    alerts = folder / "runs/fraud/watch/alerts.jsonl"
    raised = len(alerts.read_text().splitlines()) if alerts.exists() else 0
    bars = [
        at_least("text alone at 1 in 100: better than TF-IDF, or the cheap model is advised",
                 honest(texts, "tfidf_linear"), 1),
        at_least("text with columns at 1 in 100: better than TF-IDF, or the cheap one is advised",
                 honest(payments, "tfidf_linear"), 1),
        at_least("alarms about the new campaign", raised, 1),
    ]  # fmt: skip
    more = {
        "texts": texts, "payments": payments, "thresholds": said_by(told, "threshold"),
        "spelling": said_by(told, "evaluate"), "watch": said_by(told, "watch"),
        "retune": said_by(told, "retune"),
    }  # fmt: skip
    return bars, more


def bars_of_service(folder: Path, told: Sequence[Figures]) -> tuple[list[Bar], Figures]:
    routing, slots = results_of(folder / "runs/routing"), results_of(folder / "runs/assistant")
    found = read(folder / "runs/routing/threshold.json")
    kept = (found["judged"].get("right of answered") or {"ci95": [0, 0]})["ci95"][1]
    bars = [
        at_least("routing: better than TF-IDF, or the cheap model is advised",
                 honest(routing, "tfidf_linear"), 1),
        at_least("hand-over: promised precision within the interval on test", kept, 0.95),
        at_least("assistant: better than the nearest neighbour, or it is said",
                 honest(slots, "nearest_neighbour"), 1),
        at_most("assistant: answers with a wrong slot, before less after",
                value(slots, "wrong_slots") - value(slots, "wrong_slots", "base"), 0),
    ]  # fmt: skip
    more = {"routing": routing, "assistant": slots, "threshold": found,
            "watch": said_by(told, "watch"), "benefit": said_by(told, "benefit")}  # fmt: skip
    return bars, more


def bars_of_code(folder: Path, told: Sequence[Figures]) -> tuple[list[Bar], Figures]:
    regex, bash = results_of(folder / "runs/regex"), results_of(folder / "runs/bash")
    interval = regex["results"]["tuned"]["regex_equal"][1:]
    bars = [
        at_least("regex: semantic equality by automata, with interval", len(interval) == 2, 1),
        at_least("regex: better than the nearest neighbour, or it is said",
                 honest(regex, "nearest_neighbour"), 1),
        at_least("bash: better than the nearest neighbour, or it is said",
                 honest(bash, "nearest_neighbour"), 1),
    ]  # fmt: skip
    return bars, {"regex": regex, "bash": bash, "drawn": said_by(told, "evaluate")}


Judge = Callable[[Path, Sequence[Figures]], tuple[list[Bar], Figures]]
STORIES: Mapping[str, tuple[str, tuple[Callable[..., None], ...], Judge]] = {
    "fraud": ("fraud", (story_rows.fraud, story_rows.fraud_columns), bars_of_fraud),
    "service": ("service", (story_rows.routing, story_rows.assistant), bars_of_service),
    "code": ("code", (story_rows.regex, story_rows.bash), bars_of_code),
}


def main(words: Sequence[str]) -> None:
    small = "--small" in words
    for name in [word for word in words if not word.startswith("--")] or STORIES:
        folder = Path(tempfile.gettempdir()) / "tunewright-stories" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"== {name}", flush=True)
        told = play(name, folder, small=small, threads=os.environ.get("STORY_THREADS"))
        bars, more = STORIES[name][2](folder, told)
        if small:
            continue
        ended = at_least("plays unattended, commands that ended well", len(told), len(told))
        took = [{k: item[k] for k in ("command", "status", "seconds")} for item in told]
        record(f"story_{name}", [ended, *bars], os.environ.get("STORY_DEVICE", ""),
               {"played": took, **more})  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
