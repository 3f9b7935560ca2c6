"""Asking models that exist: evaluate one on any data, compare two, talk to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.config import Recipe, parse_recipe
from tunewright.data.columns import Layout, find_layout
from tunewright.data.formats import read_rows
from tunewright.data.misspell import misspell_rows
from tunewright.data.prepare import read_for_evaluation
from tunewright.data.render import Rendering, render_prompts
from tunewright.errors import DataError, ModelError, RecipeError, RunError
from tunewright.evaluate.compare import compare as compare_predictions
from tunewright.evaluate.details import make_details
from tunewright.evaluate.predict import Asker, Scale, draw_answers
from tunewright.evaluate.saved import read_predictions
from tunewright.evaluate.score import score
from tunewright.hosted_cost import Consent
from tunewright.hosted_use import HostedAsker, HostedChat, elsewhere_error, is_hosted, open_hosted
from tunewright.journal import ConsoleJournal, Journal
from tunewright.metrics.code import pass_at_k
from tunewright.metrics.table import check_metrics, find_metric, metrics_for
from tunewright.model.device import choose_precision, keep_freed_memory, pick_device
from tunewright.model.generate import stream_answer
from tunewright.model.load import Base, longest_input
from tunewright.model.manifest import read_manifest
from tunewright.model.weights import load_tuned
from tunewright.price_desk import Ask
from tunewright.records import Comparison, Cost, Example, Message, Output, Prediction, Report, Span
from tunewright.sections import Columns, DataSection
from tunewright.setup import PREFERRED, reward_form
from tunewright.store import RunFolder, read_json

DEFAULT_NEW_TOKENS = 256
SEED = 17
LAYOUT_ROWS = 2000
"""Rows from which the layout of a file is found."""


@dataclass(frozen=True, slots=True)
class Draws:
    """How many answers are drawn for a row, and how freely."""

    count: int
    temperature: float = 0.8


def evaluate(
    what: str,
    data: str,
    journal: Journal,
    *,
    metrics: Sequence[str] | None = None,
    split: str | None = None,
    misspelt: float = 0.0,
    draws: Draws | None = None,
    consent: Consent | None = None,
    ask: Ask | None = None,
) -> Report:
    """Judge a run, adapter, folder or hub model on any data.

    misspelt: share of words that are written otherwise first, as one does to get past a filter.
    draws: answers drawn beside the greedy one, for pass@k of the deciding metric.
    consent, ask: of a run that was tuned elsewhere, before its answers are paid for.

    A Report whose only system is `tuned`, without a verdict: there is nothing to compare with.
    Raises ModelError, DataError, RecipeError.
    """
    asker, section, layout = _open(what, data, split, journal, consent=consent, ask=ask)
    examples = read_for_evaluation(data, section, layout, journal, split)
    if not examples:
        raise DataError(f"{data}: no rows to judge on; give a file with labelled rows")
    if misspelt:
        examples = misspell_rows(examples, layout.task, share=misspelt, seed=SEED)
    if asker.rendering.prefers:
        layout = replace(layout, task="classify", labels=PREFERRED)
        metrics = metrics or ("accuracy",)
    names = tuple(metrics) if metrics else metrics_for(layout.task, examples, layout.labels)
    check_metrics(names, layout.task, layout.labels)
    with journal.progress("asking the model", 1.0) as advance:
        predictions = asker.predict(
            examples, system="tuned", split="test", advance=lambda done: advance(done, "")
        )
    if draws is not None:
        predictions, more = _with_draws(asker, examples, predictions, names, draws, journal)
        names = (*names, *more)
    result = score(predictions, names, labels=layout.labels, seed=SEED)
    details = make_details(
        {"tuned": predictions}, train=(), layout_labels=layout.labels, task=layout.task
    )
    return Report(
        task=layout.task,
        base_model=what,
        primary_metric=names[0],
        results=(result,),
        comparisons=(),
        cost=Cost(),
        verdict=None,
        because=(),
        details={**details, "primary_metric": names[0]},
    )


def _with_draws(
    asker: Asker,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    metrics: Sequence[str],
    draws: Draws,
    journal: Journal,
) -> tuple[list[Prediction], tuple[str, ...]]:
    """The predictions with pass@1, 2, 4 ... of the first metric that says right or wrong."""
    if isinstance(asker, HostedAsker):
        raise RecipeError("--draws: for models that are asked here, not at a provider")
    right_by = [name for name in metrics if (m := find_metric(name)).yes_no and m.higher_is_better]
    if asker.rendering.task not in ("generate", "chat") or not right_by:
        raise RecipeError(
            "--draws: for generate and chat, with a metric that says right or wrong, such as "
            "exact_match"
        )
    with journal.progress(f"drawing {draws.count} answers a row", 1.0) as advance:
        texts = draw_answers(asker, examples, count=draws.count, temperature=draws.temperature,
                             seed=SEED, advance=lambda done: advance(done, ""))  # fmt: skip
    metric = find_metric(right_by[0])
    assert metric.rows is not None
    right_N = np.zeros(len(predictions), dtype=np.int64)
    for column in range(draws.count):
        drawn = [replace(row, prediction=answers[column])
                 for row, answers in zip(predictions, texts, strict=True)]  # fmt: skip
        rows: Any = metric.rows(drawn, ())
        right_N += np.asarray(rows[:, 0], dtype=np.int64)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < draws.count] + [draws.count]
    graded = [
        replace(row, graded={**row.graded,
                             **{f"pass@{k}": pass_at_k(int(c), draws.count, k) for k in ks}})
        for row, c in zip(predictions, right_N, strict=True)
    ]  # fmt: skip
    return graded, tuple(f"pass@{k}" for k in ks)


def compare(
    a: str, b: str, journal: Journal, *, data: str | None = None, metric: str | None = None
) -> tuple[Comparison, ...]:
    """Two systems on the same rows, paired.

    a, b: run folders, RUN:system for another system of a run, or with `data` any model.
    Raises RunError, DataError where the rows are not the same.
    """
    if data is None:
        left, labels, chosen = _saved(a)
        right, _, _ = _saved(b)
    else:
        left, labels, chosen = _asked(a, data, journal)
        right, _, _ = _asked(b, data, journal)
    left, right = _named(left, a), _named(right, b)
    return (compare_predictions(left, right, metric or chosen, labels=labels, seed=SEED),)


@dataclass
class ChatSession:
    """A conversation with a model, or a classifier that answers what is typed.

    last: what the last answer was, for programs: text, or label and confidence.
    """

    asker: Asker
    turns: list[Message] = field(default_factory=list)
    last: dict[str, Any] | None = None

    def reply(self, text: str) -> Iterator[str]:
        """The answer to `text`, piece by piece; the conversation is remembered."""
        if self.asker.rendering.task not in ("generate", "chat", "continue"):
            yield self._decide(text)
            return
        example = self._example(text)
        how = replace(self.asker.rendering, task=self._speech())
        prompt = render_prompts([example], how)[0].tolist()
        said = ""
        for piece in stream_answer(
            self.asker.base, prompt, max_new_tokens=self.asker.max_new_tokens
        ):
            said += piece
            yield piece
        self.last = {"text": said}
        if self.asker.rendering.task == "chat":
            self.turns += [Message("user", text), Message("assistant", said)]

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns.clear()

    def _speech(self) -> str:
        return "chat" if self.asker.rendering.task == "chat" else "generate"

    def _example(self, text: str) -> Example:
        turns = (*self.turns, Message("user", text), Message("assistant", ""))
        messages = turns if self.asker.rendering.task == "chat" else ()
        return Example(id="chat", place="chat", input=text, output="", messages=messages)

    def _decide(self, text: str) -> str:
        prediction = self.asker.predict(
            [Example(id="chat", place="chat", input=text)], system="tuned", split="chat"
        )[0]
        self.last = {"prediction": prediction.prediction, "confidence": prediction.confidence}
        words = _in_words(prediction.prediction, text)
        sure = prediction.confidence
        return words if sure is None else f"{words} ({100 * sure:.0f} %)"


def _in_words(answer: Output, text: str) -> str:
    """A decision as a person reads it: a label, labels, marked words, or a number."""
    if isinstance(answer, tuple):
        parts = [f"{text[p.start : p.end]} [{p.label}]" if isinstance(p, Span) else p
                 for p in answer]  # fmt: skip
        return ", ".join(parts) or "nothing"
    return f"{answer:.6g}" if isinstance(answer, float) else str(answer)


def open_chat(what: str) -> ChatSession | HostedChat:
    """A session with a run, adapter, folder or hub model. Raises ModelError."""
    if is_hosted(what):
        return HostedChat(open_hosted(what, ConsoleJournal()))
    base, manifest = _load(what)
    check_answers(base)
    return ChatSession(_asker(base, manifest, base.task or "chat"))


def open_asker(what: str, *, precision: str | None = None) -> Asker:
    """A run, adapter, folder or hub model, asked as it was trained. Raises ModelError, RunError for
    a run that was tuned elsewhere too.

    precision: fp32 or bf16; None takes the one it was trained in.
    """
    base, manifest = _load(what, precision)
    check_answers(base)
    return _asker(base, manifest, base.task or "chat")


def open_answerer(
    what: str, journal: Journal, *, consent: Consent | None = None, ask: Ask | None = None
) -> Asker:
    """The same, and of a run that was tuned elsewhere the model there, asked after consent."""
    if is_hosted(what):
        return open_hosted(what, journal, consent=consent, ask=ask, embeds=True)
    return open_asker(what)


def check_answers(base: Base) -> None:
    """Raise ModelError for a model that gives hidden states and nothing else."""
    if base.task is None and base.kind != "decoder":
        raise ModelError(
            f"{base.reference}: an {base.kind} without a head gives no answers; tune it first with "
            "`tunewright train`, or give a model that was tuned"
        )


def _load(what: str, precision: str | None = None) -> tuple[Base, Mapping[str, Any]]:
    """The model and what its tunewright.json says ({} for models made elsewhere)."""
    keep_freed_memory()
    device = pick_device()
    path = Path(what)
    if is_hosted(path):
        raise elsewhere_error(what)
    place = RunFolder(path).model if (path / "model").is_dir() else path
    if path.is_dir() and (path / "recipe.yaml").exists() and not (path / "model").is_dir():
        raise RunError(f"{what}: this run has no model yet; finish it with --resume")
    # Answers are judged in the precision that the model was trained in.
    manifest = (read_manifest(place) if place.is_dir() else None) or {}
    wanted = precision or str(manifest.get("precision", "auto"))
    dtype, _ = choose_precision(wanted, device)
    return load_tuned(str(place) if place.is_dir() else what, device=device, dtype=dtype), manifest


def make_rendering(
    tokenizer: Any, manifest: Mapping[str, Any], base: Base | None, *, task: str
) -> Rendering:
    """How the model that `manifest` describes reads text; the rest is told by its base.

    base: None for a decoder that another program keeps in memory.
    """
    length = manifest.get("max_length") or min((base and longest_input(base)) or 2048, 2048)
    edges = tuple((name, tuple(values)) for name, values in manifest.get("column_edges") or ())
    native = manifest.get("native_template")
    if native is None:
        native = not manifest.get("default_template", base is not None and base.default_template)
    return Rendering(
        task="generate" if task == "reward" else task,
        tokenizer=tokenizer,
        max_length=int(length),
        labels=base.labels if base else (),
        multi_label=base is not None and base.multi_label,
        seq2seq=base is not None
        and base.kind == "encoder-decoder"
        and task in ("generate", "chat"),
        native_template=bool(native),
        column_edges=edges,
        prefers="pairs" if base and base.task == "reward" else None,
        rewards=reward_form(base) if base else None,
        prompts=tuple(manifest.get("prompts") or ("", "")),  # type: ignore[arg-type]
    )


def _asker(base: Base, manifest: Mapping[str, Any], task: str) -> Asker:
    scale = manifest.get("scale") or {}
    rendering = make_rendering(base.tokenizer, manifest, base, task=task)
    most = int(manifest.get("max_new_tokens") or DEFAULT_NEW_TOKENS)
    return Asker(base, rendering, most, Scale(**scale) if scale else Scale())


def _open(
    what: str,
    data: str,
    split: str | None,
    journal: Journal,
    *,
    consent: Consent | None = None,
    ask: Ask | None = None,
) -> tuple[Asker, DataSection, Layout]:
    if is_hosted(what):
        return _open_elsewhere(what, data, split, journal, consent, ask)
    base, manifest = _load(what)
    check_answers(base)
    recipe = _recipe_of(what)
    section = recipe.data if recipe else DataSection()
    task = (recipe.task if recipe else None) or base.task
    task = "generate" if task == "reward" else task
    rows = list(islice(read_rows(data, format="auto", split=split), LAYOUT_ROWS))
    section = _with_trained_columns(section, manifest, rows)
    layout = find_layout(rows, section, task)
    labels = layout.labels if base.task == "reward" else base.labels or layout.labels
    layout = replace(layout, labels=labels, multi_label=base.multi_label)
    return _asker(base, manifest, layout.task), section, layout


def _open_elsewhere(
    what: str,
    data: str,
    split: str | None,
    journal: Journal,
    consent: Consent | None,
    ask: Ask | None,
) -> tuple[Asker, DataSection, Layout]:
    asker = open_hosted(what, journal, consent=consent, ask=ask)
    how, section = asker.at.how, asker.at.recipe.data
    rows = list(islice(read_rows(data, format="auto", split=split), LAYOUT_ROWS))
    card = read_json(RunFolder(Path(what)).card)
    section = _with_trained_columns(section, card, rows)
    layout = find_layout(rows, section, how.task)
    return asker, section, replace(layout, labels=how.labels, multi_label=how.multi_label)


def _with_trained_columns(
    section: DataSection, manifest: Mapping[str, Any], rows: Sequence[tuple[str, Any]]
) -> DataSection:
    """The section with the columns that training read, which a small file may not make clear.

    A model that reads nothing but text takes a file with other column names too.
    """
    columns = Columns(**(manifest.get("columns") or {}))
    names = {name for _, row in rows for name in row}
    needed = {name for name in (columns.input, columns.output) if name}
    sides = (*columns.numeric, *columns.categorical)
    if section.columns.weight not in names:  # weighs training rows alone
        trained = section.columns.model_copy(update={"weight": None})
        section = section.model_copy(update={"columns": trained})
    if needed and not sides and not needed & names:  # other names: found as in any file
        return section.model_copy(update={"columns": Columns()})
    if not needed or not (sides or needed <= names):
        return section
    return section.model_copy(update={"columns": columns})


def _recipe_of(what: str) -> Recipe | None:
    """The recipe of a run folder; None for models that come without one."""
    folder = RunFolder(Path(what))
    if not folder.recipe.exists():
        return None
    return parse_recipe(folder.recipe.read_text(encoding="utf-8"), str(folder.recipe))


def _saved(name: str) -> tuple[list[Prediction], tuple[str, ...], str]:
    """Stored predictions of RUN or RUN:system, the labels, and the metric that decided."""
    path, system = (name, "tuned") if Path(name).is_dir() else _split_name(name)
    folder = RunFolder(Path(path))
    found = read_predictions(folder.predictions)
    systems = {key[0]: rows for key, rows in found.items()}
    if system not in systems:
        raise RunError(f"{name}: no system {system} in this run; it has {', '.join(systems)}")
    report = read_json(folder.report_json)
    labels = tuple((report.get("details") or {}).get("labels") or ())
    return systems[system], labels, str(report["primary_metric"])


def _split_name(name: str) -> tuple[str, str]:
    path, colon, system = name.rpartition(":")
    if not colon or not Path(path).is_dir():
        raise RunError(f"{name}: no such run folder; name a run, or RUN:system")
    return path, system


def _asked(name: str, data: str, journal: Journal) -> tuple[list[Prediction], tuple[str, ...], str]:
    asker, section, layout = _open(name, data, None, journal)
    examples = read_for_evaluation(data, section, layout, journal)
    predictions = asker.predict(examples, system="tuned", split="test")
    return predictions, layout.labels, metrics_for(layout.task, examples, layout.labels)[0]


def _named(predictions: Sequence[Prediction], name: str) -> list[Prediction]:
    return [replace(prediction, system=name) for prediction in predictions]
