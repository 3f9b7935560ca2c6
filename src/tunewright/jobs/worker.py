"""The worker: takes jobs from the board, trains each in a child process, writes down what comes.

It may be killed at any moment: its lease runs out, its children stop by themselves, and whoever
takes the job next goes on from the last checkpoint. It never imports torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from sqlalchemy.exc import DBAPIError

from tunewright import figures
from tunewright.database.engine import Database
from tunewright.errors import RunError
from tunewright.evaluate.api_graders import with_models
from tunewright.jobs import leases
from tunewright.jobs.board import get_job
from tunewright.jobs.files import Incoming, drop_expired, note_checked, unchecked
from tunewright.jobs.folder import JobFolder
from tunewright.jobs.leases import Lease, LeaseLostError
from tunewright.jobs.models import get_model
from tunewright.jobs.paging import Record, new_id
from tunewright.jobs.processes import end_earlier_child, end_group, memory_of, start_child
from tunewright.jobs.repeats import forget_old
from tunewright.jobs.results import (
    Tail,
    checkpoint_metrics,
    outcome_of,
    results_csv,
    step_events,
    trained_tokens,
)
from tunewright.jobs.retention import drop_old
from tunewright.jobs.rows import check_rows
from tunewright.jobs.uploads import drop_expired_uploads
from tunewright.jobs.webhooks import deliver_due
from tunewright.settings import ServerFolder, ServerSettings
from tunewright.store import read_json, write_json

POLL_S = 0.25
CHORES_S = 2.0
TIDY_S = 600.0
RETRY_S = (2.0, 15.0, 60.0)
"""Waits before a job that crashed is tried again."""
DISK_WAIT_S = 60.0
HEADROOM = 0.95
CODES = {
    "training_file": "invalid_training_file",
    "validation_file": "invalid_validation_file",
}


@dataclass
class Task:
    """A job in this worker's hands."""

    job: Record
    lease: Lease
    folder: JobFolder
    phase: str
    process: subprocess.Popen[bytes]
    beat_at: float
    steps: Tail
    evaluations: Tail
    judged: list[Mapping[str, Any]] = field(default_factory=list)
    last_step: int = 0


class Worker:
    """Works on jobs until told to stop. say: where one line goes for what it does."""

    def __init__(
        self,
        database: Database,
        folder: ServerFolder,
        settings: ServerSettings,
        *,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.database, self.folder, self.settings, self.say = database, folder, settings, say
        self.name = f"{socket.gethostname()}-{os.getpid()}-{new_id('', 6)}"
        self.tasks: list[Task] = []
        self._closed = threading.Event()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Work until stopped() says so; then jobs are saved and given back."""
        threading.Thread(target=self._do_chores, daemon=True).start()
        try:
            while not stopped():
                busy = self.tick()
                time.sleep(POLL_S if not busy else 0.02)
        finally:
            self.close()

    def tick(self) -> bool:
        """One look at everything; True when something was begun or ended."""
        try:
            changed = False
            for task in list(self.tasks):
                changed = self._look_at(task) or changed
            return self._take_one() or changed
        except DBAPIError as error:
            self.say(f"database: {str(error.orig).splitlines()[0]}; trying again")
            time.sleep(1.0)
            return False

    def close(self) -> None:
        """End all children, saved, and give their jobs back at once."""
        self._closed.set()
        for task in self.tasks:
            end_group(task.process.pid, self.settings.jobs.grace_s)
            task.process.wait()
            try:
                leases.give_back(self.database, task.lease)
            except (LeaseLostError, DBAPIError):
                continue
        self.tasks.clear()

    def _take_one(self) -> bool:
        if not any(self._has_hand_for(phase) for phase in ("prepare", "train")):
            return False
        taken = leases.claim(self.database, self.name, self.settings.jobs.lease_s, self._choose)
        if taken is None:
            return False
        job, lease = taken
        try:
            self._begin(job, lease)
        except LeaseLostError:
            pass
        except (RunError, OSError, KeyError) as error:
            leases.note_failed(self.database, lease, code="server_error", message=str(error))
        return True

    def _choose(self, rows: Sequence[Record]) -> tuple[Record | None, Mapping[str, str]]:
        """The first that may start; a job that waits for memory lets none of its kind pass."""
        waits: dict[str, str] = {}
        for row in rows:
            phase = "train" if row["prepared"] else "prepare"
            mine = any(task.job["id"] == row["id"] for task in self.tasks)
            if mine or not self._has_hand_for(phase):
                continue
            if phase == "prepare":
                return row, waits
            if waits:
                continue
            reason = self._lack_of_memory(int(row["memory_bytes"] or 0))
            if reason is None:
                return row, waits
            waits[row["id"]] = reason
        return None, waits

    def _has_hand_for(self, phase: str) -> bool:
        """Files are looked at for one job at a time, beside those that are trained."""
        most = self.settings.jobs.at_once if phase == "train" else 1
        return sum(task.phase == phase for task in self.tasks) < most

    def _lack_of_memory(self, needed: int) -> str | None:
        """Why a job cannot run beside those that do; alone it may always try."""
        if not any(task.phase == "train" for task in self.tasks):
            return None
        taken = sum(int(task.job["memory_bytes"] or 0) for task in self.tasks)
        limit = self.settings.jobs.memory_gb
        if limit is not None:
            room = int(limit * 1e9)
        else:
            used = sum(memory_of(task.process.pid) for task in self.tasks)
            room = int(HEADROOM * (psutil.virtual_memory().available + used))
        if taken + needed <= room:
            return None
        return (
            f"memory: {figures.show_bytes(needed)} forecast, and "
            f"{figures.show_bytes(max(0, room - taken))} are free beside the jobs that run"
        )

    def _begin(self, job: Record, lease: Lease) -> None:
        folder = JobFolder(self.folder.job(job["id"]))
        folder.path.mkdir(parents=True, exist_ok=True)
        end_earlier_child(folder, self.settings.jobs.grace_s)
        phase = "train" if job["prepared"] else "prepare"
        resumed = folder.run.checkpoints.is_dir()
        write_json(folder.request, {**self._request(job), "fence": lease.fence})
        folder.ended.unlink(missing_ok=True)
        self._show_alive(folder, lease)
        if phase == "train":
            seconds = (job["forecast"] or {}).get("seconds")
            leases.note_started(self.database, lease, resumed=resumed, seconds=seconds)
        process = start_child(folder, phase)
        run = folder.run
        task = Task(
            job, lease, folder, phase, process, time.monotonic(), Tail(run.steps),
            Tail(run.evaluations), last_step=int(job["last_step"]),
        )  # fmt: skip
        self.tasks.append(task)
        self.say(f"{job['id']}: {phase} (process {process.pid})")

    def _request(self, job: Record) -> dict[str, Any]:
        """What the child has to know."""
        jobs = self.settings.jobs
        base = self._folder_of(job["base_model"])
        validation = job["validation_file"]
        wanted = [item["type"] for item in job["integrations"] or ()]
        return {
            "model": job["model"],
            "base_model": base,
            "method": job["method"],
            "grader": self._grader(job),
            "hyperparameters": job["hyperparameters"],
            "seed": job["seed"],
            "training_path": str(self.folder.file(job["training_file"])),
            "validation_path": str(self.folder.file(validation)) if validation else None,
            "validation": jobs.validation,
            "test": jobs.test,
            "min_rows": jobs.min_rows,
            "recipe": jobs.recipe,
            "trackers": wanted,
            "lease_s": jobs.lease_s,
        }

    def _folder_of(self, model: str) -> str:
        """A base as it is, or where the tuned model of that name lies."""
        if not model.startswith("ft:"):
            return model
        return str(self.folder.jobs / get_model(self.database, model)["folder"])

    def _grader(self, job: Record) -> dict[str, Any] | None:
        """The job's grader with local models in the place of the names that clients know."""
        given = (job["method_options"] or {}).get("grader")
        if given is None:
            return None
        return with_models(given, lambda name: self._folder_of(self.settings.base_of(name) or name))

    def _show_alive(self, folder: JobFolder, lease: Lease) -> None:
        sign = {"at": time.time(), "fence": lease.fence}
        temporary = folder.alive.with_name(f".alive.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(sign))
        os.replace(temporary, folder.alive)

    def _look_at(self, task: Task) -> bool:
        """Keep the lease, pass progress on, settle a child that ended; True when it is over."""
        try:
            self._keep(task)
            if task.phase == "train":
                self._pass_on(task)
            if task.process.poll() is None:
                return False
            self._settle(task)
        except LeaseLostError:
            self.say(f"{task.job['id']}: cancelled, paused or taken over; ending its process")
            end_group(task.process.pid, self.settings.jobs.grace_s)
            task.process.wait()
        self.tasks.remove(task)
        return True

    def _keep(self, task: Task) -> None:
        now = time.monotonic()
        if now - task.beat_at >= self.settings.jobs.lease_s / 4:
            leases.heartbeat(self.database, task.lease, self.settings.jobs.lease_s)
            self._show_alive(task.folder, task.lease)
            task.beat_at = now
        elif get_job(self.database, task.job["id"])["fence"] != task.lease.fence:
            raise LeaseLostError(task.job["id"])

    def _pass_on(self, task: Task) -> None:
        task.judged += task.evaluations.read()
        new = [row for row in task.steps.read() if int(row["step"]) > task.last_step]
        if not new:
            return
        total = task.job["total_steps"]
        events = step_events(new, task.judged, total)
        last = new[-1]
        left = max(0, (total or 0) - int(last["step"]))
        each_s = float(last["seconds"]) / max(1, int(last["step"]))
        leases.note_progress(
            self.database,
            task.lease,
            events=events,
            last_step=int(last["step"]),
            tokens=int(last["tokens"]),
            finish=int(time.time() + left * each_s),
        )
        task.last_step = int(last["step"])

    def _settle(self, task: Task) -> None:
        """Write down how the child ended."""
        try:
            ended = read_json(task.folder.ended)
        except RunError:
            ended = {}
        if ended.get("fence") != task.lease.fence:
            ended = {"status": None}
        status, message = ended["status"], str(ended.get("message") or "")
        self.say(f"{task.job['id']}: {task.phase} ended ({status}) {message}")
        if status == 0 and task.phase == "prepare":
            self._note_prepared(task)
        elif status == 0:
            self._note_succeeded(task)
        elif status in (1, 2):
            code = CODES.get(str(ended["param"])) or (
                "does_not_fit" if status == 1 else "invalid_request"
            )
            leases.note_failed(
                self.database, task.lease, code=code, message=message, param=ended["param"]
            )
        elif status == 3 or task.process.returncode == -signal.SIGTERM:
            full = ended.get("kind") == "DiskFull"
            why = f"Interrupted: {message}" if message else None
            wait_s = DISK_WAIT_S if full else 0.0
            leases.give_back(self.database, task.lease, why=why, wait_s=wait_s)
        else:
            self._note_crash(task, message)

    def _note_crash(self, task: Task, message: str) -> None:
        crashes = int(get_job(self.database, task.job["id"])["crashes"])
        what = message or f"its process ended with status {task.process.returncode}"
        if crashes + 1 >= self.settings.jobs.max_crashes:
            text = f"crashed {crashes + 1} times at the same place: {what}"
            leases.note_failed(self.database, task.lease, code="server_error", message=text)
            return
        wait_s = RETRY_S[min(crashes, len(RETRY_S) - 1)]
        why = f"The job crashed ({what}); it goes on from its last checkpoint"
        leases.give_back(self.database, task.lease, why=why, crashed=True, wait_s=wait_s)

    def _note_prepared(self, task: Task) -> None:
        found = read_json(task.folder.prepared)
        leases.note_prepared(self.database, task.lease, **found)

    def _note_succeeded(self, task: Task) -> None:
        run, job = task.folder.run, task.job
        made = read_json(task.folder.path / "checkpoints.json")
        steps = [int(item["step"]) for item in made]
        checkpoints = [
            {"step": step, "metrics": metrics, "folder": self._below(item["folder"])}
            for item, step, metrics in zip(made, steps, checkpoint_metrics(run, steps), strict=True)
        ]
        result = self._keep_results(job, results_csv(run))
        leases.note_succeeded(
            self.database,
            task.lease,
            job,
            folder=self._below(str(run.path)),
            checkpoints=checkpoints,
            result_file=result,
            trained_tokens=trained_tokens(run),
            outcome=outcome_of(run),
        )

    def _keep_results(self, job: Record, table: bytes) -> dict[str, Any]:
        """Put the table of results among the files, under an id that follows from the job's."""
        file_id = "file-" + job["id"].removeprefix("ftjob-")
        with Incoming(self.folder, len(table)) as incoming:
            incoming.write(table)
            sha256 = incoming.keep(self.folder.file(file_id))
        return {
            "id": file_id, "owner": job["owner"], "filename": "step_metrics.csv",
            "purpose": "fine-tune-results", "bytes": len(table), "sha256": sha256,
            "created_at": int(time.time()), "status": "processed",
        }  # fmt: skip

    def _below(self, path: str) -> str:
        return os.path.relpath(path, self.folder.jobs)

    def _do_chores(self) -> None:
        """Until closed, beside the jobs: look at uploaded rows, tell webhooks, drop old files."""
        tidied_at = float("-inf")
        while not self._closed.wait(CHORES_S):
            try:
                for row in unchecked(self.database):
                    self._check_file(row)
                drop_expired(self.database, self.folder)
                forget_old(self.database)
                drop_expired_uploads(self.database, self.folder)
                if time.monotonic() - tidied_at > TIDY_S:
                    drop_old(self.database, self.folder, self.settings.retention)
                    tidied_at = time.monotonic()
                deliver_due(self.database, self.settings)
            except (DBAPIError, OSError) as error:
                self.say(f"chores: {str(error).splitlines()[0]}; trying again")

    def _check_file(self, row: Record) -> None:
        try:
            found = check_rows(self.folder.file(row["id"]))
        except FileNotFoundError:  # deleted meanwhile
            return
        note_checked(
            self.database, row["id"], fault=found.fault, num_rows=found.num_rows, shape=found.shape
        )
