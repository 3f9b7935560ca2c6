"""Exported models opened by other programs than ours, to be asked the same as the trained one.

transformers alone, PEFT alone, transformers' own GGUF reader, llama.cpp where it is installed, and
onnxruntime. None of them goes through tunewright's loading code, so a fault in that cannot hide.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tunewright.errors import ModelError
from tunewright.model.export.onnx import INPUTS, open_onnx, outputs_of
from tunewright.model.generate import generate_answers
from tunewright.model.load import GENERATIVE_TASKS, Base, quiet
from tunewright.model.quantize import keep_one_layout, load_options, plain_config

Ids = Sequence[Sequence[int]]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reader:
    """One way to ask a model.

    logits: prompts to their logits, (T, V) of each for language models, (K,) for classifiers; of
    models that embed, (T, H) states.
    answer: prompts to greedy token ids, end token left out; None for models that write nothing.
    encode: texts to token ids, by the tokenizer that came with the model.
    """

    name: str
    logits: Callable[[Ids], list[Logits]]
    answer: Callable[[Ids, int], list[list[int]]] | None
    encode: Callable[[Sequence[str]], list[list[int]]]


def read_trained(base: Base, ends: Sequence[int]) -> Reader:
    """The model as it was trained, adapter beside its base; it answers as it would be served."""
    plain = _torch_reader("trained", base.model, base.tokenizer, ends, writes(base))
    if plain.answer is None:
        return plain

    def answer(prompts: Ids, max_new_tokens: int) -> list[list[int]]:
        asked = [list(ids) for ids in prompts]
        return [list(a.ids) for a in generate_answers(base, asked, max_new_tokens=max_new_tokens)]

    return replace(plain, answer=answer)


def read_with_transformers(folder: Path, base: Base, ends: Sequence[int]) -> Reader:
    """A folder as transformers loads it, in fp32."""
    with quiet():
        model = type(base.plain).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _torch_reader("transformers", model.eval(), tokenizer, ends, writes(base))


def read_with_peft(folder: Path, base: Base, ends: Sequence[int]) -> Reader:
    """An adapter as PEFT loads it on a base that transformers loads."""
    from tunewright.model.peft_quietly import peft

    source = (base.source.base or base.source).path
    with quiet():
        plain = type(base.plain).from_pretrained(
            source, config=plain_config(base.plain.config), dtype=torch.float32,
            local_files_only=True, **load_options(base.quantization, base.device, torch.float32),
        )  # fmt: skip
        keep_one_layout(plain)
        model: Any = peft.PeftModel.from_pretrained(plain, str(folder), local_files_only=True)
        model.train(False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _torch_reader("PEFT", model, tokenizer, ends, writes(base))


def read_gguf(path: Path, base: Base, ends: Sequence[int]) -> Reader:
    """A GGUF file as transformers' own reader unpacks it: tensors and tokenizer.

    That reader knows neither Llama 3's rotary scaling nor Qwen 3's head size, so the shape is taken
    from the trained model; `gguf.find_wrong_shape` checks what the file says of it.
    """
    with quiet(), redirect_stderr(io.StringIO()):  # its bar heeds no setting
        model = type(base.plain).from_pretrained(
            path.parent, gguf_file=path.name, config=plain_config(base.plain.config),
            dtype=torch.float32, local_files_only=True,
        )  # fmt: skip
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    return _torch_reader("transformers' GGUF reader", model.eval(), tokenizer, ends, True)


def read_llama_cpp(path: Path, ends: Sequence[int]) -> Reader | None:
    """A GGUF file as llama.cpp runs it; None where llama-cpp-python is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    engine = llama_cpp.Llama(
        str(path), n_ctx=0, logits_all=True, verbose=False, n_gpu_layers=0, seed=0
    )

    def logits(prompts: Ids) -> list[Logits]:
        found = []
        for ids in prompts:
            engine.reset()
            engine.eval(list(ids))
            found.append(np.array(engine.scores[: len(ids)], dtype=np.float32))
        return found

    def answer(prompts: Ids, max_new_tokens: int) -> list[list[int]]:
        found = []
        for ids in prompts:
            engine.reset()
            engine.eval(list(ids))
            said: list[int] = []
            while len(said) < max_new_tokens:
                best = int(np.argmax(engine.scores[engine.n_tokens - 1]))
                if best in ends:
                    break
                said.append(best)
                engine.eval([best])
            found.append(said)
        return found

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [engine.tokenize(t.encode(), add_bos=False, special=True) for t in texts]

    return Reader("llama.cpp", logits, answer, encode)


def read_onnx(folder: Path, pad_id: int) -> Reader:
    """An ONNX classifier as onnxruntime runs it."""
    session = open_onnx(folder)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def logits(prompts: Ids) -> list[Logits]:
        found: list[Logits] = [np.zeros(0, dtype=np.float32)] * len(prompts)
        for part in _by_length(prompts):
            ids, mask = _pad([prompts[i] for i in part], pad_id)
            out = session.run(None, dict(zip(INPUTS, (ids, mask), strict=True)))[0]
            for place, number in enumerate(part):
                row = out[place]
                found[number] = row[: len(prompts[number])] if row.ndim == 2 else row
        return found

    return Reader("onnxruntime", logits, None, _encoder(tokenizer))


def writes(base: Base) -> bool:
    """Whether the model writes text, so that its greedy answers are compared too."""
    return base.kind != "encoder" and base.task in GENERATIVE_TASKS


def _torch_reader(
    name: str, model: Any, tokenizer: Any, ends: Sequence[int], writing: bool
) -> Reader:
    pad_id = tokenizer.pad_token_id or 0
    behind = writing and model.config.is_encoder_decoder
    start_id = model.config.decoder_start_token_id if behind else None

    def logits(prompts: Ids) -> list[Logits]:
        found: list[Logits] = [np.zeros(0, dtype=np.float32)] * len(prompts)
        with torch.inference_mode():
            for part in _by_length(prompts):
                ids, mask = _pad([prompts[i] for i in part], pad_id)
                more = {} if start_id is None else {"decoder_input_ids": _starts(ids, start_id)}
                out = outputs_of(
                    model(
                        input_ids=torch.from_numpy(ids),
                        attention_mask=torch.from_numpy(mask),
                        **more,
                    )
                )
                for place, number in enumerate(part):
                    row = out[place].float().numpy()
                    found[number] = row[: len(prompts[number])] if row.ndim == 2 else row
        return found

    def answer(prompts: Ids, max_new_tokens: int) -> list[list[int]]:
        return [_greedy(model, ids, max_new_tokens, ends) for ids in prompts]

    return Reader(name, logits, answer if writing else None, _encoder(tokenizer))


def _starts(ids: NDArray[np.int64], start_id: int) -> torch.Tensor:
    """What a decoder behind an encoder is given first, for each row: logits of one position."""
    return torch.full((len(ids), 1), start_id)


def _greedy(model: Any, ids: Sequence[int], max_new_tokens: int, ends: Sequence[int]) -> list[int]:
    """Greedy decoding by transformers' own generate, one prompt at a time."""
    given = torch.tensor([list(ids)])
    with torch.inference_mode(), quiet():
        out = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
            max_new_tokens=max_new_tokens, eos_token_id=list(ends) or None, pad_token_id=0,
        )  # fmt: skip
    said = out[0, 1 if model.config.is_encoder_decoder else given.shape[1] :].tolist()
    end = next((at for at, token in enumerate(said) if token in ends), len(said))
    return [int(token) for token in said[:end]]


def _encoder(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    def encode(texts: Sequence[str]) -> list[list[int]]:
        found = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[int(number) for number in ids] for ids in found]

    return encode


def _by_length(prompts: Ids, size: int = 32) -> list[list[int]]:
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _pad(rows: Ids, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ids, mask) padded on the right, so that causal positions keep their numbers."""
    if not rows:
        raise ModelError("parity: no prompts to ask")
    ids = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask
