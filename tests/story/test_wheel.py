"""What `pip install tunewright` gives: the wheel, and a life begun from it in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# Too large to fetch for a test: a clean environment borrows these files from this one.
BORROWED = ("torch",)
INDEX_PROBE = "annotated-doc"


def pip(python, *words, timeout=280):
    return subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built from a copy, for a build leaves folders in its source."""
    place = tmp_path_factory.mktemp("wheel")
    names = ("src", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        if (REPO / name).is_dir():
            rubbish = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPO / name, place / "source" / name, ignore=rubbish)
        else:
            shutil.copy(REPO / name, place / "source" / name)
    done = pip(
        sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", str(place), str(place / "source"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = place.glob("tunewright-*.whl")
    return made


def clean_environment(folder):
    """An environment with pip and nothing else; gives its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def packages_of(python):
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True)
    return Path(told.stdout.strip())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    tree = {
        path.relative_to(REPO / "src").as_posix()
        for path in (REPO / "src" / "tunewright").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == tree
    for name in (
        "data/embedded/support_tickets/train.csv", "web/templates/pages/pages.css",
        "web/templates/report.html.j2", "model/kernels.c", "py.typed", "prices.py",
        "database/versions/v0001_jobs.py",
    ):  # fmt: skip
        assert f"tunewright/{name}" in held


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (meta,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(meta).decode()
        assert "License-Expression: Apache-2.0" in text
        assert "Requires-Python: >=3.11" in text
        assert any(name.endswith("licenses/LICENSE") for name in names)
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "tunewright = tunewright.cli.main:main" in archive.read(entry).decode()
    assert wheel.stat().st_size < 5_000_000


def play(python, folder):
    """A life from the installed command alone: check, doctor, plan, and the embedded rows."""
    command = python.with_name("tunewright")
    surroundings = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }

    def ask(*words, status=0):
        done = subprocess.run(
            [str(command), *words, "--json"], cwd=folder, env=surroundings, capture_output=True,
            text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == status or status is None, done.stderr
        return json.loads(done.stdout)

    assert ask("runs")["runs"] == []
    assert ask("jobs", "list", "--server", "server")["jobs"] == []  # migrations, from nothing
    assert {"name", "state"} <= set(ask("doctor", status=None)["checks"][0])
    assert ask("check", "embedded:support-tickets", "--html", "check.html")["findings"]
    assert "<html" in (folder / "check.html").read_text(encoding="utf-8")
    rows = "text,label\n" + "".join(
        f"where is parcel {n},delivery\nthe card {n} failed,card\n" for n in range(30)
    )
    (folder / "rows.csv").write_text(rows)
    ask("init", "rows.csv")
    short = ("--set", "training.max_steps=2", "--set", "evaluation.baselines=[majority]")
    ask("train", "recipe.yaml", "--run-dir", "runs/first", *short)
    assert (folder / "runs" / "first" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_life_begins_from_the_wheel_alone(wheel, tmp_path):
    """The wheel in an environment of its own; what it depends on is lent by this one."""
    python = clean_environment(tmp_path / "env")
    done = pip(python, "install", "--no-deps", "--no-index", str(wheel))
    assert done.returncode == 0, done.stdout + done.stderr
    lent = {str(Path(distribution(name).locate_file(""))) for name in ("torch", "typer", "peft")}
    (packages_of(python) / "lent.pth").write_text("\n".join(sorted(lent)) + "\n")
    where = subprocess.run(
        [str(python), "-I", "-c", "import tunewright.errors as e; print(e.__file__)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert where.stdout.startswith(str(tmp_path)), where.stdout + where.stderr
    (tmp_path / "work").mkdir()
    play(python, tmp_path / "work")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pip_installs_it_from_an_index(wheel, tmp_path):
    """`pip install` with all that it depends on, from the index that pip is set up for."""
    python = clean_environment(tmp_path / "env")
    probe = pip(python, "download", "--no-deps", "-q", "-d", str(tmp_path / "probe"), INDEX_PROBE)
    if probe.returncode != 0:
        pytest.skip("no package index can be reached from here")
    borrow(packages_of(python))
    pins = str(REPO / "constraints.txt")
    done = pip(python, "install", "-q", "-c", pins, str(wheel), timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    checked = pip(python, "check")
    assert "tunewright" not in checked.stdout, checked.stdout
    (tmp_path / "work").mkdir()
    play(python, tmp_path / "work")


def borrow(packages):
    """Link the files of BORROWED into an environment, so that pip sees them as installed."""
    for name in BORROWED:
        found = distribution(name)
        tops = {Path(file).parts[0] for file in found.files or () if ".." not in Path(file).parts}
        for top in tops - {"__pycache__", "bin"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
