"""`plan`: memory, time, energy and price of a recipe before a weight is loaded.

The arithmetic of floor 1 with what a recipe names: the base's config.json, the data or its card,
the device. Torch is touched only for the machine that this runs on, and for a probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.config import AdapterSection, Recipe, with_values
from tunewright.cost.calibration import Calibration, calibrate
from tunewright.cost.devices import DEVICES, Device, find_device
from tunewright.cost.fit import Change, FitWord, find_changes, judge_fit, scaled
from tunewright.cost.memory import Memory, Work, forecast_memory, with_micro_batch
from tunewright.cost.money import CPU_CORE_W, Energy, device_usd, forecast_energy
from tunewright.cost.shape import ModelShape, read_shape
from tunewright.cost.time import Seconds, find_pace, forecast_seconds
from tunewright.cost.work import Totals, count_totals, make_work
from tunewright.defaults import Facts, fill_defaults
from tunewright.errors import DataError, ModelError
from tunewright.journal import Journal
from tunewright.model import safety
from tunewright.model.catalog import find_config_folder
from tunewright.prices import Prices
from tunewright.records import Derived, Example
from tunewright.registry import forecast_records
from tunewright.store import read_json

if TYPE_CHECKING:
    from tunewright.data.prepare import Prepared
    from tunewright.probing import Probe

CHARS_PER_TOKEN = 3.6
"""Of English text in the usual vocabularies; used only where the tokenizer's files are missing."""
MEASURED_ROWS = 20_000
QUANTIZABLE = "nf4" in str(AdapterSection.model_fields["quantization"].annotation)
"""Whether this version trains on 4-bit weights."""
BUSY_FROM = 1.25
"""Wall clock over processor time from which a shared processor is worth a word."""
USABLE_SHARE = 0.94
"""Of a GPU's memory, beside what driver and contexts take."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens by row as far as known, and what the data says beside them."""

    task: str
    train: Sequence[int]
    answers: Sequence[int]
    num_train: int
    num_validation: int
    num_test: int
    labels: int
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer. room_bytes: free on one device. usd None: no price known, see notes."""

    verdict: FitWord
    device: Device
    room_bytes: int
    recipe: Recipe
    derived: tuple[Derived, ...]
    shape: ModelShape
    work: Work
    totals: Totals
    memory: Memory
    seconds: Seconds
    energy: Energy
    usd: float | None
    usd_source: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    calibration: Mapping[str, Calibration]
    num_rows: int = 0
    """Rows of all splits."""


def make_plan(
    recipe: Recipe,
    device: Device,
    room_bytes: int,
    journal: Journal,
    *,
    prices: Prices,
    card: Path | None = None,
    prepared: Prepared | None = None,
    calibration: Mapping[str, Calibration] | None = None,
    today: date | None = None,
) -> Plan:
    """Forecast a recipe on a device by arithmetic. Raises ModelError, DataError, RecipeError.

    prepared: the recipe's data where it has been read already.
    """
    shape = find_shape(recipe)
    lengths = read_card(card) if card else measure_lengths(recipe, shape, journal, prepared)
    facts = make_facts(recipe, shape, lengths, device)
    filled, derived = settle(recipe, facts, device)
    work = make_work(filled, facts, shape, num_labels=lengths.labels)
    # Rows of a batch are shared out among devices; weights, gradients and moments are sharded.
    work = with_micro_batch(work, -(-work.tokens // device.count))
    totals = count_totals(
        filled, facts, num_validation=lengths.num_validation, num_test=lengths.num_test
    )
    known = calibration or {}
    memory = _calibrated_memory(
        forecast_memory(shape, work, device.kind, count=num_shares(filled, device)),
        known.get("memory"),
    )
    seconds = forecast_seconds(
        shape,
        work,
        tokens=totals.tokens,
        steps=totals.steps,
        answered_tokens=totals.answered_tokens,
        flops_per_s=device.flops_per_s if work.precision == "bf16" else device.flops_per_s / 2,
        bytes_per_s=device.bytes_per_s,
        device_kind=device.kind,
        count=device.count,
    )
    seconds = _calibrated_seconds(seconds, known.get("seconds"))
    energy = forecast_energy(seconds.total, device.power_w, device.kind, count=device.count)
    usd, source, notes = _price(prices, device, seconds, today or date.today())
    verdict = judge_fit(memory, room_bytes)
    scale = known["memory"].factor if "memory" in known and known["memory"].used else 1.0
    changes = find_changes(
        shape,
        work,
        room_bytes,
        device.kind,
        count=num_shares(filled, device),
        scale=scale,
        quantizable=QUANTIZABLE,
    )
    return Plan(
        verdict=verdict,
        device=device,
        room_bytes=room_bytes,
        recipe=filled,
        derived=derived,
        shape=shape,
        work=work,
        totals=totals,
        memory=memory,
        seconds=seconds,
        energy=energy,
        usd=usd,
        usd_source=source,
        changes=tuple(changes) if verdict != "FIT" else (),
        notes=(f"lengths: {lengths.source}", *memory.notes, *notes),
        calibration=known,
        num_rows=lengths.num_train + lengths.num_validation + lengths.num_test,
    )


def num_shares(recipe: Recipe, device: Device) -> int:
    """Over how many devices the weights are spread; 1 where each holds all of them (DDP)."""
    whole = recipe.adapter.held_in != "none" or recipe.training.parallel == "ddp"
    return 1 if whole or device.kind == "cpu" else device.count


def share_here(device: Device, room_bytes: int, nproc: int) -> tuple[Device, int]:
    """This machine and its room as each of `nproc` processes finds them.

    Processes on a processor divide its threads and its memory; on GPUs each has one of its own.
    """
    if device.kind != "cpu":
        return replace(device, count=nproc), room_bytes
    each = replace(device, flops_per_s=device.flops_per_s / nproc, power_w=device.power_w / nproc)
    return replace(each, count=nproc), room_bytes // nproc


def is_here(text: str) -> bool:
    """True for "this", "this CPU", "here"."""
    return text.strip().lower() in ("this", "here", "this cpu", "this machine", "cpu", "this gpu")


def named_device(text: str, recipe: Recipe) -> tuple[Device, int]:
    """A device of the table and the bytes of it that a run may take. Raises RecipeError."""
    device = find_device(text)
    # What driver, context and the display take; the rest is what frameworks see.
    return device, _within_budget(recipe, round(device.memory_bytes * USABLE_SHARE))


def this_machine(recipe: Recipe) -> tuple[Device, int]:
    """The device that training would take here, measured for a moment, and what of it is free."""
    import torch

    from tunewright.model.device import (
        available_memory,
        choose_precision,
        choose_threads,
        device_name,
        matmul_flops_per_s,
        pick_device,
        total_memory,
    )

    device = pick_device(recipe.training.device)
    threads, _ = choose_threads(recipe.training.num_threads)
    torch.set_num_threads(threads)
    dtype, _ = choose_precision(recipe.training.precision, device)
    found = next((d for name, d in DEVICES.items() if name in device_name(device)), None)
    power_w = found.power_w if found else threads * CPU_CORE_W
    bf16 = dtype == torch.bfloat16
    rate = matmul_flops_per_s(device, dtype)
    made = Device(
        name=device_name(device),
        memory_bytes=total_memory(device),
        flops_per_s=rate if bf16 else 2 * rate,
        bytes_per_s=found.bytes_per_s if found else 1e10,
        power_w=power_w,
        source="measured here",
        kind=device.type,
        bf16=bf16,
    )
    return made, _within_budget(recipe, available_memory(device))


def _within_budget(recipe: Recipe, room_bytes: int) -> int:
    limit_gb = recipe.budget.memory_gb
    return min(room_bytes, int(limit_gb * 1e9)) if limit_gb else room_bytes


def read_calibration(runs: Path, device: Device) -> dict[str, Calibration]:
    """How right the forecasts of earlier runs on this device were; {} where there are none."""
    if not runs.is_dir():
        return {}
    records = forecast_records(runs)
    return {
        name: calibrate([r for r in found if r.device == device.name])
        for name, found in records.items()
    }


def find_shape(recipe: Recipe) -> ModelShape:
    """The base's shape from its config.json; weights are not needed. Raises ModelError."""
    path = Path(recipe.base_model).expanduser()
    if path.is_file() and path.suffix == ".json":
        return read_shape(safety.read_model_json(path), str(path))
    folder = find_config_folder(recipe.base_model, recipe.base_revision)
    return read_shape(safety.read_model_json(folder / "config.json"), str(folder / "config.json"))


def read_card(path: Path) -> Lengths:
    """Lengths from a data card: of a run folder, or as `check` writes it. Raises DataError."""
    values = read_json(path / "card.json" if path.is_dir() else path)
    try:
        values = values.get("card", values)
        sides = values["splits"]
        train = sides["train"]
        lengths, source = _spread(train)
        return Lengths(
            task=str(values["task"]),
            train=lengths,
            answers=_answers(train),
            num_train=int(train["rows"]),
            num_validation=int((sides.get("validation") or {}).get("rows") or 0),
            num_test=int((sides.get("test") or {}).get("rows") or 0),
            labels=_num_labels(str(values["task"]), len(values.get("labels") or ())),
            source=f"{source} of {path}",
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: not a data card ({type(error).__name__}: {error}); give a run folder or its "
            "card.json"
        ) from error


def _spread(train: Mapping[str, Any]) -> tuple[list[int], str]:
    """Rows in tokens from the card's histogram; from characters where there are no tokens."""
    histogram, tokens = train.get("token_histogram"), train.get("tokens")
    if histogram and tokens:
        edges, counts = histogram["edges"], histogram["counts"]
        rows = [
            round((low + high) / 2)
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            for _ in range(int(count))
        ]
        rows[-1] = int(tokens["max"])
        return rows, "token histogram"
    chars = train["input_chars"]
    extra = train.get("output_chars") or {"mean": 0.0, "max": 0}
    mean = max(1, round((chars["mean"] + extra["mean"]) / CHARS_PER_TOKEN) + 2)
    longest = max(1, round((chars["max"] + extra["max"]) / CHARS_PER_TOKEN) + 2)
    return [mean] * (int(train["rows"]) - 1) + [longest], "characters, at 3.6 a token,"


def _answers(train: Mapping[str, Any]) -> list[int]:
    answers = train.get("output_chars")
    if not answers:
        return []
    return [round(answers["mean"] / CHARS_PER_TOKEN) + 1] * int(train["rows"])


def _num_labels(task: str, labels: int) -> int:
    return 1 + 2 * labels if task == "tag" else max(1, labels)


def measure_lengths(
    recipe: Recipe, shape: ModelShape, journal: Journal, prepared: Prepared | None = None
) -> Lengths:
    """Read the data and count it in the base's tokens; by characters without its tokenizer."""
    from tunewright.data.prepare import prepare

    prepared = prepared or prepare(recipe.data, recipe.task, journal)
    splits, layout = prepared.splits, prepared.layout
    if not splits.train:
        raise DataError(f"{recipe.data.train}: no rows left to train on")
    examples = splits.train[:MEASURED_ROWS]
    try:
        train, answers = _tokens(recipe, shape, layout, examples)
        source = f"{len(examples)} rows in the base's own tokens"
    except ModelError:
        pairs = [(len(e.input), len(str(e.output or ""))) for e in examples]
        language = layout.task in ("generate", "chat")
        train = [round((i + (o if language else 0)) / CHARS_PER_TOKEN) + 3 for i, o in pairs]
        answers = [round(o / CHARS_PER_TOKEN) + 1 for _, o in pairs] if language else []
        source = f"{len(examples)} rows by characters, {CHARS_PER_TOKEN} a token: no tokenizer here"
    return Lengths(
        task=layout.task,
        train=train,
        answers=answers,
        num_train=round(len(splits.train) * len(train) / len(examples)),
        num_validation=len(splits.validation),
        num_test=len(splits.test),
        labels=_num_labels(layout.task, len(layout.labels)),
        source=source,
    )


def _tokens(
    recipe: Recipe, shape: ModelShape, layout: Any, examples: Sequence[Example]
) -> tuple[list[int], list[int]]:
    from tunewright.data.render import Rendering, find_column_edges, render
    from tunewright.model.catalog import ModelSource
    from tunewright.model.tokenizer import load_tokenizer

    folder = find_config_folder(recipe.base_model, recipe.base_revision)
    source = ModelSource(recipe.base_model, folder, "folder", ())
    tokenizer, default = load_tokenizer(source, shape.kind, False)
    template = recipe.data.chat_template
    how = Rendering(
        task=layout.task,
        tokenizer=tokenizer,
        max_length=min(shape.max_positions, 1 << 17),
        labels=layout.labels,
        multi_label=layout.multi_label,
        seq2seq=shape.kind == "encoder-decoder" and layout.task in ("generate", "chat"),
        native_template=shape.kind == "decoder" and (template is not None or not default),
        column_edges=find_column_edges(examples),
    )
    rows = render(examples, how)
    language = layout.task in ("generate", "chat")
    answers = [
        0 if row.target_weights is None else int((row.target_weights > 0).sum()) for row in rows
    ]
    return [row.num_tokens for row in rows], answers if language else []


def make_facts(recipe: Recipe, shape: ModelShape, lengths: Lengths, device: Device) -> Facts:
    """What the defaults depend on, from the shape alone."""
    language = lengths.task in ("generate", "chat", "continue")
    return Facts(
        task=lengths.task,
        kind=shape.kind,
        num_parameters=shape.num_parameters(with_output=language),
        hidden_size=shape.hidden_size,
        num_rows=max(1, lengths.num_train),
        lengths=lengths.train,
        answer_lengths=lengths.answers,
        max_positions=shape.max_positions,
        device="cpu" if device.kind == "cpu" else "cuda",
        has_head=not language,
        num_outputs=shape.vocab_size if language else 1,
        fitted_head=lengths.task == "classify"
        and shape.kind == "encoder"
        and recipe.training.head_init != "random",
    )


def settle(recipe: Recipe, facts: Facts, device: Device) -> tuple[Recipe, tuple[Derived, ...]]:
    """The recipe with every "auto" filled as training would, on that device."""
    filled, derived = fill_defaults(recipe, facts)
    values: dict[str, Any] = {"task": facts.task}
    if filled.training.precision == "auto":
        values["training.precision"] = "bf16" if device.bf16 else "fp32"
    return with_values(filled, values), derived


def _calibrated_memory(memory: Memory, record: Calibration | None) -> Memory:
    if record is None or not record.used:
        return memory
    moved = scaled(memory, record.factor)
    peak = memory.peak_bytes
    # Never narrower than what one more run of another shape may bring.
    return replace(
        moved,
        low_bytes=round(peak * min(record.low, record.factor * 0.95)),
        high_bytes=round(peak * max(record.high, record.factor * 1.05)),
    )


def _calibrated_seconds(seconds: Seconds, record: Calibration | None) -> Seconds:
    if record is None or not record.used or seconds.probed:
        return seconds
    total = seconds.total
    return replace(
        seconds,
        training=seconds.training * record.factor,
        evaluation=seconds.evaluation * record.factor,
        low=total * min(record.low, record.factor * 0.9),
        high=total * max(record.high, record.factor * 1.1),
    )


def _price(
    prices: Prices, device: Device, seconds: Seconds, today: date
) -> tuple[float | None, str, tuple[str, ...]]:
    """(dollars or None, source in words, notes); never a guess."""
    if device.kind == "cpu" and not prices.has("device_hour", "this"):
        return None, "", ("price: give device_hour.this in a prices file to count this machine",)
    name = "this" if device.kind == "cpu" else device.name
    found = prices.look_up("device_hour", name, today)
    if found.usd is None:
        return None, "", (f"price: {found.problem}",)
    usd = device_usd(seconds.total, found.usd, count=device.count)
    return usd, found.source, tuple(found.warnings)


def with_probe(plan: Plan, found: Probe) -> Plan:
    """The plan as a few measured steps correct it: peak memory, and the pace of a step."""
    pace = find_pace(found.step_tokens, found.step_seconds)
    training = pace.seconds(plan.totals.real_tokens, plan.totals.steps)
    evaluation = plan.seconds.evaluation * training / max(1e-9, plan.seconds.training)
    if found.evaluated_rows:
        evaluation = found.evaluation_s / found.evaluated_rows * plan.totals.answered_rows
    total = training + evaluation
    busy = _busy(found) if plan.device.kind == "cpu" else 1.0
    # What shares the processor now may go or stay: both ends are told.
    seconds = Seconds(training, evaluation, 0.85 * total / busy, 1.15 * total, probed=True)
    peak = round(found.peak_bytes)
    items = dict(plan.memory.passing)
    beside = sum(plan.memory.held.values()) + sum(items.values()) - items["temporary buffers"]
    items["temporary buffers"] = max(0, peak - beside)
    memory = replace(
        plan.memory,
        passing=items,
        peak_bytes=peak,
        low_bytes=round(0.97 * peak),
        high_bytes=round(1.08 * peak),
        notes=(f"measured with {pace.steps + 1} steps, the widest batch among them",),
    )
    verdict = judge_fit(memory, plan.room_bytes)
    changes = find_changes(
        plan.shape,
        plan.work,
        plan.room_bytes,
        plan.device.kind,
        scale=peak / max(1, plan.memory.peak_bytes),
        quantizable=QUANTIZABLE,
    )
    usd = plan.usd and plan.usd * total / max(1e-9, plan.seconds.total)
    return replace(
        plan,
        verdict=verdict,
        memory=memory,
        seconds=seconds,
        energy=forecast_energy(total, plan.device.power_w, plan.device.kind),
        usd=usd,
        changes=tuple(changes) if verdict != "FIT" else (),
        notes=(
            *(n for n in plan.notes if n not in plan.memory.notes),
            *memory.notes,
            *(
                (f"the processor is shared: steps took {busy:.1f} times their own time",)
                if busy > BUSY_FROM
                else ()
            ),
        ),
    )


def _busy(found: Probe) -> float:
    """How many times longer the steps took than the processor was busy with them; at least 1."""
    own = sum(found.step_processor_s)
    return max(1.0, sum(found.step_seconds) / own) if own > 0 else 1.0


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as plain values for --json."""
    memory, seconds = plan.memory, plan.seconds
    return {
        "verdict": plan.verdict,
        "device": {
            "name": plan.device.title, "memory_bytes": plan.device.memory_bytes,
            "free_bytes": plan.room_bytes, "source": plan.device.source,
            "read_on": plan.device.read_on,
        },
        "model": {
            "reference": plan.recipe.base_model, "parameters": memory.num_parameters,
            "trained": memory.num_trained, "layers": plan.shape.layers,
        },
        "memory": {
            "items": {**memory.held, **memory.passing}, "peak_bytes": memory.peak_bytes,
            "low_bytes": memory.low_bytes, "high_bytes": memory.high_bytes,
        },
        "disk": {"checkpoint_bytes": memory.checkpoint_bytes, "model_bytes": memory.model_bytes},
        "work": {
            "steps": plan.totals.steps, "tokens": plan.totals.real_tokens,
            "padded_tokens": plan.totals.tokens, "micro_batch_tokens": plan.work.tokens,
            "longest_row_tokens": plan.work.row_tokens,
        },
        "seconds": {
            "total": seconds.total, "training": seconds.training, "evaluation": seconds.evaluation,
            "low": seconds.low, "high": seconds.high, "probed": seconds.probed,
        },
        "energy": plan.energy,
        "usd": plan.usd,
        "usd_source": plan.usd_source,
        "changes": list(plan.changes),
        "derived": list(plan.derived),
        "notes": list(plan.notes),
        "calibration": dict(plan.calibration),
    }  # fmt: skip
