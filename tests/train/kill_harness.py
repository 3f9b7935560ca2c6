"""Plays whole training runs in forked processes, kills them, and compares what they end in.

A run is forked from a process that has imported torch and built the model already, so a start costs
milliseconds. The child announces through a pipe when a save begins and ends; the parent kills it at
a random time, or inside a save, and starts it again with resume until it ends by itself.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.damage_harness import counting_calls
from train.tiny_runs import Setting, TinyRun, make_tiny_run
from tunewright.errors import Interrupted
from tunewright.journal import silence
from tunewright.store import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from tunewright.train import loop, resume
from tunewright.train.optimize import MasterAdamW

PATIENCE_S = 60.0
"""A child that is silent and alive for so long hangs, and that is a failure."""
SLOW_CALL_S = 0.0015
SLOW_SAVE_S = 0.020
"""About as long as a save on the slow disk takes."""
NEVER_COMPARED = ("tokens_per_s", "peak_memory_bytes", "seconds")


@dataclass(frozen=True)
class Kill:
    """When to kill a child: so long after its start, or so long after its n-th save began.

    A save that is aimed at runs on a slow disk, SLOW_CALL_S for each call, because a save of these
    small states takes 2 ms in memory and a parent cannot aim as finely. at_call: the child dies by
    its own hand at that os call of the save, or past the last call as the save ends; exact even
    where the machine is busy.
    """

    after_s: float = 0.0
    save: int | None = None
    number: int = signal.SIGKILL
    whole_group: bool = False
    at_call: int | None = None


@dataclass
class Death:
    """How a child ended. saves: seconds that each of its finished saves took."""

    status: int
    seconds: float
    killed: bool
    inside_save: bool
    saves: list[float]


@dataclass
class Played:
    """A run played to its end. outcome is None when a start failed; error says how."""

    outcome: dict[str, Any] | None
    deaths: list[Death]
    error: str = ""

    @property
    def kills(self) -> int:
        return sum(death.killed for death in self.deaths)

    @property
    def kills_inside_save(self) -> int:
        return sum(death.killed and death.inside_save for death in self.deaths)


def play(
    setting: Setting,
    folder: Path,
    kills: Callable[[int], Kill | None] = lambda start: None,
    mutant: str = "",
    *,
    most_starts: int = 30,
) -> Played:
    """Start a run, and start it again until it ends by itself; kills(n) says how start n dies."""
    run = make_tiny_run(setting)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    deaths: list[Death] = []
    groups = []
    try:
        for start in range(most_starts):
            kill = kills(start)
            pid, death = _start(run, folder, kill, mutant, resume_it=start > 0)
            groups.append(pid)
            deaths.append(death)
            if death.status == 0:
                return Played(read_json(folder / "outcome.json"), deaths)
            interrupted = death.status == 3 and kill is not None and kill.number == signal.SIGTERM
            if not death.killed and not interrupted:
                error = folder / "error.txt"
                text = error.read_text() if error.exists() else f"status {death.status}"
                return Played(None, deaths, text)
        return Played(None, deaths, f"not at its end after {most_starts} starts")
    finally:
        for group in groups:  # workers whose parent was killed
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)


def random_kills(
    dice: random.Random, undisturbed: Played, *, inside_share: float = 0.4, most: int = 6
) -> Callable[[int], Kill | None]:
    """Kills at uniformly random times of a run, some of them aimed at the inside of a save."""
    whole = undisturbed.deaths[0]

    def kills(start: int) -> Kill | None:
        if start >= most:
            return None
        group = dice.random() < 0.5
        if dice.random() < inside_share:
            number = dice.randrange(max(1, len(whole.saves) // 2))
            return Kill(dice.uniform(0, SLOW_SAVE_S), number, whole_group=group)
        return Kill(dice.uniform(0, 0.8 * whole.seconds), whole_group=group)

    return kills


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what two outcomes do not share to the last bit."""
    return [key for key in one if one[key] != other[key]]


def _start(
    run: TinyRun, folder: Path, kill: Kill | None, mutant: str, *, resume_it: bool
) -> tuple[int, Death]:
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(_child(run, folder, writing, mutant, kill, resume_it=resume_it))
    os.close(writing)
    try:
        return pid, _watch(pid, reading, kill, began)
    finally:
        os.close(reading)


def _watch(pid: int, pipe: int, kill: Kill | None, began: float) -> Death:
    """Wait for a child's end, killing it when its time has come."""
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(pipe, select.POLLIN)
    due = began + kill.after_s if kill is not None and kill.save is None else None
    heard: list[tuple[str, float]] = []
    last = began
    while True:
        now = time.monotonic()
        if due is not None and now >= due and kill is not None:
            _send(pid, kill)
            due = None
        wait_s = PATIENCE_S if due is None else max(0.0, due - now)
        ready = {number for number, _ in poll.poll(wait_s * 1000)}
        if handle in ready:
            break
        if pipe in ready:
            heard += _hear(pipe)
            last = time.monotonic()
            due = _aim(kill, heard) if due is None else due
        elif time.monotonic() - last > PATIENCE_S:
            os.kill(pid, signal.SIGKILL)
    os.close(handle)
    _, status = os.waitpid(pid, 0)
    os.set_blocking(pipe, False)  # orphaned workers hold the other end, so there is no end of file
    heard += _hear(pipe)
    return _judge(status, heard, time.monotonic() - began)


def _judge(status: int, heard: list[tuple[str, float]], seconds: float) -> Death:
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    marks = iter(heard)
    saves = [end[1] - begin[1] for begin, end in zip(marks, marks, strict=False)]
    return Death(code, seconds, killed, bool(heard) and heard[-1][0] == "b", saves)


def _aim(kill: Kill | None, heard: list[tuple[str, float]]) -> float | None:
    """The time of a kill that waits for a save, once that save has begun."""
    if kill is None or kill.save is None or kill.at_call is not None:
        return None
    begun = [moment for letter, moment in heard if letter == "b"]
    return begun[kill.save] + kill.after_s if len(begun) > kill.save else None


def _send(pid: int, kill: Kill) -> None:
    with suppress(ProcessLookupError):
        (os.killpg if kill.whole_group else os.kill)(pid, kill.number)


def _hear(pipe: int) -> list[tuple[str, float]]:
    try:
        data = os.read(pipe, 1 << 16)
    except BlockingIOError:
        return []
    return [(letter.decode(), moment) for letter, moment in struct.iter_unpack("<cd", data)]


def _child(
    run: TinyRun, folder: Path, pipe: int, mutant: str, kill: Kill | None, *, resume_it: bool
) -> int:
    """The run itself; returns its exit status."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    journal = silence()
    try:
        if mutant:
            MUTANTS[mutant](run)
        _announce_saves(pipe, kill or Kill())
        fitted = loop.fit(
            run.model,
            run.parameters,
            run.rows,
            run.plan,
            run.config,
            objective=run.objective,
            evaluate=run.evaluate,
            checkpoints=folder / "checkpoints",
            log_step=lambda step: append_jsonl(folder / "steps.jsonl", [step]),
            log_evaluation=lambda e: append_jsonl(folder / "evaluations.jsonl", [e]),
            forget_after=lambda step: _forget_after(folder, step),
            journal=journal,
            resume=resume_it,
        )
        write_json(folder / "outcome.json", _outcome(run, folder, fitted, journal.warnings))
        return 0
    except Interrupted as error:
        return error.exit_status
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        return 1


def _announce_saves(pipe: int, kill: Kill) -> None:
    whole, numbers = loop.save_checkpoint, itertools.count()

    def at_call(count: int, name: str, arguments: tuple[object, ...]) -> None:
        if kill.at_call is None:
            time.sleep(SLOW_CALL_S)
        elif count == kill.at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(*arguments: Any) -> Path:
        aimed = next(numbers) == kill.save
        os.write(pipe, struct.pack("<cd", b"b", time.monotonic()))
        with counting_calls(at_call) if aimed else nullcontext():
            path = whole(*arguments)
        if aimed and kill.at_call is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(pipe, struct.pack("<cd", b"e", time.monotonic()))
        return path

    loop.save_checkpoint = save


def _forget_after(folder: Path, step: int) -> None:
    for name in ("steps.jsonl", "evaluations.jsonl"):
        rows = [row for row in read_jsonl(folder / name) if row["step"] <= step]
        write_jsonl(folder / name, rows)


def _outcome(
    run: TinyRun, folder: Path, fitted: loop.Fitted, warnings: list[str]
) -> dict[str, Any]:
    """Everything that must not depend on kills, as digests and plain lists."""
    last = resume.load_newest(folder / "checkpoints", silence())
    assert last is not None
    progress = {k: v for k, v in last.state["progress"].items() if k not in NEVER_COMPARED}
    steps = [
        {key: value for key, value in row.items() if key not in NEVER_COMPARED}
        for row in read_jsonl(folder / "steps.jsonl")
    ]
    weights = dict(run.model.state_dict())
    return {
        "weights": loop.state_digest(weights),
        "training state": loop.state_digest(last.tensors),
        "progress": progress,
        "steps": steps,
        "evaluations": read_jsonl(folder / "evaluations.jsonl"),
        "ending": [fitted.steps, fitted.best_step, fitted.tokens, fitted.ended],
        "warnings": warnings,
    }


def _save_in_place(run: TinyRun) -> None:
    """Files go straight to their final folder, and the reader believes what lies there."""

    def save(
        folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *_: Any
    ) -> Path:
        path = folder / f"step-{step:08d}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        resume._write_contents(path, step, tensors, state)
        return path

    def load(path: Path, *_: Any) -> resume.Checkpoint:
        data = bytearray((path / "tensors.safetensors").read_bytes())
        state = json.loads((path / resume.STATE).read_text())
        return resume.Checkpoint(path, state["progress"]["step"], state, resume.tensors_in(data))

    loop.save_checkpoint = save
    loop.load_checkpoint = load
    loop.load_newest = lambda folder, journal, ranks: (
        load(paths[-1]) if (paths := sorted(folder.glob("step-*"))) else None
    )


def _lose_random_state(run: TinyRun) -> None:
    """Dropout draws from the process's own random stream, which no checkpoint holds."""
    loop._step_seed = lambda seed, step, rank: int(torch.randint(1 << 40, ()))


def _start_order_anew(run: TinyRun) -> None:
    """Epochs are counted from the start of the process, so a resumed run sees the first order."""
    plan_epoch, begun = loop.plan_epoch, []

    def plan(lengths: Any, batch_size: int, *, seed: int, epoch: int) -> Any:
        begun.append(epoch)
        return plan_epoch(lengths, batch_size, seed=seed, epoch=len(begun) - 1)

    loop.plan_epoch = plan


def _skip_a_batch(run: TinyRun) -> None:
    """The position in the data is off by one after a resume."""
    batches_from = loop._Run._batches_from
    loop._Run._batches_from = lambda self, step: batches_from(
        self, min(step + 1, self.total_steps - 1) if step else 0
    )


def _lose_moments(run: TinyRun) -> None:
    """The optimiser starts with empty moments after a resume."""
    load = MasterAdamW.load_state_tensors

    def without_moments(self: MasterAdamW, state: Mapping[str, Tensor], updates: int) -> None:
        load(self, {k: v for k, v in state.items() if not k.startswith("exp_avg")}, updates)

    MasterAdamW.load_state_tensors = without_moments


def _restart_schedule(run: TinyRun) -> None:
    """The learning rate warms up anew in every process."""
    rate_factor, first = loop.rate_factor, []

    def factor(step: int, total_steps: int, config: Any) -> float:
        first.append(step)
        return rate_factor(step - first[0], total_steps, config)

    loop.rate_factor = factor


def _forget_patience(run: TinyRun) -> None:
    """What was best so far is not taken up again."""
    take_up = loop._Run._take_up

    def without_best(self: Any, checkpoint: resume.Checkpoint) -> None:
        take_up(self, checkpoint)
        fresh = loop.Progress()
        self.progress.best_value, self.progress.best_loss = fresh.best_value, fresh.best_loss
        self.progress.stale = 0

    loop._Run._take_up = without_best


MUTANTS: dict[str, Callable[[TinyRun], None]] = {
    "save in place": _save_in_place,
    "random state lost": _lose_random_state,
    "order starts anew": _start_order_anew,
    "position off by one": _skip_a_batch,
    "moments lost": _lose_moments,
    "schedule restarts": _restart_schedule,
    "best forgotten": _forget_patience,
}
"""Ways to get resume wrong; each must be caught by comparing outcomes."""


def is_caught(played: Played, whole: Played) -> bool:
    """Whether a killed run of a mutant can be told from the undisturbed run."""
    assert whole.outcome is not None
    return played.outcome is None or bool(differences(whole.outcome, played.outcome))


CALLS_OF_A_SAVE = 12
"""About as many as a save in place makes."""


def play_mutant(
    setting: Setting, folder: Path, mutant: str, whole: Played, dice: random.Random
) -> bool:
    """Kill a mutant once in mid-run, a mutant of the save inside one; is it caught?"""
    saves = len(whole.deaths[0].saves)
    number = dice.randrange(saves // 2 - 1, saves - 2)
    inside = mutant == "save in place"
    kill = Kill(save=number, at_call=dice.randint(1, CALLS_OF_A_SAVE) if inside else 99)
    return is_caught(play(setting, folder, lambda n: None if n else kill, mutant), whole)
