"""`tunewright plan`: will it fit, how long, what will it cost; before a weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli.options import AsJson, Overrides, PricesFile
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from datetime import date

    from rich.console import Console

    from tunewright.config import Recipe
    from tunewright.cost.devices import Device
    from tunewright.journal import Journal
    from tunewright.planning import Plan
    from tunewright.prices import Prices

SIGNS = {"FIT": ("✓", "green"), "UNCERTAIN": ("?", "yellow"), "NO": ("✕", "red")}


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe, as `tunewright init` writes it.")
    ] = None,
    device: Annotated[
        str,
        typer.Option("--device", help='"this", or a device of the table: "H100-80GB", "2x L40S".'),
    ] = "this",
    card: Annotated[
        Path | None,
        typer.Option("--card", help="A data card (or run folder) in place of reading the data."),
    ] = None,
    runs: Annotated[
        Path, typer.Option("--runs", help="Earlier runs, whose record widens the intervals.")
    ] = Path("runs"),
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Correct it by a few real steps here, in their own process."),
    ] = False,
    nproc: Annotated[
        int, typer.Option("--nproc", metavar="N", min=1, help="Processes on this machine.")
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="GPUS", help='Layouts on so many GPUs: "8,64,512"; see docs.'
        ),
    ] = None,
    prices: PricesFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> Answer:
    """Forecast memory, disk, time, energy and price of a recipe, without training.

    Needs the base's config.json and the data (or its card), never its weights.

    Example:
      tunewright plan recipe.yaml
      tunewright plan recipe.yaml --device "2x L40S"
      tunewright plan recipe.yaml --nproc 2
      tunewright plan recipe.yaml --probe
      tunewright plan --cluster 8,64,512
      tunewright plan recipe.yaml --card runs/first --json

    Exit status:
      0 it fits, or it is uncertain whether it does
      1 it does not fit; what to change is listed
      2 a mistake in recipe, data or prices
      4 our own fault
    """
    if cluster is not None:
        from tunewright.cli.plan_cluster import plan_cluster

        return plan_cluster(recipe, overrides or (), cluster, device)
    if recipe is None:
        raise UserError("plan: no recipe given; name one, or use --cluster for reference models")
    from tunewright.cli.spending import ask_price
    from tunewright.config import read_recipe

    asked = read_recipe(recipe, overrides or ())
    if asked.provider != "here":
        return _plan_hosted(asked, ask_price(as_json), prices)
    return _forecast(asked, device, nproc, card, runs, prices, probe)


def _forecast(
    asked: Recipe,
    device: str,
    nproc: int,
    card: Path | None,
    runs: Path,
    prices: Path | None,
    probe: bool,
) -> Answer:
    from datetime import UTC, datetime

    from tunewright.journal import ConsoleJournal
    from tunewright.planning import is_here, make_plan, plan_document, read_calibration
    from tunewright.prices import read_prices

    today = datetime.now(UTC).date()
    named = prices or (Path(asked.business.prices) if asked.business.prices else None)
    known_prices = read_prices(named, today)
    journal = ConsoleJournal()
    here = is_here(device)
    place, room = _place(device, asked, nproc)
    made = make_plan(
        asked,
        place,
        room,
        journal,
        prices=known_prices,
        card=card,
        calibration=read_calibration(runs, place) if here else None,
        today=today,
    )
    if probe:
        made = _probed(made, asked, here, journal)
    worth = _outlook(made, asked, known_prices, today)
    return Answer(
        {**plan_document(made), "benefit": worth},
        lambda console: _print_plan(made, worth, console),
        exit_status=1 if made.verdict == "NO" else 0,
    )


def _plan_hosted(asked: Recipe, ask: Any, prices: Path | None) -> Answer:
    """What a hosted run will cost, every row checked by the provider's rules; nothing is sent."""
    from tunewright.config import with_values
    from tunewright.figures import show_usd
    from tunewright.hosted import forecast_run
    from tunewright.hosted_cost import forecast_document
    from tunewright.journal import ConsoleJournal

    if prices is not None:
        asked = with_values(asked, {"business.prices": str(prices)})
    journal = ConsoleJournal()
    made, worth = forecast_run(asked, journal, ask=ask)
    limit = asked.budget.usd
    over = limit is not None and made.high_usd > limit
    document = {
        "verdict": "NO" if over else "FIT", "provider": asked.provider, "model": asked.base_model,
        **forecast_document(made), "benefit": worth,
    }  # fmt: skip

    def show(console: Console) -> None:
        sign, colour = SIGNS[str(document["verdict"])]
        console.print(f"[bold reverse {colour}] {sign} {document['verdict']} [/]")
        rows = [
            ("tuning", f"{made.num_rows:,} rows x {made.num_epochs} passes, about "
                       f"{made.train_tokens:,} tokens: {show_usd(made.train_usd)}"),
            ("judging", f"about {made.ask_tokens:,} tokens: {show_usd(made.ask_usd)}"),
            ("together", f"{show_usd(made.usd)}, at most {show_usd(made.high_usd)}"),
            ("budget.usd", "not set" if limit is None else show_usd(limit)),
        ]  # fmt: skip
        _print_rows(f"{asked.base_model} at {asked.provider}", rows, console)
        for text in (*(worth or {}).get("because", ()), *made.sources, *made.warnings):
            console.print(f"  {text}", markup=False, soft_wrap=True)

    return Answer(document, show, exit_status=1 if over else 0)


def _place(device: str, asked: Recipe, nproc: int) -> tuple[Device, int]:
    """(the device, bytes of it that are free for each process)."""
    from tunewright.planning import is_here, named_device, share_here, this_machine

    if not is_here(device):
        if nproc > 1:
            raise UserError('--nproc: for this machine; of others write --device "2x L40S"')
        return named_device(device, asked)
    place, room = this_machine(asked)
    return share_here(place, room, nproc) if nproc > 1 else (place, room)


def _outlook(made: Plan, asked: Recipe, prices: Prices, today: date) -> dict[str, Any] | None:
    """The short form of `benefit`, where the recipe has a `business:` section."""
    from tunewright.outlook import shortest_outlook

    return shortest_outlook(
        asked,
        num_rows=made.num_rows,
        train_usd=made.usd,
        train_hours=made.seconds.total / 3600,
        train_kwh=made.energy.kwh,
        prices=prices,
        today=today,
    )


def _probed(made: Plan, asked: Recipe, here: bool, journal: Journal) -> Plan:
    from tunewright.planning import with_probe
    from tunewright.probing import probe

    if not here:
        raise UserError("--probe: steps can be measured on this machine only; leave out --device")
    return with_probe(made, probe(asked, journal))


def _print_plan(made: Plan, worth: dict[str, Any] | None, console: Console) -> None:
    from rich.text import Text

    from tunewright.figures import show_bytes, show_seconds

    sign, colour = SIGNS[made.verdict]
    memory, seconds = made.memory, made.seconds
    console.print()
    word = Text(f" {sign} {made.verdict} ", f"bold reverse {colour}")
    about = f"{made.recipe.base_model}, {made.recipe.task}, on {made.device.title}"
    console.print(Text.assemble(word, "  ", (about, "dim")))
    console.print(
        f"  needs {show_bytes(memory.peak_bytes)} ({show_bytes(memory.low_bytes)} to "
        f"{show_bytes(memory.high_bytes)}) of {show_bytes(made.room_bytes)}"
        + (" on each device" if made.device.count > 1 else ""),
        highlight=False,
    )
    console.print()
    _print_rows("Memory at the worst moment", _memory_rows(made), console)
    rough = "measured steps" if seconds.probed else "from rates alone"
    rows = [
        ("time", f"{show_seconds(seconds.total)} ({show_seconds(seconds.low)} to "
                 f"{show_seconds(seconds.high)}, {rough})"),
        ("steps", f"{made.totals.steps:,} of up to {made.work.tokens:,} tokens at once"),
        ("energy", f"{made.energy.kwh:.3g} kWh ({made.energy.assumption})"),
        ("price", f"${made.usd:,.2f} ({made.usd_source})" if made.usd is not None else "not known"),
        ("one checkpoint", show_bytes(memory.checkpoint_bytes)),
        ("the tuned model", show_bytes(memory.model_bytes)),
    ]  # fmt: skip
    _print_rows("Time, energy, price, disk", rows, console)
    if made.changes:
        changes = [
            (change.what, f"{show_bytes(change.peak_bytes)}, {change.verdict}: "
                          f"--set {' --set '.join(change.overrides)} ({change.price})")
            for change in made.changes
        ]  # fmt: skip
        _print_rows("What would need less", changes, console)
    if worth is not None:
        console.print(Text("Is it worth it?", "bold"))
        for sentence in worth["because"]:
            console.print(Text(f"  {sentence}"), soft_wrap=True)
        console.print()
    for note in (*made.notes, *(worth or {}).get("warnings", ())):
        console.print(Text(f"  {note}", "dim"), soft_wrap=True)


def _memory_rows(made: Plan) -> list[tuple[str, str]]:
    from tunewright.figures import show_bytes

    items = {**made.memory.held, **made.memory.passing}
    return [(name, show_bytes(size)) for name, size in items.items() if size]


def _print_rows(title: str, rows: list[tuple[str, str]], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(Text(title, "bold"))
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(f"  {name}"), Text(value))
    console.print(table)
    console.print()
