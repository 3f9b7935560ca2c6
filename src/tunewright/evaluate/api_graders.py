"""Graders as OpenAI's API writes them: string_check, text_similarity, score_model, label_model,
python and multi, with {{item.key}} and {{sample.output_text}} in their texts.

The recipe's own graders stand in graders.py; these are what reinforcement jobs, evals and
/v1/fine_tuning/alpha/graders take. Models are asked through a function that is handed in.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from tunewright.errors import RecipeError
from tunewright.evaluate.filling import (
    FillError,
    FormulaError,
    check_text,
    fill,
    read_formula,
    value_of,
)
from tunewright.evaluate.sandbox import grade_by_code
from tunewright.metrics.overlap import SIMILARITIES

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=100_000)]
MAX_GRADERS = 32
FLAGS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error",
    "model_grader_refusal_error", "model_grader_server_error", "other_error",
    "python_grader_runtime_error", "python_grader_server_error", "sample_parse_error",
    "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip


class Spec(BaseModel):
    """One grader as it was sent."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    name: Name
    pass_threshold: float | None = None


class StringCheck(Spec):
    """1 where the input meets the reference: eq, ne, like (contains), ilike (without case)."""

    type: Literal["string_check"]
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(Spec):
    """How alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    input: Text
    reference: Text
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3",
        "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip


class Turn(BaseModel):
    """A message to a model that grades."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | dict[str, Any] | list[Any]


class Sampling(BaseModel):
    """How a model that grades writes."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    max_completions_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None


class ScoreModel(Spec):
    """A number that a model gives."""

    type: Literal["score_model"]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Annotated[list[Turn], Field(min_length=1, max_length=64)]
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: Sampling | None = None


class LabelModel(Spec):
    """A label that a model gives; 1 where it is a passing one."""

    type: Literal["label_model"]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Annotated[list[Turn], Field(min_length=1, max_length=64)]
    labels: Annotated[list[Name], Field(min_length=1, max_length=100)]
    passing_labels: Annotated[list[Name], Field(min_length=1, max_length=100)]


class Python(Spec):
    """What the client's own grade(sample, item) gives."""

    type: Literal["python"]
    source: Annotated[str, Field(min_length=1, max_length=256_000)]


Single = Annotated[
    StringCheck | TextSimilarity | ScoreModel | LabelModel | Python, Discriminator("type")
]


class Multi(Spec):
    """A formula over the scores of several graders."""

    type: Literal["multi"]
    graders: dict[str, Single] | Annotated[list[Single], Field(min_length=1)] | Single
    calculate_output: Annotated[str, Field(min_length=1, max_length=1000)]

    @property
    def parts(self) -> dict[str, Spec]:
        """The graders by the names that the formula uses."""
        given = self.graders
        if isinstance(given, dict):
            return dict(given)
        return {part.name: part for part in (given if isinstance(given, list) else [given])}


Any_ = Annotated[
    StringCheck | TextSimilarity | ScoreModel | LabelModel | Python | Multi, Discriminator("type")
]
_ADAPTER: TypeAdapter[Spec] = TypeAdapter(Any_)
Write = Callable[[str, Sequence[tuple[str, str]], Mapping[str, Any], Mapping[str, Any]], str]
"""(model, turns of role and text, sampling, JSON schema of the answer) to the answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a grader came to. reward: 0 where it failed, and then errors says why."""

    reward: float
    scores: Mapping[str, float]
    errors: Mapping[str, str] = field(default_factory=dict)

    def passes(self, threshold: float | None) -> bool:
        """Whether it is good enough: at least the threshold, or 1 where there is none."""
        return not self.errors and self.reward >= (1.0 if threshold is None else threshold)


class _FaultError(Exception):
    """kind: one of FLAGS."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_grader(given: Any) -> Spec:
    """The grader as it was sent, checked. Raises RecipeError naming the key at fault."""
    try:
        spec = _ADAPTER.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        kinds = ("string_check", "text_similarity", "score_model", "label_model", "python", "multi")
        place = ".".join(str(part) for part in first["loc"] if part not in kinds)
        raise RecipeError(f"grader{'.' + place if place else ''}: {first['msg']}") from None
    _check(spec)
    return spec


def parts_of(spec: Spec) -> list[Spec]:
    """The grader itself, or those that a multi grader is made of."""
    return list(spec.parts.values()) if isinstance(spec, Multi) else [spec]


def with_models(grader: Mapping[str, Any], lead: Callable[[str], str]) -> dict[str, Any]:
    """A checked grader as plain values, its models led to others."""
    given = {**grader}
    if given["type"] in ("score_model", "label_model"):
        given["model"] = lead(given["model"])
    if given["type"] == "multi":
        parts = read_grader(grader).parts  # type: ignore[attr-defined]
        plain = {name: part.model_dump(mode="json", exclude_none=True)
                 for name, part in parts.items()}  # fmt: skip
        given["graders"] = {name: with_models(part, lead) for name, part in plain.items()}
    return given


def grade(
    spec: Spec, item: Mapping[str, Any], answer: str | Mapping[str, Any], write: Write | None
) -> Outcome:
    """Grade one answer to one row. write: asks a model; None where there are none.

    answer: its text, or all that {{sample...}} shall lead to.
    """
    sample = sample_of(answer) if isinstance(answer, str) else answer
    values = {"item": item, "sample": sample}
    scores, errors = {}, {}
    for name, part in (spec.parts if isinstance(spec, Multi) else {spec.name: spec}).items():
        try:
            scores[name] = _score(part, values, write)
        except FillError as error:
            scores[name], errors["invalid_variable_error"] = 0.0, str(error)
        except _FaultError as error:
            scores[name], errors[error.kind] = 0.0, str(error)
    if not isinstance(spec, Multi):
        return Outcome(scores[spec.name], scores, errors)
    try:
        tree = read_formula(spec.calculate_output, frozenset(scores))
        reward = 0.0 if errors else value_of(tree, scores)
    except FormulaError as error:
        reward, errors["formula_parse_error"] = 0.0, str(error)
    return Outcome(reward, scores, errors)


def sample_of(answer: str) -> dict[str, Any]:
    """What {{sample...}} leads to."""
    try:
        read = json.loads(answer)
    except (ValueError, RecursionError):
        read = None
    found = {"output_text": answer, "output_tools": []}
    message = {"message": {"role": "assistant", "content": answer}}
    return {**found, "choices": [message], **({} if read is None else {"output_json": read})}


def text_of(content: Any) -> str:
    """The text of a message's content. Raises RecipeError for images and sound."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    said = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            said.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise RecipeError(f"grader.input: parts of type {str(kind)[:40]!r} are not read here")
    return "\n".join(said)


def _check(spec: Spec) -> None:
    """What types cannot tell. Raises RecipeError."""
    try:
        if isinstance(spec, Multi):
            if len(spec.parts) > MAX_GRADERS:
                raise RecipeError(f"grader.graders: at most {MAX_GRADERS}")
            for part in spec.parts.values():
                _check(part)
            read_formula(spec.calculate_output, frozenset(spec.parts))
        elif isinstance(spec, StringCheck | TextSimilarity):
            check_text(spec.input)
            check_text(spec.reference)
        elif isinstance(spec, ScoreModel | LabelModel):
            for turn in spec.input:
                check_text(text_of(turn.content))
    except (FillError, FormulaError) as error:
        where = "calculate_output" if isinstance(error, FormulaError) else spec.name
        raise RecipeError(f"grader.{where}: {error}") from None
    if isinstance(spec, TextSimilarity) and spec.evaluation_metric == "cosine":
        raise RecipeError(
            "grader.evaluation_metric: cosine needs OpenAI's embeddings; use fuzzy_match, bleu, "
            "gleu, meteor or rouge_1 ... rouge_l"
        )
    if isinstance(spec, LabelModel) and set(spec.passing_labels) - set(spec.labels):
        raise RecipeError("grader.passing_labels: each must be one of labels")
    if isinstance(spec, ScoreModel) and spec.range and not spec.range[0] < spec.range[1]:
        raise RecipeError("grader.range: give the lower end first")


def _score(spec: Spec, values: Mapping[str, Any], write: Write | None) -> float:
    match spec:
        case StringCheck():
            return _meets(fill(spec.input, values), fill(spec.reference, values), spec.operation)
        case TextSimilarity():
            compare = SIMILARITIES[spec.evaluation_metric]
            return float(compare(fill(spec.input, values), fill(spec.reference, values)))
        case Python():
            return _by_code(spec, values)
        case ScoreModel():
            return _number_of(spec, values, write)
        case LabelModel():
            return _label_of(spec, values, write)
    raise AssertionError(spec)


def _meets(text: str, reference: str, operation: str) -> float:
    return float(
        {
            "eq": text == reference, "ne": text != reference, "like": reference in text,
            "ilike": reference.casefold() in text.casefold(),
        }[operation]
    )  # fmt: skip


_SHIM = "\n\n_client = grade\n\n\ndef grade(answer, row):\n    return _client(row['s'], row['i'])\n"


def _by_code(spec: Python, values: Mapping[str, Any]) -> float:
    row = {"s": values["sample"], "i": values["item"]}
    try:
        return grade_by_code(spec.source + _SHIM, [("", row)], timeout_s=2.0, memory_mb=512)[0]
    except RecipeError as error:
        raise _FaultError("python_grader_runtime_error", str(error)) from None


def _number_of(spec: ScoreModel, values: Mapping[str, Any], write: Write | None) -> float:
    low, high = spec.range or (0.0, 1.0)
    bounds = {"type": "number", "minimum": low, "maximum": high}
    ask = f"Give the result as a number from {low:g} to {high:g}."
    params = spec.sampling_params.model_dump(exclude_none=True) if spec.sampling_params else {}
    said = _ask(spec.model, spec.input, ask, bounds, params, values, write)
    found = said if isinstance(said, int | float) else _first_number(str(said))
    if found is None or isinstance(found, bool) or not math.isfinite(found):
        raise _FaultError("model_grader_parse_error", f"{str(said)[:80]!r} is no number")
    if not low <= found <= high:
        raise _FaultError("model_grader_parse_error", f"{found:g} is not within {low:g}..{high:g}")
    return float(found)


def _label_of(spec: LabelModel, values: Mapping[str, Any], write: Write | None) -> float:
    ask = f"Give the result as one of: {', '.join(spec.labels)}."
    said = _ask(spec.model, spec.input, ask, {"enum": spec.labels}, {}, values, write)
    text = str(said).strip().casefold()
    named = [label for label in spec.labels if text.startswith(label.casefold())]
    if not named:
        raise _FaultError("model_grader_parse_error", f"{str(said)[:80]!r} is none of the labels")
    return float(max(named, key=len) in spec.passing_labels)


def _ask(
    model: str, turns: Sequence[Turn], ask: str, result: Mapping[str, Any],
    params: Mapping[str, Any], values: Mapping[str, Any], write: Write | None,
) -> Any:  # fmt: skip
    """What the model says as its result; its plain words where they are no such JSON."""
    if write is None:
        raise _FaultError("model_grader_server_error", f"no model can be asked here: {model[:80]}")
    filled = [(turn.role, fill(text_of(turn.content), values)) for turn in turns]
    role, last = filled[-1]
    filled[-1] = (role, f"{last}\n\n{ask}")
    schema = {
        "type": "object", "properties": {"result": dict(result)}, "required": ["result"],
        "additionalProperties": False,
    }  # fmt: skip
    try:
        said = write(model, filled, params, schema)
    except Exception as error:  # whatever it is, the grader says so instead of the reward
        raise _FaultError("model_grader_server_error", str(error)[:300]) from None
    try:
        read = json.loads(said)
        return read["result"] if isinstance(read, dict) else read
    except (ValueError, KeyError, RecursionError):
        return said


def _first_number(text: str) -> float | None:
    found = re.search(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", text)
    return None if found is None else float(found[0])
