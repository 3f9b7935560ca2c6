"""The answer: ship, more data, or do not tune; why, and what to try next.

Ship needs all of: better than the untuned base, better than every cheap rival, and far better than
knowing nothing. Each is a test of its own and all must pass, so no correction for many tests is due
(an intersection-union test can only err on the careful side). A model of the same shape trained
from scratch is shown and does not vote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright.figures import (
    begin,
    is_share,
    known,
    metric_title,
    show_delta,
    show_interval,
    show_number,
    show_p,
    show_seconds,
    show_usd,
    show_value,
    system_title,
)
from tunewright.metrics.stats import rows_needed
from tunewright.metrics.table import find_metric
from tunewright.records import Comparison, Cost, Result, Verdict, VerdictWord

TUNED = "tuned"
SHOWN_BESIDE = ("from_scratch", "teacher")
TOLD = ("gap", "canaries", "judge")
"""Details whose sentence belongs to the answer."""
KNOWING_NOTHING = ("majority", "mean")
SIGNAL_P = 0.001
WORTH_MORE_ROWS = 20.0
SMALL_SET_SHARE = 0.10
EARLY_SHARE = 0.25
BLIND_SHARE = 0.25
"""A test set that misses gains of 25 points says nothing about equality either."""
BLIND_ROWS = 10
SMALL_TEST = 100
BAD_CALIBRATION = 0.05
SAME_UNIT = {"bleu": 1.0, "chrf": 1.0}


@dataclass(frozen=True)
class _Case:
    """One comparison of the tuned model, turned so that a positive gain is good."""

    rival: str
    found: Comparison
    gain: float
    best_gain: float
    value: float | None

    @property
    def title(self) -> str:
        return system_title(self.rival)

    @property
    def rows_needed(self) -> float:
        return rows_needed(self.gain, self.found.n, self.found.minimum_detectable)


def judge(
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    *,
    primary_metric: str,
    num_train: int,
    cost: Cost | None = None,
    details: Mapping[str, Any] | None = None,
    failed: Sequence[str] = (),
) -> tuple[Verdict, tuple[str, ...], tuple[str, ...]]:
    """(verdict, because, next steps), from the tuned model's comparisons on the deciding metric.

    details: Report.details; its worst classes, probable label errors, calibration and evaluations
    make the next steps concrete. failed: rivals that should have answered and did not; without them
    nothing ships. Raises RecipeError for an unknown metric.
    """
    values = {
        result.system: result.metrics[primary_metric].value
        for result in results
        if primary_metric in result.metrics
    }
    cases = _cases(comparisons, primary_metric, values)
    voting = [case for case in cases if case.rival not in SHOWN_BESIDE]
    verdict, reason, open_cases = _decide(voting, primary_metric, values)
    silent = [system_title(name) for name in failed if name not in SHOWN_BESIDE]
    if verdict == "ship" and silent:
        verdict, reason = "more data", _unanswered(silent)
    because = [reason, *_reached(results, primary_metric, num_train)]
    because += [_sentence(case, primary_metric) for case in cases]
    because += [str(found["line"]) for name in TOLD if (found := (details or {}).get(name))]
    because += _spent(cost)
    steps = _rows_steps(verdict, open_cases) + _detail_steps(details or {})
    if verdict == "do not tune":
        steps.insert(0, _instead(voting))
    if silent:
        steps.insert(0, f"Mend what stopped {_listed(silent)} (see the warnings), and judge again.")
    return verdict, tuple(because), tuple(dict.fromkeys(steps))


def _decide(
    voting: Sequence[_Case], metric: str, values: Mapping[str, float]
) -> tuple[Verdict, str, list[_Case]]:
    """(verdict, first sentence, the cases that more test rows would settle)."""
    tuned = values.get(TUNED)
    if tuned is not None and math.isnan(tuned):
        return "do not tune", "Do not tune: the tuned model gives no usable answers.", []
    if not voting:
        return "more data", "More data: nothing was compared, so no gain is shown.", []
    lost = [case for case in voting if case.found.verdict == "worse"]
    if lost:
        best = min(lost, key=lambda case: case.gain)
        figures = f"{show_value(metric, best.value)} against {show_value(metric, tuned)}"
        return "do not tune", f"Do not tune: {best.title} is better, {figures}.", []
    return _without_losses(voting, metric, tuned)


def _unanswered(silent: Sequence[str]) -> str:
    return (
        f"More data: tuned is better than all that answered, but {_listed(silent)} failed and "
        "may be better still."
    )


def _without_losses(
    voting: Sequence[_Case], metric: str, tuned: float | None
) -> tuple[Verdict, str, list[_Case]]:
    unsignalled = [case for case in voting if case.rival in KNOWING_NOTHING and not _signal(case)]
    undecided = [case for case in voting if case.found.verdict != "better"]
    blind = [case for case in undecided if _blind(case, metric)]
    if blind:
        n = show_number(blind[0].found.n)
        row = "row is" if blind[0].found.n == 1 else "rows are"
        names = _listed([case.title for case in blind])
        return "more data", f"More data: {n} test {row} too few to tell tuned from {names}.", blind
    hopeless = [case for case in unsignalled if not _may_be_signal(case, metric)]
    if hopeless:
        return (
            "do not tune",
            f"Do not tune: tuned shows no signal, {show_value(metric, tuned)} against "
            f"{show_value(metric, hopeless[0].value)} of {hopeless[0].title}.",
            [],
        )
    equal = [case for case in undecided if case not in unsignalled and not _hopeful(case, metric)]
    if equal:
        rival = max(equal, key=lambda case: -case.gain)
        return (
            "do not tune",
            f"Do not tune: {rival.title} does as well, {show_value(metric, rival.value)} "
            f"against {show_value(metric, tuned)} ({_interval(rival, metric)}).",
            [],
        )
    unsure = list(dict.fromkeys([*unsignalled, *undecided]))
    if unsure:
        names = _listed([case.title for case in unsure])
        n = show_number(unsure[0].found.n)
        return (
            "more data",
            f"More data: tuned is ahead of {names}, but {n} test rows cannot confirm it.",
            unsure,
        )
    names = _listed([case.title for case in voting])
    return "ship", f"Ship: tuned is better than {names}, beyond chance.", []


def _signal(case: _Case) -> bool:
    return case.found.verdict == "better" and case.found.p_value < SIGNAL_P


def _may_be_signal(case: _Case, metric: str) -> bool:
    """Ahead of knowing nothing, on a test set too small to say so firmly."""
    if case.found.verdict == "better":
        return True
    too_small = case.found.minimum_detectable >= SMALL_SET_SHARE and is_share(metric)
    return too_small and case.gain >= SMALL_SET_SHARE / 2


def _blind(case: _Case, metric: str) -> bool:
    """On so few test rows that even a large difference would pass unseen."""
    least = case.found.minimum_detectable
    return (
        not known(least) or case.found.n < BLIND_ROWS or (is_share(metric) and least > BLIND_SHARE)
    )


def _hopeful(case: _Case, metric: str) -> bool:
    """Ahead by what may be a useful amount, and not out of reach of a larger test set."""
    return (
        case.gain > 0
        and case.best_gain >= _useful(metric, case.value)
        and case.found.minimum_detectable > case.gain
        and case.rows_needed <= WORTH_MORE_ROWS * case.found.n
    )


def _useful(metric: str, value: float | None) -> float:
    """One point of a share, of BLEU or of chrF; one hundredth of the rival's value elsewhere."""
    if is_share(metric):
        return 0.01
    return SAME_UNIT.get(metric, 0.01 * abs(value) if known(value) else 0.0)


def _cases(
    comparisons: Sequence[Comparison], metric: str, values: Mapping[str, float]
) -> list[_Case]:
    """Comparisons of the tuned model on the deciding metric, strongest rival first."""
    sign = 1.0 if find_metric(metric).higher_is_better else -1.0
    cases = []
    for item in comparisons:
        if item.metric != metric or TUNED not in (item.a, item.b) or item.a == item.b:
            continue
        found = item if item.a == TUNED else _turned(item)
        ends = (sign * found.ci95[0], sign * found.ci95[1])
        cases.append(_Case(found.b, found, sign * found.delta, max(ends), values.get(found.b)))
    return sorted(cases, key=lambda case: case.gain if known(case.gain) else -math.inf)


def _turned(item: Comparison) -> Comparison:
    """The same comparison, seen from b."""
    opposite: dict[VerdictWord, VerdictWord] = {"better": "worse", "worse": "better"}
    return replace(
        item,
        a=item.b,
        b=item.a,
        delta=-item.delta,
        ci95=(-item.ci95[1], -item.ci95[0]),
        verdict=opposite.get(item.verdict, item.verdict),
    )


def _reached(results: Sequence[Result], metric: str, num_train: int) -> list[str]:
    for result in results:
        if result.system == TUNED and metric in result.metrics:
            score = result.metrics[metric]
            value = f"{show_value(metric, score.value)} {metric_title(metric)}"
            interval = show_interval(metric, score.ci95)
            rows = f"on {show_number(score.n)} rows, tuned on {show_number(num_train)}"
            return [f"Tuned reaches {value} ({interval}) {rows}."]
    return []


def _sentence(case: _Case, metric: str) -> str:
    """ "Majority class 1.3 %: tuned is 92.5 points better (91.5 to 93.4, p < 0.001)." """
    found = case.found
    beside = " (shown beside, does not vote)" if case.rival in SHOWN_BESIDE else ""
    start = f"{begin(case.title)} {show_value(metric, case.value)}{beside}"
    sure = show_p(found.p_value)
    p_value = f"p {sure}" if sure.startswith("<") else f"p = {sure}"
    size = show_delta(metric, abs(found.delta)).removeprefix("+")
    if found.verdict == "cannot tell":
        least = show_delta(metric, found.minimum_detectable).removeprefix("+")
        least = least if known(found.minimum_detectable) else "nothing"
        ahead = "no difference" if found.delta == 0 else f"tuned is {size} "
        if found.delta != 0:
            ahead += "ahead" if case.gain > 0 else "behind"
        return (
            f"{start}: {ahead}, which {show_number(found.n)} rows cannot tell from chance "
            f"({_interval(case, metric)}, {p_value}; they can show {least})."
        )
    return f"{start}: tuned is {size} {found.verdict} ({_interval(case, metric)}, {p_value})."


def _interval(case: _Case, metric: str) -> str:
    """The interval of the gain: positive ends favour the tuned model."""
    low, high = case.found.ci95
    ends = (low, high) if find_metric(metric).higher_is_better else (-high, -low)
    return show_interval(metric, ends)


def _spent(cost: Cost | None) -> list[str]:
    if cost is None or cost.seconds.measured is None:
        return []
    money = f", {show_usd(cost.usd.measured)}" if cost.usd.measured is not None else ""
    return [f"The run took {show_seconds(cost.seconds.measured)}{money}."]


def _rows_steps(verdict: Verdict, open_cases: Sequence[_Case]) -> list[str]:
    steps = []
    for case in open_cases:
        if known(case.rows_needed) and case.rows_needed > case.found.n:
            rows = show_number(float(f"{case.rows_needed:.2g}"))
            steps.append(
                f"Test on about {rows} rows (now {show_number(case.found.n)}): a gain of this size "
                f"over {case.title} would then be confirmed 4 times in 5."
            )
    if open_cases and not steps and any(case.found.n < SMALL_TEST for case in open_cases):
        rows = show_number(open_cases[0].found.n)
        steps.append(f"Test on {SMALL_TEST} rows or more (now {rows}): raise data.test.")
    if verdict == "more data":
        steps.append("Label more training rows: a larger gain needs fewer test rows to be seen.")
    return steps


def _instead(voting: Sequence[_Case]) -> str:
    cheap = [case for case in voting if case.rival not in (*KNOWING_NOTHING, "base")]
    rivals = [case for case in cheap if case.found.verdict != "better"]
    if rivals:
        return f"Use {min(rivals, key=lambda case: case.gain).title}: it costs less to run."
    if any(case.rival == "base" and case.found.verdict != "better" for case in voting):
        return "Keep the base model as it is."
    return "Look at the labels first: what is to be learned may not follow from the input."


def _detail_steps(details: Mapping[str, Any]) -> list[str]:
    return [
        *_class_steps(details.get("worst_classes") or ()),
        *_label_steps(details.get("probable_label_errors") or ()),
        *_calibration_steps(details.get("calibration") or {}),
        *_training_steps(details.get("evaluations") or ()),
    ]


def _class_steps(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Weak classes with fewer training rows than the typical weak class, else the weakest pair."""
    if not classes:
        return []
    worst = classes[0]
    counted = [row for row in classes if row.get("train_rows") is not None]
    if counted:
        thin = sorted(counted, key=lambda row: (row["train_rows"], row["f1"]))[:3]
        names = _listed([f"{row['label']} ({show_number(row['train_rows'])})" for row in thin])
        steps = [f"Add training rows for the weak classes that have fewest: {names}."]
    else:
        steps = []
    if worst.get("confused_with"):
        steps.append(
            f"Tell {worst['label']} and {worst['confused_with']} apart: F1 of {worst['label']} is "
            f"{show_value('f1', worst['f1'])}; give clearer examples of both, or join them."
        )
    return steps


def _label_steps(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    if not errors:
        return []
    rows = "row looks" if len(errors) == 1 else "rows look"
    return [f"Check {len(errors)} labels: {len(errors)} test {rows} mislabelled (listed below)."]


def _calibration_steps(calibration: Mapping[str, Any]) -> list[str]:
    ece = calibration.get("ece")
    if not known(ece) or ece <= BAD_CALIBRATION:
        return []
    return [
        f"Don't set thresholds on the confidence yet: it is off by {100 * ece:.0f} points "
        "on average."
    ]


def _training_steps(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the best evaluation came last (train longer) or early (train more gently)."""
    best = [place for place, row in enumerate(evaluations) if row.get("best")]
    if len(evaluations) < 3 or not best:
        return []
    if best[-1] == len(evaluations) - 1:
        return ["Raise training.num_epochs: validation was still getting better at the end."]
    if best[-1] < len(evaluations) * EARLY_SHARE:
        return ["Lower training.learning_rate: the best evaluation came early, then it got worse."]
    return []


def _listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
