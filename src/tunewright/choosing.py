"""`choose`: which base to start from, found by measurement, with a reason for every candidate.

The funnel, cheapest question first: licence, language, context and memory; a score without tuning;
probes of frozen features; then short trainings that are promoted by where their curves lead. A
candidate that fails at any of them has a row that says so, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.config import Recipe, dump_recipe, with_values
from tunewright.data.prepare import Prepared, prepare
from tunewright.decide.choose import (
    Choice,
    Contender,
    Rung,
    choose,
    ladder_cost,
    plan_ladder,
    promote,
)
from tunewright.decide.curves import Goal, Point
from tunewright.decide.transfer import h_score, logme, one_hot, ridge_probe
from tunewright.errors import DataError, Interrupted, ModelError, RecipeError, Refusal
from tunewright.evaluate.baselines import Material, run_baselines
from tunewright.evaluate.layers import layer_means
from tunewright.evaluate.material import label_index, some_rows
from tunewright.evaluate.predict import continue_text
from tunewright.evaluate.score import score
from tunewright.journal import Journal, silence
from tunewright.model.facts import KNOWN, LIST_SOURCE, BaseFacts, read_facts, script_of
from tunewright.model.load import GENERATIVE_TASKS
from tunewright.model.safety import first_line
from tunewright.piloting import pin
from tunewright.records import Derived, Example, Score
from tunewright.setup import Setup, first_by_content, make_setup
from tunewright.store import read_json, write_atomic, write_json
from tunewright.trial import (
    TrialBook,
    deciding_metric,
    free,
    goal_of,
    nested_order,
    with_rows,
)

ASKED_ROWS = 200
"""Validation rows on which untuned bases are scored."""
PROBED_ROWS = 1000
"""Training rows of the probes: they rank as well as with all rows, in a second a base."""
MOST_PILOTED = 12
"""Candidates that go on to pilots; the probes choose them where there are more."""
LEAST_PILOT_ROWS = 32
CHARACTERS_PER_TOKEN = 4
MOST_DEATHS = 2
"""Times that a stage of one base may take the whole process along before it is left out."""
MARGIN = 0.005
"""Of the metric's range: what a smaller base may lose and still be called not worse."""


@dataclass
class Candidate:
    """One row of the audit: how far a base came, why no further, and all that was measured."""

    name: str
    facts: BaseFacts | None = None
    stage: str = "facts"
    fate: str = ""
    reason: str = ""
    untuned: Score | None = None
    bits_per_byte: float | None = None
    probe: float | None = None
    logme: float | None = None
    h_score: float | None = None
    points: list[Point] = field(default_factory=list)
    num_parameters: int | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def standing(self) -> bool:
        """True while nothing speaks against it."""
        return not self.fate


@dataclass(frozen=True, slots=True)
class NullCandidate:
    """Something that needs no tuning: TF-IDF with a linear model, the incumbent with a prompt."""

    name: str
    score: Score | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChooseReport:
    """All that `choose` found. spent_share: row passes trained, of training every candidate."""

    task: str
    metric: str
    num_rows: int
    candidates: tuple[Candidate, ...]
    nulls: tuple[NullCandidate, ...]
    choice: Choice | None
    ladder: tuple[Rung, ...]
    spent_share: float
    seconds: float
    margin: float
    because: tuple[str, ...]


def choose_base(
    recipe: Recipe,
    folder: Path,
    journal: Journal,
    *,
    budget_share: float = 0.25,
    smallest: bool = True,
    margin: float = MARGIN,
    any_licence: bool = False,
    incumbent: str | None = None,
    live: bool = True,
) -> ChooseReport:
    """Choose among recipe.candidates; leaves choose.json and recipe.yaml with the winner.

    budget_share: of the cost of training every candidate. smallest: of those that are not worse by
    more than `margin` (of the metric's range) the one with the fewest parameters.
    """
    started = time.monotonic()
    names = recipe.candidates or (recipe.base_model,)
    recipe = with_values(recipe, {"candidates": ()})
    prepared = prepare(recipe.data, recipe.task, journal)
    if not prepared.splits.validation:
        raise DataError("data.validation is 0: candidates are judged on validation rows")
    generative = prepared.layout.task in GENERATIVE_TASKS
    # Losses per token of different tokenizers cannot be compared; bits per byte can.
    metric = "bits_per_byte" if generative else deciding_metric(recipe, prepared)
    work = _Work(recipe, prepared, metric, goal_of(metric), folder, journal)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [Candidate(name) for name in dict.fromkeys(names)]
    for row in rows:
        work.attempt(row, "facts", lambda row=row: _check_facts(work, row, any_licence, live))  # type: ignore[misc]
    for row in _standing(rows):
        work.attempt(row, "untuned", lambda row=row: _ask_untuned(work, row))  # type: ignore[misc]
    nulls = _ask_nulls(work, incumbent)
    _keep_most(_standing(rows), work)
    ladder = _race(work, rows, budget_share)
    choice = _choose(work, _standing(rows), margin, smallest)
    report = _report(work, rows, nulls, choice, ladder, margin, time.monotonic() - started)
    _write(work, report)
    return report


@dataclass
class _Work:
    """What every stage needs."""

    recipe: Recipe
    prepared: Prepared
    metric: str
    goal: Goal
    folder: Path
    journal: Journal

    def __post_init__(self) -> None:
        self.order = nested_order(self.prepared.splits.train, self.recipe.data.split_seed)
        self.book = TrialBook(self.folder)
        self.pinned: dict[str, Recipe] = {}
        self.hub_is_silent = False

    @property
    def num_rows(self) -> int:
        return len(self.order)

    def of(self, name: str) -> Recipe:
        """The recipe with this base."""
        return with_values(self.recipe, {"base_model": name})

    def attempt(self, row: Candidate, stage: str, act: Callable[[], None]) -> None:
        """Do one stage of one candidate; whatever fails is its own row's reason."""
        row.stage = stage
        started = time.monotonic()
        try:
            with self._noted(row, stage) as deaths:
                if deaths >= MOST_DEATHS:
                    row.fate = "crashed"
                    row.reason = f"the process died {deaths} times at this stage: {stage}"
                else:
                    act()
        except (Interrupted, KeyboardInterrupt, RecipeError):
            raise
        except Refusal as error:
            row.fate, row.reason = "does not fit", str(error)
        except ModelError as error:
            row.fate, row.reason = "cannot be used", str(error)
        except Exception as error:  # one base's fault must not cost the others their places
            row.fate = "failed"
            row.reason = f"{type(error).__name__}: {first_line(error)}"
        row.seconds += time.monotonic() - started
        if row.fate:
            self.journal.warn(f"{row.name}: {row.fate} ({row.reason})")

    @contextmanager
    def _noted(self, row: Candidate, stage: str) -> Iterator[int]:
        """Write down what is being tried, so that a base that takes the process with it (memory, a
        fault in a library) is known when the same command is run again; yields its deaths so far.
        """
        path, key = self.folder / "trying.json", f"{row.name}: {stage}"
        tries = read_json(path) if path.exists() else {}
        deaths = int(tries.get(key, 0))
        write_json(path, {**tries, key: deaths + 1})
        try:
            yield deaths
        finally:
            write_json(path, {**tries, key: deaths if deaths >= MOST_DEATHS else 0})


def _standing(rows: Iterable[Candidate]) -> list[Candidate]:
    return [row for row in rows if row.standing]


def candidates_in(text: str) -> tuple[str, ...]:
    """Names behind `catalog`, or the model folders inside a folder. Raises ModelError for none."""
    if text == "catalog":
        return tuple(KNOWN)
    folder = Path(text)
    found = sorted(
        str(item)
        for item in folder.iterdir()
        if (item / "config.json").exists() and any(item.glob("*.safetensors"))
    )
    if not found:
        raise ModelError(f"{text}: no model folder inside; each needs a config.json")
    return tuple(found)


def _check_facts(work: _Work, row: Candidate, any_licence: bool, live: bool) -> None:
    """Licence, task, language and context, before a weight is loaded."""
    # A hub that did not answer for one base of the list is not asked for the next.
    ask = live and not (work.hub_is_silent and row.name in KNOWN)
    facts = row.facts = read_facts(row.name, live=ask)
    work.hub_is_silent |= live and facts.source == LIST_SOURCE
    row.num_parameters = facts.num_parameters
    if facts.gated and not live:
        row.notes.append("gated on the hub")
    if facts.remote_code and not work.recipe.trust_remote_code:
        row.fate, row.reason = "needs remote code", "it brings code; trust_remote_code is off"
    elif facts.licence is None and not facts.local and not any_licence:
        row.fate = "no licence"
        row.reason = "its card names none; --any-licence takes it all the same"
    elif facts.licence is None:
        row.notes.append("no licence named")
    if row.standing:
        _check_reading(work, row, facts)


def _check_reading(work: _Work, row: Candidate, facts: BaseFacts) -> None:
    examples = work.prepared.splits.train[:2000]
    script = script_of("".join(example.input for example in examples[:200]))
    english_only = bool(facts.languages) and set(facts.languages) <= {"en", "english"}
    if english_only and script not in ("", "latin"):
        row.fate = "wrong language"
        row.reason = f"it reads English, and the rows are written in {script}"
        return
    task = work.prepared.layout.task
    if task in ("generate", "chat", "continue") and facts.kind == "encoder":
        row.fate, row.reason = "wrong kind", f"an encoder writes no text, which {task} needs"
        return
    if facts.context_tokens is None:
        return
    lengths = np.array([len(e.input) + len(str(e.output or "")) for e in examples])
    long = float(np.mean(lengths / CHARACTERS_PER_TOKEN > facts.context_tokens))
    if long > 0.5:
        row.fate = "short context"
        row.reason = f"{long:.0%} of the rows are longer than its {facts.context_tokens} tokens"
    elif long > 0.01:
        row.notes.append(f"about {long:.0%} of the rows are longer than its context")


def _ask_untuned(work: _Work, row: Candidate) -> None:
    """Memory (by settling the recipe), the untuned score, and the probes; one load for all."""
    part = with_rows(work.prepared, work.order)
    setup = make_setup(work.of(row.name), part, silence())
    work.pinned[row.name] = pin(work.of(row.name), setup)
    row.num_parameters = setup.base.num_parameters
    try:
        row.untuned, row.bits_per_byte = _untuned_scores(work, setup)
        if setup.task == "classify" and not work.prepared.layout.multi_label:
            row.stage = "probe"
            _probe(work, row, setup)
    finally:
        free(setup.base)


def _untuned_scores(work: _Work, setup: Setup) -> tuple[Score | None, float | None]:
    """(the score as it comes, its bits per byte where it writes)."""
    material = _material(work, setup)
    if setup.task in GENERATIVE_TASKS:
        asker = setup.asker(setup.base)
        scored = continue_text(asker, material.test, "base", "validation", lambda done: None)
        found = _scored(work, scored, material.seed)
        return found, found.value
    answers = run_baselines(("base",), material, silence()).get("base")
    return (_scored(work, answers, material.seed), None) if answers else (None, None)


def _material(work: _Work, setup: Setup | None) -> Material:
    splits, layout = work.prepared.splits, work.prepared.layout
    return Material(
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        train=splits.train,
        test=first_by_content(splits.validation, ASKED_ROWS if setup else 2000),
        split="validation",
        seed=work.recipe.training.seed,
        asker=None if setup is None else setup.asker(setup.base),
        advance=lambda done: None,
        num_few_shot=work.recipe.evaluation.num_few_shot,
    )


def _probe(work: _Work, row: Candidate, setup: Setup) -> None:
    """Ridge probe, LogME and H-score on layer means of some training rows."""
    layout, seed = work.prepared.layout, work.recipe.training.seed
    train: Sequence[Example] = some_rows(work.prepared.splits.train, PROBED_ROWS, seed)
    held = first_by_content(work.prepared.splits.validation, PROBED_ROWS)
    asker = setup.asker(setup.base)
    known, asked = (layer_means(asker, rows) for rows in (train, held))
    labels, wanted = (label_index(rows, layout.labels) for rows in (train, held))
    seen = labels >= 0
    targets = one_hot(labels[seen], len(layout.labels))
    scores = ridge_probe(known[seen], targets, asked, seed=seed)
    row.probe = float(np.mean(scores.argmax(axis=1) == wanted))
    row.logme = logme(known[seen], targets)
    row.h_score = h_score(known[seen], labels[seen])


def _ask_nulls(work: _Work, incumbent: str | None) -> tuple[NullCandidate, ...]:
    """What needs no tuning, on the validation rows."""
    layout, found = work.prepared.layout, []
    if layout.task in ("classify", "tag", "regress"):
        material = _material(work, None)
        answers = run_baselines(("tfidf_linear",), material, work.journal).get("tfidf_linear")
        got = _scored(work, answers, material.seed) if answers else None
        found.append(NullCandidate("tfidf_linear", got, "" if got else "it could not be made"))
    if incumbent is None:
        found.append(NullCandidate("incumbent", None, "none named; --incumbent MODEL asks one"))
        return tuple(found)
    try:
        setup = make_setup(work.of(incumbent), with_rows(work.prepared, work.order), silence())
        names = ("few_shot", "base") if setup.base.kind == "decoder" else ("base",)
        try:
            answered = run_baselines(names, _material(work, setup), silence())
        finally:
            free(setup.base)
        scores = [(name, _scored(work, rows, 17)) for name, rows in answered.items() if rows]
        best = min(scores, key=lambda item: float(work.goal.loss(item[1].value)), default=None)
        if best is None:
            found.append(NullCandidate(incumbent, None, "it has no answer to this task untuned"))
        else:
            found.append(NullCandidate(incumbent, best[1], f"with a prompt ({best[0]})"))
    except (ModelError, Refusal) as error:
        found.append(NullCandidate(incumbent, None, str(error)))
    return tuple(found)


def _scored(work: _Work, answers: Sequence[Any], seed: int) -> Score:
    labels = work.prepared.layout.labels
    return score(answers, (work.metric,), labels=labels, seed=seed).metrics[work.metric]


def probe_rank(row: Candidate) -> tuple[float, float, float, float]:
    """Sorts bases by what was learned without tuning, best first: the probe, then LogME and
    H-score as tie-breaks; for generation bits per byte of the completions.
    """
    if row.bits_per_byte is not None:
        return (row.bits_per_byte, 0.0, 0.0, 0.0)
    probe = -1.0 if row.probe is None else row.probe
    return (-round(probe, 3), -(row.logme or 0.0), -(row.h_score or 0.0), 0.0)


def _keep_most(rows: list[Candidate], work: _Work) -> None:
    for row in sorted(rows, key=probe_rank)[MOST_PILOTED:]:
        row.fate = "behind"
        row.reason = f"not among the {MOST_PILOTED} best before tuning"
        work.journal.say(f"{row.name}: {row.reason}")


def _race(work: _Work, rows: Sequence[Candidate], budget_share: float) -> tuple[Rung, ...]:
    """Successive halving by extrapolated score; returns the rungs that were run."""
    racing = _standing(rows)
    if len(racing) < 2:
        return ()
    ladder = plan_ladder(
        len(racing), num_rows=work.num_rows, least_rows=LEAST_PILOT_ROWS, budget_share=budget_share
    )
    work.journal.say(
        f"{len(racing)} bases run {len(ladder)} rungs, about "
        f"{ladder_cost(ladder) / len(racing):.0%} of training each of them whole"
    )
    for number, rung in enumerate(ladder):
        if number:
            curves = {row.name: row.points for row in racing}
            kept = promote(curves, work.goal, work.num_rows, rung.keep)
            for row in racing:
                if row.name not in kept:
                    row.fate = "overtaken"
                    row.reason = f"{rung.keep} others lead at {work.num_rows:,} rows"
        racing = _standing(racing)
        for row in racing:
            stage = f"pilots to {rung.share:.3g} of the rows"
            work.attempt(row, stage, lambda row=row, rung=rung: _pilot(work, row, rung))  # type: ignore[misc]
        racing = _standing(racing)
        if len(racing) < 2:
            break
    return ladder


def _pilot(work: _Work, row: Candidate, rung: Rung) -> None:
    for share in rung.shares:
        size = min(work.num_rows, max(1, round(share * work.num_rows)))
        if size in {point.num_rows for point in row.points}:
            continue
        part = with_rows(work.prepared, work.order[:size])
        made = work.book.run(
            work.pinned[row.name], part, work.metric, work.journal, careful=size == work.num_rows
        )
        row.points.append(made.point())
        work.journal.say(f"{row.name} on {size} rows: {work.metric} {made.value:.4g}")


def _choose(work: _Work, rows: Sequence[Candidate], margin: float, smallest: bool) -> Choice | None:
    contenders = [
        Contender(row.name, row.num_parameters or 0, tuple(row.points))
        for row in rows
        if row.points
    ]
    if not contenders:
        return None
    scale = abs(work.goal.best) or 1.0
    made = choose(
        contenders, work.goal, work.num_rows, margin=margin * scale, smallest=smallest,
        seed=work.recipe.training.seed,
    )  # fmt: skip
    for row in rows:
        if row.name == made.winner:
            row.fate, row.reason = "winner", made.because[-1]
        elif row.name == made.runner_up:
            row.fate, row.reason = "runner-up", f"{made.chance_best[row.name]:.0%} to be the best"
    return made


def _report(
    work: _Work,
    rows: Sequence[Candidate],
    nulls: Sequence[NullCandidate],
    choice: Choice | None,
    ladder: tuple[Rung, ...],
    margin: float,
    seconds: float,
) -> ChooseReport:
    passes = sum(point.num_rows for row in rows for point in row.points)
    raced = sum(bool(row.points) for row in rows)
    if choice is None:
        lone = _standing(rows)
        if len(lone) == 1:
            lone[0].fate, lone[0].reason = "winner", "the only one that can be used"
        because: tuple[str, ...] = (
            ("only one candidate can be used; nothing was trained",)
            if lone
            else ("no candidate can be used; each row says why",)
        )
    else:
        because = (*choice.because, *_against_nulls(work.goal, choice, nulls))
    return ChooseReport(
        task=work.prepared.layout.task,
        metric=work.metric,
        num_rows=work.num_rows,
        candidates=tuple(rows),
        nulls=tuple(nulls),
        choice=choice,
        ladder=ladder,
        spent_share=passes / max(1, raced * work.num_rows),
        seconds=seconds,
        margin=margin,
        because=because,
    )


def _against_nulls(goal: Goal, choice: Choice, nulls: Sequence[NullCandidate]) -> tuple[str, ...]:
    """A sentence for every null candidate that the winner is not expected to beat."""
    expected = choice.value[choice.winner]
    return tuple(
        f"{null.name} needs no tuning and has {null.score.value:.4g}, no less than is expected of "
        f"{choice.winner} ({expected:.4g}): consider it first"
        for null in nulls
        if null.score is not None and goal.gain(expected, null.score.value) <= 0
    )


def winner_of(report: ChooseReport) -> str | None:
    """The base to train, or None where no candidate can be used."""
    return next((row.name for row in report.candidates if row.fate == "winner"), None)


def _write(work: _Work, report: ChooseReport) -> None:
    write_json(work.folder / "choose.json", document_of(report))
    winner = winner_of(report)
    if winner is not None:
        reason = Derived("base_model", winner, "; ".join(report.because[:2]))
        chosen = work.of(winner)
        write_atomic(
            work.folder / "recipe.yaml", dump_recipe(chosen, [replace(reason, key="base_model")])
        )


def document_of(report: ChooseReport) -> dict[str, Any]:
    """What --json prints and choose.json holds."""
    choice = report.choice
    return {
        "winner": winner_of(report),
        "runner_up": choice.runner_up if choice else None,
        "because": report.because,
        "task": report.task,
        "metric": report.metric,
        "num_rows": report.num_rows,
        "expected_regret": choice.expected_regret if choice else None,
        "margin": report.margin,
        "candidates": [_row(row, choice) for row in report.candidates],
        "null_candidates": report.nulls,
        "ladder": report.ladder,
        "spent": {"share_of_training_all": report.spent_share, "seconds": report.seconds},
    }


def _row(row: Candidate, choice: Choice | None) -> dict[str, Any]:
    forecast = choice is not None and row.name in choice.value
    return {
        "name": row.name,
        "stage": row.stage,
        "fate": row.fate,
        "reason": row.reason,
        "notes": row.notes,
        "num_parameters": row.num_parameters,
        "weight_bytes": row.facts.weight_bytes() if row.facts else {},
        "facts": row.facts,
        "untuned": row.untuned,
        "bits_per_byte": row.bits_per_byte,
        "probe": row.probe,
        "logme": row.logme,
        "h_score": row.h_score,
        "points": row.points,
        "expected": choice.value[row.name] if forecast and choice else None,
        "band90": choice.band90[row.name] if forecast and choice else None,
        "chance_best": choice.chance_best[row.name] if forecast and choice else None,
        "seconds": row.seconds,
    }
