"""Whether data is fit to learn from: the plan behind `check` and the first stage of `train`.

Reads and splits the data as training would, runs the audits over it, and describes it in a card.
Nothing is changed here; cleaning.py writes what a person decided.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from tunewright.config import Recipe
from tunewright.data.audit.material import AuditMaterial, Embed, count, name_rows
from tunewright.data.audit.table import AUDITS, ROW_BY_ROW, Keep, run_audits
from tunewright.data.card import make_card, with_token_lengths
from tunewright.data.example_file import StoredExamples
from tunewright.data.portrait import describe_portrait
from tunewright.data.prepare import Prepared, prepare
from tunewright.data.split import choose_rows
from tunewright.errors import Refusal
from tunewright.journal import Journal
from tunewright.learnability import leak_suspects, tell_with_and_without, try_cheap_models
from tunewright.meaning import make_encoder
from tunewright.preflight import preflight
from tunewright.records import Example, Finding, Splits

SEVERITIES = ("error", "warn", "info")
SLOW_AUDITS = frozenset({"label_errors", "surprising_answers", "near_leaks"})
"""Left to `check`: on ten thousand rows they take more than the few seconds that `train` spends."""
PLAIN_LEAD, PLAIN_SHARE = 4.0, 0.75
SURE_LEAD = 5.0
"""Log of how many times likelier another label is. Measured: of rows named in banking77 with a
tenth of its labels flipped .90 lead by 4; in clean sets .19 to .52 (bench/LOG.md)."""
BY_MEANING = {"near_duplicates": {"cosine": 0.9}, "near_leaks": {"meant_alike": 0.93}}
"""Of this encoder. Of 20 tickets reworded by hand .97 finds 4, .93 finds 15, .9 finds 16 and
names 4 rows for nothing, .85 finds 18 and names 14 (of 1,387)."""
MAX_EMBEDDED_UNASKED = 5_000
"""Rows; some seconds for a thousand short ones on two cores."""
MAX_AUDITED_CHARS = 1_000_000
"""Of one text; what comes after is not looked at, and the row is told."""
MAX_AUDITED_ROWS = 20_000
"""Rows of a split that the audits of `train` look at."""


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
    prepared: Prepared | None = None,
    keep: Callable[[str, Callable[[], Any]], Any] | None = None,
    last: Collection[str] = (),
) -> Checkup:
    """Read, split and audit the data of a recipe, and make its card.

    only: names of the audits to run, all by default. learn: also try cheap models on it.
    embed: also compare texts by what the embedded encoder makes of them; None: up to 5,000 rows.
    cache: folder where long passes keep what is done, so that a stopped check goes on.
    runs: folder of the runs; where given, the rest of the recipe is checked too.
    prepared: the rows, where they were read before. keep: (name of a step, how to do it) to its
    plain values, from where they were kept (kept.py). last: audits that another process is at.
    Raises DataError where the data cannot be read at all.
    """
    prepared = prepared or prepare(recipe.data, recipe.task, journal)
    if embed is None:
        embed = sum(prepared.num_read.values()) <= MAX_EMBEDDED_UNASKED
    encoder = make_encoder(journal, cache) if embed else None
    found = audit(
        prepared, recipe, journal, only=only, embed=encoder, cache=cache, keep=keep, last=last
    )
    ready = preflight(recipe, prepared, runs, journal) if runs is not None else None
    found += ready.findings if ready else ()
    every = [*prepared.findings, *found]
    learned = None
    if learn:
        suspects = leak_suspects(every)
        try_them = partial(
            try_cheap_models, prepared, recipe.training.seed, journal, _cut_all, suspects
        )
        learned = keep("learnability", try_them) if keep else try_them()
        every = [tell_with_and_without(item, learned) for item in every]
    findings = tuple(rank_findings(every))
    lengths = {"train": ready.token_lengths} if ready else None
    card = make_full_card(replace(prepared, findings=findings, card=None), lengths)
    if ready:
        card["preflight"] = ready.facts
    if learn:
        card["learnability"] = learned
    return Checkup(prepared, findings, card)


def audit(
    prepared: Prepared,
    recipe: Recipe,
    journal: Journal,
    *,
    only: Iterable[str] | None = None,
    embed: Embed | None = None,
    cache: Path | None = None,
    keep: Callable[[str, Callable[[], Any]], Any] | None = None,
    last: Collection[str] = (),
) -> list[Finding]:
    """The findings of the audits on rows that were read and split."""
    material = replace(make_material(prepared, recipe, journal), embed=embed, cache=cache)
    options = BY_MEANING if embed else None
    found = run_audits(
        material, only=only, options=options, keep=_keep_findings(keep, embed), last=last
    )
    tiers = [tier for item in found for tier in tier_label_errors(item)]
    return [*find_very_long(prepared.splits), *tiers]


def _keep_findings(
    keep: Callable[[str, Callable[[], Any]], Any] | None, embed: Embed | None
) -> Keep | None:
    """Findings through `keep`, which gives plain values back."""
    if keep is None:
        return None

    def kept(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
        mark = "audit" if embed is None or name in ROW_BY_ROW else "audit-by-meaning"
        return [Finding(**_with_tuples(item)) for item in keep(f"{mark}-{name}", look)]

    return kept


def _with_tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, and lists in lists, as the tuples that a Finding holds; details stay as they are."""
    found = {}
    for name, value in plain.items():
        if isinstance(value, list):
            value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        found[name] = value
    return found


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
    rows = chain(splits.train, splits.validation, splits.test)
    long = [row for row in rows if len(row.input) > MAX_AUDITED_CHARS]
    if not long:
        return []
    message = (
        f"{count(len(long), 'row')} longer than {MAX_AUDITED_CHARS:,} characters (first: "
        f"{long[0].place}, {len(long[0].input):,}); no more is read; is it several rows in one?"
    )
    return [name_rows("very_long_text", "warn", message, long)]


def _cut_all(rows: Sequence[Example]) -> tuple[Example, ...]:
    if isinstance(rows, StoredExamples):  # not a tuple, but read like one, a row at a time
        return cast(tuple[Example, ...], rows.seen_through(_cut))
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
