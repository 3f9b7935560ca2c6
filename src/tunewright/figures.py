"""How numbers, metrics and systems are written for people. Words only; no layout, no arithmetic.

One place, so that the terminal, the Markdown and the HTML report never disagree about a digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

# Shares, shown in per cent; every other metric is shown as the number that it is.
SHARES = {
    "accuracy": "accuracy",
    "judge": "preference of the judge",
    "coverage_at_precision": "share answered at precision",
    "invented_slots": "answers with an invented slot",
    "json_valid": "valid JSON",
    "recall_at_fpr": "recall at false-alarm rate",
    "slot_f1": "slot F1",
    "slots_right": "all slots right",
    "wrong_slots": "answers with a wrong slot",
    "recall@1": "recall@1",
    "recall@10": "recall@10",
    "recall@5": "recall@5",
    "balanced_accuracy": "balanced accuracy",
    "bash_valid": "valid bash",
    "exact_match": "exact match",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "regex_equal": "regex equality",
    "span_exact_match": "exact match of all spans",
    "span_f1": "span F1",
    "span_precision": "span precision",
    "span_recall": "span recall",
    "subset_accuracy": "subset accuracy",
    "token_f1": "token F1",
}
AVERAGES = {
    "macro": "macro",
    "micro": "micro",
    "weighted": "weighted",
    "positive": "rarer label",
}
NUMBERS = {
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ece": "ECE",
    "ece_equal_width": "ECE (equal width)",
    "hamming_loss": "Hamming loss",
    "log_loss": "log loss",
    "loss": "loss",
    "mae": "MAE",
    "mcc": "MCC",
    "mrr": "MRR",
    "ndcg@10": "nDCG@10",
    "pearson": "Pearson",
    "perplexity": "perplexity",
    "pr_auc": "PR-AUC",
    "pr_auc_at_rate": "PR-AUC at rate",
    "r2": "R²",
    "reward": "reward",
    "rmse": "RMSE",
    "roc_auc": "ROC-AUC",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "spearman": "Spearman",
}
PERCENT_LIKE = ("bleu", "chrf")  # 0 to 100 already, without being shares
SYSTEMS = {
    "base": "untuned base",
    "bm25": "BM25",
    "boosted_trees": "gradient-boosted trees",
    "few_shot": "few-shot prompt",
    "retrieved": "prompt with nearest examples",
    "from_scratch": "same shape from scratch",
    "label_names": "label-name similarity",
    "linear_probe": "frozen base + linear probe",
    "majority": "majority class",
    "mean": "mean of training",
    "nearest_neighbour": "nearest neighbour",
    "teacher": "teacher",
    "tfidf_cosine": "TF-IDF + cosine",
    "tfidf_linear": "TF-IDF + linear model",
    "tuned": "tuned",
    "zero_shot": "zero-shot prompt",
}
TASKS = {
    "chat": "Chat",
    "classify": "Classification",
    "continue": "Continued pre-training",
    "embed": "Embedding",
    "generate": "Text generation",
    "regress": "Regression",
    "tag": "Tagging",
}
NOTHING = "–"


def metric_title(metric: str) -> str:
    """ "f1_macro" -> "F1 (macro)", "f1[spam]" -> "F1 of spam"; unknown: without underscores."""
    name, bracket, label = metric.partition("[")
    if bracket and "_at_" in name:
        return f"{metric_title(name)} {label.removesuffix(']')}"
    if bracket:
        return f"{metric_title(name)} of {label.removesuffix(']')}"
    known = {**SHARES, **NUMBERS}
    core, average = _split_average(name)
    if name not in known and core in known:
        return f"{known[core]} ({AVERAGES[average]})"
    return known.get(name, name.replace("_", " "))


def is_share(metric: str) -> bool:
    """True for metrics that count rows (accuracy, F1 ...): written in per cent and points."""
    name = metric.partition("[")[0]
    return name in SHARES or _split_average(name)[0] in SHARES or name.startswith("pass@")


def _split_average(name: str) -> tuple[str, str]:
    """("f1", "macro") for "f1_macro"; an empty average where there is none."""
    core, _, average = name.rpartition("_")
    return (core, average) if average in AVERAGES else (name, "")


def system_title(system: str) -> str:
    """ "tfidf_linear" -> "TF-IDF + linear model"; unknown names lose their underscores."""
    return SYSTEMS.get(system, system.replace("_", " "))


def show_value(metric: str, value: float | None) -> str:
    """One figure with its unit: "93.7 %", "41.20", "0.087"."""
    if not known(value):
        return NOTHING
    return f"{100 * value:.1f} %" if is_share(metric) else _show_score(metric, value)


def _show_score(metric: str, value: float) -> str:
    """Three decimals below 10, two below 100: figures of one column stand in line."""
    size = abs(value)
    if metric in PERCENT_LIKE:
        text = f"{value:.2f}"
        return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
    if size >= 100:
        return show_number(value)
    text = f"{value:.4f}" if 0.00005 <= size < 0.001 else f"{value:.{3 if size < 10 else 2}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def show_interval(metric: str, ci95: Sequence[float | None]) -> str:
    """ "92.8 to 94.5"; the unit is that of the value beside it. Empty where unknown."""
    low, high = ci95
    if not known(low) or not known(high):
        return ""
    if is_share(metric):
        ends = [f"{100 * end:.1f}".replace("-0.0", "0.0") for end in (low, high)]
        return " to ".join(ends).replace("-", "−")
    return f"{_show_score(metric, low)} to {_show_score(metric, high)}"


def show_delta(metric: str, value: float | None) -> str:
    """A signed difference: "+2.5 points" for shares, "−0.031" else."""
    if not known(value):
        return NOTHING
    if is_share(metric):
        points = f"{100 * value:+.1f}"
        points = "0.0" if points[1:] == "0.0" else points.replace("-", "−")
        return f"{points} {'point' if points[1:] == '1.0' else 'points'}"
    return ("+" if value > 0 else "") + _show_score(metric, value)


def show_delta_interval(metric: str, ci95: Sequence[float | None]) -> str:
    """ "+1.4 to +3.6", in points for shares. Empty where unknown."""
    if not all(known(end) for end in ci95):
        return ""
    return " to ".join(show_delta(metric, end).partition(" ")[0] for end in ci95)


def show_number(value: float | None) -> str:
    """About four significant digits, thousands apart: "12,345", "23.46", "0.0871", "3.2e-06"."""
    if not known(value):
        return NOTHING
    size = abs(value)
    if value == int(value) and size < 1e15:
        text = f"{int(value):,}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 100:
        text = f"{value:.1f}"
    elif size >= 10:
        text = f"{value:.2f}"
    elif size >= 1:
        text = f"{value:.3f}"
    elif size >= 0.001:
        text = f"{value:.{3 - math.floor(math.log10(size)) - 1}f}"
    else:
        text = f"{value:.2g}"
    return text.replace("-", "−") if not text.count("e") else text


def show_tick(value: float) -> str:
    """A round number as an axis shows it: "2.5", "−5", "12,000", "1e-05"."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return text if "e" in text else text.replace("-", "−")


def show_p(value: float | None) -> str:
    """A p-value: "< 0.001", "0.042", "0.31"."""
    if not known(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def show_seconds(value: float | None) -> str:
    """A duration: "0.8 s", "47 s", "8 min 20 s", "2 h 05 min", "3 d 04 h"."""
    if not known(value):
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    seconds = round(value)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part_size:02d} {part}"
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60:02d} s"


def show_bytes(value: float | None) -> str:
    """A size in binary units: "412 MiB"."""
    if not known(value):
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def show_usd(value: float | None) -> str:
    """An amount of money: "$0.0042", "$1.25", "$1,250"."""
    if not known(value):
        return NOTHING
    digits = 4 if 0 < abs(value) < 0.1 else 2 if abs(value) < 1000 else 0
    return f"${value:,.{digits}f}"


def show_output(value: Any, text: str = "") -> str:
    """An output of any task as one string: label, labels, number, spans (city: “Paris”) or text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return show_number(value)
    if isinstance(value, Mapping):
        return _show_span(value, text) if "label" in value else str(dict(value))
    if isinstance(value, Sequence):
        return ", ".join(show_output(item, text) for item in value) or "(none)"
    return str(value)


def _show_span(span: Mapping[str, Any], text: str) -> str:
    start, end = span.get("start"), span.get("end")
    if isinstance(start, int) and isinstance(end, int) and text[start:end]:
        return f"{span['label']}: “{text[start:end]}”"
    return f"{span['label']} [{start}–{end}]"


def begin(text: str) -> str:
    """The text with a capital first letter, unless its first word has one elsewhere (chrF)."""
    first = text.partition(" ")[0]
    return text if first != first.lower() else text[:1].upper() + text[1:]


def known(value: object) -> TypeGuard[float]:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show_plain(value: Any) -> str:
    """Any JSON value in one line, for tables whose content is not known beforehand."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return show_number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(show_plain, value))
    return str(value)
