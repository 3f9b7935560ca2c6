"""`tunewright train`: a recipe becomes a tuned model and a report."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, Gate, Overrides, Resume, RunDir, Yes
from tunewright.cli.output import Answer
from tunewright.cli.spending import ask_price, make_consent
from tunewright.cli.verdict import answer_with_report, naming_the_way_back
from tunewright.errors import RecipeError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.config import Recipe
    from tunewright.hosted_cost import Consent
    from tunewright.price_desk import Ask
    from tunewright.records import Report

DATA_SUFFIXES = frozenset(
    {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt", ".feather"}
)

RemoteShell = Annotated[
    str, typer.Option("--remote-shell", metavar="COMMAND", help="How to start a command on a host.")
]
LauncherName = Annotated[
    str, typer.Option("--launcher", help="local, or print a file: slurm, kubeflow, skypilot.")
]


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as `tunewright init` writes it.")],
    run_dir: RunDir = None,
    resume: Resume = False,
    gate: Gate = False,
    overrides: Overrides = None,
    preview: Annotated[
        int,
        typer.Option(
            "--preview",
            metavar="N",
            min=0,
            max=100,
            help="Show N training rows as the model sees them, what is learned marked; then end.",
        ),
    ] = 0,
    nproc: Annotated[
        int | None,
        typer.Option("--nproc", metavar="N", min=1, max=4096, help="Processes on each host."),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", metavar="NAME=ADDRESS,...", help="Hosts that train together."),
    ] = None,
    remote_shell: RemoteShell = "ssh {host}",
    launcher: LauncherName = "local",
    yes: Yes = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop the job of --run-dir at its provider; then end.")
    ] = False,
    as_json: AsJson = False,
) -> Answer:
    """Tune a model by a recipe and report whether it helped.

    With `provider: openai`, google or a URL it is tuned there, on rows that were checked and
    priced first; money is spent within budget.usd, or after a yes.

    Example:
      tunewright train recipe.yaml
      tunewright train recipe.yaml --nproc 8
      tunewright train recipe.yaml --nproc 8 --hosts a=10.0.0.1,b=10.0.0.2
      tunewright train recipe.yaml --nproc 8 --hosts 2 --launcher slurm > job.sh
      tunewright train recipe.yaml --preview 3
      tunewright train recipe.yaml --run-dir runs/second --set training.seed=3
      tunewright train hosted.yaml --yes

    Exit status:
      0 done, whatever the verdict
      1 will not fit here; costs more than budget.usd; or --gate, and the verdict is not `ship`
      2 a mistake in recipe, data or run folder
      3 interrupted; continue with --resume
      4 our own fault
    """
    _refuse_data(recipe)
    from tunewright.config import read_recipe

    plan = read_recipe(recipe, overrides or ())
    if preview:
        return _preview(plan, preview)
    place = run_dir or _run_dir_for(recipe, resume=resume or cancel)
    if cancel:
        return _cancel(plan, place)
    if plan.provider != "here" and (nproc or hosts):
        raise RecipeError("--nproc and --hosts are for training here; a provider has its own")
    same = [str(recipe), "--run-dir", str(place), *(f"--set={text}" for text in overrides or ())]
    if launcher != "local":
        return _export(launcher, plan, same, place, nproc or 1, hosts or "1")
    again = ["tunewright", "train", *same, "--resume"]
    again += [f"--nproc={nproc}"] * bool(nproc) + [f"--hosts={hosts}"] * bool(hosts)
    with naming_the_way_back(shlex.join(again), place):
        consent, ask = make_consent(yes, as_json), ask_price(as_json)
        if plan.provider == "here":
            spending = (consent, ask)
            report = _train(plan, place, same, resume, nproc, hosts, remote_shell, spending)
        else:
            report = _train_hosted(plan, place, resume, consent, ask)
    if report is None:
        return Answer(None, lambda console: None)
    return answer_with_report(report, place, gate=gate)


def _train(
    plan: Recipe,
    place: Path,
    same: list[str],
    resume: bool,
    nproc: int | None,
    hosts: str | None,
    remote_shell: str,
    spending: tuple[Consent, Ask | None],
) -> Report | None:
    """The report; None on a rank beside the first."""
    from tunewright.cluster.rank import is_rank, train_as_rank
    from tunewright.journal import ConsoleJournal

    if is_rank():
        return train_as_rank(plan, place, resume=resume)
    if nproc is None and hosts is None:
        from tunewright.pipeline import train

        consent, ask = spending
        return train(plan, place, ConsoleJournal(), resume=resume, consent=consent, ask=ask)
    from tunewright.cluster.command import train_with_ranks

    return train_with_ranks(
        same, place, ConsoleJournal(), resume=resume, nproc=nproc or 1, hosts=hosts,
        shell=remote_shell,
    )  # fmt: skip


def _export(
    launcher: str, plan: Recipe, same: list[str], place: Path, nproc: int, hosts: str
) -> Answer:
    """The file that starts this run elsewhere; nothing is started or written here."""
    from tunewright.cluster.exports import Request, write_file

    if not (hosts.isdigit() and int(hosts) > 0):
        raise RecipeError(
            f"--hosts {hosts}: with --launcher {launcher} give how many, as --hosts 2"
        )
    gpus = 0 if plan.training.device == "cpu" else nproc
    text = write_file(launcher, Request(same, str(place), int(hosts), nproc, gpus))
    return Answer(
        {"launcher": launcher, "text": text},
        lambda console: console.out(text, highlight=False, end=""),
    )


def _train_hosted(
    plan: Recipe, place: Path, resume: bool, consent: Consent, ask: Ask | None
) -> Report:
    from tunewright.hosted import train_hosted
    from tunewright.journal import ConsoleJournal

    return train_hosted(plan, place, ConsoleJournal(), resume=resume, consent=consent, ask=ask)


def _cancel(plan: Recipe, place: Path) -> Answer:
    from tunewright.hosted import cancel_hosted

    if plan.provider == "here":
        raise RecipeError("--cancel is for jobs at a provider; a run here stops with Ctrl-C")
    job = cancel_hosted(plan, place)
    return Answer(
        {"job": job.id, "phase": job.phase},
        lambda console: console.print(f"Job {job.id}: {job.phase}", markup=False),
    )


def _preview(plan: Recipe, rows: int) -> Answer:
    """Rows with what is learned in colour and underlined; [brackets] mark it without colour."""
    from tunewright.journal import ConsoleJournal
    from tunewright.pipeline import preview

    shown = preview(plan, ConsoleJournal(), rows=rows)

    def show(console: Console) -> None:
        from rich.text import Text

        plain = console.no_color or not console.is_terminal
        for item in shown:
            text = Text()
            for piece in item.pieces:
                learned = piece.weight > 0
                words = f"[{piece.text}]" if learned and plain else piece.text
                text.append(words, style="bold green underline" if learned else "dim")
            console.rule(f"row {item.id}: {item.num_tokens} tokens, {item.num_learned} learned")
            console.print(text)
            if item.answer is not None:
                console.print(Text(f"answer: {item.answer}", style="bold green"))

    return Answer(shown, show)


def _refuse_data(path: Path) -> None:
    if path.suffix.lower() in DATA_SUFFIXES:
        raise RecipeError(f"{path}: data, not a recipe; make one with `tunewright init {path}`")
    if path.is_dir():
        raise RecipeError(f"{path}: a folder, not a recipe; give the YAML file")


def _run_dir_for(recipe: Path, *, resume: bool) -> Path:
    """runs/NAME-DATE-TIME for a new run; to resume, the newest of that name.

    Raises RunError when there is none to resume.
    """
    if not resume:
        return Path("runs") / f"{recipe.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    earlier = sorted(Path("runs").glob(f"{recipe.stem}-[0-9]*-[0-9]*"))
    if not earlier:
        raise RunError(f"runs/{recipe.stem}-*: no run to resume; name it with --run-dir")
    return earlier[-1]
