"""Ollama's Modelfile: the chat template as Ollama writes templates, and the stop words.

Ollama reads Go templates over `.Messages`. The words around each role's text are found by rendering
the tokenizer's own template with marks in place of the texts, put into a Go template, and checked:
what the Go template yields for test conversations must equal the tokenizer's text, letter by
letter. A template for which that fails is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.errors import ModelError

ROLES = ("system", "user", "assistant")
TRIALS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


@dataclass(frozen=True, slots=True)
class Turns:
    """The words around each turn, and those before an answer."""

    before: dict[str, str]
    after: dict[str, str]
    prompt: str

    def write(self, roles: Sequence[str], texts: Sequence[str]) -> str:
        """The text of a conversation that waits for an answer."""
        body = "".join(
            self.before[role] + text + self.after[role]
            for role, text in zip(roles, texts, strict=True)
        )
        return body + self.prompt


def find_turns(tokenizer: Any) -> Turns:
    """The words around the turns of a chat template, without the token that begins a text.

    Raises ModelError where they are not fixed.
    """
    bos = tokenizer.bos_token or ""

    def render(roles: Sequence[str], texts: Sequence[str]) -> str:
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(rendered).removeprefix(bos)

    try:
        turns = _solve(render)
        for roles in TRIALS:
            texts = [f"Line {number}.\nMore of {role}" for number, role in enumerate(roles)]
            if turns.write(roles, texts) != render(roles, texts):
                raise ValueError("its turns depend on each other")
    except Exception as error:  # templates raise whatever their authors chose
        raise ModelError(
            f"ollama: this chat template has no fixed words around its turns ({error}); give "
            "data.chat_template a plainer one, or use --to gguf"
        ) from error
    return turns


def _solve(render: Any) -> Turns:
    """Cut renderings at marks put in place of the texts."""
    marks = {role: f"\x02{role}\x03" for role in ROLES}
    roles = ("system", "user", "assistant", "user")
    rest = render(roles, [marks[role] for role in roles])
    before_system, rest = rest.split(marks["system"])
    system_to_user, user_to_assistant_and_on, prompt = rest.split(marks["user"])
    user_to_assistant, assistant_to_user = user_to_assistant_and_on.split(marks["assistant"])
    before_user, _ = render(("user",), [marks["user"]]).split(marks["user"])
    return Turns(
        before={"system": before_system, "user": before_user, "assistant": user_to_assistant},
        after={
            "system": system_to_user.removesuffix(before_user),
            "user": "",
            "assistant": assistant_to_user.removesuffix(before_user),
        },
        prompt=prompt,
    )


def write_modelfile(tokenizer: Any, gguf_name: str, stops: Sequence[str]) -> str:
    """The Modelfile beside a GGUF file. Raises ModelError for templates without fixed turns."""
    lines = [f"FROM ./{gguf_name}"]
    if tokenizer.chat_template:
        lines.append(f'TEMPLATE """{go_template(find_turns(tokenizer))}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops if stop]
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """The turns in Go's template language, over Ollama's .Messages."""
    body = "".join(
        f'{{{{- if eq .Role "{role}" }}}}'
        f"{_text(turns.before[role])}{{{{ .Content }}}}{_text(turns.after[role])}{{{{- end }}}}"
        for role in ROLES
    )
    return f"{{{{- range .Messages }}}}{body}{{{{- end }}}}{_text(turns.prompt)}"


def _text(words: str) -> str:
    """Fixed words as a Go string literal, so that no trimming touches their line breaks."""
    return f"{{{{- {json.dumps(words, ensure_ascii=False)} }}}}" if words else ""
