"""Continuous batches: rows join and leave, adapters mix, and nobody's answer notices."""

import pytest
import torch

from model_zoo import DECODERS
from tunewright.errors import ModelError
from tunewright.model import modular, slots
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.engine import Engine, Request
from tunewright.model.load import end_ids, load_base
from tunewright.model.sampling import Sampling
from tunewright.model.weights import save_tuned

PROMPTS = (
    "My card",
    "The quick brown fox jumps over the lazy dog",
    "Once upon",
    "yes no maybe 0123456789 answer",
    "Please cancel the transfer to my brother; the amount was wrong. The quick brown fox",
    "a",
    "Where is it?",
)
# Families whose forward pass is our own; the others decode through the modules.
STACKED = ("llama", "qwen3", "gemma3_text", "mistral", "phi3")


@pytest.fixture
def writer(tiny):
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = load_base(str(tiny(kind)), task="generate")
        return built[kind]

    return get


def encode(base, texts=PROMPTS):
    return [base.tokenizer(text)["input_ids"] for text in texts]


def reference(base, ids, max_new_tokens):
    out = base.model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_new_tokens, do_sample=False,
    )[0].tolist()  # fmt: skip
    return [token for token in out[len(ids) :] if token not in end_ids(base)]


def run(engine, requests, *, every=0):
    """Token ids by request; with `every`, a new request is added each so many steps only."""
    waiting, written, number, steps = list(requests), {}, {}, 0
    while waiting or engine.busy:
        while waiting and (not every or steps % every == 0 or not engine.busy):
            number[engine.add(waiting[0])] = len(number)
            waiting.pop(0)
            if every:
                break
        for token in engine.step():
            written.setdefault(number[token.request], []).append(token)
        steps += 1
    return [
        [t.id for t in written[i] if t.id not in engine.ends and t.id >= 0]
        for i in range(len(requests))
    ]


@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("kind", DECODERS)
def test_rows_join_and_leave_and_write_what_generate_writes(writer, kind, modules):
    base = writer(kind)
    prompts = encode(base)
    limits = [20, 3, 17, 9, 24, 1, 12]
    expected = [reference(base, ids, n) for ids, n in zip(prompts, limits, strict=True)]
    engine = Engine(base, max_rows=3, modules=modules)
    assert engine.is_stacked == (kind in STACKED and not modules)
    requests = [Request(ids, n) for ids, n in zip(prompts, limits, strict=True)]
    assert run(engine, requests) == expected
    assert run(engine, requests, every=2) == expected
    unpacked = Engine(base, packed=False, modules=modules)
    assert run(unpacked, requests) == expected


def test_prompts_longer_than_one_pass_and_shared_beginnings(writer, monkeypatch):
    base = writer("gemma3_text")  # its windows are shorter than the prompts
    (start,) = encode(base, [PROMPTS[4]])
    prompts = [[*start, *ids[1:]] for ids in encode(base)]
    expected = [reference(base, ids, 8) for ids in prompts]
    monkeypatch.setattr(slots, "PASS_TOKENS", 10)
    engine = Engine(base)
    assert run(engine, [Request(ids, 8) for ids in prompts]) == expected
    assert [len(p.ids) for p in engine.decoder.prefixes] == [len(start)]
    # Later rows find the beginning again.
    assert run(engine, [Request(prompts[2], 8)]) == [expected[2]]


def test_half_precision(tiny):
    base = load_base(str(tiny("llama")), task="generate", dtype=torch.bfloat16)
    engine = Engine(base)
    assert engine.is_stacked
    alone = [run(engine, [Request(ids, 6)])[0] for ids in encode(base)]
    together = run(engine, [Request(ids, 6) for ids in encode(base)])
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= len(alone) - 1


def tuned(base_of, kind, folder, seed):
    """A folder with a LoRA adapter that changes answers, and what a model with it writes."""
    base = attach(base_of(kind), "lora", r=2 + seed, alpha=8.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trainable_parameters(base.model):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save_tuned(base, folder)
    return [reference(base, ids, 8) for ids in encode(base)], base


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])
def test_adapters_of_different_requests_in_one_batch(tiny, tmp_path, kind):
    def fresh(name):
        return load_base(str(tiny(name)), task="generate")

    base = fresh(kind)
    prompts = encode(base)
    expected = {None: [reference(base, ids, 8) for ids in prompts]}
    engine = Engine(base)
    for seed, name in enumerate(("first", "second")):
        expected[name], _ = tuned(fresh, kind, tmp_path / name, seed)
        engine.add_adapter(name, tmp_path / name)
    assert len({str(answers) for answers in expected.values()}) == 3
    wishes = [(None, "first", "second")[i % 3] for i in range(len(prompts))]
    requests = [Request(ids, 8, adapter=n) for ids, n in zip(prompts, wishes, strict=True)]
    found = run(engine, requests, every=1)
    assert found == [expected[name][i] for i, name in enumerate(wishes)]
    engine.drop_adapter("first")
    with pytest.raises(ModelError, match="'first': not loaded; loaded are: second"):
        engine.add(requests[1])
    engine.close()
    assert reference(base, prompts[0], 8) == expected[None][0]


@pytest.mark.parametrize("packed", [True, False])
def test_a_model_with_its_own_adapter(tiny, tmp_path, packed):
    expected, base = tuned(
        lambda kind: load_base(str(tiny(kind)), task="generate"), "llama", tmp_path / "x", 5
    )
    engine = Engine(base, packed=packed)
    assert engine.is_stacked
    assert run(engine, [Request(ids, 8) for ids in encode(base)]) == expected


def test_another_adapters_layers_are_refused(writer, tiny, tmp_path):
    tuned(lambda kind: load_base(str(tiny(kind)), task="generate"), "gpt2", tmp_path / "x", 0)
    with pytest.raises(ModelError, match="made for a layer transformer.h.0"):
        Engine(writer("llama")).add_adapter("x", tmp_path / "x")


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_short_memory_halves_the_rows_and_changes_no_answer(writer, monkeypatch, kind):
    base = writer(kind)
    how = Sampling(temperature=1.0, seed=3)
    requests = [Request(ids, 8, how) for ids in encode(base)]
    expected = run(Engine(base), requests)
    engine, sizes = Engine(base), []
    real = engine.decoder.step

    def step(ids):
        sizes.append(len(ids))
        if len(ids) > 2 and len(sizes) > 3:
            torch.empty(10**15)  # what torch itself raises when memory is short
        return real(ids)

    monkeypatch.setattr(engine.decoder, "step", step)
    assert run(engine, requests) == expected
    assert max(sizes) > 2 and engine.max_rows <= 3


def test_stop_strings_pieces_and_alternatives(writer):
    base = writer("llama")
    ids = encode(base)[1]
    (whole,) = run(Engine(base), [Request(ids, 24)])
    text = base.tokenizer.decode(whole, skip_special_tokens=True)
    stop = text[6:9]
    engine = Engine(base)
    engine.add(Request(ids, 24, Sampling(top_logprobs=3), stop=(stop, "never")))
    tokens = []
    while engine.busy:
        tokens += engine.step()
    shown = "".join(token.text for token in tokens)
    assert shown == text[: text.index(stop)]
    assert tokens[-1].ended == "stop" and [t.ended for t in tokens[:-1]] == [None] * (
        len(tokens) - 1
    )
    for token in tokens:
        assert len(token.tops) == 3 and token.tops[0] == (token.id, token.log_probability)
        values = [value for _, value in token.tops]
        assert values == sorted(values, reverse=True) and values[0] <= 0


def test_cancelled_requests_end_and_the_others_go_on(writer):
    base = writer("mistral")
    prompts = encode(base)[:3]
    engine = Engine(base, max_rows=2)
    numbers = [engine.add(Request(ids, 12)) for ids in prompts]
    engine.step()
    engine.cancel(numbers[0])
    engine.cancel(numbers[2])  # still waiting
    ended, ids = {}, []
    while engine.busy:
        for token in engine.step():
            ended[token.request] = token.ended
            ids += [token.id] if token.request == numbers[1] else []
    assert [ended[n] for n in numbers] == ["cancelled", ended[numbers[1]], "cancelled"]
    assert ended[numbers[1]] in ("length", "stop")
    assert [i for i in ids if i not in engine.ends] == reference(base, prompts[1], 12)[1:]


def test_recurrent_and_unknown_caches_do_not_join(tiny):
    base = load_base(str(tiny("t5")), task="generate")
    engine = Engine(base, max_rows=2)
    assert isinstance(engine.decoder, modular.ModularDecoder) and not engine.decoder.joins
    found = run(engine, [Request(ids, 6) for ids in encode(base)])
    assert len(found) == len(PROMPTS) and all(len(ids) <= 6 for ids in found)


def test_a_forward_pass_that_disagrees_is_not_used(writer, monkeypatch):
    base = writer("llama")
    monkeypatch.setattr(slots, "_turn", lambda x, cos, sin: x)  # as if positions meant nothing
    engine = Engine(base)
    assert not engine.is_stacked
    ids = encode(base)[1]
    assert run(engine, [Request(ids, 6)]) == [reference(base, ids, 6)]
