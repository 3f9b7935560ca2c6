"""Our decoder against transformers' own, token by token; scores against plain cross-entropy."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from model_zoo import DECODERS
from tunewright.errors import ModelError
from tunewright.model import generate as g
from tunewright.model.adapters.table import attach, trainable_parameters
from tunewright.model.generate import (
    generate_answers,
    score_completions,
    stream_answer,
    target_logits,
)
from tunewright.model.load import end_ids, load_base

PROMPTS = (
    "My card",
    "The quick brown fox jumps over the lazy dog",
    "Once upon",
    "yes no maybe 0123456789 answer",
    "Please cancel the transfer to my brother; the amount was wrong. The quick brown fox",
    "a",
    "Where is it?",
)


@pytest.fixture
def writer(tiny):
    """writer("llama") -> a base that writes text, some of whose answers end early."""
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = load_base(str(tiny(kind)), task="generate")
        return built[kind]

    return get


def encode(base, texts=PROMPTS):
    return [base.tokenizer(text)["input_ids"] for text in texts]


def reference(base, ids, max_new_tokens):
    """What transformers' own greedy generate writes, without the end token."""
    out = base.model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )[0].tolist()
    new = out[1:] if base.kind == "encoder-decoder" else out[len(ids) :]
    return tuple(token for token in new if token not in end_ids(base)), new[-1] in end_ids(base)


def with_more_ends(base, prompts):
    """Make tokens that the model likes to write end tokens, so that rows end at many lengths."""
    answers = generate_answers(base, prompts, max_new_tokens=24)
    liked = [a.ids[4 + 3 * i] for i, a in enumerate(answers[:4]) if len(a.ids) > 4 + 3 * i]
    base.plain.generation_config.eos_token_id = [*end_ids(base), *liked]
    return liked


@pytest.mark.parametrize("kind", [*DECODERS, "t5"])
def test_greedy_equals_transformers_token_by_token(writer, kind):
    base = writer(kind)
    prompts = encode(base)
    assert with_more_ends(base, prompts)
    answers = generate_answers(base, prompts, max_new_tokens=24)
    expected = [reference(base, ids, 24) for ids in prompts]
    assert [(a.ids, a.finished) for a in answers] == expected
    lengths = {len(a.ids) for a in answers}
    assert len(lengths) > 2, "rows must leave the batch at different times"
    small = generate_answers(base, prompts, max_new_tokens=24, max_batch_tokens=64)
    assert [a.ids for a in small] == [a.ids for a in answers]
    assert all(0 < a.mean_probability <= 1 for a in answers)


def test_the_real_checkpoint_writes_a_story(stories):
    base = load_base(str(stories), task="generate")
    ids = encode(base, ["Once upon a time", "The dog was"])
    answers = generate_answers(base, ids, max_new_tokens=40)
    assert [a.ids for a in answers] == [reference(base, prompt, 40)[0] for prompt in ids]
    assert "there was" in answers[0].text or "little" in answers[0].text


def test_adapters_take_part(writer):
    base = writer("llama")
    prompts = encode(base)
    before = generate_answers(base, prompts, max_new_tokens=8)
    tuned = attach(base, "lora", r=4, alpha=16.0)
    assert generate_answers(tuned, prompts, max_new_tokens=8) == before
    with torch.no_grad():
        for _, parameter in trainable_parameters(tuned.model):
            parameter.add_(0.3)
    after = generate_answers(tuned, prompts, max_new_tokens=8)
    assert [a.ids for a in after] != [a.ids for a in before]
    assert [a.ids for a in after] == [reference(tuned, ids, 8)[0] for ids in prompts]


def test_mean_probability_is_that_of_the_scored_answer(writer):
    base = writer("qwen3")
    (prompt,) = encode(base, ["My card"])
    (answer,) = generate_answers(base, [prompt], max_new_tokens=6)
    assert not answer.finished
    ((nll, count),) = score_completions(base, [([*prompt, *answer.ids], len(prompt))])
    assert count == 6
    assert answer.mean_probability == pytest.approx(torch.tensor(-nll / 6).exp().item(), rel=1e-4)


def test_sampling_follows_the_seed_and_not_the_batch(writer):
    base = writer("mistral")
    prompts = encode(base)
    options = {"max_new_tokens": 10, "temperature": 1.5, "top_p": 0.9}
    first = generate_answers(base, prompts, seed=1, **options)
    alone = generate_answers(base, prompts, seed=1, max_batch_tokens=32, **options)
    other = generate_answers(base, prompts, seed=2, **options)
    assert [a.ids for a in first] == [a.ids for a in alone]
    assert [a.ids for a in first] != [a.ids for a in other]
    greedy = generate_answers(base, prompts, max_new_tokens=10)
    narrow = generate_answers(base, prompts, max_new_tokens=10, temperature=0.7, top_p=1e-6)
    assert [a.ids for a in narrow] == [a.ids for a in greedy]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_stream_joined_is_the_answer(writer, kind):
    base = writer(kind)
    for ids in encode(base):
        pieces = list(stream_answer(base, ids, max_new_tokens=20))
        (answer,) = generate_answers(base, [ids], max_new_tokens=20)
        assert "".join(pieces) == answer.text


def test_limits_of_learned_positions(writer):
    base = writer("gpt2")
    ids = (encode(base, [PROMPTS[1]])[0] * 20)[:120]
    (answer,) = generate_answers(base, [ids], max_new_tokens=50)
    assert len(answer.ids) <= 8 and (answer.finished or len(answer.ids) == 8)
    with pytest.raises(ModelError, match="128 tokens, .* has positions for 128"):
        generate_answers(base, [ids + ids[:8]], max_new_tokens=1)
    with pytest.raises(ModelError, match="empty"):
        generate_answers(base, [[]], max_new_tokens=1)
    assert generate_answers(base, [], max_new_tokens=1) == []


def test_progress_and_mode(writer):
    base = writer("phi")
    base.model.train()
    seen = []
    generate_answers(
        base, encode(base), max_new_tokens=2, max_batch_tokens=40,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (7, 7) and len(seen) > 2
    assert base.model.training
    base.model.eval()


@pytest.mark.parametrize("kind", [*DECODERS])
def test_scores_equal_plain_cross_entropy(writer, kind):
    base = writer(kind)
    rows = [(ids, max(0, len(ids) // 2)) for ids in encode(base)] + [(encode(base)[1], 0)]
    scores = score_completions(base, rows, max_batch_tokens=80)
    for (ids, first), (nll, count) in zip(rows, scores, strict=True):
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        targets = torch.tensor(ids[1:], dtype=torch.long)
        losses = F.cross_entropy(logits, targets, reduction="none")
        assert count == len(ids) - max(first, 1)
        assert nll == pytest.approx(float(losses[max(first, 1) - 1 :].sum()), abs=2e-3, rel=1e-4)


def test_scores_of_an_encoder_decoder(writer):
    base = writer("t5")
    rows = []
    for ids in encode(base):
        answer = encode(base, ["name area"])[0]
        rows.append(([*ids, *answer], len(ids)))
    scores = score_completions(base, rows)
    for (ids, first), (nll, count) in zip(rows, scores, strict=True):
        target = torch.tensor([ids[first:]])
        with torch.no_grad():
            loss = base.model(input_ids=torch.tensor([ids[:first]]), labels=target).loss
        assert count == target.shape[1]
        assert nll == pytest.approx(float(loss) * count, rel=1e-4)


def test_target_logits_carry_the_same_gradient(writer):
    base = attach(writer("gemma3_text"), "lora", r=2)
    ids = torch.tensor(encode(base, [PROMPTS[1]]))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 3:6] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    chosen = target_logits(base.model, inputs, mask)
    whole = base.model(**inputs).logits
    assert chosen.shape == (3, whole.shape[-1])
    assert torch.allclose(chosen, whole[mask], atol=1e-5)
    names = [p for n, p in trainable_parameters(base.model) if "lora_B" in n]
    first = torch.autograd.grad(chosen.logsumexp(-1).sum(), names)
    second = torch.autograd.grad(whole[mask].logsumexp(-1).sum(), names)
    assert all(
        torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(first, second, strict=True)
    )


def test_a_decoder_is_scored_from_its_own_start_token():
    """BART starts from its end token, T5 from its pad: training and scoring must start alike."""
    config = transformers.BartConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=1,
        max_position_embeddings=32, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    target = torch.tensor([[7, 8, 2]])
    inputs = {"input_ids": torch.tensor([[5, 6, 2]])}
    shifted = {**inputs, "decoder_input_ids": torch.tensor([[0, 7, 8]])}
    with torch.no_grad():
        found = g.target_logits(model, shifted, torch.ones_like(target, dtype=torch.bool))
        wanted = model(**inputs, labels=target).logits[0]
    torch.testing.assert_close(found, wanted)
