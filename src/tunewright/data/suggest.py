"""A first recipe for a data file, commented, for `tunewright init`: what was found, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from tunewright.data.columns import Layout, find_layout
from tunewright.data.formats import named_splits
from tunewright.data.prepare import Prepared, prepare, read_all
from tunewright.data.profile import Profile, profile_columns
from tunewright.data.split import TINY_CLASS_ROWS
from tunewright.journal import Journal
from tunewright.records import Example, Task
from tunewright.sections import DataSection

MetricsFor = Callable[[Task, Sequence[Example], Sequence[str]], tuple[str, ...]]
EXAMPLE_DECODER = "Qwen/Qwen3-0.6B"
ENCODER_TASKS = ("classify", "tag", "regress", "embed")


def suggest_recipe(source: str, task: str | None, *, metrics_for: MetricsFor | None = None) -> str:
    """Commented YAML for the data behind `source`; config.parse_recipe reads it back.

    metrics_for: names of metrics for (task, examples, labels), best first; names are written as a
    comment beside `metrics: auto`.
    Raises DataError where the data is unfit or a column must be named first.
    """
    data = DataSection(train=source)
    journal = Journal()
    rows = read_all(source, data, task, journal)
    profiles = profile_columns(rows)
    layout = find_layout(rows, data, task)
    prepared = prepare(data, layout.task, journal)
    names = metrics_for(layout.task, prepared.splits.train, layout.labels) if metrics_for else ()
    lines = [
        *_write_task(layout),
        *_write_base(layout.task),
        *_write_data(source, layout, profiles, prepared),
        *_write_rest(layout, names),
    ]
    return "\n".join(lines) + "\n"


def _write_task(layout: Layout) -> list[str]:
    why = [f"# {reason}" for reason in layout.reasons]
    return [
        *why,
        f"task: {layout.task}  # classify, tag, regress, generate, chat, continue or embed",
        "",
    ]


def _write_base(task: str) -> list[str]:
    if task in ENCODER_TASKS:
        return [
            "# A small English encoder that comes with Tunewright; any hub id or folder works.",
            "base_model: embedded:minilm",
            "",
        ]
    return [
        f"# Task {task} needs a causal language model: embedded:minilm cannot write text.",
        "# Put the hub id or folder of one here; larger ones answer better and train longer.",
        f"base_model: {EXAMPLE_DECODER}",
        "",
    ]


def _write_data(
    source: str, layout: Layout, profiles: dict[str, Profile], prepared: Prepared
) -> list[str]:
    splits = prepared.splits
    own = named_splits(source)
    lines = ["data:", f"  train: {_scalar(source)}"]
    for side, rows in (("validation", splits.validation), ("test", splits.test)):
        what = "the source's own split" if side in own else "share of the rows, or a file"
        lines.append(f"  {side}: 0.1  # {what}; now {len(rows)} rows")
    lines += _write_columns(layout)
    if layout.labels:
        lines += [f"  # {_describe_labels(layout, splits.train)}"]
    groups = [profile for profile in profiles.values() if profile.is_group]
    for profile in groups:
        lines.append(
            f"  # {profile.name} repeats ({profile.num_distinct} values in "
            f"{profile.num_values} rows): rows of one value can stay on one side of the"
        )
        lines.append(f"  # split. group: {_scalar(profile.name)}")
    for finding in prepared.findings:
        if finding.severity != "info":
            lines.append(f"  # noticed: {_one_line(finding.message)}")
    return [*lines, ""]


def _write_columns(layout: Layout) -> list[str]:
    """The columns that were found; shapes with agreed names need none."""
    if layout.shape not in ("table", "spans", "text", "tokens"):
        return [f"  # columns are those of the shape {layout.shape}"]
    given = layout.columns.model_dump(mode="json")
    found = {key: value for key, value in given.items() if value}
    return ["  columns:", *(f"    {key}: {_scalar(value)}" for key, value in found.items())]


def _describe_labels(layout: Layout, train: Sequence[Example]) -> str:
    counts: Counter[str] = Counter()
    for example in train:
        items: Any = example.output if isinstance(example.output, tuple) else (example.output,)
        counts.update(getattr(item, "label", item) for item in items if item is not None)
    ranked = counts.most_common()
    tiny = sum(count < TINY_CLASS_ROWS for _, count in ranked)
    few = f"; {tiny} have fewer than {TINY_CLASS_ROWS} rows" if tiny else ""
    ends = f"{ranked[0][0]} {ranked[0][1]}, ... {ranked[-1][0]} {ranked[-1][1]}" if ranked else ""
    return _one_line(f"{len(layout.labels)} labels; training rows: {ends}{few}")


def _write_rest(layout: Layout, metrics: Sequence[str]) -> list[str]:
    if metrics:
        why = f"{metrics[0]} decides; also {', '.join(metrics[1:])}"
    else:
        why = "chosen by task; the first one decides"
    return [
        "training:",
        "  learning_rate: auto  # every auto is derived from model and data, with its reason",
        "  num_epochs: auto",
        "  seed: 17",
        "",
        "evaluation:",
        f"  metrics: auto  # {why}",
    ]


def _scalar(value: Any) -> str:
    """A value as YAML on one line, quoted where it must be."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.strip().removesuffix("...").strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())
