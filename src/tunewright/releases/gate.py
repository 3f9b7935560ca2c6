"""May this run reach users? What passed parity and is not worse than the champion, may.

Each check says in one sentence what was found. Nothing is passed over: what could not be checked
is a "no" with a remedy.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.asking import compare
from tunewright.config import parse_recipe
from tunewright.errors import Refusal, RunError, UserError
from tunewright.exporting import export_run
from tunewright.figures import metric_title, show_delta, show_delta_interval, show_p
from tunewright.journal import Journal
from tunewright.model.manifest import read_manifest
from tunewright.releases.board import Release
from tunewright.store import RunFolder, read_json, to_plain, write_json

PARITY = "release_parity.json"
"""In the run folder: what the parity check found, for weights of one hash."""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition. passed: whether it holds. says: what was found, in a sentence."""

    name: str
    passed: bool
    says: str
    details: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """For the database and JSON."""
        return dict(to_plain(asdict(self)))


def read_lineage(run: Path) -> dict[str, Any]:
    """Where a finished run comes from. Raises RunError when it is not finished."""
    folder = RunFolder(run)
    manifest = read_manifest(folder.model) if folder.model.is_dir() else None
    if manifest is None or not folder.report_json.exists():
        raise RunError(f"{run}: not a finished run; a release needs its model and its report")
    report = read_json(folder.report_json)
    recipe = folder.recipe.read_text(encoding="utf-8")
    tuned: Mapping[str, Any] = next(
        (r for r in report["results"] if r["system"] == "tuned" and r["split"] == "test"), {}
    )
    return {
        "run": run.name,
        "task": report["task"],
        "base_model": report["base_model"],
        "base": (manifest.get("base") or {}).get("sha256"),
        "model": manifest.get("weights_sha256"),
        "data": _data_hashes(folder, recipe),
        "recipe": _sha256(recipe.encode()),
        "tunewright": manifest.get("tunewright"),
        "verdict": report["verdict"],
        "primary_metric": report["primary_metric"],
        "scores": {name: score["value"] for name, score in (tuned.get("metrics") or {}).items()},
        "num_test_rows": tuned.get("n"),
        **_retuned(folder),
    }


def _retuned(folder: RunFolder) -> dict[str, Any]:
    """Where a run that came of a retune comes from, and what the gate over old tasks said."""
    path = folder.path / "lineage.json"
    if not path.exists():
        return {}
    told = read_json(path)
    return {"retuned": {key: told.get(key) for key in ("parent", "strategy", "because", "names",
                                                      "matrix", "learning")}}  # fmt: skip


def check_release(
    run: Path, champion: Release | None, journal: Journal, *, data: str | None = None
) -> list[Check]:
    """Every condition for reaching users, checked now. data: rows to compare on."""
    return [check_parity(run, journal), check_champion(run, champion, journal, data=data)]


def refuse_failed(checks: list[Check]) -> None:
    """Raise Refusal with the first reason against."""
    for check in checks:
        if not check.passed:
            raise Refusal(f"gate closed ({check.name}): {check.says}")


def check_parity(run: Path, journal: Journal) -> Check:
    """The model as it is exported answers as it was trained; found once for these weights."""
    folder = RunFolder(run)
    weights = (read_manifest(folder.model) or {}).get("weights_sha256")
    kept = folder.path / PARITY
    if kept.exists():
        known = read_json(kept)
        if known.get("weights") == weights and weights:
            return Check("parity", bool(known["passed"]), str(known["says"]), known.get("details"))
    to = "adapter" if (folder.model / "adapter_config.json").exists() else "merged"
    place = Path(tempfile.mkdtemp(prefix="tunewright-parity-"))
    try:
        found = export_run(run, to, place / to, journal)
    except Refusal as error:
        return Check("parity", False, str(error))
    except UserError as error:
        return Check("parity", False, f"could not be checked: {error}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    worst = max(found.parity, key=lambda parity: parity.max_logit_difference)
    says = (
        f"read by {worst.checked_by} it answers as trained on {worst.num_prompts} test prompts "
        f"(logits within {worst.max_logit_difference:.2g})"
    )
    check = Check("parity", True, says, {"parity": to_plain(list(found.parity))})
    write_json(kept, {"weights": weights, **check.plain()})
    return check


def check_champion(
    run: Path, champion: Release | None, journal: Journal, *, data: str | None = None
) -> Check:
    """Not worse than what is in production, in a paired test on the same rows.

    Without a champion the run's own verdict decides: what should not have been tuned is no release.
    """
    name = "champion"
    if champion is None:
        verdict = read_json(RunFolder(run).report_json).get("verdict")
        says = f"nothing is in production yet; the run's own verdict is: {verdict}"
        return Check(name, verdict not in (None, "do not tune"), says)
    if Path(champion.run).resolve() == run.resolve():
        return Check(name, True, "it is the run that is in production")
    try:
        (found,) = compare(str(run), champion.run, journal, data=data)
    except UserError as error:
        remedy = "" if data else "; name rows for both with --data"
        return Check(name, False, f"could not be compared with {champion.id}: {error}{remedy}")
    metric = found.metric
    says = (
        f"{found.verdict} against {champion.id}: {metric_title(metric)} "
        f"{show_delta(metric, found.delta)} ({show_delta_interval(metric, found.ci95)}, "
        f"p {show_p(found.p_value)}, {found.n:,} rows)"
    )
    return Check(name, found.verdict != "worse", says, {"comparison": to_plain(found)})


def _data_hashes(folder: RunFolder, recipe: str) -> dict[str, str]:
    """SHA-256 of every data file that still lies here, and of the card of what was learned from."""
    found = {}
    section = parse_recipe(recipe, str(folder.recipe)).data
    for source in (section.train, section.validation, section.test):
        if isinstance(source, str) and Path(source).is_file():
            with Path(source).open("rb") as file:
                found[source] = hashlib.file_digest(file, "sha256").hexdigest()
    if folder.card.exists():
        found["card.json"] = _sha256(folder.card.read_bytes())
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
