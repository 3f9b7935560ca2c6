"""What is known about a base before a weight of it is loaded: size, licence, context, languages.

Three places know: the folder itself, the hub when it answers, and the built-in list of well-known
open bases below. What the hub says now wins over what the list remembers.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.model import safety
from tunewright.model.catalog import EMBEDDED, resolve_model

RECORDED = "2026-11-24"
LIST_SOURCE = f"built-in list, after the hub's model cards, recorded {RECORDED}"
HUB_TIMEOUT_S = 5.0
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "nf4": 0.56}
"""Four-bit weights carry their scales: half a byte and an eighth of that again."""


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """One base. None where nobody says: num_parameters, context_tokens (most tokens), licence.

    languages: ISO codes, "multilingual", or () where unknown. source: who says so, and when.
    """

    reference: str
    kind: str | None = None
    num_parameters: int | None = None
    context_tokens: int | None = None
    licence: str | None = None
    languages: tuple[str, ...] = ()
    chat_template: bool | None = None
    gated: bool = False
    remote_code: bool = False
    local: bool = False
    source: str = ""

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the weights alone by precision; {} where the size is unknown."""
        if self.num_parameters is None:
            return {}
        return {name: int(self.num_parameters * b) for name, b in BYTES_PER_WEIGHT.items()}


def read_facts(reference: str, *, live: bool = True) -> BaseFacts:
    """Everything known about a base without loading it. Raises ModelError where nobody knows it.

    live: ask the hub; a hub that does not answer is no error for a base of the built-in list.
    """
    embedded = EMBEDDED.get(reference.removeprefix("embedded:"))
    if reference.startswith("embedded:"):
        listed = KNOWN[embedded.hub_id] if embedded else BaseFacts(reference)
        path = resolve_model(reference).path
        return replace(listed, reference=reference, local=True, source=_folder_facts(path).source)
    path = Path(reference).expanduser()
    if path.exists():
        source = resolve_model(reference)
        ground = source.base or source
        return replace(_folder_facts(ground.path), reference=reference)
    remembered = KNOWN.get(reference)
    if not live:
        if remembered is None:
            raise ModelError(f"{reference}: no such folder, and not in the built-in list")
        return remembered
    try:
        return _hub_facts(reference, remembered)
    except ModelError:
        raise
    except Exception as error:  # the hub client raises many kinds
        if remembered is not None:
            return remembered
        raise ModelError(
            f"{reference}: no such folder, and the hub does not answer "
            f"({safety.first_line(error)}); check the network, or use a folder"
        ) from None


def _folder_facts(folder: Path) -> BaseFacts:
    config = safety.read_model_json(folder / "config.json")
    weights = safety.find_weights(folder)
    count = sum(
        math.prod(tensor["shape"])
        for file in weights
        for name, tensor in safety.read_header(file).items()
        if name != "__metadata__"
    )
    card = _card(folder / "README.md")
    return BaseFacts(
        reference=str(folder),
        kind=_kind(config),
        num_parameters=count,
        context_tokens=_context(config),
        licence=card.get("license") if isinstance(card.get("license"), str) else None,
        languages=_languages(card.get("language")),
        chat_template=_has_template(folder),
        remote_code=bool(config.get("auto_map")),
        local=True,
        source=f"{folder.name}: config.json and weights",
    )


def _hub_facts(reference: str, remembered: BaseFacts | None) -> BaseFacts:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, errors

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.model_info(
            reference, timeout=HUB_TIMEOUT_S,
            expand=["cardData", "config", "gated", "safetensors", "siblings", "lastModified"],
        )  # fmt: skip
    except errors.GatedRepoError:
        raise ModelError(
            f"{reference}: gated; accept its terms on the hub and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{reference}: no such folder and no such hub model; check the name, or set HF_TOKEN "
            "if it is private"
        ) from None
    card = dict(vars(info.card_data)) if info.card_data else {}
    config: Mapping[str, Any] = info.config or {}
    old = remembered or BaseFacts(reference)
    total = info.safetensors.total if info.safetensors else None
    licence = card.get("license")
    return BaseFacts(
        reference=reference,
        kind=old.kind or _kind(config),
        num_parameters=int(total) if total else old.num_parameters,
        context_tokens=_context(config) or old.context_tokens,
        licence=str(card.get("license_name") or licence) if licence else old.licence,
        languages=_languages(card.get("language")) or old.languages,
        chat_template=_hub_template(config, old),
        gated=bool(info.gated),
        remote_code=bool(config.get("auto_map")),
        source="the hub, just now",
    )


def _hub_template(config: Mapping[str, Any], old: BaseFacts) -> bool | None:
    tokenizer = config.get("tokenizer_config")
    if isinstance(tokenizer, Mapping) and tokenizer.get("chat_template"):
        return True
    return old.chat_template


def _kind(config: Mapping[str, Any]) -> str | None:
    names = " ".join(config.get("architectures") or ())
    if config.get("is_encoder_decoder") or "ConditionalGeneration" in names:
        return "encoder-decoder"
    if "CausalLM" in names or "LMHead" in names:
        return "decoder"
    return "encoder" if names else None


def _context(config: Mapping[str, Any]) -> int | None:
    for part in (config, config.get("text_config") or {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def _languages(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    path = folder / "tokenizer_config.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _card(path: Path) -> dict[str, Any]:
    """The YAML head of a model card; {} without one."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")[:20_000]
        head = re.match(r"\A---\n(.*?)\n---\n", text, re.DOTALL)
        values = yaml.safe_load(head.group(1)) if head else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def script_of(text: str) -> str:
    """The writing system of most letters: "latin", "cyrillic", "cjk", "arabic" ..., or ""."""
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            name = _script(ord(letter))
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda key: counts[key], default="")


def _script(code: int) -> str:
    return next((name for end, name in _SCRIPTS if code < end), "other")


# Ends of ranges of code points, coarse: enough to see that an English base cannot read a text.
_SCRIPTS = (
    (0x0370, "latin"), (0x0400, "greek"), (0x0530, "cyrillic"), (0x0590, "armenian"),
    (0x0600, "hebrew"), (0x0780, "arabic"), (0x0900, "other"), (0x0E00, "indic"), (0x0E80, "thai"),
    (0x1100, "other"), (0x1200, "cjk"), (0x1E00, "other"), (0x1F00, "latin"), (0x2000, "greek"),
    (0x2E80, "latin"), (0xFB00, "cjk"), (0xFB50, "latin"), (0xFE00, "arabic"), (0x10000, "cjk"),
)  # fmt: skip


def _make_known() -> dict[str, BaseFacts]:
    """The built-in list: hub id, kind, millions of parameters, context, licence, languages,
    chat template, gated.
    """
    en, many = ("en",), ("multilingual",)
    rows: tuple[tuple[str, str, float, int, str, tuple[str, ...], int, int], ...] = (
        ("sentence-transformers/all-MiniLM-L6-v2", "encoder", 22.7, 512, "apache-2.0", en, 0, 0),
        ("BAAI/bge-small-en-v1.5", "encoder", 33.4, 512, "mit", en, 0, 0),
        ("distilbert/distilbert-base-uncased", "encoder", 67.0, 512, "apache-2.0", en, 0, 0),
        ("google-bert/bert-base-uncased", "encoder", 110, 512, "apache-2.0", en, 0, 0),
        ("google-bert/bert-base-multilingual-cased", "encoder", 179, 512, "apache-2.0", many, 0, 0),
        ("FacebookAI/roberta-base", "encoder", 125, 512, "mit", en, 0, 0),
        ("FacebookAI/xlm-roberta-base", "encoder", 279, 512, "mit", many, 0, 0),
        ("microsoft/deberta-v3-small", "encoder", 142, 512, "mit", en, 0, 0),
        ("microsoft/deberta-v3-base", "encoder", 184, 512, "mit", en, 0, 0),
        ("microsoft/mdeberta-v3-base", "encoder", 280, 512, "mit", many, 0, 0),
        ("answerdotai/ModernBERT-base", "encoder", 150, 8192, "apache-2.0", en, 0, 0),
        ("answerdotai/ModernBERT-large", "encoder", 396, 8192, "apache-2.0", en, 0, 0),
        ("intfloat/multilingual-e5-small", "encoder", 118, 512, "mit", many, 0, 0),
        ("BAAI/bge-m3", "encoder", 568, 8192, "mit", many, 0, 0),
        ("google/flan-t5-small", "encoder-decoder", 77, 512, "apache-2.0", many, 0, 0),
        ("google/flan-t5-base", "encoder-decoder", 248, 512, "apache-2.0", many, 0, 0),
        ("openai-community/gpt2", "decoder", 124, 1024, "mit", en, 0, 0),
        ("HuggingFaceTB/SmolLM2-135M", "decoder", 135, 8192, "apache-2.0", en, 0, 0),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", "decoder", 362, 8192, "apache-2.0", en, 1, 0),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "decoder", 1711, 8192, "apache-2.0", en, 1, 0),
        ("Qwen/Qwen2.5-0.5B-Instruct", "decoder", 494, 32768, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen2.5-1.5B-Instruct", "decoder", 1544, 32768, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen2.5-7B-Instruct", "decoder", 7616, 32768, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen3-0.6B", "decoder", 752, 40960, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen3-1.7B", "decoder", 2032, 40960, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen3-4B", "decoder", 4022, 40960, "apache-2.0", many, 1, 0),
        ("Qwen/Qwen3-8B", "decoder", 8191, 40960, "apache-2.0", many, 1, 0),
        ("meta-llama/Llama-3.2-1B-Instruct", "decoder", 1236, 131072, "llama3.2", many, 1, 1),
        ("meta-llama/Llama-3.2-3B-Instruct", "decoder", 3213, 131072, "llama3.2", many, 1, 1),
        ("meta-llama/Llama-3.1-8B-Instruct", "decoder", 8030, 131072, "llama3.1", many, 1, 1),
        ("mistralai/Mistral-7B-Instruct-v0.3", "decoder", 7248, 32768, "apache-2.0", en, 1, 0),
        ("google/gemma-3-270m-it", "decoder", 268, 32768, "gemma", many, 1, 1),
        ("google/gemma-3-1b-it", "decoder", 1000, 32768, "gemma", many, 1, 1),
        ("microsoft/Phi-4-mini-instruct", "decoder", 3836, 131072, "mit", many, 1, 0),
        ("allenai/OLMo-2-0425-1B-Instruct", "decoder", 1485, 4096, "apache-2.0", en, 1, 0),
    )
    return {
        name: BaseFacts(
            name, kind, int(millions * 1e6), context, licence, languages, bool(template),
            bool(gated), source=LIST_SOURCE,
        )
        for name, kind, millions, context, licence, languages, template, gated in rows
    }  # fmt: skip


KNOWN = _make_known()
