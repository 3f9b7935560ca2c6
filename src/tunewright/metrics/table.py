"""What a metric is, the table of them all, and which ones a task is judged by.

To add one: write the function in the file of its kind and one line in METRICS at the foot.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tunewright.errors import DataError, RecipeError
from tunewright.metrics import calibration, code, labels, points, regression, slots, spans, text
from tunewright.records import Example, Output, Prediction, Task

Array = NDArray[np.float64]
Rows: TypeAlias = Array | sparse.csr_array
Needs = Literal["probabilities", "confidence", "nll"]
RowsOf = Callable[[Sequence[Prediction], Sequence[str]], Rows]
WeightedOf = Callable[[Sequence[Prediction], Sequence[str]], Callable[[Array], Array]]

IMBALANCED_SHARE = 0.20
FREE_TEXT_WORDS = 3


@dataclass(frozen=True)
class Metric:
    """One way to score predictions; either rows and value, or weighted.

    rows(predictions, labels): what each row adds, (n, k), dense or sparse.
    value(sums): sums of rows over a (re)sample, (..., k), to values (...).
    weighted(predictions, labels): for what sums can't tell (ranks): a function from weights_nB, one
        resample per column, to B values.
    range: least and largest possible value; None where there is no end.
    graded: the name under which each prediction holds its own value already.
    needs: what a prediction must carry beside its answer.
    yes_no: each row is right or wrong and the value is the share of right ones.
    inflated: noise alone raises the value, so that its interval must reach further down.
    """

    tasks: tuple[Task, ...]
    description: str
    rows: RowsOf | None = None
    value: Callable[[Array], Array] | None = None
    weighted: WeightedOf | None = None
    higher_is_better: bool = True
    range: tuple[float | None, float | None] = (0.0, 1.0)
    needs: Needs | None = None
    yes_no: bool = False
    inflated: bool = False
    graded: str | None = None


def find_metric(name: str) -> Metric:
    """The metric of this name. Raises RecipeError.

    "f1[spam]" is the F1 of one label, "recall_at_fpr[0.01]" the recall at a false-alarm rate.
    """
    if name in METRICS:
        return METRICS[name]
    kind, bracket, label = name.partition("[")
    if bracket and kind in ONE_LABEL and label.endswith("]"):
        return ONE_LABEL[kind](label[:-1])
    if name.startswith("pass@") and name[5:].isdigit() and int(name[5:]) > 0:
        return _graded(name, f"share of rows with a right answer among {name[5:]} drawn", WRITE)
    if bracket and kind in points.AT and label.endswith("]"):
        return _at_number(name, kind, label[:-1])
    known = [
        *METRICS,
        *(f"{kind}[LABEL]" for kind in ONE_LABEL),
        *(f"{k}[0.01]" for k in points.AT),
    ]
    near = difflib.get_close_matches(name.lower(), [item.lower() for item in known], 1, 0.6)
    spelled = {item.lower(): item for item in known}
    hint = PEERS_NAMES.get(name.lower()) or (spelled[near[0]] if near else "")
    remedy = f"did you mean {hint}?" if hint else f"known: {', '.join(known)}"
    raise RecipeError(f"evaluation.metrics: unknown metric {name}; {remedy}")


def check_metrics(names: Sequence[str], task: Task, label_names: Sequence[str] = ()) -> None:
    """Raise RecipeError for a metric that is unknown, not for this task, or of an unknown label."""
    for name in names:
        metric = find_metric(name)
        if task not in metric.tasks:
            fitting = ", ".join(key for key, item in METRICS.items() if task in item.tasks)
            raise RecipeError(f"evaluation.metrics: {name} is not for {task}; known: {fitting}")
        kind, _, label = name.partition("[")
        label = "" if kind in points.AT else label.removesuffix("]")
        if label and label_names and label not in label_names:
            near = difflib.get_close_matches(label, label_names, 1, 0.0)
            raise RecipeError(
                f"evaluation.metrics: {name}: no label {label!r} in the data; "
                f"did you mean {near[0]!r}?"
            )


def lacks(metric: Metric, predictions: Sequence[Prediction]) -> bool:
    """True where some prediction lacks what the metric needs: it can't be computed."""
    if metric.needs == "probabilities":
        return any(row.probabilities is None for row in predictions)
    if metric.needs == "confidence":
        return any(row.confidence is None for row in predictions)
    if metric.graded is not None:
        return any(metric.graded not in row.graded for row in predictions)
    if metric.needs == "nll":
        return any(row.nll_nats is None for row in predictions)
    return False


def measure(
    predictions: Sequence[Prediction], names: Sequence[str], label_names: Sequence[str]
) -> dict[str, float]:
    """Plain values without intervals, for evaluations during training.

    Metrics that need what the predictions lack are left out. nan where a metric is undefined.
    Raises DataError without rows, RecipeError for unknown names.
    """
    if not predictions:
        raise DataError("evaluation: no rows to score; give a larger validation or test share")
    metrics = {name: find_metric(name) for name in names}
    return {
        name: value_of(metric, predictions, label_names)
        for name, metric in metrics.items()
        if not lacks(metric, predictions)
    }


def value_of(
    metric: Metric, predictions: Sequence[Prediction], label_names: Sequence[str]
) -> float:
    """The metric over all rows."""
    if metric.weighted is not None:
        return float(metric.weighted(predictions, label_names)(np.ones((len(predictions), 1)))[0])
    assert metric.rows is not None and metric.value is not None
    rows: Any = metric.rows(predictions, label_names)
    return float(metric.value(np.asarray(rows.sum(axis=0), dtype=np.float64)))


def is_better(name: str, value: float, than: float | None) -> bool:
    """Whether a value of this metric is better than another; nan never is, None always loses."""
    if math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value > than if find_metric(name).higher_is_better else value < than


def default_metrics(
    task: Task,
    *,
    multi_label: bool = False,
    has_references: bool = False,
    binary: bool = False,
    imbalanced: bool = False,
    positive_label: str | None = None,
    median_reference_words: float = 0.0,
) -> tuple[str, ...]:
    """Names of the metrics for a task; the first decides.

    imbalanced: the rarer of two labels has under 20 % of the rows: its F1 decides, for accuracy
    would praise never finding it. has_references: rows have several acceptable answers.
    median_reference_words: beyond 3, answers are free text and BLEU decides, not exact match.
    """
    if task == "classify" and multi_label:
        return ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "log_loss")
    if task == "classify" and binary:
        positive = f"f1[{positive_label}]" if positive_label is not None else "f1_positive"
        first = (positive, "accuracy") if imbalanced else ("accuracy", positive)
        return (*first, "pr_auc", "roc_auc", "balanced_accuracy", "mcc", "log_loss", "ece")
    if task == "classify":
        return ("accuracy", "f1_macro", "balanced_accuracy", "mcc", "log_loss", "ece")
    if task == "tag":
        return ("span_f1", "span_precision", "span_recall", "span_f1_macro", "span_exact_match")
    if task == "regress":
        return ("mae", "rmse", "r2", "spearman", "pearson")
    if task == "continue":
        return ("bits_per_byte", "perplexity")
    if task == "embed":
        return ("ndcg@10", "mrr", "recall@1", "recall@5", "recall@10")
    rest = ("chrf", "rougeL", "token_f1", "bits_per_byte", "perplexity")
    if has_references or median_reference_words > FREE_TEXT_WORDS:
        return ("bleu", *rest[:3], "exact_match", *rest[3:])
    return ("exact_match", "token_f1", "chrf", "bits_per_byte", "perplexity")


def metrics_for(
    task: Task, examples: Sequence[Example], label_names: Sequence[str] = ()
) -> tuple[str, ...]:
    """default_metrics, with its options read off the examples (training rows, or all)."""
    outputs = [example.output for example in examples]
    multi_label = task == "classify" and any(isinstance(output, tuple) for output in outputs)
    counts = Counter(output for output in outputs if isinstance(output, str))
    counts.update(dict.fromkeys(label_names, 0))
    binary = task == "classify" and not multi_label and len(counts) == 2
    rarer = min(reversed(list(counts)), key=lambda label: counts[label]) if binary else None
    rare = bool(rarer is not None and counts[rarer] < IMBALANCED_SHARE * len(outputs))
    words = [len(output.split()) for output in outputs if isinstance(output, str)]
    return default_metrics(
        task,
        multi_label=multi_label,
        has_references=any(len(example.references) > 1 for example in examples),
        binary=binary,
        imbalanced=rare,
        positive_label=rarer,
        median_reference_words=float(np.median(words)) if words else 0.0,
    )


def is_label_output(output: Output) -> bool:
    """True for a single label or a set of labels (not spans, not a number)."""
    return isinstance(output, str) or (
        isinstance(output, tuple) and all(isinstance(item, str) for item in output)
    )


CLASSIFY: tuple[Task, ...] = ("classify",)
TAG: tuple[Task, ...] = ("tag",)
REGRESS: tuple[Task, ...] = ("regress",)
EMBED: tuple[Task, ...] = ("embed",)
WRITE: tuple[Task, ...] = ("generate", "chat")
LANGUAGE: tuple[Task, ...] = ("generate", "chat", "continue")

_right = partial(Metric, CLASSIFY, rows=labels.right_rows, value=labels.mean_of, yes_no=True)
_counts = partial(Metric, CLASSIFY, rows=labels.class_rows)
_rarer = partial(Metric, CLASSIFY, rows=labels.one_class_rows)
_ranks = partial(Metric, CLASSIFY, needs="probabilities")
_loss = partial(Metric, CLASSIFY, higher_is_better=False)
_ece = partial(_loss, value=calibration.ece_of, needs="confidence", inflated=True)
_spans = partial(Metric, TAG, rows=spans.span_rows)
_answers = partial(Metric, WRITE, value=labels.mean_of)
_corpus = partial(Metric, WRITE, range=(0.0, 100.0))
_rouge = partial(Metric, WRITE, rows=text.rouge_rows)
_language = partial(
    Metric, LANGUAGE, rows=text.likelihood_rows, needs="nll", higher_is_better=False
)
_error = partial(
    Metric, REGRESS, rows=regression.moment_rows, higher_is_better=False, range=(0.0, None)
)
_fit = partial(Metric, REGRESS, rows=regression.moment_rows)
_micro = partial(partial, average="micro")
_weighted = partial(partial, average="weighted")


def graded_rows(
    predictions: Sequence[Prediction], label_names: Sequence[str], *, name: str
) -> Array:
    """(n, 2): what each prediction was graded with under this name, and 1."""
    values = [row.graded[name] for row in predictions]
    return np.column_stack([np.array(values, dtype=np.float64), np.ones(len(values))])


def _graded(name: str, description: str, tasks: tuple[Task, ...] = EMBED, **more: Any) -> Metric:
    rows = partial(graded_rows, name=name)
    return Metric(tasks, description, rows=rows, value=labels.mean_of, graded=name, **more)


def _one_label(label: str, value: Callable[[Array], Array], what: str) -> Metric:
    rows = partial(labels.one_class_rows, label=label)
    return Metric(CLASSIFY, f"{what} of {label}", rows=rows, value=value)


def _one_span_label(label: str, value: Callable[[Array], Array], what: str) -> Metric:
    rows = partial(spans.one_label_rows, label=label)
    return Metric(TAG, f"{what} of {label}", rows=rows, value=value)


def _at_number(name: str, kind: str, number: str) -> Metric:
    try:
        at = float(number)
    except ValueError:
        at = math.nan
    if not 0 < at < 1:
        raise RecipeError(f"evaluation.metrics: {name}: {number!r} is no share between 0 and 1; "
                          f"write {kind}[0.01]")  # fmt: skip
    description, weighted = points.AT[kind]
    needs: Needs = "confidence" if kind == "coverage_at_precision" else "probabilities"
    return Metric(CLASSIFY, description, weighted=partial(weighted, at=at), needs=needs)


# What other tools call our metrics; an unknown name that stands here is answered with ours.
PEERS_NAMES = {
    "acc": "accuracy",
    "auc": "roc_auc",
    "auroc": "roc_auc",
    "average_precision": "pr_auc",
    "cross_entropy": "log_loss",
    "em": "exact_match",
    "f1": "f1_macro",
    "hamming": "hamming_loss",
    "loss": "log_loss",
    "macro_f1": "f1_macro",
    "matthews_correlation": "mcc",
    "micro_f1": "f1_micro",
    "mse": "rmse",
    "ppl": "perplexity",
    "precision": "precision_macro",
    "r_squared": "r2",
    "recall": "recall_macro",
    "rouge": "rougeL",
    "rouge_l": "rougeL",
    "sacrebleu": "bleu",
    "seqeval": "span_f1",
    "spearmanr": "spearman",
    "weighted_f1": "f1_weighted",
}

ONE_LABEL: dict[str, Callable[[str], Metric]] = {
    "f1": partial(_one_label, value=labels.f1_of, what="F1"),
    "precision": partial(_one_label, value=labels.precision_of, what="precision"),
    "recall": partial(_one_label, value=labels.recall_of, what="recall"),
    "span_f1": partial(_one_span_label, value=labels.f1_of, what="span F1"),
}

METRICS: dict[str, Metric] = {
    "accuracy": _right("share of rows answered right"),
    "balanced_accuracy": _counts("mean recall over classes", value=labels.balanced_accuracy_of),
    "precision_macro": _counts("mean precision over classes", value=labels.precision_of),
    "precision_micro": _counts("precision of all answers", value=_micro(labels.precision_of)),
    "precision_weighted": _counts("precision by class size", value=_weighted(labels.precision_of)),
    "recall_macro": _counts("mean recall over classes", value=labels.recall_of),
    "recall_micro": _counts("recall of all labels", value=_micro(labels.recall_of)),
    "recall_weighted": _counts("recall by class size", value=_weighted(labels.recall_of)),
    "f1_macro": _counts("mean F1 over classes", value=labels.f1_of),
    "f1_micro": _counts("F1 of all answers", value=_micro(labels.f1_of)),
    "f1_weighted": _counts("F1 by class size", value=_weighted(labels.f1_of)),
    "f1_positive": _rarer("F1 of the rarer label", value=labels.f1_of),
    "precision_positive": _rarer("precision of the rarer label", value=labels.precision_of),
    "recall_positive": _rarer("recall of the rarer label", value=labels.recall_of),
    "mcc": _counts("Matthews correlation", value=labels.mcc_of, range=(-1.0, 1.0)),
    "roc_auc": _ranks("area under the ROC curve", weighted=labels.roc_auc),
    "pr_auc": _ranks("average precision", weighted=labels.pr_auc),
    "subset_accuracy": _right("share of rows with every label right"),
    "hamming_loss": _loss(
        "share of yes-or-no decisions that are wrong",
        rows=labels.hamming_rows,
        value=labels.hamming_loss_of,
    ),
    "log_loss": _loss(
        "mean surprise at the truth, nats",
        rows=calibration.log_loss_rows,
        value=labels.mean_of,
        range=(0.0, None),
        needs="probabilities",
    ),
    "ece": _ece("calibration error, 15 bins of equal mass", rows=calibration.ece_rows),
    "ece_equal_width": _ece(
        "calibration error, 15 bins of equal width",
        rows=partial(calibration.ece_rows, equal_width=True),
    ),
    "span_f1": _spans("F1 of spans, exact ends and label", value=_micro(labels.f1_of)),
    "span_precision": _spans("share of found spans right", value=_micro(labels.precision_of)),
    "span_recall": _spans("share of true spans found", value=_micro(labels.recall_of)),
    "span_f1_macro": _spans("mean span F1 over labels", value=labels.f1_of),
    "span_exact_match": Metric(
        TAG,
        "share of rows with exactly the right spans",
        rows=spans.right_span_rows,
        value=labels.mean_of,
        yes_no=True,
    ),
    "exact_match": _answers("answers equal to a reference", rows=text.exact_rows, yes_no=True),
    "regex_equal": _answers(
        "regular expressions that match the same texts", rows=code.regex_rows, yes_no=True
    ),
    "bash_valid": _answers("answers that parse as bash", rows=code.bash_rows, yes_no=True),
    "json_valid": _answers("answers that are JSON", rows=code.json_rows, yes_no=True),
    "slots_right": _answers(
        "JSON answers with exactly the right slots", rows=slots.slots_right_rows, yes_no=True
    ),
    "slot_f1": Metric(
        WRITE, "F1 of slots, name and value", rows=slots.slot_count_rows, value=labels.f1_of
    ),
    "wrong_slots": _answers(
        "answers with a wrong slot, or that are no JSON object",
        rows=slots.wrong_slots_rows,
        yes_no=True,
        higher_is_better=False,
    ),
    "invented_slots": _answers(
        "answers with a value that was never said",
        rows=slots.invented_slots_rows,
        yes_no=True,
        higher_is_better=False,
    ),
    "token_f1": _answers("words shared with the best reference", rows=text.token_f1_rows),
    "bleu": _corpus("corpus BLEU of sacrebleu", rows=text.bleu_rows, value=text.bleu_of),
    "chrf": _corpus("corpus chrF of sacrebleu", rows=text.chrf_rows, value=text.chrf_of),
    "rouge1": _rouge("ROUGE-1 F", value=partial(labels.mean_of, column=0)),
    "rouge2": _rouge("ROUGE-2 F", value=partial(labels.mean_of, column=1)),
    "rougeL": _rouge("ROUGE-L F", value=partial(labels.mean_of, column=2)),
    "perplexity": _language("exp of nats per token", value=text.perplexity_of, range=(1.0, None)),
    "bits_per_byte": _language(
        "bits per byte of text", value=text.bits_per_byte_of, range=(0.0, None)
    ),
    "mae": _error("mean absolute error", value=regression.mae_of),
    "rmse": _error("root mean squared error", value=regression.rmse_of),
    "r2": _fit("share of variance explained", value=regression.r2_of, range=(None, 1.0)),
    "spearman": Metric(
        REGRESS, "rank correlation", weighted=regression.spearman, range=(-1.0, 1.0)
    ),
    "reward": _graded("reward", "mean of what the graders gave", WRITE, range=(None, None)),
    "judge": _graded(
        "judge", "share of answers that the judge prefers to the reference, ties half", WRITE
    ),
    "ndcg@10": _graded("ndcg@10", "gain of the right texts among the first ten, discounted"),
    "mrr": _graded("mrr", "mean of 1 / rank of the first right text"),
    "recall@1": _graded("recall@1", "share of right texts that rank first"),
    "recall@5": _graded("recall@5", "share of right texts among the first five"),
    "recall@10": _graded("recall@10", "share of right texts among the first ten"),
    "pearson": _fit("linear correlation", value=regression.pearson_of, range=(-1.0, 1.0)),
}
