"""What cheap models reach on the data, the least that tuning has to beat; and what leaks add."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunewright import figures
from tunewright.data.audit.leaks import scores_with_and_without
from tunewright.data.prepare import Prepared
from tunewright.evaluate.baselines import Material, run_baselines
from tunewright.evaluate.score import score
from tunewright.journal import Journal
from tunewright.metrics.table import metrics_for
from tunewright.records import Example, Finding, Prediction

CHEAP_SYSTEMS = {
    "classify": ("tfidf_linear", "nearest_neighbour", "majority"),
    "regress": ("tfidf_linear", "nearest_neighbour", "mean"),
    "tag": ("tfidf_linear", "majority"),
    "generate": ("nearest_neighbour",),
    "chat": ("nearest_neighbour",),
}
MAX_LEARNED_ROWS = 20_000
MAX_ASKED_ROWS = 2_000


def leak_suspects(findings: Iterable[Finding]) -> dict[str, set[str]]:
    """Places of the held-out rows that training has all but seen, by split."""
    found: dict[str, set[str]] = {}
    for item in findings:
        if item.kind == "near_leak":
            found.setdefault(str(item.details["split"]), set()).update(item.counterparts)
    return found


def tell_with_and_without(finding: Finding, learned: Mapping[str, Any] | None) -> Finding:
    """A near_leak with what the cheap models reach on all asked rows and without the suspects."""
    if finding.kind != "near_leak" or not learned or not learned.get("suspects"):
        return finding
    if finding.details["split"] != learned["split"]:
        return finding
    metric, told = learned["metric"], []
    for system, reached in learned["suspects"].items():
        shown = [figures.show_value(metric, reached[key]) for key in ("all", "without")]
        told.append(f"{figures.system_title(system)} {shown[0]} with them, {shown[1]} without")
    message = f"{finding.message}; {figures.metric_title(metric)}: {'; '.join(told)}"
    return replace(
        finding, message=message, details={**finding.details, "scores": learned["suspects"]}
    )


def try_cheap_models(
    prepared: Prepared,
    seed: int,
    journal: Journal,
    cut: Callable[[Sequence[Example]], Sequence[Example]] = tuple,
    suspects: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any] | None:
    """What a linear model, the nearest neighbour and the commonest answer reach on held-out rows.

    Keys: split, n, metric, scores by system ({value, ci95}), and `line`, the same in a sentence.
    cut: rows as the cheap models shall read them. suspects: places of rows by split that training
    may have seen; `suspects` then holds the scores of each system with and without them.
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
        train=tuple(cut(_some(splits.train, MAX_LEARNED_ROWS))),
        test=tuple(cut(_some(asked, MAX_ASKED_ROWS))),
        split=split,
        seed=seed,
        asker=None,
        advance=lambda done: None,
    )
    metric = metrics_for(layout.task, material.train + material.test, layout.labels)[0]
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
    doubted = {row.id for row in material.test if row.place in (suspects or {}).get(split, ())}
    with_and_without = {}
    if doubted:

        def reach(rows: Sequence[Prediction]) -> float:
            found = score(rows, (metric,), labels=layout.labels, seed=seed, num_resamples=2)
            return found.metrics[metric].value

        with_and_without = scores_with_and_without(
            {name: answers[name] for name in scores}, doubted, reach
        )
    return {
        "split": split,
        "suspects": with_and_without,
        "n": len(material.test),
        "metric": metric,
        "scores": {name: {"value": s.value, "ci95": list(s.ci95)} for name, s in scores.items()},
        "line": f"without tuning, {title} on {len(material.test):,} {split} rows: {said}",
    }


def _some(rows: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most `most` rows, chosen by id, which is a hash of the content."""
    if len(rows) <= most:
        return tuple(rows)
    chosen = set(heapq.nsmallest(most, (row.id for row in rows)))
    return tuple(row for row in rows if row.id in chosen)
