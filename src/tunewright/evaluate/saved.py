"""Predictions on disk: predictions.jsonl, one line per row and system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import RunError
from tunewright.records import Output, Prediction, Span
from tunewright.store import read_jsonl, write_jsonl

DIGITS = 6


def save_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions atomically; fields that a system does not give are left out."""
    write_jsonl(path, (_to_line(prediction) for prediction in predictions))


def read_predictions(path: Path) -> dict[tuple[str, str], list[Prediction]]:
    """(system, split) to predictions, in file order. Raises RunError when missing or broken."""
    if not path.exists():
        raise RunError(f"{path}: missing; is this a finished run folder?")
    found: dict[tuple[str, str], list[Prediction]] = {}
    for number, line in enumerate(read_jsonl(path), 1):
        try:
            prediction = prediction_from(line)
        except (KeyError, TypeError) as error:
            raise RunError(f"{path}:{number}: not a prediction ({error}); run again") from error
        found.setdefault((prediction.system, prediction.split), []).append(prediction)
    return found


def _to_line(p: Prediction) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": p.id,
        "split": p.split,
        "system": p.system,
        "input": p.input,
        "reference": p.reference,
        "prediction": p.prediction,
        "confidence": None if p.confidence is None else round(p.confidence, DIGITS),
    }
    if p.probabilities is not None:
        line["probabilities"] = [round(value, DIGITS) for value in p.probabilities]
    if p.graded:
        line["graded"] = {name: round(value, DIGITS) for name, value in p.graded.items()}
    for name in ("group", "references", "nll_nats", "num_tokens", "num_bytes"):
        value = getattr(p, name)
        if value is not None and value != ():
            line[name] = value
    return line


def prediction_from(line: Mapping[str, Any]) -> Prediction:
    """The prediction of which a line holds the fields. Raises KeyError or TypeError."""
    probabilities = line.get("probabilities")
    return Prediction(
        id=line["id"],
        split=line["split"],
        system=line["system"],
        input=line["input"],
        reference=_output(line["reference"]),
        prediction=_output(line["prediction"]),
        confidence=line["confidence"],
        group=line.get("group"),
        references=tuple(line.get("references", ())),
        probabilities=None if probabilities is None else tuple(probabilities),
        nll_nats=line.get("nll_nats"),
        num_tokens=line.get("num_tokens"),
        num_bytes=line.get("num_bytes"),
        graded=line.get("graded") or {},
    )


def _output(value: Any) -> Output:
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return tuple(Span(item["start"], item["end"], item["label"]) for item in value)
        return tuple(value)
    return value  # type: ignore[no-any-return]
