"""What is delivered with the code: image file, bill of materials, audit of dependencies."""

import json
import re
import runpy
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
DOCKER = (REPO / "Dockerfile").read_text(encoding="utf-8")


def instructions():
    """(instruction, rest) of every line of the Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKER).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def of(name):
    return [rest for kind, rest in instructions() if kind == name]


def test_the_image_starts_from_a_version_and_not_a_moving_name():
    for rest in of("FROM"):
        assert re.match(r"python:3\.\d+\.\d+-slim-\w+( AS \w+)?$", rest), rest
    assert re.match(r"python:(3\.\d+)", of("FROM")[0])[1] in ("3.11", "3.12", "3.13", "3.14")


def test_the_image_runs_as_nobody_special_and_can_write_only_its_volume():
    (user,) = of("USER")
    assert int(user) >= 1000
    kinds = [kind for kind, _ in instructions()]
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert "RUN" not in kinds[kinds.index("USER") :]
    assert of("VOLUME") == ["/data"] == of("WORKDIR")[-1:]
    places = dict(re.findall(r"(\w+)=(\S+)", of("ENV")[0]))
    assert places["HF_HOME"].startswith("/data/")
    assert places["TUNEWRIGHT_CACHE"].startswith("/data/")


def test_the_image_installs_what_is_pinned():
    runs = " ".join(of("RUN"))
    assert "-c /tmp/constraints.txt" in runs
    assert "grep '^torch=='" in runs
    assert "http" not in runs  # no index of anybody's is written into it
    for name in re.findall(r"^COPY ([\w. ]+) \./$", DOCKER, re.MULTILINE)[0].split():
        assert (REPO / name).exists()


def test_the_image_is_asked_for_its_health_on_a_route_without_a_key():
    from tunewright.api.guard import OPEN_PATHS

    (health,) = of("HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", health)
    assert path[2] in OPEN_PATHS
    assert of("EXPOSE") == [path[1]]
    code = json.loads(re.search(r"CMD (\[.*\])", health)[1])
    compile(code[2], "healthcheck", "exec")


def test_what_the_image_starts_is_a_command(tmp_path):
    import typer

    from tunewright.cli.main import app

    (entry,), (start,) = of("ENTRYPOINT"), of("CMD")
    assert json.loads(entry) == ["tunewright"]
    name, *options = json.loads(start)
    typer.main.get_command(app).commands[name].make_context(name, options)


def test_only_what_the_image_needs_is_sent_to_the_builder():
    kept = [line[1:] for line in (REPO / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = re.search(r"^COPY ([\w. ]+) \./$", DOCKER, re.MULTILINE)[1].split()
    assert set(kept) == {"src", *copied}


@pytest.fixture(scope="module")
def bill():
    return runpy.run_path(str(REPO / ".ci" / "sbom.py"))["make_bill"]()


def test_the_bill_of_materials_names_what_runs_with_version_and_licence(bill):
    from importlib.metadata import version

    found = {item["name"].lower(): item for item in bill["components"]}
    assert found["torch"]["version"] == version("torch")
    for name in ("transformers", "peft", "fastapi", "numpy", "starlette"):
        assert found[name]["purl"] == f"pkg:pypi/{name}@{found[name]['version']}"
    assert "pytest" not in found and "tunewright" not in found
    nameless = [name for name, item in found.items() if not item.get("licenses")]
    assert len(nameless) < len(found) / 5, nameless


def test_the_bill_of_materials_is_cyclonedx_and_the_same_every_time(bill):
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    text = json.dumps(bill)
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert runpy.run_path(str(REPO / ".ci" / "sbom.py"))["make_bill"]() == bill
    refs = {item["bom-ref"] for item in bill["components"]}
    for row in bill["dependencies"]:
        assert set(row["dependsOn"]) <= refs


HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"], "description": "x"}


@pytest.mark.parametrize(
    ("rows", "ignored", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], {}, 0, "1 packages audited"),
        ([{"name": "a", "version": "1", "vulns": [HOLE]}], {}, 1, "a 1: PYSEC-1 CVE-1; fixed in 2"),
        ([{"name": "a", "version": "1", "vulns": [HOLE]}], {"CVE-1": "unused"}, 0, "unused"),
        ([{"name": "a", "version": "1", "skip_reason": "not found"}], {}, 0, "SKIPPED"),
        ("no network", {}, 0, "SKIPPED, nothing was audited (no network)"),
    ],
)
def test_an_audit_fails_for_a_known_hole_and_says_when_it_did_not_happen(
    rows, ignored, status, said
):
    audit = runpy.run_path(str(REPO / ".ci" / "audit.py"))
    audit["IGNORED"].update(ignored)
    got, lines = audit["judge"]({"dependencies": rows} if isinstance(rows, list) else rows)
    assert got == status
    assert any(said in line for line in lines)
