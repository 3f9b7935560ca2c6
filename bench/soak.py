"""A week in production, compressed: one server, many requests, and everything that goes wrong.

Plays `--requests` (200,000) classify requests from eight clients against a real `tunewright serve`,
with feedback, and between them: an upgrade of the server's database from its first version, two
drifts, a client that poisons its feedback, a full disk under the captured traffic, a worker killed
in the middle of a job, a release promoted after `retune`, a bad one promoted and rolled back. At
the end every page of the dashboard is opened.

    python bench/soak.py [--requests N] [--quick]

Bars: requests without an answer, answers of status 500 and more, slope of the server's resident
memory after the first fifth, alarms at the drifts and none before, the release in front at the end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import planted
from record import at_least, at_most, record

REPO = Path(__file__).parents[1]
MAIN = "from tunewright.cli.main import main; main()"
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
CLIENTS = 8
KNOWN = 3
"""Topics that the model was tuned on; the fourth and fifth arrive later."""
TOPICS = 5
DISK_BYTES = 24 << 20
RECIPE = """\
task: classify
base_model: {base}
data: {{train: {rows}, validation: 0.25, test: 0.25}}
training: {{num_epochs: 4, num_threads: 1, learning_rate: 2.0e-3, batch_size: 16, precision: fp32}}
evaluation: {{baselines: [majority, tfidf_linear]}}
business: {{requests_per_month: 100000, cost_per_error_usd: 0.5, train_usd: 1}}
"""
JOB_ROWS = 60


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def text_of(rng: random.Random, topic: int) -> str:
    words = [f"f{rng.randrange(planted.FILLERS)}" for _ in range(6)]
    words += [planted.word(topic, rng.randrange(planted.WORDS // TOPICS)) for _ in range(2)]
    rng.shuffle(words)
    return " ".join(words)


def label_of(topic: int) -> str:
    return f"label-{topic:02d}"


class Week:
    """The folder, the server and what the clients met."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self.sent = self.answered = 0
        self.lost: list[str] = []
        self.faults: list[str] = []
        self.memory: list[tuple[float, int]] = []
        self.events: list[str] = []
        self.lock = threading.Lock()

    def run(self, *words: str, allowed: Sequence[int] = (0,)) -> Any:
        """A command of ours, as JSON. Raises RuntimeError for another exit status."""
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words, "--json"], cwd=self.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode not in allowed:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}: {done.stderr[-1500:]}")
        return json.loads(done.stdout)

    def note(self, text: str) -> None:
        say(text)
        self.events.append(f"{self.answered}: {text}")

    # The server

    def start(self) -> None:
        said = os.open(self.folder / "server.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.server = subprocess.Popen(
            [sys.executable, "-c", MAIN, "serve", "runs/first", "--capture", "traffic",
             "--server", "server", "--port", "0", "--base", f"tiny={self.folder / 'llama'}"],
            cwd=self.folder, stderr=said, stdout=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            log = (self.folder / "server.log").read_text(encoding="utf-8")
            if found := re.search(r"OPENAI_BASE_URL=http://127\.0\.0\.1:(\d+)/v1", log):
                self.port = int(found[1])
                return
            if self.server.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text())

    def stop(self) -> int:
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(timeout=60)

    def watch_memory(self, stopped: threading.Event) -> None:
        process = psutil.Process(self.server.pid)
        while not stopped.wait(1.0):
            try:
                self.memory.append((time.monotonic(), process.memory_info().rss))
            except psutil.Error:
                return

    # The clients

    def ask(self, connection: http.client.HTTPConnection, path: str, body: Any) -> Any:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        if reply.status >= 500:
            self.faults.append(f"{path} {reply.status} {text[:200]!r}")
        return json.loads(text) if reply.status == 200 else None

    def client(self, number: int, count: int, topics: Sequence[int], *, poison: bool) -> None:
        rng = random.Random(f"{number} {self.sent} {topics}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for turn in range(count):
            topic = rng.choice(topics)
            asked = {"model": "support", "input": [text_of(rng, topic)], "user": f"c{number}"}
            try:
                found = self.ask(connection, "/v1/classify", asked)
                if found and turn % 10 == 0:
                    said = found["data"][0]["label"]
                    wrong = label_of((topic + 1) % KNOWN)
                    label = wrong if poison and said == label_of(topic) else label_of(topic)
                    self.ask(connection, "/v1/feedback",
                             {"request_id": f"{found['id']}-0", "label": label})  # fmt: skip
            except (OSError, http.client.HTTPException, ValueError) as error:
                found = None
                connection.close()
                self.lost.append(repr(error))
            with self.lock:
                self.sent += 1
                self.answered += found is not None

    def days(
        self, share: float, topics: Sequence[int], *, poison: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """A share of the week's requests; client 0 poisons if told. `meanwhile` runs beside."""
        count = max(1, int(self.total * share / CLIENTS))
        threads = [
            threading.Thread(target=self.client, args=(n, count, topics),
                             kwargs={"poison": poison and n == 0})
            for n in range(CLIENTS)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        if meanwhile:
            meanwhile()
        for thread in threads:
            thread.join()


# What goes wrong


def old_database(folder: Path) -> None:
    """A server's folder as the first version left it: one table version, one uploaded job."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    from tunewright.database.migrate import VERSIONS

    folder.mkdir(mode=0o700)
    script = ScriptDirectory(str(VERSIONS), version_locations=[str(VERSIONS)])
    engine = create_engine(f"sqlite:///{folder / 'server.sqlite'}")
    with (
        engine.begin() as connection,
        EnvironmentContext(
            Config(), script, fn=lambda now, _: script._upgrade_revs("v0001_jobs", now)
        ) as environment,
    ):
        environment.configure(connection=connection, transactional_ddl=False)
        environment.run_migrations()
    engine.dispose()


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A disk of DISK_BYTES at `place` where this user may mount one; else just the folder."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    mounted = os.name == "posix" and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


def fill(place: Path) -> Path:
    """Fill the disk to its last byte."""
    path = place / "ballast"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return path


def kill_a_worker(week: Week) -> None:
    """Queue a job, kill the worker that took it; another has to finish it."""
    job = week.run("jobs", "submit", "job.jsonl", "--base", "tiny", "--server", "server")
    name = job.get("id") or job["job"]["id"]
    week.job = name  # type: ignore[attr-defined]
    ends = time.monotonic() + 180
    while time.monotonic() < ends:
        state = week.run("jobs", "show", name, "--server", "server")
        if state["status"] == "running":
            break
        time.sleep(0.5)
    for process in psutil.Process(week.server.pid).children():
        if "tunewright.jobs.work" in " ".join(process.cmdline()):
            process.kill()
            week.note("a worker was killed")
            return


def alarms(week: Week) -> list[dict[str, Any]]:
    """Alarms of `watch` over all traffic so far."""
    parts = sorted((week.folder / "traffic").glob("traffic-*.jsonl"))
    log = week.folder / "log.jsonl"
    log.write_bytes(b"".join(path.read_bytes() for path in parts))
    found = week.run("watch", "runs/first", "--replay", str(log))
    return list(found["alerts"])


def pages(week: Week) -> list[str]:
    """Pages of the dashboard that do not open."""
    broken = []
    paths = ["/", "/runs", "/runs/first", "/traffic", "/playground", "/metrics", "/healthz"]
    for path in [*paths, "/v1/models", "/compare", "/releases"]:
        connection = http.client.HTTPConnection("127.0.0.1", week.port, timeout=60)
        connection.request("GET", path)
        status = connection.getresponse().status
        if status >= 500 or (path in paths and status != 200):
            broken.append(f"{path} {status}")
    return broken


def make_place(folder: Path) -> None:
    """Base, rows, the first run, and a tiny causal base with rows for a job."""
    sys.path[:0] = [str(REPO), str(REPO / "tests")]
    from tests.model_zoo import make_tiny

    planted.make_base(folder / "base", topics=TOPICS)
    rng = random.Random(1)
    lines = [f"{text_of(rng, n % KNOWN)},{label_of(n % KNOWN)}" for n in range(1600)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE.format(base=folder / "base", rows="rows.csv"))
    make_tiny("llama", folder / "llama")
    (folder / "job.jsonl").write_text("".join(
        json.dumps({"messages": [{"role": "user", "content": f"count to {n}"},
                                 {"role": "assistant", "content": f"yes {n}"}]}) + "\n"
        for n in range(JOB_ROWS)
    ))  # fmt: skip


def play(week: Week, *, disk: bool) -> dict[str, Any]:
    """The week. Returns what its decisions came to."""
    known, first, second = range(KNOWN), [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4]
    folder, found = week.folder, {}
    week.run("release", "promote", "runs/first", "--name", "support", "--server", "server")
    time.sleep(3)
    week.note("Monday: as tested")
    week.days(0.25, known)
    found["quiet_alarms"] = len(alarms(week))
    week.note("Tuesday: a worker dies while it trains")
    week.days(0.1, known, meanwhile=lambda: kill_a_worker(week))
    if disk:
        week.note("Wednesday: the disk under the traffic is full")
        ballast = fill(folder / "traffic")
        week.days(0.1, known)
        ballast.unlink()
    week.note("Thursday: the first drift, and a client that poisons")
    week.days(0.2, first, poison=True)
    seen = alarms(week)
    found["first_drift_alarms"] = len(seen)
    labelled = folder / "log.jsonl"
    update = week.run("retune", "runs/first", "--new", str(labelled), "--run-dir", "runs/second",
                      allowed=(0, 1))  # fmt: skip
    found["retune"] = update["update"]
    better = "runs/second"
    week.note(f"Friday: the new model is put in front (gate {update['update']['promoted']})")
    week.run("release", "promote", better, "--name", "support", "--to", "canary", "--share", "0.2",
             "--server", "server", allowed=(0, 1))  # fmt: skip
    week.days(0.1, first, meanwhile=lambda: week.run(
        "release", "promote", better, "--name", "support", "--server", "server",
        allowed=(0, 1)))  # fmt: skip
    week.note("Saturday: the second drift; a wrong release is promoted and rolled back")
    before = front(week)
    week.run("release", "promote", "runs/first", "--name", "support", "--server", "server",
             allowed=(0, 1))  # fmt: skip
    wrong = front(week)
    week.days(0.15, second, meanwhile=lambda: week.run(
        "release", "rollback", "support", "--server", "server", allowed=(0, 1)))  # fmt: skip
    found["second_drift_alarms"] = len(alarms(week))
    found |= {"front_before": before, "front_wrong": wrong, "front_after": front(week)}
    week.note("Sunday: quiet")
    week.days(0.1, first)
    return found


def front(week: Week) -> str:
    """The version in production."""
    listed = week.run("release", "list", "--server", "server")["releases"]
    return next((f"{r['name']}@{r['version']}" for r in listed if r["stage"] == "production"), "")


def slope_mb_per_minute(memory: Sequence[tuple[float, int]]) -> float:
    """Of resident memory after the first fifth of the time, by least squares."""
    kept = memory[len(memory) // 5 :]
    if len(kept) < 10:
        return 0.0
    times = np.array([t for t, _ in kept]) - kept[0][0]
    sizes = np.array([size for _, size in kept]) / 1e6
    return float(np.polyfit(times / 60, sizes, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="3,000 requests; nothing is recorded")
    options = parser.parse_args()
    total = 3000 if options.quick else options.requests
    folder = Path(tempfile.mkdtemp(prefix="tunewright-soak-"))
    week = Week(folder, total)
    try:
        make_place(folder)
        say("the first model is tuned")
        week.run("train", "recipe.yaml", "--run-dir", "runs/first")
        old_database(folder / "server")
        with small_disk(folder / "traffic") as disk:
            week.start()
            stopped = threading.Event()
            watcher = threading.Thread(target=week.watch_memory, args=(stopped,))
            watcher.start()
            found = play(week, disk=disk)
            broken = pages(week)
            job = week.run("jobs", "show", getattr(week, "job", ""), "--server", "server")
            stopped.set()
            watcher.join()
            status = week.stop()
    finally:
        if getattr(week, "server", None) and week.server.poll() is None:
            week.server.kill()
        log = folder / "server.log"
        said = log.read_text(encoding="utf-8") if log.exists() else ""
        shutil.rmtree(folder, ignore_errors=True)
    slope = slope_mb_per_minute(week.memory)
    say(
        f"{week.answered} of {week.sent} answered, {len(week.faults)} faults, "
        f"{slope:.2f} MB a minute, front {found['front_after']}, job {job['status']}"
    )
    print(
        json.dumps(
            {
                **found,
                "broken_pages": broken,
                "faults": week.faults[:5],
                "lost": week.lost[:5],
                "exit": status,
            },
            indent=1,
        )
    )
    if options.quick:
        return
    record(
        "soak",
        [
            at_most("requests without an answer", week.sent - week.answered, 0),
            at_most("answers of status 500 and more", len(week.faults), 0),
            at_most("tracebacks in the server's log", said.count("Traceback"), 0),
            at_most("resident memory, slope after the first fifth", slope, 1, "MB/min"),
            at_most("alarms before the first drift", found["quiet_alarms"], 0),
            at_least("alarms at the first drift", found["first_drift_alarms"], 1),
            at_least("job of the killed worker succeeded", job["status"] == "succeeded", 1),
            at_least("rolled back to the release that stood there before",
                     found["front_after"] == found["front_before"], 1),
            at_most("pages that do not open", len(broken), 0),
        ],
        HARDWARE,
        {"requests": week.sent, "disk_was_filled": disk, "events": week.events, **found,
         "minutes": (week.memory[-1][0] - week.memory[0][0]) / 60},
    )  # fmt: skip


if __name__ == "__main__":
    main()
