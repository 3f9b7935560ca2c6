"""A model to watch: a linear head on MiniLM embeddings, its reference profile and its traffic.

banking77: 15 of 77 intents are held out as the unknown. Rows of the others are dealt at random:
70 % train, 15 % reference (validation and test of a run), 15 % traffic.
nlupp: the banking domain, several intents a row; everything from the hotels domain is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from tunewright.metrics.calibration import fit_temperature
from tunewright.monitor.profile import Facts, Lens, Profile, make_lens, make_profile
from tunewright.records import Request
from watch_rows import Rows, load

Floats = NDArray[np.float64]
HELD_OUT = 15


@dataclass(frozen=True)
class Watched:
    """known, novel: facts of traffic without labels; right_*: whether the answer is right."""

    lens: Lens
    known_requests: tuple[Request, ...]
    known: Facts
    right_known: Floats
    novel_requests: tuple[Request, ...]
    novel: Facts

    def joined(self) -> tuple[list[Request], Facts]:
        """Known rows, then novel ones."""
        both = Facts(*(np.concatenate([getattr(self.known, name), getattr(self.novel, name)])
                       for name in Facts.__dataclass_fields__))  # fmt: skip
        return [*self.known_requests, *self.novel_requests], both


def watch_banking77(seed: int) -> Watched:
    rows = load("banking77")
    names = sorted({label[0] for label in rows.labels})
    rng = np.random.default_rng(seed)
    held = {names[i] for i in rng.permutation(len(names))[:HELD_OUT]}
    is_novel = np.array([label[0] in held for label in rows.labels])
    known = rng.permutation(np.flatnonzero(~is_novel))
    first, second = int(0.7 * len(known)), int(0.85 * len(known))
    train, reference, traffic = np.split(known, [first, second])
    head = fit_head(rows.take(train), rows.take(reference))
    parts = [rows.take(i) for i in (train, reference, traffic, np.flatnonzero(is_novel))]
    return assemble(parts, head, "classify")


def watch_nlupp(seed: int) -> Watched:
    rows, other = load("nlupp-banking"), load("nlupp-hotels")
    order = np.random.default_rng(seed).permutation(len(rows.texts))
    train, reference, traffic = np.split(order, [int(0.6 * len(order)), int(0.8 * len(order))])
    parts = [rows.take(i) for i in (train, reference, traffic)]
    return assemble([*parts, other], fit_heads(parts[0]), "classify")


@dataclass(frozen=True)
class Head:
    labels: tuple[str, ...]
    weights_HK: Floats
    bias_K: Floats
    temperature: float
    several: bool

    def requests(self, rows: Rows, begin: str) -> list[Request]:
        logits = (rows.states_nH @ self.weights_HK + self.bias_K) / self.temperature
        shares = special.expit(logits) if self.several else special.softmax(logits, axis=1)
        out = []
        for number, (text, true, p) in enumerate(zip(rows.texts, rows.labels, shares, strict=True)):
            if self.several:
                answer: object = tuple(k for k, v in zip(self.labels, p, strict=True) if v >= 0.5)
                sure, label = float(np.maximum(p, 1 - p).min()), true
            else:
                answer, sure, label = self.labels[int(p.argmax())], float(p.max()), true[0]
            out.append(Request(f"{begin}{number}", 0.0, text, answer, sure, tuple(p.tolist()),
                               label=label))  # fmt: skip
        return out


def fit_head(train: Rows, reference: Rows) -> Head:
    """One label a row; its temperature is fitted on the reference, as a run does on validation."""
    labels = [label[0] for label in train.labels]
    model = LogisticRegression(C=20, max_iter=300).fit(train.states_nH, labels)
    index = {name: number for number, name in enumerate(model.classes_)}
    truth = np.array([index[label[0]] for label in reference.labels])
    logits = reference.states_nH @ model.coef_.T + model.intercept_
    return Head(tuple(model.classes_), model.coef_.T, model.intercept_,
                fit_temperature(logits, truth), False)  # fmt: skip


def fit_heads(train: Rows) -> Head:
    """Several labels a row: one yes-or-no model a label."""
    binary = MultiLabelBinarizer()
    truth = binary.fit_transform(train.labels)
    model = OneVsRestClassifier(LogisticRegression(C=20, max_iter=300)).fit(train.states_nH, truth)
    weights = np.stack([item.coef_[0] for item in model.estimators_], axis=1)
    bias = np.array([item.intercept_[0] for item in model.estimators_])
    return Head(tuple(binary.classes_), weights, bias, 1.0, True)


def assemble(parts: Sequence[Rows], head: Head, task: str) -> Watched:
    train, reference, traffic, novel = parts
    outputs = [label if head.several else label[0] for label in train.labels]
    profile: Profile = make_profile(
        head.requests(reference, "r"), reference.states_nH, train.texts, train.states_nH, outputs,
        model="head on MiniLM", task=task, labels=head.labels,
    )  # fmt: skip
    lens = make_lens(profile)
    known, unknown = head.requests(traffic, "t"), head.requests(novel, "n")
    right = np.array([float(set(_as_set(r.answer)) == set(_as_set(r.label))) for r in known])
    # Nobody tells the watcher what was right.
    known, unknown = ([replace(r, label=None) for r in rows] for rows in (known, unknown))
    return Watched(
        lens, tuple(known), lens.look(known, traffic.states_nH), right,
        tuple(unknown), lens.look(unknown, novel.states_nH),
    )  # fmt: skip


def _as_set(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)
