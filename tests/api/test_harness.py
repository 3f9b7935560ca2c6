"""An evaluation harness as a client: multiple choice by log-probabilities through the API.

lm-evaluation-harness asks `/v1/completions` with echo, logprobs and no new tokens for each context
and continuation, and takes the sum over the continuation and whether it is the greedy one. The task
is made here from rows of our own; the same rule is applied to the model in this process.
"""

import openai
import pytest
import torch

from tunewright.asking import open_asker

QUESTIONS = [
    ("question 3 about my card: this is about the", (" card", " delivery", " account"), 0),
    ("question 7 about my delivery: this is about the", (" card", " delivery", " account"), 1),
    ("My card has not arrived yet,", (" where is it?", " please cancel the transfer"), 0),
    ("Once upon a time there was a", (" little girl", " bank transfer", " dog"), 0),
]


def score(logprobs, greedy):
    return sum(logprobs), all(greedy)


def through_the_api(client, name, context, continuation, num_context):
    answer = client.completions.create(
        model=name,
        prompt=context + continuation,
        max_tokens=0,
        echo=True,
        logprobs=1,
        temperature=0,
    )
    found = answer.choices[0].logprobs
    values = found.token_logprobs[num_context:]
    tops = found.top_logprobs[num_context:]
    greedy = [max(top.values()) <= value + 1e-6 for top, value in zip(tops, values, strict=True)]
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.text_offset[0] == 0 and found.text_offset == sorted(found.text_offset)
    return score(values, greedy)


def in_process(asker, context, continuation, num_context):
    ids = asker.base.tokenizer(context + continuation)["input_ids"]
    with torch.inference_mode():
        logp = asker.base.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    rows, wanted = logp[num_context - 1 : -1], torch.tensor(ids[num_context:])
    values = rows.gather(1, wanted[:, None])[:, 0]
    return score(values.tolist(), (rows.argmax(1) == wanted).tolist())


@pytest.mark.parametrize("name", ["llama", "one"])
def test_multiple_choice_scores_are_those_of_the_model_in_process(live, tuned, name):
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    asker = open_asker(tuned[name])
    right = {"api": 0, "here": 0}
    for context, choices, gold in QUESTIONS:
        sums = {"api": [], "here": []}
        for continuation in choices:
            num_context = len(asker.base.tokenizer(context)["input_ids"])
            far, far_greedy = through_the_api(client, name, context, continuation, num_context)
            near, near_greedy = in_process(asker, context, continuation, num_context)
            assert far == pytest.approx(near, abs=5e-3)
            assert far_greedy == near_greedy
            sums["api"].append(far), sums["here"].append(near)
        for side, values in sums.items():
            right[side] += values.index(max(values)) == gold
    assert right["api"] == right["here"]


def test_token_ids_as_prompts_score_alike(live, tuned):
    """The harness may send ids in place of text, many at once."""
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    tokenizer = open_asker(tuned["llama"]).base.tokenizer
    texts = [context + choices[0] for context, choices, _ in QUESTIONS]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    ask = {"model": "llama", "max_tokens": 0, "echo": True, "logprobs": 1}
    by_ids = client.completions.create(prompt=ids, **ask).choices
    for number, text in enumerate(texts):
        alone = client.completions.create(prompt=text, **ask).choices[0]
        assert by_ids[number].logprobs.token_logprobs[1:] == pytest.approx(
            alone.logprobs.token_logprobs[1:],
            abs=2e-2,  # bf16 where the processor has it
        )
