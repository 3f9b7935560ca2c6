"""`tunewright check`: is this data fit to learn from?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Overrides, check_is_file_like, split_names
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.checking import Checkup
    from tunewright.cleaning import Written
    from tunewright.config import Recipe
    from tunewright.journal import Journal
    from tunewright.records import Example

What = Annotated[
    str,
    typer.Argument(
        metavar="DATA|RECIPE", help="A recipe, or a file, folder, hub id, URL or embedded:NAME."
    ),
]
Task = Annotated[
    str | None, typer.Option(help="Where the data leaves a choice: classify, generate, ...")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 1 on any warning, not only on unfit data.")
]
EveryRow = Annotated[
    bool, typer.Option("--all", help="List every row of every finding, not the first five.")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")]
Write = Annotated[
    Path | None,
    typer.Option(
        "--write", metavar="CLEAN", help="Write a copy without the rows that must go, undoable."
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="KIND", help="With --write: rows of this finding go too; repeatable."
    ),
]
Redact = Annotated[
    bool, typer.Option("--redact", help="With --write: placeholders for personal data.")
]
Undo = Annotated[bool, typer.Option("--undo", help="Turn a clean copy back into its source.")]
Review = Annotated[
    bool, typer.Option("--review", help="Decide row by row: keep, drop, relabel; can be resumed.")
]
Decisions = Annotated[
    Path | None,
    typer.Option(
        "--decisions", metavar="FILE", help="Where a review is kept; default NAME.review.jsonl."
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against", metavar="TRAFFIC", help="Compare with real requests: what is missing?"
    ),
]
LabelNext = Annotated[
    int | None,
    typer.Option("--label-next", metavar="N", min=1, help="The N rows to label next."),
]
Pool = Annotated[
    str | None,
    typer.Option("--pool", metavar="FILE", help="With --label-next: where unlabelled rows lie."),
]
Select = Annotated[
    int | None,
    typer.Option("--select", metavar="N", min=1, help="N training rows that stand for all."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write the rows that were picked, as the source does."
    ),
]
Embedded = Annotated[
    bool | None,
    typer.Option(
        "--embed/--no-embed",
        help="Compare texts by meaning too; default: up to 5,000 rows.",
        show_default=False,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Keep long passes here; a stopped check goes on."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


def check(
    what: What,
    task: Task = None,
    strict: Strict = False,
    every_row: EveryRow = False,
    html: Html = None,
    write: Write = None,
    drop: Drop = None,
    redact: Redact = False,
    review: Review = False,
    decisions: Decisions = None,
    undo: Undo = False,
    against: Against = None,
    label_next: LabelNext = None,
    pool: Pool = None,
    select: Select = None,
    out: Out = None,
    embed: Embedded = None,
    cache: Cache = None,
    force: Force = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Look for what would spoil a training run, row by row, before a step is trained.

    Example:
      tunewright check tickets.csv
      tunewright check recipe.yaml --html check.html
      tunewright check tickets.csv --review
      tunewright check tickets.csv --write clean/tickets.csv --redact
      tunewright check clean/tickets.csv --undo
      tunewright check tickets.csv --against requests.jsonl
      tunewright check tickets.csv --label-next 50 --pool inbox.csv --out next.csv

    Exit status:
      0 done, the data is fit
      1 the data is unfit; or --strict, and something was found
      2 the data or recipe cannot be read
      4 our own fault
    """
    from tunewright.journal import ProgressJournal

    journal = ProgressJournal()
    if undo:
        return _undo(Path(what), journal)
    _refuse_contradictions(write, drop, redact)
    recipe = read_what(what, task, overrides or [])
    for path in (html,):
        if path is not None and path.exists() and not force:
            raise UserError(f"{path}: exists already; add --force to replace it, or name another")
    if against or label_next or select:
        from tunewright.cli.pick import pick

        return pick(recipe, against, label_next, pool, select, out, force, embed, journal)
    kept_in = decisions or _decisions_for(recipe)

    runs = Path("runs") if is_recipe(what) and not review else None
    with _looking(recipe, journal, embed, cache, runs, learn=not review) as checkup:
        if review:
            return _review(checkup, kept_in)
        written = None
        if write is not None:
            written = _write(
                recipe, checkup, write, split_names(drop) or (), redact, kept_in, force, journal
            )
        if html is not None:
            _write_page(html, what, checkup)
        return _answer(what, checkup, written, html, strict=strict, every_row=every_row)


@contextmanager
def _looking(
    recipe: Recipe,
    journal: Journal,
    embed: bool | None,
    cache: Path | None,
    runs: Path | None,
    *,
    learn: bool,
) -> Iterator[Checkup]:
    """The check, going on from what an earlier one left in `cache`."""
    from tunewright.checking import check as look
    from tunewright.kept import keeping

    with keeping(recipe, cache) as kept:
        if kept is None:
            yield look(recipe, journal, learn=learn, embed=embed, runs=runs)
            return
        prepared = kept.prepare(journal)
        with kept.helped() as beside:
            checkup = look(
                recipe, journal, learn=learn, embed=embed, cache=kept.folder, runs=runs,
                prepared=prepared, keep=kept.keep, last=beside,
            )  # fmt: skip
        yield checkup


def is_recipe(what: str) -> bool:
    """True for a path that ends as recipes do."""
    return Path(what).suffix.lower() in (".yaml", ".yml")


def read_what(what: str, task: str | None, overrides: list[str]) -> Recipe:
    """The recipe at a path, or one made up for data. Raises UserError."""
    from tunewright.config import make_recipe, parse_recipe, read_recipe

    given = [f"task={task}"] if task else []
    if is_recipe(what):
        return read_recipe(Path(what), [*overrides, *given])
    check_is_file_like(what)
    if not overrides:
        return make_recipe({"data": {"train": what}, **({"task": task} if task else {})})
    return parse_recipe("", what, [f"data.train={what}", *given, *overrides])


def _answer(
    what: str,
    checkup: Checkup,
    written: Written | None,
    html: Path | None,
    *,
    strict: bool,
    every_row: bool,
) -> Answer:
    found = any(item.severity != "info" for item in checkup.findings)
    closed = bool(checkup.unfit) or (strict and found)

    def show(console: Console) -> None:
        from tunewright.cli.check_show import show_checkup, show_written

        show_checkup(what, checkup, console, every_row=every_row)
        if written is not None:
            show_written(written, console)
        if html is not None:
            console.print(f"Page:    {html}", markup=False, soft_wrap=True)

    document: dict[str, Any] = {"data": what, "fit": not checkup.unfit, "unfit": checkup.unfit}
    document |= checkup.card
    if written is not None:
        document["written"] = written
    return Answer(document, show, exit_status=1 if closed else 0)


def _write(
    recipe: Recipe,
    checkup: Checkup,
    target: Path,
    drop: tuple[str, ...],
    redact: bool,
    decisions: Path,
    force: bool,
    journal: Journal,
) -> Written:
    from tunewright.cleaning import SURE_KINDS, bare_place, read_decisions, write_clean
    from tunewright.data.audit.personal import STRUCTURED

    return write_clean(
        recipe,
        checkup.prepared.layout,
        checkup.findings,
        target,
        journal,
        kinds=(*SURE_KINDS, *drop),
        decisions=read_decisions(decisions),
        redact_kinds=STRUCTURED if redact else (),
        ids={bare_place(row.place): row.id for row in _rows(checkup)},
        force=force,
    )


def _write_page(html: Path, what: str, checkup: Checkup) -> None:
    from tunewright.report.check import make_check_page
    from tunewright.store import naming_disk_errors, write_atomic

    with naming_disk_errors(html):
        html.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(html, make_check_page(what, checkup.card, checkup.unfit))


def _review(checkup: Checkup, decisions: Path) -> Answer:
    from rich.console import Console

    from tunewright.cli.review import review as ask

    rows = {row.place: row for row in _rows(checkup)}
    labels = checkup.prepared.layout.labels
    counts = ask(checkup.findings, rows, labels, decisions, Console(stderr=True, highlight=False))

    def show(console: Console) -> None:
        console.print(
            f"{counts['keep']} kept, {counts['drop']} to drop, {counts['relabel']} to relabel; "
            f"{counts['left']} rows left. Decisions: {decisions}",
            markup=False,
            soft_wrap=True,
        )
        console.print("Carry them out with --write CLEAN.", markup=False)

    return Answer({"decisions": decisions, **counts}, show)


def _rows(checkup: Checkup) -> Iterator[Example]:
    splits = checkup.prepared.splits
    yield from (*splits.train, *splits.validation, *splits.test)


def _undo(clean: Path, journal: Journal) -> Answer:
    from tunewright.cleaning import undo

    files, rows = undo(clean, journal)

    def show(console: Console) -> None:
        for path in files:
            console.print(f"Restored: {path}, {rows:,} rows put back", markup=False, soft_wrap=True)

    return Answer({"restored": files, "rows": rows}, show)


def _decisions_for(recipe: Recipe) -> Path:
    """NAME.review.jsonl beside a local file, else in the working folder."""
    source = recipe.data.train or "data"
    path = Path(source)
    if path.exists():
        return path.with_name(f"{path.name.split('.')[0] or path.name}.review.jsonl")
    return Path(f"{source.replace('/', '-').replace(':', '-')}.review.jsonl")


def _refuse_contradictions(write: Path | None, drop: list[str] | None, redact: bool) -> None:
    if write is None and (drop or redact):
        raise UserError("--drop and --redact change a copy; name it with --write CLEAN")
