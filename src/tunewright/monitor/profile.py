"""The reference profile of a model: the rows that traffic is compared with, and what they are like.

Reference rows are validation and test rows, which the model did not learn from: on its training
rows it is too sure. Kept as numbers in profile.npz and words in profile.json; no pickle.

Shapes: r reference rows, T training rows, H width of an embedding, K labels, n rows of traffic.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.audit.language import tell_language
from tunewright.errors import RunError
from tunewright.monitor.inputs import (
    class_nearness,
    foreign,
    lengths_of,
    unit_rows,
    unknown_shares,
    words_of,
)
from tunewright.monitor.novelty import (
    NoveltyModel,
    fit_novelty,
    fit_plain,
    has_classes,
    make_views,
    plain_views,
)
from tunewright.monitor.outcomes import is_right
from tunewright.monitor.outputs import (
    Calibration,
    answer_lengths,
    broken_answers,
    fit_calibration,
    parses,
    refusals,
)
from tunewright.records import Output, Request
from tunewright.store import read_json, write_atomic, write_json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
VERSION = 1
MAX_TRAIN_ROWS = 6000
MAX_REFERENCE_ROWS = 5000
MAX_WORDS = 100_000
LEAST_LANGUAGE_SHARE = 0.02
FEWEST_ROWS = 50


@dataclass(frozen=True)
class Profile:
    """What traffic is compared with.

    requests: the reference rows with the model's answers; label is the true answer.
    labels: those of the model, empty where it writes. classes_T: number of the label of each
    training row, 0 for all where there is no single one.
    """

    model: str
    task: str
    labels: tuple[str, ...]
    requests: tuple[Request, ...]
    states_rH: Floats
    train_TH: Floats
    classes_T: Ints
    words: frozenset[str]
    languages: tuple[str, ...]
    expects_json: bool


@dataclass(frozen=True)
class Facts:
    """What is known of n requests, one number each; nan where it is not.

    classes_n: number of the answered label, K for none or several. sureness: the confidence as the
    model gives it, which training has fitted by a temperature; confidence: the same through the
    curve of the reference, which is flat where a model hardly errs.
    """

    length: Floats
    foreign: Floats
    unknown: Floats
    distance: Floats
    novelty: Floats
    sureness: Floats
    confidence: Floats
    refused: Floats
    broken: Floats
    answer_length: Floats
    right: Floats
    classes_n: Ints
    states_nH: Floats

    def take(self, index: NDArray[np.intp]) -> Facts:
        """The facts of some of the rows."""
        return Facts(*(getattr(self, name)[index] for name in Facts.__dataclass_fields__))


@dataclass(frozen=True)
class Lens:
    """A profile made ready to look at traffic with."""

    profile: Profile
    novelty: NoveltyModel
    calibration: Calibration
    reference: Facts

    def look(self, requests: Sequence[Request], states_nH: Floats) -> Facts:
        """The facts of requests. states_nH: their embeddings, by the profile's own model."""
        nearness = _nearness(self.profile, states_nH)
        given = _probabilities(requests, len(self.profile.labels))
        return _facts(self.profile, requests, unit_rows(states_nH), nearness, given,
                      self.novelty, self.calibration)  # fmt: skip


def make_profile(
    requests: Sequence[Request],
    states_rH: Floats,
    train_texts: Sequence[str],
    train_states_TH: Floats,
    train_outputs: Sequence[Output],
    *,
    model: str,
    task: str,
    labels: Sequence[str] = (),
) -> Profile:
    """A profile of reference rows (answers and true labels in `requests`) and training rows.

    Raises RunError with fewer than FEWEST_ROWS reference rows: no threshold can rest on those.
    """
    if len(requests) < FEWEST_ROWS:
        raise RunError(
            f"{model}: {len(requests)} validation and test rows are too few to watch by; "
            f"train with at least {FEWEST_ROWS} of them"
        )
    index = {label: number for number, label in enumerate(labels)}
    numbers = [index.get(o, 0) if isinstance(o, str) else 0 for o in train_outputs]
    counts = Counter(word for text in train_texts for word in set(words_of(text)))
    written = [o for o in train_outputs if isinstance(o, str)][:1000] if not labels else []
    return Profile(
        model=model,
        task=task,
        labels=tuple(labels),
        requests=tuple(requests),
        states_rH=unit_rows(np.asarray(states_rH, dtype=np.float64)),
        train_TH=unit_rows(np.asarray(train_states_TH, dtype=np.float64)),
        classes_T=np.array(numbers, dtype=np.int64),
        words=frozenset(word for word, _ in counts.most_common(MAX_WORDS)),
        languages=_languages([*train_texts[:2000], *(item.input for item in requests[:2000])]),
        expects_json=bool(written) and sum(map(parses, written)) >= 0.95 * len(written),
    )


def _languages(texts: Sequence[str]) -> tuple[str, ...]:
    """Codes of the languages that at least 1 in 50 surely told texts is written in."""
    codes = Counter(code for code in map(tell_language, texts) if code)
    least = LEAST_LANGUAGE_SHARE * codes.total()
    return tuple(sorted(code for code, times in codes.items() if times >= least))


def make_lens(profile: Profile, *, seed: int = 17) -> Lens:
    """The profile with its novelty model, its calibration and the facts of its own rows."""
    nearness = _nearness(profile, profile.states_rH)
    given = _probabilities(profile.requests, len(profile.labels))
    index = {label: number for number, label in enumerate(profile.labels)}
    truth = np.array([index.get(r.label, -1) if isinstance(r.label, str) else -1
                      for r in profile.requests])  # fmt: skip
    single = truth if given is not None and bool((truth >= 0).all()) else None
    if has_classes(nearness, given, single):
        novelty = fit_novelty(nearness, given, single, seed=seed)
    else:
        words = unknown_shares([item.input for item in profile.requests], profile.words)
        novelty = fit_plain(plain_views(profile.states_rH, profile.train_TH, words))
    confidence = np.array([_number(item.confidence) for item in profile.requests])
    right = np.array([is_right(item) for item in profile.requests])
    calibration = fit_calibration(confidence, right)
    facts = _facts(profile, profile.requests, profile.states_rH, nearness, given, novelty,
                   calibration)  # fmt: skip
    return Lens(profile, novelty, calibration, facts)


def _facts(
    profile: Profile,
    requests: Sequence[Request],
    states_nH: Floats,
    nearness_nK: Floats,
    probabilities_nK: Floats | None,
    novelty: NoveltyModel,
    calibration: Calibration,
) -> Facts:
    texts = [item.input for item in requests]
    answers = [item.answer for item in requests]
    index = {label: number for number, label in enumerate(profile.labels)}
    other = len(profile.labels)
    unknown = unknown_shares(texts, profile.words)
    if novelty.weights_F is None:
        views = plain_views(states_nH, profile.train_TH, unknown)
    else:
        assert probabilities_nK is not None
        views = make_views(nearness_nK, probabilities_nK)
    raw = np.array([_number(item.confidence) for item in requests])
    classes = [index.get(a, other) if isinstance(a, str) else other for a in answers]
    written = profile.task in ("generate", "chat", "continue")
    nothing = np.full(len(answers), np.nan)
    return Facts(
        length=lengths_of(texts),
        foreign=foreign(texts, profile.languages),
        unknown=unknown,
        distance=1 - nearness_nK.max(axis=1),
        novelty=novelty.ratios(views),
        sureness=raw,
        confidence=np.where(np.isfinite(raw), calibration.of(np.nan_to_num(raw)), np.nan),
        refused=refusals(answers) if written else nothing,
        broken=broken_answers(requests, profile.labels, expects_json=profile.expects_json),
        answer_length=answer_lengths(answers) if written else nothing,
        right=np.array([is_right(item) for item in requests]),
        classes_n=np.array(classes, dtype=np.int64),
        states_nH=states_nH,
    )


def _nearness(profile: Profile, states_nH: Floats) -> Floats:
    classes = max(1, len(profile.labels))
    return class_nearness(unit_rows(states_nH), profile.train_TH, profile.classes_T, classes)


def _probabilities(requests: Sequence[Request], num_labels: int) -> Floats | None:
    """(n, K) where every row has them, else None."""
    rows = [item.probabilities for item in requests]
    if num_labels < 2 or any(row is None or len(row) != num_labels for row in rows):
        return None
    return np.array(rows, dtype=np.float64)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def save_profile(profile: Profile, folder: Path) -> None:
    """Write profile.npz and profile.json into the folder, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    given = _probabilities(profile.requests, len(profile.labels))
    arrays: dict[str, Any] = {
        "states_rH": profile.states_rH.astype(np.float32),
        "train_TH": profile.train_TH.astype(np.float32),
        "classes_T": profile.classes_T,
    }
    if given is not None:
        arrays["probabilities_rK"] = given.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(folder / "profile.npz", buffer.getvalue())
    rows = [
        {"id": r.id, "input": r.input, "answer": r.answer, "confidence": r.confidence,
         "label": r.label} for r in profile.requests
    ]  # fmt: skip
    write_json(folder / "profile.json", {
        "version": VERSION, "model": profile.model, "task": profile.task,
        "labels": profile.labels, "languages": profile.languages,
        "expects_json": profile.expects_json, "words": sorted(profile.words), "rows": rows,
    })  # fmt: skip


def load_profile(folder: Path) -> Profile:
    """The profile in a folder. Raises RunError where it is missing or broken."""
    told = read_json(folder / "profile.json")
    try:
        with np.load(folder / "profile.npz", allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        given = found.get("probabilities_rK")
        rows = [
            Request(id=row["id"], time_s=0.0, input=row["input"], answer=_output(row["answer"]),
                    confidence=row["confidence"], label=_output(row["label"]))
            for row in told["rows"]
        ]  # fmt: skip
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}")
        if given is not None:
            shares = given.astype(np.float64)
            rows = [replace(row, probabilities=tuple(p))
                    for row, p in zip(rows, shares.tolist(), strict=True)]  # fmt: skip
        return Profile(
            model=told["model"], task=told["task"], labels=tuple(told["labels"]),
            requests=tuple(rows), states_rH=found["states_rH"].astype(np.float64),
            train_TH=found["train_TH"].astype(np.float64), classes_T=found["classes_T"],
            words=frozenset(told["words"]), languages=tuple(told["languages"]),
            expects_json=bool(told["expects_json"]),
        )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder}: the profile cannot be read ({error}); delete it, and it is made again"
        ) from error


def _output(value: Any) -> Output:
    return tuple(value) if isinstance(value, list) else value
