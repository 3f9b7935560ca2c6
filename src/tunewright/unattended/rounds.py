"""`auto`: watch, decide, tune again, judge and promote, round after round, with nobody there.

A round does at most one thing for a release: judge its canary, tune again, or wait. What it must
remember lies in a folder of the server's, so that a round that was killed goes on where it stood;
every step is a line of the story, which the dashboard shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tunewright.asking import open_asker
from tunewright.database.engine import Database
from tunewright.decide.retune import Timing, decide_retune
from tunewright.errors import DataError, Interrupted, Refusal, TunewrightError, UserError
from tunewright.journal import Journal
from tunewright.lifecycle import Update, data_of, next_place, plan_retune, retune
from tunewright.monitor.alerts import Alert
from tunewright.monitor.sinks import sentence
from tunewright.monitor.traffic import read_traffic
from tunewright.records import Request
from tunewright.releases.board import Release, Stage, list_releases, move_release
from tunewright.releases.gate import Check, check_parity
from tunewright.releases.probation import check_shadow, judge_canary
from tunewright.releases.story import enter_run
from tunewright.report.watch import make_watch_page
from tunewright.settings import STORY
from tunewright.store import (
    RunFolder,
    append_jsonl,
    read_json,
    to_plain,
    write_atomic,
    write_json,
    write_jsonl,
)
from tunewright.unattended.account import account_of, make_trigger
from tunewright.watching import (
    Eye,
    Watch,
    alert_document,
    open_eye,
    watch_document,
    watch_requests,
)

WHO = "auto"
MOST_REQUESTS = 50_000
"""Newest requests that a round looks at."""
What = Literal["waiting", "kept", "canary", "promoted", "rolled back", "failed"]


@dataclass(frozen=True)
class Keeper:
    """What is looked after. traffic: logs of the server. labels: further files of feedback.

    folder: of memory and story. now: seconds since 1970.
    """

    name: str
    traffic: Path
    database: Database
    folder: Path
    labels: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    now: Callable[[], float] = time.time

    @property
    def story(self) -> Path:
        """One line for each thing that happened."""
        return self.folder / STORY

    @property
    def memory(self) -> Path:
        """What the next round must know."""
        return self.folder / "state.json"


@dataclass(frozen=True)
class Round:
    """What one round came to. says: in sentences; the first is the reason."""

    what: What
    says: tuple[str, ...]
    release: str
    run: str | None = None
    alerts: int = 0
    timing: Timing | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def keep_going(
    keeper: Keeper,
    journal: Journal,
    *,
    every_s: float,
    stop: threading.Event,
    tell: Callable[[Round], None] = lambda done: None,
    later: bool = False,
) -> int:
    """Rounds until `stop` is set; what goes wrong in one is told, and the next one tries again.

    later: wait before the first one. Returns the number of rounds. Raises Interrupted, with what
    was begun saved for the next start.
    """
    count, fault = 0, ""
    if later:
        stop.wait(every_s)
    while not stop.is_set():
        try:
            done = one_round(keeper, journal)
        except Interrupted:
            raise
        except TunewrightError as error:
            journal.warn(f"auto: {error}")
            done = Round("failed", (str(error),), keeper.name)
            if str(error) != fault:
                note(keeper, done.what, done.says)
            fault = str(error)
        tell(done)
        count += 1
        stop.wait(every_s)
    return count


def one_round(keeper: Keeper, journal: Journal) -> Round:
    """Judge a canary, go on with a tuning that was cut off, or watch and perhaps tune again.

    Raises UserError where there is nothing to look after or no cost to weigh.
    """
    champion, canary = find_stages(keeper)
    requests = _read(keeper)
    if canary is not None:
        return _judge_canary(keeper, champion, canary, requests, journal)
    state = _recall(keeper)
    pending = state.get("pending")
    if pending and pending["parent"] != champion.id:  # ended between the promotion and its note
        _forget(keeper, state, pending["ids"])
    elif pending:
        return _tune(keeper, champion, state, requests, journal)
    mine = asked_of(requests, champion)
    if not mine:
        return _wait(keeper, champion, "no traffic of this version yet")
    eye = open_eye(RunFolder(Path(champion.run)), journal, keeper.overrides)
    trigger = make_trigger(eye)
    seen = _watch(keeper, champion, eye, mine, state, journal)
    timing = decide_retune(account_of(seen, mine, eye, _tuned_s(champion, state, mine),
                                      keeper.now()), trigger)  # fmt: skip
    labelled = new_rows(requests, keeper.name, state)
    if not timing.now:
        return _wait(keeper, champion, timing.because, seen, timing)
    least = eye.recipe.retune.least_rows
    if len(labelled) < least:
        review = eye.folder.watch / "review.jsonl"
        return _wait(
            keeper, champion,
            f"{timing.because}; but {len(labelled)} new rows have a label and {least} are needed: "
            f"label {review} and name it with --labels, or send feedback",
            seen, timing,
        )  # fmt: skip
    _begin(keeper, champion, state, labelled, timing)
    return replace(_tune(keeper, champion, state, requests, journal), timing=timing,
                   alerts=len(seen.alerts))  # fmt: skip


def find_stages(keeper: Keeper) -> tuple[Release, Release | None]:
    """(the version in production, the canary). Raises UserError without the first."""
    known = {release.stage: release for release in list_releases(keeper.database, keeper.name)}
    if "production" not in known:
        raise UserError(
            f"release {keeper.name}: nothing is in production; `tunewright release promote RUN "
            f"--name {keeper.name}` first"
        )
    return known["production"], known.get("canary")


def asked_of(requests: Sequence[Request], release: Release) -> list[Request]:
    """Requests that this version answered; where logs name no version, those since it came."""
    named = [r for r in requests if r.release == release.id]
    bare = [r for r in requests if r.release is None and r.time_s >= release.changed_at]
    return (named or bare)[-MOST_REQUESTS:]


def new_rows(requests: Sequence[Request], name: str, state: Mapping[str, Any]) -> list[Request]:
    """Labelled requests of this release that no tuning has seen."""
    used = set(state.get("used", ()))
    return [
        r for r in requests
        if r.label is not None and r.id not in used
        and (r.release is None or r.release.partition("@")[0] == name)
    ]  # fmt: skip


def _read(keeper: Keeper) -> list[Request]:
    try:
        return read_traffic(keeper.traffic, *keeper.labels)
    except DataError as error:
        if "no request in it" in str(error):
            return []
        raise


def _tuned_s(release: Release, state: Mapping[str, Any], mine: Sequence[Request]) -> float:
    """When tuning was last done or tried; logs that begin earlier were not seen by it."""
    tried = float(state.get("tried_s", 0.0))
    return tried if tried else min(float(release.changed_at), mine[0].time_s)


def _watch(
    keeper: Keeper,
    champion: Release,
    eye: Eye,
    mine: Sequence[Request],
    state: dict[str, Any],
    journal: Journal,
) -> Watch:
    """Watch, write the page, and tell of alarms that are new."""
    known = int((state.get("alarms") or {}).get(champion.id, 0))
    fresh: list[Alert] = []
    seen = watch_requests(eye, mine, journal, tell=fresh.append, from_batch=known)
    write_atomic(
        eye.folder.watch / "watch.html", make_watch_page(watch_document(eye, seen, keeper.traffic))
    )
    for alert in fresh:
        document = alert_document(alert)
        note(keeper, "alarm", (sentence(document),), release=champion.id, batch=alert.batch,
             cost_usd=alert.cost_usd, excess_errors=alert.excess_errors,
             time_s=alert.time_s)  # fmt: skip
    if fresh:
        state["alarms"] = {champion.id: max(alert.batch for alert in fresh) + 1}
        write_json(keeper.memory, state)
    return seen


def _begin(
    keeper: Keeper,
    champion: Release,
    state: dict[str, Any],
    labelled: Sequence[Request],
    timing: Timing,
) -> None:
    """Write down what will be tuned on, before anything is done."""
    run = next_place(Path(champion.run))
    rows = data_of(run) / "new.jsonl"
    rows.parent.mkdir(parents=True)
    write_jsonl(rows, [
        {key: value for key, value in to_plain(r).items() if value is not None} for r in labelled
    ])  # fmt: skip
    state["pending"] = {"run": str(run), "rows": str(rows), "parent": champion.id,
                        "ids": [r.id for r in labelled]}  # fmt: skip
    write_json(keeper.memory, state)
    note(keeper, "tuning", (timing.because, f"{len(labelled):,} new rows have a label"),
         release=champion.id, run=run.name)  # fmt: skip


def _tune(
    keeper: Keeper,
    champion: Release,
    state: dict[str, Any],
    requests: Sequence[Request],
    journal: Journal,
) -> Round:
    """Tune again as pending, judge, and put the new model where it belongs."""
    pending = state["pending"]
    run = Path(pending["run"])
    try:
        folder = RunFolder(Path(champion.run))
        plan, asker = plan_retune(folder, Path(pending["rows"]), journal, keeper.overrides)
        update = retune(plan, asker, run, journal, resume=True)
        checks = [] if not update.promoted else _checks(champion, update, requests, pending, plan,
                                                        journal)  # fmt: skip
    except (UserError, Refusal) as error:  # nothing that trying again at once would mend
        _forget(keeper, state)
        return _end(keeper, Round("failed", (str(error),), champion.id, run.name))
    failed = [check for check in checks if not check.passed]
    if not update.promoted or failed:
        _forget(keeper, state)
        why = update.because if not failed else tuple(check.says for check in failed)
        return _end(keeper, Round("kept", why, champion.id, run.name, details=_scores(update)))
    done = _put(keeper, run, checks, plan.recipe.retune.canary_share)
    _forget(keeper, state, pending["ids"])
    says = (*update.because, *(check.says for check in checks))
    what: What = "canary" if done.stage == "canary" else "promoted"
    return _end(keeper, Round(what, says, done.id, run.name, details=_scores(update)))


def _checks(
    champion: Release,
    update: Update,
    requests: Sequence[Request],
    pending: Mapping[str, Any],
    plan: Any,
    journal: Journal,
) -> list[Check]:
    """What must hold beside the gate over old tasks: parity, and the shadow. The champion was
    compared task by task already; the release keeps what that said.
    """
    told = "; ".join(update.because)
    checks = [
        check_parity(update.run, journal),
        Check("champion", update.promoted, f"paired with {champion.id}, task by task: {told}"),
    ]
    newest = asked_of(requests, champion)[-plan.recipe.retune.shadow_rows :]
    if plan.recipe.retune.shadow_rows:
        old, new = open_asker(champion.run), open_asker(str(update.run))
        checks.append(check_shadow(old, new, newest, set(pending["ids"])))
    return checks


def _put(keeper: Keeper, run: Path, checks: Sequence[Check], share: float) -> Release:
    release = enter_run(keeper.database, run, keeper.name, who=WHO)
    stage: Stage = "canary" if share > 0 else "production"
    return move_release(
        keeper.database, release.name, release.version, stage, who=WHO, why="passed the gate",
        share=share or None, gate=[check.plain() for check in checks],
    )  # fmt: skip


def _judge_canary(
    keeper: Keeper,
    champion: Release,
    canary: Release,
    requests: Sequence[Request],
    journal: Journal,
) -> Round:
    """Promote it, take it back, or let it go on."""
    how = open_recipe(canary, keeper)
    mine = [r for r in requests if r.release == canary.id]
    theirs = [r for r in requests if r.release == champion.id and r.time_s >= canary.changed_at - 1]
    found = judge_canary(mine, theirs, enough=how.canary_requests)
    if found.verdict == "wait":
        return _wait(keeper, canary, f"canary: {found.says}")
    stage: Stage = "production" if found.verdict == "promote" else "archived"
    move_release(keeper.database, canary.name, canary.version, stage, who=WHO, why=found.says)
    what: What = "promoted" if stage == "production" else "rolled back"
    return _end(keeper, Round(what, (f"canary: {found.says}",), canary.id, Path(canary.run).name))


def open_recipe(release: Release, keeper: Keeper) -> Any:
    """The retune section of a version's run, with overrides."""
    from tunewright.config import read_recipe

    return read_recipe(RunFolder(Path(release.run)).recipe, keeper.overrides).retune


def _scores(update: Update) -> dict[str, Any]:
    return dict(to_plain({
        "names": update.names, "matrix": update.matrix, "new_task": update.new_task,
        "gate": update.gate.open,
    }))  # fmt: skip


def _recall(keeper: Keeper) -> dict[str, Any]:
    return dict(read_json(keeper.memory)) if keeper.memory.exists() else {}


def _forget(keeper: Keeper, state: dict[str, Any], learned: Sequence[str] = ()) -> None:
    """The tuning is over, however it ended, and the next one waits its time. learned: ids of rows
    that are in a model which was let in; rows of one that was not may be learned again.
    """
    state["used"] = [*state.get("used", ()), *learned]
    state["pending"], state["tried_s"] = None, keeper.now()
    write_json(keeper.memory, state)


def _wait(
    keeper: Keeper,
    release: Release,
    says: str,
    seen: Watch | None = None,
    timing: Timing | None = None,
) -> Round:
    return Round("waiting", (says,), release.id, alerts=len(seen.alerts) if seen else 0,
                 timing=timing)  # fmt: skip


def _end(keeper: Keeper, done: Round) -> Round:
    note(keeper, done.what, done.says, release=done.release, run=done.run, **done.details)
    return done


def note(keeper: Keeper, event: str, says: Sequence[str], **more: Any) -> None:
    """One line of the story."""
    keeper.folder.mkdir(parents=True, exist_ok=True)
    append_jsonl(keeper.story, [
        {"at": keeper.now(), "name": keeper.name, "event": event, "says": list(says), **more}
    ])  # fmt: skip


def round_document(done: Round) -> dict[str, Any]:
    """A round as plain values, for --json."""
    return dict(to_plain({
        "what": done.what, "says": done.says, "release": done.release, "run": done.run,
        "alerts": done.alerts, "timing": done.timing, **done.details,
    }))  # fmt: skip
