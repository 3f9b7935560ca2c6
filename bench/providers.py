"""Hosted runs and moving home: the issue's bars, each shown by the tests that play it.

    python bench/providers.py            # five minutes on one core

Every case runs through the unmodified SDKs: OpenAI's against an emulated account and against our
own `serve`, Google's against an emulated project. A case that fails, or is skipped, counts against
the bar.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from record import at_least, at_most, record

REPO = Path(__file__).parents[1]
FOLDER = "tests/providers"
CASES = {
    "openai, SIGKILL at three moments and run again: second jobs or other results": (
        f"{FOLDER}/test_hosted_killed.py", 3,
    ),
    "openai against our own serve, killed and run again; its account moves home": (
        f"{FOLDER}/test_hosted_serve.py", 2,
    ),
    "openai, everything going wrong: key, quota, storms, bad rows, lost answers, prices": (
        f"{FOLDER}/test_hosted_openai.py", 25,
    ),
    "google, every job state and error; lost answers; killed before the id was noted": (
        f"{FOLDER}/test_hosted_google.py", 20,
    ),
    "hosted runs in use: asked, talked to, watched by the log, tuned again": (
        f"{FOLDER}/test_hosted_use.py", 10,
    ),
    "migrate: 12 jobs, 12 recipes, each trains": (f"{FOLDER}/test_migrating.py", 9),
}  # fmt: skip


def play(path: str) -> tuple[int, int]:
    """(cases that passed, cases that did not)."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            path,
            f"--junitxml={report}",
        ]
        subprocess.run(command, cwd=REPO, check=False, stdout=subprocess.DEVNULL)
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        bad = sum(int(suite.get(key, 0)) for key in ("failures", "errors", "skipped"))
        return int(suite.get("tests", 0)) - bad, bad


def main() -> None:
    """Play every case and write down what came of it."""
    bars = []
    for name, (path, least) in CASES.items():
        passed, bad = play(path)
        bars.append(at_most(f"{name}: failed cases", bad, 0))
        bars.append(at_least(f"{name}: cases", passed, least))
    record("providers", bars, "2 shared cores of an AMD EPYC with AVX512-BF16")


if __name__ == "__main__":
    main()
