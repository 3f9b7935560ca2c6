"""Pages of the documentation that are read off the code: recipe keys, commands, HTTP routes.

A hook of MkDocs. The pages exist only in the site, so they cannot fall behind the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

DECISIONS = Path(__file__).parent / "decisions"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    made = {
        "reference/recipe.md": recipe_page(),
        "reference/commands.md": commands_page(),
        "reference/http.md": http_page(),
        "decisions/index.md": decisions_page(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def recipe_page() -> str:
    """Every key of a recipe: default and meaning, section by section."""
    from tunewright.config import Recipe, field_help
    from tunewright.methods import METHODS

    lines = [
        "# The recipe",
        "",
        "A recipe is a YAML file. `tunewright init DATA` writes one with comments; only what "
        "differs from the defaults has to stand in it. An unknown key is an error that names the "
        "nearest right one. `auto` is worked out at the start of a run, which writes value and "
        "reason into the `recipe.yaml` of its folder. `--set section.key=value` overrides a key "
        "for one command.",
        "",
    ]
    sections: dict[str, list[tuple[str, str, Any]]] = {}
    for key, text, default in field_help():
        sections.setdefault(key.rpartition(".")[0], []).append((key, text, default))
    for section, rows in sections.items():
        kind: Any = Recipe
        for part in filter(None, section.split(".")):
            kind = kind.model_fields[part].annotation
        about = (kind.__doc__ or "").strip()
        lines += [f"## {section or 'Top level'}", "", " ".join(about.split()), ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{key}` | {_default(default)} | {_cell(text)} |" for key, text, default in rows
        ]
        lines.append("")
    lines += [
        "## Options of adapter methods",
        "",
        "They stand under `adapter:` beside `method`. See [Ways to adapt](../methods.md).",
        "",
        "| method | key | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        for key, info in method.options.model_fields.items():
            lines.append(
                f"| {name} | `{key}` | {_default(info.default)} | {_cell(info.description or '')} |"
            )
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its arguments, options and examples, as `--help` shows them."""
    import typer

    from tunewright.cli.main import app

    lines = ["# Commands", "", "What `tunewright COMMAND --help` prints.", ""]
    group = typer.main.get_command(app)
    for name, command in getattr(group, "commands", {}).items():
        lines += _command_lines(name, command, "##")
    return "\n".join(lines) + "\n"


def _command_lines(name: str, command: Any, level: str) -> list[str]:
    help_text = re.sub(r"[\b\x08]", "", command.help or "").strip()
    lines = [f"{level} {name}", "", "```text", help_text, "```", ""]
    for inner, nested in getattr(command, "commands", {}).items():
        lines += _command_lines(f"{name} {inner}", nested, level + "#")
    if getattr(command, "commands", None):
        return lines
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name_shown = parameter.metavar or parameter.name.upper()
            rows.append(f"| `{name_shown}` | {_cell(parameter.help or '')} |")
        elif parameter.name != "help":
            names = ", ".join(f"`{item}`" for item in parameter.opts)
            rows.append(f"| {names} | {_cell(parameter.help or '')} |")
    return [*lines, "| argument or option | meaning |", "|---|---|", *rows, ""]


def http_page() -> str:
    """Every route of the server, from its OpenAPI document."""
    document = _openapi()
    lines = [
        "# HTTP API",
        "",
        "`tunewright serve` speaks the API that the `openai` SDKs speak: point `base_url` to "
        "`http://127.0.0.1:8000/v1`. The running server describes itself at `/openapi.json`.",
        "",
        "| method | path | what it does |",
        "|---|---|---|",
    ]
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            text = (told.get("description") or told.get("summary") or "").split("\n\n")[0]
            lines.append(f"| {method.upper()} | `{path}` | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _openapi() -> dict[str, Any]:
    from fastapi import FastAPI

    from tunewright.api.app import ROUTERS

    app = FastAPI(title="Tunewright")
    for router in ROUTERS:
        app.include_router(router)
    return app.openapi()


def decisions_page() -> str:
    """The list of decisions, each by its first heading."""
    lines = ["# Decisions", "", "Why it is built so, where there was more than one good way.", ""]
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        number = path.name[:4]
        lines.append(f"- [{number}: {title.removeprefix(number + ': ')}]({path.name})")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if type(value).__name__ == "PydanticUndefinedType":
        return ""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
