"""What a request asks of a text model: bodies of chat and completion calls, checked and read.

Field names and ranges: OpenAI's API reference. Fields that change the answer and are not known here
are refused by name; those that only describe the caller are let through.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunewright.api.errors import ApiError
from tunewright.api.tool_calls import Offer, read_offer
from tunewright.data.render import render_prompts
from tunewright.hosting import TextModel
from tunewright.model.engine import Request
from tunewright.model.grammar import ANY_OBJECT, Grammar
from tunewright.model.sampling import Sampling
from tunewright.records import Example, Message

ROLES = {"developer": "system", "function": "tool"}
MAX_STOPS = 16
# Fields that would change the answer in a way that is not offered.
NOT_OFFERED = ("functions", "function_call", "audio", "prediction", "web_search_options")


class Sampled(BaseModel):
    """Fields that both calls share."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=512)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
        if len(given) > MAX_STOPS:
            raise ApiError(400, f"stop: at most {MAX_STOPS} strings", param="stop")
        return tuple(text for text in given if text)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts tokens."""
        return bool((self.stream_options or {}).get("include_usage"))

    def check_bias(self, size: int) -> None:
        """Raise ApiError unless logit_bias names tokens of a vocabulary of this size."""
        for token in self.logit_bias or {}:
            if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < size):
                text = f"logit_bias: {token[:40]!r} is no token; they go from 0 to {size - 1}"
                raise ApiError(400, text, param="logit_bias")

    def sampling(self, choice: int, top_logprobs: int) -> Sampling:
        """How tokens of the choice-th answer are drawn; a seed gives the same answer again."""
        seed = self.seed if self.seed is not None else secrets.randbits(31)
        bias = tuple((int(token), value) for token, value in (self.logit_bias or {}).items())
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed + 7919 * choice,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=bias,
            top_logprobs=top_logprobs,
        )

    def refuse_unknown(self) -> None:
        """Raise ApiError for a field that would have changed the answer."""
        for name in NOT_OFFERED:
            if (self.model_extra or {}).get(name) is not None:
                raise ApiError(400, f"{name}: not offered by this server", param=name)


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatBody(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise ApiError for what is not offered."""
        self.refuse_unknown()
        self.answer_schema  # noqa: B018 - raises for what is no schema
        self.offer()

    def offer(self) -> Offer | None:
        """The tools that may be called. Raises ApiError."""
        return read_offer(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must follow; None for plain text. Raises ApiError."""
        offer = self.offer()
        if offer is not None and offer.forced:
            return offer.schema
        wanted = self.response_format or {}
        kind = wanted.get("type", "text")
        if kind == "text":
            return None
        if kind == "json_object":
            return ANY_OBJECT
        if kind != "json_schema":
            message = f"response_format.type: {kind!r} unknown; text, json_object or json_schema"
            raise ApiError(400, message, param="response_format.type")
        inner = wanted.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            place = "response_format.json_schema.schema"
            raise ApiError(400, f"{place}: missing; give a JSON schema", param=place)
        return schema

    def prompt_ids(self, model: TextModel) -> list[int]:
        """Token ids up to where the answer begins."""
        if self.tools and not knows_tools(model):
            raise ApiError(
                400, "tools: the chat template of this model has none; leave tools out",
                param="tools", code="unsupported_parameter",
            )  # fmt: skip
        turns = [_read_turn(number, item) for number, item in enumerate(self.messages)]
        plain = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
        example = Example(
            id="request",
            place="messages",
            input=plain,
            output="",
            messages=(*turns, Message("assistant", "")),
            tools=tuple(self.tools or ()),
        )
        return [int(token) for token in render_prompts([example], model.rendering)[0]]


class CompletionBody(Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None

    def prompts(self, model: TextModel) -> list[list[int]]:
        """Token ids of every prompt, as they were given or as the tokenizer writes them."""
        if self.suffix:
            raise ApiError(400, "suffix: not offered by this server", param="suffix")
        given = self.prompt
        if isinstance(given, str):
            given = [given]
        if not given:
            raise ApiError(400, "prompt: empty", param="prompt")
        if isinstance(given[0], int):
            given = [given]  # type: ignore[list-item]
        tokenizer = model.rendering.tokenizer
        size = len(tokenizer)
        found = []
        for item in given:
            ids = tokenizer(item)["input_ids"] if isinstance(item, str) else item
            if any(not 0 <= int(token) < size for token in ids):  # type: ignore[union-attr]
                raise ApiError(400, f"prompt: token ids go from 0 to {size - 1}", param="prompt")
            found.append([int(token) for token in ids])  # type: ignore[union-attr]
        return found


def make_request(
    body: Sampled,
    model: TextModel,
    prompt: list[int],
    choice: int,
    most: int,
    top_logprobs: int,
    grammar: Grammar | None = None,
) -> Request:
    """What the engine is asked for. Raises ApiError."""
    body.check_bias(len(model.rendering.tokenizer))
    return Request(
        prompt=prompt,
        max_new_tokens=most,
        sampling=body.sampling(choice, top_logprobs),
        stop=body.stops,
        adapter=model.adapter,
        wants_text=True,
        grammar=grammar,
    )


def knows_tools(model: TextModel) -> bool:
    """Whether the model's own chat template has a place for tools."""
    template = getattr(model.rendering.tokenizer, "chat_template", None)
    texts = template.values() if isinstance(template, dict) else [template]
    return model.rendering.native_template and any("tools" in (text or "") for text in texts)


def _read_turn(number: int, message: ChatMessage) -> Message:
    content = message.content
    if isinstance(content, list):
        kinds = {part.get("type") for part in content}
        if kinds - {"text"}:
            other = sorted(str(kind) for kind in kinds - {"text"})[0]
            place = f"messages.{number}.content"
            raise ApiError(400, f"{place}: parts of type {other!r} are not read here", param=place)
        content = "".join(str(part.get("text", "")) for part in content)
    role: Any = ROLES.get(message.role, message.role)
    return Message(
        role=role,
        content=content or "",
        tool_calls=tuple(message.tool_calls or ()),
        name=message.name,
        tool_call_id=message.tool_call_id,
    )
