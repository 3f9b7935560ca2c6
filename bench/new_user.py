"""A new user's path: an empty environment, the README's commands, and the time to a first verdict.

    python bench/new_user.py

The tree is copied without what git ignores, `pip install -c constraints.txt -e .` fills a new
environment from the index that pip is set up for, and `tunewright quickstart` and the two commands
under "Your own data" play there. torch alone is lent by this environment, for it is gigabytes: its
download is not in the figure. Without an index nothing is recorded, and that is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import at_least, at_most, record

REPO = Path(__file__).parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"


def copy_tree(to: Path) -> None:
    """What git would clone of the work tree as it is."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (REPO / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, to / name)


def main() -> None:
    from tests.story.test_wheel import INDEX_PROBE, borrow, clean_environment, packages_of, pip

    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text) / "tunewright"
        copy_tree(folder)
        started = time.perf_counter()
        python = clean_environment(folder / ".venv")
        probe = pip(python, "download", "--no-deps", "-q", "-d", str(folder / "probe"), INDEX_PROBE)
        if probe.returncode != 0:
            print("no package index can be reached from here; nothing is recorded")
            return
        borrow(packages_of(python))

        def step(*words: str) -> tuple[int, float]:
            begun = time.perf_counter()
            done = subprocess.run(words, cwd=folder, env=plain, check=False)
            return done.returncode, time.perf_counter() - begun

        pin = ("-q", "-c", "constraints.txt", "-e", ".")
        installed, install_s = step(str(python), "-m", "pip", "install", *pin)
        command = str(python.with_name("tunewright"))
        played, first_s = step(command, "quickstart")
        verdict_s = time.perf_counter() - started
        shutil.copy(folder / "src/tunewright/data/embedded/support_tickets/train.csv",
                    folder / "tickets.csv")  # fmt: skip
        inited, _ = step(command, "init", "tickets.csv")
        trained, _ = step(command, "train", "recipe.yaml")
    record(
        "new_user",
        [
            at_most("minutes from an empty environment to the first verdict", verdict_s / 60, 10,
                    "min"),
            at_least("the README's commands that ended in 0, of 4",
                     sum(code == 0 for code in (installed, played, inited, trained)), 4),
        ],
        HARDWARE,
        {"install_s": round(install_s, 1), "quickstart_s": round(first_s, 1),
         "without": "the download of torch"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
