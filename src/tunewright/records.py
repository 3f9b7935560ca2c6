"""Frozen records that cross a border between rooms. Plain Python; no logic beyond small views.

Everything here is immutable, so a record can be kept, compared and written without copying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["classify", "tag", "regress", "generate", "chat", "continue", "embed"]
SplitName = Literal["train", "validation", "test"]
VerdictWord = Literal["better", "worse", "cannot tell"]
Verdict = Literal["ship", "more data", "do not tune"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. weight 0 takes an assistant turn out of the loss; None is 1."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    weight: float | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of Example.input, in characters; end is exclusive."""

    start: int
    end: int
    label: str


Output = str | float | tuple[str, ...] | tuple[Span, ...] | None


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the user's data, whatever its shape on disk.

    id: 16 hex digits, a hash of the content; equal rows get a `-2`, `-3` ... suffix in file order.
    place: where a person finds it, "tickets.csv:41".
    input: the text that goes in. For generate and chat: the prompt as one plain string for display.
    output: what must come out, by task:
        classify   str (one label) or tuple[str, ...] (multi-label)
        tag        tuple[Span, ...]
        regress    float
        generate   str (the completion)      chat   str (the last assistant turn)
        continue   None (the text itself is learned)
        embed      str (a text that belongs to the input)
    messages: the whole conversation for generate and chat, the completion included; for embed the
        pair as two turns; else empty.
    references: further acceptable outputs (generate, embed), `output` included; else empty.
    columns: numeric and categorical values beside the text, in file order.
    group: rows of one group stay on one side of every split.
    rejected: the worse answer of a preference pair; for embed a text that does not belong.
    weight: weight of the row in the loss.
    """

    id: str
    place: str
    input: str
    output: Output = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    references: tuple[str, ...] = ()
    columns: tuple[tuple[str, float | str | None], ...] = ()
    group: str | None = None
    rejected: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something noticed about the data: which kind, where, and what was or should be done."""

    kind: str
    severity: Literal["info", "warn", "error"]
    message: str
    rows: tuple[str, ...] = ()
    """Example ids concerned."""
    places: tuple[str, ...] = ()
    dropped: bool = False
    scores: tuple[float, ...] = ()
    """One a row where rows are ranked, worst first; what it measures stands in the message."""
    suggestions: tuple[str, ...] = ()
    """One a row where there is something to accept: a label, a redacted text; "" for none."""
    counterparts: tuple[str, ...] = ()
    """Place of the row that each row resembles or contradicts, where there is one."""
    clusters: tuple[tuple[str, ...], ...] = ()
    """Places of the rows that belong together, for duplicates."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Measured figures behind the message, as plain JSON values."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Train, validation and test examples; no normalised text and no group on two sides."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one system answered for one row.

    prediction and reference have the type of Example.output for the task.
    probabilities: per label in label order, where the system gives them (classify), else None.
    nll_nats, num_tokens, num_bytes: of the reference completion, where a language model scored it.
    graded: what was found out about the answer by name, such as its reward or "ndcg@10".
    """

    id: str
    split: str
    system: str
    input: str
    reference: Output
    prediction: Output
    confidence: float | None = None
    group: str | None = None
    references: tuple[str, ...] = ()
    probabilities: tuple[float, ...] | None = None
    nll_nats: float | None = None
    num_tokens: int | None = None
    num_bytes: int | None = None
    graded: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a model in use, its answer, and what was heard of it later.

    time_s: Unix time. label: the right answer, where somebody told it (a label or a correction).
    label_by: "person" or "model". rating: -1 ... 1. client: who asked, as a hash.
    failed: why there is no proper answer, as the server saw it.
    """

    id: str
    time_s: float
    input: str
    answer: Output = None
    confidence: float | None = None
    probabilities: tuple[float, ...] | None = None
    latency_s: float | None = None
    release: str | None = None
    client: str | None = None
    failed: str | None = None
    label: Output = None
    label_by: str | None = None
    rating: float | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A rule that spoke: what it measured in which batch, its limit, and the rows behind it.

    first_batch: where the change seems to have begun.
    """

    rule: str
    layer: Literal["inputs", "outputs", "outcomes"]
    batch: int
    value: float
    limit: float
    first_batch: int
    message: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepLog:
    """One line of steps.jsonl. loss is the mean over the true target tokens of the step."""

    step: int
    tokens: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_s: float
    peak_memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value with its 95 % interval, for one system on one split."""

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """System a against system b on the same rows. delta = a - b, in the metric's own unit.

    verdict speaks of a: "better" means that a is better, whichever way the metric points.
    minimum_detectable: the smallest |delta| that this many rows find with 80 % power;
    infinite (null in JSON) where so few rows find nothing.
    """

    a: str
    b: str
    metric: str
    delta: float
    ci95: tuple[float, float]
    p_value: float
    test: str
    n: int
    minimum_detectable: float
    verdict: VerdictWord


@dataclass(frozen=True, slots=True)
class Result:
    """All scores of one system on one split."""

    system: str
    split: str
    n: int
    metrics: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity as forecast beforehand and as measured; None where nobody knows."""

    forecast: float | None = None
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes, each forecast beside measured."""

    seconds: Amount = Amount()
    tokens: Amount = Amount()
    peak_memory_bytes: Amount = Amount()
    energy_kwh: Amount = Amount()
    usd: Amount = Amount()


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict and its evidence; report.json is this record (see DESIGN.md section 4)."""

    task: str
    base_model: str
    primary_metric: str
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    cost: Cost
    verdict: Verdict | None
    """None where nothing was compared: `evaluate` on one model."""
    because: tuple[str, ...]
    next_steps: tuple[str, ...] = ()
    forgetting: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the pages draw: loss curve, confusion matrix, calibration bins, examples, recipe."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A recipe value that Tunewright chose, and why: ("training.learning_rate", 2e-4, "...")."""

    key: str
    value: Any
    reason: str
