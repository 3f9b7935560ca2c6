"""The documentation: it builds without a dead link, and what it shows can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tunewright.cli.main import app
from tunewright.config import field_help, parse_recipe

REPO = Path(__file__).parents[2]
TUTORIALS = REPO / "docs" / "tutorials"
PAGES = sorted([*(REPO / "docs").glob("*.md"), *TUTORIALS.glob("*.md"), REPO / "README.md"])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tunewright [^`]+)`")
PRICE_KEYS = ("device_hour", "kwh", "models", "tokens")
GROUP = typer.main.get_command(app)


def blocks(page, *languages):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def command_lines(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines()]
    shown = [line for line in map(str.strip, lines) if line.startswith("tunewright ")]
    return shown + INLINE.findall(BLOCK.sub("", text).replace("\n", " "))


def parse(command, arguments):
    """Walk down to the subcommand and parse its options; a wrong one raises."""
    nested = getattr(command, "commands", {})
    if nested and arguments and arguments[0] in nested:
        parse(nested[arguments[0]], arguments[1:])
        return
    assert not nested or not arguments or arguments[0].startswith("-"), arguments
    try:
        command.make_context("tunewright", list(arguments))
    except Exception as error:
        if type(error).__name__ != "MissingParameter":  # a command may be named by its name alone
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_shown_exists_with_its_options(page):
    for line in command_lines(page):
        words = shlex.split(
            line.replace("[", "").replace("]", "").replace("...", ""), comments=True
        )
        ends = [words.index(sign) for sign in (">", "&&", ";", "|") if sign in words]
        words = words[: min(ends, default=len(words))]
        if words[1:2] in (["COMMAND"], ["--install-completion"]):
            continue  # parsing the second would carry it out
        try:
            parse(GROUP, words[1:])
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_recipe_shown_is_one(page):
    for text in blocks(page, "yaml"):
        for part in separate(text):
            if part.partition(":")[0] not in PRICE_KEYS:
                parse_recipe(part, page.name)


def separate(text):
    """A block may show several ways to write one section, one below the other."""
    parts, seen = [[]], set()
    for line in text.splitlines():
        key = line.partition(":")[0] if line[:1].isalpha() else None
        if key and key in seen:
            parts.append([])
            seen = set()
        seen.add(key)
        parts[-1].append(line)
    return ["\n".join(lines) for lines in parts]


def test_every_recipe_key_says_what_it_means():
    assert not [key for key, text, _ in field_help() if not text.strip()]


def test_the_site_builds_without_a_dead_link(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path / "site")],
        cwd=REPO, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = (tmp_path / "site" / "reference" / "recipe.html").read_text(encoding="utf-8")
    assert not [key for key, _, _ in field_help() if f"<code>{key}</code>" not in recipe]
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', text), page


@pytest.mark.parametrize("line", ["train r.yaml --nope", "trian r.yaml", "plan r.yaml --device"])
def test_a_wrong_command_would_be_found(line):
    with pytest.raises(Exception, match=r"."):
        parse(GROUP, shlex.split(line))
