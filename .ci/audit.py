"""The dependency audit: every version in constraints.txt against the known vulnerabilities.

`python .ci/audit.py` asks PyPI's advisories through pip-audit. Exit status 1 for a vulnerability
that is not in IGNORED; 0 when nothing was found, and also when nothing could be asked (no network,
no pip-audit), which is said aloud: an audit that did not happen is not one that passed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
LIMIT_S = 90

# Advisories that do not touch us, each with the reason: {"GHSA-...": "why"}.
IGNORED: dict[str, str] = {}


def ask(pins: Path) -> dict[str, Any] | str:
    """pip-audit's JSON document, or in words why there is none."""
    command = [
        sys.executable, "-m", "pip_audit", "-r", str(pins), "--no-deps", "--disable-pip",
        "--progress-spinner", "off", "--format", "json", "--timeout", "15",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S} s"
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no answer"]
        return lines[-1]
    return document


def judge(answer: dict[str, Any] | str) -> tuple[int, list[str]]:
    """(exit status, lines to print) for what `ask` returned."""
    if isinstance(answer, str):
        return 0, [f"audit: SKIPPED, nothing was audited ({answer})"]
    rows = answer["dependencies"]
    audited = [row for row in rows if "skip_reason" not in row]
    if not audited:
        why = rows[0]["skip_reason"] if rows else "no packages"
        return 0, [f"audit: SKIPPED, nothing was audited ({why})"]
    lines = [f"audit: {len(audited)} packages audited, {len(rows) - len(audited)} not known there"]
    status = 0
    for row in audited:
        for hole in row["vulns"]:
            names = [hole["id"], *hole.get("aliases", [])]
            reason = next((IGNORED[name] for name in names if name in IGNORED), None)
            fixed = ", ".join(hole.get("fix_versions", [])) or "no version yet"
            what = f"{row['name']} {row['version']}: {' '.join(names)}; fixed in {fixed}"
            lines.append(f"audit: {what}" + (f"; ignored: {reason}" if reason else ""))
            status = status if reason else 1
    return status, lines


def main() -> int:
    """Ask, print, and give the exit status."""
    status, lines = judge(ask(REPO / "constraints.txt"))
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
