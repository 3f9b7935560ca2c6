"""Tiny random models of the shapes that people use, made on the fly: 2 layers, hidden size 32.

`make_tiny("llama", folder)` writes a folder in Hugging Face layout: config, safetensors, tokenizer,
generation settings, and a chat template where the family has one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

transformers.utils.logging.disable_progress_bar()

DECODERS = ("llama", "qwen3", "gemma3_text", "mistral", "phi", "phi3", "gpt2")
ENCODERS = ("bert", "modernbert")
SEQ2SEQ = ("t5",)
KINDS = DECODERS + ENCODERS + SEQ2SEQ

TEXTS = (
    "My card has not arrived yet, where is it? I ordered it two weeks ago.",
    "Please cancel the transfer to my brother; the amount was wrong.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Once upon a time there was a little girl who loved to read stories.",
    "name[Aromi], eatType[coffee shop], area[city centre], near[Crowne Plaza]",
    "system user assistant tool question answer yes no maybe 0123456789",
)
_SPECIAL = {
    "llama": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
              "<|eot_id|>", "<|finetune_right_pad_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "gemma3_text": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]"),
    "phi": ("<|endoftext|>",),
    "phi3": ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    "gpt2": ("<|endoftext|>",),
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "modernbert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "t5": ("<pad>", "</s>", "<unk>"),
}  # fmt: skip
# How each family spells a turn: (before role, after role, end of turn, name of the assistant).
_TURNS = {
    "llama": ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "assistant"),
    "qwen3": ("<|im_start|>", "\n", "<|im_end|>\n", "assistant"),
    "gemma3_text": ("<start_of_turn>", "\n", "<end_of_turn>\n", "model"),
    "phi3": ("<|", "|>\n", "<|end|>\n", "assistant"),
}
_ENDS = {
    "llama": ("<|end_of_text|>", "<|eot_id|>"),
    "qwen3": ("<|im_end|>", "<|endoftext|>"),
    "gemma3_text": ("<eos>", "<end_of_turn>"),
    "phi3": ("<|endoftext|>", "<|end|>"),
}
_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}


def make_tiny(kind: str, folder: Path, *, seed: int = 0, scale: float = 8.0) -> Path:
    """Build and save a tiny random model with its tokenizer; returns the folder.

    scale: weights are multiplied by it, so that next-token choices are clear, not near-ties. T5's
    own initialisation is larger.
    """
    scale = 3.0 if kind == "t5" else scale
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _make_model(kind, tokenizer)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    factor = 1.0 if "embed" in name or "shared" in name else scale
                    parameter.mul_(factor)
                elif name.endswith("bias"):
                    parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Published Llama 3 and GPT-2 folders name these classes, whatever today's library writes.
    names = {"llama": "PreTrainedTokenizerFast", "gpt2": "GPT2Tokenizer"}
    if kind in names:
        path = folder / "tokenizer_config.json"
        values = json.loads(path.read_text()) | {"tokenizer_class": names[kind]}
        path.write_text(json.dumps(values))
    return folder


def _make_tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    special = _SPECIAL[kind]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    names = dict(zip(("cls_token", "sep_token"), ("[CLS]", "[SEP]"), strict=True))
    roles: dict[str, str] = {}
    if kind in ENCODERS:
        roles = {**names, "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
        _wrap(core, "[CLS] $A [SEP]", ("[CLS]", "[SEP]"))
    elif kind == "t5":
        roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        _wrap(core, "$A </s>", ("</s>",))
    elif kind == "llama":
        roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        _wrap(core, "<|begin_of_text|> $A", ("<|begin_of_text|>",))
    elif kind == "gemma3_text":
        roles = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        _wrap(core, "<bos> $A", ("<bos>",))
    elif kind == "mistral":
        roles = {"bos_token": "<s>", "eos_token": "</s>"}
        _wrap(core, "<s> $A", ("<s>",))
    elif kind == "qwen3":
        roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    else:
        roles = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=256, **roles
    )
    if kind in _TURNS:
        tokenizer.chat_template = _turn_template(*_TURNS[kind], bos="bos_token" in roles)
    return tokenizer


def _wrap(core: Tokenizer, single: str, names: tuple[str, ...]) -> None:
    tokens = [(name, core.token_to_id(name)) for name in names]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)


def _turn_template(before: str, after: str, end: str, assistant: str, *, bos: bool) -> str:
    before, after, end = (json.dumps(text) for text in (before, after, end))
    prompt = f"{{{{ {before} + '{assistant}' + {after} }}}}"
    return (
        ("{{ bos_token }}" if bos else "")
        + "{% for message in messages %}"
        + f"{{% set role = '{assistant}' if message.role == 'assistant' else message.role %}}"
        + f"{{{{ {before} + role + {after} + (message.content or '') + {end} }}}}"
        + "{% endfor %}"
        + f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


def _make_model(kind: str, tokenizer: transformers.PreTrainedTokenizerFast):
    vocabulary = tokenizer.get_vocab()
    ids = {
        "vocab_size": len(vocabulary),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [vocabulary[name] for name in _ENDS[kind]]
        if kind in _ENDS
        else tokenizer.eos_token_id,
    }
    grouped = {**_SHAPE, **ids, "num_key_value_heads": 2}
    if kind == "llama":
        rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}  # fmt: skip
        config = transformers.LlamaConfig(**grouped, rope_parameters=rope)
        return transformers.LlamaForCausalLM(config)
    if kind == "qwen3":
        config = transformers.Qwen3Config(**grouped, head_dim=8, tie_word_embeddings=True)
        return transformers.Qwen3ForCausalLM(config)
    if kind == "gemma3_text":
        config = transformers.Gemma3TextConfig(
            **grouped, head_dim=8, sliding_window=12, query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention"],
        )  # fmt: skip
        return transformers.Gemma3ForCausalLM(config)
    if kind == "mistral":
        config = transformers.MistralConfig(**grouped, sliding_window=12)
        return transformers.MistralForCausalLM(config)
    if kind == "phi":
        return transformers.PhiForCausalLM(transformers.PhiConfig(**_SHAPE, **ids))
    if kind == "phi3":
        return transformers.Phi3ForCausalLM(transformers.Phi3Config(**grouped))
    if kind == "gpt2":
        ids.pop("pad_token_id")
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **ids)
        return transformers.GPT2LMHeadModel(config)
    if kind == "bert":
        ids = {"vocab_size": len(vocabulary), "pad_token_id": tokenizer.pad_token_id}
        return transformers.BertForMaskedLM(transformers.BertConfig(**_SHAPE, **ids))
    if kind == "modernbert":
        config = transformers.ModernBertConfig(
            **_SHAPE, vocab_size=len(vocabulary), pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None, eos_token_id=None, cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id, local_attention=16,
        )  # fmt: skip
        return transformers.ModernBertForMaskedLM(config)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)
