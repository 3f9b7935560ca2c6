"""Reports with the shapes of real runs, for the tests of the pages. All figures are invented."""

from __future__ import annotations

import math
import random
from typing import Any

from tunewright.records import Amount, Comparison, Cost, Report, Result, Score

TOPICS = (
    "card", "virtual_card", "transfer", "direct_debit", "top_up", "cash_withdrawal",
    "currency_exchange", "refund", "account", "identity_check", "passcode",
)  # fmt: skip
ISSUES = (
    "delayed", "declined", "fee_charged", "limit_reached", "not_recognised_on_statement",
    "how_to_start", "wrong_amount_or_currency_received",
)  # fmt: skip
LABELS = tuple(f"{topic}_{issue}" for topic in TOPICS for issue in ISSUES)
ATTACK = "</script><img src=x onerror=alert(1)>"


def classify_report(attack: str = "") -> Report:
    """77 labels, 3,080 test rows, `ship`. attack: a string planted in rows, labels, names."""
    rng = random.Random(17)
    matrix = make_confusion(rng, len(LABELS), rows_per_class=40, error=0.064)
    results = (
        make_result("tuned", 3080, accuracy=0.9364, f1_macro=0.9361, mcc=0.9356, ece=0.0213,
                    log_loss=0.2466),
        make_result("tfidf_linear", 3080, accuracy=0.9117, f1_macro=0.9112, mcc=0.9106, ece=0.0641,
                    log_loss=0.3951),
        make_result("linear_probe", 3080, accuracy=0.9023, f1_macro=0.9016, mcc=0.9011, ece=0.0412,
                    log_loss=0.3720),
        make_result("nearest_neighbour", 3080, accuracy=0.8841, f1_macro=0.8829, mcc=0.8826,
                    ece=0.1159, log_loss=1.8210),
        make_result("label_names", 3080, accuracy=0.5302, f1_macro=0.5118, mcc=0.5252, ece=0.21,
                    log_loss=2.9110),
        make_result("majority", 3080, accuracy=0.0130, f1_macro=0.0003, mcc=0.0, ece=0.006,
                    log_loss=4.3438),
        make_result("tuned", 1000, split="validation", accuracy=0.941, f1_macro=0.9398, mcc=0.9401,
                    ece=0.0190, log_loss=0.2391),
    )  # fmt: skip
    comparisons = (
        Comparison("tuned", "tfidf_linear", "accuracy", 0.0247, (0.0153, 0.0341), 2.6e-7,
                   "exact McNemar", 3080, 0.0131, "better"),
        Comparison("tuned", "linear_probe", "accuracy", 0.0341, (0.0239, 0.0443), 4e-11,
                   "exact McNemar", 3080, 0.0146, "better"),
        Comparison("tuned", "nearest_neighbour", "accuracy", 0.0523, (0.0412, 0.0634), 1e-19,
                   "exact McNemar", 3080, 0.0158, "better"),
        Comparison("linear_probe", "tfidf_linear", "accuracy", -0.0094, (-0.0198, 0.0012), 0.081,
                   "exact McNemar", 3080, 0.0149, "cannot tell"),
        Comparison("nearest_neighbour", "tfidf_linear", "accuracy", -0.0276, (-0.0391, -0.0161),
                   3.1e-6, "exact McNemar", 3080, 0.0163, "worse"),
    )  # fmt: skip
    because = (
        "On 3,080 test rows that training never saw, the tuned model is right in 93.6 % of cases "
        "(95 % interval 92.7 to 94.5).",
        "That is 2.5 points better than the best cheap baseline, TF-IDF + linear model "
        "(1.5 to 3.4, exact McNemar p < 0.001).",
        "Its confidence can be believed: expected calibration error is 0.021.",
    )
    next_steps = (
        "Look at the 14 probable label errors below first: the classes transfer_delayed and "
        "top_up_delayed share most of them.",
        "Add rows to virtual_card_how_to_start: 35 in training, F1 of 0.79.",
        "Try training.num_epochs=20: validation accuracy was still rising at the last step.",
    )
    labels = (attack + LABELS[0], *LABELS[1:])
    details = {
        "recipe": "task: classify\nbase_model: embedded:minilm\ndata:\n  train: train.csv\n"
        f"  test: {attack or 'test'}.csv\ntraining:\n  learning_rate: 0.0002\n  num_epochs: 12\n",
        "derived": [
            {"key": "training.learning_rate", "value": 2e-4,
             "reason": "full fine-tuning of an encoder with 22.7 M parameters"},
            {"key": "training.batch_size", "value": 32, "reason": "10,003 rows: 313 steps each"},
            {"key": "training.max_length", "value": 96, "reason": "99.9 % of rows are this short"},
            {"key": "adapter.method", "value": "full", "reason": "the encoder is small"},
        ],
        **make_curves(rng, "accuracy", 0.02, 0.941),
        "labels": list(labels),
        "confusion": {"labels": list(labels), "matrix": matrix},
        "calibration": make_calibration(rng, 3080),
        "worst_classes": make_worst_classes(labels, matrix),
        "worst_rows": [
            {"id": f"{i:016x}", "place": f"{attack}test.csv:{41 + 37 * i}",
             "input": f"{attack}I sent money on Tuesday and it still is not there, case {i}.",
             "reference": labels[(14 + i) % 77], "prediction": labels[(28 + i) % 77],
             "confidence": 0.99 - 0.013 * i}
            for i in range(12)
        ],
        "examples": [
            {"input": f"Why was my card refused at the petrol station? ({i})",
             "reference": labels[1], "base": labels[8], "tuned": labels[1] if i else labels[2]}
            for i in range(5)
        ],
        "probable_label_errors": [
            {"id": f"{i:016x}", "place": f"train.csv:{410 + 91 * i}",
             "input": f"the top up i made has not arrived {attack}", "label": labels[14],
             "suggested": labels[28], "confidence": 0.97 - 0.02 * i}
            for i in range(14)
        ],
        "card": make_card(labels, attack),
        "warnings": ["6 test texts equal a training text but for case: left out of test."],
        "environment": {"tunewright": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu",
                        "transformers": "5.23.0", "processor": "2 cores, AVX512-BF16",
                        "commit": "c47f716", "seed": 17},
        "primary_metric": "accuracy",
    }  # fmt: skip
    cost = Cost(
        seconds=Amount(520.0, 488.2), tokens=Amount(2_100_000, 2_064_512),
        peak_memory_bytes=Amount(1.4e9, 1.31e9), energy_kwh=Amount(0.004, 0.0041),
        usd=Amount(0.0, 0.0),
    )  # fmt: skip
    return Report(
        "classify", "sentence-transformers/all-MiniLM-L6-v2", "accuracy", results, comparisons,
        cost, "ship", because, next_steps, None, details,
    )  # fmt: skip


def generate_report() -> Report:
    """A small language model on meaning-to-text, BLEU, `more data`."""
    rng = random.Random(5)
    results = (
        make_result("tuned", 547, bleu=48.31, chrf=61.2, rougeL=0.5512, exact_match=0.021,
                    perplexity=3.912, bits_per_byte=0.5821),
        make_result("nearest_neighbour", 547, bleu=46.92, chrf=60.4, rougeL=0.5390,
                    exact_match=0.018),
        make_result("from_scratch", 547, bleu=41.70, chrf=57.0, rougeL=0.5101, exact_match=0.009,
                    perplexity=5.21, bits_per_byte=0.704),
        make_result("base", 547, bleu=0.41, chrf=11.9, rougeL=0.0712, exact_match=0.0,
                    perplexity=412.7, bits_per_byte=2.571),
    )  # fmt: skip
    comparisons = (
        Comparison("tuned", "base", "bleu", 47.9, (46.1, 49.6), 1e-4, "approximate randomisation",
                   547, 2.1, "better"),
        Comparison("tuned", "nearest_neighbour", "bleu", 1.39, (-0.42, 3.2), 0.13,
                   "approximate randomisation", 547, 2.6, "cannot tell"),
    )  # fmt: skip
    pairs = (
        ("name[Blue Spice], eatType[pub], area[riverside]", "Blue Spice is a pub by the riverside.",
         "Once upon a time there was a little girl.", "Blue Spice is a pub near the riverside."),
        ("name[The Mill], food[Indian], priceRange[cheap], familyFriendly[yes]",
         "The Mill serves cheap Indian food and welcomes families.", "She was happy.\n\nThe end.",
         "The Mill is a cheap family friendly Indian place."),
        ("name[Zizzi], customer rating[5 out of 5], near[Burger King]",
         "Near Burger King, Zizzi is rated 5 out of 5.", "",
         "Zizzi near Burger King has a customer rating of 5 out of 5."),
    )  # fmt: skip
    details = {
        "recipe": "task: generate\nbase_model: tinystories-656k\n",
        "derived": [],
        **make_curves(rng, "bleu", 2.0, 47.5),
        "examples": [
            {"input": given, "reference": right, "base": before, "tuned": after}
            for given, right, before, after in pairs
        ],
        "worst_rows": [
            {"id": "00ff", "place": "dev.csv:9", "input": pairs[2][0], "reference": pairs[2][1],
             "prediction": "Zizzi Zizzi Zizzi", "confidence": 0.31}
        ],
        "environment": {"python": "3.11.2"},
        "primary_metric": "bleu",
    }  # fmt: skip
    return Report(
        "generate", "tinystories-656k", "bleu", results, comparisons,
        Cost(seconds=Amount(None, 1312.0), tokens=Amount(None, 3.1e6)), "more data",
        ("BLEU rose from 0.4 to 48.3, far beyond chance.",
         "But copying the nearest training answer reaches 46.9, and 547 rows cannot tell the two "
         "apart: a difference below 2.6 BLEU stays hidden."),
        ("Give at least 1,900 test rows: then a gain of 1.4 BLEU would show.",), None, details,
    )  # fmt: skip


def regress_report() -> Report:
    """A regression on 800 rows with hardly any details, `more data`."""
    results = (
        make_result("tuned", 800, mae=0.4123, rmse=0.5871, r2=0.6120, spearman=0.7911),
        make_result("tfidf_linear", 800, mae=0.4655, rmse=0.6402, r2=0.5389, spearman=0.7340),
        make_result("mean", 800, mae=0.7811, rmse=0.9430, r2=-0.0004, spearman=math.nan),
    )
    comparisons = (
        Comparison("tuned", "tfidf_linear", "mae", -0.0532, (-0.0811, -0.0251), 3e-4,
                   "paired bootstrap", 800, 0.0402, "better"),
    )  # fmt: skip
    details = {
        "worst_rows": [
            {
                "id": "1",
                "place": "reviews.csv:7",
                "input": "fine, I suppose",
                "reference": 4.5,
                "prediction": 1.25,
                "confidence": None,
            }
        ]
    }
    return Report(
        "regress", "answerdotai/ModernBERT-base", "mae", results, comparisons, Cost(), "ship",
        ("The mean absolute error falls from 0.466 to 0.412.",), (),
        {"gsm8k": {"before": 0.021, "after": 0.018, "delta": -0.003, "verdict": "cannot tell"}},
        details,
    )  # fmt: skip


def tag_report() -> Report:
    """Spans as outputs: places where the pages must show them in words."""
    text = "book a table for two at seven"
    span = {"start": 17, "end": 20, "label": "people"}
    details = {
        "worst_rows": [
            {"id": "1", "place": "t.jsonl:3", "input": text, "reference": [span], "prediction": [],
             "confidence": 0.4}
        ],
        "examples": [{"input": text, "reference": [span], "base": None, "tuned": [span]}],
    }  # fmt: skip
    results = (make_result("tuned", 300, span_f1=0.91), make_result("majority", 300, span_f1=0.0))
    return Report(
        "tag", "bert", "span_f1", results, (), Cost(), "ship", ("Fine.",), (), None, details
    )


def shuffled_report() -> Report:
    """Labels without meaning: `do not tune`."""
    results = (
        make_result("tuned", 240, accuracy=0.0667, f1_macro=0.051),
        make_result("majority", 240, accuracy=0.0708, f1_macro=0.009),
    )
    comparisons = (
        Comparison("tuned", "majority", "accuracy", -0.0041, (-0.05, 0.042), 0.91, "exact McNemar",
                   240, 0.066, "cannot tell"),
    )  # fmt: skip
    return Report(
        "classify", "embedded:minilm", "accuracy", results, comparisons,
        Cost(seconds=Amount(60, 58.0)), "do not tune",
        ("Always answering the commonest class is as good: 7.1 % against 6.7 % of 240 rows.",
         "Training loss fell while validation loss rose from the first epoch: the labels do not "
         "follow from the texts."),
        ("Check how the labels were joined to the texts: they look shuffled.",),
    )  # fmt: skip


def make_result(system: str, n: int, *, split: str = "test", **values: float) -> Result:
    scores = {}
    for name, value in values.items():
        half = 0.9 * math.sqrt(max(value * (1 - value), 1e-4) / n) * 2 if 0 <= value <= 1 else 1.1
        scores[name] = Score(name, value, (value - half, value + half), n)
    return Result(system, split, n, scores)


def make_curves(rng: random.Random, metric: str, first: float, last: float) -> dict[str, Any]:
    steps, evaluations, best = [], [], 0.0
    total = 1800
    for step in range(1, total + 1):
        share = step / total
        steps.append({
            "step": step, "tokens": 1150, "epoch": 12 * share,
            "loss": 0.15 + 4.1 * math.exp(-7 * share) * rng.uniform(0.8, 1.25),
            "learning_rate": 2e-4 * min(share / 0.1, (1 - share) / 0.9),
            "grad_norm": rng.uniform(0.5, 2.0), "tokens_per_s": 4200.0,
            "peak_memory_bytes": 1_310_000_000, "seconds": 0.27,
        })  # fmt: skip
    for epoch in range(1, 13):
        share = epoch / 12
        value = first + (last - first) * (1 - math.exp(-6 * share)) - (0.002 if epoch > 10 else 0)
        evaluations.append({
            "step": 150 * epoch, "epoch": float(epoch), "metrics": {metric: value},
            "loss": 0.24 + 3.2 * math.exp(-9 * share) + 0.03 * share, "best": value > best,
        })  # fmt: skip
        best = max(best, value)
    return {"steps": steps, "evaluations": evaluations}


def make_confusion(
    rng: random.Random, size: int, *, rows_per_class: int, error: float
) -> list[list[int]]:
    matrix = [[0] * size for _ in range(size)]
    for row in range(size):
        rate = error * rng.choice((0.2, 0.5, 0.8, 1.0, 1.4, 3.2))
        for _ in range(rows_per_class):
            wrong = rng.random() < rate
            near = (row + 7) % size if rng.random() < 0.6 else rng.randrange(size)
            matrix[row][near if wrong else row] += 1
    return matrix


def make_calibration(rng: random.Random, n: int) -> dict[str, Any]:
    bins = []
    for index in range(10):
        count = round(n * (0.86 if index == 9 else 0.14 * 2**index / 511))
        middle = (index + 0.5) / 10 if index < 9 else 0.978
        accuracy = min(1.0, max(0.0, middle + rng.uniform(-0.07, 0.04))) if count else None
        bins.append({"lo": index / 10, "hi": (index + 1) / 10, "count": count,
                     "confidence": middle if count else None, "accuracy": accuracy})  # fmt: skip
    return {"bins": bins, "ece": 0.0213}


def make_worst_classes(labels: tuple[str, ...], matrix: list[list[int]]) -> list[dict[str, Any]]:
    rows = []
    for i, row in enumerate(matrix):
        right, seen = row[i], sum(row)
        guessed = sum(other[i] for other in matrix)
        others = [c if j != i else -1 for j, c in enumerate(row)]
        precision, recall = right / max(guessed, 1), right / max(seen, 1)
        rows.append({
            "label": labels[i], "n": seen, "precision": precision, "recall": recall,
            "f1": 2 * precision * recall / max(precision + recall, 1e-9),
            "confused_with": labels[others.index(max(others))] if max(others) > 0 else None,
        })  # fmt: skip
    return sorted(rows, key=lambda item: item["f1"])[:12]


def make_card(labels: tuple[str, ...], attack: str) -> dict[str, Any]:
    """Of the shape that data/card.py gives."""
    rng = random.Random(3)
    counts = [410, 2931, 2740, 1602, 790, 421, 240, 133, 71, 38, 19, 8]
    sides = {
        side: {
            "rows": rows,
            "groups": None,
            "input_words": {"min": 2, "mean": 11.7, "median": 10, "p95": 28, "max": 79},
            "labels": {label: rng.randint(low, high) for label in labels},
            "tokens": {"min": 4, "mean": 16.1, "median": 14, "p95": 37, "max": 93},
        }
        for side, rows, low, high in (
            ("train", 9403, 35, 180), ("validation", 600, 3, 11), ("test", 3080, 40, 40),
        )
    }  # fmt: skip
    sides["train"]["token_histogram"] = {"edges": [8 * i for i in range(13)], "counts": counts}
    places = [f"{attack}train.csv:{i}" for i in range(20)]
    return {
        "task": "classify",
        "labels": list(labels),
        "multi_label": False,
        "splits": sides,
        "findings": [
            {"kind": "same_text", "severity": "info", "places": ["train.csv:7", "a.csv:9"],
             "message": "25 test texts equal a training text", "dropped": True},
            {"kind": "label_conflict", "severity": "warn", "places": places,
             "message": "20 equal texts carry different labels", "dropped": False},
        ],
        "dropped": [{"id": "0", "place": f"{attack}a.csv:{i}", "why": "leak"} for i in range(25)],
    }  # fmt: skip


REPORTS = {
    "classify": classify_report,
    "generate": generate_report,
    "regress": regress_report,
    "shuffled": shuffled_report,
    "tag": tag_report,
}
