"""Rows ready for training, from the cache where they were prepared before.

What is kept stands under a digest of the sources' content, the recipe's data section and our own
code: the examples of each split, every finding, and what was said on the way, which is said again.
Large sources are prepared by a process of its own, so that the one that trains never holds them;
tokens are made by several. Both are read through memory maps afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from tunewright import errors
from tunewright.cache import Entry, digest, digest_files, digest_source, limit_bytes
from tunewright.config import Recipe, dump_recipe, parse_recipe
from tunewright.data.embedded import PREFIX
from tunewright.data.example_file import StoredExamples, write_examples
from tunewright.data.formats import find_files, named_splits, size_bytes
from tunewright.data.layout import Layout
from tunewright.data.prepare import Prepared, prepare
from tunewright.journal import Journal
from tunewright.metrics.table import metrics_for
from tunewright.records import Example, Finding, Splits
from tunewright.sections import Columns

LARGE_BYTES = 32_000_000
"""Sources from which a process of its own prepares them."""
SIDES = ("train", "validation", "test")
_CODE = digest_source(Path(__file__).parent / "data")


def prepare_for_training(recipe: Recipe, journal: Journal) -> Prepared:
    """Rows that were read, cleaned, split and audited; card holds their data card.

    Raises DataError and Refusal as `prepare` and the audits do.
    """
    entry = _entry(recipe)
    if entry is None:
        return _prepare_now(recipe, journal)
    if not entry.is_whole():
        if _size(recipe) >= LARGE_BYTES:
            _prepare_apart(recipe, entry, journal)
        else:
            recorder = _Recorder(journal)
            return _try_to_save(_prepare_now(recipe, recorder), recorder.said, entry)
    else:
        for kind, text in json.loads((entry.path / "said.json").read_bytes()):
            journal.warn(text) if kind == "warn" else journal.say(text)
        journal.say("rows: as prepared before, from the cache")
    return load_prepared(entry.path)


def load_prepared(folder: Path) -> Prepared:
    """What save_prepared wrote; splits are read as they are looked at."""
    plain = json.loads((folder / "prepared.json").read_bytes())
    layout = plain["layout"]
    columns = Columns(**layout.pop("columns"))
    findings = tuple(map(read_finding, plain["findings"]))
    # Not tuples, but read like them.
    train, validation, test = (
        cast(tuple[Example, ...], StoredExamples(folder / f"{side}.arrow")) for side in SIDES
    )
    return Prepared(
        Layout(**_tuples(layout), columns=columns),
        Splits(train, validation, test, findings),
        findings,
        plain["num_read"],
        card=plain["card"],
        metrics=tuple(plain["metrics"]) if plain["metrics"] is not None else None,
        digest=folder.name,
    )


def save_prepared(prepared: Prepared, said: Sequence[tuple[str, str]], folder: Path) -> Prepared:
    """Write examples, findings, card and what was said into a folder; returns it with its card."""
    from tunewright.checking import make_full_card

    layout, splits = prepared.layout, prepared.splits
    for side in SIDES:
        write_examples(folder / f"{side}.arrow", getattr(splits, side))
    prepared = replace(
        prepared,
        card=make_full_card(prepared),
        metrics=metrics_for(layout.task, splits.train + splits.test, layout.labels),
    )
    save_all_but_rows(prepared, said, folder)
    return prepared


def save_all_but_rows(prepared: Prepared, said: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write what load_prepared reads beside the examples, which lie there."""
    layout = prepared.layout
    plain = {
        "layout": {
            **{field.name: getattr(layout, field.name) for field in fields(layout)},
            "columns": layout.columns.model_dump(mode="json"),
        },
        "findings": [asdict(finding) for finding in prepared.findings],
        "num_read": dict(prepared.num_read),
        "card": prepared.card,
        "metrics": prepared.metrics,
    }
    (folder / "prepared.json").write_text(json.dumps(plain), encoding="utf-8")
    (folder / "said.json").write_text(json.dumps(list(said)), encoding="utf-8")


def read_finding(plain: Mapping[str, Any]) -> Finding:
    """A Finding of its plain JSON values."""
    return Finding(**_tuples(plain))


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, and lists in lists, as the tuples that the frozen records hold."""
    return {
        key: tuple(tuple(i) if isinstance(i, list) else i for i in value)
        if isinstance(value, list)
        else value
        for key, value in plain.items()
    }


def _prepare_now(recipe: Recipe, journal: Journal) -> Prepared:
    # The audits bring scikit-learn along, which a start with prepared rows does without.
    from tunewright.checking import audit_before_training

    keep_bad = recipe.objective == "kto"
    unanswered = recipe.objective in ("distill", "grpo")
    prepared = prepare(
        recipe.data, recipe.task, journal, keep_bad=keep_bad, keep_unanswered=unanswered
    )
    return audit_before_training(prepared, recipe, journal)


def _try_to_save(prepared: Prepared, said: Sequence[tuple[str, str]], entry: Entry) -> Prepared:
    """Keep it for the next time; a cache that cannot be written costs no run."""
    try:
        with_card = save_prepared(prepared, said, entry.begin())
        entry.finish()
    except (OSError, TypeError, ValueError):
        entry.drop()
        return prepared
    return replace(with_card, digest=entry.path.name)


def _entry(recipe: Recipe) -> Entry | None:
    """The place of these rows in the cache; None where they cannot be named or nothing is kept."""
    if limit_bytes() <= 0:
        return None
    data = recipe.data
    try:
        content = {source: _content(source) for source in _sources(recipe)}
    except (errors.TunewrightError, OSError):
        return None  # whoever reads the rows will say what is wrong
    kept = recipe.objective if recipe.objective in ("kto", "distill", "grpo") else ""
    key = digest(
        "prepared", _CODE, content, data.model_dump(mode="json"), recipe.task,
        recipe.training.seed, kept,
    )  # fmt: skip
    return Entry("rows", key)


def name_content(recipe: Recipe) -> str | None:
    """A digest of all that the rows of a recipe hang on; None where a source cannot be named."""
    try:
        content = {source: _content(source) for source in _sources(recipe)}
    except (errors.TunewrightError, OSError):
        return None
    return digest(_CODE, content, recipe.data.model_dump(mode="json"), recipe.task)


def _sources(recipe: Recipe) -> list[str]:
    data = recipe.data
    given = (data.train, data.validation, data.test)
    return list(dict.fromkeys(source for source in given if isinstance(source, str)))


def _content(source: str) -> str:
    """A digest of everything behind a source that may be read."""
    if source.startswith(PREFIX):
        return source  # our own code's digest covers it
    path = Path(source)
    if path.is_file():
        return digest_files([path])
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([str(f.relative_to(path)) for f in files], digest_files(files))
    splits = (None, *sorted(named_splits(source)))
    return digest_files(path for split in splits for path, _ in find_files(source, split))


def _size(recipe: Recipe) -> int:
    return sum(size_bytes(source) for source in _sources(recipe))


class _Recorder(Journal):
    """Passes on what is said, and keeps it for the next time."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal
        self.said: list[tuple[str, str]] = []

    def say(self, text: str) -> None:
        """Pass a sentence on and keep it."""
        self.said.append(("say", text))
        self.journal.say(text)

    def warn(self, text: str) -> None:
        """Pass a warning on and keep it."""
        self.said.append(("warn", text))
        self.journal.warn(text)

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """A bar of the journal behind."""
        with self.journal.progress(what, total) as advance:
            yield advance


class _Wire(Journal):
    """The journal of a process of its own: one JSON line on stdout for whatever happens."""

    def say(self, text: str) -> None:
        """A sentence for the other side."""
        self.send("say", text)

    def warn(self, text: str) -> None:
        """A warning for the other side."""
        self.send("warn", text)

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """A bar on the other side."""
        self.send("open", what, total)
        yield self._advance
        self.send("close")

    def _advance(self, done: float, note: str = "") -> None:
        self.send("advance", done, note)

    def send(self, *parts: Any) -> None:
        """One line, at once."""
        print(json.dumps(parts), flush=True)


def _prepare_apart(recipe: Recipe, entry: Entry, journal: Journal) -> None:
    """Let a process of its own prepare the rows into the cache, and say what it says."""
    command = [sys.executable, "-m", "tunewright.preparing", entry.path.name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(dump_recipe(recipe))
        process.stdin.close()
        lines = (json.loads(line) for line in process.stdout if line.startswith("["))
        try:
            _relay(lines, journal)
        except BaseException:
            process.terminate()
            raise
    if not entry.is_whole():
        raise RuntimeError(f"preparing rows failed with exit status {process.returncode}")


def _relay(lines: Iterator[list[Any]], journal: Journal) -> None:
    """Say what the other process says until it ends. Raises what it raised."""
    for kind, *parts in lines:
        if kind == "say":
            journal.say(*parts)
        elif kind == "warn":
            journal.warn(*parts)
        elif kind == "open":
            with journal.progress(*parts) as advance:
                for inner, *values in lines:
                    if inner == "close":
                        break
                    if inner == "advance":
                        advance(*values)
                    else:
                        _relay(iter([[inner, *values]]), journal)
        elif kind == "error":
            name, message = parts
            raise getattr(errors, name)(message)


def _main() -> int:
    """The process of its own: a recipe on stdin, the name of the entry as argument."""
    wire = _Wire()
    recorder = _Recorder(wire)
    recipe = parse_recipe(sys.stdin.read(), "stdin")
    entry = Entry("rows", sys.argv[1])
    try:
        save_prepared(_prepare_now(recipe, recorder), recorder.said, entry.begin())
        entry.finish()
    except (errors.UserError, errors.Refusal) as error:
        wire.send("error", type(error).__name__, str(error))
        entry.drop()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
