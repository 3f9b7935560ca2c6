"""Tuned models on disk: PEFT adapters or full weights, safetensors only, whole or not at all.

A saved folder loads with plain transformers or PEFT. Beside it lies tunewright.json: the task, the
labels, and the base with its SHA-256, so that an adapter never ends up on other weights.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tunewright.errors import DiskFull, ModelError, TunewrightError
from tunewright.methods import METHODS
from tunewright.model import safety
from tunewright.model.adapters.lora import as_plain_lora
from tunewright.model.adapters.prompts import is_prompt, put_before_input
from tunewright.model.catalog import MANIFEST, ModelSource, resolve_model
from tunewright.model.device import is_out_of_memory
from tunewright.model.embed import save_modules
from tunewright.model.load import Base, load_source, quiet
from tunewright.model.manifest import FORMAT, check_tensors, checked_manifest, does_not_fit
from tunewright.model.peft_quietly import peft
from tunewright.model.quantize import is_packed, without_packing
from tunewright.store import naming_disk_errors, sync_folder, write_json

_PREFIX = "base_model.model."


def save_tuned(
    base: Base,
    folder: Path,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the tuned model to `folder`, replacing what was there; aside first, then renamed.

    state: tensors by parameter name (as adapters.trainable_parameters gives them) to save in place
    of the model's own, such as the best or averaged ones. extra: more entries for tunewright.json.
    Raises DiskFull or RunError; what was in `folder` before is then still there.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with naming_disk_errors(folder), _naming_full_disks(folder), quiet():
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            method = _save_weights(base, temporary, _full_state(base.model, state or {}))
            base.tokenizer.save_pretrained(temporary)
            _save_generation_config(base.plain, temporary)
            if base.task == "embed":
                save_modules(base, temporary, extra or {})
            write_json(temporary / MANIFEST, _manifest(base, temporary, method, extra or {}))
            _sync_files(temporary)
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def load_tuned(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attn: str = "sdpa",
    trust_remote_code: bool = False,
) -> Base:
    """Load a tuned model, adapter or full, in eval mode; a run folder will do.

    Folders made elsewhere load too where their config tells the task. Raises ModelError when the
    weights were damaged, when the base is not the one the adapter was trained on, or when tensors
    are missing.
    """
    source = resolve_model(str(folder), trust_remote_code=trust_remote_code)
    manifest = checked_manifest(source)
    known = manifest or _guess(source)
    base = load_source(
        source, task=known["task"], labels=known["labels"], multi_label=known["multi_label"],
        device=device, dtype=dtype, attn=attn, trust_remote_code=trust_remote_code, merge=False,
        quantization=str(known.get("quantization", "none")) if source.is_adapter else "none",
    )  # fmt: skip
    if source.is_adapter:
        base.model = _put_adapter(base.model, source).eval()
        if base.quantization == "none":
            base.model = base.model.to(device)
        method = known.get("method")
        base.adapter, base.fresh = method if method in METHODS else "lora", ()
        if is_prompt(base.model):
            put_before_input(base.model)
    else:
        base.adapter = "full"
    base.default_template = bool(known.get("default_template", False))
    return base


def merged_state(
    model: Any, state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Weights with the adapter folded in, under the names of the plain model.

    Computed in float32 and rounded once to the weight's own dtype; the model is not changed.
    Raises ModelError for methods that no plain weights can stand for.
    """
    full = without_packing(_full_state(model, state or {}), model)
    if is_prompt(model):
        raise ModelError(
            "merge: vectors before the input cannot be folded into weights; keep the adapter, or "
            "tune with lora"
        )
    if not _is_plain_lora(model):
        return _merged_by_peft(model, full)
    out: dict[str, torch.Tensor] = {}
    for name, tensor in full.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        out[plain.replace(".modules_to_save.default.", ".")] = tensor
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer) and "default" in module.lora_A:
            down = full[f"{_PREFIX}{name}.lora_A.default.weight"].float()
            up = full[f"{_PREFIX}{name}.lora_B.default.weight"].float()
            delta = (up @ down) * module.scaling["default"]
            if getattr(module, "fan_in_fan_out", False):
                delta = delta.T
            weight = out[f"{name}.weight"]
            out[f"{name}.weight"] = (weight.float() + delta).to(weight.dtype)
    return out


def _is_plain_lora(model: Any) -> bool:
    """W + scale B A on linear layers, and nothing else."""
    config = model.peft_config["default"]
    if config.peft_type != peft.PeftType.LORA or config.use_dora:
        packed = any(is_packed(module) for module in model.modules())
        if packed:
            raise ModelError(
                "merge: DoRA on a quantised base cannot be folded in; keep the adapter, or tune "
                "with qlora"
            )
        return False
    return not config.trainable_token_indices


def _merged_by_peft(model: Any, full: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    whole = copy.deepcopy(model).float()
    whole.load_state_dict({name: tensor.float() for name, tensor in full.items()}, strict=False)
    merged = whole.merge_and_unload()
    kinds = {n: p.dtype for n, p in model.get_base_model().state_dict().items()}
    out = dict(merged.state_dict())
    for name, tensor in out.items():
        kind = kinds.get(name) or next(
            (k for n, k in kinds.items() if n.replace(".base_layer.", ".") == name), None
        )
        out[name] = tensor.to(kind) if kind is not None and kind.is_floating_point else tensor
    return out


def _full_state(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's tensors with `state` in place of its own, under every name of tied ones."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    aliases = {name: group for group in names.values() for name in group}
    full = dict(model.state_dict())
    for name, tensor in state.items():
        assert name in aliases, f"{name} is not a parameter of this model"
        full.update(dict.fromkeys(aliases[name], tensor))
    return full


def _save_weights(base: Base, folder: Path, state: dict[str, torch.Tensor]) -> str:
    """Write weights and config; returns the method, or "full" where whole weights were written."""
    if not base.is_adapted:
        base.model.save_pretrained(folder, state_dict=state)
        _note_dtype(folder, state)
        return "full"
    if base.source.is_adapter:  # the base exists only merged in memory, so it is saved along
        base.plain.save_pretrained(folder, state_dict=merged_state(base.model, state))
        return "full"
    config = copy.deepcopy(base.model.peft_config["default"])
    if base.first_state:
        state = as_plain_lora(state, base.first_state, config)
    tensors = _adapter_tensors(base.model, state)
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(cpu, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.base_model_name_or_path = base.source.loadable
    config.inference_mode, config.revision = True, base.source.revision
    if getattr(config, "init_lora_weights", True) not in (True, False):
        # How A and B began says nothing of what they are now.
        config.init_lora_weights, config.eva_config = True, None
    config.save_pretrained(str(folder))
    return base.adapter or "lora"


def _adapter_tensors(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names of its file format."""
    if is_prompt(model):  # peft would take the model's own, rounded to its precision
        return {"prompt_embeddings": state["prompt_encoder.default.embedding.weight"]}
    kept = copy.copy(model.peft_config["default"].__dict__)
    try:
        return dict(
            peft.get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
        )
    finally:  # AdaLoRA renames the keys of its rank pattern on the way
        model.peft_config["default"].__dict__.update(kept)


def _note_dtype(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Let the config name the precision of the tensors saved, not of the model in memory.

    transformers loads in the precision that the config names, and would round fp32 weights away.
    """
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if kinds != {torch.float32}:
        return
    path = folder / "config.json"
    config = safety.read_model_json(path)
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = "float32"
    write_json(path, config)


def _save_generation_config(model: Any, folder: Path) -> None:
    settings = getattr(model, "generation_config", None)
    if settings is None or not model.can_generate():
        return
    if not settings.do_sample:  # sampling values beside greedy decoding are refused on saving
        settings.temperature = settings.top_p = settings.top_k = None
    settings.save_pretrained(folder)


def _manifest(base: Base, folder: Path, method: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    source = base.source.base or base.source
    return {
        "format": FORMAT,
        "tunewright": _own_version(),
        "task": base.task,
        "labels": list(base.labels),
        "multi_label": base.multi_label,
        "method": method,
        "quantization": base.quantization,
        "weights_sha256": safety.weights_sha256(safety.find_weights(folder)),
        "base": {
            "reference": source.reference,
            "revision": source.revision,
            "origin": source.origin,
            "hub_id": source.hub_id,
            "sha256": source.sha256,
        },
        "started_from": base.source.reference if base.source.is_adapter else None,
        "default_template": base.default_template,
        **extra,
    }


def _own_version() -> str:
    try:
        return version("tunewright")
    except PackageNotFoundError:
        return "unknown"


def _guess(source: ModelSource) -> dict[str, Any]:
    """Task and labels of a folder made elsewhere, from its config. Raises ModelError."""
    if source.is_adapter:
        return _guess_adapter(source)
    config = safety.read_model_json(source.path / "config.json")
    names = [str(name) for name in (config.get("id2label") or {}).values()]
    architecture = str((config.get("architectures") or [""])[0])
    multi = config.get("problem_type") == "multi_label_classification"
    if "ForSequenceClassification" in architecture:
        names = names or ["LABEL_0", "LABEL_1"]
        task = "regress" if len(names) == 1 else "classify"
        return {"task": task, "labels": names if task == "classify" else [], "multi_label": multi}
    if "ForTokenClassification" in architecture:
        return {"task": "tag", "labels": _entities(source, names), "multi_label": False}
    writes = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")
    task_found = "generate" if any(word in architecture for word in writes) else None
    return {"task": task_found, "labels": [], "multi_label": False}


def _entities(source: ModelSource, names: list[str]) -> list[str]:
    entities = list(dict.fromkeys(name[2:] for name in names if name[:2] in ("B-", "I-")))
    if names != ["O", *(f"{mark}-{entity}" for entity in entities for mark in "BI")]:
        raise ModelError(
            f"{source.path}: token labels {', '.join(names[:5])} are not O, B-x, I-x in this "
            "order; only such taggers can be read"
        )
    return entities


def _guess_adapter(source: ModelSource) -> dict[str, Any]:
    task_type = safety.check_adapter_config(source.path).get("task_type")
    known: dict[str, Any] = {"labels": [], "multi_label": False}
    if task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return {"task": "generate", **known}
    if task_type == "SEQ_CLS":
        header = safety.read_header(source.weights[0])
        shapes = [t["shape"] for name, t in header.items() if ".lora_" not in name]
        heads = [shape[0] for shape in shapes if len(shape) == 2]
        if heads and heads[-1] == 1:
            return {"task": "regress", **known}
        if heads:
            labels = [f"LABEL_{index}" for index in range(heads[-1])]
            return {"task": "classify", "labels": labels, "multi_label": False}
    if task_type in (None, "FEATURE_EXTRACTION"):
        return {"task": None, **known}
    raise ModelError(
        f"{source.path}: adapter of type {task_type} without label names; train it with tunewright "
        "or give a full model"
    )


def _put_adapter(model: Any, source: ModelSource) -> Any:
    """The model with the saved adapter on it. Raises ModelError when tensors do not fit."""
    try:
        with quiet():
            adapted = peft.PeftModel.from_pretrained(
                model, str(source.path), is_trainable=False, local_files_only=True
            )
    except Exception as error:  # peft raises many kinds for files that do not fit
        if is_out_of_memory(error) or isinstance(error, TunewrightError):
            raise
        raise does_not_fit(source, error) from error
    check_tensors(adapted, source, safety.read_header(source.weights[0]))
    return adapted


@contextmanager
def _naming_full_disks(folder: Path) -> Iterator[None]:
    """safetensors and tokenizers report a full disk in their own words."""
    try:
        yield
    except Exception as error:  # tokenizers raises Exception itself
        text = str(error)
        if any(sign in text for sign in ("os error 28", "os error 27", "os error 122")):
            raise DiskFull(
                f"{folder}: no space left on the device; free some and run again with --resume"
            ) from error
        raise


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; the old one goes only when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
