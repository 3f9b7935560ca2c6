"""What a run is made of, settled before its first step: data, device, base, rendering, numbers.

`make_setup` needs the tokenizer and the shape of the base; `open_model` loads the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tunewright.config import AdapterSection, Recipe, with_values
from tunewright.cost.memory import Work, forecast_memory, with_micro_batch
from tunewright.cost.shape import ModelShape, read_shape
from tunewright.cost.time import forecast_seconds
from tunewright.cost.work import count_totals, make_work
from tunewright.data.layout import Layout
from tunewright.data.preferences import render_training
from tunewright.data.prepare import Prepared
from tunewright.data.render import Rendering, Row, find_column_edges, render_prompts
from tunewright.defaults import Facts, fill_defaults
from tunewright.errors import DataError, ModelError, RecipeError, Refusal
from tunewright.evaluate.predict import Asker, Graded, Scale
from tunewright.journal import Journal
from tunewright.methods import METHODS, LowRank
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.adapters.targets import head_modules
from tunewright.model.chat_template import check_template
from tunewright.model.device import (
    available_memory,
    cap_kernel_caches,
    choose_precision,
    choose_threads,
    keep_freed_memory,
    matmul_flops_per_s,
    pick_device,
)
from tunewright.model.load import Base, add_tokens, bio_names, load_base, longest_input
from tunewright.model.pooling import add_mean_pooling, wants_mean_pooling
from tunewright.model.speed import make_fast
from tunewright.model.tokenizer import unknown_pieces
from tunewright.records import Derived, Example
from tunewright.sections import COMPARING
from tunewright.train.activations import start_from_activations
from tunewright.train.head import find_head
from tunewright.train.loop import Plan
from tunewright.train.noise import add_embedding_noise
from tunewright.train.optimize import Rates

PREFERRED = ("chosen", "rejected")
MEASURED_LENGTHS = 20_000
"""Rows whose length is measured for max_length; more would not change the answer."""
MOST_PASSAGES = 5_000
"""Texts that the right ones hide among when a model of task embed is judged."""
UNWRITABLE_SHARE = 0.02
"""Characters of the answers that a tokenizer may lack before a run is refused."""


COPY_BYTES_PER_S = 1e10
"""Of memory, where it was not measured; only the optimiser's small part of a step depends on it."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the run will take, before it begins."""

    seconds: float
    tokens: float
    peak_memory_bytes: float
    shape: ModelShape | None = None
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """A run with every "auto" settled."""

    recipe: Recipe
    derived: tuple[Derived, ...]
    prepared: Prepared
    rendering: Rendering
    scale: Scale
    device: torch.device
    dtype: torch.dtype
    forecast: Forecast
    base: Base
    """The base as loaded to settle the rest; `open_model` tunes this very one."""
    rows: Sequence[Row] | None = None
    """The training rows in tokens, where all were made to settle the rest as they are learned."""
    graded: Graded | None = None
    """What the recipe's graders give to written answers."""
    distributions: bool = False
    """A teacher's distributions are learned, not only its answers."""
    energy_start_j: float | None = None
    """What the processor had drawn when the run began, where it tells."""
    baseline_memory_bytes: int = 0
    """What the process held when its libraries were imported and nothing else was done."""

    @property
    def task(self) -> str:
        """The task as found or given."""
        return self.prepared.layout.task

    @property
    def objective(self) -> str:
        """Name of what is minimised."""
        if self.prefers:
            return self.recipe.objective
        if self.recipe.objective == "distill" and self.distributions:
            return "distill"
        if self.recipe.objective == "grpo":
            return "grpo"
        multi = self.task == "classify" and self.prepared.layout.multi_label
        return "classify_multi" if multi else self.task

    @property
    def prefers(self) -> bool:
        """True where answers are compared: what is judged is which of two the model favours."""
        return self.recipe.objective in COMPARING

    @property
    def judged_task(self) -> str:
        """The task that predictions answer."""
        return "classify" if self.prefers else self.task

    @property
    def judged_labels(self) -> tuple[str, ...]:
        """What predictions choose from, where they choose."""
        return PREFERRED if self.prefers else self.prepared.layout.labels

    @property
    def test(self) -> tuple[Example, ...]:
        """Test rows to judge on; at most evaluation.max_rows of them, chosen by content."""
        return first_by_content(self.prepared.splits.test, self.recipe.evaluation.max_rows)

    def asker(self, base: Base) -> Asker:
        """A model of this run, ready to be asked."""
        most = self.recipe.evaluation.max_new_tokens
        assert isinstance(most, int)
        return Asker(base, self.rendering, most, self.scale, self.passages, self.graded)

    @property
    def passages(self) -> tuple[str, ...]:
        """Texts of all rows that the test rows' own hide among (embed); chosen by content."""
        if self.task != "embed":
            return ()
        splits = self.prepared.splits
        found = dict.fromkeys(
            text for e in (*splits.test, *splits.validation, *splits.train)
            for text in (str(e.output), *e.references)
        )  # fmt: skip
        return tuple(sorted(found, key=_digest_text)[:MOST_PASSAGES])

    def standardised(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows as the loss wants them: numbers on the scale that the model works on, weight 1
        where weights speak of classes.
        """
        if self.objective == "classify" and self.recipe.training.weighting == "logits":
            return [replace(row, weight=1.0) for row in rows]
        if self.task != "regress":
            return rows
        mean, deviation = self.scale.mean, self.scale.deviation
        return [replace(row, target=(float(row.target) - mean) / deviation) for row in rows]  # type: ignore[arg-type]

    def manifest(self) -> dict[str, Any]:
        """What must travel with the model so that it is asked as it was trained."""
        how = self.rendering
        return {
            "columns": _table_columns(self.prepared.layout),
            "max_length": how.max_length,
            **({"prompts": list(how.prompts)} if self.task == "embed" else {}),
            "max_new_tokens": self.recipe.evaluation.max_new_tokens,
            "scale": {"mean": self.scale.mean, "deviation": self.scale.deviation},
            "column_edges": [[name, list(edges)] for name, edges in how.column_edges],
            "native_template": how.native_template,
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
        }


def _table_columns(layout: Layout) -> dict[str, Any]:
    """The columns that training read; {} for row shapes that name their parts themselves."""
    if layout.shape not in ("table", "text", "spans", "tokens"):
        return {}
    return layout.columns.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Tuning:
    """A model with what is trained switched on."""

    base: Base
    parameters: list[tuple[str, nn.Parameter]]
    plan: Plan


def make_setup(recipe: Recipe, prepared: Prepared, journal: Journal) -> Setup:
    """Settle every "auto", say why, and check that the run fits. Raises Refusal, ModelError."""
    if recipe.provider != "here":
        raise RecipeError(
            f"provider is {recipe.provider}; only `train` and `plan` go there, this trains here: "
            "--set provider=here and a base_model that can be loaded"
        )
    training = recipe.training
    device = pick_device(training.device)
    threads, threads_reason = choose_threads(training.num_threads)
    torch.set_num_threads(threads)
    keep_freed_memory()
    cap_kernel_caches()
    dtype, precision_reason = choose_precision(training.precision, device)
    prepared = _only_pairs(recipe, prepared, journal)
    base = _load_as_found(recipe, prepared, device, dtype)
    examples = prepared.splits.train
    if not examples:
        raise DataError(f"{recipe.data.train}: no rows left to train on; see card.json for why")
    rendering = _rendering(recipe, prepared, base, max_length=longest_input(base) or 4096)
    _check_writable(prepared, base, journal)
    measured = _measured_rows(prepared, rendering)
    facts = _facts(prepared, base, measured, device, recipe.training.head_init)
    filled, derived = fill_defaults(recipe, facts)
    chosen = [
        ("adapter.method", filled.adapter.method, ""),
        ("training.precision", "bf16" if dtype == torch.bfloat16 else "fp32", precision_reason),
        ("training.num_threads", threads, threads_reason),
    ]
    derived = (
        *derived,
        *(Derived(k, v, why) for k, v, why in chosen if _was_auto(recipe, k) and why),
    )
    filled = with_values(filled, {key: value for key, value, _ in chosen})
    filled = with_values(filled, {"task": prepared.layout.task})
    for item in derived:
        journal.say(f"{item.key} = {item.value}: {item.reason}")
    assert isinstance(filled.training.max_length, int)
    rendering = replace(rendering, max_length=filled.training.max_length)
    scale = _scale(prepared)
    forecast = _check_fit(filled, facts, base, device, journal)
    same = facts.task != "continue" and max(facts.lengths) <= rendering.max_length
    rows = measured if same and len(examples) <= MEASURED_LENGTHS else None
    return Setup(
        filled, derived, prepared, rendering, scale, device, dtype, forecast, base, rows
    )  # fmt: skip


def _only_pairs(recipe: Recipe, prepared: Prepared, journal: Journal) -> Prepared:
    """Training rows without a better and a worse answer left out, where pairs are compared."""
    if recipe.objective not in COMPARING or recipe.objective == "kto":
        return prepared
    train = prepared.splits.train
    pairs = tuple(e for e in train if e.output is not None and e.rejected is not None)
    if len(pairs) < len(train):
        first = next(e for e in train if e.output is None or e.rejected is None)
        journal.warn(
            f"data: {len(train) - len(pairs)} training rows lack a better or a worse answer and "
            f"are left out (first: {first.place})"
        )
    return replace(prepared, splits=replace(prepared.splits, train=pairs))


def open_model(
    setup: Setup, journal: Journal, *, rows: Sequence[Row] = (), random_init: bool = False
) -> Tuning:
    """The base in memory, its adapter attached, and the plan of its training.

    rows: for methods that start from what they hold.
    """
    recipe = setup.recipe
    base = setup.base
    if random_init:
        base = _load(recipe, setup.prepared, setup.device, setup.dtype, random_init=True)
    adapter = recipe.adapter
    if adapter.method == "full" and not random_init and _pools_by_mean(recipe, base):
        add_mean_pooling(base, recipe.training.seed)
    heads = head_modules(base)
    base = attach(base, adapter.method, seed=recipe.training.seed, **_shared_keys(adapter))
    if recipe.task == "embed":  # the pooler that some encoders carry takes no part
        for name, parameter in base.model.named_parameters():
            if "pooler." in name:
                parameter.requires_grad_(False)
    if isinstance(adapter.options, LowRank) and adapter.options.init == "eva":
        pad_id = int(base.tokenizer.pad_token_id or 0)
        start_from_activations(base, adapter.options, rows, pad_id, recipe.training.seed)
    if recipe.training.neftune_alpha is not None:
        add_embedding_noise(base.plain, recipe.training.neftune_alpha)
    if recipe.training.activation_checkpointing == "on":
        base.plain.gradient_checkpointing_enable()
    parameters = trainable_parameters(base.model)
    for _, parameter in parameters:
        # One precision throughout: a layer in fp32 would cast every activation there and back.
        # What is learned is kept in fp32 by the optimiser.
        parameter.data = parameter.data.to(setup.dtype)
    journal.say(make_fast(base.model))
    names = frozenset(n for n, _ in parameters if _is_head(n, heads, base))
    trained = sum(p.numel() for _, p in parameters)
    journal.say(
        f"training {trained:,} of {base.num_parameters:,} parameters "
        f"({adapter.method}, {recipe.training.precision})"
    )
    return Tuning(base, parameters, _plan(setup, base, names))


def _pools_by_mean(recipe: Recipe, base: Base) -> bool:
    wish = recipe.training.pooling
    if wish == "mean" and not wants_mean_pooling(base):
        raise ModelError(
            f"{base.reference}: training.pooling mean is for sentence encoders of BERT's shape; "
            "leave it at auto"
        )
    return wish != "base" and wants_mean_pooling(base)


def first_by_content(examples: Sequence[Example], most: int | None) -> tuple[Example, ...]:
    """At most `most` examples, chosen by id (a content hash), in their own order."""
    if most is None or len(examples) <= most:
        return tuple(examples)
    chosen = set(sorted(example.id for example in examples)[:most])
    return tuple(example for example in examples if example.id in chosen)


def _load_as_found(
    recipe: Recipe, prepared: Prepared, device: torch.device, dtype: torch.dtype
) -> Base:
    """The base; where it cannot do the task that the data suggested, the error says why that."""
    try:
        return _load(recipe, prepared, device, dtype)
    except ModelError as error:
        layout = prepared.layout
        if recipe.task is not None or f"{layout.task} " not in f"{error} ":
            raise
        reasons = "; ".join(layout.reasons)
        raise ModelError(
            f"{error}; or set task, if the data is not understood ({reasons})"
        ) from error


def _load(
    recipe: Recipe,
    prepared: Prepared,
    device: torch.device,
    dtype: torch.dtype,
    *,
    random_init: bool = False,
) -> Base:
    layout = prepared.layout
    base = load_base(
        recipe.base_model,
        task="reward" if recipe.objective == "reward" else layout.task,
        labels=layout.labels,
        multi_label=layout.multi_label,
        device=device,
        dtype=dtype,
        dropout=recipe.training.dropout,
        revision=recipe.base_revision,
        trust_remote_code=recipe.trust_remote_code,
        random_init=random_init,
        quantization=recipe.adapter.held_in,
        seed=recipe.training.seed,
    )
    add_tokens(base, recipe.adapter.new_tokens)
    use_pooling(base, recipe)
    return base


def use_pooling(base: Base, recipe: Recipe) -> None:
    """Sum token states up as the recipe wishes; auto leaves it to the base."""
    if recipe.embedding.pooling != "auto":
        base.pooling = recipe.embedding.pooling


def _rendering(recipe: Recipe, prepared: Prepared, base: Base, *, max_length: int) -> Rendering:
    template = recipe.data.chat_template
    if template is not None:
        base.tokenizer.chat_template = template_text(template)
    return Rendering(
        task=prepared.layout.task,
        tokenizer=base.tokenizer,
        max_length=max_length,
        labels=prepared.layout.labels,
        multi_label=prepared.layout.multi_label,
        seq2seq=base.kind == "encoder-decoder" and prepared.layout.task in ("generate", "chat"),
        native_template=base.kind == "decoder"
        and (template is not None or not base.default_template),
        column_edges=find_column_edges(prepared.splits.train)
        if prepared.layout.columns.numeric
        else (),
        prefers=_prefers(recipe.objective),
        prompts=(recipe.embedding.query_prompt, recipe.embedding.passage_prompt),
        rewards=reward_form(base),
        prompt_loss=recipe.objective == "orpo",
    )


def _prefers(objective: str) -> Literal["pairs", "single"] | None:
    if objective not in COMPARING:
        return None
    return "single" if objective == "kto" else "pairs"


def reward_form(base: Base) -> Literal["texts", "pairs"] | None:
    """How a reward model of this base reads a prompt with its answer; None for other models."""
    if base.task != "reward":
        return None
    return "pairs" if base.kind == "encoder" else "texts"


def template_text(template: str) -> str:
    """The template itself, or what stands in the file that is named; seen to end.

    Raises RecipeError, ModelError.
    """
    if "{" in template:
        return check_template(template, "data.chat_template")
    try:
        return check_template(Path(template).read_text(encoding="utf-8"), template)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"data.chat_template: {template[:80]!r} is neither a template nor a file that can be "
            "read; give a Jinja template, or the path of one"
        ) from error


def _check_writable(prepared: Prepared, base: Base, journal: Journal) -> None:
    """Refuse or warn where the tokenizer cannot write what the rows hold."""
    examples = prepared.splits.train[:2000]
    for what, texts in (
        ("inputs", [e.input for e in examples]),
        (
            "answers",
            [str(e.output) for e in examples if prepared.layout.task in ("generate", "chat")],
        ),
    ):
        lost = unknown_pieces(base.tokenizer, texts)
        share = sum(lost.values()) / max(1, sum(map(len, texts)))
        if not lost:
            continue
        pieces = ", ".join(f"{piece!r} {count}x" for piece, count in list(lost.items())[:5])
        text = (
            f"{base.reference}: its tokenizer cannot write {sum(lost.values())} pieces of the "
            f"{what} ({pieces})"
        )
        if what == "answers" and share > UNWRITABLE_SHARE:
            raise ModelError(f"{text}; choose a base whose tokenizer knows them")
        if share > 0.001:
            journal.warn(f"{text}; they are lost to the model")


def _measured_rows(prepared: Prepared, rendering: Rendering) -> Sequence[Row]:
    examples = prepared.splits.train[:MEASURED_LENGTHS]
    if all(example.output is None for example in examples):  # answers are tried, not given
        return prompt_rows(examples, rendering)
    return render_training(examples, rendering)


def _facts(
    prepared: Prepared, base: Base, rows: Sequence[Row], device: torch.device, head_init: str
) -> Facts:
    """What the defaults follow from. rows: the first MEASURED_LENGTHS training rows in tokens."""
    task = "regress" if base.task == "reward" else prepared.layout.task
    if not any(row.target_weight > 0 for row in rows):
        raise DataError(
            f"{prepared.splits.train[0].place}: nothing to learn here or in any other row, for "
            "every weight is 0 or every answer is empty; give some a weight above 0"
        )
    answers = [_answer_length(row) for row in rows] if task in ("generate", "chat") else []
    config = base.plain.config.get_text_config()
    return Facts(
        task=task,
        kind=base.kind,
        num_parameters=base.num_parameters,
        hidden_size=int(config.hidden_size),
        num_rows=_count_rows(
            len(prepared.splits.train), min(len(prepared.splits.train), MEASURED_LENGTHS), len(rows)
        ),
        lengths=[max(part.input_ids.size for part in _parts(row)) for row in rows],
        answer_lengths=answers,
        max_positions=longest_input(base) or 1 << 20,
        device=device.type,
        has_head=bool(base.fresh),
        num_outputs=int(config.vocab_size) if task in ("generate", "chat", "continue") else 1,
        fitted_head=base.task != "reward" and head_init != "random" and find_head(base) is not None,
    )


def prompt_rows(examples: Sequence[Example], how: Rendering) -> list[Row]:
    """Prompts as rows, for objectives that make what is learned from them at each step."""
    prompts = render_prompts(examples, how)
    return [
        Row(e.id, ids, np.ones(ids.size, dtype=np.float32))
        for e, ids in zip(examples, prompts, strict=True)
    ]


def _parts(row: Row) -> list[Row]:
    """The row and all that hangs on it."""
    return [row] if row.other is None else [row, *_parts(row.other)]


def _count_rows(examples: int, measured: int, rows: int) -> int:
    """Rows that all examples become; a long text becomes several."""
    return max(1, round(examples * rows / measured))


def _answer_length(row: Row) -> int:
    return 0 if row.target_weights is None else int((row.target_weights > 0).sum())


def _was_auto(recipe: Recipe, key: str) -> bool:
    section, name = key.split(".")
    return bool(getattr(getattr(recipe, section), name) == "auto")


def _scale(prepared: Prepared) -> Scale:
    if prepared.layout.task != "regress":
        return Scale()
    values = torch.tensor([float(e.output) for e in prepared.splits.train], dtype=torch.float64)  # type: ignore[arg-type]
    deviation = float(values.std(unbiased=False))
    return Scale(float(values.mean()), deviation if deviation > 0 else 1.0)


def _shared_keys(adapter: AdapterSection) -> dict[str, Any]:
    """What `attach` is told: the keys that mean something to the method, and its own options."""
    takes = METHODS[adapter.method].takes - {"quantization"}
    shared = {key: getattr(adapter, key) for key in takes}
    return {**{k: v for k, v in shared.items() if v != "auto"}, "options": adapter.options}


def _is_head(name: str, heads: Sequence[str], base: Base) -> bool:
    plain = name.replace("modules_to_save.default.", "").removeprefix("base_model.model.")
    return plain in base.fresh or any(plain.startswith(f"{head}.") for head in heads if base.fresh)


def _plan(setup: Setup, base: Base, head_names: frozenset[str]) -> Plan:
    training = setup.recipe.training
    rate, head_rate = training.learning_rate, training.head_learning_rate
    batch_size, accumulation = training.batch_size, training.gradient_accumulation_steps
    assert isinstance(rate, float) and isinstance(head_rate, float)
    assert isinstance(batch_size, int) and isinstance(training.max_batch_tokens, int)
    assert isinstance(training.num_epochs, float) and isinstance(training.eval_steps, int)
    tokenizer = base.tokenizer
    return Plan(
        batch_size=batch_size * (accumulation if isinstance(accumulation, int) else 1),
        max_batch_tokens=training.max_batch_tokens,
        num_epochs=training.num_epochs,
        eval_steps=training.eval_steps,
        rates=Rates(rate, head_rate),
        head_names=head_names,
        rate_ratios=dict.fromkeys(base.fast_names, base.rate_ratio),
        companion=base.companion,
        pad_id=int(tokenizer.pad_token_id or 0),
        mask_id=tokenizer.mask_token_id,
        special_ids=frozenset(int(i) for i in tokenizer.all_special_ids),
        minutes=setup.recipe.budget.minutes,
        identity=_identity(setup, base),
    )


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(setup: Setup, base: Base) -> str:
    """What beside rows and recipe decides the result: the base's weights, the validation rows."""
    ground = base.source.base or base.source
    held = "\n".join(example.id for example in setup.prepared.splits.validation)
    return hashlib.sha256(f"{ground.sha256}\n{held}".encode()).hexdigest()


def _check_fit(
    recipe: Recipe, facts: Facts, base: Base, device: torch.device, journal: Journal
) -> Forecast:
    """Forecast memory and time; Refusal when it cannot fit even one row at a time."""
    shape = read_shape(base.plain.config.to_dict(), base.reference)
    counted = None if recipe.adapter.method == "full" and facts.fitted_head else base.num_parameters
    num_labels = len(bio_names(base.labels)) if facts.task == "tag" else len(base.labels)
    work = make_work(recipe, facts, shape, num_labels=num_labels)
    work = replace(work, num_parameters=counted)
    least = forecast_memory(shape, with_micro_batch(work, work.row_tokens), device.type)
    memory = forecast_memory(shape, work, device.type)
    limit_gb = recipe.budget.memory_gb
    # The forecast counts the weights, and they are in memory by now.
    loaded = sum(parameter.nbytes for parameter in base.model.parameters())
    room = min(available_memory(device) + loaded, int(limit_gb * 1e9) if limit_gb else 1 << 62)
    if least.peak_bytes > room:
        limited = limit_gb is not None and room == int(limit_gb * 1e9)
        have = (
            f"budget.memory_gb allows {limit_gb:.3g}"
            if limited
            else f"{room / 1e9:.3g} GB are free"
        )
        raise Refusal(
            f"memory: this recipe needs at least {least.peak_bytes / 1e9:.3g} GB on {device.type} "
            f"and {have}; {_smaller(recipe)}"
        )
    if memory.peak_bytes > room:
        journal.warn(
            f"memory: a full micro-batch may need {memory.peak_bytes / 1e9:.1f} GB of "
            f"{room / 1e9:.1f} GB; it is halved by itself when memory runs out"
        )
    seconds, tokens = _forecast_time(recipe, facts, shape, work, device)
    return Forecast(seconds, tokens, memory.peak_bytes, shape, work)


def _forecast_time(
    recipe: Recipe, facts: Facts, shape: ModelShape, work: Work, device: torch.device
) -> tuple[float, float]:
    """(seconds of training, its tokens) from the measured rate of a matrix product."""
    totals = count_totals(recipe, facts, num_validation=0, num_test=0)
    rate = matmul_flops_per_s(device, torch.bfloat16 if work.precision == "bf16" else torch.float32)
    seconds = forecast_seconds(
        shape,
        work,
        tokens=totals.tokens,
        steps=totals.steps,
        answered_tokens=0.0,
        flops_per_s=rate,
        bytes_per_s=COPY_BYTES_PER_S,
        device_kind=device.type,
    )
    return seconds.total, totals.real_tokens


def _smaller(recipe: Recipe) -> str:
    if recipe.adapter.method == "full":
        return "use adapter.method: lora, or a smaller base model"
    return "use a smaller base model or a lower training.max_length"
