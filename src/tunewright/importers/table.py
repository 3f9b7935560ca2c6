"""Which tool a config belongs to, and its recipe with the fate of every key.

To add a tool: a file beside this one with `import_x(values, draft)`, and one line in IMPORTERS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tunewright.config import Recipe, make_recipe
from tunewright.errors import RecipeError
from tunewright.importers.autotrain import import_autotrain
from tunewright.importers.axolotl import import_axolotl
from tunewright.importers.draft import Draft, Fate
from tunewright.importers.llamafactory import import_llamafactory, read_dataset_info
from tunewright.importers.openai_job import import_openai
from tunewright.importers.torchtune import import_torchtune
from tunewright.importers.trl import COMMAND, import_trl, read_command
from tunewright.importers.unsloth import import_unsloth

MAX_BYTES = 1_000_000
MAX_ALIASES = 50
ORDER = ("task", "objective", "provider", "base_model", "base_revision", "data", "adapter")


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe made from another tool's config.

    fates: one entry for each key of the config, in its order.
    run_dir: where the other tool wrote its output, for --run-dir; None where it was not said.
    """

    tool: str
    recipe: Recipe
    values: Mapping[str, Any]
    fates: tuple[Fate, ...]
    run_dir: str | None

    @property
    def left(self) -> tuple[Fate, ...]:
        """Keys that were not carried over."""
        return tuple(fate for fate in self.fates if fate.outcome == "not carried")


def import_config(
    path: Path, tool: str | None = None, dataset_info: Path | None = None
) -> Imported:
    """Read a config of another tool and make a recipe of it.

    tool: a key of IMPORTERS; None finds it out. dataset_info: LLaMA-Factory's dataset_info.json,
    looked for beside the config where it is not given.
    Raises RecipeError with place and remedy: unreadable, unknown tool, or a value that no recipe
    can hold.
    """
    if tool is not None and tool not in IMPORTERS:
        raise RecipeError(f"--from {tool}: unknown; use one of {', '.join(IMPORTERS)}")
    text = _read(path)
    values = _parse(text, path, tool)
    tool = tool or find_tool(values, str(path))
    draft = Draft()
    if tool == "llamafactory":
        info = dataset_info or read_dataset_info(path.parent)
        import_llamafactory(values, draft, _parse_json(info) if info else None)
    else:
        IMPORTERS[tool](values, draft)
    recipe = _settle(draft, f"{path} (as {tool})")
    return Imported(tool, recipe, draft.nested(), tuple(draft.fates), draft.run_dir)


def _settle(draft: Draft, place: str) -> Recipe:
    """The recipe, after taking back what it cannot hold: those keys are listed with the reason."""
    while True:
        try:
            return Recipe.model_validate(draft.nested())
        except ValidationError as error:
            key, reason = _refused(draft, error)
            if key is None:
                return make_recipe(draft.nested(), place)  # raises with place and remedy
            draft.take_back(key, reason)


def _refused(draft: Draft, error: ValidationError) -> tuple[str | None, str]:
    """The key of the draft that the first fault is about, and what is wrong with it."""
    for problem in error.errors():
        named = str((problem.get("ctx") or {}).get("key") or "")
        location = ".".join(str(part) for part in problem["loc"])
        for key in sorted(draft.values, key=len, reverse=True):
            if key == named or f"{location}.".startswith(f"{key}."):
                message = str(problem["msg"]).removeprefix("Value error, ")
                return key, message[0].lower() + message[1:]
    return None, ""


def write_imported(imported: Imported, source: str) -> str:
    """YAML of the recipe: only what was carried over, and what was not as comments."""
    lines = [f"# From {source}, a config of {imported.tool}."]
    ordered = sorted(
        imported.values, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER)
    )
    for key in ordered:
        text = yaml.safe_dump({key: imported.values[key]}, sort_keys=False, allow_unicode=True)
        lines.append(text.rstrip())
    if imported.run_dir:
        lines.append(f"# output: give --run-dir {one_line(imported.run_dir)}")
    if imported.left:
        lines.append("# Not carried over:")
    lines += [f"#   {fate.key}: {one_line(fate.value)}  ({fate.note})" for fate in imported.left]
    return "\n".join(lines) + "\n"


def find_tool(values: Mapping[str, Any], place: str) -> str:
    """The tool whose keys these are. Raises RecipeError where no tool knows them."""
    for tool, signs in SIGNS:
        if signs(values):
            return tool
    raise RecipeError(
        f"{place}: no tool's config is known by these keys; say --from {', '.join(IMPORTERS)}"
    )


def one_line(value: Any) -> str:
    """A value on one line, shortened."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes; is this a config?")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not text in UTF-8; is this a config?") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _parse(text: str, path: Path, tool: str | None) -> dict[str, Any]:
    """Keys and values of YAML, JSON, or a command line."""
    if path.suffix in (".sh", ".txt", ".bash") or text.lstrip().startswith(("trl ", "#!")):
        return read_command(text, str(path))
    try:
        _check_aliases(text, path)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}: not valid YAML ({problem}); mend it there first") from None
    if isinstance(values, str):
        return read_command(text, str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        kind = type(values).__name__
        raise RecipeError(f"{path}: a config is a table of keys, this is {kind}")
    return values


def _check_aliases(text: str, path: Path) -> None:
    """Some configs repeat a value by an alias; very many of them are an expansion bomb."""
    if sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)) > MAX_ALIASES:
        raise RecipeError(f"{path}: too many aliases; write the values out")


def _parse_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a dataset_info.json is a table of data sets")
    return values


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda values: any(name in values for name in names)


def _is_torchtune(values: Mapping[str, Any]) -> bool:
    return any(isinstance(item, Mapping) and "_component_" in item for item in values.values())


def _is_unsloth(values: Mapping[str, Any]) -> bool:
    training = values.get("training")
    return isinstance(training, Mapping) and ("lora" in values or "training_type" in training)


def _is_axolotl(values: Mapping[str, Any]) -> bool:
    own = _has("sequence_len", "micro_batch_size", "val_set_size", "pretraining_dataset")
    return own(values) or ("base_model" in values and isinstance(values.get("datasets"), list))


# Tried in this order; the first that fits is the tool.
SIGNS: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("torchtune", _is_torchtune),
    ("openai", _has("training_file", "fine_tuned_model")),
    ("unsloth", _is_unsloth),
    ("autotrain", lambda values: "task" in values and ("params" in values or "backend" in values)),
    ("trl", _has(COMMAND)),
    ("llamafactory", _has("stage", "finetuning_type", "cutoff_len", "dataset_dir")),
    ("axolotl", _is_axolotl),
    ("trl", _has("model_name_or_path", "dataset_name")),
)
IMPORTERS: dict[str, Callable[[Mapping[str, Any], Draft], None]] = {
    "axolotl": import_axolotl,
    "llamafactory": import_llamafactory,
    "trl": import_trl,
    "autotrain": import_autotrain,
    "unsloth": import_unsloth,
    "torchtune": import_torchtune,
    "openai": import_openai,
}
