"""The recipe: its sections, reading, overriding, writing. Imported without torch.

A field is documented once, under the field. Unknown keys are errors that name the nearest right
one. "auto" means that a later stage derives the value and records the reason (records.Derived).
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tunewright.aims import DistillSection, GraderSection, GrpoSection
from tunewright.errors import RecipeError
from tunewright.methods import ALIASES, METHODS, SHARED_KEYS, Options
from tunewright.records import Derived
from tunewright.sections import (
    PREFERENCE_OPTIONS,
    UNSMOOTHED,
    Auto,
    BudgetSection,
    BusinessSection,
    DataSection,
    EmbeddingSection,
    EvaluationSection,
    HostedSection,
    KeepSection,
    PreferenceSection,
    RetuneSection,
    Section,
    TrainingSection,
    WatchSection,
    check_provider,
    is_url,
)
from tunewright.yaml_text import apply_override, dump_yaml, load_yaml

MAX_RECIPE_BYTES = 1_000_000
# What other tools call our keys; an unknown key that stands here is answered with ours.
PEERS_NAMES = {
    "lora_r": "adapter.r",
    "rank": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target_modules": "adapter.target_modules",
    "lora_target": "adapter.target_modules",
    "finetuning_type": "adapter.method",
    "load_in_4bit": "adapter.quantization",
    "load_in_8bit": "adapter.quantization",
    "quantization_bit": "adapter.quantization",
    "use_dora": "adapter.dora",
    "peft_use_dora": "adapter.dora",
    "use_rslora": "adapter.rslora",
    "peft_use_rslora": "adapter.rslora",
    "loraplus_lr_ratio": "adapter.b_rate_ratio",
    "lora_modules_to_save": "adapter.modules_to_save",
    "freeze_trainable_layers": "adapter.train_layers",
    "neftune_noise_alpha": "training.neftune_alpha",
    "rl": "objective",
    "rl_beta": "preference.beta",
    "pref_beta": "preference.beta",
    "model": "base_model",
    "model_name_or_path": "base_model",
    "dataset": "data.train",
    "datasets": "data.train",
    "dataset_name": "data.train",
    "val_set_size": "data.validation",
    "val_size": "data.validation",
    "lr": "training.learning_rate",
    "epochs": "training.num_epochs",
    "n_epochs": "training.num_epochs",
    "num_train_epochs": "training.num_epochs",
    "micro_batch_size": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "sequence_len": "training.max_length",
    "cutoff_len": "training.max_length",
    "max_seq_length": "training.max_length",
    "sample_packing": "training.packing",
    "lr_scheduler_type": "training.lr_scheduler",
    "early_stopping_steps": "training.early_stopping_patience",
    "report_to": "training.trackers",
}


class AdapterSection(Section):
    """What is trained: all weights, or an addition to frozen ones. Options of the one method that
    is chosen (methods.py) stand here too, and are checked against it."""

    model_config = ConfigDict(extra="allow")

    method: str = "auto"
    """auto: full for small encoders, lora otherwise. Others: see docs/methods.md."""
    r: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """Rank of the low-rank addition."""
    alpha: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Scale: the addition is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the input of the addition."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """all-linear; or names (ends of module paths), patterns with *, or re:REGEX of whole paths."""
    exclude_modules: str | tuple[str, ...] = ()
    """Names or patterns, as above, of modules that stay as they are."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained and saved whole beside the addition."""
    new_tokens: tuple[str, ...] = ()
    """Tokens to add to the tokenizer; their embeddings are learned."""
    quantization: Literal["none", "nf4", "int8"] | Auto = "auto"
    """Precision in which frozen weights are held; auto: nf4 for qlora and loftq, else none."""

    @model_validator(mode="after")
    def _options_belong_to_method(self) -> Self:
        check_options(self)
        return self

    @property
    def options(self) -> Options:
        """The chosen method's own options, defaults filled in."""
        kind = METHODS[self.method].options
        extra = (self.__pydantic_extra__ or {}).items()
        return kind.model_validate({k: v for k, v in extra if k in kind.model_fields})

    @property
    def held_in(self) -> str:
        """Precision of frozen weights: none, nf4 or int8."""
        if self.quantization != "auto":
            return self.quantization
        return METHODS[self.method].quantization if self.method in METHODS else "none"


def check_options(adapter: AdapterSection) -> None:
    """Raise an error that names the key unless everything that is set belongs to the method."""
    name, extra = adapter.method, dict(adapter.__pydantic_extra__ or {})
    if name == "auto":
        if extra:
            key = next(iter(extra))
            if not any(key in item.options.model_fields for item in METHODS.values()):
                _unknown_option(key, list(SHARED_KEYS))
            _wrong_option(key, "belongs to one method; set adapter.method as well")
        return
    if name not in METHODS:
        near = ALIASES.get(name) or next(iter(difflib.get_close_matches(name, METHODS, n=1)), None)
        hint = f"did you mean {near}? " if near else ""
        _wrong_option("method", f"is {name!r}; {hint}there are auto, {', '.join(METHODS)}")
    method = METHODS[name]
    own = method.options.model_fields
    for key in extra:
        if key in own:
            continue
        takers = [other for other, item in METHODS.items() if key in item.options.model_fields]
        if takers:
            _wrong_option(key, f"is an option of {', '.join(takers)}, not of {name}; take it out")
        known = [*own, *(k for k in SHARED_KEYS if k in method.takes)]
        _unknown_option(key, known)
    for key in SHARED_KEYS:
        default = AdapterSection.model_fields[key].default
        value = getattr(adapter, key)
        if (key, value) == _NOT_HELD or (method.weights and key in _SWITCHED_OFF):
            continue
        if key not in method.takes and value != default:
            _wrong_option(key, f"means nothing for method {name}; take it out")
    try:
        method.options.model_validate(extra)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "method"
        _wrong_option(key, f"is {first['input']!r:.80}; {_wish(first)}")


_NOT_HELD = ("quantization", "none")
# A recipe for an adapter becomes one for full tuning by its method alone.
_SWITCHED_OFF = frozenset({"r", "alpha", "dropout", "target_modules"})


def _wrong_value(key: str, text: str) -> NoReturn:
    raise PydanticCustomError("adapter_option", "{text}", {"key": key, "text": text})


def _wrong_option(key: str, message: str) -> NoReturn:
    raise PydanticCustomError("adapter_option", "{text}", {"key": f"adapter.{key}",
                              "text": f"adapter.{key} {message}"})  # fmt: skip


def _unknown_option(key: str, known: list[str]) -> NoReturn:
    if key in PEERS_NAMES:
        hint = f"here it is called {PEERS_NAMES[key]}"
    else:
        near = difflib.get_close_matches(key, [*known, "method"], n=1, cutoff=0.5)
        elsewhere = [name for name, _, _ in field_help() if name.split(".")[-1] == key]
        hint = f"did you mean {(elsewhere or near)[0]}?" if elsewhere or near else ""
        hint = hint or f"known here: {', '.join(['method', *known])}"
    text = f"unknown key adapter.{key}; {hint}"
    raise PydanticCustomError("adapter_option", "{text}", {"key": f"adapter.{key}", "text": text})


class Knob(Section):
    """What one recipe key may take in a search: a range, or a list of choices."""

    low: float | None = None
    """The least value of a range."""
    high: float | None = None
    """The largest value of a range."""
    log: bool = False
    """Search the range by its logarithm."""
    step: float | None = Field(default=None, gt=0)
    """Values lie this far apart; for whole numbers 1."""
    whole: bool = False
    """Whole numbers only."""
    choices: tuple[str | int | float | bool | None, ...] = ()
    """The values to choose from, in place of a range."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if bool(self.choices) == ranged or (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must lie below high")
        if self.log and (self.low is None or self.low <= 0 or self.step):
            raise ValueError("log wants low above 0 and no step")
        return self


class SearchSection(Section):
    """What `search` may vary, and for how long."""

    space: dict[str, Knob] = Field(default_factory=dict)
    """Recipe keys and what each may take: training.learning_rate: {low, high, log}."""
    trials: int = Field(default=20, ge=1)
    """Trainings that are begun at most."""
    promotion: Literal["asha", "hyperband", "none"] = "asha"
    """Which trials go on to more rows; by extrapolated score, never by the pilot's own."""
    storage: str | None = None
    """A database of the study, sqlite:///FILE or postgresql://...; default: in the folder."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How the next trial is drawn."""

    @field_validator("space")
    @classmethod
    def _known_keys(cls, space: dict[str, Knob]) -> dict[str, Knob]:
        for key in space:
            section, _, name = key.partition(".")
            sections: dict[str, type[Options]] = {
                "training": TrainingSection,
                "adapter": AdapterSection,
            }
            known = sections.get(section)
            if known is None or name not in known.model_fields:
                raise ValueError(
                    f"{key} cannot be searched; use a key of training or adapter, such as "
                    "training.learning_rate"
                )
        return space


class Recipe(Section):
    """A complete run. Written by `tunewright init`, read by every command."""

    task: Literal["classify", "tag", "regress", "generate", "chat", "continue", "embed"] | None = (
        None
    )
    """What is learned; found from the data where it is clear."""
    objective: Literal[
        "supervised", "dpo", "ipo", "orpo", "simpo", "kto", "reward", "distill", "grpo"
    ] = "supervised"
    """How it is learned: from answers, from better and worse ones (chosen, rejected), from a larger
    model (distill), or from what graders say of its own answers (grpo). See docs/objectives.md."""
    provider: str = "here"
    """Who trains: here, openai, google, or the URL of an OpenAI-compatible server."""
    base_model: Annotated[str, Field(min_length=1)] = "embedded:minilm"
    """Hub id, folder, or embedded:NAME; a list of them is for `choose`."""
    candidates: tuple[str, ...] = ()
    """Bases to choose from: what a list under base_model becomes."""
    base_revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run code that a model repository brings along. Leave it off."""
    data: DataSection = DataSection()
    adapter: AdapterSection = AdapterSection()
    preference: PreferenceSection = PreferenceSection()
    embedding: EmbeddingSection = EmbeddingSection()
    distill: DistillSection = DistillSection()
    grpo: GrpoSection = GrpoSection()
    graders: tuple[GraderSection, ...] = ()
    """What grades answers: the reward of grpo, and the metric `reward` of tasks that write."""
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    hosted: HostedSection = HostedSection()
    budget: BudgetSection = BudgetSection()
    business: BusinessSection = BusinessSection()
    search: SearchSection | None = None
    """What `search` may vary; null: its usual space."""
    watch: WatchSection = WatchSection()
    retune: RetuneSection = RetuneSection()
    keep: KeepSection = KeepSection()

    @model_validator(mode="before")
    @classmethod
    def _null_sections(cls, values: Any) -> Any:
        """`watch: null` and `retune: null`, as earlier runs wrote them, mean the defaults."""
        if not isinstance(values, dict):
            return values
        empty = [key for key in ("watch", "retune") if key in values and values[key] is None]
        return {key: value for key, value in values.items() if key not in empty}

    @model_validator(mode="before")
    @classmethod
    def _list_of_bases(cls, values: Any) -> Any:
        """`base_model: [a, b]` as candidates, the first standing for the base."""
        if isinstance(values, dict) and isinstance(values.get("base_model"), (list, tuple)):
            names = list(values["base_model"])
            if not names:
                raise ValueError("base_model is an empty list; name at least one base")
            return {**values, "base_model": names[0], "candidates": names}
        return values

    @model_validator(mode="after")
    def _preference_fits_objective(self) -> Self:
        for name, value in self.preference.model_dump().items():
            takers = PREFERENCE_OPTIONS[name]
            if value is not None and self.objective not in takers:
                text = (
                    f"preference.{name} is for objective {', '.join(takers)}; "
                    f"here it is {self.objective}"
                )
                _wrong_value(f"preference.{name}", text)
        if self.objective != "supervised" and self.task not in (None, "generate", "chat"):
            text = f"objective {self.objective} is about written answers; task is {self.task}"
            raise PydanticCustomError(
                "adapter_option", "{text}", {"key": "objective", "text": text}
            )
        return self

    @model_validator(mode="after")
    def _smoothing_fits_objective(self) -> Self:
        key, triplet = "training.label_smoothing", self.embedding.loss == "triplet"
        what = next((name for name, here in (
            (f"objective {self.objective}", self.objective in UNSMOOTHED),
            ("task regress", self.task == "regress"),
            ("embedding.loss triplet", self.task == "embed" and triplet),
        ) if here), None)  # fmt: skip
        if self.training.label_smoothing and what:
            _wrong_value(key, f"{key} means nothing for {what}; take it out")
        return self

    @model_validator(mode="after")
    def _has_what_objective_needs(self) -> Self:
        if self.objective == "distill" and not self.distill.teacher:
            _wrong_value("distill.teacher", "objective distill needs distill.teacher: a larger "
                         "model's folder, hub id or URL")  # fmt: skip
        if self.objective == "distill" and is_url(self.distill.teacher):
            if not self.distill.model:
                _wrong_value("distill.model", "a server needs distill.model, the name it knows")
            if self.distill.learn == "logits":
                _wrong_value("distill.learn", "a server gives answers, not logits; leave it out")
        if self.objective == "grpo" and not any(g.weight > 0 for g in self.graders):
            _wrong_value(
                "graders",
                "objective grpo needs graders, such as [{type: string_check}]; see "
                "docs/objectives.md",
            )
        return self

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        return check_provider(value)


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a YAML recipe, apply `a.b=c` overrides, check every key and value.

    Relative data and model paths are taken from the recipe's own folder when they exist there.
    Raises RecipeError with file, line where known, key and remedy.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        message = f"{path}: no such recipe; make one with `tunewright init DATA`"
        raise RecipeError(message) from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return parse_recipe(text, str(path), overrides, folder=path.parent)


def parse_recipe(
    text: str | bytes, place: str, overrides: Iterable[str] = (), folder: Path | None = None
) -> Recipe:
    """Parse recipe text; `place` names it in messages. Raises RecipeError."""
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{place}: larger than {MAX_RECIPE_BYTES} bytes; is this a recipe?")
    lines: dict[str, int] = {}
    values = load_yaml(text, place, lines)
    places = {key: f"{place}:{line}" for key, line in lines.items()}
    for override in overrides:
        apply_override(values, override)
        key = override.partition("=")[0].strip()
        places[key] = f"--set {key}"
        places.setdefault(key.split(".")[0], f"--set {key}")
    recipe = make_recipe(values, place, places)
    return _resolve_paths(recipe, folder) if folder else recipe


def make_recipe(
    values: Mapping[str, Any], place: str = "recipe", places: Mapping[str, str] | None = None
) -> Recipe:
    """Check plain values against the schema. Raises RecipeError naming the first wrong key.

    places: where each dotted key was given; `place` stands for the others.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(error, place, places or {})) from None


def dump_recipe(recipe: Recipe, derived: Iterable[Derived] = ()) -> str:
    """YAML of the whole recipe, each derived value followed by its reason as a comment."""
    reasons = {item.key: item.reason for item in derived}
    out = io.StringIO()
    dump_yaml(recipe.model_dump(mode="json"), "", reasons, out)
    return out.getvalue()


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A copy with dotted keys replaced: {"training.learning_rate": 2e-4}. Raises RecipeError."""
    plain = recipe.model_dump()
    for key, value in values.items():
        *path, last = key.split(".")
        section = plain
        for part in path:
            section = section[part]
        section[last] = value
    return make_recipe(plain)


def field_help(section: type[Options] = Recipe, prefix: str = "") -> list[tuple[str, str, Any]]:
    """(dotted key, help, default) of every recipe key, for `--help`, docs and `init`."""
    rows: list[tuple[str, str, Any]] = []
    for name, info in section.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Options):
            rows += field_help(inner, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, info.description or "", info.default))
    return rows


def _explain(error: ValidationError, place: str, places: Mapping[str, str]) -> str:
    problem = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    if problem["type"] == "adapter_option":
        key = str(problem["ctx"]["key"])
        return f"{places.get(key, place)}: {problem['msg']}"
    location = [str(part) for part in problem["loc"]]
    key_path = _real_keys(location)
    key = ".".join(key_path)
    where = places.get(key, place)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(key_path[:-1])
        near = difflib.get_close_matches(key_path[-1], known, n=1, cutoff=0.5)
        everywhere = [name for name, _, _ in field_help() if name.split(".")[-1] == key_path[-1]]
        if key_path[-1] in PEERS_NAMES:
            hint = f"here it is called {PEERS_NAMES[key_path[-1]]}"
        elif everywhere:
            hint = f"did you mean {everywhere[0]}?"
        elif near:
            hint = f"did you mean {near[0]}?"
        else:
            hint = f"known here: {', '.join(known)}"
        return f"{where}: unknown key {key}; {hint}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        keys = ", ".join(_known_keys(key_path))
        return f"{where}: {key} is a section; give it keys: {keys}"
    same_key = [p for p in error.errors() if _real_keys([str(x) for x in p["loc"]]) == key_path]
    wishes = "; or ".join(dict.fromkeys(_wish(item) for item in same_key))
    value = repr(problem["input"])
    return f"{where}: {key} is {value[:80]}; {wishes}"


def _wish(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _real_keys(location: list[str]) -> list[str]:
    """Drop pydantic's own path parts (union branches) from an error's location."""
    keys: list[str] = []
    section: type[Options] | None = Recipe
    named: type[Options] | None = None
    for part in location:
        if section is None:
            break
        keys.append(part)
        if named is not None:  # a name that the user chose, then the keys of what it stands for
            section, named = named, None
            continue
        info = section.model_fields.get(part)
        section, named = _section_of(info.annotation if info else None)
        section = section or (named and Section)
    return keys


def _section_of(annotation: Any) -> tuple[type[Options] | None, type[Options] | None]:
    """(section, None) of a section, also where it may be null; (None, section) of a table of them.

    A table holds sections under names that the user chooses.
    """
    if get_origin(annotation) is dict:
        inner = get_args(annotation)[1]
        return None, inner if isinstance(inner, type) and issubclass(inner, Options) else None
    for inner in (annotation, *get_args(annotation)):
        if isinstance(inner, type) and issubclass(inner, Options):
            return inner, None
    return None, None


def _known_keys(path: list[str]) -> list[str]:
    section: Any = Recipe
    named: type[Options] | None = None
    for part in path:
        if named is not None:
            section, named = named, None
            continue
        found, named = _section_of(section.model_fields[part].annotation)
        section = found or section
    return list(section.model_fields)


def _resolve_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Take relative paths from the recipe's folder when they exist there and not here."""
    changes: dict[str, Any] = {}
    candidates = {
        "base_model": recipe.base_model,
        "data.train": recipe.data.train,
        "data.validation": recipe.data.validation,
        "data.test": recipe.data.test,
        "data.chat_template": recipe.data.chat_template,
        "business.prices": recipe.business.prices,
    }
    for key, value in candidates.items():
        if not isinstance(value, str) or len(value) > 4000 or "\n" in value:
            continue
        beside = folder / value
        if not Path(value).exists() and beside.exists():
            changes[key] = str(beside)
    for name, item in recipe.evaluation.beside.items():
        if item.run and not Path(item.run).exists() and (folder / item.run).exists():
            changes[f"evaluation.beside.{name}.run"] = str(folder / item.run)
    if any(not Path(name).exists() and (folder / name).exists() for name in recipe.candidates):
        changes["candidates"] = tuple(
            str(folder / name) if not Path(name).exists() and (folder / name).exists() else name
            for name in recipe.candidates
        )
    return with_values(recipe, changes) if changes else recipe
