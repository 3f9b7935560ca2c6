"""kill -9 of server, worker, or both, at random moments, with jobs in every state.

    python -m bench.job_kills                1,000 kills
    python -m bench.job_kills --kills 100    the small form
    python -m bench.job_kills --quick        four, to see that it works

What must hold: no acknowledged job is missing, every job succeeded once and has one model, the
database is sound, and every model is bit for bit that of an undisturbed run with the same seed.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import psutil
from bench.record import at_least, at_most, record
from tests.api.tuning_server import TuningServer, write_settings
from tests.jobs.tuning_place import RECIPE, chat_rows, jsonl
from tests.model_zoo import make_tiny

DEVICE = "2 shared cores of an AMD EPYC with AVX512-BF16"
SEEDS = (3, 5, 7)
JOBS = {
    "recipe": {**RECIPE, "training.save_steps": 4}, "lease_s": 3.0, "grace_s": 2.0, "at_once": 2,
    "max_crashes": 1000,
}  # fmt: skip
PATIENCE_S = 15.0
"""A worker whose server was killed goes on as long as it has jobs, and five seconds more."""
ENDED = ("succeeded", "failed", "cancelled")


class Campaign:
    """A server that is killed and started again, and the jobs that it acknowledged."""

    def __init__(self, place: Path, seed: int, say=print):
        self.place, self.dice, self.say = place, random.Random(seed), say
        self.folder = place / "server"
        write_settings(self.folder, make_tiny("llama", place / "llama"), JOBS)
        self.server = TuningServer(self.folder)
        self.file = self._upload()
        self.acknowledged: dict[str, int] = {}
        self.sent = 0

    def _ask(self, method, path, body=None, headers=None):
        line = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            line.request(method, path, body, headers or {"Content-Type": "application/json"})
            reply = line.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            line.close()

    def _upload(self) -> str:
        client = self.server.client()
        return client.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id

    def submit(self, seed: int) -> str | None:
        """The id of a new job; None when nobody answered."""
        body = {"model": "gpt-4o-mini", "training_file": self.file, "seed": seed,
                "hyperparameters": {"n_epochs": 4, "batch_size": 4}}  # fmt: skip
        self.sent += 1
        try:
            status, reply = self._ask("POST", "/v1/fine_tuning/jobs", json.dumps(body))
        except (OSError, http.client.HTTPException, ValueError):
            return None
        assert status == 200, reply
        self.acknowledged[reply["id"]] = seed
        return reply["id"]

    def states(self) -> dict[str, str]:
        try:
            with sqlite3.connect(f"file:{self.folder / 'server.sqlite'}?mode=ro", uri=True,
                                 timeout=30) as line:  # fmt: skip
                return dict(line.execute("SELECT id, status FROM jobs").fetchall())
        except sqlite3.OperationalError:
            return {}

    def num_open(self) -> int:
        return sum(state not in ENDED for state in self.states().values())

    def kill_one(self) -> str:
        """Kill something at a random moment; what is gone comes back."""
        time.sleep(self.dice.uniform(0.1, 7.0))
        what = self.dice.choice(["worker", "worker", "server", "both"])
        if self.dice.random() < 0.3:  # the moment an acknowledgement comes is a moment like any
            self.submit(self.dice.choice(SEEDS))
        if what in ("worker", "both"):
            worker = self.server.worker()
            if worker is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        if what in ("server", "both"):
            self.server.kill()
            self.server = TuningServer(self.folder)
        return what

    def wait(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.num_open() == 0:
                return True
            time.sleep(0.5)
        return False

    def weights(self, job_id: str) -> str:
        return weights_of(self.folder / "jobs" / job_id / "run" / "model")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that have a server's folder among their arguments."""
    return [p for p in psutil.process_iter(["cmdline"])
            if str(folder) in " ".join(p.info["cmdline"] or [])]  # fmt: skip


def weights_of(model: Path) -> str:
    """SHA-256 over the names and bytes of a model's weights."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        digest.update(path.name.encode() + path.read_bytes())
    assert list(model.glob("*.safetensors")), model
    return digest.hexdigest()


def run(kills: int, seed: int, place: Path, say=print) -> dict[str, float]:
    """Counts of what went wrong, and of what was done."""
    campaign = Campaign(place, seed, say)
    reference = {}
    for number in SEEDS:
        job = campaign.submit(number)
        assert job is not None
        reference[job] = number
    assert campaign.wait(600), campaign.states()
    assert set(campaign.states().values()) == {"succeeded"}, "".join(campaign.server.lines)
    undisturbed = {number: campaign.weights(job) for job, number in reference.items()}
    counts = {"worker": 0, "server": 0, "both": 0}
    for number in range(kills):
        while campaign.num_open() < 3:
            campaign.submit(campaign.dice.choice(SEEDS))
        counts[campaign.kill_one()] += 1
        if number % 10 == 9:
            say(f"{number + 1} kills, {len(campaign.acknowledged)} jobs acknowledged")
    finished = campaign.wait(1200)
    states = campaign.states()
    log = campaign.server.stop()
    with sqlite3.connect(campaign.folder / "server.sqlite") as line:
        sound = line.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        models = dict(
            line.execute("SELECT job_id, count(*) FROM models WHERE step IS NULL GROUP BY job_id")
        )
        attempts = line.execute("SELECT sum(attempts), max(attempts) FROM jobs").fetchone()
        seeds = dict(line.execute("SELECT id, seed FROM jobs").fetchall())
    if not finished or any(state == "failed" for state in states.values()):
        say(log[-4000:])
    different = [
        job
        for job, state in states.items()
        if state == "succeeded" and campaign.weights(job) != undisturbed[seeds[job]]
    ]
    left = processes_of(campaign.folder)
    until = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < until:
        time.sleep(0.5)
        left = processes_of(campaign.folder)
    return {
        "kills": kills, **{f"kills_{what}": count for what, count in counts.items()},
        "jobs": len(states), "acknowledged": len(campaign.acknowledged),
        "missing": sum(job not in states for job in campaign.acknowledged),
        "unfinished": sum(state != "succeeded" for state in states.values()),
        "not_one_model": sum(
            models.get(job, 0) != 1 for job, state in states.items() if state == "succeeded"
        ),
        "unasked": len(states) - campaign.sent if len(states) > campaign.sent else 0,
        "different": len(different), "sound": float(sound), "attempts": attempts[0],
        "most_attempts": attempts[1], "processes_left": len(left),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    kills = 4 if options.quick else options.kills
    place = Path(tempfile.mkdtemp(prefix="tunewright-kills-"))
    os.environ.setdefault("TUNEWRIGHT_CACHE", str(place / "cache"))
    started = time.time()
    try:
        found = run(kills, options.seed, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found))
    bars = [
        at_most("acknowledged jobs that are missing", found["missing"], 0),
        at_most("jobs that did not succeed", found["unfinished"], 0),
        at_most("jobs without exactly one model", found["not_one_model"], 0),
        at_most("jobs that nobody asked for", found["unasked"], 0),
        at_most("models that differ from an undisturbed run", found["different"], 0),
        at_least("database sound", found["sound"], 1),
        at_most("processes left", found["processes_left"], 0),
    ]
    if options.quick:
        print([bar for bar in bars if not bar.passed] or "all hold")
        return
    record("job_kills", bars, DEVICE, {"found": found, "seconds": round(time.time() - started)})


if __name__ == "__main__":
    main()
