"""Tools: offered to templates that have a place for them, called in the forms that models write."""

import json

import openai
import pytest
from tests.api.conftest import Live
from tests.model_zoo import make_tiny

from tunewright.api.app import make_app
from tunewright.api.errors import ApiError
from tunewright.api.tool_calls import Holding, find_calls, read_offer
from tunewright.data.render import Rendering, render_prompts
from tunewright.hosting import Hosting, find_served
from tunewright.model.catalog import resolve_model
from tunewright.model.tokenizer import load_tokenizer
from tunewright.records import Example, Message

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"], "additionalProperties": False}}}  # fmt: skip
CLOCK = {"type": "function", "function": {"name": "now"}}
TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: "
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
    "</tool_call>{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
OFFER = read_offer([WEATHER, CLOCK], None, None)
ROME = '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}'
OSLO = '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 1}}'
BOTH = [("get_weather", {"city": "Rome", "days": 2}), ("get_weather", {"city": "Oslo", "days": 1})]
FORMS = [
    (f"<tool_call>\n{ROME}\n</tool_call>", "", BOTH[:1]),
    (f"Let me see.\n<tool_call>{ROME}</tool_call>\n<tool_call>{OSLO}</tool_call>", "Let me see.", BOTH),
    (f"<tool_call>{ROME}", "", BOTH[:1]),  # cut off after the call was whole
    (f"[TOOL_CALLS] [{ROME}, {OSLO}]", "", BOTH),
    (f"[{ROME}, {OSLO}]", "", BOTH),  # the mark is a special token and was not written
    (f"<|python_tag|>{OSLO}", "", BOTH[1:]),
    (f"{ROME}; {OSLO}", "", BOTH),
    ('<function=get_weather>{"city": "Oslo", "days": 1}</function>', "", BOTH[1:]),
    ("<function=now></function>", "", [("now", {})]),
    ('{"type": "function", "function": {"name": "now", "arguments": "{}"}}', "", [("now", {})]),
    (f' {ROME.replace("{", "{ ")}', "", BOTH[:1]),
]  # fmt: skip
NONE = [
    "It is warm.", "", "{", "[1, 2]", '{"name": "rm_rf", "arguments": {}}', "<tool_call>now</tool_call>",
    '{"name": "now", "arguments": [1]}', "a < b and [c]", '{"name": 3, "arguments": {}}', "[" * 3000,
    f"see {ROME}", "<function=now>{", "[TOOL_CALLS] now",
]  # fmt: skip


def plain(calls):
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(("text", "before", "wanted"), FORMS)
def test_calls_are_found_in_every_form_whole_and_in_pieces(text, before, wanted):
    said, calls = find_calls(text, OFFER)
    assert (said, plain(calls)) == (before, wanted)
    holding = Holding(OFFER)
    told = "".join(holding.add(letter) for letter in text)
    rest, calls = holding.end()
    assert ((told + rest).strip(), plain(calls)) == (before, wanted)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_call_stays_text(text):
    assert find_calls(text, OFFER) == (text, [])
    holding = Holding(OFFER)
    told = "".join(holding.add(letter) for letter in text)
    rest, calls = holding.end()
    assert (told + rest, calls) == (text, [])


def test_text_that_cannot_become_a_call_is_told_at_once():
    holding = Holding(OFFER)
    assert holding.add("It is ") == "It is " and holding.add("1 < 2, and") == "1 < 2, and"
    assert holding.add(" <tool") == " " and holding.add("box>") == "<toolbox>"


def test_one_call_where_several_may_not_be():
    alone = read_offer([WEATHER], "auto", False)
    assert plain(find_calls(f"[{ROME}, {OSLO}]", alone)[1]) == BOTH[:1]
    assert read_offer([WEATHER], "none", None) is None


@pytest.mark.parametrize(
    ("tools", "choice"),
    [([], "required"), ([{"type": "web"}], None), ([{"type": "function", "function": {}}], None),
     ([WEATHER], "always"), ([WEATHER], {"type": "function", "function": {"name": "now"}}),
     ([{"type": "function", "function": {"name": "a b"}}], None), ([CLOCK] * 129, None),
     ([{"type": "function", "function": {"name": "a", "parameters": 3}}], None)],
)  # fmt: skip
def test_tools_that_are_none_are_refused_by_field(tools, choice):
    with pytest.raises(ApiError, match="tool"):
        read_offer(tools, choice, None)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    knows, plain_one = make_tiny("llama", folder / "knows"), make_tiny("llama", folder / "plain")
    (knows / "chat_template.jinja").write_text(TEMPLATE)
    live = Live(make_app(Hosting(find_served([str(knows), str(plain_one)]))))
    yield openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    live.stop()


ASK = {"model": "knows", "messages": [{"role": "user", "content": "weather in Rome?"}],
       "max_tokens": 120, "tools": [WEATHER, CLOCK]}  # fmt: skip


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])  # fmt: skip
def test_a_call_that_must_come_comes(client, choice):
    said = client.chat.completions.create(**ASK, tool_choice=choice, seed=3).choices[0]
    (call,) = said.message.tool_calls
    assert said.finish_reason == "tool_calls" and said.message.content is None
    given = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert given["city"] in ("Rome", "Oslo") and isinstance(given["days"], int)
    else:
        assert call.function.name == "now" and choice == "required"


def test_a_call_is_streamed(client):
    named = {"type": "function", "function": {"name": "now"}}
    chunks = list(client.chat.completions.create(**ASK, tool_choice=named, stream=True))
    (call,) = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert (call.index, call.function.name) == (0, "now") and call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""


def test_a_conversation_goes_on_after_a_call(client):
    call = {"id": "call_1", "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 2}'}}  # fmt: skip
    talk = [*ASK["messages"], {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]  # fmt: skip
    said = client.chat.completions.create(**{**ASK, "messages": talk, "max_tokens": 4})
    assert said.choices[0].message.content is not None and said.usage.prompt_tokens > 20


def test_arguments_reach_the_template_as_values(tmp_path):
    folder = make_tiny("llama", tmp_path / "llama")
    tokenizer, _ = load_tokenizer(resolve_model(str(folder)), "decoder", False)
    tokenizer.chat_template = TEMPLATE
    call = {"type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    turns = (Message("user", "hi"), Message("assistant", "", tool_calls=(call,)),
             Message("tool", "12:00"), Message("assistant", ""))  # fmt: skip
    row = Example(id="1", place="x", input="hi", output="", messages=turns)
    how = Rendering(task="chat", tokenizer=tokenizer, max_length=512, native_template=True)
    text = tokenizer.decode(render_prompts([row], how)[0])
    assert '"arguments": {"zone": "UTC"}' in text


def test_a_template_without_tools_says_so(client):
    with pytest.raises(openai.BadRequestError, match="chat template of this model has none"):
        client.chat.completions.create(**{**ASK, "model": "plain"})
