"""Whether data is fit to learn from: the plan behind `check` and the first stage of `train`.

Reads and splits the data as training would, runs the audits over it, and describes it in a card.
Nothing is changed here; cleaning.py writes what a person decided.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunewright import figures
from tunewright.config import Recipe
from tunewright.data.audit.material import AuditMaterial, Embed, Floats, count, name_rows
from tunewright.data.audit.table import AUDITS, run_audits
from tunewright.data.card import make_card, with_token_lengths
from tunewright.data.portrait import describe_portrait
from tunewright.data.prepare import Prepared, prepare
from tunewright.data.split import choose_rows
from tunewright.errors import Refusal
from tunewright.evaluate.baselines import Material, run_baselines
from tunewright.evaluate.score import score
from tunewright.journal import Journal
from tunewright.metrics.table import metrics_for
from tunewright.model.load import Base
from tunewright.preflight import preflight
from tunewright.records import Example, Finding, Splits

SEVERITIES = ("error", "warn", "info")
SLOW_AUDITS = frozenset({"label_errors", "surprising_answers", "near_leaks"})
"""Left to `check`: on ten thousand rows they take more than the few seconds that `train` spends."""
CHEAP_SYSTEMS = {
    "classify": ("tfidf_linear", "nearest_neighbour", "majority"),
    "regress": ("tfidf_linear", "nearest_neighbour", "mean"),
    "tag": ("tfidf_linear", "majority"),
    "generate": ("nearest_neighbour",),
    "chat": ("nearest_neighbour",),
}
PLAIN_LEAD, PLAIN_SHARE = 4.0, 0.75
SURE_LEAD = 5.0
"""Log of how many times likelier another label is. Measured: of rows named in banking77 with a
tenth of its labels flipped .90 lead by 4; in clean sets .19 to .52 (bench/LOG.md)."""
ENCODER, ENCODER_TOKENS = "embedded:minilm", 128
BY_MEANING = {"near_duplicates": {"cosine": 0.9}, "near_leaks": {"meant_alike": 0.93}}
"""Of this encoder. Of 20 tickets reworded by hand .97 finds 4, .93 finds 15, .9 finds 16 and
names 4 rows for nothing, .85 finds 18 and names 14 (of 1,387)."""
MAX_EMBEDDED_UNASKED = 5_000
"""Rows; some seconds for a thousand short ones on two cores."""
MAX_AUDITED_CHARS = 1_000_000
"""Of one text; what comes after is not looked at, and the row is told."""
MAX_AUDITED_ROWS = 20_000
"""Rows of a split that the audits of `train` look at."""
MAX_LEARNED_ROWS = 20_000
MAX_ASKED_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a check came to. card: the data card as plain JSON values, findings included."""

    prepared: Prepared
    findings: tuple[Finding, ...]
    card: dict[str, Any]

    @property
    def unfit(self) -> tuple[str, ...]:
        """Why nothing good can be learned from these data; empty where they are fit."""
        return tuple(item.message for item in self.findings if item.severity == "error")


def check(
    recipe: Recipe,
    journal: Journal,
    *,
    only: Iterable[str] | None = None,
    learn: bool = True,
    embed: bool | None = None,
    cache: Path | None = None,
    runs: Path | None = None,
) -> Checkup:
    """Read, split and audit the data of a recipe, and make its card.

    only: names of the audits to run, all by default. learn: also try cheap models on it.
    embed: also compare texts by what the embedded encoder makes of them; None: up to 5,000 rows.
    cache: folder where long passes keep what is done, so that a stopped check goes on.
    runs: folder of the runs; where given, the rest of the recipe is checked too.
    Raises DataError where the data cannot be read at all.
    """
    prepared = prepare(recipe.data, recipe.task, journal)
    if embed is None:
        embed = sum(prepared.num_read.values()) <= MAX_EMBEDDED_UNASKED
    encoder = make_encoder(journal) if embed else None
    found = audit(prepared, recipe, journal, only=only, embed=encoder, cache=cache)
    ready = preflight(recipe, prepared, runs, journal) if runs is not None else None
    found += ready.findings if ready else ()
    findings = tuple(rank_findings((*prepared.findings, *found)))
    lengths = {"train": ready.token_lengths} if ready else None
    card = make_full_card(replace(prepared, findings=findings), lengths)
    if ready:
        card["preflight"] = ready.facts
    if learn:
        card["learnability"] = try_cheap_models(prepared, recipe.training.seed, journal)
    return Checkup(prepared, findings, card)


def audit(
    prepared: Prepared,
    recipe: Recipe,
    journal: Journal,
    *,
    only: Iterable[str] | None = None,
    embed: Embed | None = None,
    cache: Path | None = None,
) -> list[Finding]:
    """The findings of the audits on rows that were read and split."""
    material = replace(make_material(prepared, recipe, journal), embed=embed, cache=cache)
    found = run_audits(material, only=only, options=BY_MEANING if embed else None)
    tiers = [tier for item in found for tier in tier_label_errors(item)]
    return [*find_very_long(prepared.splits), *tiers]


def tier_label_errors(finding: Finding) -> list[Finding]:
    """Label errors as a warning for the surest and a list to look at for the rest.

    Where most of the named rows are plainly wrong, all of them are a warning: labels were flipped.
    Where few are, most are rows that a cheap model cannot tell apart, and naming one in ten rows of
    clean data as wrong would teach nobody anything. Kinds: label_error (warn), label_doubt (info).
    """
    scores = finding.scores
    if finding.kind != "label_error" or not scores:
        return [finding]
    plain = sum(score >= PLAIN_LEAD for score in scores)
    if plain >= PLAIN_SHARE * len(scores):
        return [finding]
    sure = [number for number, score in enumerate(scores) if score >= SURE_LEAD]
    rest = [number for number, score in enumerate(scores) if score < SURE_LEAD]
    tiers = []
    if sure:
        what = "have a label that another one beats by far; look at them or drop them"
        tiers.append(_part(finding, sure, "label_error", "warn", what))
    if rest:
        what = (
            "have a label that a cheap model doubts; it cannot tell some classes apart, so this is "
            "a list to look at (--review), not a verdict"
        )
        tiers.append(_part(finding, rest, "label_doubt", "info", what))
    return tiers


def _part(
    finding: Finding,
    numbers: Sequence[int],
    kind: str,
    severity: Literal["warn", "info"],
    what: str,
) -> Finding:
    first = numbers[0]
    label = f", reads like {finding.suggestions[first]!r}" if finding.suggestions else ""
    return replace(
        finding,
        kind=kind,
        severity=severity,
        message=f"{count(len(numbers), 'row')} {what} (first: {finding.places[first]}{label})",
        rows=tuple(finding.rows[n] for n in numbers),
        places=tuple(finding.places[n] for n in numbers),
        scores=tuple(finding.scores[n] for n in numbers),
        suggestions=tuple(finding.suggestions[n] for n in numbers) if finding.suggestions else (),
    )


def make_encoder(journal: Journal) -> Embed:
    """Texts to what the embedded sentence encoder makes of them; loaded at the first call."""
    from tunewright.evaluate.predict import hidden_means
    from tunewright.model.load import load_base

    loaded: list[Base] = []

    def embed(texts: Sequence[str]) -> Floats:
        if not loaded:
            loaded.append(load_base(ENCODER, task=None))
        with journal.progress(f"reading {len(texts):,} texts with {ENCODER}", 1.0) as advance:
            filled = [text or " " for text in texts]
            return hidden_means(loaded[0], filled, ENCODER_TOKENS, lambda done: advance(done, ""))

    return embed


def make_material(prepared: Prepared, recipe: Recipe, journal: Journal) -> AuditMaterial:
    """What audits look at; very long texts are cut."""
    splits = prepared.splits
    return AuditMaterial(
        layout=prepared.layout,
        train=_cut_all(splits.train),
        validation=_cut_all(splits.validation),
        test=_cut_all(splits.test),
        seed=recipe.training.seed,
        workers=min(8, os.cpu_count() or 1),
        journal=journal,
    )


def find_very_long(splits: Splits) -> list[Finding]:
    """Rows longer than the audits read: most often whole files in one cell, or a line end lost."""
    rows = (*splits.train, *splits.validation, *splits.test)
    long = [row for row in rows if len(row.input) > MAX_AUDITED_CHARS]
    if not long:
        return []
    message = (
        f"{count(len(long), 'row')} longer than {MAX_AUDITED_CHARS:,} characters (first: "
        f"{long[0].place}, {len(long[0].input):,}); no more is read; is it several rows in one?"
    )
    return [name_rows("very_long_text", "warn", message, long)]


def _cut_all(rows: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(map(_cut, rows))


def _cut(row: Example) -> Example:
    """The row as audits read it; the very same where it is of ordinary length."""
    longest = max((len(t.content) for t in row.messages), default=len(row.input))
    if longest <= MAX_AUDITED_CHARS:
        return row
    turns = tuple(replace(t, content=t.content[:MAX_AUDITED_CHARS]) for t in row.messages)
    return replace(row, input=row.input[:MAX_AUDITED_CHARS], messages=turns)


def audit_before_training(prepared: Prepared, recipe: Recipe, journal: Journal) -> Prepared:
    """The same rows with the findings of the quick audits beside those of reading and splitting.

    An audit that fails for a reason of its own costs no training run: it is told as a warning.
    Raises Refusal where the data is unfit.
    """
    quick = [name for name in AUDITS if name not in SLOW_AUDITS]
    looked_at = _some_rows(prepared, recipe.data.split_seed)
    if looked_at is not prepared:
        journal.say(
            f"audits: {MAX_AUDITED_ROWS:,} training rows by content hash; `tunewright check` "
            "looks at all"
        )
    try:
        found = audit(looked_at, recipe, journal, only=quick)
    except Exception as error:
        journal.warn(f"the data was not checked: {type(error).__name__}: {str(error)[:200]}")
        return prepared
    unfit = [item.message for item in found if item.severity == "error"]
    if unfit:
        raise Refusal(
            f"the data is unfit to learn from: {'; '.join(unfit)}; see `tunewright check`"
        )
    warned = [item for item in found if item.severity == "warn"]
    if warned:
        listed = ", ".join(f"{item.kind.replace('_', ' ')} ({len(item.rows)})" for item in warned)
        journal.warn(f"data: {listed}; `tunewright check` and card.json name the rows")
    return replace(prepared, findings=(*prepared.findings, *found))


def _some_rows(prepared: Prepared, seed: int) -> Prepared:
    """The same where there are few rows, else at most MAX_AUDITED_ROWS of each split."""
    splits = prepared.splits
    if len(splits.train) <= MAX_AUDITED_ROWS:
        return prepared
    train, validation, test = (
        tuple(choose_rows(side, MAX_AUDITED_ROWS, seed))
        for side in (splits.train, splits.validation, splits.test)
    )
    chosen = replace(splits, train=train, validation=validation, test=test)
    return replace(prepared, splits=chosen)


def make_full_card(
    prepared: Prepared, token_lengths: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """card.json: counts, lengths, labels, findings, and what the texts are like."""
    if prepared.card is None:
        card = make_card(prepared, token_lengths)
        card.update(describe_portrait(prepared.splits, prepared.findings))
        return card
    return with_token_lengths(prepared.card, token_lengths or {})


def rank_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then the rest; in their own order within each."""
    return sorted(findings, key=lambda item: SEVERITIES.index(item.severity))


def try_cheap_models(prepared: Prepared, seed: int, journal: Journal) -> dict[str, Any] | None:
    """What a linear model, the nearest neighbour and the commonest answer reach on held-out rows.

    Keys: split, n, metric, scores by system ({value, ci95}), and `line`, the same in a sentence.
    None where the task has no cheap model or there are no rows to ask.
    """
    splits, layout = prepared.splits, prepared.layout
    systems = CHEAP_SYSTEMS.get(layout.task, ())
    split, asked = ("test", splits.test) if splits.test else ("validation", splits.validation)
    if not systems or not asked or not splits.train:
        return None
    material = Material(
        task=layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        train=_cut_all(_some(splits.train, MAX_LEARNED_ROWS)),
        test=_cut_all(_some(asked, MAX_ASKED_ROWS)),
        split=split,
        seed=seed,
        asker=None,
        advance=lambda done: None,
    )
    metric = metrics_for(layout.task, splits.train + splits.test, layout.labels)[0]
    answers = run_baselines(systems, material, journal)
    scores = {
        system: score(rows, (metric,), labels=layout.labels, seed=seed).metrics[metric]
        for system, rows in answers.items()
        if rows
    }
    if not scores:
        return None
    title = figures.metric_title(metric)
    said = ", ".join(
        f"{figures.system_title(system)} {figures.show_value(metric, item.value)} "
        f"({figures.show_interval(metric, item.ci95)})"
        for system, item in scores.items()
    )
    return {
        "split": split,
        "n": len(material.test),
        "metric": metric,
        "scores": {name: {"value": s.value, "ci95": list(s.ci95)} for name, s in scores.items()},
        "line": f"without tuning, {title} on {len(material.test):,} {split} rows: {said}",
    }


def _some(rows: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most `most` rows, chosen by id, which is a hash of the content."""
    if len(rows) <= most:
        return tuple(rows)
    chosen = set(sorted(row.id for row in rows)[:most])
    return tuple(row for row in rows if row.id in chosen)
