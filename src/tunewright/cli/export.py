"""`tunewright export`: a tuned model for other programs, proven to answer as trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.cli.options import AsJson, existing_run
from tunewright.cli.output import Answer
from tunewright.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.exporting import Exported


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    to: Annotated[
        str,
        typer.Option("--to", help="adapter, merged, gguf, onnx, ollama, vllm or hub."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Default: RUN-FORM beside the run."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the stored weights: fp32, bf16, fp16; gguf: f16, q8_0, f32."),
    ] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Where --to hub uploads.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --to hub: for everybody to see.")
    ] = False,
    as_json: AsJson = False,
) -> Answer:
    """Write a tuned model in the form that another program serves, and prove that it answers alike.

    The same test rows go through the trained model and through what was written, read by that
    other program or by transformers alone. Where they differ beyond the stated tolerance, nothing
    is left behind and the exit status is 1.

    Example:
      tunewright export runs/tickets --to onnx
      tunewright export runs/writer --to gguf --precision q8_0 --out writer

    Exit status:
      0 done, and the answers are the same
      1 the exported model answers differently
      2 this model cannot take that form, or the target exists already
      4 our own fault
    """
    existing_run(run)
    if to == "hub" and not repo:
        raise UserError("--to hub: say where, --repo OWNER/NAME")
    if repo and to != "hub":
        raise UserError(f"--repo: goes with --to hub, not with --to {to}")
    target = out or run.with_name(f"{run.name}-{to}")

    from tunewright.exporting import export_run, upload
    from tunewright.journal import Journal

    journal = Journal()
    exported = export_run(run, to, target, journal, precision=precision)
    address = upload(exported, repo, journal, private=not public) if repo else None
    document = {
        "to": to,
        "path": str(exported.path),
        "files": exported.files,
        "precision": exported.precision,
        "parity": exported.parity,
        "passed": True,
        "notes": exported.notes,
        "url": address,
    }
    return Answer(document, lambda console: _show(console, exported, address))


def _show(console: Console, exported: Exported, address: str | None) -> None:
    from rich.markup import escape

    for parity in exported.parity:
        text = ""
        if parity.same_text is not None:
            text = f", {100 * parity.same_text:.1f} % of the greedy answers the same"
        console.print(
            f"[green]✓[/] read by {parity.checked_by}: logits within "
            f"{parity.max_logit_difference:.2g} (limit {parity.tolerance:.2g}), "
            f"{100 * parity.same_top:.2f} % of {parity.num_positions:,} choices the same{text}"
        )
        for name, (ours, theirs) in parity.metrics.items():
            console.print(f"  {name} trained {ours:.4f}, exported {theirs:.4f}")
    for note in exported.notes:
        console.print(escape(f"  {note}"), soft_wrap=True)
    console.print(f"Written: {exported.path}  ({', '.join(exported.files)})", soft_wrap=True)
    if address:
        console.print(f"Uploaded: {address}", soft_wrap=True)
