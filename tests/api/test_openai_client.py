"""The official client, unmodified, against the server."""

import concurrent.futures
import json

import openai
import pytest
import torch
from tests.api.conftest import Live

from tunewright.api.app import make_app
from tunewright.asking import open_chat
from tunewright.hosting import Hosting, find_served

ASK = [{"role": "user", "content": "where is my card"}]


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(
        base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )


def test_models(client):
    found = {model.id for model in client.models.list()}
    assert found == {"one", "two", "labels", "llama"}
    assert client.models.retrieve("one").owned_by == "tunewright"


def test_chat_says_what_the_terminal_says(client, tuned):
    wanted = "".join(open_chat(tuned["one"]).reply(ASK[0]["content"]))
    answer = client.chat.completions.create(model="one", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == wanted
    assert answer.usage.prompt_tokens > 0
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_stream_joins_to_the_whole_answer(client):
    whole = client.chat.completions.create(model="two", messages=ASK, temperature=0)
    pieces = client.chat.completions.create(
        model="two", messages=ASK, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(pieces)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None


def test_seed_gives_the_same_answer_again_and_n_gives_several(client):
    def ask(seed):
        answer = client.chat.completions.create(
            model="one", messages=ASK, temperature=1.5, seed=seed, n=3, max_tokens=12
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(5) == ask(5)
    assert len(set(ask(5))) > 1


def test_logprobs_and_stop(client):
    answer = client.chat.completions.create(
        model="one", messages=ASK, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert all(item.logprob <= 0 and len(item.top_logprobs) == 3 for item in content)
    assert content[0].top_logprobs[0].logprob == pytest.approx(content[0].logprob, abs=1e-4)
    whole = answer.choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    cut = client.chat.completions.create(model="one", messages=ASK, temperature=0, stop=stop)
    assert cut.choices[0].message.content == whole[: whole.find(stop)]


def test_adapters_mix_in_one_batch(client):
    """Many requests at once to two adapters answer as each would alone."""
    alone = {
        name: client.chat.completions.create(model=name, messages=ASK, temperature=0)
        for name in ("one", "two")
    }
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        jobs = [
            (name, pool.submit(client.chat.completions.create, model=name, messages=ASK,
                               temperature=0))
            for name in ["one", "two"] * 16
        ]  # fmt: skip
        for name, job in jobs:
            wanted = alone[name].choices[0].message.content
            assert job.result().choices[0].message.content == wanted


def test_completions_with_echo_score_the_prompt(client, live):
    """The first token has no probability: null, as the API has it and its strict types do not."""
    lenient = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    answer = lenient.completions.create(
        model="llama", prompt="My card has not arrived", max_tokens=0, echo=True, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    many = client.completions.create(
        model="llama", prompt=["one", "two"], max_tokens=4, temperature=0
    )
    assert [choice.index for choice in many.choices] == [0, 1]


SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["card", "delivery", "account"]},
        "urgency": {"type": "integer", "minimum": 0, "maximum": 5},
    },
    "required": ["topic", "urgency"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_answers_follow_a_schema(client, seed):
    """The random model writes noise otherwise; beside it, others in the batch stay as they are."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    plain = client.chat.completions.create(model="two", messages=ASK, temperature=0)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        formed = pool.submit(
            client.chat.completions.create, model="one", messages=ASK, temperature=1.3, seed=seed,
            response_format=form, max_tokens=80,
        )  # fmt: skip
        beside = pool.submit(
            client.chat.completions.create, model="two", messages=ASK, temperature=0
        )
    answer = formed.result().choices[0]
    value = json.loads(answer.message.content)
    assert answer.finish_reason == "stop"
    assert value["topic"] in SCHEMA["properties"]["topic"]["enum"]
    assert 0 <= value["urgency"] <= 5 and set(value) == {"topic", "urgency"}
    assert beside.result().choices[0].message.content == plain.choices[0].message.content


def test_any_json_object_and_streams_of_it(client):
    pieces = client.chat.completions.create(
        model="one", messages=ASK, temperature=0.7, seed=3, stream=True, max_tokens=12,
        response_format={"type": "json_object"},
    )  # fmt: skip
    text = "".join(c.choices[0].delta.content or "" for c in pieces if c.choices)
    assert text.lstrip().startswith("{")


def test_echo_scores_an_adapter_as_the_merged_model_would(live, tuned):
    """On a shared base the adapter's own probabilities come, and the base's stay its own."""
    from tunewright.asking import open_asker

    lenient = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    found = {}
    for name in ("one", "two", "llama"):
        answer = lenient.completions.create(
            model=name, prompt=["My card has not arrived", "a"], max_tokens=0, echo=True, logprobs=1
        )
        found[name] = answer.choices[0].logprobs.token_logprobs[1:]
        asker = open_asker(tuned[name])
        ids = asker.base.tokenizer("My card has not arrived")["input_ids"]
        with torch.inference_mode():
            logits = asker.base.model(input_ids=torch.tensor([ids])).logits[0].float()
        wanted = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert found[name] == pytest.approx(wanted.tolist(), abs=2e-3)
    assert found["one"] != found["two"] != found["llama"]


def test_embeddings_have_unit_length(client):
    answer = client.embeddings.create(
        model="labels", input=["my card", "my parcel"], encoding_format="float"
    )
    for item in answer.data:
        assert sum(value * value for value in item.embedding) == pytest.approx(1.0, abs=1e-3)


def test_embeddings_count_their_tokens(client):
    one, two = (
        client.embeddings.create(
            model="labels", input=texts, encoding_format="float"
        ).usage.total_tokens
        for texts in (["my card"], ["my card", "my card"])
    )
    assert two == 2 * one > 0


def test_classify(client):
    answer = client.post(
        "/classify", cast_to=object, body={"model": "labels", "input": ["my card", "my parcel"]}
    )
    for item in answer["data"]:
        assert item["label"] == max(item["scores"], key=item["scores"].get)
        assert sum(item["scores"].values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c: c.chat.completions.create(model="none", messages=ASK), openai.NotFoundError,
         "does not exist"),
        (lambda c: c.chat.completions.create(model="labels", messages=ASK), openai.BadRequestError,
         "is a labels model"),
        (lambda c: c.chat.completions.create(model="one", messages=[]), openai.BadRequestError,
         "messages"),
        (lambda c: c.chat.completions.create(model="one", messages=ASK, temperature=9),
         openai.BadRequestError, "temperature"),
        (lambda c: c.chat.completions.create(model="one", messages=ASK,
                                             response_format={"type": "xml"}),
         openai.BadRequestError, "response_format"),
        (lambda c: c.chat.completions.create(
            model="one", messages=ASK, response_format={
                "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}),
         openai.BadRequestError, "cannot be followed"),
        (lambda c: c.completions.create(model="llama", prompt=[10**9]), openai.BadRequestError,
         "token ids"),
        (lambda c: c.embeddings.create(model="one", input="x"), openai.BadRequestError,
         "is a text model"),
        (lambda c: c.models.retrieve("none"), openai.NotFoundError, "does not exist"),
    ],
)  # fmt: skip
def test_mistakes_are_told_as_the_client_expects(client, call, error, says):
    with pytest.raises(error, match=says) as caught:
        call(client)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_a_full_queue_is_answered_429(tuned):
    hosting = Hosting(find_served([tuned["llama"]]), max_waiting=1)
    server = Live(make_app(hosting))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    client.completions.create(model="llama", prompt="a", max_tokens=1)  # loads the model
    hosting.open_text("llama").runner.engine.max_rows = 1
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        jobs = [
            pool.submit(client.completions.create, model="llama", prompt="My card", max_tokens=60)
            for _ in range(24)
        ]
        errors = [job.exception() for job in jobs]
    server.stop()
    busy = [error for error in errors if isinstance(error, openai.RateLimitError)]
    assert busy and len(busy) < 24
    assert not [error for error in errors if error and error not in busy]
    assert busy[0].response.headers["retry-after"] == "1"
