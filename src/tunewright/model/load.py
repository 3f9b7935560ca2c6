"""Base models in memory: weights, tokenizer and a head for the task, from checked local files.

catalog.py finds and checks the files, so nothing here opens a socket. Adapters are attached in
adapters.py; a reference that is itself an adapter is loaded merged into its base.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import ERROR
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from tunewright.errors import ModelError
from tunewright.model import safety
from tunewright.model.catalog import ModelSource, resolve_model
from tunewright.model.manifest import check_tensors, checked_manifest, does_not_fit, read_manifest
from tunewright.model.pretrained import (
    check_missing,
    from_scratch,
    from_weights,
    init_fresh,
    keep_known_rows,
    label_sized,
)
from tunewright.model.quantize import (
    check_quantization,
    count_parameters,
    keep_one_layout,
    load_options,
)
from tunewright.model.tokenizer import has_tokenizer, load_tokenizer

Kind = Literal["encoder", "decoder", "encoder-decoder"]
TASKS = ("classify", "regress", "tag", "generate", "chat", "continue", "embed", "reward")
HEADED = ("classify", "regress", "reward")
"""Tasks with a head that sums up a text; reward: one number for a prompt with its answer."""
GENERATIVE_TASKS = ("generate", "chat", "continue")
POOLING_FILE = "1_Pooling/config.json"
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
"""What sentence-transformers calls them."""
_DROPOUT_ENDINGS = ("dropout", "dropout_prob", "dropout_rate", "pdrop")
_KEYS_NEVER_PASSED_ON = ("auto_map", "trust_remote_code", "quantization_config")


@dataclass
class Base:
    """A model ready to be tuned or asked, with all that is known about it.

    labels: class names (classify), entity names without B-/I- (tag), else ().
    fresh: names of parameters that the checkpoint did not hold: a new head.
    pooling: how token states become one vector (embed): mean, cls or last.
    default_template: the tokenizer had no chat template and was given ours.
    adapter: the method that adapters.attach put on, "full" and "lora" among them; None before it.
    dtype: of the weights; quantization: in which frozen linear layers are held (none, nf4, int8).
    companion: what its method does beside the gradient, after every update (AdaLoRA), or None.
    fast_names: parameters that learn at rate_ratio times the rate. first_state: A and B as PiSSA
    started them, which its saved form needs. known_labels: whose rows of a new head come from the
    model that is gone on from.
    """

    model: Any
    tokenizer: Any
    kind: Kind
    task: str | None
    labels: tuple[str, ...]
    multi_label: bool
    reference: str
    source: ModelSource
    num_parameters: int
    device: torch.device
    dtype: torch.dtype
    fresh: tuple[str, ...] = ()
    pooling: str = "mean"
    default_template: bool = False
    adapter: str | None = None
    quantization: str = "none"
    companion: Any = None
    fast_names: frozenset[str] = frozenset()
    rate_ratio: float = 1.0
    first_state: dict[str, torch.Tensor] = field(default_factory=dict)
    known_labels: frozenset[str] = frozenset()

    @property
    def is_adapted(self) -> bool:
        """True where PEFT layers lie on the plain model."""
        return hasattr(self.model, "peft_config")

    def drop(self) -> None:
        """Give back the memory of the weights; nothing can be done with the base afterwards."""
        if self.quantization == "none":
            self.model.to("meta")
        else:  # packed weights do not move there
            self.model = torch.nn.Identity()

    @property
    def plain(self) -> Any:
        """The transformers model itself; adapter layers, if any, live inside it."""
        inner = getattr(self.model, "get_base_model", None)
        return inner() if inner is not None else self.model


def load_base(
    reference: str,
    *,
    task: str | None,
    labels: Sequence[str] = (),
    multi_label: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    dropout: float | Literal["auto"] = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    random_init: bool = False,
    attn: str = "sdpa",
    quantization: str = "none",
    seed: int = 17,
) -> Base:
    """Load a base model with the head that the task needs, in eval mode.

    task None gives the bare model (hidden states). labels: needed for classify and tag.
    random_init: same shape, random weights (the from-scratch twin). A new head depends on seed
    alone. Raises ModelError in one line for whatever is missing, broken or unfit for the task.
    """
    source = resolve_model(reference, revision, trust_remote_code=trust_remote_code)
    if not random_init:
        checked_manifest(source)
    return load_source(
        source, task=task, labels=labels, multi_label=multi_label, device=device, dtype=dtype,
        dropout=dropout, trust_remote_code=trust_remote_code, random_init=random_init, attn=attn,
        quantization=quantization, seed=seed,
    )  # fmt: skip


def load_source(
    source: ModelSource,
    *,
    task: str | None,
    labels: Sequence[str] = (),
    multi_label: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    dropout: float | Literal["auto"] = "auto",
    trust_remote_code: bool = False,
    random_init: bool = False,
    attn: str = "sdpa",
    quantization: str = "none",
    seed: int = 17,
    merge: bool = True,
) -> Base:
    """As load_base, for a model that has been found already.

    merge: fold an adapter source into its base; off: leave it to weights.load_tuned.
    """
    ground = source.base or source
    quantization = "none" if random_init else quantization
    device = torch.device(device)
    check_quantization(quantization, device)
    if quantization != "none" and source.is_adapter and merge:
        raise ModelError(
            f"{source.path}: going on from an adapter merges it into its base, which cannot be "
            f"held in {quantization}; set adapter.quantization: none, or export it merged first"
        )
    more = load_options(quantization, device, dtype)
    with quiet(), _kept_default_dtype():
        config = _read_config(ground, trust_remote_code)
        kind = find_kind(config)
        _check_fits(ground.reference, config, kind, task, labels)
        own_labels = tuple(str(name) for name in (config.id2label or {}).values())
        tokenizer, default_template = load_tokenizer(source, kind, trust_remote_code)
        if source.is_adapter and has_tokenizer(ground) and has_tokenizer(source):
            _check_same_words(source, tokenizer, load_tokenizer(ground, kind, trust_remote_code)[0])
        _prepare_config(config, tokenizer, kind, task, tuple(labels), multi_label, dropout)
        auto = _auto_class(kind, task)
        if random_init:
            model = from_scratch(auto, config, dtype, attn, seed, trust_remote_code)
            missing: tuple[str, ...] = ()
            known = frozenset[str]()
        else:
            model, missing = from_weights(
                auto, ground, config, dtype, attn, trust_remote_code, more
            )
            check_missing(ground, model, missing, headed=task in (*HEADED, "tag"))
            if task in ("classify", "tag") and own_labels != tuple(config.id2label.values()):
                missing = tuple(sorted({*missing, *label_sized(model, config.num_labels)}))
            known = _begin_new_parts(model, source, missing, own_labels, seed)
        _give_generation_config(model, ground.path, tokenizer)
        if source.is_adapter:  # it may have brought tokens that its base lacks
            _grow_embeddings(model, len(tokenizer))
        if source.is_adapter and merge and not random_init:
            model, missing = _merge_adapter(model, source, tuple(labels), missing)
        model = model.eval() if more else model.to(device).eval()
        keep_one_layout(model)
    return Base(
        model=model,
        tokenizer=tokenizer,
        kind=kind,
        task=task,
        labels=tuple(labels),
        multi_label=multi_label,
        reference=source.reference,
        source=source,
        num_parameters=count_parameters(model),
        device=torch.device(device),
        dtype=dtype,
        fresh=missing,
        known_labels=known if missing else frozenset(),
        pooling=find_pooling((source.path, ground.path), kind),
        default_template=default_template,
        quantization=quantization,
    )


def add_tokens(base: Base, tokens: Sequence[str]) -> None:
    """Make each of `tokens` one token; its embedding starts as the mean of all others."""
    base.tokenizer.add_tokens([t for t in tokens if t not in base.tokenizer.get_vocab()])
    if _grow_embeddings(base.plain, len(base.tokenizer)):
        base.num_parameters = sum(p.numel() for p in base.plain.parameters())


def _grow_embeddings(model: Any, num_tokens: int) -> bool:
    """Add rows of the mean until there is one for every token; whether any was needed."""
    before = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= before:
        return False
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    with torch.no_grad():
        for weight in {id(x.weight): x.weight for x in layers if x is not None}.values():
            weight[before:] = weight[:before].float().mean(dim=0).to(weight.dtype)
    return True


def bio_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes of a tagger: O, then B-x and I-x of each entity."""
    return ("O", *(f"{mark}-{label}" for label in labels for mark in "BI"))


def end_ids(base: Base) -> tuple[int, ...]:
    """Token ids that end an answer: of the generation settings, config and tokenizer."""
    plain = base.plain
    found: list[int] = []
    settings = getattr(plain, "generation_config", None)
    for value in (
        getattr(settings, "eos_token_id", None),
        getattr(plain.config, "eos_token_id", None),
        base.tokenizer.eos_token_id,
    ):
        found += [value] if isinstance(value, int) else list(value or ())
    return tuple(dict.fromkeys(found))


def longest_input(base: Base) -> int | None:
    """Most tokens that the model was made for, or None where it names no limit."""
    config = base.plain.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
        limits = [limit - 2 for limit in limits if limit]  # positions start at pad + 1
    if base.kind != "encoder-decoder":
        limits.append(base.tokenizer.model_max_length)
    return min((int(n) for n in limits if n and n < 1 << 30), default=None)


def find_kind(config: Any) -> Kind:
    """Encoder, decoder or encoder-decoder, by the architecture's place in transformers."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    causal = any("CausalLM" in name for name in config.architectures or ())
    return "decoder" if causal else "encoder"


def find_pooling(folders: Sequence[Path], kind: Kind) -> str:
    """mean, cls or last: as the first of these folders that has a 1_Pooling says, else by kind."""
    for folder in folders:
        path = folder / POOLING_FILE
        if not path.exists():
            continue
        settings = safety.read_model_json(path)
        for key, name in POOLINGS.items():
            if settings.get(key):
                return name
    return "last" if kind == "decoder" else "mean"


def _read_config(source: ModelSource, trust_remote_code: bool) -> Any:
    path = source.path / "config.json"
    values = safety.read_model_json(path)
    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        if trust_remote_code and values.get("auto_map"):
            return transformers.AutoConfig.from_pretrained(source.path, trust_remote_code=True)
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ModelError(
            f"{path}: model_type {model_type!r} unknown to transformers "
            f"{transformers.__version__}; {hint}a newer transformers may know it"
        )
    if values.get("quantization_config"):
        raise ModelError(
            f"{path}: the weights are quantized; use the model's full-precision weights"
        )
    clean = {key: item for key, item in values.items() if key not in _KEYS_NEVER_PASSED_ON}
    try:
        config = CONFIG_MAPPING[str(model_type)].from_dict(clean)
    except Exception as error:  # config classes validate in many ways
        raise ModelError(f"{path}: {safety.first_line(error)}; correct the config") from None
    config.name_or_path = source.loadable
    return config


def _begin_new_parts(
    model: Any, source: ModelSource, missing: Sequence[str], own: tuple[str, ...], seed: int
) -> frozenset[str]:
    """Begin what the files lack; labels whose part of a new head comes from the head before.

    own: what the outputs of a whole model's head stood for; an adapter's manifest tells its own.
    """
    init_fresh(model, missing, seed)
    if source.is_adapter:
        told = (read_manifest(source.path) or {}).get("labels")
        own = tuple(map(str, told or ()))
    return keep_known_rows(model, source, missing, own, model.config.id2label)


def _check_same_words(source: ModelSource, adapter: Any, base: Any) -> None:
    """Raise ModelError where an adapter's tokenizer gives a token another number than its base."""
    numbers = base.get_vocab()
    for token, number in adapter.get_vocab().items():
        if numbers.get(token, number) != number:
            assert source.base is not None
            raise ModelError(
                f"{source.path}: its tokenizer gives {token!r} the number {number}, that of its "
                f"base {source.base.path} the number {numbers[token]}; restore the tokenizer that "
                "it was trained with"
            )


def _check_fits(
    reference: str, config: Any, kind: Kind, task: str | None, labels: Sequence[str]
) -> None:
    """Raise ModelError when this architecture cannot do this task."""
    if task is not None and task not in TASKS:
        raise ModelError(f"task: {task!r} unknown; use {', '.join(TASKS)}")
    if task in ("classify", "tag") and not labels:
        raise ModelError(f"task {task}: no labels; check the label column")
    if task in GENERATIVE_TASKS and kind == "encoder":
        raise ModelError(
            f"{reference}: {config.model_type} is an encoder and writes no text; for {task} use a "
            "decoder such as Llama, Qwen, Gemma or GPT-2, or T5"
        )
    if task == "embed" and kind == "encoder-decoder":
        raise ModelError(
            f"{reference}: {config.model_type} reads and writes; for embed use an encoder such as "
            "BERT or ModernBERT, or a decoder"
        )
    if task == "continue" and kind != "decoder":
        raise ModelError(
            f"{reference}: {config.model_type} cannot continue text; for {task} use a decoder such "
            "as Llama, Qwen, Gemma or GPT-2"
        )
    if task in (None, "embed"):
        return
    mapping = _auto_class(kind, task)._model_mapping
    if type(config) not in mapping and not hasattr(config, "auto_map"):
        raise ModelError(
            f"{reference}: transformers has no {task} head for {config.model_type}; choose another "
            "base model for this task"
        )


def _auto_class(kind: Kind, task: str | None) -> Any:
    if task in (None, "embed"):
        return transformers.AutoModel
    if task in HEADED:
        return transformers.AutoModelForSequenceClassification
    if task == "tag":
        return transformers.AutoModelForTokenClassification
    if kind == "encoder-decoder":
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _prepare_config(
    config: Any,
    tokenizer: Any,
    kind: str,
    task: str | None,
    labels: tuple[str, ...],
    multi_label: bool,
    dropout: float | Literal["auto"],
) -> None:
    """Write labels, problem type, padding and dropout into the config, in place."""
    names: tuple[str, ...] = ()
    if task == "classify":
        names = labels
        config.problem_type = (
            "multi_label_classification" if multi_label else "single_label_classification"
        )
    elif task == "tag":
        names = bio_names(labels)
    elif task in ("regress", "reward"):
        names = ("value",) if task == "regress" else ("reward",)
        config.problem_type = "regression"
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    # The head reads the last token that is not config's pad, so it must know our padding.
    reads_last = kind == "decoder" and task in HEADED
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        if reads_last or getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = tokenizer.pad_token_id
        if dropout != "auto":
            _set_dropout(part, float(dropout))


def _set_dropout(config: Any, value: float) -> None:
    for key, old in config.to_dict().items():
        if key.endswith(_DROPOUT_ENDINGS) and isinstance(old, (int, float, type(None))):
            setattr(config, key, value)


def _give_generation_config(model: Any, folder: Path, tokenizer: Any) -> None:
    """Generation settings of a text-writing model: the folder's own, completed by the tokenizer."""
    if not getattr(model, "can_generate", lambda: False)():
        return
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(
            folder, local_files_only=True
        )
    settings = model.generation_config
    if settings.eos_token_id is None:
        settings.eos_token_id = tokenizer.eos_token_id
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id


def _merge_adapter(
    model: Any, source: ModelSource, labels: tuple[str, ...], missing: tuple[str, ...]
) -> tuple[Any, tuple[str, ...]]:
    """Fold a saved adapter into its base; its head too, where the labels are the same."""
    from safetensors.torch import load_file

    from tunewright.model.peft_quietly import peft

    config = peft.PeftConfig.from_pretrained(str(source.path))
    if config.is_prompt_learning:
        raise ModelError(
            f"{source.path}: vectors before the input cannot be merged into weights, so nothing "
            f"can go on from them; start from {source.base.reference if source.base else 'a base'}"
        )
    state: Mapping[str, torch.Tensor] = load_file(source.weights[0])
    manifest = read_manifest(source.path)
    keep_head = manifest is not None and tuple(manifest.get("labels") or ()) == labels
    if not keep_head:
        whole = tuple(config.modules_to_save or ())
        config.modules_to_save = None
        config.task_type = None
        state = {n: t for n, t in state.items() if not any(f".{name}." in n for name in whole)}
    try:
        adapted = peft.PeftModel(model, config)
        peft.set_peft_model_state_dict(adapted, dict(state))
    except (ValueError, KeyError, RuntimeError) as error:
        raise does_not_fit(source, error) from error
    check_tensors(adapted, source, state)
    merged = adapted.merge_and_unload()  # type: ignore[operator]
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    return merged, () if keep_head else missing


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's load reports and bars; errors still come through as exceptions."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(ERROR)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _kept_default_dtype() -> Iterator[None]:
    """Loading sets torch's default dtype for a while; an error on the way must not leave it so."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
