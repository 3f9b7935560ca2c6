"""Labels that are probably wrong, as many as are estimated, the most doubtful first.

Two estimates work together. A mixture (noise.py) tells noise from hardness, and says which kind of
noise: where labels were put anywhere, its posterior names the rows; where they were put on a
neighbouring class, confident learning (Northcutt, Jiang and Chuang 2021) finds more, its rows cut
by rank at the count of the confident joint, and not by the method's own mask, whose recall is
capped where there are many classes. Figures: bench/results/label_errors.json. B rows, K labels.
"""

from __future__ import annotations

import numpy as np

from tunewright.data.audit.folds import Floats, Ints, label_numbers, out_of_fold
from tunewright.data.audit.material import AuditMaterial, count, name_rows
from tunewright.data.audit.noise import fit_noise
from tunewright.records import Finding

MAX_ROWS = 50_000
FEWEST_ROWS = 50
HARDNESS = 0.4
"""Below this share of the confident joint's count, the mixture's says that classes are hard, and
not that labels are wrong. Measured: .24 and .25 on two clean sets, .54 to 1.0 on noisy ones."""
SURE = 0.8
"""Posterior from which a row is named even then."""
_FLOOR = 1e-3
"""Probabilities below this are alike: how wrong a wrong label is tells nothing."""


def find_label_errors(
    material: AuditMaterial, *, most_share: float = 0.4, surest_alone: bool = False
) -> list[Finding]:
    """Rows whose label another one beats out of fold, worst first; kind label_error.

    Those of validation and test too: a wrong label there is a wrong score. Single-label
    classification of 50 rows or more with two labels or more. suggestions hold the label that fits
    better, scores its lead: log of its probability over the given label's.
    most_share: of rows, at most. surest_alone: only where given and suggested label differ by
    ten times or more. Nothing is ever relabelled here.
    """
    rows = material.first_rows(MAX_ROWS)
    if not material.one_label_each or len(rows) < FEWEST_ROWS:
        return []
    labels, names = label_numbers(rows)
    if len(names) < 2:
        return []
    probabilities = out_of_fold(material, rows)
    chosen, lead, rate = doubtful_rows(probabilities, labels)
    chosen = chosen[: int(most_share * len(rows))]
    chosen = chosen[lead[chosen] > (np.log(10.0) if surest_alone else 0.0)]
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    if not chosen.size:
        return []
    better = probabilities[chosen].argmax(axis=1)
    worst = rows[int(chosen[0])]
    message = (
        f"{count(len(chosen), 'row')} of {len(rows):,} probably with a wrong label, worst "
        f"first (estimated rate {rate:.1%}; first: {worst.place}, given "
        f"{names[labels[chosen[0]]]!r}, reads like {names[better[0]]!r}); look at them or drop "
        "them, and never relabel unseen"
    )
    details = {
        "estimated_rate": round(rate, 5),
        "out_of_fold_accuracy": round(accuracy, 5),
        "embeddings": material.embed is not None,
    }
    return [
        name_rows(
            "label_error", "warn", message, [rows[int(i)] for i in chosen],
            scores=tuple(round(float(s), 4) for s in lead[chosen]),
            suggestions=tuple(names[k] for k in better), details=details,
        )
    ]  # fmt: skip


def doubtful_rows(probabilities: Floats, labels: Ints) -> tuple[Ints, Floats, float]:
    """(numbers of rows with a wrong label, probably, worst first; (B,) leads; estimated rate)."""
    noise = fit_noise(probabilities, labels)
    order, lead = rank_labels(probabilities, labels)
    joint = estimate_errors(probabilities, labels)
    by_posterior = np.argsort(-noise.wrong, kind="stable")
    if noise.rate * len(labels) < HARDNESS * joint:
        chosen, rate = by_posterior[: int((noise.wrong > SURE).sum())], noise.rate
    elif noise.anywhere >= noise.second:
        chosen, rate = by_posterior[: round(noise.rate * len(labels))], noise.rate
    else:
        chosen, rate = order[: round(joint)], joint / len(labels)
    chosen = chosen[lead[chosen] > 0]
    return chosen[np.argsort(-lead[chosen], kind="stable")], lead, rate


def estimate_errors(probabilities: Floats, labels: Ints) -> float:
    """How many labels are wrong, by the confident joint.

    A row counts for the likeliest label among those whose probability reaches that label's mean
    over the rows given it. Two counts bound the answer: rows that count for another label than
    their own (too few, since rows that reach no mean are left out), and the same scaled up to all
    rows of each label (too many, where classes are hard to tell apart). Returned is the point two
    thirds of the way; on banking77 with 10 % of labels flipped the bounds are 8 % and 11.6 %.
    """
    num_rows, num_labels = probabilities.shape
    counts = np.bincount(labels, minlength=num_labels)
    sums = np.zeros(num_labels)
    np.add.at(sums, labels, probabilities[np.arange(num_rows), labels])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    sure = probabilities >= thresholds - 1e-9
    counted = sure.any(axis=1)
    likeliest = np.where(sure, probabilities, -1.0).argmax(axis=1)
    joint = np.zeros((num_labels, num_labels))
    np.add.at(joint, (labels[counted], likeliest[counted]), 1)
    plain = joint.sum() - joint.trace()
    joint[np.diag_indices(num_labels)] = np.maximum(joint.diagonal(), 1)
    scaled = joint / joint.sum(axis=1, keepdims=True) * counts[:, None]
    return float(plain + 2 * (scaled.sum() - scaled.trace())) / 3


def rank_labels(probabilities: Floats, labels: Ints) -> tuple[Ints, Floats]:
    """(row numbers, the most doubtful label first; (B,) lead of the best other label).

    The lead is log(p of the best other label / p of the given one): unlike the plain probability
    of the given label, it spares rows for which no label is likely.
    """
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    lead = np.log(others.max(axis=1) + _FLOOR) - np.log(given + _FLOOR)
    return np.argsort(-lead, kind="stable"), lead
