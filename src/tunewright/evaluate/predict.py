"""What a model answers for examples, as Prediction records. The only room where data meets a model
outside training.

Shapes: B rows, T tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tunewright.data.batch import Batch, batches_by_length, make_batch, model_inputs
from tunewright.data.preferences import render_preferences
from tunewright.data.render import (
    Rendering,
    Row,
    encode_texts,
    input_text,
    render,
    render_prompts,
)
from tunewright.evaluate.ranking import rank
from tunewright.model.embed import embed
from tunewright.model.generate import generate_answers, target_logits
from tunewright.model.load import Base, longest_input
from tunewright.records import Example, Output, Prediction, Span

Advance = Callable[[float], None]
Graded = Callable[[Sequence[Example], Sequence[str]], Sequence[Mapping[str, float]]]
"""Every answer's scores by name, "reward" among them."""
MOST_LOGITS = 1 << 26
EVALUATION_TOKENS = 8192
"""Tokens in one forward pass without gradients, padding included."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How a regression target is standardised: the model works on (value - mean) / deviation."""

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True, slots=True)
class Asker:
    """A model together with how it is asked."""

    base: Base
    rendering: Rendering
    max_new_tokens: int = 256
    scale: Scale = Scale()
    passages: tuple[str, ...] = ()
    """More texts to choose from, beside those of the rows asked about (embed)."""
    graded: Graded | None = None
    """What graders give to written answers."""

    @property
    def is_remote(self) -> bool:
        """True where the model answers elsewhere, for money."""
        return False

    def predict(
        self,
        examples: Sequence[Example],
        *,
        system: str,
        split: str,
        advance: Advance | None = None,
    ) -> list[Prediction]:
        """Predictions for every example, in order."""
        if not examples:
            return []
        answer = prefer if self.rendering.prefers else PREDICTORS[self.rendering.task]
        return answer(self, examples, system, split, advance or (lambda done: None))


def prefer(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """Which of two answers the model favours: "chosen" or "rejected".

    Of a reward model the rewards are compared; else the mean log-probability of a token, which
    length does not sway, whatever the objective was. The
    reference is always "chosen"; rows without a pair are left out.
    """
    pairs = [e for e in examples if e.output is not None and e.rejected is not None]
    how = replace(asker.rendering, prefers="pairs")
    rows = render_preferences(pairs, how)
    flat = [replace(row, other=None) for row in rows] + [r.other for r in rows if r.other]
    if asker.base.task == "reward":
        scores = [(-reward, 1) for reward in rewards_of(asker, flat, advance)]
    else:
        scores = score_rows(asker, flat, advance)
    predictions = []
    for number, example in enumerate(pairs):
        (better, n), (worse, m) = scores[number], scores[len(pairs) + number]
        margin = worse / max(1, m) - better / max(1, n)
        share = float(1.0 / (1.0 + np.exp(-np.clip(margin, -60.0, 60.0))))
        chosen = "chosen" if margin > 0 else "rejected"
        asked = replace(example, output="chosen", references=())
        sides = np.array([share, 1.0 - share])
        predictions.append(
            _prediction(asked, system, split, chosen, max(share, 1.0 - share), probabilities=sides)
        )
    return predictions


def classify(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """One label (or several) per example, with a probability for each label."""
    labels, multi = asker.rendering.labels, asker.rendering.multi_label
    logits_BK = class_logits(asker, examples, advance)
    probabilities = _sigmoid(logits_BK) if multi else _softmax(logits_BK)
    predictions = []
    for example, row in zip(examples, probabilities, strict=True):
        top = int(row.argmax())
        chosen: Output = labels[top]
        confidence = float(row[top])
        if multi:
            chosen = tuple(label for label, p in zip(labels, row, strict=True) if p >= 0.5)
            confidence = float(np.maximum(row, 1.0 - row).min())
        predictions.append(
            _prediction(example, system, split, chosen, confidence, probabilities=row)
        )
    return predictions


def class_logits(
    asker: Asker, examples: Sequence[Example], advance: Advance
) -> NDArray[np.float32]:
    """(B, K) float32 logits of a classification model, in the order of the examples."""
    rows = _input_rows(asker, examples)
    out = np.zeros((len(rows), len(asker.rendering.labels)), dtype=np.float32)
    for part, logits in _forward(asker, rows, advance):
        out[part] = logits.float().cpu().numpy()
    return out


def regress(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """One number per example, in the unit of the data."""
    rows = _input_rows(asker, examples)
    values = np.zeros(len(rows))
    for part, output in _forward(asker, rows, advance):
        values[part] = output.float().squeeze(-1).cpu().numpy()
    values = values * asker.scale.deviation + asker.scale.mean
    return [
        _prediction(example, system, split, float(value), None)
        for example, value in zip(examples, values, strict=True)
    ]


def tag(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """Labelled spans per example; the confidence is that of the least certain token."""
    rows = render(examples, asker.rendering)
    tags: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(rows)
    sureness = np.ones(len(rows))
    for part, logits_BTK in _forward(asker, rows, advance):
        best_BT, index_BT = logits_BTK.float().softmax(-1).max(-1)
        for place, number in enumerate(part):
            size = rows[number].input_ids.size
            tags[number] = index_BT[place, :size].cpu().numpy()
            target = rows[number].target
            assert isinstance(target, np.ndarray)
            known = best_BT[place, :size].cpu().numpy()[target != -100]
            sureness[number] = float(known.min()) if known.size else 1.0
    return [
        _prediction(example, system, split, spans_of(tags[i], example, asker), float(sureness[i]))
        for i, example in enumerate(examples)
    ]


def spans_of(tags: NDArray[np.int64], example: Example, asker: Asker) -> tuple[Span, ...]:
    """Token tags as character spans; an I without a B before it opens a span of its own."""
    how = asker.rendering
    encoded = how.tokenizer(
        example.input, truncation=True, max_length=how.max_length, return_offsets_mapping=True
    )
    spans: list[Span] = []
    for (start, end), number in zip(encoded["offset_mapping"], tags, strict=True):
        # Byte-level and sentencepiece tokens take the space before a word along.
        start += len(example.input[start:end]) - len(example.input[start:end].lstrip())
        if start == end:
            continue
        if number == 0:
            spans.append(Span(end, end, ""))  # a border between two stretches
            continue
        label = how.labels[(int(number) - 1) // 2]
        begins = (int(number) - 1) % 2 == 0
        open_span = spans[-1] if spans else None
        if not begins and open_span is not None and open_span.label == label:
            spans[-1] = Span(open_span.start, end, label)
        else:
            spans.append(Span(start, end, label))
    return tuple(span for span in spans if span.label)


def generate(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """Greedy answers, with the loss of the reference beside them."""
    room = _prompt_room(asker)
    prompts = [ids[-room:] for ids in render_prompts(examples, asker.rendering)]
    answers = generate_answers(
        asker.base,
        [ids.tolist() for ids in prompts],
        max_new_tokens=asker.max_new_tokens,
        on_progress=lambda done, total: advance(0.8 * done / total),
    )
    if all(e.output in (None, "") for e in examples):  # nothing to be surprised at
        scored = [_prediction(e, system, split, None, None) for e in examples]
    else:
        scored = continue_text(
            asker, examples, system, split, lambda done: advance(0.8 + 0.2 * done)
        )
    texts = [answer.text.strip() for answer in answers]
    done = [
        replace(before, prediction=text, confidence=answer.mean_probability)
        for before, answer, text in zip(scored, answers, texts, strict=True)
    ]
    if asker.graded is None:
        return done
    grades = asker.graded(examples, texts)
    return [replace(p, graded=dict(found)) for p, found in zip(done, grades, strict=True)]


def draw_answers(
    asker: Asker,
    examples: Sequence[Example],
    *,
    count: int,
    temperature: float,
    seed: int,
    advance: Advance,
) -> list[list[str]]:
    """`count` answers per example, drawn at this temperature; every row has draws of its own."""
    room = _prompt_room(asker)
    prompts = [ids[-room:].tolist() for ids in render_prompts(examples, asker.rendering)]
    answers = generate_answers(
        asker.base,
        [ids for ids in prompts for _ in range(count)],
        max_new_tokens=asker.max_new_tokens,
        temperature=temperature,
        seed=seed,
        on_progress=lambda done, total: advance(done / total),
    )
    texts = [answer.text.strip() for answer in answers]
    return [texts[place : place + count] for place in range(0, len(texts), count)]


def _prompt_room(asker: Asker) -> int:
    """Tokens of a prompt that leave room for an answer among the positions that a decoder has."""
    longest = longest_input(asker.base)
    if longest is None or asker.base.kind != "decoder":
        return asker.rendering.max_length
    return min(asker.rendering.max_length, max(longest // 2, longest - asker.max_new_tokens))


def continue_text(
    asker: Asker, examples: Sequence[Example], system: str, split: str, advance: Advance
) -> list[Prediction]:
    """No answer, only how surprising the target text is: nats, tokens and bytes of each example."""
    rows = render(examples, asker.rendering)
    losses = score_rows(asker, rows, advance)
    by_example: dict[str, tuple[float, int]] = {}
    for row, (nats, count) in zip(rows, losses, strict=True):
        name = row.id.split("/")[0]  # a long text is several rows
        before = by_example.get(name, (0.0, 0))
        by_example[name] = (before[0] + nats, before[1] + count)
    predictions = []
    for example in examples:
        nats, count = by_example.get(example.id, (0.0, 0))
        text = example.input if asker.rendering.task == "continue" else str(example.output)
        bare = _prediction(example, system, split, None, None)
        predictions.append(
            replace(bare, nll_nats=nats, num_tokens=count, num_bytes=len(text.encode()))
        )
    return predictions


def score_rows(asker: Asker, rows: Sequence[Row], advance: Advance) -> list[tuple[float, int]]:
    """(nats, number of target tokens) of every row; weights above zero all count as one."""
    base, done = asker.base, 0
    results: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    for part in batches_by_length(rows, _scoring_tokens(base)):
        batch = make_batch([rows[i] for i in part], pad_id=_pad_id(base), device=base.device)
        assert batch.predicts_BT is not None
        with torch.inference_mode():
            logits_NV = target_logits(base.model, model_inputs(batch), batch.predicts_BT)
            losses_N = F.cross_entropy(logits_NV.float(), batch.target, reduction="none")
        counts = batch.predicts_BT.sum(1).tolist()
        each = torch.split(losses_N.double().cpu(), counts)  # type: ignore[no-untyped-call]
        for number, losses in zip(part, each, strict=True):
            results[number] = (float(losses.sum()), int(losses.numel()))
        done += part.size
        advance(done / len(rows))
    return results


def rewards_of(asker: Asker, rows: Sequence[Row], advance: Advance) -> list[float]:
    """What a reward model gives to each row."""
    out = np.zeros(len(rows))
    for part, rewards_B1 in _forward(asker, rows, advance):
        out[part] = rewards_B1.float().squeeze(-1).cpu().numpy()
    return out.tolist()


def hidden_means(
    base: Base, texts: Sequence[str], max_length: int, advance: Advance | None = None
) -> NDArray[np.float32]:
    """(B, H) mean of the last hidden states over real tokens, for probes and similarity."""
    encoded = base.tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    rows = [Row(str(i), np.asarray(ids, dtype=np.int32), target=0) for i, ids in enumerate(encoded)]
    out: NDArray[np.float32] | None = None
    done = 0
    for part in batches_by_length(rows, EVALUATION_TOKENS):
        batch = make_batch([rows[i] for i in part], pad_id=_pad_id(base), device=base.device)
        with torch.inference_mode():
            hidden_BTH = _backbone_states(base, batch)
        mask_BT1 = torch.ones_like(batch.ids_BT) if batch.mask_BT is None else batch.mask_BT
        weights_BT1 = mask_BT1[..., None].float()
        means = (hidden_BTH.float() * weights_BT1).sum(1) / weights_BT1.sum(1)
        out = np.zeros((len(rows), means.shape[1]), dtype=np.float32) if out is None else out
        out[part] = means.cpu().numpy()
        done += part.size
        if advance:
            advance(done / len(rows))
    assert out is not None
    return out


def _backbone_states(base: Base, batch: Batch) -> Tensor:
    plain = base.plain
    backbone = getattr(plain, plain.base_model_prefix, plain)
    if base.kind == "encoder-decoder":
        backbone = plain.get_encoder()
    states = backbone(input_ids=batch.ids_BT, attention_mask=batch.mask_BT)[0]
    assert isinstance(states, Tensor)
    return states


def _input_rows(asker: Asker, examples: Sequence[Example]) -> list[Row]:
    """Rows without targets: predictions must not need a label."""
    texts = [input_text(e, asker.rendering) for e in examples]
    encoded = encode_texts(texts, asker.rendering)
    return [Row(e.id, ids, target=0) for e, ids in zip(examples, encoded, strict=True)]


def _forward(
    asker: Asker, rows: Sequence[Row], advance: Advance
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    base, done = asker.base, 0
    for part in batches_by_length(rows, EVALUATION_TOKENS):
        batch = make_batch([rows[i] for i in part], pad_id=_pad_id(base), device=base.device)
        with torch.inference_mode():
            out = base.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
        yield part, out
        done += part.size
        advance(done / len(rows))


def _scoring_tokens(base: Base) -> int:
    """Tokens of one scoring pass; each may need a row of logits over the vocabulary."""
    vocabulary = int(base.plain.get_output_embeddings().weight.shape[0])
    return max(1, min(EVALUATION_TOKENS // 2, MOST_LOGITS // vocabulary))


def _pad_id(base: Base) -> int:
    pad = base.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)


def _prediction(
    example: Example,
    system: str,
    split: str,
    answer: Output,
    confidence: float | None,
    probabilities: NDArray[np.float32] | None = None,
) -> Prediction:
    return Prediction(
        id=example.id,
        split=split,
        system=system,
        input=example.input,
        reference=example.output,
        prediction=answer,
        confidence=confidence,
        group=example.group,
        references=example.references,
        probabilities=None if probabilities is None else tuple(float(p) for p in probabilities),
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)


def retrieve(
    asker: Asker, examples: Sequence[Example], system: str, split: str,
    advance: Advance,
) -> list[Prediction]:  # fmt: skip
    """The nearest text to each input by cosine, with how well the right ones ranked."""

    def scores(inputs: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        asked, found = asker.rendering.prompts
        share = len(texts) / (len(texts) + len(inputs))
        texts_CH = vectors_of(asker, [found + t for t in texts], lambda s: advance(share * s))
        inputs_BH = vectors_of(
            asker, [asked + t for t in inputs], lambda s: advance(share + (1 - share) * s)
        )
        return inputs_BH @ texts_CH.T

    return rank(examples, asker.passages, scores, system, split)


def vectors_of(
    asker: Asker, texts: Sequence[str], advance: Advance = lambda share: None
) -> NDArray[np.float64]:
    """(B, H) vectors of unit length; prompts are the caller's matter."""
    base = asker.base
    ids = encode_texts([text or " " for text in texts], asker.rendering)
    rows = [Row(str(number), part, target=0) for number, part in enumerate(ids)]
    out: NDArray[np.float64] | None = None
    done = 0
    for part in batches_by_length(rows, EVALUATION_TOKENS):
        pad_id = _pad_id(base)
        batch = make_batch([rows[i] for i in part], pad_id=pad_id, device=base.device)
        with torch.inference_mode():
            vectors = embed(base.model, batch.ids_BT, batch.mask_BT, base.pooling)
        out = np.zeros((len(rows), vectors.shape[1])) if out is None else out
        out[part] = vectors.cpu().numpy()
        done += part.size
        advance(done / len(rows))
    assert out is not None
    return out


Predictor = Callable[[Asker, Sequence[Example], str, str, Advance], list[Prediction]]
PREDICTORS: dict[str, Predictor] = {
    "classify": classify,
    "regress": regress,
    "tag": tag,
    "generate": generate,
    "chat": generate,
    "continue": continue_text,
    "embed": retrieve,
}
