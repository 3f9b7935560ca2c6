"""Tunewright in a notebook or a script: what the commands do as functions, tables as data.

    from tunewright import notebook as tw

    tw.check(frame)
    run = tw.train(frame, "runs/first", task="classify", settings={"training.num_epochs": 2})
    run.verdict, run.ask(["where is my parcel?"])

Data may be a path or name as in a recipe, a pandas DataFrame, a `datasets.Dataset`, or a list of
dicts. Tables are written once, under the hash of their content, to runs/tables, so that a run can
be resumed and its report can name its rows. What is returned shows itself in a notebook as a page.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.config import Recipe, make_recipe, read_recipe, with_values
from tunewright.errors import DataError, RunError
from tunewright.journal import ConsoleJournal
from tunewright.store import (
    RunFolder,
    naming_disk_errors,
    read_json,
    read_jsonl,
    to_plain,
    write_atomic,
)

if TYPE_CHECKING:
    from tunewright.checking import Checkup
    from tunewright.exporting import Exported
    from tunewright.piloting import PilotReport
    from tunewright.planning import Plan
    from tunewright.records import Comparison, Finding, Report
    from tunewright.trusting import Threshold

TABLES = Path("runs") / "tables"


@dataclass(frozen=True, slots=True)
class Shown:
    """Something with a page of its own, which a notebook shows in a frame that cannot reach out."""

    page: str

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" '
            'style="width:100%;height:40rem;border:1px solid #8884" title="Tunewright"></iframe>'
        )


@dataclass(frozen=True, slots=True)
class Checked(Shown):
    """What `check` found. card: the data card as plain JSON values."""

    checkup: Checkup

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, the gravest first, each with the rows that it concerns."""
        return self.checkup.findings

    @property
    def card(self) -> dict[str, Any]:
        """The data card."""
        return self.checkup.card

    @property
    def unfit(self) -> tuple[str, ...]:
        """Why nothing good can be learned from these data; empty where they are fit."""
        return self.checkup.unfit


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, read from its folder."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def report(self) -> Report:
        """The verdict and its evidence."""
        from tunewright.report.files import read_report

        return read_report(self.folder)

    @property
    def verdict(self) -> str | None:
        """`ship`, `more data` or `do not tune`."""
        verdict: str | None = read_json(self.folder.report_json)["verdict"]
        return verdict

    @property
    def scores(self) -> list[dict[str, Any]]:
        """One row per system, split and metric with value and interval: `pandas.DataFrame(...)`."""
        return [
            {
                "system": result["system"], "split": result["split"], "n": result["n"],
                "metric": name, "value": score["value"],
                "low": (score.get("ci95") or [None, None])[0],
                "high": (score.get("ci95") or [None, None])[1],
            }
            for result in read_json(self.folder.report_json)["results"]
            for name, score in result["metrics"].items()
        ]  # fmt: skip

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """What every system answered for every held-out row."""
        return read_jsonl(self.folder.predictions)

    def ask(self, texts: Sequence[str]) -> list[Any]:
        """The tuned model's answers: labels (or numbers, spans) for a classifier, else texts."""
        from tunewright.asking import open_chat

        session = open_chat(str(self.path))
        answers = []
        for text in texts:
            said = "".join(session.reply(text))
            last = session.last or {}
            answers.append(last.get("prediction", last.get("text", said)))
            session.reset()
        return answers

    def _repr_html_(self) -> str:
        return Shown(self.folder.report_html.read_text(encoding="utf-8"))._repr_html_()


def recipe(data: Any = None, *, settings: Mapping[str, Any] | None = None, **keys: Any) -> Recipe:
    """A recipe from data (or a recipe's path), top-level keys, and dotted settings.

    settings: {"training.num_epochs": 2, "adapter.r": 8}. Raises RecipeError, DataError.
    """
    if isinstance(data, Recipe):
        made = data
    elif isinstance(data, (str, Path)) and Path(data).suffix.lower() in (".yaml", ".yml"):
        made = read_recipe(Path(data))
    else:
        made = make_recipe({"data": {"train": place_of(data)}} if data is not None else {})
    if keys:
        made = with_values(made, keys)
    return with_values(made, settings) if settings else made


def place_of(data: Any) -> str:
    """The name under which a recipe finds this data; tables are written to runs/tables first.

    Raises DataError for what is neither a name nor a table.
    """
    if isinstance(data, (str, Path)):
        return str(data)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows_of(data))
    path = TABLES / f"{hashlib.sha256(lines.encode()).hexdigest()[:16]}.jsonl"
    if not path.exists():
        with naming_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lines)
    return str(path)


def _rows_of(data: Any) -> list[dict[str, Any]]:
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        rows = data.to_dict(orient="records")
    elif hasattr(data, "to_list") and hasattr(data, "features"):  # datasets
        rows = data.to_list()
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        rows = [dict(row) for row in data]
    else:
        raise DataError(
            f"data: {type(data).__name__} is no table; give a path, a DataFrame, a Dataset or a "
            "list of dicts"
        )
    if not rows:
        raise DataError("data: a table without rows; give one with some")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """A cell as JSON: numbers of numpy as numbers, missing values as null, the rest as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return None if str(value) in ("NaT", "<NA>") else str(value)


def check(data: Any, **keys: Any) -> Checked:
    """Look for what would spoil a training run. Arguments as for `recipe`."""
    from tunewright.checking import check as look
    from tunewright.report.check import make_check_page

    asked = recipe(data, **keys)
    found = look(asked, ConsoleJournal())
    name = data if isinstance(data, (str, Path)) else f"{type(data).__name__}"
    return Checked(make_check_page(str(name), found.card, found.unfit), found)


def plan(data: Any, device: str = "this", **keys: Any) -> Plan:
    """Forecast memory, time and price of a recipe; device as for `tunewright plan`."""
    from tunewright.planning import is_here, make_plan, named_device, this_machine
    from tunewright.price_desk import prices_of

    asked, today = recipe(data, **keys), datetime.now(UTC).date()
    place, room = this_machine(asked) if is_here(device) else named_device(device, asked)
    return make_plan(
        asked, place, room, ConsoleJournal(), prices=prices_of(asked, today), today=today
    )


def pilot(data: Any, folder: str | Path, *, thorough: bool = False, **keys: Any) -> PilotReport:
    """GO, MORE DATA or STOP from three small trainings, kept in `folder`."""
    from tunewright.piloting import pilot as run_pilot

    return run_pilot(recipe(data, **keys), Path(folder), ConsoleJournal(), thorough=thorough)


def train(data: Any, run_dir: str | Path, *, resume: bool = False, **keys: Any) -> Run:
    """Tune, judge, report. Data may be a recipe (or its path). Raises UserError, Refusal."""
    from tunewright.pipeline import train as train_run

    train_run(recipe(data, **keys), Path(run_dir), ConsoleJournal(), resume=resume)
    return open_run(run_dir)


def open_run(run_dir: str | Path) -> Run:
    """A run that was finished earlier. Raises RunError."""
    folder = RunFolder(Path(run_dir))
    if not folder.report_json.exists():
        raise RunError(f"{run_dir}: no finished run; give a folder that holds report.json")
    return Run(folder)


def evaluate(what: str | Path | Run, data: Any) -> Report:
    """Judge a run, adapter, folder or hub model on any data."""
    from tunewright.asking import evaluate as judge

    return judge(_name_of(what), place_of(data), ConsoleJournal())


def compare(a: str | Path | Run, b: str | Path | Run, data: Any = None) -> tuple[Comparison, ...]:
    """Is a better than b on the same rows, beyond chance? `RUN:system` names a run's baseline."""
    from tunewright.asking import compare as judge

    rows = None if data is None else place_of(data)
    return judge(_name_of(a), _name_of(b), ConsoleJournal(), data=rows)


def benefit(run: str | Path | Run, **settings: Any) -> dict[str, Any]:
    """What tuning costs against what it saves; settings are keys of the `business` section."""
    from tunewright.weighing import weigh_run
    from tunewright.worth import worth_document

    overrides = [f"business.{key}={json.dumps(value)}" for key, value in settings.items()]
    today = datetime.now(UTC).date()
    folder = open_run(_name_of(run)).folder
    worth, _ = weigh_run(folder, overrides, prices=None, today=today)
    document: dict[str, Any] = to_plain(worth_document(worth))
    return document


def threshold(run: str | Path | Run, *, unknown: Any = None, **wish: Any) -> Threshold:
    """From which confidence on answers are used; wish: precision, false_alarms, or costs.

    unknown: rows of no known label, as data or by name. Raises UserError.
    """
    from tunewright.trusting import Wish, find_threshold

    rows = None if unknown is None else place_of(unknown)
    folder = open_run(_name_of(run)).folder
    return find_threshold(folder, Wish(**wish), ConsoleJournal(), unknown=rows)


def export(run: str | Path | Run, to: str, out: str | Path) -> Exported:
    """Write the tuned model for other programs, proven to answer as trained."""
    from tunewright.exporting import export_run

    return export_run(Path(_name_of(run)), to, Path(out), ConsoleJournal())


def _name_of(what: str | Path | Run) -> str:
    return str(what.path if isinstance(what, Run) else what)
