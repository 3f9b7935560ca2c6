"""`watch`: a run's model against its traffic. Makes the profile, reads logs, tells alerts.

The rules and their limits are the business of monitor/; here a run folder, a model and a log meet.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.asking import open_answerer
from tunewright.config import Recipe, read_recipe
from tunewright.data.prepare import prepare
from tunewright.data.render import input_text
from tunewright.errors import RecipeError, RunError
from tunewright.evaluate.embeddings import embed_texts
from tunewright.evaluate.predict import Asker
from tunewright.evaluate.saved import read_predictions
from tunewright.hosted_use import HostedAsker
from tunewright.journal import Journal
from tunewright.monitor.alerts import Alert, make_alert, window_accuracy
from tunewright.monitor.limits import Ground, make_ground, set_limits
from tunewright.monitor.outcomes import (
    choose_for_review,
    confidence_sequence,
    is_right,
    suspicious_clients,
)
from tunewright.monitor.outputs import AccuracyEstimate
from tunewright.monitor.profile import (
    MAX_REFERENCE_ROWS,
    MAX_TRAIN_ROWS,
    Lens,
    Profile,
    load_profile,
    make_lens,
    make_profile,
    save_profile,
)
from tunewright.monitor.rules import RULES
from tunewright.monitor.sinks import check_webhook, post_to_webhook, sentence, write_to_file
from tunewright.monitor.traffic import read_traffic
from tunewright.monitor.watcher import Seen, Watcher
from tunewright.records import Example, Prediction, Request
from tunewright.sections import WatchSection
from tunewright.store import RunFolder, read_json, to_plain, write_json, write_jsonl

WINDOW_ROWS = 1000
"""Requests in one estimate of accuracy."""
QUIET_BATCHES = 20
"""Signals within so many batches after an alarm belong to it."""
SEED = 17
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Eye:
    """A run made ready to be watched: its model, profile, rules and their limits."""

    folder: RunFolder
    recipe: Recipe
    asker: Asker
    ground: Ground
    limits: Mapping[str, float]

    @property
    def lens(self) -> Lens:
        """The profile, ready to look with."""
        return self.ground.lens

    @property
    def error_usd(self) -> float | None:
        """What a wrong answer costs, as the recipe's business section has it."""
        cost = self.recipe.business.cost_per_error_usd
        if cost is None:
            return None
        likely = cost[1] if isinstance(cost, tuple) else cost
        return float(likely) * self.recipe.business.error_relevance


@dataclass
class Watch:
    """What was seen of a log. levels: per batch, how far each rule went of its limit (1)."""

    num_requests: int = 0
    num_batches: int = 0
    waiting: int = 0
    alerts: list[Alert] = field(default_factory=list)
    levels: list[dict[str, float]] = field(default_factory=list)
    windows: list[tuple[int, AccuracyEstimate, float]] = field(default_factory=list)
    """(last batch, estimate, share of right answers where all labels are known or nan)."""
    labelled: int = 0
    labelled_accuracy: tuple[float, float, float] | None = None
    """Share of right answers among labelled requests, with its anytime-valid 95 % interval."""
    clients: list[tuple[str, float, float, int]] = field(default_factory=list)
    review: list[str] = field(default_factory=list)


def open_eye(
    folder: RunFolder, journal: Journal, overrides: Sequence[str] = (), *, renew: bool = False
) -> Eye:
    """The run, ready to watch; profile and limits are kept in its watch folder and made if missing.

    Raises RunError where the run has no model or too few held-out rows, RecipeError for rules_off.
    """
    recipe = read_recipe(folder.recipe, overrides)
    how = recipe.watch
    unknown = [name for name in how.rules_off if name not in RULES]
    if unknown:
        raise RecipeError(f"watch.rules_off: no rule {unknown[0]}; there are {', '.join(RULES)}")
    if how.webhook:
        check_webhook(how.webhook)
    asker = open_answerer(str(folder.path), journal)
    profile = _profile(folder, recipe, asker, journal, renew=renew)
    ground = make_ground(make_lens(profile, seed=SEED), batch_size=how.batch_size,
                         leave_out=how.rules_off, seed=SEED)  # fmt: skip
    return Eye(folder, recipe, asker, ground, _limits(folder, ground, how, journal))


def _profile(
    folder: RunFolder, recipe: Recipe, asker: Asker, journal: Journal, *, renew: bool
) -> Profile:
    if (folder.watch / "profile.json").exists() and not renew:
        return load_profile(folder.watch)
    prepared = prepare(recipe.data, asker.rendering.task, journal)
    sides = prepared.splits
    saved = {p.id: p for p in _saved_answers(folder, asker)}
    held = [*sides.validation, *sides.test]
    if asker.is_remote:  # what it has not answered would have to be paid for
        held = [row for row in held if row.id in saved]
    reference = _some(held, MAX_REFERENCE_ROWS)
    train = _some(sides.train, MAX_TRAIN_ROWS)
    if not reference:
        raise RunError(
            f"{folder.path}: no validation or test rows to compare traffic with; train with some"
        )
    with journal.progress("the reference profile", 1.0) as advance:
        missing = [row for row in reference if row.id not in saved]
        answers = asker.predict(
            missing, system="tuned", split="reference", advance=lambda done: advance(0.4 * done, "")
        )
        saved |= {p.id: p for p in answers}
        texts = [input_text(row, asker.rendering) for row in (*reference, *train)]
        states = embed_texts(asker, texts, lambda done: advance(0.4 + 0.6 * done, ""))
    requests = [
        request_of(row, text, saved[row.id]) for row, text in zip(reference, texts, strict=False)
    ]
    profile = make_profile(
        requests, states[: len(reference)].astype(np.float64), texts[len(reference) :],
        states[len(reference) :].astype(np.float64), [row.output for row in train],
        model=str(folder.path), task=asker.rendering.task, labels=asker.rendering.labels,
    )  # fmt: skip
    save_profile(profile, folder.watch)
    return profile


def request_of(row: Example, text: str, answer: Prediction) -> Request:
    """A held-out row as a request whose right answer is known."""
    return Request(
        id=row.id, time_s=0.0, input=text, answer=answer.prediction, confidence=answer.confidence,
        probabilities=answer.probabilities, label=row.output,
    )  # fmt: skip


def _saved_answers(folder: RunFolder, asker: Asker) -> list[Prediction]:
    """The tuned model's answers that the run has left; of a model here, where they hold
    probabilities.
    """
    if not folder.predictions.exists():
        return []
    found = read_predictions(folder.predictions)
    rows = [p for (system, _), answers in found.items() if system == "tuned" for p in answers]
    sure = [row for row in rows if row.probabilities is not None or row.confidence is not None]
    return rows if asker.is_remote else sure


def _some(rows: Sequence[Example], most: int) -> list[Example]:
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:most]
    return [rows[i] for i in sorted(chosen.tolist())]


def _limits(
    folder: RunFolder, ground: Ground, how: WatchSection, journal: Journal
) -> dict[str, float]:
    """Limits as simulated before for the same profile and settings, or simulated now."""
    states = ground.lens.profile.states_rH.tobytes()
    told = f"{how.batch_size} {how.false_alarms} {sorted(how.rules_off)} {sorted(RULES)}"
    key = hashlib.blake2b(states + told.encode(), digest_size=12).hexdigest()
    path = folder.watch / "limits.json"
    if path.exists():
        kept = read_json(path)
        if kept.get("key") == key:
            return {str(name): float(value) for name, value in kept["limits"].items()}
    with journal.progress("setting limits by simulated streams", 1.0) as advance:
        limits = set_limits(ground, budget=how.false_alarms, seed=SEED, advance=advance)
    folder.watch.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": key, "batch_size": how.batch_size, "limits": limits})
    return limits


def look_at(eye: Eye, requests: Sequence[Request], journal: Journal) -> Iterator[Seen]:
    """Whole batches of requests with their facts; answers that a log lacks are the model's own."""
    size = eye.recipe.watch.batch_size
    with journal.progress("looking at traffic", max(len(requests), 1)) as advance:
        for number, begin in enumerate(range(0, len(requests) - size + 1, size)):
            batch = _answered(eye, requests[begin : begin + size])
            states = embed_texts(eye.asker, [r.input for r in batch]).astype(np.float64)
            yield Seen(number, batch, eye.lens.look(batch, states))
            advance(begin + size, "")


def _answered(eye: Eye, batch: Sequence[Request]) -> list[Request]:
    """The batch, with probabilities where the model gives some, and answers where none was logged.

    An answer that failed stays away: it is what rules look for. A model elsewhere is not
    asked: what was logged is all there is.
    """
    if isinstance(eye.asker, HostedAsker):
        return [replace(item, answer=eye.asker.read(item.answer)) for item in batch]
    decides = eye.asker.rendering.task in ("classify", "tag", "regress")
    lacking = [number for number, item in enumerate(batch) if decides and _lacks(item)]
    answered = list(batch)
    if lacking:
        rows = [Example(id=batch[i].id, place="log", input=batch[i].input) for i in lacking]
        for number, said in zip(
            lacking, eye.asker.predict(rows, system="tuned", split="log"), strict=True
        ):
            item = batch[number]
            keep = item.answer is not None or item.failed is not None
            answered[number] = replace(
                item,
                answer=item.answer if keep else said.prediction,
                confidence=said.confidence if item.confidence is None else item.confidence,
                probabilities=said.probabilities,
            )
    return answered


def _lacks(item: Request) -> bool:
    return item.probabilities is None or item.confidence is None or item.answer is None


def watch_log(
    eye: Eye,
    log: Path,
    journal: Journal,
    *,
    live: bool = True,
    tell: Callable[[Alert], None] | None = None,
) -> Watch:
    """Play a log through the rules. live: alerts go to the watch folder and the webhook as well."""
    return watch_requests(eye, read_traffic(log), journal, live=live, tell=tell)


def watch_requests(
    eye: Eye,
    requests: Sequence[Request],
    journal: Journal,
    *,
    live: bool = True,
    tell: Callable[[Alert], None] | None = None,
    from_batch: int = 0,
) -> Watch:
    """The same on requests in order of time. from_batch: alarms of batches before are known, and
    nobody is told of them again.
    """
    watcher, seen = Watcher(eye.ground, eye.limits), Watch(num_requests=len(requests))
    window: list[Seen] = []
    everything: list[Seen] = []
    for item in look_at(eye, requests, journal):
        signals = watcher.observe(item.requests, item.facts)
        seen.levels.append(watcher.levels)
        if signals:
            before = seen.alerts[-1] if seen.alerts else None
            if before is not None and item.batch - before.last_batch > QUIET_BATCHES:
                before = None
            alert = make_alert(
                signals, list(watcher.recent), eye.lens, error_usd=eye.error_usd,
                most_novel=eye.recipe.watch.most_novel, open_alert=before,
            )  # fmt: skip
            if before is not None:  # the same alarm goes on; it was told of already
                seen.alerts[-1] = alert
            else:
                seen.alerts.append(alert)
                if tell and alert.batch >= from_batch:
                    tell(alert)
                if live and alert.batch >= from_batch:
                    _send(eye, alert, journal)
        window.append(item)
        everything.append(item)
        if sum(len(part.requests) for part in window) >= WINDOW_ROWS:
            seen.windows.append(_window(window, eye))
            window = []
    if window:
        seen.windows.append(_window(window, eye))
    seen.num_batches = len(everything)
    seen.waiting = len(requests) - sum(len(item.requests) for item in everything)
    _outcomes(seen, everything)
    if live:
        _note_span(eye, requests)
    if seen.alerts:
        seen.review = _choose_review(eye, seen, everything, live=live)
    return seen


def _note_span(eye: Eye, requests: Sequence[Request]) -> None:
    """From when to when this model was watched, over all its logs; `benefit` counts by it."""
    times = [item.time_s for item in requests if item.time_s > 0]
    path = eye.folder.watch / "seen.json"
    if not times:
        return
    before = read_json(path) if path.exists() else {}
    write_json(path, {
        "first_time_s": min(times[0], before.get("first_time_s", times[0])),
        "last_time_s": max(times[-1], before.get("last_time_s", times[-1])),
    })  # fmt: skip


def _window(window: Sequence[Seen], eye: Eye) -> tuple[int, AccuracyEstimate, float]:
    right = np.concatenate([item.facts.right for item in window])
    known = np.isfinite(right)
    truth = float(right.mean()) if known.all() else math.nan
    return window[-1].batch, window_accuracy(window, eye.lens, eye.recipe.watch.most_novel), truth


def _outcomes(seen: Watch, everything: Sequence[Seen]) -> None:
    """What labels say: accuracy of labelled requests, and clients who contradict sure answers."""
    requests = [request for item in everything for request in item.requests]
    sure = np.array([c for item in everything for c in item.facts.confidence])
    right = np.array([is_right(request) for request in requests])
    known = np.flatnonzero(np.isfinite(right))
    seen.labelled = len(known)
    if not seen.labelled:
        return
    low, high = confidence_sequence(right[known])
    seen.labelled_accuracy = (float(right[known].mean()), low, high)
    trusted = known[sure[known] >= 0.9]
    seen.clients = suspicious_clients([requests[i].client for i in trusted], 1 - right[trusted])


def _choose_review(eye: Eye, seen: Watch, everything: Sequence[Seen], *, live: bool) -> list[str]:
    """Ids of unlabelled requests since the last alarm's change began; written for a person."""
    first = seen.alerts[-1].first_batch
    recent = [r for item in everything if item.batch >= first for r in item.requests]
    open_rows = [request for request in recent if request.label is None]
    if not open_rows or not eye.recipe.watch.review_rows:
        return []
    confidence = np.array([math.nan if r.confidence is None else r.confidence for r in open_rows])
    review = choose_for_review(confidence, eye.recipe.watch.review_rows, seed=SEED)
    chosen = [open_rows[i] for i in review.chosen]
    if live:
        write_jsonl(eye.folder.watch / "review.jsonl", [
            {"id": r.id, "input": r.input, "answer": r.answer, "confidence": r.confidence,
             "weight": round(float(w), 4), "label": None}
            for r, w in zip(chosen, review.weight, strict=True)
        ])  # fmt: skip
    return [request.id for request in chosen]


def _send(eye: Eye, alert: Alert, journal: Journal) -> None:
    plain = to_plain(alert_document(alert))
    write_to_file(eye.folder.watch / "alerts.jsonl", plain)
    if eye.recipe.watch.webhook:
        problem = post_to_webhook(eye.recipe.watch.webhook, plain)
        if problem:
            journal.warn(f"webhook: {problem}; the alert stands in watch/alerts.jsonl")


def alert_document(alert: Alert) -> dict[str, Any]:
    """An alert as plain values."""
    document = asdict(alert)
    document["rows"] = [{"id": name, "input": text} for name, text in alert.rows]
    document["sentence"] = sentence(document)
    return document


def watch_document(eye: Eye, seen: Watch, log: Path) -> dict[str, Any]:
    """The whole answer as plain values, for --json and the page."""
    reference = eye.lens.reference.right
    known = reference[np.isfinite(reference)]
    plain: dict[str, Any] = json.loads(json.dumps(to_plain({
        "run": eye.folder.path, "log": log, "task": eye.lens.profile.task,
        "answer": "ALARM" if seen.alerts else "QUIET",
        "num_requests": seen.num_requests, "num_batches": seen.num_batches,
        "waiting": seen.waiting, "batch_size": eye.recipe.watch.batch_size,
        "reference": {"rows": len(reference),
                      "accuracy": float(known.mean()) if known.size else None},
        "alerts": [alert_document(alert) for alert in seen.alerts],
        "windows": [{"batch": batch, **asdict(told), "true": true}
                    for batch, told, true in seen.windows],
        "labelled": seen.labelled,
        "labelled_accuracy": seen.labelled_accuracy,
        "suspicious_clients": [
            {"client": name, "share": share, "others": others, "rows": rows}
            for name, share, others, rows in seen.clients
        ],
        "review": seen.review, "limits": eye.limits, "levels": seen.levels,
        "layers": {rule.name: rule.layer for rule in eye.ground.rules},
    })))  # fmt: skip
    return plain
