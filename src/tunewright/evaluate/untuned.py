"""Baselines that ask the untuned base: as it comes, with examples in the prompt, and frozen under
a linear probe. None of them changes a weight of it.

Shapes: B rows, T tokens, H hidden, K labels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from tunewright.data.batch import batches_by_length, make_batch
from tunewright.data.render import Row, input_text, render
from tunewright.evaluate.embeddings import embed_texts, embedded_test, embedded_train, unit
from tunewright.evaluate.margins import folds, ridge_values
from tunewright.evaluate.material import (
    Floats,
    Ints,
    Material,
    NotPossible,
    answer,
    class_answers,
    label_index,
    label_matrix,
    need_asker,
    need_task,
    number_answers,
    numbers_of,
    some_rows,
    spread,
)
from tunewright.evaluate.predict import EVALUATION_TOKENS, Asker, score_rows, spans_of
from tunewright.model.load import GENERATIVE_TASKS, load_source
from tunewright.records import Example, Output, Prediction

SIMILARITY_SCALE = 20.0
"""Cosines are multiplied by it before the softmax: the scale that sentence-transformers trains
its cosine losses with."""
MAX_SCORED_PAIRS = 20_000
"""Rows times labels up to which a decoder reads every label's name after every text."""
MAX_NAMED_LABELS = 50
"""Labels that are listed in a zero-shot prompt at most."""
PENALTIES = (0.003, 0.01, 0.03, 0.1)
USUAL_PENALTY = 0.1
MAX_CROSS_VALIDATED_ROWS = 5000
MAX_PROBED_TOKENS = 30_000


def base(material: Material) -> list[Prediction]:
    """The untuned base as it comes.

    generate, chat, continue: its own zero-shot answers and losses. classify: a decoder reads each
    label's name after the text, as long as rows times labels stay within MAX_SCORED_PAIRS; any
    other base compares the embedding of the text with those of the label names.
    Raises NotPossible for tag and regress: a base has no answer to them before it is tuned.
    """
    asker = need_asker(material)
    if material.task in (*GENERATIVE_TASKS, "embed"):
        return asker.predict(
            material.test, system="base", split=material.split, advance=material.advance
        )
    if material.task != "classify":
        raise NotPossible(f"an untuned base has no answer to {material.task} tasks")
    pairs = len(material.test) * len(material.labels)
    if asker.base.kind == "decoder" and pairs <= MAX_SCORED_PAIRS:
        return _label_answers(material, score_label_names(asker, material))
    names = unit(embed_texts(asker, [readable(label) for label in material.labels]))
    return _label_answers(material, SIMILARITY_SCALE * unit(embedded_test(material)) @ names.T)


def linear_probe(material: Material) -> list[Prediction]:
    """A linear model on the frozen base's mean hidden states (tag: on each token's own state).

    Says how much of the task lies open in the base already. Raises NotPossible with one label.
    """
    need_task(material, "classify", "regress", "tag")
    asker = need_asker(material)
    if material.task == "tag":
        return _probe_tokens(material, asker)
    train, known = embedded_train(material)
    known, asked = _standardise(known, embedded_test(material))
    if material.task == "regress":
        values = ridge_values(known, numbers_of(train), asked, material.seed)
        return number_answers(material, "linear_probe", values)
    if material.multi_label:
        marks_BK = label_matrix(train, material.labels)
        found = [_probe_label(known, m.astype(np.int64), asked, material.seed) for m in marks_BK.T]
        return class_answers(material, "linear_probe", np.stack(found, axis=1))
    index = label_index(train, material.labels)
    kept = index >= 0
    if np.unique(index[kept]).size < 2:
        raise NotPossible("it needs at least two labels among the training rows")
    penalty = _choose_penalty(known[kept], index[kept], material.seed)
    classes, found_BK = _logistic(known[kept], index[kept], asked, penalty)
    return class_answers(material, "linear_probe", spread(found_BK, classes, len(material.labels)))


def readable(label: str) -> str:
    """A label's name as words: "card_arrival" and "CardArrival" become "card arrival"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    spaced = re.sub(r"[\s_\-./:]+", " ", spaced).strip()
    words = [word if word.isupper() and len(word) > 1 else word.lower() for word in spaced.split()]
    return " ".join(words) or label


def score_label_names(asker: Asker, material: Material) -> Floats:
    """(B, K) how much likelier each label's name becomes by the text, in nats.

    The name's likelihood after the text, less that after an empty text, so that frequent names
    have no head start (domain-conditional PMI, Holtzman et al. 2021).
    """
    asker = _with_language_head(asker, material)
    names = [readable(label) for label in material.labels]
    texts = [*(input_text(e, asker.rendering) for e in material.test), ""]
    pairs = [
        Example(f"{i}:{k}", "", _zero_shot_prompt(text, names), name)
        for i, text in enumerate(texts)
        for k, name in enumerate(names)
    ]
    scores = score_rows(asker, render(pairs, asker.rendering), material.advance)
    nats = np.array([nats for nats, _ in scores]).reshape(len(texts), len(names))
    return np.asarray(nats[-1] - nats[:-1])


def _zero_shot_prompt(text: str, names: Sequence[str]) -> str:
    listed = f"Labels: {', '.join(names)}\n" if len(names) <= MAX_NAMED_LABELS else ""
    return f"{listed}Text: {text}\nLabel:"


def _with_language_head(asker: Asker, material: Material) -> Asker:
    """The same base as a language model; read again where it has a classifier's head."""
    source = asker.base
    if source.task not in GENERATIVE_TASKS:
        source = load_source(
            source.source, task="generate", device=source.device, dtype=source.dtype
        )
    how = replace(
        asker.rendering,
        task="generate",
        labels=(),
        native_template=bool(source.tokenizer.chat_template) and not source.default_template,
    )
    return replace(asker, base=source, rendering=how)


def _label_answers(material: Material, scores_BK: Floats) -> list[Prediction]:
    """The best label of each row. Nobody told the base how many labels a row has: it gets one."""
    answers = []
    shares = softmax(scores_BK, axis=1)
    for example, row in zip(material.test, shares, strict=True):
        top = int(row.argmax())
        label = material.labels[top]
        chosen: Output = (label,) if material.multi_label else label
        answers.append(answer(material, example, "base", chosen, float(row[top]), row))
    return answers


def _standardise(known: Floats, asked: Floats) -> tuple[Floats, Floats]:
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return (known - mean) / deviation, (asked - mean) / deviation


def _choose_penalty(known: Floats, labels: Ints, seed: int) -> float:
    """The inverse penalty with the best three-fold accuracy; a usual one for many rows."""
    if len(labels) > MAX_CROSS_VALIDATED_ROWS or len(labels) < 6:
        return USUAL_PENALTY
    fold = folds(labels, 3, seed)
    right = np.zeros(len(PENALTIES))
    for number in range(3):
        held_out = fold == number
        if np.unique(labels[~held_out]).size < 2:
            return USUAL_PENALTY
        for place, penalty in enumerate(PENALTIES):
            classes, found = _logistic(
                known[~held_out], labels[~held_out], known[held_out], penalty
            )
            right[place] += (classes[found.argmax(axis=1)] == labels[held_out]).sum()
    return PENALTIES[int(right.argmax())]


def _logistic(known: Floats, labels: Ints, asked: Floats, penalty: float) -> tuple[Ints, Floats]:
    """(classes, probabilities (B, classes)) of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unfinished convergence costs a probe next to nothing
        model: Any = LogisticRegression(C=penalty, max_iter=200, tol=1e-3).fit(known, labels)
    return np.asarray(model.classes_, dtype=np.int64), np.asarray(model.predict_proba(asked))


def _probe_label(known: Floats, marks: Ints, asked: Floats, seed: int) -> Floats:
    """(B,) probability of one label among several that do not exclude each other."""
    if np.unique(marks).size < 2:
        return np.full(len(asked), float(marks[0]))
    return _logistic(known, marks, asked, _choose_penalty(known, marks, seed))[1][:, 1]


def _probe_tokens(material: Material, asker: Asker) -> list[Prediction]:
    train = some_rows(material.train, MAX_PROBED_TOKENS, material.seed)
    rows = render(train, asker.rendering)
    while sum(row.input_ids.size for row in rows) > MAX_PROBED_TOKENS and len(rows) > 1:
        rows = rows[::2]  # ids are hashes, so their order is a random one
    states, tags = [], []
    for row, part in zip(rows, _token_states(asker, rows, material, 0.0, 0.5), strict=True):
        assert isinstance(row.target, np.ndarray)
        states.append(part[row.target != -100])
        tags.append(row.target[row.target != -100].astype(np.int64))
    known, labels = np.concatenate(states), np.concatenate(tags)
    if np.unique(labels).size < 2:
        raise NotPossible("no training row has a span")
    asked_rows = render(material.test, asker.rendering)
    asked = _token_states(asker, asked_rows, material, 0.5, 0.8)
    known, flat = _standardise(known, np.concatenate(asked))
    classes, found = _logistic(known, labels, flat, USUAL_PENALTY)
    ends = np.cumsum([len(part) for part in asked])[:-1]
    answers = []
    for example, row, part in zip(material.test, asked_rows, np.split(found, ends), strict=True):
        assert isinstance(row.target, np.ndarray)
        spans = spans_of(classes[part.argmax(axis=1)], example, asker)
        sure = part.max(axis=1)[row.target != -100]
        confidence = float(sure.min()) if sure.size else 1.0
        answers.append(answer(material, example, "linear_probe", spans, confidence))
    return answers


def _token_states(
    asker: Asker, rows: Sequence[Row], material: Material, before: float, after: float
) -> list[Floats]:
    """(T, H) last hidden states of each row."""
    model = asker.base
    out: list[Floats] = [np.zeros((0, 0))] * len(rows)
    done = 0
    for part in batches_by_length(rows, EVALUATION_TOKENS):
        pad = model.tokenizer.pad_token_id or 0
        batch = make_batch([rows[i] for i in part], pad_id=pad, device=model.device)
        with torch.inference_mode():
            states_BTH = model.model(
                input_ids=batch.ids_BT, attention_mask=batch.mask_BT, output_hidden_states=True
            ).hidden_states[-1]
        for place, number in enumerate(part):
            kept = states_BTH[place, : rows[number].input_ids.size]
            out[number] = kept.float().cpu().numpy()
        done += part.size
        material.advance(before + (after - before) * done / len(rows))
    return out
