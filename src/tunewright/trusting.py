"""`threshold`: from which confidence on a run's answers are used, chosen on validation rows and
judged on test rows. The arithmetic is in decide/threshold.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.asking import open_asker
from tunewright.config import read_recipe
from tunewright.data.columns import find_layout
from tunewright.data.formats import read_rows
from tunewright.data.prepare import prepare, read_for_evaluation
from tunewright.decide.threshold import (
    DOUBT,
    STARTS,
    Costs,
    alarm_from,
    cheapest_alarm,
    cost_interval,
    hand_over_below,
    mean_cost,
    rows_for_promise,
)
from tunewright.errors import RecipeError, RunError
from tunewright.evaluate.predict import Asker
from tunewright.evaluate.saved import read_predictions
from tunewright.journal import Journal
from tunewright.metrics.labels import is_right, rarer_label
from tunewright.metrics.stats import wilson_interval
from tunewright.records import Example, Prediction
from tunewright.store import RunFolder, write_json

SEED = 17
Kind = Literal["hand over", "alarm", "cost"]


@dataclass(frozen=True, slots=True)
class Wish:
    """One of precision, false_alarms and costs. positive: the label of alarms."""

    precision: float | None = None
    false_alarms: float | None = None
    costs: Costs | None = None
    positive: str | None = None

    @property
    def kind(self) -> Kind:
        """Which of the three. Raises RecipeError unless it is exactly one."""
        given: list[tuple[Kind, object]] = [
            ("hand over", self.precision), ("alarm", self.false_alarms), ("cost", self.costs)
        ]  # fmt: skip
        kinds = [kind for kind, value in given if value is not None]
        if len(kinds) != 1:
            raise RecipeError(
                "threshold: give one of --precision, --false-alarms, and --cost-miss with "
                "--cost-false-alarm"
            )
        return kinds[0]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of rows with its 95 % interval (Wilson)."""

    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """What was found. value None: these rows cannot promise what was wished.

    judged: shares on test rows by name; unknown: share of rows of no known label that is handed
    over. costs: per request, with interval, beside never and always raising an alarm.
    """

    kind: Kind
    wished: float | None
    value: float | None
    positive: str | None
    fitted_rows: int
    judged: dict[str, Share]
    costs: dict[str, Any] | None
    unknown: Share | None
    because: tuple[str, ...]


def find_threshold(
    folder: RunFolder, wish: Wish, journal: Journal, *, unknown: str | None = None
) -> Threshold:
    """Choose on the run's validation rows, judge on its test rows, and write it into the folder.

    unknown: rows of no known label, by name of a file. Raises RunError where the run is no
    classifier of one label a row or has no rows to choose on, RecipeError for a wish that does not
    fit, DataError for the file.
    """
    kind = wish.kind
    recipe = read_recipe(folder.recipe)
    asker = open_asker(str(folder.path))
    if asker.rendering.task != "classify" or asker.rendering.multi_label:
        raise RunError(f"{folder.path}: thresholds are for classifiers of one label a row")
    labels = asker.rendering.labels
    fits = len(labels) == 2 and wish.positive in (None, *labels)
    if kind != "hand over" and not fits:
        raise RecipeError(f"threshold: alarms are for two labels; here are {', '.join(labels[:6])}")
    validation = prepare(recipe.data, "classify", journal).splits.validation
    if not validation:
        raise RunError(f"{folder.path}: no validation rows to choose on; train with some")
    fitted = _ask(asker, validation, "validation", journal)
    judged = [rows for (system, split), rows in read_predictions(folder.predictions).items()
              if (system, split) == ("tuned", "test")]  # fmt: skip
    test = judged[0] if judged else []
    if kind == "hand over":
        strange = _strange(asker, unknown, recipe.data, journal) if unknown else None
        found = _hand_over(wish, fitted, test, strange)
    else:
        positive = wish.positive or rarer_label(fitted, labels)
        place = list(labels).index(positive)
        found = _alarm(wish, positive, _scored(fitted, place, positive),
                       _scored(test, place, positive))  # fmt: skip
    write_json(folder.threshold, found)
    return found


def _ask(asker: Asker, rows: Sequence[Example], split: str, journal: Journal) -> list[Prediction]:
    with journal.progress(f"asking about {split} rows", 1.0) as advance:
        return asker.predict(
            rows, system="tuned", split=split, advance=lambda done: advance(done, "")
        )


def _strange(asker: Asker, name: str, section: Any, journal: Journal) -> list[Prediction]:
    """Answers to rows of no known label; whatever label the file has for them is not looked at."""
    rows = list(islice(read_rows(name, format="auto"), 2000))
    layout = find_layout(rows, section, "classify")
    return _ask(asker, read_for_evaluation(name, section, layout, journal), "unknown", journal)


def _hand_over(
    wish: Wish,
    fitted: Sequence[Prediction],
    test: Sequence[Prediction],
    strange: Sequence[Prediction] | None,
) -> Threshold:
    assert wish.precision is not None
    sure, right = _sure(fitted)
    value = hand_over_below(sure, right, precision=wish.precision)
    judged: dict[str, Share] = {}
    told = []
    percent = f"{100 * wish.precision:g} %"
    if value is None:
        need = rows_for_promise(1 - wish.precision, DOUBT / STARTS)
        told.append(
            f"{len(fitted)} validation rows do not promise {percent} at any confidence (it takes "
            f"at least {need} rows without a mistake); label more rows, or wish for less"
        )
    else:
        told.append(
            f"answer from a confidence of {value:.3f} on, hand the rest to a person: {percent} of "
            "the answers are right, promised with 95 % for rows like these"
        )
    if test and value is not None:
        sure, right = _sure(test)
        used = sure >= value
        judged = {"answered": _share(used), "right of answered": _share(right[used]),
                  "right of all": _share(right)}  # fmt: skip
        told.append(
            f"on test {_in_words(judged['answered'])} are answered, "
            f"{_in_words(judged['right of answered'])} of them right"
        )
    refused = None
    if strange is not None and value is not None:
        refused = _share(_sure(strange)[0] < value)
        told.append(f"of rows of no known label {_in_words(refused)} are handed over")
    return Threshold("hand over", wish.precision, value, None, len(fitted), judged, None, refused,
                     tuple(told))  # fmt: skip


Scored = tuple[NDArray[np.float64], NDArray[np.bool_]]


def _alarm(wish: Wish, positive: str, fitted: Scored, test: Scored) -> Threshold:
    scores, rare = fitted
    told = []
    if wish.costs is not None:
        if not rare.any() or rare.all():
            raise RunError(f"threshold: validation rows are all {positive}, or none is; a cost "
                           "needs both")  # fmt: skip
        value: float | None = cheapest_alarm(scores, rare, wish.costs)
        told.append(f"alarm from a score of {value:.4g} for {positive} on is cheapest on "
                    f"{len(scores)} validation rows ({int(rare.sum())} {positive})")  # fmt: skip
    else:
        assert wish.false_alarms is not None
        value = alarm_from(scores, rare, false_alarms=wish.false_alarms)
        percent = f"{100 * wish.false_alarms:g} %"
        if value is None:
            told.append(f"{int((~rare).sum())} validation rows that are not {positive} do not "
                        f"promise {percent}; it takes {rows_for_promise(wish.false_alarms)}, or "
                        "wish for more")  # fmt: skip
        else:
            told.append(f"alarm from a score of {value:.4g} for {positive} on: at most {percent} "
                        "false alarms, promised with 95 % for rows like these")  # fmt: skip
    judged: dict[str, Share] = {}
    costs = None
    scores, rare = test
    if value is not None and rare.any() and not rare.all():
        alarm = scores >= value
        judged = {"found": _share(alarm[rare]), "false alarms": _share(alarm[~rare])}
        told.append(f"on test {_in_words(judged['found'])} of {positive} are found, with "
                    f"{_in_words(judged['false alarms'])} false alarms")  # fmt: skip
        if wish.costs is not None:
            costs = _costs(alarm, rare, wish.costs)
            told.append(
                f"a request costs {costs['per_request']:.4g} ({costs['ci95'][0]:.4g} to "
                f"{costs['ci95'][1]:.4g}); never an alarm {costs['never']:.4g}, always "
                f"{costs['always']:.4g}"
            )
    wished = wish.false_alarms
    return Threshold(wish.kind, wished, value, positive, len(fitted[0]), judged, costs, None,
                     tuple(told))  # fmt: skip


def _costs(alarm: NDArray[np.bool_], rare: NDArray[np.bool_], costs: Costs) -> dict[str, Any]:
    nothing = np.zeros(len(rare), dtype=bool)
    return {
        "per_request": mean_cost(alarm, rare, costs),
        "ci95": cost_interval(alarm, rare, costs, seed=SEED),
        "never": mean_cost(nothing, rare, costs),
        "always": mean_cost(~nothing, rare, costs),
    }


def _sure(rows: Sequence[Prediction]) -> Scored:
    sure = np.array([row.confidence or 0.0 for row in rows], dtype=np.float64)
    return sure, np.array([is_right(row) for row in rows], dtype=bool)


def _scored(rows: Sequence[Prediction], place: int, positive: str) -> Scored:
    scores = np.array([(row.probabilities or (0.0, 0.0))[place] for row in rows], dtype=np.float64)
    return scores, np.array([row.reference == positive for row in rows], dtype=bool)


def _share(yes: NDArray[np.bool_]) -> Share:
    n = len(yes)
    value = float(yes.mean()) if n else float("nan")
    return Share(value, wilson_interval(value, n) if n else (0.0, 1.0), n)


def _in_words(share: Share) -> str:
    low, high = share.ci95
    return f"{100 * share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
